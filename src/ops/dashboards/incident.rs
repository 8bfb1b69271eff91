//! Somebody was paged: the runbooks' questions in their order.

use super::panel::Kind::{Lines, Stack, Stat, Table};
use super::panel::{
    BURN, FAILING, HUNG, NONE_OF_IT, Page, Panel, Row, burn, failing, mean, or_zero, quantile, query, rate,
};
use crate::ops::board::Board;

pub(super) const PAGE: Page = Page {
    board: Board::Incident,
    title: "Incident",
    description: "You were paged. From left to right and top to bottom: is it hanging or failing, who is hit, is it queue, \
                  prompts, engine or sidecar, and what changed before?",
    from: "now-1h",
    rows: &[
        Row { title: "How bad is it now?", height: 4, panels: NOW },
        Row { title: "Who is hit, and how does it fail?", height: 8, panels: WHO },
        Row { title: "Queue, prompts or engine?", height: 8, panels: WHY },
    ],
};

const NOW: &[Panel] = &[
    Panel::new(
        Stat,
        "Sidecars down",
        "short",
        "Targets that Prometheus cannot scrape: up. Nothing else here knows of their traffic.",
        &[query("sum(1 - up)", "down")],
    )
    .steps(NONE_OF_IT)
    .nothing("Prometheus has no such target"),
    Panel::new(
        Stat,
        "Longest wait now",
        "s",
        "Age of the oldest request without a token: streamgauge_oldest_awaiting_first_token_seconds.",
        &[query("max(streamgauge_oldest_awaiting_first_token_seconds)", "oldest")],
    )
    .steps(HUNG)
    .nothing("no sidecar is scraped"),
    Panel::new(
        Stat,
        "Failing",
        "percentunit",
        "Requests that failed in the upstream, broke off or failed in the sidecar: streamgauge_requests_total.",
        &[query(failing!(), "failing")],
    )
    .steps(FAILING)
    .nothing("no requests"),
    Panel::new(
        Stat,
        "Fastest burn",
        "none",
        "How many times as fast as it may: streamgauge_slo_bad_requests_total, streamgauge_slo_requests_total, \
         streamgauge_slo_objective_ratio.",
        &[query(concat!("max(", burn!("slo"), ")"), "burn")],
    )
    .steps(BURN)
    .decimals(1)
    .nothing("no objective, or no requests"),
    Panel::new(
        Stat,
        "Overhead, p99",
        "s",
        "Not the sidecar, if it is far below TTFT: streamgauge_proxy_overhead_seconds.",
        &[query(quantile!("0.99", "", "streamgauge_proxy_overhead_seconds"), "p99")],
    )
    .nothing("no requests"),
    Panel::new(
        Stat,
        "Requests/s",
        "reqps",
        "Is there traffic at all: streamgauge_requests_started_total.",
        &[query(rate!("streamgauge_requests_started_total"), "requests")],
    )
    .nothing("no sidecar is scraped"),
];

const WHO: &[Panel] = &[
    Panel::new(
        Lines,
        "Burn rate by tenant and model",
        "none",
        "streamgauge_slo_bad_requests_total, streamgauge_slo_requests_total, streamgauge_slo_objective_ratio.",
        &[query(concat!(burn!("slo, tenant, model"), " > 0"), "{{tenant}}, {{model}}")],
    )
    .width(12)
    .nothing("no budget burns"),
    Panel::new(
        Stack,
        "Failing requests/s",
        "reqps",
        "streamgauge_requests_total, of other outcomes than completed, client_gone and rejected.",
        &[
            query(
                rate!("outcome", "streamgauge_requests_total{outcome!~\"completed|client_gone|rejected\"}"),
                "{{outcome}}",
            ),
        ],
    )
    .width(12)
    .nothing("nothing failed"),
    Panel::new(
        Table,
        "What failed in this time range",
        "short",
        "The first of their kind among them: streamgauge_requests_total, of other outcomes than completed, client_gone and \
         rejected.",
        &[query(
            "sum by (model, upstream, code, outcome) (\n  streamgauge_requests_total{outcome!~\"completed|client_gone|rejected\"} \
             unless streamgauge_requests_total offset $__range\n  or \
             increase(streamgauge_requests_total{outcome!~\"completed|client_gone|rejected\"}[$__range])\n) > 0",
            "requests",
        )],
    )
    .width(24)
    .decimals(0)
    .nothing("nothing failed"),
];

const WHY: &[Panel] = &[
    Panel::new(
        Lines,
        "Waiting for a first token",
        "short",
        "It rises: a queue, or an upstream that hangs: streamgauge_requests_awaiting_first_token.",
        &[query("sum by (upstream) (streamgauge_requests_awaiting_first_token)", "{{upstream}}")],
    ),
    Panel::new(
        Lines,
        "TTFT p95",
        "s",
        "Up while TPOT is not: a queue or long prompts: streamgauge_time_to_first_token_seconds.",
        &[query(quantile!("0.95", "model, ", "streamgauge_time_to_first_token_seconds"), "{{model}}")],
    )
    .nothing("no streams"),
    Panel::new(
        Lines,
        "Time per output token, median",
        "s",
        "Up: the engine is slow, or its batches are large: streamgauge_time_per_output_token_seconds.",
        &[query(quantile!("0.5", "model, ", "streamgauge_time_per_output_token_seconds"), "{{model}}")],
    )
    .nothing("no streams"),
    Panel::new(
        Lines,
        "Input tokens a request, mean",
        "short",
        "Up: prompts grew: streamgauge_request_input_tokens.",
        &[query(mean!("model", "streamgauge_request_input_tokens"), "{{model}}")],
    ),
    Panel::new(
        Stack,
        "Input tokens/s by tenant",
        "short",
        "Whose traffic grew: streamgauge_input_tokens_total.",
        &[query(concat!(rate!("tenant", "streamgauge_input_tokens_total"), " > 0"), "{{tenant}}")],
    ),
    Panel::new(
        Lines,
        "Clients that leave before a token, a second",
        "reqps",
        "They gave up waiting: streamgauge_client_disconnects_total.",
        &[query(
            or_zero!(rate!("streamgauge_client_disconnects_total{phase=\"before_first_token\"}")),
            "left",
        )],
    ),
];
