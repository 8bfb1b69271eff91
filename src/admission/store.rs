//! Where windows are kept: in this process alone, or where replicas share them. While that place does not answer, each
//! replica holds its tenants to its share of their limits, and what it admits is told there afterwards. Who is back holds
//! to its share until the others are, too: that place does not know before what they have charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::RedisError;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::peers::Peers;
use super::shared::Shared;
use super::{Admission, Asking, full_for, millis};
use crate::account::quota::{Full, Hold, Quota, Stamp, Verdict, judge};
use crate::clock::Moment;
use crate::config::LimitStore;
use crate::vitals::Tally;

/// How long a request that waits sleeps at most before it asks again: what other replicas give back, nobody tells.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// How often what was settled is told to the place where windows are shared.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Every so many times it is asked what others have charged, and told that this replica is there.
const LOOK_EVERY: u32 = 4;

/// How many windows are told of at once: a round of them takes a tenth of a second, and the next beat waits for it.
const AT_ONCE: usize = 256;

/// From so many milliseconds on the server's clock is another one than ours, or has been set.
const STEP: u64 = 2_000;

/// The way to the place where windows are shared.
pub(super) struct Store {
    pub(super) shared: Option<Arc<Shared>>,
    /// Who asks there.
    asking: TaskTracker,
    peers: Mutex<Peers>,
    fallbacks: Tally,
    /// It has been told that it does not answer.
    is_lost: AtomicBool,
}

/// How the place where windows are shared does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreState {
    /// It answers.
    pub is_up: bool,
    /// Decisions that were made without it.
    pub fallbacks: u64,
}

/// The URL of that place cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`limit_store` is no URL of a Redis server: {}", .0.category())]
pub struct StoreError(RedisError);

impl Store {
    pub(super) fn new(store: &LimitStore) -> Result<Self, StoreError> {
        let shared = match store {
            LimitStore::Memory => None,
            LimitStore::Redis(url) => Some(Arc::new(Shared::new(url.as_str()).map_err(StoreError)?)),
        };
        Ok(Self {
            shared,
            asking: TaskTracker::new(),
            peers: Mutex::default(),
            fallbacks: Tally::default(),
            is_lost: AtomicBool::new(false),
        })
    }

    /// Among how many replicas each limit is parted: none, while all know of each other.
    pub(super) fn share(&self) -> u64 {
        let Some(shared) = &self.shared else { return 1 };
        let peers = self.peers.lock();
        if shared.is_up() && peers.are_back() { 1 } else { peers.count() }
    }

    /// Whether what the server says is by all replicas.
    fn is_by_all(&self) -> bool {
        self.peers.lock().are_back()
    }

    /// How long may be slept before room is asked for again.
    pub(super) fn patience(&self) -> Duration {
        if self.shared.is_some() { ASK_AGAIN } else { Duration::MAX }
    }
}

impl Admission {
    /// What the place where windows are shared says to a request; none where there is none, or no answer.
    pub(super) async fn ask_store(self: &Arc<Self>, holds: &[Hold], asking: Asking<'_>) -> Option<Verdict> {
        let Asking { number, tokens, .. } = asking;
        let shared = self.store.shared.as_ref()?;
        if !shared.is_up() {
            self.store.fallbacks.add_one();
            return None;
        }
        // It is heard to its end though the client may be gone by then: what it was charged there is given back.
        let (answer, answered) = oneshot::channel();
        let (admission, holds, tenant) = (Arc::clone(self), holds.to_vec(), asking.tenant.clone());
        self.store.asking.spawn(async move {
            let verdict = admission.reserve_shared(&holds, number, tokens).await;
            if answer.send(verdict).is_err() {
                admission.settle(number, &tenant, Some(0));
            }
        });
        answered.await.ok().flatten()
    }

    async fn reserve_shared(&self, holds: &[Hold], number: u64, tokens: u64) -> Option<Verdict> {
        let shared = self.store.shared.as_ref()?;
        let (share, generation) = (self.store.share(), shared.generation());
        let own =
            if share > 1 { self.quota.lock().own(holds, share, self.now()) } else { vec![None; holds.len()] };
        let reserved = match shared.reserve(holds, &own, tokens).await {
            Ok(reserved) => reserved,
            Err(error) => {
                // By now another connection may be there, which can do nothing for it.
                if shared.generation() == generation {
                    self.lost(&error);
                }
                self.store.fallbacks.add_one();
                return None;
            }
        };
        self.heard(reserved.now);
        let verdict = judge(holds, &reserved.windows, tokens, 1, reserved.now);
        let mut quota = self.quota.lock();
        let by_all = self.store.is_by_all();
        for (hold, window) in holds.iter().zip(reserved.windows) {
            quota.told(&hold.scope, window, by_all);
        }
        if reserved.charged {
            quota.charged(number, reserved.now.second(), tokens, holds);
        }
        Some(match verdict {
            Verdict::Full(_) if reserved.charged => Verdict::Pass { over: Vec::new() }, // that counts
            Verdict::Pass { .. } if !reserved.charged => {
                Verdict::Full(full_alone(&quota, reserved.now, holds, tokens, share))
            }
            verdict => verdict,
        })
    }

