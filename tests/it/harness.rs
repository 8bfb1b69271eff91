//! A sidecar between two pipes: the test plays the client on one and the inference server on the other.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::Value;
use streamgauge::admission::Admission;
use streamgauge::budgets::Budgets;
use streamgauge::clock::Clock;
use streamgauge::config::Config;
use streamgauge::counting::Tokenizers;
use streamgauge::live::LiveTable;
use streamgauge::pipeline::Pipeline;
use streamgauge::proxy::{Dial, Proxy, Routes, listener};
use streamgauge::sinks::metrics::{Format, Metrics};
use streamgauge::sinks::recent::Recent;
use streamgauge::sinks::request_log::Line;
use streamgauge::sinks::{Fact, Sink};
use streamgauge::status::{Sources, Status};
use streamgauge::vitals::Vitals;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const ONE_UPSTREAM: &str = "upstream: http://upstream:8000\n";

pub(crate) struct Sidecar {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budgets: Arc<Budgets>,
    recent: Arc<Recent>,
    exchanges: Arc<Exchanges>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Connections that the sidecar makes to its upstreams.
pub(crate) struct Upstream(mpsc::UnboundedReceiver<DuplexStream>);

#[derive(Default)]
struct Exchanges {
    lines: Mutex<Vec<Value>>,
    reproducible: Mutex<Vec<Value>>,
    recorded: Notify,
    audits: Mutex<u32>,
    audited: Notify,
}

impl Sink for Exchanges {
    fn record(&self, fact: &Fact<'_>) {
        match fact {
            Fact::Settled(exchange) => {
                self.lines.lock().push(serde_json::to_value(Line::of(exchange)).unwrap());
                self.reproducible.lock().push(serde_json::to_value(Line::reproducible(exchange)).unwrap());
                self.recorded.notify_one();
            }
            Fact::Audited { .. } => {
                *self.audits.lock() += 1;
                self.audited.notify_one();
            }
            _ => {}
        }
    }
}

impl Sidecar {
    pub(crate) fn start(config: &str) -> (Self, Upstream) {
        let config = Config::parse(config, &[]).unwrap();
        let (dial, upstream) = Upstream::dial();
        let clock = Clock::start().with_wall(UNIX_EPOCH + Duration::from_secs(1_800_000_000)); // a whole minute
        let (vitals, live) = (Arc::<Vitals>::default(), Arc::<LiveTable>::default());
        let admission = Arc::new(Admission::new(clock, &config.limit_store).unwrap());
        let metrics = Metrics::new(&config, Arc::clone(&vitals), Arc::clone(&live), clock).unwrap();
        let budgets = Arc::new(Budgets::new(&config.budgets, admission.shared(), Arc::clone(&vitals), clock));
        let metrics = metrics.with_windows(Arc::clone(&admission)).with_budgets(Arc::clone(&budgets));
        let (metrics, exchanges) = (Arc::new(metrics), Arc::<Exchanges>::default());
        let recent = Arc::new(Recent::new(clock));
        let tokenizers = Arc::<Tokenizers>::default();
        tokenizers.load(&config.models).unwrap();
        let sinks: Vec<Arc<dyn Sink>> = vec![
            Arc::clone(&metrics) as _,
            Arc::clone(&admission) as _,
            Arc::clone(&budgets) as _,
            Arc::clone(&recent) as _,
            Arc::clone(&exchanges) as _,
        ];
        let (counters, expectations) = (Arc::clone(&tokenizers), Arc::clone(&admission.expectations));
        let (places, pipeline) =
            Pipeline::new(Arc::clone(&live), clock, counters, expectations, sinks, |_| {}).unwrap();
        let routes = Routes::new(config, &vitals, clock, dial).unwrap();
        let tasks = TaskTracker::new();
        tasks.spawn(pipeline.run(CancellationToken::new()));
        let proxy = Arc::new(Proxy::new(routes, clock, vitals, live, places, admission, tokenizers));
        let stop = CancellationToken::new();
        (Self { proxy, metrics, budgets, recent, exchanges, stop, tasks }, upstream)
    }

