//! What does it cost, whom, and what would it cost otherwise?

use super::panel::Kind::{Lines, Stack, Stat, Table};
use super::panel::{NONE_OF_IT, Page, Panel, Row, or_zero, query, rate};
use crate::ops::board::Board;

pub(super) const PAGE: Page = Page {
    board: Board::Cost,
    title: "Cost",
    description: "What does it cost, whom, and what would it cost on another model or on hardware of one's own?",
    from: "now-24h",
    rows: &[
        Row { title: "Spent", height: 8, panels: SPENT },
        Row { title: "A million tokens", height: 8, panels: MILLION },
        Row { title: "Hardware", height: 8, panels: HARDWARE },
    ],
};

const NO_PRICES: &str = "no prices are configured (models[].price)";
const NO_HARDWARE: &str = "no hardware is configured (models[].hardware)";

const SPENT: &[Panel] = &[
    Panel::new(
        Stat,
        "Spent",
        "short",
        "In the currency's unit, by tenants: streamgauge_cost_total.",
        &[query("sum by (currency) (increase(streamgauge_cost_total[$__range]))", "{{currency}}")],
    )
    .decimals(4)
    .nothing(NO_PRICES),
    Panel::new(
        Stack,
        "Spent an hour, by tenant",
        "short",
        "At the rate of each moment: streamgauge_cost_total.",
        &[query(concat!(rate!("tenant, currency", "streamgauge_cost_total"), " * 3600"), "{{tenant}} ({{currency}})")],
    )
    .width(16)
    .nothing(NO_PRICES),
    Panel::new(
        Stat,
        "Without a price",
        "short",
        "Requests in this time range that no cost has: streamgauge_unpriced_requests_total.",
        &[query(or_zero!("sum(increase(streamgauge_unpriced_requests_total[$__range]))"), "requests")],
    )
    .steps(NONE_OF_IT)
    .decimals(0)
    .nothing("no sidecar is scraped"),
    Panel::new(
        Table,
        "Budgets",
        "short",
        "streamgauge_budget, streamgauge_budget_spent. Spent is added up over instances, or shown as all share it where \
         limit_store is a Redis (streamgauge_limit_store_up is there).",
        &[
            query("max by (tenant, currency, period) (streamgauge_budget)", "budget"),
            query(
                "max by (tenant, currency, period) (streamgauge_budget_spent) and on () \
                 count(streamgauge_limit_store_up)\nor sum by (tenant, currency, period) (streamgauge_budget_spent)",
                "spent",
            ),
        ],
    )
    .width(12)
    .decimals(4)
    .nothing("no budgets are configured (budgets)"),
    Panel::new(
        Table,
        "The same tokens elsewhere",
        "short",
        "What was paid in this time range, and what the same tokens would have cost on another model: \
         streamgauge_alternative_cost_total.",
        &[query(
            "sum by (model, alternative, currency) (increase(streamgauge_alternative_cost_total[$__range]))",
            "would have cost",
        )],
    )
    .width(12)
    .decimals(4)
    .nothing("no alternatives are configured (models[].alternatives)"),
];

const MILLION: &[Panel] = &[
    Panel::new(
        Lines,
        "Paid for a million tokens",
        "short",
        "streamgauge_cost_total by streamgauge_input_tokens_total and streamgauge_output_tokens_total.",
        &[query(
            "sum by (model, currency) (rate(streamgauge_cost_total[$__rate_interval])) * 1e6\n/ on (model) group_left () (sum by \
             (model) (rate(streamgauge_input_tokens_total[$__rate_interval]) + \
             rate(streamgauge_output_tokens_total[$__rate_interval])) > 0)",
            "{{model}} ({{currency}})",
        )],
    )
    .width(12)
    .nothing(NO_PRICES),
    Panel::new(
        Table,
        "Prices",
        "short",
        "Of a million tokens: streamgauge_price_per_million_tokens.",
        &[query(
            "max by (model, kind, currency) (streamgauge_price_per_million_tokens{kind=~\"input|cache_read|output\"})",
            "price",
        )],
    )
    .width(12)
    .decimals(2)
    .nothing(NO_PRICES),
];

const HARDWARE: &[Panel] = &[
    Panel::new(
        Lines,
        "Devices for a million tokens",
        "short",
        "What devices cost, used or not, for the tokens they made: streamgauge_hardware_cost_total by \
         streamgauge_input_tokens_total and streamgauge_output_tokens_total.",
        &[query(
            "sum by (model, currency) (rate(streamgauge_hardware_cost_total[$__rate_interval])) * 1e6\n/ on (model) group_left () \
             (sum by (model) (rate(streamgauge_input_tokens_total[$__rate_interval]) + \
             rate(streamgauge_output_tokens_total[$__rate_interval])) > 0)",
            "{{model}} ({{currency}})",
        )],
    )
    .nothing(NO_HARDWARE),
    Panel::new(
        Lines,
        "Operations a second",
        "flops",
        "By the arithmetic of each model: streamgauge_model_flops_total.",
        &[query(rate!("model", "streamgauge_model_flops_total"), "{{model}}")],
    )
    .nothing("no architecture is configured (models[].architecture)"),
    Panel::new(
        Lines,
        "MFU",
        "percentunit",
        "The share of what the devices could compute: streamgauge_model_flops_total by streamgauge_hardware_peak_flops.",
        &[query(
            "sum by (model) (rate(streamgauge_model_flops_total[$__rate_interval]))\n/ sum by (model) \
             (streamgauge_hardware_peak_flops)",
            "{{model}}",
        )],
    )
    .nothing(NO_HARDWARE),
];
