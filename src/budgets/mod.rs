//! What is spent of each budget: told by exchanges as they are settled, and kept where replicas share their limits, so
//! that replicas show the same sum and a restart forgets nothing. The arithmetic is [`crate::account::budget`]'s. No
//! request ever waits for anything here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use redis::{Pipeline, RedisError};
use tokio_util::sync::CancellationToken;

use crate::account::budget::{Account, Bounds, BudgetList, Spending, Telling};
use crate::admission::{Shared, escaped};
use crate::clock::Clock;
use crate::exchange::Name;
use crate::sinks::{Fact, Sink};
use crate::vitals::{DropStage, Vitals};

/// How often what was spent here is told to the server that replicas share: a killed process loses so much.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether the server has come: until then the sum lacks what was spent before this process began.
const ASK_FIRST: Duration = Duration::from_millis(50);

/// How often it is tried to tell the last amounts; a server that is slow once need not be so twice.
const LAST_TRIES: u32 = 2;

/// Every so many times it is asked what others have spent.
const LOOK_EVERY: u32 = 5;

/// How many terms are told at once: what the server needs for them does not hold up requests that ask it for room.
const AT_ONCE: usize = 32;

/// How long the server keeps a period after its end, in seconds: long enough to look at last month.
const KEPT_FOR: u64 = 40 * 24 * 3600;

const SPEND: &str = include_str!("spend.lua");

/// What is spent of every budget.
pub struct Budgets {
    clock: Clock,
    state: Mutex<State>,
    server: Option<Arc<Shared>>,
    vitals: Arc<Vitals>,
    /// It has been logged that the server does not take what is told.
    is_troubled: AtomicBool,
}

struct State {
    list: BudgetList,
    spending: Spending,
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgets").finish_non_exhaustive()
    }
}

impl Budgets {
    /// Nothing is spent of these. `server`: where replicas share it; none: it is kept in this process.
    pub fn new(list: &BudgetList, server: Option<Arc<Shared>>, vitals: Arc<Vitals>, clock: Clock) -> Self {
        let state = State { list: list.clone(), spending: Spending::default() };
        Self { clock, state: Mutex::new(state), server, vitals, is_troubled: AtomicBool::new(false) }
    }

    /// Takes reloaded budgets. What was spent of one that is still there stays.
    pub fn apply(&self, list: &BudgetList) {
        self.state.lock().list = list.clone();
        self.sweep();
    }

    /// Of each account what is spent in its present period.
    pub fn spent(&self) -> BTreeMap<Account, u128> {
        self.state.lock().spending.spent(self.now())
    }

    /// Forgets periods that are over.
    pub fn sweep(&self) {
        let State { list, spending } = &mut *self.state.lock();
        spending.sweep(list, self.now());
    }

    fn now(&self) -> SystemTime {
        self.clock.wall(self.clock.now())
    }

    /// Tells the server that replicas share what is spent here, and asks it for the rest, until it is told to stop: then
    /// once more. Ready at once where there is no server.
    pub async fn keep_in_touch(&self, stop: CancellationToken) {
        let Some(server) = &self.server else { return };
        let mut looked = None;
        for turn in 0_u32.. {
            let looks = looked.is_none_or(|at| turn.wrapping_sub(at) >= LOOK_EVERY);
            if server.is_up() && self.tell(server, looks).await && looks {
                looked = Some(turn);
            }
            let pause = if looked.is_none() { ASK_FIRST } else { TELL_EVERY };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return self.tell_last(server).await;
            }
        }
    }

    /// Tells what is not told yet, for nobody will do so later.
    async fn tell_last(&self, server: &Shared) {
        let is_told = || self.state.lock().spending.to_tell(self.now(), false).is_empty();
        for _ in 0..LAST_TRIES {
            if is_told() || server.is_up() && self.tell(server, false).await {
                return;
            }
        }
        tracing::warn!("limit_store does not answer: what was spent last is missing in its budgets");
    }

    /// Gives whether it could be told.
    async fn tell(&self, server: &Shared, looks: bool) -> bool {
        match self.exchange(server, looks).await {
            Ok(()) => {
                if self.is_troubled.swap(false, Ordering::Relaxed) {
                    tracing::info!("limit_store takes what is spent of budgets again");
                }
                true
            }
            Err(error) => {
                if !self.is_troubled.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        error = %error.category(),
                        "limit_store does not take what is spent of budgets: until it does, each replica shows its own \
                         and what it last knew of others"
                    );
                }
                false
            }
        }
    }

    async fn exchange(&self, server: &Shared, looks: bool) -> Result<(), RedisError> {
        if looks {
            self.discover(server).await?;
        }
        let (list, all) = {
            let state = self.state.lock();
            (state.list.clone(), state.spending.to_tell(self.now(), looks))
        };
        for some in all.chunks(AT_ONCE) {
            let mut pipe = redis::pipe();
            for telling in some {
                tell(&mut pipe, telling, server.name(), list.is_one_of_many(&telling.term.account));
            }
            let answers: Vec<BTreeMap<String, String>> = server.ask(&pipe).await?;
            let mut state = self.state.lock();
            for (telling, answer) in some.iter().zip(answers) {
                state.spending.heard(&telling.term, server.name(), &amounts(&answer));
            }
        }
        Ok(())
    }

    /// Finds the tenants whose spending others have told, where each has a budget.
    async fn discover(&self, server: &Shared) -> Result<(), RedisError> {
        let now = self.now();
        let each: Vec<Account> = {
            let State { list, spending } = &mut *self.state.lock();
            list.named().for_each(|account| spending.watch(account, now));
            list.of_each_tenant().cloned().collect()
        };
        for account in each {
            let mut pipe = redis::pipe();
            pipe.cmd("SMEMBERS").arg(tenants_key(&account, account.period.holding(now)));
            let (tenants,): (Vec<String>,) = server.ask(&pipe).await?;
            let State { list, spending } = &mut *self.state.lock();
            for tenant in tenants {
                let account = Account { tenant: Name::from(tenant.as_str()), ..account.clone() };
                if list.is_one_of_many(&account) {
                    spending.watch(&account, now);
                }
            }
        }
        Ok(())
    }
}

