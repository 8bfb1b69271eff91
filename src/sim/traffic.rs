//! Tenants that send requests: what drives `demo`. Arrivals are random but repeatable by seed; each tenant has its
//! own rate, models and habits. Some clients hang up in the middle, as people do.
//!
//! Absent: retries, and any judgement of what comes back beyond whether it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::chance::{Chance, word};

/// What is sent, by whom and whereto.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Scheme and authority that requests go to, `http://127.0.0.1:8080`; no TLS.
    pub target: Uri,
    /// Who sends.
    pub tenants: Vec<TenantLoad>,
    /// How many requests may be open at once; arrivals beyond are held back and counted.
    pub concurrency: usize,
    /// After so many arrivals no more come, and [`Driver::run`] ends when the last is answered; never where nothing.
    pub requests: Option<u64>,
    /// Decides arrivals, models, prompts and who hangs up.
    pub seed: u64,
}

/// The traffic of one tenant.
#[derive(Debug, Clone)]
pub struct TenantLoad {
    /// Its name, sent as `x-tenant-id`.
    pub name: String,
    /// Requests in a second, on average; they arrive at random.
    pub requests_per_second: f64,
    /// The models it asks and their weights.
    pub models: Vec<(String, f64)>,
    /// The share of its requests that stream.
    pub stream_share: f64,
    /// The share of its streams that ask for usage.
    pub usage_share: f64,
    /// The share of its streams that it leaves in the middle.
    pub hang_up_share: f64,
    /// Tokens of a prompt, lowest and highest.
    pub prompt_tokens: (u32, u32),
    /// `max_tokens`, lowest and highest.
    pub output_tokens: (u32, u32),
    /// What else is sent with each request, such as a key.
    pub headers: HeaderMap,
}

impl TenantLoad {
    /// A chat application: short prompts, streams, usage asked for, one in fifty hangs up.
    pub fn chat(name: impl Into<String>, requests_per_second: f64, models: Vec<(String, f64)>) -> Self {
        Self {
            name: name.into(),
            requests_per_second,
            models,
            stream_share: 1.0,
            usage_share: 1.0,
            hang_up_share: 0.02,
            prompt_tokens: (20, 400),
            output_tokens: (20, 200),
            headers: HeaderMap::new(),
        }
    }

    /// A batch job: long prompts, whole answers.
    pub fn batch(name: impl Into<String>, requests_per_second: f64, models: Vec<(String, f64)>) -> Self {
        Self {
            stream_share: 0.1,
            hang_up_share: 0.0,
            prompt_tokens: (800, 4000),
            output_tokens: (100, 400),
            ..Self::chat(name, requests_per_second, models)
        }
    }
}

/// What became of the requests so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Requests sent.
    pub sent: u64,
    /// Answers of status 2xx read to their end.
    pub completed: u64,
    /// Answers of another status.
    pub refused: u64,
    /// No answer, or one that broke.
    pub failed: u64,
    /// Streams left in the middle, on purpose.
    pub hung_up: u64,
    /// Arrivals not sent because too many requests were open.
    pub held_back: u64,
}

/// Traffic that runs, or will: the handle to watch it and to change its pace.
#[derive(Debug)]
pub struct Driver {
    traffic: Traffic,
    client: Client<HttpConnector, Full<Bytes>>,
    places: Arc<Semaphore>,
    pace: AtomicU64,
    arrived: AtomicU64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    completed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    hung_up: AtomicU64,
    held_back: AtomicU64,
}

const IDLE: Duration = Duration::from_millis(100); // how often a tenant without a rate looks for a new pace

