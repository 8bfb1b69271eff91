//! Fetches the keys of who issues tokens, on the accounts plane and never while a request waits: at the start, again and
//! again, and sooner when a token names a key that is not there. What a set means is `account::jwks`'s to say.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AGE, CACHE_CONTROL, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::account::jwks::{Fetched, KeySet};
use crate::account::tenant::Tenants;
use crate::clock::Clock;
use crate::config::{Target, Transport, UpstreamTls};
use crate::exchange::Name;
use crate::proxy::{Connector, Dial, TlsError, chain};
use crate::vitals::{JwksVitals, Vitals};

/// How long a set is good where the answer does not say. Issuers show a new key hours before they sign with it.
const REFRESH: Duration = Duration::from_secs(5 * 60);

/// What an answer's `max-age` may say: no issuer is asked more often, and a key that was withdrawn is not believed longer.
const REFRESH_BOUNDS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));

/// The pause after a failure; it doubles up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(10);

/// The pause before a token of an unknown key may cause a fetch: anybody can make up keys' names.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(30);

/// How often it is looked whether such a token came.
const LOOK: Duration = Duration::from_secs(1);

/// For a whole fetch, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer: a hundred times a set of ten keys with their certificates.
const BODY_LIMIT: usize = 1 << 20;

/// Everything that is fetched.
#[derive(Debug)]
pub struct Keyring {
    dial: Dial,
    clock: Clock,
    vitals: Arc<Vitals>,
    runtime: Handle,
    running: Mutex<Vec<Running>>,
}

#[derive(Debug)]
struct Running {
    source: Arc<Source>,
    /// It ends with this.
    _task: AbortOnDropHandle<()>,
}

/// A URL, and everybody who waits for what is there.
#[derive(Debug)]
struct Source {
    url: Uri,
    ca: Option<PathBuf>,
    label: Name,
    vitals: Arc<JwksVitals>,
    clock: Clock,
    /// What a reload replaces.
    way: Mutex<Way>,
}

#[derive(Debug)]
struct Way {
    http: Http,
    holders: Vec<Arc<Fetched>>,
}

type Http = Client<Connector, Empty<Bytes>>;

/// What a configuration has fetched, ready to begin.
#[derive(Debug)]
pub struct Ready(Vec<Way>);

/// Keys that cannot be fetched as configured.
#[derive(Debug, thiserror::Error)]
#[error("the keys at {url}: {error}")]
pub struct KeysError {
    url: Name,
    error: TlsError,
}

/// Why a fetch brought no keys.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer after {TIMEOUT:?}")]
    TimedOut,
    #[error("no answer: {0}")]
    NoAnswer(String),
    #[error("the answer is a redirect ({0}), which is not followed; configure the URL that has the keys")]
    Redirected(StatusCode),
    #[error("the answer is {0}")]
    Refused(StatusCode),
    #[error("the answer is longer than {BODY_LIMIT} bytes")]
    TooLong,
    #[error("the answer broke off")]
    Broken,
    #[error("the answer {0}")]
    Unusable(String),
}

impl Ready {
    /// What these tenants have fetched.
    ///
    /// # Errors
    /// A file named for TLS cannot be read or used.
    pub fn new(tenants: &Tenants, dial: &Dial, clock: Clock) -> Result<Self, KeysError> {
        let mut ways: Vec<Way> = Vec::new();
        for keys in tenants.to_fetch() {
            if let Some(way) = ways.iter_mut().find(|way| way.is_to(&keys.url, keys.ca.as_ref())) {
                way.holders.push(Arc::clone(keys));
                continue;
            }
            let http = client(keys, dial, clock).map_err(|error| KeysError { url: keys.label(), error })?;
            ways.push(Way { http, holders: vec![Arc::clone(keys)] });
        }
        Ok(Self(ways))
    }
}

