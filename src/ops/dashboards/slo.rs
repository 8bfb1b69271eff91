//! Are promises kept, and how much may still go wrong?

use super::panel::Kind::{Lines, Stat, Table};
use super::panel::{BURN, LEFT, Page, Panel, Row, budget_left, burn, quantile, query};
use crate::ops::board::Board;

pub(super) const PAGE: Page = Page {
    board: Board::Slo,
    title: "Objectives",
    description: "Are promises kept, and how much may still go wrong? Set the time range to an objective's window to see its \
                  budget.",
    from: "now-24h",
    rows: &[
        Row { title: "Budgets", height: 6, panels: BUDGETS },
        Row { title: "Burning", height: 9, panels: BURNING },
        Row { title: "Who and what is promised", height: 9, panels: WHO },
    ],
};

const NO_SLOS: &str = "no objectives are configured (slos)";

const BUDGETS: &[Panel] = &[
    Panel::new(
        Stat,
        "Budget left in this time range",
        "percentunit",
        "Of the bad requests that an objective allows, below 0 when it is missed: streamgauge_slo_bad_requests_total, \
         streamgauge_slo_requests_total, streamgauge_slo_objective_ratio.",
        &[query(budget_left!("slo", "$__range"), "{{slo}}")],
    )
    .width(8)
    .steps(LEFT)
    .nothing(NO_SLOS),
    Panel::new(
        Stat,
        "Budget left, 30 days",
        "percentunit",
        "The same over 30 days, the usual window: streamgauge_slo_bad_requests_total, streamgauge_slo_requests_total, \
         streamgauge_slo_objective_ratio.",
        &[query(budget_left!("slo", "30d"), "{{slo}}")],
    )
    .width(8)
    .steps(LEFT)
    .nothing(NO_SLOS),
    Panel::new(
        Stat,
        "Burn rate now",
        "none",
        "1 spends the budget exactly in its window; 14.4 over an hour wakes somebody: streamgauge_slo_bad_requests_total, \
         streamgauge_slo_requests_total, streamgauge_slo_objective_ratio.",
        &[query(burn!("slo"), "{{slo}}")],
    )
    .width(8)
    .steps(BURN)
    .decimals(1)
    .nothing(NO_SLOS),
];

const BURNING: &[Panel] = &[
    Panel::new(
        Lines,
        "Burn rate by tenant and model",
        "none",
        "Who is hit: streamgauge_slo_bad_requests_total, streamgauge_slo_requests_total, streamgauge_slo_objective_ratio. \
         model `unknown`: requests that never got an answer.",
        &[query(burn!("slo, tenant, model"), "{{slo}}: {{tenant}}, {{model}}")],
    )
    .width(12)
    .nothing(NO_SLOS),
    Panel::new(
        Lines,
        "TTFT p95 beside what is promised",
        "s",
        "streamgauge_time_to_first_token_seconds, streamgauge_slo_threshold_seconds.",
        &[
            query(quantile!("0.95", "model, ", "streamgauge_time_to_first_token_seconds"), "{{model}}"),
            query("max by (slo) (streamgauge_slo_threshold_seconds{kind=\"ttft\"})", "promised: {{slo}}"),
        ],
    )
    .width(12),
];

const WHO: &[Panel] = &[
    Panel::new(
        Table,
        "By objective, tenant and model, in this time range",
        "short",
        "Requests that were judged and those that missed the objective: streamgauge_slo_requests_total, \
         streamgauge_slo_bad_requests_total, streamgauge_slo_objective_ratio.",
        &[
            query("sum by (slo, tenant, model) (increase(streamgauge_slo_requests_total[$__range])) > 0", "requests"),
            query("sum by (slo, tenant, model) (increase(streamgauge_slo_bad_requests_total[$__range]))\nand sum by (slo, tenant, model) (increase(streamgauge_slo_requests_total[$__range])) > 0", "bad"),
            query(budget_left!("slo, tenant, model", "$__range"), "budget left"),
        ],
    )
    .width(16)
    .columns(&[("budget left", "percentunit", 1)])
    .decimals(0)
    .nothing(NO_SLOS),
    Panel::new(
        Table,
        "What is promised",
        "s",
        "The times that an objective asks for, and of how many requests: streamgauge_slo_threshold_seconds, \
         streamgauge_slo_objective_ratio.",
        &[
            query("max by (slo, kind) (streamgauge_slo_threshold_seconds)", "time"),
            query(
                "max by (slo, kind) (streamgauge_slo_threshold_seconds) * 0\n+ on (slo) group_left () max by (slo) \
                 (streamgauge_slo_objective_ratio)",
                "objective",
            ),
        ],
    )
    .columns(&[("time", "s", 2), ("objective", "percentunit", 3)])
    .nothing(NO_SLOS),
];