impl Driver {
    /// Prepares traffic; nothing is sent yet.
    pub fn new(traffic: Traffic) -> Arc<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Arc::new(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            places: Arc::new(Semaphore::new(traffic.concurrency.min(Semaphore::MAX_PERMITS))),
            pace: AtomicU64::new(1.0f64.to_bits()),
            arrived: AtomicU64::new(0),
            counters: Counters::default(),
            traffic,
        })
    }

    /// Multiplies every tenant's rate by `factor` from the next arrival on; 1 is as configured, 0 is silence.
    pub fn set_pace(&self, factor: f64) {
        self.pace.store(factor.to_bits(), Relaxed);
    }

    /// What became of the requests so far.
    pub fn tally(&self) -> Tally {
        let counters = &self.counters;
        Tally {
            sent: counters.sent.load(Relaxed),
            completed: counters.completed.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            hung_up: counters.hung_up.load(Relaxed),
            held_back: counters.held_back.load(Relaxed),
        }
    }

    /// Sends until `stop`, then drops what is open; or until all requests are answered, where their number is
    /// limited.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        for index in 0..self.traffic.tenants.len() {
            let (driver, requests) = (Arc::clone(&self), tasks.clone());
            let stop = stop.clone();
            tasks.spawn(async move { driver.arrivals(index, &requests, &stop).await });
        }
        tasks.close();
        tasks.wait().await;
    }

    /// One tenant's requests, as they arrive.
    async fn arrivals(self: Arc<Self>, index: usize, requests: &TaskTracker, stop: &CancellationToken) {
        let Some(load) = self.traffic.tenants.get(index) else { return };
        let mut chance = Chance::of(self.traffic.seed, u64::try_from(index).unwrap_or_default());
        loop {
            let rate = load.requests_per_second * f64::from_bits(self.pace.load(Relaxed));
            let mean = Duration::try_from_secs_f64(1.0 / rate).ok().filter(|mean| *mean <= MEAN_LIMIT);
            let pause = mean.map_or(IDLE, |mean| chance.wait(mean));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if mean.is_none() {
                continue;
            }
            let arrived = self.arrived.fetch_add(1, Relaxed);
            if self.traffic.requests.is_some_and(|limit| arrived >= limit) {
                return;
            }
            let order = Order::draw(load, &mut chance);
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                self.counters.held_back.fetch_add(1, Relaxed);
                continue;
            };
            let (driver, stop) = (Arc::clone(&self), stop.clone());
            requests.spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = driver.send(index, order, place) => {}
                }
            });
        }
    }

    async fn send(&self, index: usize, order: Order, _place: OwnedSemaphorePermit) {
        let counters = &self.counters;
        let Some(request) = self.request(index, &order) else {
            counters.failed.fetch_add(1, Relaxed);
            return;
        };
        counters.sent.fetch_add(1, Relaxed);
        let counter = match self.client.request(request).await {
            Err(_) => &counters.failed,
            Ok(answer) => {
                let fine = answer.status().is_success();
                match read(answer.into_body(), order.hang_up_after).await {
                    Read::Broken => &counters.failed,
                    Read::Left => &counters.hung_up,
                    Read::All if fine => &counters.completed,
                    Read::All => &counters.refused,
                }
            }
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The request of an order; nothing where the target or a tenant's name cannot stand in one.
    fn request(&self, index: usize, order: &Order) -> Option<Request<Full<Bytes>>> {
        let load = self.traffic.tenants.get(index)?;
        let target = self.traffic.target.to_string();
        let uri = format!("{}/v1/chat/completions", target.trim_end_matches('/'));
        let mut request = Request::builder().method(Method::POST).uri(uri).body(order.body().into()).ok()?;
        let headers = request.headers_mut();
        headers.extend(load.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(TENANT, HeaderValue::from_str(&load.name).ok()?);
        Some(request)
    }
}

const TENANT: HeaderName = HeaderName::from_static("x-tenant-id");
const MEAN_LIMIT: Duration = Duration::from_secs(24 * 3600); // rarer is never

/// How an answer was read.
enum Read {
    All,
    Left,
    Broken,
}

async fn read(mut body: hyper::body::Incoming, hang_up_after: Option<u32>) -> Read {
    let mut frames = 0;
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return Read::Broken;
        }
        frames += 1;
        if hang_up_after.is_some_and(|limit| frames >= limit) {
            return Read::Left;
        }
    }
    Read::All
}

/// One request, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    model: String,
    stream: bool,
    include_usage: bool,
    prompt_tokens: u32,
    max_tokens: u32,
    hang_up_after: Option<u32>,
    seed: u64,
}

impl Order {
    fn draw(load: &TenantLoad, chance: &mut Chance) -> Self {
        let total: f64 = load.models.iter().map(|(_, weight)| weight).sum();
        let mut left = chance.fraction() * total;
        let drawn = load.models.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        let stream = chance.happens(load.stream_share);
        let max_tokens = chance.between(load.output_tokens.0, load.output_tokens.1);
        let hangs_up = stream && chance.happens(load.hang_up_share);
        Self {
            model: drawn.or_else(|| load.models.last()).map_or_else(String::new, |(model, _)| model.clone()),
            stream,
            include_usage: stream && chance.happens(load.usage_share),
            prompt_tokens: chance.between(load.prompt_tokens.0, load.prompt_tokens.1),
            max_tokens,
            hang_up_after: hangs_up.then(|| chance.between(1, max_tokens.max(1))),
            seed: chance.bits(),
        }
    }