fn client(keys: &Fetched, dial: &Dial, clock: Clock) -> Result<Http, TlsError> {
    let is_secure = keys.url.scheme_str() == Some("https");
    let host = keys.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = keys.url.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let target = Target {
        transport: Transport::Tcp { host: host.to_owned(), port },
        authority: keys.url.authority().cloned().ok_or_else(|| TlsError::Name(host.to_owned()))?,
        tls: is_secure.then(|| UpstreamTls { ca: keys.ca.clone(), ..UpstreamTls::default() }),
        http2: false,
    };
    let connector = Connector::new(dial.clone(), &target, TIMEOUT, clock)?;
    let mut client = Client::builder(TokioExecutor::new());
    Ok(client.timer(TokioTimer::new()).pool_max_idle_per_host(0).build(connector))
}

impl Keyring {
    /// Fetches nothing yet; what it will, it does on `runtime`.
    pub fn new(dial: Dial, clock: Clock, vitals: Arc<Vitals>, runtime: Handle) -> Self {
        Self { dial, clock, vitals, runtime, running: Mutex::default() }
    }

    /// Makes what these tenants have fetched ready; nothing changes yet.
    ///
    /// # Errors
    /// A file named for TLS cannot be read or used.
    pub fn prepare(&self, tenants: &Tenants) -> Result<Ready, KeysError> {
        Ready::new(tenants, &self.dial, self.clock)
    }

    /// Fetches this from now on and nothing else. A set that is here already is handed over.
    pub fn apply(&self, ready: Ready) {
        let mut running = self.running.lock();
        let labels: Vec<Name> = ready.0.iter().map(Way::label).collect();
        let vitals = self.vitals.jwks_at(&labels);
        let mut kept = Vec::with_capacity(ready.0.len());
        for ((way, label), vitals) in ready.0.into_iter().zip(labels).zip(vitals) {
            let same = |running: &Running| way.is_to(&running.source.url, running.source.ca.as_ref());
            if let Some(at) = running.iter().position(same) {
                let before = running.swap_remove(at);
                before.source.replace(way);
                kept.push(before);
                continue;
            }
            let Some(first) = way.holders.first() else { continue };
            let (url, ca, clock) = (first.url.clone(), first.ca.clone(), self.clock);
            let source = Arc::new(Source { url, ca, label, vitals, clock, way: Mutex::new(way) });
            let task = self.runtime.spawn(Arc::clone(&source).run());
            kept.push(Running { source, _task: AbortOnDropHandle::new(task) });
        }
        *running = kept;
    }
}

impl Way {
    fn is_to(&self, url: &Uri, ca: Option<&PathBuf>) -> bool {
        self.holders.first().is_some_and(|holder| holder.url == *url && holder.ca.as_ref() == ca)
    }

    fn label(&self) -> Name {
        self.holders.first().map_or_else(|| Name::from(""), |holder| holder.label())
    }

    fn set(&self) -> Option<Arc<KeySet>> {
        self.holders.first().and_then(|holder| holder.set())
    }

    fn publish(&self, set: Option<&Arc<KeySet>>) {
        self.holders.iter().for_each(|holder| holder.publish(set.cloned()));
    }
}

impl Source {
    async fn run(self: Arc<Self>) {
        tracing::info!(url = %self.label, "fetching keys; until they are here, no token names its tenant");
        let mut failed: u32 = 0;
        loop {
            self.take_wanted(); // what is asked for until now, this fetch answers
            let fetched = tokio::time::timeout(TIMEOUT, self.fetch()).await;
            let pause = match fetched.unwrap_or(Err(Failure::TimedOut)) {
                Ok((set, good_for)) => {
                    self.fetched(set, std::mem::take(&mut failed));
                    good_for
                }
                Err(failure) => {
                    self.failed(&failure, failed == 0);
                    let pause = RETRY.saturating_mul(1 << failed.min(8)).min(REFRESH);
                    failed = failed.saturating_add(1);
                    pause
                }
            };
            self.pause(jittered(pause)).await;
        }
    }

