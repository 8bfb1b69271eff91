//! Whether a request may go: asks the limits on tokens per minute, lets it wait its turn, keeps what it is charged until
//! it is settled. The arithmetic is [`crate::account::quota`]'s; here are the clock, the queues and the way to the place
//! where replicas share their windows.

mod peers;
mod queue;
mod refusal;
mod shared;
mod store;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::account::learned::Expectations;
use crate::account::quota::{Action, Full, Hold, Limits, Quota, Scope, Stamp, Verdict};
use crate::clock::{Clock, Moment};
use crate::config::LimitStore;
use crate::exchange::{Exchange, HitAction, Limited, Name};
use crate::sinks::{Fact, Sink};
use queue::{NoTurn, Queues};
pub use refusal::Refusal;
use refusal::Why;
pub use shared::Shared;
pub(crate) use shared::escaped;
use store::Store;
pub use store::{StoreError, StoreState};

/// A request that asks.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The exchange's number.
    pub number: u64,
    /// Who asks.
    pub tenant: &'a Name,
    /// For which model, by its label.
    pub model: Option<&'a Name>,
    /// What it may come to.
    pub tokens: u64,
}

/// The limits' state.
pub struct Admission {
    clock: Clock,
    quota: Mutex<Quota>,
    queues: Queues,
    /// Milliseconds that the windows' clock is ahead of ours.
    ahead: AtomicU64,
    /// What requests are expected to come to.
    pub expectations: Arc<ArcSwap<Expectations>>,
    store: Store,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

impl Admission {
    /// Windows in this process's memory, or shared with other replicas.
    ///
    /// # Errors
    /// The URL of the place where they are shared cannot be used.
    pub fn new(clock: Clock, store: &LimitStore) -> Result<Self, StoreError> {
        let now = clock.now();
        let wall = clock.wall(now).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ahead = wall.saturating_sub(now.since(Moment::default()));
        Ok(Self {
            clock,
            quota: Mutex::default(),
            queues: Queues::default(),
            ahead: AtomicU64::new(millis(ahead)),
            expectations: Arc::default(),
            store: Store::new(store)?,
        })
    }

    /// The server that replicas share; none: this process keeps its windows to itself.
    pub fn shared(&self) -> Option<Arc<Shared>> {
        self.store.shared.clone()
    }

    /// The present moment of the windows' clock.
    fn now(&self) -> Stamp {
        let since_start = self.clock.now().since(Moment::default());
        Stamp(millis(since_start) + self.ahead.load(Ordering::Relaxed))
    }

    /// Asks for a request of a tenant whose requests may have to wait or be refused: ready when it may go.
    ///
    /// # Errors
    /// It may not.
    pub async fn admit(
        self: &Arc<Self>,
        limits: &Limits,
        asking: Asking<'_>,
    ) -> Result<Option<Limited>, Refusal> {
        let holds = limits.on(asking.tenant, asking.model);
        if holds.is_empty() {
            return Ok(None);
        }
        if holds.iter().all(|hold| hold.cap(1).is_none()) {
            return Ok(self.observe(limits, asking));
        }
        let rules = holds.iter().flat_map(|hold| &hold.rules);
        let patience = rules.filter_map(|(_, action)| match action {
            Action::Delay(longest) => Some(*longest),
            Action::Observe | Action::Reject => None,
        });
        let admitted = match patience.min() {
            None => {
                let asked = self.ask(&holds, asking).await;
                asked.map_err(|full| Refusal::new(&holds, asking, &full, Why::NoRoom))
            }
            Some(patience) => self.wait(&holds, asking, patience).await,
        };
        admitted.map(Some)
    }

    /// Waits for its turn, and then for room.
    async fn wait(
        self: &Arc<Self>,
        holds: &[Hold],
        asking: Asking<'_>,
        patience: Duration,
    ) -> Result<Limited, Refusal> {
        // Nothing that comes to an end makes room for it.
        let full = self.fullest(holds, asking);
        if full.wait.is_none() {
            return Err(Refusal::new(holds, asking, &full, Why::NoRoom));
        }
        let began = self.clock.now();
        let gives_up = began + patience;
        let waited = || self.clock.now().since(began);
        let refuse = |full: &Full, why| Refusal::new(holds, asking, full, why).after(waited());
        let turn = match self.queues.turn(asking.tenant, self.clock.instant(gives_up)).await {
            Ok(turn) => turn,
            Err(NoTurn::TooMany) => return Err(refuse(&self.fullest(holds, asking), Why::TooManyWait)),
            Err(NoTurn::TooLate) => return Err(refuse(&self.fullest(holds, asking), Why::WaitedTooLong)),
        };
        let mut waited_at = turn.has_waited.then(|| self.fullest(holds, asking).hold);
        loop {
            let freed = turn.freed();
            let full = match self.ask(holds, asking).await {
                Ok(mut limited) => {
                    if let Some(hold) = waited_at.and_then(|place| holds.get(place)) {
                        limited.hits.push((hold.scope.model.clone(), HitAction::Delayed));
                        limited.delay = Some(waited());
                    }
                    return Ok(limited);
                }
                Err(full) => full,
            };
            let Some(wait) = full.wait.filter(|_| full.action != Action::Reject) else {
                return Err(refuse(&full, Why::NoRoom));
            };
            waited_at = Some(full.hold);
            let until = (self.clock.now() + wait.min(self.store.patience())).min(gives_up);
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep_until(self.clock.instant(until)) => {}
            }
            if self.clock.now() >= gives_up {
                return Err(refuse(&self.fullest(holds, asking), Why::WaitedTooLong));
            }
        }
    }