    fn body(&self) -> Bytes {
        let mut body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt()}],
            "max_tokens": self.max_tokens,
            "stream": self.stream,
        });
        if let (true, Some(members)) = (self.include_usage, body.as_object_mut()) {
            members.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        body.to_string().into()
    }

    /// Words until their bytes are worth the tokens: four bytes each, less the three that a message adds.
    fn prompt(&self) -> String {
        let bytes =
            usize::try_from(self.prompt_tokens.saturating_sub(3)).unwrap_or_default().saturating_mul(4);
        let mut prompt = String::with_capacity(bytes + 16);
        let mut position = 0;
        while prompt.len() < bytes {
            prompt.push_str(word(self.seed, 0, position));
            position += 1;
        }
        prompt
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test plays the world around the driver")]
mod tests {
    use super::super::{Profile, Settings, Sim, Stats};
    use super::*;
    use crate::clock::Clock;

    fn models() -> Vec<(String, f64)> {
        vec![("small".to_owned(), 3.0), ("large".to_owned(), 1.0)]
    }

    fn orders(load: &TenantLoad) -> Vec<Order> {
        let mut chance = Chance::of(1, 0);
        (0..2000).map(|_| Order::draw(load, &mut chance)).collect()
    }

    #[test]
    fn orders_are_as_the_tenant_likes_them_and_repeatable() {
        let load =
            TenantLoad { stream_share: 0.5, hang_up_share: 0.1, ..TenantLoad::chat("a", 1.0, models()) };
        let drawn = orders(&load);
        assert_eq!(drawn, orders(&load));
        let count = |is: fn(&Order) -> bool| drawn.iter().filter(|order| is(order)).count();
        assert!((1400..1600).contains(&count(|order| order.model == "small")));
        assert!((900..1100).contains(&count(|order| order.stream)));
        assert!((60..140).contains(&count(|order| order.hang_up_after.is_some())));
        assert!(drawn.iter().all(|order| (20..=200).contains(&order.max_tokens)));
        assert_eq!(count(|order| !order.stream && (order.include_usage || order.hang_up_after.is_some())), 0);
    }

    #[test]
    fn a_prompt_is_as_long_as_the_order_says() {
        for order in orders(&TenantLoad::batch("a", 1.0, models())).iter().take(50) {
            let body: serde_json::Value = serde_json::from_slice(&order.body()).unwrap();
            let tokens = body["messages"][0]["content"].as_str().unwrap().len().div_ceil(4) + 3;
            let asked = usize::try_from(order.prompt_tokens).unwrap();
            assert!((asked..=asked + 3).contains(&tokens), "{tokens} for {asked}");
        }
    }

    #[tokio::test]
    async fn every_request_of_a_run_is_accounted_for() {
        let fast = Profile { ttft: Duration::ZERO, tokens_per_second: 0.0, ..Profile::new("small") };
        let sim = Sim::new(Settings { strict: true, ..Settings::with_models([fast]) }, Clock::start());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(Arc::clone(&sim).serve(listener, stop.clone()));
        let load = TenantLoad { hang_up_share: 0.2, ..TenantLoad::chat("a", 2000.0, models()) };
        let driver = Driver::new(Traffic {
            target,
            tenants: vec![load.clone(), TenantLoad { name: "b".to_owned(), ..load }],
            concurrency: 8,
            requests: Some(200),
            seed: 1,
        });
        Arc::clone(&driver).run(stop.clone()).await;
        stop.cancel();
        serving.await.unwrap();
        let tally = driver.tally();
        assert_eq!(tally.sent + tally.held_back, 200);
        assert_eq!(tally.completed + tally.refused + tally.hung_up, tally.sent, "{tally:?}");
        assert!(tally.completed > 0 && tally.refused > 0 && tally.hung_up > 0, "{tally:?}");
        let Stats { requests, refused, open, .. } = sim.stats();
        assert_eq!((requests, refused, open), (tally.sent, tally.refused, 0));
    }
}
