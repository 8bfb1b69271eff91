//! Connections to one upstream that several exchanges share: HTTP/2, or whatever TLS agrees on. A client of the
//! library has one connection of HTTP/2, so there are several clients.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;

use super::connect::Connector;
use super::upload::RequestTap;
use super::{HEAD_LIMIT, headers};
use crate::clock::{Clock, Moment};
use crate::config::{self, HostHeader};

/// Streams on one connection before another one is opened: servers allow 100 or more, and a stream beyond what
/// a server allows would wait behind the others without anybody seeing it.
const STREAMS_PER_CONNECTION: usize = 100;

const CONNECTIONS: usize = 64; // beyond 6,400 streams they share

const IDLE_CONNECTIONS: usize = 256; // of HTTP/1, where TLS agrees on that

/// Hosts that clients address one upstream by. The library keeps a connection for each, and clients choose the
/// names: beyond the limit the upstream's own is used, until one has not been addressed for [`HOST_IDLE`].
const HOSTS: usize = 64;
const HOST_IDLE: Duration = Duration::from_secs(60);

/// The connections of one upstream.
#[derive(Debug)]
pub(super) struct Lanes {
    connector: Connector,
    settings: config::Upstream,
    clock: Clock,
    lanes: Mutex<Vec<Lane>>,
    hosts: Mutex<HashMap<Authority, Moment>>,
}

type Pool = Client<Connector, RequestTap>;

#[derive(Debug)]
struct Lane {
    pool: Pool,
    /// One clone per request on its way.
    load: Load,
}

/// Holds a request's place on its connection until the answer is over.
pub(super) type Load = Arc<()>;

impl Lanes {
    pub(super) fn new(connector: Connector, settings: &config::Upstream, clock: Clock) -> Self {
        let settings = settings.clone();
        Self { connector, settings, clock, lanes: Mutex::default(), hosts: Mutex::default() }
    }

    /// Sends a request whose URI is from [`Lanes::uri`].
    pub(super) async fn send(
        &self,
        request: Request<RequestTap>,
    ) -> Result<(Response<Incoming>, Load), Error> {
        let (pool, load) = self.lane();
        Ok((pool.request(request).await?, load))
    }

    /// The client's path at this upstream. The host in it is what the upstream is addressed by; the connector
    /// does not look at it.
    pub(super) fn uri(&self, target: &Uri, headers: &HeaderMap) -> Uri {
        let own = &self.settings.target.authority;
        let clients = (self.settings.host == HostHeader::Preserve).then(|| {
            headers::host(target, headers).and_then(|host| self.admit(Authority::from_str(host).ok()?))
        });
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if self.settings.target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(clients.flatten().unwrap_or_else(|| own.clone()));
        parts.path_and_query =
            target.path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
        Uri::from_parts(parts).unwrap_or_default()
    }

    /// A host that clients address, while there are not too many of them.
    fn admit(&self, host: Authority) -> Option<Authority> {
        let now = self.clock.now();
        let mut hosts = self.hosts.lock();
        if !hosts.contains_key(&host) && hosts.len() >= HOSTS {
            hosts.retain(|_, used| now.since(*used) < HOST_IDLE);
            if hosts.len() >= HOSTS {
                tracing::debug!(upstream = %self.settings.name, "too many hosts, its own is used instead");
                return None;
            }
        }
        hosts.insert(host.clone(), now);
        Some(host)
    }

    /// The first connection that has room, so that few are in use and the others idle out; else a new one; else
    /// the least loaded.
    fn lane(&self) -> (Pool, Load) {
        let mut lanes = self.lanes.lock();
        let load = |lane: &Lane| Arc::strong_count(&lane.load) - 1;
        let found = lanes.iter().position(|lane| load(lane) < STREAMS_PER_CONNECTION);
        let at = found.or_else(|| {
            let full = lanes.len() >= CONNECTIONS;
            full.then(|| lanes.iter().enumerate().min_by_key(|(_, lane)| load(lane)).map(|(at, _)| at))?
        });
        if let Some(lane) = at.and_then(|at| lanes.get(at)) {
            return (lane.pool.clone(), Arc::clone(&lane.load));
        }
        let lane = Lane { pool: self.pool(), load: Arc::default() };
        let taken = (lane.pool.clone(), Arc::clone(&lane.load));
        lanes.push(lane);
        taken
    }

    fn pool(&self) -> Pool {
        Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.settings.pool_idle_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .set_host(false)
            .http1_preserve_header_case(true)
            .http2_only(self.settings.target.http2)
            .http2_max_header_list_size(HEAD_LIMIT)
            .build(self.connector.clone())
    }
}
