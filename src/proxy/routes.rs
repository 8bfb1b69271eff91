//! Which upstream has which request, and by which names an exchange is found again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, Request};

use super::connect::Dial;
use super::upstream::Upstream;
use super::{headers, tls};
use crate::clock::Clock;
use crate::config::{Config, NO_UPSTREAM};
use crate::exchange::Name;
use crate::vitals::Vitals;

/// The upstreams, and the configuration that they come from.
#[derive(Debug)]
pub struct Routes {
    /// The configuration of every exchange that begins now.
    pub config: Arc<Config>,
    upstreams: Vec<Arc<Upstream>>,
    dial: Dial,
}

/// An upstream whose settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("upstream `{name}`: {error}")]
pub struct UpstreamError {
    name: Name,
    error: tls::Error,
}

impl Routes {
    /// The upstreams of a configuration.
    ///
    /// # Errors
    /// An upstream's TLS settings cannot be used.
    pub fn new(config: Config, vitals: &Vitals, clock: Clock, dial: Dial) -> Result<Self, UpstreamError> {
        Self { config: Arc::new(config.clone()), upstreams: Vec::new(), dial }
            .changed_to(config, vitals, clock)
    }

    /// The upstreams of another configuration. What did not change keeps its connections, and is asked for usage again
    /// where it has refused that.
    ///
    /// # Errors
    /// An upstream's TLS settings cannot be used.
    pub fn changed_to(&self, config: Config, vitals: &Vitals, clock: Clock) -> Result<Self, UpstreamError> {
        let mut upstreams = Vec::with_capacity(config.upstreams.len());
        for settings in &config.upstreams {
            // TLS files may have changed behind the same settings.
            let same =
                |upstream: &&Arc<Upstream>| upstream.settings == *settings && settings.target.tls.is_none();
            upstreams.push(match self.upstreams.iter().find(same) {
                Some(upstream) => Arc::clone(upstream),
                None => Arc::new(
                    Upstream::new(settings.clone(), vitals, clock, self.dial.clone())
                        .map_err(|error| UpstreamError { name: settings.name.clone(), error })?,
                ),
            });
        }
        upstreams.iter().for_each(|upstream| upstream.forget_refusal());
        Ok(Self { config: Arc::new(config), upstreams, dial: self.dial.clone() })
    }

    /// The upstream of a request: of those that match, the one with the longest path prefix, then one that
    /// names the host.
    pub(super) fn find<B>(&self, request: &Request<B>) -> Option<Arc<Upstream>> {
        if request.method() == http::Method::CONNECT {
            return None;
        }
        let path = request.uri().path();
        let host = headers::host(request.uri(), request.headers()).map(without_port);
        let matching = |upstream: &&Arc<Upstream>| {
            let route = &upstream.settings.route;
            let is_host = |want: &str| host.is_some_and(|host| host.eq_ignore_ascii_case(want));
            route.host.as_deref().is_none_or(is_host) && has_prefix(path, &route.path_prefix)
        };
        let weight = |upstream: &&Arc<Upstream>| {
            let route = &upstream.settings.route;
            (route.path_prefix.len(), route.host.is_some())
        };
        self.upstreams.iter().filter(matching).max_by_key(weight).cloned()
    }
}