    /// How the place where windows are shared does; none where there is none.
    pub fn store(&self) -> Option<StoreState> {
        let shared = self.store.shared.as_ref()?;
        Some(StoreState { is_up: shared.is_up(), fallbacks: self.store.fallbacks.get() })
    }

    /// Keeps in touch with the place where windows are shared, until it is told to stop. Ready at once where there is
    /// none.
    pub async fn keep_in_touch(&self, stop: CancellationToken) {
        let Some(shared) = &self.store.shared else { return };
        for turn in 0_u32.. {
            let told = if shared.is_up() {
                self.tell(shared, turn).await
            } else if turn.is_multiple_of(LOOK_EVERY) {
                self.connect(shared).await
            } else {
                Ok(())
            };
            if let Err(error) = told {
                self.lost(&error);
            }
            if stop.run_until_cancelled(tokio::time::sleep(TELL_EVERY)).await.is_none() {
                self.store.asking.close();
                self.store.asking.wait().await;
                // What the last exchanges did not need is others' to have.
                if self.tell_changes(shared, usize::MAX).await.is_ok() {
                    let _: Result<(), RedisError> = shared.leave().await;
                }
                return;
            }
        }
    }

    /// Connects, and tells all that is charged here: the server may have forgotten it, or never known.
    async fn connect(&self, shared: &Shared) -> Result<(), RedisError> {
        shared.connect().await?;
        let now = shared.time().await?;
        self.heard(now);
        self.store.peers.lock().back(now);
        let all = self.quota.lock().take_all(self.now());
        for (scope, charges) in all {
            let (_, window) = shared.all(&scope, &charges).await?;
            self.quota.lock().told(&scope, window, false);
        }
        shared.set_up();
        self.store.is_lost.store(false, Ordering::Relaxed);
        tracing::info!("limit_store answers");
        self.tell_changes(shared, usize::MAX).await?; // of what was charged here meanwhile
        self.beat(shared).await
    }

    /// Tells what was charged and taken back, and now and then that we are there, and asks what others have.
    async fn tell(&self, shared: &Shared, turn: u32) -> Result<(), RedisError> {
        if turn.is_multiple_of(LOOK_EVERY) {
            self.beat(shared).await?;
            let some = self.quota.lock().some((turn / LOOK_EVERY) as usize, AT_ONCE);
            for scope in some {
                let (_, window) = shared.add(&scope, &[]).await?;
                self.quota.lock().told(&scope, window, self.store.is_by_all());
            }
        }
        self.tell_changes(shared, AT_ONCE).await
    }

    /// Says that we are there, and hears who else is.
    async fn beat(&self, shared: &Shared) -> Result<(), RedisError> {
        let (now, present) = shared.beat().await?;
        self.heard(now);
        let replicas = present.len();
        if self.store.peers.lock().heard(present) {
            tracing::info!(replicas, "limits are shared");
        }
        Ok(())
    }

    async fn tell_changes(&self, shared: &Shared, most: usize) -> Result<(), RedisError> {
        let untold = self.quota.lock().take_untold(self.now(), most);
        for (scope, changes) in untold {
            let (_, window) = shared.add(&scope, &changes).await?;
            self.quota.lock().told(&scope, window, self.store.is_by_all());
        }
        Ok(())
    }

    /// The server's clock says that it is so late.
    fn heard(&self, now: Stamp) {
        let since_start = millis(self.clock.now().since(Moment::default()));
        let ahead = now.0.saturating_sub(since_start);
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        if ahead.abs_diff(before) >= STEP {
            self.quota.lock().shift((ahead.cast_signed() - before.cast_signed()) / 1000);
        }
    }

    /// The place where windows are shared does not answer. Told once each time.
    fn lost(&self, error: &RedisError) {
        let Some(shared) = &self.store.shared else { return };
        shared.disconnect();
        if !self.store.is_lost.swap(true, Ordering::Relaxed) {
            let replicas = self.store.peers.lock().count();
            tracing::warn!(
                error = %error.category(), replicas,
                "limit_store does not answer: each replica holds its tenants to its share of their limits until it does"
            );
        }
    }
}

/// Why the place where windows are shared has not charged what its windows have room for: it is more than our own part
/// of them while not all replicas are back, which they soon are.
fn full_alone(quota: &Quota, now: Stamp, holds: &[Hold], tokens: u64, share: u64) -> Full {
    let soon = TELL_EVERY * LOOK_EVERY;
    match (quota.judge(holds, tokens, 1, now), quota.judge(holds, tokens, share, now)) {
        (Verdict::Full(full), _) => full,
        (_, Verdict::Full(full)) => Full { wait: Some(soon), ..full },
        // What is to be taken back of it has not been told yet.
        _ => full_for(quota, now, holds, soon),
    }
}
