//! Service level objectives.

use super::super::id::Id;
use super::super::labels::Label;
use super::super::row::{Kind, Row, Section};
use Kind::{Counter, Gauge};
use Section::Slo;

pub(super) static ROWS: &[Row] = &[
    Row::new(
        Id::SloRequests,
        "slo_requests_total",
        Counter,
        Slo,
        &[Label::Slo, Label::Tenant, Label::Model],
        "Requests that an objective judges, each counted when its verdict is certain: a breach at once, the rest at the end. Clients' errors and clients that leave in time are not among them.",
    )
    .there_from_start(),
    Row::new(
        Id::SloBadRequests,
        "slo_bad_requests_total",
        Counter,
        Slo,
        &[Label::Slo, Label::Tenant, Label::Model],
        "Of slo_requests_total those that missed the objective. A breach counts the moment its time is over, hung requests too, and is never taken back.",
    )
    .there_from_start(),
    Row::new(
        Id::SloThreshold,
        "slo_threshold_seconds",
        Gauge,
        Slo,
        &[Label::Slo, Label::Kind],
        "The times that an objective asks for; kind: ttft, tpot, duration.",
    ),
    Row::new(
        Id::SloObjective,
        "slo_objective_ratio",
        Gauge,
        Slo,
        &[Label::Slo],
        "The share of requests that is to keep the objective.",
    ),
];