impl Sink for Budgets {
    fn record(&self, fact: &Fact<'_>) {
        let Fact::Settled(exchange) = fact else { return };
        let Some(cost) = exchange.cost.as_ref().filter(|cost| cost.pico > 0 && exchange.accepted()) else {
            return;
        };
        let State { list, spending } = &mut *self.state.lock();
        if !spending.add(list, &exchange.tenant, (&cost.currency, cost.pico), exchange.ended_at) {
            self.vitals.dropped(DropStage::Budgets).add_one();
        }
    }
}

/// Amounts are told whole, so that one that is told twice is not counted twice.
fn tell(pipe: &mut Pipeline, telling: &Telling, own: &str, is_one_of_many: bool) {
    let Telling { term, own: spent, others } = telling;
    let forgotten = (term.bounds.end + KEPT_FOR) * 1000;
    pipe.cmd("EVAL").arg(SPEND).arg(1).arg(key(&term.account, term.bounds)).arg(forgotten);
    if *spent > 0 {
        pipe.arg(own).arg(spent.to_string());
    }
    for (name, amount) in others {
        pipe.arg(name.as_str()).arg(amount.to_string());
    }
    if is_one_of_many && (*spent > 0 || !others.is_empty()) {
        let key = tenants_key(&term.account, term.bounds);
        pipe.cmd("SADD").arg(&key).arg(term.account.tenant.as_str()).ignore();
        pipe.cmd("PEXPIREAT").arg(&key).arg(forgotten).ignore();
    }
}

/// What is no amount is not ours, and counts as nothing.
fn amounts(answer: &BTreeMap<String, String>) -> BTreeMap<Name, u128> {
    let amount = |(name, amount): (&String, &String)| Some((Name::from(name.as_str()), amount.parse().ok()?));
    answer.iter().filter_map(amount).collect()
}

/// Where a term's amounts are.
fn key(account: &Account, bounds: Bounds) -> String {
    format!("streamgauge:budget:{{{}}}:{}", escaped(&account.tenant), named(account, bounds))
}

/// Where the tenants are that have spent something of a budget for each tenant.
fn tenants_key(account: &Account, bounds: Bounds) -> String {
    format!("streamgauge:budget-tenants:{}", named(account, bounds))
}

fn named(Account { currency, period, .. }: &Account, bounds: Bounds) -> String {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(bounds.start);
    format!("{currency}:{}:{}", period.label(), humantime::format_rfc3339_seconds(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::budget::Period;

    #[test]
    fn keys_can_be_read_and_no_tenants_name_reaches_another_ones() {
        let account = |tenant| Account {
            tenant: Name::from(tenant),
            currency: Name::from("USD"),
            period: Period::Month,
        };
        let bounds = Period::Month.holding(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        assert_eq!(key(&account("a"), bounds), "streamgauge:budget:{a}:USD:month:2027-01-01T00:00:00Z");
        assert_eq!(
            key(&account("a}:USD"), bounds),
            "streamgauge:budget:{a%7D:USD}:USD:month:2027-01-01T00:00:00Z"
        );
    }
}
