//! The place where replicas share their windows: Redis, or what speaks its protocol. One script decides, by that
//! server's clock. In a window each replica has fields of its own, so that what it charged can be told anew when the
//! server comes back, whether or not it has forgotten.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, Script, ScriptInvocation};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::account::quota::{Hold, LIFE, Scope, Stamp, Window};
use crate::exchange::Name;

/// How long an answer is waited for. Requests wait with it, so one that takes longer counts as none.
const ANSWER_TIME: Duration = Duration::from_millis(100);

const CONNECT_TIME: Duration = Duration::from_secs(1);

/// After how many milliseconds a silent replica counts as gone.
const GONE_AFTER: u64 = 10_000;

const REPLICAS: &str = "streamgauge:replicas";

/// A server that keeps the windows of all replicas, and what they spend.
pub struct Shared {
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
    /// It answers, and knows what is charged here.
    is_up: AtomicBool,
    /// What goes on though its client has left.
    tasks: TaskTracker,
    /// Tells this replica from others.
    name: String,
    reserve: Script,
    tell: Script,
    beat: Script,
}

/// What was asked for, and what there was.
pub(super) struct Reserved {
    /// None: there was no room.
    pub(super) charge: Option<Charge>,
    pub(super) now: Stamp,
    /// Before it was charged.
    pub(super) windows: Vec<Window>,
}

/// Tokens that were charged. They are given back when nobody takes them: their client may have left meanwhile.
pub(super) struct Charge {
    shared: Arc<Shared>,
    scopes: Vec<Scope>,
    second: u64,
    tokens: u64,
}

impl Charge {
    /// They are somebody's.
    pub(super) fn take(mut self) {
        self.scopes.clear();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let scopes = std::mem::take(&mut self.scopes);
        if let (Ok(runtime), false) = (Handle::try_current(), scopes.is_empty()) {
            let (shared, back) = (Arc::clone(&self.shared), i64::try_from(self.tokens).unwrap_or(i64::MAX));
            let second = self.second;
            self.shared.tasks.spawn_on(
                async move {
                    for scope in scopes {
                        // What is not given back runs out in a minute.
                        let _: Result<_, RedisError> = shared.add(&scope, &[(second, -back)]).await;
                    }
                },
                &runtime,
            );
        }
    }
}

impl Shared {
    /// A server at this URL.
    ///
    /// # Errors
    /// It is none that can be connected to.
    pub(super) fn new(url: &str) -> Result<Self, RedisError> {
        let mut seed = RandomState::new().build_hasher();
        seed.write_u32(std::process::id());
        Ok(Self {
            client: Client::open(url)?,
            connection: Mutex::new(None),
            is_up: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            name: format!("{:016x}", seed.finish()),
            reserve: Script::new(include_str!("reserve.lua")),
            tell: Script::new(include_str!("tell.lua")),
            beat: Script::new(include_str!("beat.lua")),
        })
    }

