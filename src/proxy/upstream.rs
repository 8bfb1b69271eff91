//! The pooled client of one upstream.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;

use super::connect::{Connector, Dial};
use super::tap::RequestTap;
use super::{HEAD_LIMIT, HEADERS_LIMIT, headers, tls};
use crate::clock::Clock;
use crate::config::{self, HostHeader};
use crate::vitals::{UpstreamVitals, Vitals};

const IDLE_CONNECTIONS: usize = 256; // kept without a request; more than a burst of streams leaves behind

/// Streams on one HTTP/2 connection before another one is opened: servers allow 100 or more, and a stream
/// beyond what a server allows would wait behind the others without anybody seeing it.
const STREAMS_PER_CONNECTION: usize = 100;

const CONNECTIONS: usize = 64; // of HTTP/2 to one upstream; beyond 6,400 streams they share

/// Hosts that clients address one HTTP/2 upstream by. The pool has a connection for each, and clients choose
/// the names: beyond the limit the upstream's own is used.
const HOSTS: usize = 64;

/// One upstream, ready to be sent to.
#[derive(Debug)]
pub(super) struct Upstream {
    /// What was configured.
    pub(super) settings: config::Upstream,
    pub(super) vitals: Arc<UpstreamVitals>,
    connector: Connector,
    /// HTTP/1 needs one client. Of HTTP/2 a client has one connection, so there are several.
    lanes: Mutex<Vec<Lane>>,
    hosts: Mutex<HashSet<Authority>>,
}

type Pool = Client<Connector, RequestTap>;

#[derive(Debug)]
struct Lane {
    pool: Pool,
    /// One clone per request on its way.
    load: Arc<()>,
}

/// Holds a request's place on its connection until the answer is over.
pub(super) type Load = Arc<()>;

impl Upstream {
    /// An upstream as configured.
    ///
    /// # Errors
    /// A file named for TLS cannot be read or used.
    pub(super) fn new(
        settings: config::Upstream,
        vitals: &Vitals,
        clock: Clock,
        dial: Dial,
    ) -> Result<Self, tls::Error> {
        let connector = Connector::new(dial, &settings.target, settings.connect_timeout, clock)?;
        Ok(Self {
            vitals: vitals.upstream(&settings.name),
            connector,
            lanes: Mutex::default(),
            hosts: Mutex::default(),
            settings,
        })
    }

    /// Sends a request whose head is the client's. One that was not sent on a connection that turned out dead
    /// is sent again by the pool; one of which a byte went out never is.
    pub(super) fn send(
        &self,
        request: Request<RequestTap>,
        upgrade: bool,
    ) -> impl Future<Output = Result<(Response<Incoming>, Load), ClientError>> + use<> {
        let to_http2 = self.settings.target.http2;
        let (pool, load) = self.lane();
        let (mut head, body) = request.into_parts();
        headers::set_host(&mut head, self.settings.host, &self.settings.target.authority);
        head.uri = self.uri(&head.uri, &head.headers);
        headers::prepare_request(&mut head, upgrade, to_http2);
        if to_http2 {
            head.headers.remove(http::header::HOST); // `:authority` says it
        }
        let sending = pool.request(Request::from_parts(head, body));
        async move { Ok((sending.await?, load)) }
    }

    /// The client's path at this upstream. The host in it is the pool's key, and over HTTP/2 what the
    /// upstream is addressed by; the connector does not look at it.
    fn uri(&self, target: &Uri, headers: &HeaderMap) -> Uri {
        let own = &self.settings.target.authority;
        let has_authority = self.settings.target.http2 || self.settings.target.tls.is_some();
        let clients = (has_authority && self.settings.host == HostHeader::Preserve).then(|| {
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
        let mut hosts = self.hosts.lock();
        if !hosts.contains(&host) && hosts.len() >= HOSTS {
            return None;
        }
        hosts.insert(host.clone());
        Some(host)
    }

    /// The least loaded connection that has room, or a new one.
    fn lane(&self) -> (Pool, Load) {
        let mut lanes = self.lanes.lock();
        let load = |lane: &Lane| Arc::strong_count(&lane.load) - 1;
        let may_multiplex = self.settings.target.http2 || self.settings.target.tls.is_some();
        let has_room = |lane: &Lane| !may_multiplex || load(lane) < STREAMS_PER_CONNECTION;
        // The first with room, so that few are in use and the others idle out.
        let found = lanes.iter().position(has_room);
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
            .http1_max_headers(HEADERS_LIMIT)
            .http2_only(self.settings.target.http2)
            .http2_max_header_list_size(HEAD_LIMIT)
            .build(self.connector.clone())
    }
}
