//! The configuration, resolved: every value in it is right. [`file`] says what the YAML may hold and turns it
//! into this, or into an error that names key, line and column.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::account::model::Models;
use crate::account::tenant::Tenants;
use crate::exchange::Name;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where Prometheus and operators connect.
    pub admin: SocketAddr,
    /// How long running streams may go on after a signal to end.
    pub drain_timeout: Duration,
    /// How long `/metrics` stays up for one scrape begun after the last exchange was settled.
    pub final_scrape_wait: Duration,
    /// The inference servers.
    pub upstreams: Vec<Upstream>,
    /// Who asks.
    pub tenants: Tenants,
    /// Which models are known by name.
    pub models: Models,
    /// The exposition.
    pub metrics: Metrics,
    /// The log of exchanges.
    pub request_log: RequestLog,
    /// First 16 hex digits of a hash over the file's text: tells which configuration an exchange met.
    pub hash: Name,
}

/// The exposition's limits.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// How many models that are not configured get series of their own.
    pub model_limit: usize,
    /// After how long without a change a series is dropped.
    pub idle_series: Duration,
    /// Whether OpenMetrics answers carry exemplars.
    pub exemplars: bool,
    /// Bucket bounds that replace the built-in ones, by the histogram's name without prefix; ascending, finite.
    pub buckets: BTreeMap<String, Vec<f64>>,
}

/// One inference server.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name in labels.
    pub name: Name,
    /// Where it listens.
    pub target: Target,
    /// Which requests go to it.
    pub route: Route,
    /// Which `Host` it is sent.
    pub host: HostHeader,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long the answer's first body byte may take; no limit unless set.
    pub first_byte_timeout: Option<Duration>,
    /// How long the answer's body may stand still; no limit unless set.
    pub idle_timeout: Option<Duration>,
    /// How long a connection without a request is kept.
    pub pool_idle_timeout: Duration,
}

/// Where an upstream listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The way to it.
    pub transport: Transport,
    /// What its own URL has as authority (`host:port`); `localhost` for a unix socket.
    pub authority: http::uri::Authority,
    /// TLS, where the URL is https.
    pub tls: Option<UpstreamTls>,
    /// HTTP/2 without asking (h2c, or HTTP/2 over a unix socket).
    pub http2: bool,
}

/// The way to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A TCP connection to this host and port; the host is resolved at each connection.
    Tcp {
        /// A name or an address (without brackets).
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// TLS towards an upstream. What is not set: the system's roots, no client certificate, the URL's host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file of the roots to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of our own certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// The name that the upstream's certificate must have.
    pub server_name: Option<String>,
}

/// Which requests go to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Requests whose path begins so, at a segment's border; the longest prefix of all upstreams wins.
    pub path_prefix: String,
    /// And whose host is this (without port, lower case).
    pub host: Option<String>,
}

/// Which `Host` an upstream is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's.
    Preserve,
    /// The upstream's own.
    Upstream,
}

/// The log of exchanges.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestLog {
    /// Where it goes; none: nowhere.
    pub path: Option<LogPath>,
    /// The share of exchanges that are written, 0 to 1.
    pub sample: f64,
}

/// Where the request log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPath {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}
