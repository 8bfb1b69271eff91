//! Where does the time go?

use super::panel::Kind::{Heatmap, Lines, Stack};
use super::panel::{Page, Panel, Row, mean, quantile, query, rate};
use crate::ops::board::Board;

pub(super) const PAGE: Page = Page {
    board: Board::Latency,
    title: "Latency",
    description: "Where does the time go: sidecar, network, queue and prefill, or decoding? Histograms do not know tenants \
                  unless metrics.tenant_on_histograms is set.",
    from: "now-1h",
    rows: &[
        Row { title: "To the first token", height: 9, panels: FIRST },
        Row { title: "What it is made of", height: 9, panels: PARTS },
        Row { title: "After the first token", height: 9, panels: AFTER },
        Row { title: "To the end", height: 9, panels: END },
    ],
};

const FIRST: &[Panel] = &[
    Panel::new(
        Heatmap,
        "TTFT, all streams",
        "s",
        "How many streams a second got their first token after so long: streamgauge_time_to_first_token_seconds. Two bands: \
         two kinds of requests or of servers. Dots are single requests, with their ids.",
        &[query(rate!("le", "streamgauge_time_to_first_token_seconds_bucket"), "{{le}}")],
    )
    .width(12)
    .nothing("no streams"),
    Panel::new(
        Lines,
        "TTFT by model",
        "s",
        "Median, and what 95 % and 99 % kept: streamgauge_time_to_first_token_seconds.",
        &[
            query(quantile!("0.5", "model, ", "streamgauge_time_to_first_token_seconds"), "{{model}} p50"),
            query(quantile!("0.95", "model, ", "streamgauge_time_to_first_token_seconds"), "{{model}} p95"),
            query(quantile!("0.99", "model, ", "streamgauge_time_to_first_token_seconds"), "{{model}} p99"),
        ],
    )
    .width(12)
    .nothing("no streams"),
];

const PARTS: &[Panel] = &[
    Panel::new(
        Stack,
        "Mean TTFT, in parts",
        "s",
        "The sidecar's own work (streamgauge_proxy_overhead_seconds), waiting for a limit of ours (streamgauge_tpm_delay_seconds) \
         and connecting (streamgauge_upstream_connect_seconds), each shared among all requests; then the upstream, until the \
         first byte (streamgauge_time_to_first_byte_seconds) and on to the first token \
         (streamgauge_time_to_first_token_seconds). Queue and prefill are both in the upstream's: \
         a queue raises TTFT in all input bands, prefill only in the long ones.",
        &[
            query(
                "sum(rate(streamgauge_proxy_overhead_seconds_sum{phase=\"request\"}[$__rate_interval]))\n/ \
                 (sum(rate(streamgauge_proxy_overhead_seconds_count{phase=\"request\"}[$__rate_interval])) > 0)",
                "sidecar",
            ),
            query(
                "(sum(rate(streamgauge_tpm_delay_seconds_sum[$__rate_interval])) or 0 * count(streamgauge_build_info))\n/ \
                 (sum(rate(streamgauge_requests_started_total[$__rate_interval])) > 0)",
                "limit",
            ),
            query(
                "sum(rate(streamgauge_upstream_connect_seconds_sum[$__rate_interval]))\n/ \
                 (sum(rate(streamgauge_requests_started_total[$__rate_interval])) > 0)",
                "connect",
            ),
            query(
                "clamp_min(\n  sum(rate(streamgauge_time_to_first_byte_seconds_sum[$__rate_interval]))\n  / \
                 (sum(rate(streamgauge_time_to_first_byte_seconds_count[$__rate_interval])) > 0)\n  - \
                 sum(rate(streamgauge_upstream_connect_seconds_sum[$__rate_interval]))\n  / \
                 sum(rate(streamgauge_requests_started_total[$__rate_interval]))\n  - \
                 (sum(rate(streamgauge_tpm_delay_seconds_sum[$__rate_interval])) or 0 * count(streamgauge_build_info))\n  / \
                 sum(rate(streamgauge_requests_started_total[$__rate_interval]))\n  - \
                 sum(rate(streamgauge_proxy_overhead_seconds_sum{phase=\"request\"}[$__rate_interval]))\n  / \
                 sum(rate(streamgauge_proxy_overhead_seconds_count{phase=\"request\"}[$__rate_interval])),\n  0\n)",
                "upstream, to first byte",
            ),
            query(
                "clamp_min(\n  sum(rate(streamgauge_time_to_first_token_seconds_sum[$__rate_interval]))\n  / \
                 (sum(rate(streamgauge_time_to_first_token_seconds_count[$__rate_interval])) > 0)\n  - \
                 sum(rate(streamgauge_time_to_first_byte_seconds_sum[$__rate_interval]))\n  / \
                 sum(rate(streamgauge_time_to_first_byte_seconds_count[$__rate_interval])),\n  0\n)",
                "upstream, byte to token",
            ),
        ],
    )
    .width(12)
    .nothing("no streams"),
    Panel::new(
        Lines,
        "TTFT p95 by input band",
        "s",
        "By the length of the prompt: streamgauge_time_to_first_token_seconds. All bands slow: a queue or the engine. Only the \
         long ones: prefill.",
        &[query(quantile!("0.95", "input_band, ", "streamgauge_time_to_first_token_seconds"), "{{input_band}}")],
    )
    .width(6)
    .nothing("no streams"),
    Panel::new(
        Lines,
        "Input tokens a request, mean",
        "short",
        "Prompts that grow make first tokens late: streamgauge_request_input_tokens.",
        &[query(mean!("model", "streamgauge_request_input_tokens"), "{{model}}")],
    )
    .width(6),
];

