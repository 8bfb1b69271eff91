//! The whole of it: facts in, pages out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::account::meter::Tokens;
use crate::account::settle::Counts;
use crate::account::tokenize::Counted;
use crate::admission::Asking;
use crate::exchange::{
    Cost, Count, DialectId, Exchange, FinishReason, FinishReasons, HitAction, InputBand, ModelNames, Outcome,
    Timing, ToldLimits, Unobserved, Unpriced, UpstreamLimits, Usage,
};
use crate::live::{Accepted, Ask, Live, Origin};
use crate::sinks::{Fact, Sink};
use crate::vitals::{DropStage, ObservationFailure, UsageInjection};

const CHAT: DialectId = DialectId("openai_chat");
const HOUR: Duration = Duration::from_secs(3600);

// ── what the tests are made of ──

struct Bench {
    metrics: Metrics,
    windows: Arc<Admission>,
    budgets: Arc<Budgets>,
    vitals: Arc<Vitals>,
    live: Arc<LiveTable>,
    clock: Clock,
}

fn config() -> Config {
    let text = "
upstreams: [{name: vllm, url: 'http://127.0.0.1:8000'}]
tenants: {known: [search], limit: 3}
models:
  - match: ['llama*']
    name: llama
    price: {currency: USD, input: 0.15, cache_read: 0.03, output: 0.6}
    architecture: {parameters: 8b, layers: 32, heads: 32, kv_heads: 8, head_dim: 128}
    hardware: {device: a100-40gb, count: 2, price_per_hour: 1.80}
metrics: {model_limit: 2, idle_series: 6h}
limits: [{tenant: search, tokens_per_minute: 40000, action: delay}]
limit_store: redis://127.0.0.1
budgets:
  - {tenant: search, period: month, amount: 500, currency: USD}
  - {period: day, amount: 20.50, currency: USD}
slos: [{name: chat, objective: 99.5%, ttft: 333ms}]
";
    Config::parse(text, &[]).unwrap()
}

impl Bench {
    fn new(config: &Config) -> Self {
        let (vitals, live) = (Arc::<Vitals>::default(), Arc::<LiveTable>::default());
        // Two seconds before a minute is over.
        let clock = Clock::start().with_wall(SystemTime::UNIX_EPOCH + Duration::from_secs(1_799_999_998));
        let metrics = Metrics::new(config, Arc::clone(&vitals), Arc::clone(&live), clock).unwrap();
        let windows = Arc::new(Admission::new(clock, &config.limit_store).unwrap());
        let budgets = Arc::new(Budgets::new(&config.budgets, None, Arc::clone(&vitals), clock));
        let metrics = metrics.with_windows(Arc::clone(&windows)).with_budgets(Arc::clone(&budgets));
        Self { metrics, windows, budgets, vitals, live, clock }
    }

    fn tell(&self, exchange: &Exchange) {
        self.metrics.record(&Fact::Ended(exchange));
        self.metrics.record(&Fact::Settled(exchange));
    }

    /// What an exchange costs is spent of budgets, as if it ended now.
    fn spend(&self, exchange: &Exchange) {
        let ended_at = self.clock.wall(self.clock.now());
        self.budgets.record(&Fact::Settled(&Exchange { ended_at, ..exchange.clone() }));
    }

    fn page(&self, format: Format) -> String {
        String::from_utf8(self.metrics.render(format)).unwrap()
    }

    fn samples(&self) -> Samples {
        samples(&self.page(Format::Text004))
    }

    fn open(&self, tenant: &str) -> Arc<Live> {
        let origin = Origin { number: self.live.next_number(), ..origin(tenant, self.clock.now()) };
        let live = Arc::new(Live::new(origin, true));
        self.live.insert(Arc::clone(&live));
        live
    }
}

fn name(text: &str) -> Name {
    Name::from(text)
}

fn origin(tenant: &str, started: Moment) -> Origin {
    Origin {
        number: 0,
        request_id: name("req-live"),
        trace_id: None,
        tenant: name(tenant),
        upstream: name("vllm"),
        dialect: CHAT,
        started,
    }
}

fn accepted(model: ModelNames) -> Accepted {
    let ask = Ask { dialect: None, input_band: InputBand::Le1k, text_bytes: None, max_output: None };
    Accepted { model, ask, sent: None }
}

