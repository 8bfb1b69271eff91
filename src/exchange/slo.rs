//! What is promised of an exchange, and whether it was kept.

use std::time::Duration;

use super::{ModelNames, Name};

/// Whether an exchange kept an objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All that is asked for held.
    Good,
    /// Something did not.
    Bad,
    /// It says nothing of the service: a client's error, or one that left in time.
    NotEligible,
}

impl Verdict {
    /// As the request log has it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::NotEligible => "not_eligible",
        }
    }
}

/// What a running exchange can be judged by: of one objective the times that may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// The objective's place in the configuration.
    pub place: u8,
    /// Its name.
    pub slo: Name,
    /// The longest time to the first token.
    pub ttft: Option<Duration>,
    /// The longest time to the end.
    pub duration: Option<Duration>,
    /// Nothing but the first token is asked for.
    pub is_ttft_alone: bool,
}

/// What an exchange whose request has been read is judged by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Goals {
    /// The model as known by then.
    pub model: ModelNames,
    /// One for each objective that it falls under.
    pub goals: Vec<Goal>,
}