    /// A client's connection.
    pub(crate) fn connect(&self) -> Wire {
        let (client, server) = tokio::io::duplex(64 << 10);
        self.proxy.tasks.spawn(listener::connection(Arc::clone(&self.proxy), server, self.stop.clone()));
        Wire(client)
    }

    /// Cuts what runs, as when the time to drain is over.
    pub(crate) fn cut(&self) {
        self.stop.cancel();
        self.proxy.cut();
    }

    /// What a person on call sees now.
    pub(crate) fn status(&self) -> Status {
        let (proxy, metrics, recent) =
            (Arc::clone(&self.proxy), Arc::clone(&self.metrics), Arc::clone(&self.recent));
        Sources { proxy, metrics, recent }.look(true)
    }

    /// Waits until no exchange is open and all are settled; gives their lines of the request log.
    pub(crate) async fn exchanges(&self) -> Vec<Value> {
        while !self.proxy.live.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.exchanges.lines.lock().clone()
    }

    /// The only exchange, without what differs from run to run.
    pub(crate) async fn reproducible(&self) -> Value {
        self.exchange().await;
        self.exchanges.reproducible.lock().remove(0)
    }

    /// The only exchange. Its text may have to be counted first: on a thread of its own, in real time.
    pub(crate) async fn exchange(&self) -> Value {
        let mut all = self.exchanges().await;
        if all.is_empty() {
            self.exchanges.recorded.notified().await;
            all = self.exchanges().await;
        }
        assert_eq!(all.len(), 1, "{all:?}");
        all.pop().unwrap()
    }

    /// Waits until one more exchange is settled.
    pub(crate) async fn recorded(&self) {
        self.exchanges.recorded.notified().await;
    }

    /// Waits until so many exchanges have been counted for comparison.
    pub(crate) async fn audited(&self, exchanges: u32) {
        while *self.exchanges.audits.lock() < exchanges {
            self.exchanges.audited.notified().await;
        }
    }

    /// The value of a sample by its name without prefix and its labels; 0 where there is none.
    pub(crate) fn value(&self, name: &str, labels: &str) -> f64 {
        self.sample(&format!("streamgauge_{name}{{{labels}}}")).unwrap_or(0.0)
    }

    /// The value of a sample on /metrics, by its name and labels as they stand there.
    pub(crate) fn sample(&self, sample: &str) -> Option<f64> {
        let page = String::from_utf8(self.metrics.render(Format::Text004)).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    /// Runs a task beside the test.
    pub(crate) fn beside<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tasks.spawn(task)
    }
}

impl Upstream {
    /// A way through memory, and where it ends.
    pub(crate) fn dial() -> (Dial, Self) {
        let (pipes, upstream) = mpsc::unbounded_channel();
        (Dial::Memory(pipes), Self(upstream))
    }

    /// The next connection that the sidecar makes.
    pub(crate) async fn accept(&mut self) -> Wire {
        let accepted = tokio::time::timeout(Duration::from_secs(60), self.accept_ever()).await;
        accepted.expect("no connection came")
    }

    /// The next connection, however long it takes to come.
    pub(crate) async fn accept_ever(&mut self) -> Wire {
        Wire(self.0.recv().await.unwrap())
    }

    /// The next connection, as long as there is a sidecar to make one.
    pub(crate) async fn next(&mut self) -> Option<Wire> {
        self.0.recv().await.map(Wire)
    }

