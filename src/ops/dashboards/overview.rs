//! Is all well? Requests, errors, durations, objectives.

use super::panel::Kind::{Lines, Stack, Stat};
use super::panel::{
    BURN, FAILING, HUNG, LEFT, Page, Panel, Row, budget_left, burn, failing, or_zero, quantile, query, rate,
};
use crate::ops::board::Board;

pub(super) const PAGE: Page = Page {
    board: Board::Overview,
    title: "Overview",
    description: "Is all well? Requests, errors, times and objectives.",
    from: "now-1h",
    rows: &[
        Row { title: "Now", height: 4, panels: NOW },
        Row { title: "Traffic and errors", height: 8, panels: TRAFFIC },
        Row { title: "Speed", height: 8, panels: SPEED },
        Row { title: "Objectives", height: 8, panels: OBJECTIVES },
    ],
};

const NOW: &[Panel] = &[
    Panel::new(
        Stat,
        "Requests/s",
        "reqps",
        "Requests begun a second: streamgauge_requests_started_total.",
        &[query(rate!("streamgauge_requests_started_total"), "requests")],
    )
    .nothing("no sidecar is scraped"),
    Panel::new(
        Stat,
        "Failing",
        "percentunit",
        "The share of requests that failed in the upstream, broke off, or failed in the sidecar: streamgauge_requests_total by \
         outcome. Clients' errors and what limits refuse are not among them. Red from 5 % on, where StreamgaugeUpstreamErrors \
         fires.",
        &[query(failing!(), "failing")],
    )
    .steps(FAILING)
    .nothing("no requests"),
    Panel::new(
        Stat,
        "TTFT p95",
        "s",
        "The time to the first token that 95 % of streams kept, of all models: streamgauge_time_to_first_token_seconds.",
        &[query(quantile!("0.95", "", "streamgauge_time_to_first_token_seconds"), "p95")],
    )
    .nothing("no streams"),
    Panel::new(
        Stat,
        "Longest wait now",
        "s",
        "Age of the oldest request that waits for its first token: streamgauge_oldest_awaiting_first_token_seconds. It sees \
         hung requests, which no histogram shows. Red from 60 s on, where StreamgaugeHung fires.",
        &[query("max(streamgauge_oldest_awaiting_first_token_seconds)", "oldest")],
    )
    .steps(HUNG)
    .nothing("no sidecar is scraped"),
    Panel::new(
        Stat,
        "Output tokens/s",
        "short",
        "Output tokens a second, of all streams together: streamgauge_output_tokens_total.",
        &[query(rate!("streamgauge_output_tokens_total"), "tokens/s")],
    )
    .nothing("no tokens"),
    Panel::new(
        Stat,
        "Fastest burn",
        "none",
        "How many times as fast as it may the worst objective spends its budget: streamgauge_slo_bad_requests_total, \
         streamgauge_slo_requests_total, streamgauge_slo_objective_ratio. 1 spends it exactly.",
        &[query(concat!("max(", burn!("slo"), ")"), "burn")],
    )
    .steps(BURN)
    .decimals(1)
    .nothing("no objective, or no requests"),
];

const TRAFFIC: &[Panel] = &[
    Panel::new(
        Stack,
        "Requests/s by model",
        "reqps",
        "Requests that ended, a second: streamgauge_requests_total. `unknown`: never accepted, so nobody knows the model.",
        &[query(rate!("model", "streamgauge_requests_total"), "{{model}}")],
    ),
    Panel::new(
        Stack,
        "Requests/s that did not complete",
        "reqps",
        "By outcome: streamgauge_requests_total. client_gone is the client's choice, rejected a limit's.",
        &[query(rate!("outcome", "streamgauge_requests_total{outcome!=\"completed\"}"), "{{outcome}}")],
    )
    .nothing("Every request completed."),
    Panel::new(
        Lines,
        "Requests in flight",
        "short",
        "Open requests, and those of them that wait for their first token: streamgauge_requests_in_flight, \
         streamgauge_requests_awaiting_first_token. What waits rises first when an upstream queues or hangs.",
        &[
            query("sum(streamgauge_requests_in_flight)", "in flight"),
            query("sum(streamgauge_requests_awaiting_first_token)", "no token yet"),
        ],
    ),
];

const SPEED: &[Panel] = &[
    Panel::new(
        Lines,
        "TTFT p95 by model",
        "s",
        "streamgauge_time_to_first_token_seconds, and what is promised: streamgauge_slo_threshold_seconds. Dots are single \
         requests, with their ids.",
        &[
            query(quantile!("0.95", "model, ", "streamgauge_time_to_first_token_seconds"), "{{model}}"),
            query("max by (slo) (streamgauge_slo_threshold_seconds{kind=\"ttft\"})", "promised: {{slo}}"),
        ],
    ),
    Panel::new(
        Lines,
        "Time per output token, median",
        "s",
        "TPOT: streamgauge_time_per_output_token_seconds. 25 ms are 40 tokens a second.",
        &[query(quantile!("0.5", "model, ", "streamgauge_time_per_output_token_seconds"), "{{model}}")],
    ),
    Panel::new(
        Stack,
        "Output tokens/s by model",
        "short",
        "Throughput: streamgauge_output_tokens_total, while streams run.",
        &[query(rate!("model", "streamgauge_output_tokens_total"), "{{model}}")],
    ),
];

const OBJECTIVES: &[Panel] = &[
    Panel::new(
        Lines,
        "Burn rate",
        "none",
        "How many times as fast as it may each objective spends its budget: streamgauge_slo_bad_requests_total, \
         streamgauge_slo_requests_total, streamgauge_slo_objective_ratio.",
        &[query(burn!("slo"), "{{slo}}")],
    )
    .width(16)
    .nothing("no objectives are configured (slos)"),
    Panel::new(
        Stat,
        "Budget left, 30 days",
        "percentunit",
        "Of what an objective allows in 30 days, below 0 when it is missed: streamgauge_slo_bad_requests_total, \
         streamgauge_slo_requests_total, streamgauge_slo_objective_ratio.",
        &[query(budget_left!("slo", "30d"), "{{slo}}")],
    )
    .width(8)
    .steps(LEFT)
    .nothing("no objectives are configured (slos)"),
];