    /// Connects. The server is not up before it has been told what is charged here.
    pub(super) async fn connect(&self) -> Result<(), RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIME))
            .set_response_timeout(Some(ANSWER_TIME));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        *self.connection.lock() = Some(connection);
        Ok(())
    }

    /// Waits for what goes on though its client has left.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether it answers.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    pub(super) fn set_up(&self) {
        self.is_up.store(true, Ordering::Release);
    }

    /// The connection is of no use any more.
    pub(super) fn disconnect(&self) {
        self.is_up.store(false, Ordering::Release);
        *self.connection.lock() = None;
    }

    /// Charges tokens to these windows, if all have room. It is asked to the end though the client leaves: a charge of
    /// which nobody knows could not be given back.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        holds: Vec<Hold>,
        tokens: u64,
    ) -> Result<Reserved, RedisError> {
        let shared = Arc::clone(self);
        let asking = self.tasks.spawn(async move { shared.reserve_now(&holds, tokens).await });
        asking.await.unwrap_or_else(|_| Err(RedisError::from((redis::ErrorKind::Io, "asking it has failed"))))
    }

    async fn reserve_now(self: &Arc<Self>, holds: &[Hold], tokens: u64) -> Result<Reserved, RedisError> {
        let mut call = self.reserve.prepare_invoke();
        for hold in holds {
            call.key(key(&hold.scope));
        }
        call.arg(&self.name).arg(tokens).arg(LIFE);
        for hold in holds {
            call.arg(hold.cap(1).map(|cap| cap.to_string()).unwrap_or_default());
        }
        let (charged, now, windows): (u64, u64, Vec<Vec<u64>>) = self.call(&call).await?;
        let now = Stamp(now);
        let charge = || Charge {
            shared: Arc::clone(self),
            scopes: holds.iter().map(|hold| hold.scope.clone()).collect(),
            second: now.second(),
            tokens,
        };
        let windows = windows.iter().map(|counts| window(counts)).collect();
        Ok(Reserved { charge: (charged == 1).then(charge), now, windows })
    }

    /// Tells what was charged to a window and taken back since it was last told.
    pub(super) async fn add(
        &self,
        scope: &Scope,
        changes: &[(u64, i64)],
    ) -> Result<(Stamp, Window), RedisError> {
        let mut call = self.tell.key(key(scope));
        call.arg(&self.name).arg(LIFE).arg("add");
        for (second, tokens) in changes {
            call.arg(*second).arg(*tokens);
        }
        self.told(&call).await
    }

    /// Tells all that is charged to a window here.
    pub(super) async fn all(
        &self,
        scope: &Scope,
        charges: &[(u64, u64)],
    ) -> Result<(Stamp, Window), RedisError> {
        let mut call = self.tell.key(key(scope));
        call.arg(&self.name).arg(LIFE).arg("all");
        for (second, tokens) in charges {
            call.arg(*second).arg(*tokens);
        }
        self.told(&call).await
    }

    async fn told(&self, call: &ScriptInvocation<'_>) -> Result<(Stamp, Window), RedisError> {
        let (now, counts): (u64, Vec<u64>) = self.call(call).await?;
        Ok((Stamp(now), window(&counts)))
    }

    /// Says that this replica is there; gives the time, and how many are.
    pub(super) async fn beat(&self) -> Result<(Stamp, u64), RedisError> {
        let mut call = self.beat.key(REPLICAS);
        call.arg(&self.name).arg(GONE_AFTER);
        let (now, replicas) = self.call(&call).await?;
        Ok((Stamp(now), replicas))
    }

    /// Tells this replica from others, and from its own earlier runs.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it answers to these commands.
    pub(crate) async fn ask<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RedisError> {
        commands.query_async(&mut self.connected()?).await
    }

    async fn call<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        call.invoke_async(&mut self.connected()?).await
    }

    fn connected(&self) -> Result<MultiplexedConnection, RedisError> {
        let connection = self.connection.lock().clone();
        connection.ok_or_else(|| RedisError::from((redis::ErrorKind::Io, "there is no connection")))
    }
}

/// All windows of a tenant are in one place of a cluster: what stands in braces decides where.
fn key(Scope { tenant, model }: &Scope) -> String {
    format!("streamgauge:tpm:{{{}}}:{model}", escaped(tenant))
}

/// A name that can stand in braces.
pub(crate) fn escaped(tenant: &Name) -> String {
    tenant.as_str().replace('%', "%25").replace('{', "%7B").replace('}', "%7D")
}

fn window(counts: &[u64]) -> Window {
    Window::of(counts.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenants_name_reaches_another_ones_window() {
        let key = |tenant, model| key(&Scope { tenant: Name::from(tenant), model: Name::from(model) });
        assert_eq!(key("a", "*"), "streamgauge:tpm:{a}:*");
        assert_eq!(key("a}:m{%7D", "m"), "streamgauge:tpm:{a%7D:m%7B%257D}:m");
    }
}
