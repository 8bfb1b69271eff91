//! Money.

use super::super::id::Id;
use super::super::labels::Label;
use super::super::row::{Kind, Row, Section};
use Kind::{Counter, Gauge};
use Section::Cost;

pub(super) static ROWS: &[Row] = &[
    Row::new(
        Id::Cost,
        "cost_total",
        Counter,
        Cost,
        &[Label::Tenant, Label::Model, Label::Upstream, Label::Currency],
        "What exchanges cost, in the currency's unit, counted when they end; only where a price is known (unpriced_requests_total) and the tokens are. Exact in the request log, here to the nearest double.",
    )
    .of_money(),
    Row::new(
        Id::UnpricedRequests,
        "unpriced_requests_total",
        Counter,
        Cost,
        &[Label::Model],
        "Accepted requests for tokens without a cost though prices are configured: their model has none at that time, or nobody knows their tokens. cost_total lacks them.",
    ),
    Row::new(
        Id::PricePerMillionTokens,
        "price_per_million_tokens",
        Gauge,
        Cost,
        &[Label::Model, Label::Kind, Label::Currency],
        "What a million tokens cost at the scrape, of each model that is configured or was seen and has a price; in its ordinary tier and for prompts of ordinary length.",
    ),
    Row::new(
        Id::AlternativeCost,
        "alternative_cost_total",
        Counter,
        Cost,
        &[Label::Tenant, Label::Model, Label::Alternative, Label::Currency],
        "What the same tokens would have cost at another configured model (models[].alternatives). Another tokenizer would count them a little differently.",
    )
    .of_money(),
    Row::new(
        Id::HardwareCost,
        "hardware_cost_total",
        Counter,
        Cost,
        &[Label::Model, Label::Currency],
        "What the devices configured for the model (models[].hardware.price_per_hour) have cost since this instance started, used or not. Its rate over that of the tokens is what a token costs on them.",
    ),
    Row::new(
        Id::Budget,
        "budget",
        Gauge,
        Cost,
        &[Label::Tenant, Label::Currency, Label::Period],
        "What a tenant is meant to spend in a period (budgets), in the currency's unit. It is the same on all instances: max by, never sum.",
    ),
    Row::new(
        Id::BudgetSpent,
        "budget_spent",
        Gauge,
        Cost,
        &[Label::Tenant, Label::Currency, Label::Period],
        "What the tenant's exchanges have cost since the period began (UTC), counted when they end. Where limit_store is a Redis server: by all instances, which show the same sum, so max by over them. Else by this instance since it started, if that is later: sum by over instances.",
    ),
];
