//! A minute's window of seconds, and whether it has room.

use std::collections::BTreeMap;
use std::time::Duration;

use super::limit::{Action, Hold};

const MINUTE: u64 = 60_000;

/// How much longer tokens count, in milliseconds: of two requests that are let go a minute apart, the first may take so
/// much longer on its way to a provider that counts too.
const MARGIN: u64 = 250;

/// How long tokens count from the beginning of their second on, in milliseconds.
pub const LIFE: u64 = 1000 + MINUTE + MARGIN;

/// A moment of the clock that a window is kept by, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The second that it lies in.
    pub const fn second(self) -> u64 {
        self.0 / 1000
    }

    /// How long until the tokens of this second count no more.
    pub(super) fn until_over(self, second: u64) -> Duration {
        Duration::from_millis((second * 1000 + LIFE).saturating_sub(self.0))
    }
}

/// Tokens by the second that they are charged to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    pub(super) seconds: BTreeMap<u64, u64>,
}

impl Window {
    /// A window of these seconds and tokens.
    pub fn of(seconds: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut window = Self::default();
        seconds.into_iter().for_each(|(second, tokens)| window.charge(second, tokens));
        window
    }

    pub(super) fn charge(&mut self, second: u64, tokens: u64) {
        if tokens > 0 {
            let sum = self.seconds.entry(second).or_insert(0);
            *sum = sum.saturating_add(tokens);
        }
    }

    /// Takes tokens back; what is over already is nobody's any more.
    pub(super) fn refund(&mut self, second: u64, tokens: u64) {
        if let Some(sum) = self.seconds.get_mut(&second) {
            *sum = sum.saturating_sub(tokens);
            if *sum == 0 {
                self.seconds.remove(&second);
            }
        }
    }

    pub(super) fn forget(&mut self, now: Stamp) {
        while let Some(first) = self.seconds.first_entry().filter(|it| now.until_over(*it.key()).is_zero()) {
            first.remove();
        }
    }

    /// What counts, what is owed included.
    pub fn sum(&self, now: Stamp) -> u64 {
        let counting = self.seconds.iter().filter(|(second, _)| !now.until_over(**second).is_zero());
        counting.fold(0, |sum, (_, tokens)| sum.saturating_add(*tokens))
    }

    /// How long until there is room for so many tokens; none: there never is.
    fn wait(&self, now: Stamp, tokens: u64, limit: u64) -> Option<Duration> {
        let free = limit.checked_sub(tokens)?;
        let mut sum = self.sum(now);
        let mut wait = Duration::ZERO;
        for (second, tokens) in &self.seconds {
            let over = now.until_over(*second);
            if sum <= free {
                break;
            }
            if !over.is_zero() {
                sum = sum.saturating_sub(*tokens);
                wait = over;
            }
        }
        Some(wait)
    }
}

/// What limits say to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is room, or nobody holds to what has none: these limits, as places in the list of windows.
    Pass {
        /// Windows with a limit that is only observed and has no room.
        over: Vec<usize>,
    },
    /// There is none.
    Full(Full),
}

/// A limit without room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Its window, as a place in the list.
    pub hold: usize,
    /// Tokens in any sixty seconds.
    pub limit: u64,
    /// What counts at the moment.
    pub used: u64,
    /// How long until there is room if nobody takes it; none: the request is larger than the limit.
    pub wait: Option<Duration>,
    /// What is to be done.
    pub action: Action,
}

impl Full {
    pub(super) fn severity(&self) -> (bool, bool, Option<Duration>) {
        (self.action == Action::Reject, self.wait.is_none(), self.wait)
    }
}

/// What a request for so many tokens is told. `windows` stand as `holds` do; `share`: each limit is for one in so many.
pub fn judge(holds: &[Hold], windows: &[Window], tokens: u64, share: u64, now: Stamp) -> Verdict {
    let mut over = Vec::new();
    let mut full: Option<Full> = None;
    for (place, (hold, window)) in holds.iter().zip(windows).enumerate() {
        for (limit, action) in &hold.rules {
            let (whole, limit) = (*limit, limit / share.max(1));
            // More than a share, and not more than the limit: there is room when the shares are one again.
            let shared = || (tokens <= whole).then_some(Duration::from_millis(LIFE));
            let wait = window.wait(now, tokens, limit).or_else(shared);
            if wait == Some(Duration::ZERO) {
                continue;
            }
            if *action == Action::Observe {
                over.push(place);
                continue;
            }
            let found = Full { hold: place, limit, used: window.sum(now), wait, action: *action };
            full = full.filter(|full| full.severity() >= found.severity()).or(Some(found));
        }
    }
    full.map_or_else(
        || {
            over.dedup();
            Verdict::Pass { over }
        },
        Verdict::Full,
    )
}
