//! The place where replicas share their windows: Redis, or what speaks its protocol. One script decides, by that
//! server's clock. In a window each replica has fields of its own, so that what it charged can be told anew when the
//! server comes back, whether or not it has forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, Script, ScriptInvocation,
    ToRedisArgs,
};

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
    /// How many connections there have been.
    generation: AtomicU64,
    /// It answers, and knows what is charged here.
    is_up: AtomicBool,
    /// Tells this replica from others.
    name: String,
    reserve: Script,
    tell: Script,
    beat: Script,
}

/// What was asked for, and what there was.
pub(super) struct Reserved {
    pub(super) charged: bool,
    pub(super) now: Stamp,
    /// Before it was charged.
    pub(super) windows: Vec<Window>,
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
            generation: AtomicU64::new(0),
            is_up: AtomicBool::new(false),
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
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Tells a connection from those before it.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
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

    /// Charges tokens to these windows, if all have room, and what is ours has: `own` stands as `holds` does.
    pub(super) async fn reserve(
        &self,
        holds: &[Hold],
        own: &[Option<u64>],
        tokens: u64,
    ) -> Result<Reserved, RedisError> {
        let mut call = self.reserve.prepare_invoke();
        for hold in holds {
            call.key(key(&hold.scope));
        }
        call.arg(&self.name).arg(tokens).arg(LIFE);
        for (hold, own) in holds.iter().zip(own) {
            for limit in [hold.cap(1), *own] {
                call.arg(limit.map(|limit| limit.to_string()).unwrap_or_default());
            }
        }
        let (charged, now, windows): (u64, u64, Vec<Vec<u64>>) = self.call(&call).await?;
        let windows = windows.iter().map(|counts| window(counts)).collect();
        Ok(Reserved { charged: charged == 1, now: Stamp(now), windows })
    }

    /// Tells what was charged to a window and taken back since it was last told.
    pub(super) async fn add(
        &self,
        scope: &Scope,
        changes: &[(u64, i64)],
    ) -> Result<(Stamp, Window), RedisError> {
        self.tell(scope, "add", changes).await
    }

    /// Tells all that is charged to a window here.
    pub(super) async fn all(
        &self,
        scope: &Scope,
        charges: &[(u64, u64)],
    ) -> Result<(Stamp, Window), RedisError> {
        self.tell(scope, "all", charges).await
    }

    async fn tell<T: ToRedisArgs + Copy>(
        &self,
        scope: &Scope,
        what: &str,
        seconds: &[(u64, T)],
    ) -> Result<(Stamp, Window), RedisError> {
        let mut call = self.tell.key(key(scope));
        call.arg(&self.name).arg(LIFE).arg(what);
        for (second, tokens) in seconds {
            call.arg(*second).arg(*tokens);
        }
        let (now, counts): (u64, Vec<u64>) = self.call(&call).await?;
        Ok((Stamp(now), window(&counts)))
    }

    /// Says that this replica is there, and that all is told that was charged here; gives the time, and when each replica
    /// has last said so.
    pub(super) async fn beat(&self) -> Result<(Stamp, HashMap<String, Stamp>), RedisError> {
        let mut call = self.beat.key(REPLICAS);
        call.arg(&self.name).arg(GONE_AFTER);
        let (now, present): (u64, HashMap<String, u64>) = self.call(&call).await?;
        Ok((Stamp(now), present.into_iter().map(|(name, said)| (name, Stamp(said))).collect()))
    }

    /// This replica ends: nobody waits for it.
    pub(super) async fn leave(&self) -> Result<(), RedisError> {
        redis::cmd("ZREM").arg(REPLICAS).arg(&self.name).query_async(&mut self.connected()?).await
    }

    /// The server's time.
    pub(super) async fn time(&self) -> Result<Stamp, RedisError> {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut self.connected()?).await?;
        Ok(Stamp(seconds * 1000 + micros / 1000))
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
