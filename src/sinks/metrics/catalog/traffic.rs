//! Requests and how they end.

use super::super::id::Id;
use super::super::labels::Label;
use super::super::row::{Kind, Row, Section};
use Kind::{Counter, Gauge};
use Section::Traffic;

pub(super) static ROWS: &[Row] = &[
    Row::new(
        Id::RequestsStarted,
        "requests_started_total",
        Counter,
        Traffic,
        &[Label::Upstream],
        "Exchanges begun. In every scrape it is requests_ended_total plus requests_in_flight, exactly; it is never dropped as idle.",
    ),
    Row::new(
        Id::RequestsEnded,
        "requests_ended_total",
        Counter,
        Traffic,
        &[Label::Upstream],
        "Exchanges ended, however they ended; never dropped as idle.",
    ),
    Row::new(
        Id::Requests,
        "requests_total",
        Counter,
        Traffic,
        &[
            Label::Tenant,
            Label::Model,
            Label::Upstream,
            Label::Dialect,
            Label::Stream,
            Label::Code,
            Label::Outcome,
        ],
        "Exchanges ended, in full detail. Its sum is that of requests_ended_total less records_dropped_total{stage=\"channel\"}.",
    ),
    Row::new(
        Id::InFlight,
        "requests_in_flight",
        Gauge,
        Traffic,
        &[Label::Upstream],
        "Exchanges open at the scrape.",
    ),
    Row::new(
        Id::AwaitingFirstToken,
        "requests_awaiting_first_token",
        Gauge,
        Traffic,
        &[Label::Upstream],
        "Open streaming exchanges that have had no token yet. It rises before any latency histogram does when an upstream hangs or queues.",
    ),
    Row::new(
        Id::OldestAwaitingFirstToken,
        "oldest_awaiting_first_token_seconds",
        Gauge,
        Traffic,
        &[Label::Upstream],
        "Age of the oldest exchange that waits for its first token; 0 when none does. It shows hung requests, which no histogram can.",
    ),
    Row::new(
        Id::ClientDisconnects,
        "client_disconnects_total",
        Counter,
        Traffic,
        &[Label::Tenant, Label::Model, Label::Phase],
        "Clients that left before their answer was complete: before the first token (they gave up waiting) or while it streamed.",
    ),
    Row::new(
        Id::FinishReasons,
        "finish_reasons_total",
        Counter,
        Traffic,
        &[Label::Model, Label::Reason],
        "Why generation ended, one for each choice of an answer; \"none\" counts 2xx answers that gave no reason at all.",
    ),
    Row::new(
        Id::Unobserved,
        "unobserved_requests_total",
        Counter,
        Traffic,
        &[Label::Upstream, Label::Reason],
        "Exchanges passed through without their tokens being read.",
    ),
];
