//! Tokens, limits on them, and money.

use super::rule::Severity::Ticket;
use super::rule::{Board, Record, Row};

/// What the alerts below look at twice, or show. What is spent of budgets is kept by each instance, or shared by all.
pub(super) fn records(shared: bool) -> Vec<Record> {
    let over = if shared { "max" } else { "sum" };
    let record = |(name, expr): &(&str, &str)| Record {
        name: (*name).to_owned(),
        expr: expr.replace("$over", over),
        labels: Vec::new(),
    };
    RECORDS.iter().map(record).collect()
}

const RECORDS: &[(&str, &str)] = &[
    // Nothing while use does not grow.
    (
        "tenant_model:streamgauge_tpm_exhaustion:seconds",
        "min by (tenant, model) (clamp_min(streamgauge_tpm_limit - streamgauge_tpm_used, 0))\n\
         / (max by (tenant, model) (deriv(streamgauge_tpm_used[5m])) > 0)",
    ),
    (
        "upstream_model_kind:streamgauge_upstream_ratelimit_exhaustion:seconds",
        "min by (upstream, model, kind) (streamgauge_upstream_ratelimit_remaining)\n\
         / (max by (upstream, model, kind) (-deriv(streamgauge_upstream_ratelimit_remaining[5m])) > 0)",
    ),
    (
        "tenant_currency:streamgauge_cost:increase1h",
        "sum by (tenant, currency) (increase(streamgauge_cost_total[1h]))",
    ),
    (
        "tenant_currency_period:streamgauge_budget_spent:ratio",
        "$over by (tenant, currency, period) (streamgauge_budget_spent)\n\
         / (max by (tenant, currency, period) (streamgauge_budget) > 0)",
    ),
];

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "StreamgaugeLimitNearExhaustion",
        severity: Ticket,
        // Not summed: with limit_store in Redis every replica shows the same.
        expr: "max by (tenant, model) (streamgauge_tpm_used / streamgauge_tpm_limit) > 0.9",
        after: 2,
        keep: 5,
        labels: &[("limit", "ours")],
        summary: "{{ $labels.tenant }} uses {{ $value | humanizePercentage }} of its tokens per minute (model {{ $labels.model }})",
        description: "Time to exhaustion: {{ with printf \"tenant_model:streamgauge_tpm_exhaustion:seconds{tenant=%q,model=%q}\" \
                      $labels.tenant $labels.model | query }}{{ . | first | value | humanizeDuration }}\
                      {{ else }}none, use does not grow{{ end }}. Beyond it the limit does what its `action` says.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeLimitNearExhaustion",
        severity: Ticket,
        // What was said is old where nothing is sent any more, and whole again once its time is over.
        expr: "min by (upstream, model, kind) (\n  \
               streamgauge_upstream_ratelimit_remaining / (streamgauge_upstream_ratelimit_limit > 0)\n  \
               unless streamgauge_upstream_ratelimit_reset_seconds == 0\n\
               ) < 0.1\n\
               and on (upstream) sum by (upstream) (rate(streamgauge_requests_ended_total[5m])) > 0",
        after: 2,
        keep: 5,
        labels: &[("limit", "upstream")],
        summary: "{{ $labels.upstream }} leaves {{ $value | humanizePercentage }} of its limit on {{ $labels.kind }} for \
                  {{ $labels.model }}",
        description: "Time to exhaustion: {{ with printf \
                      \"upstream_model_kind:streamgauge_upstream_ratelimit_exhaustion:seconds{upstream=%q,model=%q,kind=%q}\" \
                      $labels.upstream $labels.model $labels.kind | query }}{{ . | first | value | humanizeDuration }}\
                      {{ else }}none, what is left does not shrink{{ end }}. Beyond it the upstream answers 429.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeBudgetBurn",
        severity: Ticket,
        // Half as fast again as the period passes, once a fifth is spent: before that a day's work is a large share of
        // what has passed. Periods are the budget's own, in UTC, a week from Monday; of an hour nobody can be told in time.
        expr: "tenant_currency_period:streamgauge_budget_spent:ratio > 1\n\
               or tenant_currency_period:streamgauge_budget_spent:ratio{period=\"month\"} > 0.2\n  \
               and tenant_currency_period:streamgauge_budget_spent:ratio{period=\"month\"}\n  \
               > scalar(1.5 * (day_of_month() - 1 + hour() / 24) / days_in_month())\n\
               or tenant_currency_period:streamgauge_budget_spent:ratio{period=\"week\"} > 0.2\n  \
               and tenant_currency_period:streamgauge_budget_spent:ratio{period=\"week\"}\n  \
               > scalar(1.5 * ((day_of_week() + 6) % 7 + hour() / 24) / 7)\n\
               or tenant_currency_period:streamgauge_budget_spent:ratio{period=\"day\"} > 0.2\n  \
               and tenant_currency_period:streamgauge_budget_spent:ratio{period=\"day\"}\n  \
               > scalar(1.5 * (hour() + minute() / 60) / 24)",
        after: 5,
        keep: 30,
        labels: &[],
        summary: "{{ $labels.tenant }} has spent {{ $value | humanizePercentage }} of its budget of this {{ $labels.period }} \
                  ({{ $labels.currency }})",
        description: "That is all of it, or half as fast again as the period passes. A budget stops nothing.",
        board: Board::Cost,
    },
    Row {
        name: "StreamgaugeSpendSpike",
        severity: Ticket,
        // Beside the dearest hour, not the mean: a day has a peak. Until a day ago, so that what goes on does not explain
        // itself, and who came today has nothing usual yet. One unit of the currency is worth no ticket.
        expr: "tenant_currency:streamgauge_cost:increase1h\n  \
               > 2 * max_over_time(tenant_currency:streamgauge_cost:increase1h[7d] offset 1d)\n\
               and tenant_currency:streamgauge_cost:increase1h > 1",
        after: 5,
        keep: 30,
        labels: &[],
        summary: "{{ $labels.tenant }} spent {{ $value | humanize }} {{ $labels.currency }} in an hour",
        description: "That is over twice its dearest hour of the week that ended a day ago: a loop, a stolen key, or a launch.",
        board: Board::Cost,
    },
    Row {
        name: "StreamgaugeUsageMissing",
        severity: Ticket,
        expr: "sum by (model) (increase(streamgauge_token_counts_total{source=\"missing\"}[1h]))\n  \
               / sum by (model) (increase(streamgauge_token_counts_total[1h])) > 0.05\n\
               and sum by (model) (increase(streamgauge_token_counts_total{source=\"missing\"}[1h])) >= 10",
        after: 5,
        keep: 30,
        labels: &[],
        summary: "Nobody knows the tokens of {{ $value | humanizePercentage }} of {{ $labels.model }}'s answers",
        description: "Token counters, limits and costs lack them. The upstream reports no usage and nothing else tells: set \
                      inject_usage, or models[].tokenizer.",
        board: Board::Cost,
    },
    Row {
        name: "StreamgaugeUnpriced",
        severity: Ticket,
        expr: "sum by (model) (increase(streamgauge_unpriced_requests_total[1h])) > 0",
        after: 5,
        keep: 30,
        labels: &[],
        summary: "{{ $value | humanize }} requests to {{ $labels.model }} in an hour have no cost",
        description: "Its price is missing (models[].price, prices.file), has run out, or nobody knows the tokens.",
        board: Board::Cost,
    },
];
