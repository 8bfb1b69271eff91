//! A request that may not go, and what its client is told.

use std::fmt;
use std::time::Duration;

use super::Asking;
use crate::account::quota::{Action, Full, Hold, hit};
use crate::exchange::{HitAction, Limited};

/// A request that may not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What happened, for the record.
    pub limited: Limited,
    /// Tokens in any sixty seconds.
    pub limit: u64,
    /// What counts of them.
    pub used: u64,
    /// How long until there is room; none: there never is.
    pub wait: Option<Duration>,
    why: Why,
}

/// Why a request may not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The minute has no room.
    NoRoom,
    /// It has waited for its turn as long as it may.
    WaitedTooLong,
    /// Too many wait already.
    TooManyWait,
}

impl Refusal {
    pub(super) fn new(holds: &[Hold], asking: Asking<'_>, full: &Full, why: Why) -> Self {
        let model = holds.get(full.hold).map(|hold| hold.scope.model.clone());
        let hits = model.map(|model| (model, HitAction::Rejected)).into_iter().collect();
        let limited = Limited { reserved: asking.tokens, hits, delay: None };
        Self { limited, limit: full.limit, used: full.used, wait: full.wait, why }
    }

    /// The same, after it has been held for so long.
    pub(super) fn after(mut self, delay: Duration) -> Self {
        if !delay.is_zero() {
            let delayed =
                self.limited.hits.first().map(|(model, _)| (model.clone(), hit(Action::Delay(delay))));
            self.limited.hits.extend(delayed);
            self.limited.delay = Some(delay);
        }
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, used, wait, limited: Limited { reserved, .. }, why } = self;
        if wait.is_none() {
            return write!(
                f,
                "this request needs {reserved} tokens, more than the limit of {limit} tokens per minute; shorten it or \
                 lower its maximum of output tokens"
            );
        }
        match why {
            Why::NoRoom => write!(f, "this request needs {reserved} tokens")?,
            Why::WaitedTooLong => {
                write!(f, "this request needs {reserved} tokens and has waited for them as long as it may")?
            }
            Why::TooManyWait => f.write_str("too many requests of this tenant wait already")?,
        }
        write!(f, "; of the limit of {limit} tokens per minute {used} are taken")
    }
}

impl std::error::Error for Refusal {}
