//! An issuer's keys are fetched beside the traffic: when, what is kept when they do not come, what a reload keeps.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use streamgauge::clock::{Clock, Moment};
use streamgauge::config::Config;
use streamgauge::jwks::Keyring;
use streamgauge::live::LiveTable;
use streamgauge::sinks::metrics::{Format, Metrics};
use streamgauge::vitals::Vitals;
use tokio::runtime::Handle;

use super::harness::{Upstream, Wire};

const URL: &str = "https://issuer.example/keys?token=secret";

/// A sidecar's keyring, and the issuer that it asks.
struct World {
    keyring: Keyring,
    config: Config,
    clock: Clock,
    metrics: Metrics,
    issuer: Upstream,
}

fn config(url: &str, claim: &str) -> Config {
    let way = format!("{{jwt_claim: {{claim: {claim}, jwks: '{url}'}}}}");
    Config::parse(&format!("upstream: http://u:1\ntenants: {{identify: [{way}]}}\n"), &[]).unwrap()
}

impl World {
    fn start() -> Self {
        let (dial, issuer) = Upstream::dial();
        let config = config(URL, "org");
        let (clock, vitals) = (Clock::start(), Arc::<Vitals>::default());
        let clock = clock.with_wall(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let metrics = Metrics::new(&config, Arc::clone(&vitals), Arc::<LiveTable>::default(), clock).unwrap();
        let keyring = Keyring::new(dial, clock, vitals, Handle::current());
        let mut world = Self { keyring, config: config.clone(), clock, metrics, issuer };
        world.reload(config);
        world
    }

    fn reload(&mut self, config: Config) {
        self.keyring.apply(self.keyring.prepare(&config.tenants).unwrap());
        self.config = config;
    }

    /// The next time that keys are asked for: when, and over which connection.
    async fn asked(&mut self) -> (Duration, Wire) {
        let next = tokio::time::timeout(Duration::from_secs(100_000), self.issuer.accept_ever()).await;
        let mut wire = next.expect("nobody asks for keys");
        let head = wire.read_head().await;
        assert!(head.starts_with("GET /keys?token=secret HTTP/1.1\r\n"), "{head}");
        assert!(head.to_ascii_lowercase().contains("host: issuer.example\r\n"), "{head}");
        (self.clock.now().since(Moment::default()), wire)
    }

    /// Answers the next time; gives when that was.
    async fn answer(&mut self, answer: &str) -> Duration {
        let (at, mut wire) = self.asked().await;
        wire.write(answer).await;
        wire.closes_within(Duration::from_millis(1)).await;
        at
    }

    /// Whose a token of this key is.
    fn tenant(&self, kid: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {}", token(kid)).parse().unwrap());
        let tenants = &self.config.tenants;
        tenants.resolve(&"/".parse().unwrap(), &headers, || SystemTime::UNIX_EPOCH).to_string()
    }

    fn value(&self, name: &str) -> Option<f64> {
        let page = String::from_utf8(self.metrics.render(Format::Text004)).unwrap();
        assert!(!page.contains("secret"), "{page}");
        let sample = format!("streamgauge_jwks_{name}{{url=\"https://issuer.example/keys\"}} ");
        page.lines().find_map(|line| line.strip_prefix(sample.as_str())?.parse().ok())
    }
}

/// Signed with the first test key of RFC 8032, whatever it calls it.
fn token(kid: &str) -> String {
    let seed =
        "302e020100300506032b6570042204209d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let pairs = seed.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    let der: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
    encode(&header, &json!({"org": "acme", "team": "search"}), &EncodingKey::from_ed_der(&der)).unwrap()
}

fn keys(kid: &str, more: &str) -> String {
    let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let body = json!({ "keys": [key] }).to_string();
    format!("HTTP/1.1 200 OK\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Whether something came after so much time, or up to a tenth and a second later.
fn check_after(took: Duration, seconds: u64) {
    let least = Duration::from_secs(seconds);
    let most = least * 11 / 10 + Duration::from_secs(2);
    assert!(took >= least && took <= most, "{took:?} instead of {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_at_the_start_and_as_often_as_the_issuer_says() {
    let mut world = World::start();
    assert_eq!(world.value("last_fetch_success_timestamp_seconds"), Some(0.0));
    assert_eq!(world.tenant("k1"), "anonymous");
    let mut last = world.answer(&keys("k1", "")).await;
    assert!(last < Duration::from_secs(1), "{last:?}");
    assert_eq!(world.tenant("k1"), "acme");
    for (max_age, seconds) in [("", 300), ("max-age=5", 60), ("max-age=7200", 7200), ("no-cache", 300)] {
        let header = if max_age.is_empty() { String::new() } else { format!("Cache-Control: {max_age}\r\n") };
        let at = world.answer(&keys("k1", &header)).await;
        // What the answer before this one said.
        last = at;
        let next = world.answer(&keys("k1", "")).await;
        check_after(next.saturating_sub(last), seconds);
    }
    let fetched = world.value("last_fetch_success_timestamp_seconds").unwrap() - 1_800_000_000.0;
    assert!(fetched > last.as_secs_f64(), "{fetched}");
    assert_eq!(world.value("fetch_failures_total"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_new_key_has_the_keys_fetched_but_not_by_every_token() {
    let mut world = World::start();
    let first = world.answer(&keys("k1", "")).await;
    assert_eq!((world.tenant("k2").as_str(), world.tenant("k1").as_str()), ("anonymous", "acme"));
    let second = world.answer(&keys("k1", "")).await;
    let pause = second.saturating_sub(first);
    assert!(pause >= Duration::from_secs(30) && pause < Duration::from_secs(32), "{pause:?}");
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(!world.issuer.has_more(), "nobody asked for another key meanwhile");
    assert_eq!(world.tenant("k2"), "anonymous", "remembered, but asked for again");
    let asked = world.clock.now().since(Moment::default());
    let third = world.answer(&keys("k2", "")).await;
    assert!(third.saturating_sub(asked) < Duration::from_secs(2), "{third:?}");
    assert_eq!((world.tenant("k2").as_str(), world.tenant("k1").as_str()), ("acme", "anonymous"));
}

#[tokio::test(start_paused = true)]
async fn what_brings_no_keys_is_counted_and_those_that_are_here_stay() {
    let mut world = World::start();
    world.answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((world.tenant("k1").as_str(), world.value("fetch_failures_total")), ("anonymous", Some(1.0)));
    let mut last = world.answer(&keys("k1", "")).await;
    let long = "x".repeat(1 << 20);
    let kid_of_next = keys("k2", "");
    let wrong = [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        kid_of_next.replace("200 OK", "203 Non-Authoritative Information"),
        "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html/>".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"keys\":[]}".to_owned(),
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{long} ", long.len() + 1),
        kid_of_next.replace("Content-Length: ", "Content-Length: 9"),
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_owned(), // and then nothing
        "nonsense\r\n\r\n".to_owned(),
    ];
    // Twice as long after each, up to five minutes.
    let pauses = [300, 10, 20, 40, 80, 160, 300, 300, 300];
    for (place, (answer, pause)) in wrong.iter().zip(pauses).enumerate() {
        let (at, mut wire) = world.asked().await;
        check_after(at.saturating_sub(last), pause);
        wire.write(answer).await;
        // Nobody waits longer than ten seconds for the rest.
        assert!(wire.closes_within(Duration::from_secs(12)).await, "{answer}");
        last = world.clock.now().since(Moment::default());
        assert_eq!(world.tenant("k1"), "acme", "{answer}");
        assert_eq!(world.value("fetch_failures_total"), Some((place + 2) as f64), "{answer}");
    }
    world.answer(&kid_of_next).await;
    assert_eq!(world.tenant("k2"), "acme");
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_the_keys_of_a_url_that_stays() {
    let mut world = World::start();
    let first = world.answer(&keys("k1", "")).await;
    world.reload(config(URL, "team"));
    assert_eq!(world.tenant("k1"), "search", "without a fetch");
    let second = world.answer(&keys("k2", "")).await;
    check_after(second.saturating_sub(first), 300);
    assert_eq!(world.tenant("k2"), "search", "who waits now is told");
    world.reload(config("https://other.example/keys", "team"));
    assert_eq!((world.tenant("k2").as_str(), world.value("fetch_failures_total")), ("anonymous", None));
    let mut other = world.issuer.accept().await;
    assert!(other.read_head().await.contains("other.example"));
    other.write(keys("k2", "Cache-Control: max-age=86400\r\n")).await;
    tokio::time::sleep(Duration::from_secs(1200)).await;
    assert!(!world.issuer.has_more(), "the first URL is asked no more");
    assert_eq!(world.tenant("k2"), "search");
}
