//! What a row of the catalogue is.

use super::buckets::Buckets;
use super::id::Id;
use super::labels::Label;
use crate::account::price::PICO;

/// What every name begins with.
pub const PREFIX: &str = "streamgauge_";

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution.
    Histogram(Buckets),
}

impl Kind {
    /// The word on the page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What a metric is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Requests and how they end.
    Traffic,
    /// Time.
    Latency,
    /// Tokens.
    Tokens,
    /// Money.
    Cost,
    /// Objectives.
    Slo,
    /// Models and what they run on.
    Models,
    /// The sidecar itself.
    Sidecar,
}

/// One metric.
#[derive(Debug)]
pub struct Row {
    /// Which one; its place in the table.
    pub(super) id: Id,
    /// Its name without [`PREFIX`].
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it is about.
    pub section: Section,
    /// Its labels, in the order of the page.
    pub labels: &'static [Label],
    /// Its meaning, for whoever is on call: one sentence or two, without line breaks.
    pub help: &'static str,
    /// Whether its buckets carry exemplars.
    pub exemplars: bool,
    /// Whether the series of configured models and known tenants are there at 0 from the start.
    pub from_start: bool,
    /// Of a counter that may go beyond 64 bits: how many of the integers that it is counted in are one on the page.
    pub wide: Option<u128>,
}

impl Row {
    pub(super) const fn new(
        id: Id,
        name: &'static str,
        kind: Kind,
        section: Section,
        labels: &'static [Label],
        help: &'static str,
    ) -> Self {
        Self { id, name, kind, section, labels, help, exemplars: false, from_start: false, wide: None }
    }

    pub(super) const fn with_exemplars(self) -> Self {
        Self { exemplars: true, ..self }
    }

    pub(super) const fn there_from_start(self) -> Self {
        Self { from_start: true, ..self }
    }

    pub(super) const fn of_money(self) -> Self {
        Self { wide: Some(PICO), ..self }
    }

    pub(super) const fn beyond_64_bits(self) -> Self {
        Self { wide: Some(1), ..self }
    }

    /// Its name on the page.
    pub fn full_name(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// Whether it is a histogram that `metrics.tenant_on_histograms` adds the tenant to.
    pub fn can_have_tenant(&self) -> bool {
        let has = |label| self.labels.contains(&label);
        matches!(self.kind, Kind::Histogram(_)) && has(Label::Model) && !has(Label::Tenant)
    }

    /// Whether clients choose values of its labels: its series come and go.
    pub fn varies(&self) -> bool {
        self.labels.iter().any(|label| matches!(label, Label::Tenant | Label::Model))
    }
}
