//! Who uses how much, and of which limit?

use super::panel::Kind::{Lines, Stack, Stat, Table};
use super::panel::{Page, Panel, Row, USED, mean, or_zero, query, rate};
use crate::ops::board::Board;

pub(super) const PAGE: Page = Page {
    board: Board::Tenants,
    title: "Tenants and tokens",
    description: "Who uses how much, of which limit, and who waits?",
    from: "now-1h",
    rows: &[
        Row { title: "Limits", height: 8, panels: LIMITS },
        Row { title: "Tokens", height: 8, panels: TOKENS },
        Row { title: "Waiting", height: 8, panels: WAITING },
        Row { title: "What the numbers are worth", height: 8, panels: WORTH },
    ],
};

const NO_LIMITS: &str = "no limits are configured (limits)";

const LIMITS: &[Panel] = &[
    Panel::new(
        Lines,
        "Share of the limit in use",
        "percentunit",
        "streamgauge_tpm_used / streamgauge_tpm_limit. model *: of all models together.",
        &[query("max by (tenant, model) (streamgauge_tpm_used / streamgauge_tpm_limit)", "{{tenant}}, {{model}}")],
    )
    .width(16)
    .nothing(NO_LIMITS),
    Panel::new(
        Stat,
        "Worst share now",
        "percentunit",
        "streamgauge_tpm_used / streamgauge_tpm_limit. Orange from 90 % on, where StreamgaugeLimitNearExhaustion fires.",
        &[query("max(streamgauge_tpm_used / streamgauge_tpm_limit)", "used")],
    )
    .width(8)
    .steps(USED)
    .nothing(NO_LIMITS),
    Panel::new(
        Table,
        "Limits now",
        "short",
        "Tokens in any 60 s: streamgauge_tpm_limit, streamgauge_tpm_used. Time to exhaustion is there while use grows.",
        &[
            query("max by (tenant, model) (streamgauge_tpm_limit)", "limit"),
            query("max by (tenant, model) (streamgauge_tpm_used)", "used"),
            query("max by (tenant, model) (streamgauge_tpm_used / streamgauge_tpm_limit)", "share"),
            query(
                "min by (tenant, model) (clamp_min(streamgauge_tpm_limit - streamgauge_tpm_used, 0))\n/ (max by (tenant, model) \
                 (deriv(streamgauge_tpm_used[5m])) > 0)",
                "exhausted in",
            ),
        ],
    )
    .width(24)
    .columns(&[("share", "percentunit", 1), ("exhausted in", "s", 1)])
    .decimals(0)
    .nothing(NO_LIMITS),
];

const TOKENS: &[Panel] = &[
    Panel::new(
        Stack,
        "Tokens in the last minute",
        "short",
        "TPM, input and output: streamgauge_tokens_last_minute.",
        &[query("sum by (tenant) (streamgauge_tokens_last_minute) > 0", "{{tenant}}")],
    )
    .nothing("no tokens"),
    Panel::new(
        Stack,
        "Input tokens/s",
        "short",
        "streamgauge_input_tokens_total.",
        &[query(concat!(rate!("tenant", "streamgauge_input_tokens_total"), " > 0"), "{{tenant}}")],
    )
    .nothing("no tokens"),
    Panel::new(
        Stack,
        "Output tokens/s",
        "short",
        "streamgauge_output_tokens_total.",
        &[query(concat!(rate!("tenant", "streamgauge_output_tokens_total"), " > 0"), "{{tenant}}")],
    )
    .nothing("no tokens"),
    Panel::new(
        Table,
        "In this time range",
        "short",
        "By tenant and model: streamgauge_requests_total, streamgauge_input_tokens_total, streamgauge_output_tokens_total.",
        &[
            query("sum by (tenant, model) (increase(streamgauge_requests_total[$__range])) > 0", "requests"),
            query("sum by (tenant, model) (increase(streamgauge_input_tokens_total[$__range])) > 0", "input tokens"),
            query("sum by (tenant, model) (increase(streamgauge_output_tokens_total[$__range])) > 0", "output tokens"),
        ],
    )
    .width(16)
    .decimals(0)
    .nothing("no requests"),
    Panel::new(
        Lines,
        "Input tokens a request, mean",
        "short",
        "streamgauge_request_input_tokens.",
        &[query(mean!("model", "streamgauge_request_input_tokens"), "{{model}}")],
    ),
];

const WAITING: &[Panel] = &[
    Panel::new(
        Lines,
        "Waiting for a first token",
        "short",
        "streamgauge_requests_awaiting_first_token.",
        &[query("sum by (upstream) (streamgauge_requests_awaiting_first_token)", "{{upstream}}")],
    ),
    Panel::new(
        Lines,
        "Held by a limit, on average",
        "short",
        "Requests that a limit of ours delays, at any moment: streamgauge_tpm_delay_seconds.",
        &[query(or_zero!(rate!("streamgauge_tpm_delay_seconds_sum")), "held")],
    ),
    Panel::new(
        Lines,
        "Requests/s beyond a limit",
        "reqps",
        "What a limit of ours had no room for: observed is only counted: streamgauge_tpm_limit_hits_total. And the upstream's \
         own 429: streamgauge_requests_total.",
        &[
            query(
                concat!(rate!("tenant, action", "streamgauge_tpm_limit_hits_total"), " > 0"),
                "{{tenant}}: {{action}}",
            ),
            query(
                or_zero!(rate!("streamgauge_requests_total{code=\"429\",outcome=\"upstream_refused\"}")),
                "upstream's 429",
            ),
        ],
    ),
];

const WORTH: &[Panel] = &[
    Panel::new(
        Lines,
        "What upstreams leave of their limits",
        "percentunit",
        "As the newest answer said: streamgauge_upstream_ratelimit_remaining / streamgauge_upstream_ratelimit_limit.",
        &[query(
            "min by (upstream, model, kind) (streamgauge_upstream_ratelimit_remaining / (streamgauge_upstream_ratelimit_limit > 0))",
            "{{model}}: {{kind}}",
        )],
    )
    .nothing("upstreams say nothing of limits"),
    Panel::new(
        Stack,
        "How output tokens were counted",
        "reqps",
        "Answers a second by source: streamgauge_token_counts_total. `missing`: tokens, limits and costs lack them.",
        &[query(
            concat!(rate!("source", "streamgauge_token_counts_total{direction=\"output\"}"), " > 0"),
            "{{source}}",
        )],
    ),
    Panel::new(
        Lines,
        "Tokens not settled",
        "short",
        "By estimate in the counters until streams end (live), or added too much and taken from what comes next (owed): \
         streamgauge_unsettled_tokens.",
        &[query("sum by (state) (streamgauge_unsettled_tokens)", "{{state}}")],
    ),
];