/// The name of the upstream of an exchange.
pub(super) fn name(upstream: Option<&Upstream>) -> Name {
    upstream.map_or_else(|| Name::from(NO_UPSTREAM), |upstream| upstream.settings.name.clone())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a path begins with a prefix, at a segment's border.
fn has_prefix(path: &str, prefix: &str) -> bool {
    if prefix == "/" {
        return true;
    }
    let rest = path.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const ID_LIMIT: usize = 128; // a longer id of a client is replaced by ours: cut, it would name another one

/// Makes request ids.
#[derive(Debug)]
pub(super) struct RequestIds {
    seed: u64,
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self { seed: RandomState::new().build_hasher().finish(), next: AtomicU64::new(0) }
    }
}

impl RequestIds {
    /// The client's `x-request-id` where it has one that can stand in a log, else one of ours.
    pub(super) fn of(&self, headers: &HeaderMap) -> Name {
        let sent = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        match sent.filter(|id| !id.is_empty() && id.len() <= ID_LIMIT) {
            Some(id) => Name::from(id),
            None => own(self.next()),
        }
    }

    /// A number that no other call gives, and other processes hardly: SplitMix64, a permutation of the counter.
    fn next(&self) -> u64 {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut z = self.seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// An id of ours.
fn own(number: u64) -> Name {
    let mut id = *b"sg-0123456789abcdef";
    for (place, byte) in id.iter_mut().skip(3).enumerate() {
        let digit = (number >> (60 - 4 * place)) as u8 & 0xF;
        *byte = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
    }
    Name::from(std::str::from_utf8(&id).unwrap_or_default())
}

/// The trace that a W3C `traceparent` names: `00-<32 hex>-<16 hex>-<2 hex>`, not all zero.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<Name> {
    let mut parts = headers.get(TRACEPARENT)?.to_str().ok()?.split('-');
    let (_version, trace) = (parts.next()?, parts.next()?);
    let is_id = trace.len() == 32
        && trace.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && trace.bytes().any(|byte| byte != b'0');
    is_id.then(|| Name::from(trace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(upstreams: &str, target: &str, host: &str) -> Option<String> {
        let config = Config::parse(&format!("upstreams:\n{upstreams}"), &[]).unwrap();
        let routes = Routes::new(config, &Vitals::default(), Clock::start(), Dial::Network).unwrap();
        let request = Request::builder().uri(target).header("host", host).body(()).unwrap();
        routes.find(&request).map(|upstream| upstream.settings.name.to_string())
    }

    #[tokio::test]
    async fn the_longest_prefix_wins_at_a_segments_border() {
        let two =
            "  - {name: all, url: http://h:1}\n  - {name: v1, url: http://h:2, match: {path_prefix: /v1}}\n";
        for (target, want) in
            [("/v1", "v1"), ("/v1/models", "v1"), ("/v10/models", "all"), ("/", "all"), ("*", "all")]
        {
            assert_eq!(find(two, target, "x").as_deref(), Some(want), "{target}");
        }
        let one = "  - {name: v1, url: http://h:2, match: {path_prefix: /v1/}}\n";
        assert_eq!(find(one, "/v2", "x"), None);
        assert_eq!(find(one, "*", "x"), None);
    }

    #[tokio::test]
    async fn a_host_narrows_a_route() {
        let two =
            "  - {name: all, url: http://h:1}\n  - {name: a, url: http://h:2, match: {host: A.example}}\n";
        for (host, want) in [("a.example", "a"), ("A.EXAMPLE:8080", "a"), ("b.example", "all")] {
            assert_eq!(find(two, "/v1", host).as_deref(), Some(want), "{host}");
        }
        assert_eq!(find(two, "http://a.example/v1", "b.example").as_deref(), Some("a"));
    }

    #[test]
    fn a_clients_request_id_is_kept_and_ours_differ() {
        let ids = RequestIds::default();
        let mut headers = HeaderMap::new();
        assert_ne!(ids.of(&headers), ids.of(&headers));
        assert_eq!(own(0x0123_4567_89ab_cdef).as_str(), "sg-0123456789abcdef");
        headers.insert("x-request-id", http::HeaderValue::from_static("mine"));
        assert_eq!(ids.of(&headers).as_str(), "mine");
    }

    #[test]
    fn a_trace_is_read_from_a_valid_traceparent_only() {
        let trace = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", http::HeaderValue::from_static(value));
            trace_id(&headers).map(|id| id.to_string())
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").as_deref(), Some(id));
        assert_eq!(trace("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), None);
        assert_eq!(trace("00-4BF9-00f067aa0ba902b7-01"), None);
    }
}
