//! Connections of HTTP/1 to one upstream, kept between requests.
//!
//! A connection is used again at once after an answer of declared length. After one that ends by chunks it
//! rests first: some servers (llama.cpp after each stream) promise to keep it and close it with the answer, and
//! a request sent into that close is lost.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use http::Request;
use hyper::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;

use super::connect::{Connector, Line};
use super::upload::RequestTap;
use super::upstream::{self, Answer, SendError, Sending};
use crate::clock::{Clock, Moment};

const IDLE_CONNECTIONS: usize = 256; // kept without a request; more than a burst of streams leaves behind

/// How long a connection rests after an answer without declared length. A close that goes with the answer
/// arrives within a round trip.
const REST: Duration = Duration::from_millis(50);

/// The connections of one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    idle_timeout: Duration,
    clock: Clock,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    idle: VecDeque<Idle>,
    /// A task closes those that nobody uses.
    is_tended: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Moment,
    /// When it may be used again.
    usable: Moment,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<RequestTap>,
    line: Line,
    /// Where it was made, and is driven.
    thread: ThreadId,
}

/// A connection that is in use. Kept for further requests when the answer has ended cleanly, closed with this
/// otherwise.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Weak<Pool>,
    connection: Connection,
    rests: bool,
}

impl Pool {
    pub(super) fn new(connector: Connector, idle_timeout: Duration, clock: Clock) -> Arc<Self> {
        Arc::new(Self { connector, idle_timeout, clock, kept: Mutex::default() })
    }

    /// Sends a request whose URI is a path. One that was not sent on a kept connection that turned out dead is
    /// sent again on another; one of which a byte went out never is.
    pub(super) fn send(self: Arc<Self>, mut request: Request<RequestTap>, now: Moment) -> Sending {
        let mut kept = self.take(now);
        // Boxed, so that it is gone once there is an answer: a stream that runs for minutes does not hold it.
        Box::pin(async move {
            loop {
                let is_kept = kept.is_some();
                let mut connection = match kept {
                    Some(connection) => connection,
                    // Rare and large.
                    None => Box::pin(self.connect()).await?,
                };
                match connection.sender.try_send_request(request).await {
                    Ok(response) => {
                        let rests = response.body().size_hint().exact().is_none();
                        let line = Some(connection.line.clone());
                        let lease = Lease { pool: Arc::downgrade(&self), connection, rests };
                        let lease = upstream::Lease::Http1(Box::new(lease));
                        return Ok(Answer { response, line, lease, injection: None });
                    }
                    Err(mut error) => match error.take_message() {
                        Some(unsent) if is_kept => {
                            request = unsent;
                            kept = self.take(self.clock.now());
                        }
                        _ => return Err(error.into_error().into()),
                    },
                }
            }
        })
    }

    /// The kept connection that was used last, of this thread's that may be used: each chunk from another's
    /// costs both threads a wake-up. Closed ones that are met on the way are dropped.
    fn take(&self, now: Moment) -> Option<Connection> {
        let here = thread::current().id();
        let mut kept = self.kept.lock();
        for at in (0..kept.idle.len()).rev() {
            let Some(idle) = kept.idle.get(at) else { continue };
            let connection = &idle.connection;
            if connection.sender.is_closed() {
                kept.idle.remove(at);
            } else if connection.thread == here
                && idle.usable <= now
                && self.is_young(idle, now)
                && connection.sender.is_ready()
            {
                return kept.idle.remove(at).map(|idle| idle.connection);
            }
        }
        None
    }

    fn is_young(&self, idle: &Idle, now: Moment) -> bool {
        now.since(idle.since) < self.idle_timeout
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let (io, line) = self.connector.connect().await?;
        let (mut sender, driver) = http1::Builder::new().preserve_header_case(true).handshake(io).await?;
        // Its end is told to whoever sends on it.
        TokioExecutor::new().execute(async move { drop(driver.with_upgrades().await) });
        sender.ready().await?;
        Ok(Connection { sender, line, thread: thread::current().id() })
    }

    fn keep(self: &Arc<Self>, connection: Connection, rests: bool, now: Moment) {
        let mut kept = self.kept.lock();
        while kept.idle.pop_front_if(|idle| !self.is_young(idle, now)).is_some() {} // the oldest come first
        if self.idle_timeout.is_zero() || connection.sender.is_closed() {
            return;
        }
        if kept.idle.len() >= IDLE_CONNECTIONS {
            kept.idle.retain(|idle| !idle.connection.sender.is_closed());
        }
        if kept.idle.len() >= IDLE_CONNECTIONS {
            kept.idle.pop_front(); // of a thread that has left them behind, maybe
        }
        let usable = if rests { now + REST } else { now };
        kept.idle.push_back(Idle { connection, since: now, usable });
        if !std::mem::replace(&mut kept.is_tended, true) {
            TokioExecutor::new().execute(close_idle(Arc::downgrade(self), self.idle_timeout));
        }
    }
}

/// Closes connections that nobody used in time, until none is kept.
async fn close_idle(pool: Weak<Pool>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = pool.clock.now();
        let mut kept = pool.kept.lock();
        kept.idle.retain(|idle| pool.is_young(idle, now) && !idle.connection.sender.is_closed());
        if kept.idle.is_empty() {
            kept.is_tended = false;
            return;
        }
    }
}

impl Lease {
    /// The answer has ended cleanly.
    pub(super) fn keep(self, now: Moment) {
        if let Some(pool) = self.pool.upgrade() {
            pool.keep(self.connection, self.rests, now);
        }
    }
}