    /// Whether a connection was made that nobody has accepted.
    pub(crate) fn has_more(&mut self) -> bool {
        !self.0.is_empty()
    }
}

/// A stream that was asked for: the request has reached the upstream, no head has come.
pub(crate) async fn asked(config: &str) -> (Sidecar, Upstream, Wire, Wire) {
    let (sidecar, mut upstream) = Sidecar::start(config);
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    let mut server = upstream.accept().await;
    server.read_to(STREAM_REQUEST).await;
    (sidecar, upstream, client, server)
}

/// A stream that runs: its client and its server.
pub(crate) struct Stream {
    pub(crate) client: Wire,
    pub(crate) server: Wire,
}

impl Stream {
    /// The head of a stream has come that was asked for so.
    pub(crate) async fn of(sidecar: &Sidecar, upstream: &mut Upstream, request: &str) -> Self {
        let mut client = sidecar.connect();
        client.write(post(request)).await;
        let mut server = upstream.accept().await;
        server.read_to(request).await;
        server.write(STREAM_HEAD).await;
        client.read_head().await;
        Self { client, server }
    }

    pub(crate) async fn begin(sidecar: &Sidecar, upstream: &mut Upstream) -> Self {
        Self::of(sidecar, upstream, STREAM_REQUEST).await
    }

    /// Sends a chunk, and waits for it.
    pub(crate) async fn send(&mut self, data: &str) {
        let data = chunk(data);
        self.server.write(&data).await;
        self.client.read_to(&data).await;
    }

    /// Sends so many tokens, an event each.
    pub(crate) async fn words(&mut self, tokens: u32, pause: Duration) {
        for _ in 0..tokens {
            tokio::time::sleep(pause).await;
            self.send(&token("word ")).await;
        }
    }

    pub(crate) async fn report(&mut self, input: u64, output: u64) {
        let usage = format!("{{\"prompt_tokens\":{input},\"completion_tokens\":{output}}}");
        self.send(&format!("data: {{\"model\":\"m\",\"choices\":[],\"usage\":{usage}}}\n\n")).await;
    }

    pub(crate) async fn end(mut self) {
        self.send("data: [DONE]\n\n").await;
        self.server.write(LAST_CHUNK).await;
        self.client.read_to(LAST_CHUNK).await;
    }
}

/// One end of a connection, read and written as bytes.
pub(crate) struct Wire(pub(crate) DuplexStream);

impl Wire {
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Everything up to and with `end`.
    pub(crate) async fn read_to(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        let reading = async {
            while !read.ends_with(end.as_bytes()) {
                read.push(self.0.read_u8().await?);
            }
            std::io::Result::Ok(())
        };
        let result = tokio::time::timeout(Duration::from_secs(3600), reading).await;
        let text = String::from_utf8_lossy(&read).into_owned();
        assert!(matches!(result, Ok(Ok(()))), "{result:?} before {end:?}; came: {text:?}");
        text
    }

    pub(crate) async fn read_head(&mut self) -> String {
        self.read_to("\r\n\r\n").await
    }

    pub(crate) async fn read_exactly(&mut self, n: usize) -> Vec<u8> {
        let mut read = vec![0; n];
        let reading = tokio::time::timeout(Duration::from_secs(3600), self.0.read_exact(&mut read)).await;
        reading.expect("the bytes did not come").unwrap();
        read
    }

    /// Everything until the other side closes.
    pub(crate) async fn read_to_close(&mut self) -> String {
        let mut read = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(3600), self.0.read_to_end(&mut read)).await;
        let text = String::from_utf8_lossy(&read).into_owned();
        assert!(closed.is_ok(), "still open; came: {text:?}");
        text
    }

    /// Whether the other side has closed, or closes within so much time.
    pub(crate) async fn closes_within(&mut self, time: Duration) -> bool {
        let mut byte = [0];
        matches!(tokio::time::timeout(time, self.0.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
    }
}

/// A chat request with this body.
pub(crate) fn post(body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) const STREAM_REQUEST: &str =
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

pub(crate) const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A chunk of HTTP/1's transfer coding.
pub(crate) fn chunk(data: &str) -> String {
    format!("{:X}\r\n{data}\r\n", data.len())
}

/// An event with a piece of content.
pub(crate) fn token(content: &str) -> String {
    format!(
        "data: {{\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}]}}\n\n"
    )
}

pub(crate) const LAST_EVENTS: &str = "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";

pub(crate) const LAST_CHUNK: &str = "0\r\n\r\n";
