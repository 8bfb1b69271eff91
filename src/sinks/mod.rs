//! Where numbers go. A sink is told facts, in order, by one thread; it must not block and cannot fail:
//! what it cannot keep it counts.

pub mod metrics;
pub mod notices;
pub mod request_log;

use std::time::Duration;

use crate::exchange::Exchange;
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
    /// An exchange ended: everything but its token counts is known.
    Ended(&'a Exchange),
    /// Its tokens are counted too. Always after its `Ended`.
    Settled(&'a Exchange),
}

/// A place where facts go.
pub trait Sink: Send + Sync {
    /// Takes one fact.
    fn record(&self, fact: &Fact<'_>);
}