    async fn fetch(&self) -> Result<(KeySet, Duration), Failure> {
        let request = Request::get(&self.url)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("streamgauge/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| Failure::NoAnswer(error.to_string()))?;
        let http = self.way.lock().http.clone();
        let response = http.request(request).await.map_err(|error| Failure::NoAnswer(chain(&error)))?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => return Err(Failure::Redirected(status)),
            status => return Err(Failure::Refused(status)),
        }
        let good_for = good_for(response.headers());
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { Failure::TooLong } else { Failure::Broken }
        })?;
        let set = KeySet::parse(&body.to_bytes()).map_err(Failure::Unusable)?;
        Ok((set, good_for))
    }

    /// Publishes a set where it is another one, and says what has changed.
    fn fetched(&self, set: KeySet, failed_before: u32) {
        let keys = set.count();
        let way = self.way.lock();
        let before = way.set();
        let is_other = before.as_deref() != Some(&set);
        if is_other {
            way.publish(Some(&Arc::new(set)));
        }
        drop(way);
        self.vitals.fetched(self.clock.wall(self.clock.now()));
        match before {
            None => tracing::info!(url = %self.label, keys, "keys are here"),
            Some(_) if is_other => tracing::info!(url = %self.label, keys, "the keys have changed"),
            Some(_) if failed_before > 0 => {
                tracing::info!(url = %self.label, keys, failed_before, "keys can be fetched again");
            }
            Some(_) => {}
        }
    }

    /// Counts a failure, and tells the first of several in a row.
    fn failed(&self, failure: &Failure, is_first: bool) {
        self.vitals.failures.add_one();
        if !is_first {
            tracing::debug!(url = %self.label, "could not fetch keys: {failure}");
        } else if self.way.lock().set().is_some() {
            tracing::warn!(url = %self.label, "could not fetch keys, those that are here stay: {failure}");
        } else {
            tracing::warn!(url = %self.label, "could not fetch keys, so no token names its tenant: {failure}");
        }
    }

    /// Waits until it is time for the next fetch, or a token asks for it.
    async fn pause(&self, pause: Duration) {
        let mut waited = Duration::ZERO;
        while waited < pause {
            let step = LOOK.min(pause.saturating_sub(waited));
            tokio::time::sleep(step).await;
            waited += step;
            if waited >= UNKNOWN_KEY_PAUSE && self.take_wanted() {
                return;
            }
        }
    }

    fn take_wanted(&self) -> bool {
        let way = self.way.lock();
        way.holders.iter().filter(|holder| holder.take_wanted()).count() > 0 // asks all of them
    }

    /// Takes what a reload has made, and gives it the set that is here.
    fn replace(&self, way: Way) {
        let mut before = self.way.lock();
        way.publish(before.set().as_ref());
        *before = way;
    }
}

/// How long an answer's keys are good.
fn good_for(headers: &HeaderMap) -> Duration {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
    let max_age = directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let is_max_age = name.trim().eq_ignore_ascii_case("max-age");
        is_max_age.then(|| value.trim().trim_matches('"').parse::<u64>().ok())?
    });
    let age = headers.get(AGE).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    let (least, most) = REFRESH_BOUNDS;
    let left = |max_age: u64| Duration::from_secs(max_age.saturating_sub(age.unwrap_or_default()));
    max_age.map_or(REFRESH, |max_age| left(max_age).clamp(least, most))
}

/// Up to a tenth more, so that many sidecars do not ask at once.
fn jittered(pause: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    pause + pause.mul_f64(chance / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_long_its_keys_are_good_within_bounds() {
        let of = |lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|(name, value)| {
                headers.append(*name, value.parse().unwrap());
            });
            good_for(&headers).as_secs()
        };
        for (cache, seconds) in [
            ("max-age=600", 600),
            ("public, max-age=600, must-revalidate", 600),
            ("Max-Age=\"600\"", 600),
            ("s-maxage=9999", 300),
            ("max-age=0", 60),
            ("no-store", 300),
            ("max-age=31536000", 86_400),
            ("max-age=99999999999999999999999", 300),
            ("max-age", 300),
        ] {
            assert_eq!(of(&[("cache-control", cache)]), seconds, "{cache}");
        }
        assert_eq!(of(&[]), 300);
        assert_eq!(of(&[("cache-control", "max-age=600"), ("age", "400")]), 200);
        assert_eq!(of(&[("cache-control", "public"), ("cache-control", "max-age=900")]), 900);
    }

    #[test]
    fn a_pause_is_drawn_out_by_a_tenth_at_most() {
        let pauses: Vec<Duration> = (0..100).map(|_| jittered(REFRESH)).collect();
        assert!(pauses.iter().all(|pause| *pause >= REFRESH && *pause <= REFRESH * 11 / 10), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