fn requested(model: &str) -> ModelNames {
    ModelNames { requested: Some(name(model)), ..ModelNames::default() }
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A whole answer of a tenant and a model that nobody knows, without any token count.
fn exchange() -> Exchange {
    Exchange {
        number: 1_000, // beyond those that are open
        request_id: name("req-1"),
        ended_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        tenant: name("acme"),
        model: requested("gpt"),
        upstream: name("vllm"),
        finish_reasons: [FinishReason::Stop].into_iter().collect(),
        timing: Timing {
            duration: millis(1_500),
            overhead_request: Some(Duration::from_micros(30)),
            overhead_response: Duration::from_micros(20),
            ..Timing::default()
        },
        config: name("0123456789abcdef"),
        ..Exchange::completed()
    }
}

/// A stream of a known tenant and a configured model, with everything that can be known.
fn stream() -> Exchange {
    Exchange {
        request_id: name("req-2"),
        trace_id: Some(name("0af7651916cd43dd8448eb211c80319c")),
        tenant: name("search"),
        model: ModelNames { configured: Some(name("llama")), ..requested("llama-3.1-8b") },
        stream: true,
        timing: Timing {
            duration: millis(1_300),
            ttfb: Some(millis(100)),
            ttft: Some(millis(250)),
            first_answer: Some(millis(400)),
            last_token: Some(millis(1_250)),
            longest_gap: Some(millis(90)),
            tpot: Some(millis(50)),
            tps: Some(20.0),
            ..exchange().timing
        },
        input: Some(Count::reported(30)),
        output: Some(Count::reported(21)),
        usage: Usage {
            input: Some(30),
            input_uncached: None,
            output: Some(21),
            cache_read: Some(16),
            cache_write: Some(0),
            reasoning: Some(5),
            ..Usage::default()
        },
        chunks: 20,
        connect: Some(millis(3)),
        ..exchange()
    }
}

fn refused() -> Exchange {
    Exchange {
        model: requested("made-up"),
        code: Some(404),
        outcome: Outcome::UpstreamRefused,
        finish_reasons: FinishReasons::new(),
        ..exchange()
    }
}

fn left() -> Exchange {
    Exchange {
        stream: true,
        code: None,
        outcome: Outcome::ClientGone,
        finish_reasons: FinishReasons::new(),
        ..exchange()
    }
}

type Labelled = (String, BTreeMap<String, String>);
type Samples = BTreeMap<Labelled, f64>;

/// The samples of a page in either format, the bounds of buckets as numbers.
fn samples(page: &str) -> Samples {
    let lines = page.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut samples = Samples::new();
    for line in lines {
        let (labelled, rest) = labelled(line);
        let value = rest.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(samples.insert(labelled, value), None, "twice on the page: {line}");
    }
    samples
}

fn labelled(line: &str) -> (Labelled, &str) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    while let Some(pair) = rest.strip_prefix(['{', ',']) {
        let (label, after) = pair.split_once("=\"").unwrap();
        let (value, after) = unescape(after);
        let value = if label == "le" { value.parse::<f64>().unwrap().to_string() } else { value };
        labels.insert(label.to_owned(), value);
        rest = after;
    }
    let rest = rest.strip_prefix('}').unwrap_or(rest);
    ((name.to_owned(), labels), rest)
}

