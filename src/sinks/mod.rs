//! Where numbers go. A sink is told facts by one thread, those of an exchange in order; it must not block and cannot
//! fail: what it cannot keep it counts.

mod json;
pub mod ledger;
pub mod metrics;
pub mod notices;
pub mod recent;
pub mod request_log;

use std::time::Duration;

use crate::account::meter::Tokens;
use crate::account::settle::Counts;
use crate::exchange::{Exchange, Limited, ModelNames, Name};
use crate::live::{Accepted, Origin};

/// What sinks are told.
#[derive(Debug)]
pub enum Fact<'a> {
    /// A stream's first token came: told once, while the stream may still run.
    FirstToken {
        /// What was known at the exchange's start.
        origin: &'a Origin,
        /// What was known at the first token.
        accepted: &'a Accepted,
        /// tf − t0.
        ttft: Duration,
    },
    /// A limit of ours had no room for an exchange, or it had to wait: told once, while it may still run.
    Limited {
        /// What was known at the exchange's start.
        origin: &'a Origin,
        /// What it met.
        limited: &'a Limited,
    },
    /// An exchange kept an objective, or did not: told once for each that it falls under, as soon as it is certain.
    Judged {
        /// What was known at the exchange's start.
        origin: &'a Origin,
        /// The model's names as known by now.
        model: &'a ModelNames,
        /// Whether the upstream has accepted it.
        accepted: bool,
        /// The objective.
        slo: &'a Name,
        /// It did not.
        is_bad: bool,
    },
    /// Tokens of a stream that runs: told about every second.
    Flow {
        /// What was known at the exchange's start.
        origin: &'a Origin,
        /// What has been known since its head or its first token.
        accepted: &'a Accepted,
        /// So many so far; a little fewer than there are.
        so_far: Tokens,
        /// Input and the most output that it asked for.
        reserved: Option<u64>,
    },
    /// An exchange ended: everything but its token counts is known.
    Ended(&'a Exchange),
    /// Its tokens are counted too. Always after its `Ended`.
    Settled(&'a Exchange),
    /// The text of an exchange whose tokens were reported has been counted all the same. After its `Settled`.
    Audited {
        /// The exchange.
        exchange: &'a Exchange,
        /// What was counted of it.
        counts: Counts,
    },
}

/// A place where facts go.
pub trait Sink: Send + Sync {
    /// Takes one fact.
    fn record(&self, fact: &Fact<'_>);

    /// Takes the two facts of an exchange whose tokens are known when it ends.
    fn record_end(&self, exchange: &Exchange) {
        self.record(&Fact::Ended(exchange));
        self.record(&Fact::Settled(exchange));
    }
}