const AFTER: &[Panel] = &[
    Panel::new(
        Heatmap,
        "Time per output token",
        "s",
        "How many streams a second were so fast: streamgauge_time_per_output_token_seconds. Dots are single requests, with \
         their ids.",
        &[query(rate!("le", "streamgauge_time_per_output_token_seconds_bucket"), "{{le}}")],
    )
    .width(12)
    .nothing("no streams"),
    Panel::new(
        Lines,
        "Tokens/s of a stream, median",
        "short",
        "What a reader sees: streamgauge_output_tokens_per_second. Not the throughput of all streams.",
        &[query(quantile!("0.5", "model, ", "streamgauge_output_tokens_per_second"), "{{model}}")],
    )
    .width(6)
    .nothing("no streams"),
    Panel::new(
        Lines,
        "Worst stall, p90",
        "s",
        "The longest gap between two tokens of a stream: streamgauge_longest_token_gap_seconds.",
        &[query(quantile!("0.9", "model, ", "streamgauge_longest_token_gap_seconds"), "{{model}}")],
    )
    .width(6)
    .nothing("no streams"),
];

const END: &[Panel] = &[
    Panel::new(
        Heatmap,
        "Duration of completed requests",
        "s",
        "How many requests a second took so long, streamed or not: streamgauge_request_duration_seconds. Failures are left \
         out: they are quick, and would flatter.",
        &[query(rate!("le", "streamgauge_request_duration_seconds_bucket{outcome=\"completed\"}"), "{{le}}")],
    )
    .width(12)
    .nothing("no requests"),
    Panel::new(
        Lines,
        "Output tokens a request, mean",
        "short",
        "Long answers take long: streamgauge_request_output_tokens.",
        &[query(mean!("model", "streamgauge_request_output_tokens"), "{{model}}")],
    )
    .width(6),
    Panel::new(
        Lines,
        "To the first answer token, p95",
        "s",
        "Reasoning not counted: streamgauge_time_to_first_answer_token_seconds. Far above TTFT: the model thinks first.",
        &[query(quantile!("0.95", "model, ", "streamgauge_time_to_first_answer_token_seconds"), "{{model}}")],
    )
    .width(6)
    .nothing("no streams"),
];
