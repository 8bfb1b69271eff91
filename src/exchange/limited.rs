//! What our own limits did to an exchange.

use std::time::Duration;

use super::Name;

/// What happened at a limit that had no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HitAction {
    /// It was only counted.
    Observed,
    /// The request was held.
    Delayed,
    /// The request was refused.
    Rejected,
}

impl HitAction {
    /// The value of the label `action`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Delayed => "delayed",
            Self::Rejected => "rejected",
        }
    }
}

/// What an exchange was charged, and met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limited {
    /// Tokens that were kept free for it, or asked for.
    pub reserved: u64,
    /// The limits that had no room, by the model that they name, and what was done.
    pub hits: Vec<(Name, HitAction)>,
    /// How long it was held.
    pub delay: Option<Duration>,
}

impl Limited {
    /// The gravest of them.
    pub fn gravest(&self) -> Option<&(Name, HitAction)> {
        self.hits.iter().max_by_key(|(_, action)| *action)
    }
}