    /// Asks for room: at the place where windows are shared, or here, for this replica's share of each limit.
    async fn ask(self: &Arc<Self>, holds: &[Hold], asking: Asking<'_>) -> Result<Limited, Full> {
        let Asking { number, tokens, .. } = asking;
        let verdict = match self.ask_store(holds, asking).await {
            Some(verdict) => verdict,
            None => self.quota.lock().reserve(number, self.now(), tokens, self.store.share(), holds),
        };
        match verdict {
            Verdict::Pass { over } => Ok(observed(holds, tokens, &over)),
            Verdict::Full(full) => Err(full),
        }
    }

    /// The window that would hold the request up for the longest.
    fn fullest(&self, holds: &[Hold], asking: Asking<'_>) -> Full {
        let (quota, now) = (self.quota.lock(), self.now());
        match quota.judge(holds, asking.tokens, self.store.share(), now) {
            Verdict::Full(full) => full,
            Verdict::Pass { .. } => full_for(&quota, now, holds, Duration::ZERO),
        }
    }

    /// Charges a request of a tenant whose requests never wait, and tells what it met. None where nothing limits it, or
    /// it is charged already.
    pub fn observe(&self, limits: &Limits, asking: Asking<'_>) -> Option<Limited> {
        let holds = limits.on(asking.tenant, asking.model);
        let mut quota = self.quota.lock();
        if holds.is_empty() || quota.is_open(asking.number) {
            return None;
        }
        let now = self.now();
        let over = match quota.judge(&holds, asking.tokens, 1, now) {
            Verdict::Pass { over } => over,
            Verdict::Full(_) => Vec::new(),
        };
        quota.charge(asking.number, now.second(), asking.tokens, &holds);
        Some(observed(&holds, asking.tokens, &over))
    }

    /// An exchange has ended, with so many tokens; none: what it was charged stands.
    pub fn settle(&self, number: u64, tenant: &Name, tokens: Option<u64>) {
        if self.quota.lock().settle(number, self.now(), tokens) {
            self.queues.freed(tenant);
        }
    }

    /// Every window, and what counts in it.
    pub fn used(&self) -> Vec<(Scope, u64)> {
        self.quota.lock().used(self.now())
    }

    /// Forgets what counts no more.
    pub fn sweep(&self) {
        self.quota.lock().sweep(self.now());
    }
}

impl Sink for Admission {
    fn record(&self, fact: &Fact<'_>) {
        match fact {
            Fact::Flow { origin, so_far, .. } => {
                let tokens = so_far.input.saturating_add(so_far.output);
                self.quota.lock().so_far(origin.number, self.now(), tokens);
            }
            Fact::Settled(exchange) => self.settle(exchange.number, &exchange.tenant, came_to(exchange)),
            Fact::FirstToken { .. }
            | Fact::Limited { .. }
            | Fact::Judged { .. }
            | Fact::Ended(_)
            | Fact::Audited { .. } => {}
        }
    }
}

/// What an exchange's tokens came to, where that is known.
fn came_to(exchange: &Exchange) -> Option<u64> {
    if !exchange.accepted() {
        return Some(0);
    }
    let none = || (!exchange.dialect.generates()).then_some(0);
    let output = exchange.output.map(|count| count.value).or_else(none);
    Some(exchange.input?.value.saturating_add(output?))
}

/// The first window with a limit that is held to, as one without room for so long.
fn full_for(quota: &Quota, now: Stamp, holds: &[Hold], wait: Duration) -> Full {
    let first = holds.iter().zip(0..).find_map(|(hold, place)| Some((place, hold.held_to()?)));
    let (hold, (limit, action)) = first.unwrap_or((0, (0, Action::Reject)));
    let used = holds.get(hold).map_or(0, |hold| quota.used_of(&hold.scope, now));
    Full { hold, limit, used, wait: Some(wait), action }
}

fn observed(holds: &[Hold], tokens: u64, over: &[usize]) -> Limited {
    let hit = |place: &usize| Some((holds.get(*place)?.scope.model.clone(), HitAction::Observed));
    Limited { reserved: tokens, hits: over.iter().filter_map(hit).collect(), delay: None }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
