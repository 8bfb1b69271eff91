//! What a dashboard is made of, and the pieces of its queries.

use crate::ops::board::Board;

/// A dashboard.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) board: Board,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    /// How far back it looks at first, as Grafana writes it.
    pub(super) from: &'static str,
    pub(super) rows: &'static [Row],
}

/// Panels under one heading.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) title: &'static str,
    /// In Grafana's cells, of each of its panels.
    pub(super) height: u32,
    pub(super) panels: &'static [Panel],
}

/// What draws a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The newest number of each series.
    Stat,
    /// Lines over time.
    Lines,
    /// Areas over time that add up.
    Stack,
    /// A histogram's buckets over time.
    Heatmap,
    /// A row for each series, as of the end of the time range; more than one query are joined by their labels.
    Table,
}

/// A query. Matchers for the dashboard's variables are put in when it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query {
    pub(super) expr: &'static str,
    /// In a table, the column of its values.
    pub(super) legend: &'static str,
}

/// A number from which on a value has this colour.
pub(super) type Step = (f64, &'static str);

/// A panel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel {
    pub(super) title: &'static str,
    /// What it shows, and of which metric.
    pub(super) description: &'static str,
    pub(super) kind: Kind,
    /// Grafana's name for it.
    pub(super) unit: &'static str,
    /// In cells, of 24.
    pub(super) width: u32,
    pub(super) queries: &'static [Query],
    /// What stands there when there is nothing to show.
    pub(super) nothing: &'static str,
    /// Of the lowest, from minus infinity on, only the colour counts. None: a number that is neither good nor bad.
    pub(super) steps: &'static [Step],
    pub(super) decimals: Option<u32>,
    /// Units and decimals of a table's columns that differ from the panel's.
    pub(super) columns: &'static [(&'static str, &'static str, u32)],
}

impl Panel {
    pub(super) const fn new(
        kind: Kind,
        title: &'static str,
        unit: &'static str,
        description: &'static str,
        queries: &'static [Query],
    ) -> Self {
        let width = if matches!(kind, Kind::Stat) { 4 } else { 8 };
        let nothing = "none in this time";
        Self {
            title,
            description,
            kind,
            unit,
            width,
            queries,
            nothing,
            steps: &[],
            decimals: None,
            columns: &[],
        }
    }

    pub(super) const fn width(self, width: u32) -> Self {
        Self { width, ..self }
    }

    pub(super) const fn nothing(self, nothing: &'static str) -> Self {
        Self { nothing, ..self }
    }

    pub(super) const fn steps(self, steps: &'static [Step]) -> Self {
        Self { steps, ..self }
    }

    pub(super) const fn decimals(self, decimals: u32) -> Self {
        Self { decimals: Some(decimals), ..self }
    }

    pub(super) const fn columns(self, columns: &'static [(&'static str, &'static str, u32)]) -> Self {
        Self { columns, ..self }
    }
}

pub(super) const fn query(expr: &'static str, legend: &'static str) -> Query {
    Query { expr, legend }
}

/// A counter's growth a second, added up by labels.
macro_rules! rate {
    ($by:literal, $metric:literal) => {
        concat!("sum by (", $by, ") (rate(", $metric, "[$__rate_interval]))")
    };
    ($metric:literal) => {
        concat!("sum(rate(", $metric, "[$__rate_interval]))")
    };
}

/// A quantile of a histogram, by labels; nothing where nothing was observed, not NaN.
macro_rules! quantile {
    ($q:literal, $by:literal, $metric:literal) => {
        concat!(
            "histogram_quantile(",
            $q,
            ", sum by (",
            $by,
            "le) (rate(",
            $metric,
            "_bucket[$__rate_interval]))) >= 0"
        )
    };
}

/// A histogram's mean, by labels.
macro_rules! mean {
    ($by:literal, $metric:literal) => {
        concat!(
            "sum by (",
            $by,
            ") (rate(",
            $metric,
            "_sum[$__rate_interval])) / (sum by (",
            $by,
            ") (rate(",
            $metric,
            "_count[$__rate_interval])) > 0)"
        )
    };
}

/// For a total whose series are there only from their first event on: 0 while a sidecar is there to say so.
macro_rules! or_zero {
    ($expr:expr) => {
        concat!("(", $expr, " or 0 * count(streamgauge_build_info))")
    };
}

/// How many times as fast as it may an objective's budget burns, by labels of which `slo` is one.
macro_rules! burn {
    ($by:literal) => {
        concat!(
            "sum by (", $by, ") (rate(streamgauge_slo_bad_requests_total[$__rate_interval]))\n/ (sum by (", $by,
            ") (rate(streamgauge_slo_requests_total[$__rate_interval])) > 0)\n/ on (slo) group_left () (1 - max by (slo) \
             (streamgauge_slo_objective_ratio))"
        )
    };
}

/// The share of a budget that is left over so long, by labels of which `slo` is one.
macro_rules! budget_left {
    ($by:literal, $range:literal) => {
        concat!(
            "1 - sum by (",
            $by,
            ") (increase(streamgauge_slo_bad_requests_total[",
            $range,
            "]))\n/ (sum by (",
            $by,
            ") (increase(streamgauge_slo_requests_total[",
            $range,
            "])) > 0)\n/ on (slo) group_left () (1 - max by (slo) (streamgauge_slo_objective_ratio))"
        )
    };
}

/// The share of requests that fail for a reason that is not the client's nor a limit's.
macro_rules! failing {
    () => {
        concat!(
            or_zero!(rate!(
                "streamgauge_requests_total{outcome=~\"upstream_failed|stream_failed|truncated|timed_out|sidecar_failed\"}"
            )),
            "\n/ (",
            rate!("streamgauge_requests_total{outcome!=\"rejected\"}"),
            " > 0)"
        )
    };
}

pub(super) use {budget_left, burn, failing, mean, or_zero, quantile, rate};

/// A burn of 1 spends the budget exactly; 14.4 wakes somebody.
pub(super) const BURN: &[Step] = &[(0.0, "green"), (1.0, "orange"), (14.4, "red")];
/// Of a budget that is left.
pub(super) const LEFT: &[Step] = &[(0.0, "red"), (0.0, "green")];
/// What should not be there at all.
pub(super) const NONE_OF_IT: &[Step] = &[(0.0, "green"), (1e-9, "red")];
/// The age at which StreamgaugeHung fires.
pub(super) const HUNG: &[Step] = &[(0.0, "green"), (60.0, "red")];
/// The share at which StreamgaugeUpstreamErrors fires.
pub(super) const FAILING: &[Step] = &[(0.0, "green"), (0.05, "red")];
/// The shares at which StreamgaugeLimitNearExhaustion fires, and at which nothing is left.
pub(super) const USED: &[Step] = &[(0.0, "green"), (0.9, "orange"), (1.0, "red")];