/// A label's value, and what comes after its closing quote.
fn unescape(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return (value, chars.as_str()),
            '\\' => match chars.next().unwrap() {
                'n' => value.push('\n'),
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    panic!("no closing quote: {text}");
}

/// The sum over the series of `metric` that have all of these labels; none where there is no such series.
fn sum(samples: &Samples, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let full = format!("streamgauge_{metric}");
    let has = |of: &BTreeMap<String, String>| {
        labels.iter().all(|(k, v)| of.get(*k).is_some_and(|found| found == v))
    };
    let found: Vec<f64> =
        samples.iter().filter(|((n, l), _)| *n == full && has(l)).map(|(_, value)| *value).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

// ── pages ──

/// A request that a limit of ours held.
fn delayed(bench: &Bench, origin: &Origin) {
    let limits = config().limits;
    let asking = Asking { number: origin.number, tenant: &origin.tenant, model: None, tokens: 1_100 };
    let mut limited = bench.windows.observe(&limits, asking).unwrap();
    limited.hits.push((name(ALL), HitAction::Delayed));
    limited.delay = Some(millis(700));
    bench.metrics.record(&Fact::Limited { origin, limited: &limited });
}

/// What a sidecar counts about itself.
fn pulse(bench: &Bench) {
    bench.metrics.reload(true, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let upstream = bench.vitals.upstream(&name("vllm"));
    (0..7).for_each(|_| upstream.start());
    (0..5).for_each(|_| upstream.end());
    upstream.chunks.add(40);
    upstream.injections(UsageInjection::Asked).add(3);
    upstream.injections(UsageInjection::Cut).add(2);
    bench.vitals.failures(ObservationFailure::Panic).add_one();
    bench.vitals.dropped(DropStage::RequestLog).add(2);
    for keys in bench.vitals.jwks_at(&[name("https://id.example/keys")]) {
        keys.fetched(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        keys.failures.add(2);
    }
}

/// One of everything.
fn full() -> Bench {
    let bench = Bench::new(&config());
    pulse(&bench);
    let waiting = bench.open("search");
    waiting.set_awaits_token(true);
    let streamed = Exchange {
        finish_reasons: [FinishReason::Length, FinishReason::ToolCalls].into_iter().collect(),
        ..stream()
    };
    let first = Origin { trace_id: streamed.trace_id.clone(), ..origin("search", Moment::default()) };
    bench.metrics.record(&Fact::FirstToken {
        origin: &first,
        accepted: &accepted(streamed.model.clone()),
        ttft: millis(250),
    });
    let mut limits = UpstreamLimits::default();
    for (what, value) in [("limit", "40000"), ("remaining", "39000"), ("reset", "6m0s")] {
        limits.take(&format!("x-ratelimit-{what}-tokens"), value);
    }
    let cost = |pico| Cost { pico, currency: name("USD"), version: name("config") };
    let streamed = Exchange {
        cost: Some(cost(15_180_000)),
        alternatives: vec![(name("llama-large"), cost(90_000_000))],
        ..streamed
    };
    bench.spend(&streamed);
    let runs = bench.open("search");
    bench.metrics.record(&Fact::Flow {
        origin: &runs.origin,
        accepted: &accepted(streamed.model.clone()),
        so_far: Tokens { input: 100, output: 20 },
        reserved: Some(1_100),
    });
    delayed(&bench, &runs.origin);
    let model = &streamed.model;
    let slo = &name("chat");
    let judged = Fact::Judged { origin: &runs.origin, model, accepted: true, slo, is_bad: true };
    bench.metrics.record(&judged);
    let counted = |tokens| Some(Counted { tokens, exact: true });
    let counts = Counts { input: counted(27), output: counted(24), ..Counts::default() };
    bench.metrics.record(&Fact::Audited { exchange: &streamed, counts });
    for exchange in [
        streamed,
        Exchange {
            reserved: Some(300),
            undecodable: 3,
            unpriced: Some(Unpriced::Tokens),
            limits: Some(ToldLimits {
                at: Moment::default(),
                wall: SystemTime::UNIX_EPOCH,
                limits: Box::new(limits),
            }),
            finish_reasons: FinishReasons::new(),
            output: Some(Count::estimated(8)),
            ..exchange()
        },
        refused(),
        left(),
        Exchange {
            dialect: DialectId::UNKNOWN,
            model: ModelNames::default(),
            unobserved: Some(Unobserved::UnknownPath),
            finish_reasons: FinishReasons::new(),
            ..exchange()
        },
    ] {
        bench.tell(&exchange);
    }
    bench
}

#[tokio::test(start_paused = true)]
async fn golden_pages() {
    let bench = full();
    tokio::time::advance(millis(2_500)).await;
    for (format, file) in [(Format::Text004, "metrics.txt"), (Format::OpenMetrics100, "metrics.openmetrics")]
    {
        let page = bench.page(format).replace(env!("CARGO_PKG_VERSION"), "VERSION");
        let lines = page.split_inclusive('\n').filter(|line| !line.contains("process_"));
        let page: String = lines.filter(|line| !line.contains("streamgauge_series ")).collect();
        check_file(&Path::new("tests/golden-metrics").join(file), &page, "golden_pages");
    }
}

#[test]
fn work_is_that_of_the_tokens_that_were_not_cached() {
    let bench = Bench::new(&config());
    let flops = || {
        let page = bench.page(Format::Text004);
        let sample = page
            .lines()
            .find_map(|line| line.strip_prefix("streamgauge_model_flops_total{model=\"llama\"} "));
        sample.map(|value| value.parse::<f64>().unwrap())
    };
    assert_eq!(flops(), None);
    let count = |value| Some(Count { value, source: Source::Estimated });
    let served = Exchange {
        model: ModelNames { configured: Some(name("llama")), ..requested("llama-8b") },
        ..exchange()
    };
    bench.tell(&served);
    bench.tell(&Exchange { model: requested("gpt"), input: count(10), output: count(10), ..exchange() });
    assert_eq!(flops(), None); // no tokens are known of the one, no architecture of the other
    let usage = Usage { cache_read: Some(100), ..Usage::default() };
    bench.tell(&Exchange { input: count(101), output: count(1), usage, ..served });
    let attention = |context: f64| 4.0 * 32.0 * 4096.0 * context;
    assert_eq!(flops(), Some(2.0 * 16e9 + attention(101.0) + attention(102.0)));
}

#[tokio::test(start_paused = true)]
async fn hardware_costs_while_it_idles_and_a_reload_changes_the_price_from_then_on() {
    let bench = Bench::new(&config());
    let cost = || {
        let page = bench.page(Format::Text004);
        let start = "streamgauge_hardware_cost_total{model=\"llama\",currency=\"USD\"} ";
        page.lines().find_map(|line| line.strip_prefix(start)).map(|value| value.parse::<f64>().unwrap())
    };
    assert_eq!(cost(), Some(0.0));
    tokio::time::advance(HOUR).await;
    assert_eq!(cost(), Some(3.6)); // two devices
    tokio::time::advance(HOUR).await;
    let text = config().to_yaml().replace("price_per_hour: '1.8'", "price_per_hour: 0.50");
    bench.metrics.apply(&Config::parse(&text, &[]).unwrap());
    tokio::time::advance(HOUR).await;
    assert_eq!(cost(), Some(8.2));
}

#[test]
fn docs_metrics() {
    check_file(Path::new("docs/metrics.md"), &docs::markdown(), "docs_metrics");
}

/// Compares with a file of the repository, or writes it where `UPDATE` is set.
fn check_file(path: &Path, want: &str, test: &str) {
    let whole: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&whole, want).unwrap();
    }
    let found = std::fs::read_to_string(&whole).unwrap_or_default();
    let differs = || found.lines().zip(want.lines()).find(|(found, want)| found != want);
    assert!(
        found == want,
        "{} is not what the code makes; `UPDATE=1 cargo test {test}` writes it anew. First difference: {:?}",
        path.display(),
        differs()
    );
}

#[test]
fn plain_text_is_what_the_prometheus_crate_makes_of_it() {
    let bench = full();
    bench.tell(&Exchange { tenant: Name::from("\"q\" back\\slash\nnew line"), ..exchange() });
    let blocks = bench.metrics.gather();
    let mut want = String::new();
    for block in &blocks {
        prometheus::TextEncoder.encode_utf8(std::slice::from_ref(&block.family), &mut want).unwrap();
    }
    assert_eq!(page::page(&blocks, Format::Text004), want);
    assert!(want.contains(r#"{tenant="\"q\" back\\slash\nnew line","#), "{want}");
}

#[tokio::test(start_paused = true)]
async fn both_formats_say_the_same() {
    let bench = full();
    let (text, open) = (bench.page(Format::Text004), bench.page(Format::OpenMetrics100));
    let mut pages = [samples(&text), samples(&open)];
    for page in &mut pages {
        page.retain(|(name, _), _| !name.starts_with("process_"));
    }
    let [text_samples, open_samples] = pages;
    assert_eq!(text_samples, open_samples);
    assert!(open.ends_with("\n# EOF\n"));
    assert!(open.contains("\n# TYPE streamgauge_requests counter\n"), "{open}");
    assert!(open.contains("le=\"1.0\"") && text.contains("le=\"1\""));
}

#[test]
fn exemplars_are_in_openmetrics_alone_and_can_be_turned_off() {
    let exemplar =
        "# {trace_id=\"0af7651916cd43dd8448eb211c80319c\",request_id=\"req-2\"} 0.05 1700000000.123";
    let bench = full();
    assert!(bench.page(Format::OpenMetrics100).contains(exemplar));
    assert!(!bench.page(Format::Text004).contains("trace_id"));
    let mut off = config();
    off.metrics.exemplars = false;
    let bench = Bench::new(&off);
    bench.tell(&stream());
    assert!(!bench.page(Format::OpenMetrics100).contains("trace_id"));
}

#[test]
fn the_page_counts_its_own_series() {
    let samples = full().samples();
    assert_eq!(sum(&samples, "series", &[]), Some(samples.len() as f64));
}

#[tokio::test(start_paused = true)]
async fn every_metric_of_the_table_can_have_a_series() {
    let bench = full();
    tokio::time::advance(millis(2_500)).await;
    let page = bench.page(Format::Text004);
    for row in TABLE.iter() {
        assert!(
            page.contains(&format!("# TYPE {} {}\n", row.full_name(), row.kind.as_str())),
            "{}",
            row.name
        );
    }
}

// ── what is counted ──

#[test]
fn a_scrape_adds_up() {
    let bench = Bench::new(&config());
    let upstream = bench.vitals.upstream(&name("vllm"));
    for _ in 0..50 {
        upstream.start();
        let samples = bench.samples();
        let read = |metric| sum(&samples, metric, &[("upstream", "vllm")]).unwrap();
        assert_eq!(read("requests_started_total"), read("requests_ended_total") + read("requests_in_flight"));
        if upstream.started_and_ended().0.is_multiple_of(3) {
            upstream.end();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_that_waits_shows() {
    let bench = Bench::new(&config());
    let first = bench.open("a");
    first.set_awaits_token(true);
    tokio::time::advance(millis(1_500)).await;
    let second = bench.open("b");
    second.set_awaits_token(true);
    tokio::time::advance(millis(500)).await;
    assert_eq!(sum(&bench.samples(), "requests_awaiting_first_token", &[]), Some(2.0));
    assert_eq!(sum(&bench.samples(), "oldest_awaiting_first_token_seconds", &[]), Some(2.0));
    first.set_first_token(bench.clock.now(), accepted(ModelNames::default()));
    assert_eq!(sum(&bench.samples(), "oldest_awaiting_first_token_seconds", &[]), Some(0.5));
}

#[test]
fn tokens_are_there_at_nothing_from_the_start_for_whoever_is_known() {
    let bench = Bench::new(&config());
    let labels = [("tenant", "anonymous"), ("model", "llama")];
    assert_eq!(sum(&bench.samples(), "input_tokens_total", &labels), Some(0.0));
    assert_eq!(sum(&bench.samples(), "token_counts_total", &[("source", "missing")]), Some(0.0));
    assert_eq!(sum(&bench.samples(), "requests_total", &[]), None);
    let mut more = config();
    more.tenants.known.push(name("support"));
    bench.metrics.apply(&more);
    assert_eq!(sum(&bench.samples(), "output_tokens_total", &[("tenant", "support")]), Some(0.0));
}

#[test]
fn money_is_added_up_in_integers() {
    let bench = Bench::new(&config());
    let tenth = Cost { pico: 100_000_000_000, currency: name("EUR"), version: name("v") };
    for _ in 0..3 {
        bench.tell(&Exchange { cost: Some(tenth.clone()), ..exchange() });
    }
    let page = bench.page(Format::Text004);
    let series =
        "streamgauge_cost_total{tenant=\"acme\",model=\"gpt\",upstream=\"vllm\",currency=\"EUR\"} 0.3\n";
    assert!(page.contains(series), "not 0.30000000000000004: {page}");
    assert_eq!(sum(&bench.samples(), "unpriced_requests_total", &[]), None);
}

#[test]
fn an_unknown_count_is_counted_as_missing_and_adds_nothing() {
    let bench = Bench::new(&config());
    bench.tell(&exchange());
    bench.tell(&Exchange {
        dialect: DialectId("rerank"),
        finish_reasons: FinishReasons::new(),
        ..exchange()
    });
    bench.tell(&refused());
    let samples = bench.samples();
    let missing = |direction| {
        sum(
            &samples,
            "token_counts_total",
            &[("direction", direction), ("source", "missing"), ("tenant", "acme")],
        )
    };
    assert_eq!((missing("input"), missing("output")), (Some(2.0), Some(1.0)));
    assert_eq!(sum(&samples, "input_tokens_total", &[("tenant", "acme")]), None);
    assert_eq!(sum(&samples, "request_input_tokens_count", &[]), None);
    assert_eq!(sum(&samples, "finish_reasons_total", &[("reason", "none")]), None);
}

#[test]
fn a_made_up_model_is_unknown_until_it_is_accepted_and_then_known_to_disconnects_too() {
    let bench = Bench::new(&config());
    bench.tell(&refused());
    bench.tell(&left());
    assert_eq!(sum(&bench.samples(), "requests_total", &[("model", "unknown")]), Some(2.0));
    assert_eq!(sum(&bench.samples(), "client_disconnects_total", &[("model", "unknown")]), Some(1.0));
    bench.tell(&exchange());
    bench.tell(&left());
    let phase = [("model", "gpt"), ("phase", "before_first_token")];
    assert_eq!(sum(&bench.samples(), "client_disconnects_total", &phase), Some(1.0));
    assert_eq!(sum(&bench.samples(), "requests_total", &[("model", "gpt")]), Some(1.0));
}

#[test]
fn what_has_no_slot_goes_to_other_and_is_counted_once() {
    let bench = Bench::new(&config());
    for n in 0..5 {
        bench.tell(&Exchange {
            tenant: name(&format!("t{n}")),
            model: requested(&format!("m{n}")),
            ..exchange()
        });
    }
    let samples = bench.samples();
    assert_eq!(sum(&samples, "requests_total", &[("tenant", "other")]), Some(2.0));
    assert_eq!(sum(&samples, "label_overflow_total", &[("label", "tenant")]), Some(2.0));
    assert_eq!(sum(&samples, "label_overflow_total", &[("label", "model")]), Some(3.0));
    assert_eq!(sum(&samples, "requests_total", &[]), Some(5.0));
}

// ── what goes idle ──

#[tokio::test(start_paused = true)]
async fn series_that_went_idle_are_dropped_but_not_those_of_the_sidecar_or_the_configuration() {
    let bench = full();
    tokio::time::advance(7 * HOUR).await;
    bench.tell(&Exchange { tenant: name("late"), ..exchange() });
    bench.metrics.sweep_idle(bench.clock.now());
    let samples = bench.samples();
    assert_eq!(sum(&samples, "requests_total", &[("tenant", "acme")]), None);
    assert_eq!(sum(&samples, "requests_total", &[("tenant", "late")]), Some(1.0));
    assert_eq!(sum(&samples, "time_to_first_token_seconds_count", &[]), None);
    assert_eq!(sum(&samples, "input_tokens_total", &[("tenant", "search")]), Some(130.0));
    assert_eq!(sum(&samples, "requests_started_total", &[]), Some(7.0));
    assert_eq!(sum(&samples, "undecodable_events_total", &[]), Some(3.0));
    assert_eq!(sum(&samples, "unobserved_requests_total", &[]), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_counter_stays_while_an_exchange_of_its_tenant_or_model_is_in_flight() {
    let bench = Bench::new(&config());
    bench.tell(&exchange());
    let live = bench.open("someone");
    live.set_first_token(bench.clock.now(), accepted(requested("gpt")));
    let other = bench.open("acme");
    tokio::time::advance(7 * HOUR).await;
    bench.metrics.sweep_idle(bench.clock.now());
    assert_eq!(sum(&bench.samples(), "requests_total", &[]), Some(1.0));
    assert_eq!(sum(&bench.samples(), "request_duration_seconds_count", &[]), None);
    bench.live.remove(other.origin.number);
    bench.metrics.sweep_idle(bench.clock.now());
    assert_eq!(sum(&bench.samples(), "finish_reasons_total", &[("model", "gpt")]), Some(1.0));
    bench.live.remove(live.origin.number);
    bench.metrics.sweep_idle(bench.clock.now());
    assert_eq!(sum(&bench.samples(), "requests_total", &[]), None);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_free_again_when_its_name_went_idle() {
    let bench = Bench::new(&config());
    for n in 0..3 {
        bench.tell(&Exchange { tenant: name(&format!("t{n}")), ..exchange() });
    }
    tokio::time::advance(7 * HOUR).await;
    bench.metrics.sweep_idle(bench.clock.now());
    bench.tell(&Exchange { tenant: name("new"), ..exchange() });
    assert_eq!(sum(&bench.samples(), "requests_total", &[("tenant", "new")]), Some(1.0));
}

// ── what the configuration may say ──

#[test]
fn buckets_can_be_replaced_by_the_histograms_name() {
    let mut other = config();
    other.metrics.buckets.insert("request_duration_seconds".to_owned(), vec![1.0, 2.0]);
    let bench = Bench::new(&other);
    bench.tell(&stream());
    let samples = bench.samples();
    assert_eq!(sum(&samples, "request_duration_seconds_bucket", &[("le", "2")]), Some(1.0));
    assert_eq!(sum(&samples, "request_duration_seconds_bucket", &[("le", "5")]), None);
}

#[test]
fn histograms_of_models_have_the_tenant_where_it_is_asked_for() {
    let mut config = config();
    config.metrics.tenant_on_histograms = true;
    let bench = Bench::new(&config);
    bench.tell(&stream());
    let samples = bench.samples();
    let count = |labels: &[(&str, &str)]| sum(&samples, "output_tokens_per_second_count", labels);
    assert_eq!(count(&[("tenant", stream().tenant.as_str())]), Some(1.0));
    assert_eq!(count(&[("tenant", "nobody")]), None);
    assert!(!bench.page(Format::Text004).contains("proxy_overhead_seconds_count{tenant"));
}

#[test]
fn buckets_of_what_is_no_histogram_are_an_error_that_says_what_there_is() {
    for (histogram, bounds, want) in [
        (
            "requests_total",
            vec![1.0],
            "replace the buckets of `requests_total`: no histogram is called so; there are time_to_first_token_seconds, ",
        ),
        ("request_input_tokens", vec![], "replace the buckets of `request_input_tokens`: the list is empty"),
    ] {
        let mut wrong = config();
        wrong.metrics.buckets.insert(histogram.to_owned(), bounds);
        let made = Metrics::new(&wrong, Arc::default(), Arc::default(), Clock::start());
        let error = made.unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
}

// ── whatever the names ──

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::collection::vec(any::<char>(), 0..12).prop_map(String::from_iter),
        2 => "[ab]{0,2}",
        2 => "[\"\\\\\n{},= #é]{1,6}",
        1 => "[xü]{4096}",
        1 => prop_oneof![Just("other"), Just("unknown"), Just("search"), Just("llama")].prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sums_lose_nothing(records in proptest::collection::vec((names(), names(), any::<bool>(), 0..1_000u64), 1..40)) {
        let bench = Bench::new(&config());
        let (mut ok, mut tokens) = (0.0, 0.0);
        for (tenant, model, accepted, input) in &records {
            let base = if *accepted { exchange() } else { refused() };
            let input = Some(Count::reported(*input));
            bench.tell(&Exchange { tenant: name(tenant), model: requested(model), input, ..base });
            if *accepted {
                ok += 1.0;
                tokens += input.map_or(0.0, |count| count.value as f64);
            }
        }
        for format in [Format::Text004, Format::OpenMetrics100] {
            let page = samples(&bench.page(format));
            prop_assert_eq!(sum(&page, "requests_total", &[]), Some(records.len() as f64));
            prop_assert_eq!(sum(&page, "requests_total", &[("code", "200")]).unwrap_or(0.0), ok);
            prop_assert_eq!(sum(&page, "input_tokens_total", &[]), Some(tokens));
            prop_assert_eq!(sum(&page, "request_duration_seconds_count", &[]), Some(records.len() as f64));
            let tenants: HashSet<_> = page.keys().filter_map(|(_, labels)| labels.get("tenant")).collect();
            prop_assert!(tenants.len() <= 4 + 2 * 3, "{:?}", tenants);
            for (_, labels) in page.keys() {
                prop_assert!(labels.values().all(|value| value.len() <= labels::LONGEST_NAME));
            }
        }
    }
}

// ── tokens while they flow ──

/// Something that happens to what is counted.
#[derive(Debug, Clone)]
enum Event {
    Flow { number: u64, so_far: Tokens, tenant: u8 },
    Settled { number: u64, input: Option<u64>, output: Option<u64>, tenant: u8 },
    Swept { seconds: u64 },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let count = || 0..5_000_u64;
    let flow = (0..5_u64, count(), count(), 0..6_u8);
    let flow = flow.prop_map(|(number, input, output, tenant)| Event::Flow {
        number,
        so_far: Tokens { input, output },
        tenant,
    });
    let known = || prop::option::weighted(0.8, count());
    let settled = (0..5_u64, known(), known(), 0..6_u8);
    let settled =
        settled.prop_map(|(number, input, output, tenant)| Event::Settled { number, input, output, tenant });
    let swept = (0..100_u64).prop_map(|seconds| Event::Swept { seconds });
    prop::collection::vec(prop_oneof![4 => flow, 2 => settled, 1 => swept], 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]
    /// Through the whole of it, budgets of names and all: more tenants than have series, models that change.
    #[test]
    fn no_token_counter_falls_and_at_rest_they_are_what_was_settled(events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new(&config());
            let (mut before, mut settled) = (Samples::new(), 0);
            let mut open: BTreeMap<u64, Tokens> = BTreeMap::new();
            let mut settle = |number, input: Option<u64>, output: Option<u64>, tenant: u8, open: &mut BTreeMap<u64, Tokens>| {
                let added = open.remove(&number).unwrap_or_default();
                settled += input.unwrap_or(added.input) + output.unwrap_or(added.output);
                let [input, output] = [input, output].map(|count| count.map(Count::reported));
                let (tenant, model) = (name(&format!("t{tenant}")), requested(if tenant == 0 { "other-gpt" } else { "gpt" }));
                bench.tell(&Exchange { number, input, output, tenant, model, ..exchange() });
            };
            for event in events {
                match event {
                    Event::Flow { number, so_far, tenant } => {
                        let origin = Origin { number, ..origin(&format!("t{tenant}"), bench.clock.now()) };
                        let accepted = accepted(requested("gpt"));
                        let added = open.entry(number).or_default();
                        *added = Tokens { input: added.input.max(so_far.input), output: added.output.max(so_far.output) };
                        bench.metrics.record(&Fact::Flow { origin: &origin, accepted: &accepted, so_far, reserved: None });
                    }
                    Event::Settled { number, input, output, tenant } => settle(number, input, output, tenant, &mut open),
                    Event::Swept { seconds } => {
                        tokio::time::advance(Duration::from_secs(seconds)).await;
                        bench.metrics.sweep_idle(bench.clock.now());
                    }
                }
                let now = bench.samples();
                for (series, value) in before.iter().filter(|((name, _), _)| name.ends_with("put_tokens_total")) {
                    prop_assert!(now.get(series) >= Some(value), "{series:?} fell from {value}");
                }
                before = now;
            }
            for number in open.keys().copied().collect::<Vec<_>>() {
                settle(number, Some(1), Some(1), 1, &mut open);
            }
            let samples = bench.samples();
            let of = |name, labels: &[_]| sum(&samples, name, labels).unwrap_or(0.0);
            let counted = of("input_tokens_total", &[]) + of("output_tokens_total", &[]);
            prop_assert_eq!(of("unsettled_tokens", &[("state", "live")]), 0.0);
            prop_assert_eq!(counted - of("unsettled_tokens", &[("state", "owed")]), settled as f64);
            Ok(())
        })?;
    }
}

/// The locks of a sweep, a scrape and a reload have one order: a reload that waits stops whoever asks for the settings
/// again, and would stop all three for good.
#[test]
fn sweeps_scrapes_and_reloads_do_not_wait_for_each_other_in_a_circle() {
    let (bench, config) = (Arc::new(Bench::new(&config())), Arc::new(config()));
    let (done, waits) = std::sync::mpsc::channel();
    let each: [fn(&Bench, &Config); 3] = [
        |bench, _| bench.metrics.sweep_idle(bench.clock.now()),
        |bench, _| drop(bench.metrics.tokens_last_minute(bench.clock.now())),
        |bench, config| bench.metrics.apply(config),
    ];
    for what in each {
        let (bench, config, done) = (Arc::clone(&bench), Arc::clone(&config), done.clone());
        std::thread::spawn(move || {
            (0..5_000).for_each(|_| what(&bench, &config));
            done.send(()).unwrap();
        });
    }
    (0..3).for_each(|_| waits.recv_timeout(Duration::from_secs(60)).expect("they wait for each other"));
}

#[tokio::test(start_paused = true)]
async fn the_last_minute_is_whole_however_short_series_may_idle() {
    let mut config = config();
    config.metrics.idle_series = Duration::from_secs(10);
    let bench = Bench::new(&config);
    bench.tell(&Exchange { output: Some(Count::reported(10)), ..exchange() });
    tokio::time::advance(Duration::from_secs(20)).await;
    bench.metrics.sweep_idle(bench.clock.now());
    assert_eq!(sum(&bench.samples(), "tokens_last_minute", &[("tenant", "acme")]), Some(10.0));
    tokio::time::advance(Duration::from_secs(60)).await;
    bench.metrics.sweep_idle(bench.clock.now());
    assert_eq!(sum(&bench.samples(), "tokens_last_minute", &[("tenant", "acme")]), None);
}

#[tokio::test(start_paused = true)]
async fn no_series_has_a_label_twice() {
    let mut config = config();
    config.metrics.tenant_on_histograms = true;
    let bench = Bench::new(&config);
    bench.tell(&Exchange { output: Some(Count::reported(10)), ..stream() });
    tokio::time::advance(Duration::from_secs(120)).await;
    let page = bench.page(Format::Text004);
    assert_eq!(page.lines().find(|line| line.matches("tenant=").count() > 1), None);
    assert!(page.contains("streamgauge_tokens_per_minute_count{tenant="), "{page}");
}

#[tokio::test(start_paused = true)]
async fn the_newest_word_of_an_upstreams_limits_counts_and_its_reset_comes_nearer() {
    let bench = Bench::new(&config());
    let wall = |at| SystemTime::UNIX_EPOCH + Duration::from_secs(1_799_999_998) + millis(at);
    let told = |remaining: &str, reset: &str, at| {
        let mut limits = UpstreamLimits::default();
        limits.take("x-ratelimit-remaining-tokens", remaining);
        limits.take("anthropic-ratelimit-requests-reset", reset);
        limits.take("x-ratelimit-reset-tokens", "6m0s");
        let told = ToldLimits { at: Moment::new(millis(at)), wall: wall(at), limits: Box::new(limits) };
        bench.tell(&Exchange { limits: Some(told), ..exchange() });
    };
    tokio::time::advance(millis(5_000)).await;
    told("100", "2027-01-15T08:01:00Z", 3_000);
    told("900", "2027-01-15T07:00:00Z", 1_000); // a long stream that began before it
    let value = |name: &str, kind: &str| sum(&bench.samples(), name, &[("model", "gpt"), ("kind", kind)]);
    assert_eq!(value("upstream_ratelimit_remaining", "tokens"), Some(100.0));
    assert_eq!(value("upstream_ratelimit_limit", "tokens"), None, "nobody said");
    assert_eq!(value("upstream_ratelimit_reset_seconds", "tokens"), Some(358.0));
    assert_eq!(value("upstream_ratelimit_reset_seconds", "requests"), Some(57.0), "by the wall clock");
    tokio::time::advance(Duration::from_secs(400)).await;
    assert_eq!(value("upstream_ratelimit_reset_seconds", "tokens"), Some(0.0));
}
