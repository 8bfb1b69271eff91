//! Ten thousand exchanges that go wrong at random, many at once, on both sides of the sidecar: none is lost or counted
//! twice, and how each ended is what its client could see. `SEED=7 cargo test --test it faults` repeats a run.

mod client;
mod judge;
mod plan;
mod server;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use streamgauge::sinks::metrics::Format;

use super::harness::{ONE_UPSTREAM, Sidecar};
use client::{Clients, Saw};
use judge::{judge, reaches};
use plan::{Behind, Dice, Plans};

/// Upstreams are told apart by host, so that paths stay as the dialects know them. What hangs does so for longer than
/// the deadlines.
const UPSTREAMS: &str = "
upstreams:
  - {name: sim, url: 'http://sim:1', match: {host: sim}, first_byte_timeout: 20s, idle_timeout: 20s}
  - {name: sim2, url: 'h2c://sim:1', match: {host: sim2}, first_byte_timeout: 20s, idle_timeout: 20s}
  - {name: asked, url: 'http://sim:1', match: {host: asked}, inject_usage: true, first_byte_timeout: 20s, idle_timeout: 20s}
  - {name: script, url: 'http://script:1', match: {host: script}, first_byte_timeout: 20s, idle_timeout: 20s}
limits:
  - {tenant: small, tokens_per_minute: 5000, action: reject}
  - {tenant: patient, tokens_per_minute: 5000, action: delay, max_delay: 10s}
";

const EXCHANGES: u64 = 10_000;
const AT_ONCE: usize = 200;
const CUT: u64 = 300; // of them, those that our shutdown meets
const LONGEST: Duration = Duration::from_secs(1200); // of paused time: every wait has an end
const SCRAPE_EVERY: Duration = Duration::from_millis(100); // of real time, whatever the exchanges are at
const TOLD: usize = 20; // of what is wrong

#[test]
fn nothing_is_lost_or_counted_twice_through_ten_thousand_faults() {
    let given = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one("faults") >> 40);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let ran = catch_unwind(AssertUnwindSafe(|| runtime.unwrap().block_on(run(seed))));
    let wrong = ran.unwrap_or_else(|panic| vec![format!("a panic: {:?}", panic.downcast_ref::<String>())]);
    let told = wrong.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "SEED={seed} repeats it; {} are wrong:\n{told}", wrong.len());
}

/// Gives all that is wrong.
async fn run(seed: u64) -> Vec<String> {
    let (sidecar, upstream) = Sidecar::start(UPSTREAMS);
    let (alone, nobody) = Sidecar::start(ONE_UPSTREAM);
    drop(nobody);
    let plans = Arc::new(Plans::new(seed));
    server::play(&sidecar, upstream, Arc::clone(&plans));
    let world = Arc::new(World { sidecar, alone, plans, saw: Mutex::default(), open: Mutex::default() });

    let (stop, stopped) = channel::<()>();
    let metrics = Arc::clone(&world.sidecar.metrics);
    let scraping = std::thread::spawn(move || {
        let (mut before, mut wrong, mut scrapes) = (Page::default(), Vec::new(), 0);
        while matches!(stopped.recv_timeout(SCRAPE_EVERY), Err(RecvTimeoutError::Timeout)) {
            let page = Page::of(&metrics.render(Format::Text004));
            wrong.extend(page.inconsistencies(&before));
            (before, scrapes) = (page, scrapes + 1);
        }
        (wrong, scrapes)
    });
    let mut wrong = world.exchange(0..EXCHANGES - CUT, AT_ONCE, seed).await;
    world.cut(EXCHANGES - CUT..EXCHANGES, seed).await;
    drop(stop);
    let (found, scrapes) = scraping.join().unwrap();
    wrong.extend(found);
    wrong.extend((scrapes == 0).then(|| "nobody scraped".to_owned()));
    wrong.extend(world.check().await);
    wrong
}

/// Two sidecars: one with upstreams that go wrong, one whose upstream nobody can reach.
struct World {
    sidecar: Sidecar,
    alone: Sidecar,
    plans: Arc<Plans>,
    /// What each exchange's client saw.
    saw: Mutex<BTreeMap<u64, Saw>>,
    /// Those that are not over.
    open: Mutex<BTreeSet<u64>>,
}

impl World {
    fn sidecar(&self, behind: Behind) -> &Sidecar {
        if behind == Behind::Nobody { &self.alone } else { &self.sidecar }
    }

    /// Lets so many clients at once make these exchanges; meanwhile counts what is open, at random moments.
    async fn exchange(
        self: &Arc<Self>,
        numbers: std::ops::Range<u64>,
        at_once: usize,
        seed: u64,
    ) -> Vec<String> {
        let clients = self.clients(numbers, at_once);
        let (mut dice, mut wrong) = (Dice::of(seed, u64::MAX), Vec::new());
        let begun = tokio::time::Instant::now();
        while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
            if begun.elapsed() > LONGEST {
                let plans: Vec<_> = self.open.lock().iter().map(|number| self.plans.plan(*number)).collect();
                panic!("never over: {plans:#?}");
            }
            tokio::time::sleep(Duration::from_millis(dice.below(8000))).await;
            let open = self.sidecar.proxy.live.len() as f64;
            let in_flight = Page::of(&self.sidecar.metrics.render(Format::Text004)).sum("requests_in_flight");
            wrong.extend((open != in_flight).then(|| format!("{open} are open, {in_flight} in flight")));
        }
        for client in clients {
            client.await.unwrap();
        }
        wrong
    }

    /// The same until our shutdown cuts what still runs, at once after they have begun or while they run.
    async fn cut(self: &Arc<Self>, numbers: std::ops::Range<u64>, seed: u64) {
        let clients = self.clients(numbers, usize::try_from(CUT).unwrap());
        tokio::time::sleep(Duration::from_millis(1 + Dice::of(seed, EXCHANGES).below(300))).await;
        self.sidecar.cut();
        self.alone.cut();
        for client in clients {
            client.await.unwrap();
        }
    }

    fn clients(
        self: &Arc<Self>,
        numbers: std::ops::Range<u64>,
        at_once: usize,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        let next = Arc::new(AtomicU64::new(numbers.start));
        let client = |_| {
            let (world, next, end) = (Arc::clone(self), Arc::clone(&next), numbers.end);
            self.sidecar.beside(async move {
                let mut clients = Clients::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        break;
                    }
                    let plan = world.plans.plan(number);
                    world.open.lock().insert(number);
                    let saw = clients.make(world.sidecar(plan.behind), &plan, &world.plans).await;
                    world.saw.lock().insert(number, saw);
                    world.open.lock().remove(&number);
                }
            })
        };
        (0..at_once).map(client).collect()
    }

    /// At rest: every exchange is recorded, once, as its client saw it.
    async fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut lines: HashMap<u64, Vec<Value>> = HashMap::new();
        for sidecar in [&self.sidecar, &self.alone] {
            let settled = all_settled(sidecar).await;
            wrong.extend(at_rest(sidecar, &settled));
            for line in settled {
                let number = line["request_id"].as_str().and_then(|id| id.parse().ok()).unwrap_or(u64::MAX);
                lines.entry(number).or_default().push(line);
            }
        }
        let saw = self.saw.lock();
        let mut outcomes = BTreeSet::new();
        for (number, saw) in saw.iter() {
            let plan = self.plans.plan(*number);
            let lines = lines.remove(number).unwrap_or_default();
            let is_cut = *number >= EXCHANGES - CUT;
            let told = match lines.as_slice() {
                [line] if reaches(&plan, is_cut) != Some(false) => {
                    outcomes.insert(line["outcome"].as_str().unwrap().to_owned());
                    judge(&plan, self.plans.case(&plan), saw, line, is_cut)
                }
                [] if reaches(&plan, is_cut) != Some(true) => Ok(()),
                lines => Err(format!("{} lines", lines.len())),
            };
            wrong.extend(told.err().map(|why| format!("{why}\n    {plan:?}\n    {saw:?}\n    {lines:?}")));
        }
        wrong.extend(lines.keys().map(|number| format!("nobody sent {number}")));
        wrong.extend((saw.len() as u64 != EXCHANGES).then(|| format!("only {} were made", saw.len())));
        let want = [
            "client_gone",
            "completed",
            "drained",
            "rejected",
            "stream_failed",
            "timed_out",
            "truncated",
            "upstream_failed",
            "upstream_refused",
        ];
        wrong.extend((!outcomes.iter().eq(want.iter())).then(|| format!("outcomes: {outcomes:?}")));
        wrong
    }
}

/// Waits until what has ended is settled, too: text is counted on a thread of its own, in real time.
async fn all_settled(sidecar: &Sidecar) -> Vec<Value> {
    loop {
        let lines = sidecar.exchanges().await;
        let page = Page::of(&sidecar.metrics.render(Format::Text004));
        if lines.len() as f64 >= page.sum("requests_started_total") {
            return lines;
        }
        sidecar.recorded().await;
    }
}

/// Whether all that counts exchanges and tokens says the same as the lines.
fn at_rest(sidecar: &Sidecar, lines: &[Value]) -> Vec<String> {
    let page = Page::of(&sidecar.metrics.render(Format::Text004));
    let mut wrong = Vec::new();
    let mut same = |what: &str, value: f64, want: f64| {
        wrong.extend(((value - want).abs() > 1e-6).then(|| format!("{what} is {value}, not {want}")));
    };
    let count = lines.len() as f64;
    same("requests_in_flight", page.sum("requests_in_flight"), 0.0);
    same("the number of open ones", sidecar.proxy.live.len() as f64, 0.0);
    for name in ["requests_started_total", "requests_ended_total", "requests_total"] {
        same(name, page.sum(name), count);
    }
    same("what was dropped", page.sum("records_dropped_total"), 0.0);
    same("panics", page.sum("observation_failures_total{reason=\"panic\"}"), 0.0);
    for (direction, member) in [("input", "input_tokens"), ("output", "output_tokens")] {
        let unsettled = |state: &str| {
            page.sum(&format!("unsettled_tokens{{direction=\"{direction}\",state=\"{state}\"}}"))
        };
        // What a refused request was estimated to ask is in its line, and in no counter.
        let accepted = |line: &&Value| line["code"].as_u64().is_some_and(|code| (200..300).contains(&code));
        let accepted: Vec<&Value> = lines.iter().filter(accepted).collect();
        let settled: f64 = accepted.iter().filter_map(|line| line[member].as_f64()).sum();
        let counted = page.sum(&format!("{member}_total")) - unsettled("owed");
        // Of a stream that could not be read to its end stays what had flowed, and its line has no count.
        let uncounted = accepted.iter().filter(|line| line["stream"] == true && line[member].is_null());
        let most: f64 = uncounted.filter_map(|line| line["bytes_out"].as_f64()).sum();
        same(member, counted.clamp(settled, settled + most), counted);
        same("what flows", unsettled("live"), 0.0);
    }
    wrong
}

/// A scrape: its samples by name and labels, without the prefix.
#[derive(Default)]
struct Page {
    samples: BTreeMap<String, f64>,
    counters: BTreeSet<String>,
}

impl Page {
    fn of(text: &[u8]) -> Self {
        let (text, mut page) = (String::from_utf8_lossy(text), Self::default());
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ").unwrap_or(line).strip_prefix("streamgauge_"))
        {
            let (name, value) = line.rsplit_once(' ').unwrap();
            match value.parse() {
                Ok(value) => drop(page.samples.insert(name.to_owned(), value)),
                Err(_) if value == "counter" => drop(page.counters.insert(name.to_owned())),
                Err(_) => {}
            }
        }
        page
    }

    /// The sum over the series whose names and labels begin so.
    fn sum(&self, name: &str) -> f64 {
        let of = |sample: &str| {
            sample.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        self.samples.iter().filter(|(sample, _)| of(sample)).map(|(_, value)| value).sum()
    }

    /// What cannot be within one page, or after an earlier one.
    fn inconsistencies(&self, before: &Self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (sample, started) in &self.samples {
            let Some(labels) = sample.strip_prefix("requests_started_total") else { continue };
            let ended = self.samples[&format!("requests_ended_total{labels}")];
            let in_flight = self.samples[&format!("requests_in_flight{labels}")];
            if ended > *started || in_flight != started - ended {
                wrong.push(format!("{labels}: {started} started, {ended} ended, {in_flight} in flight"));
            }
        }
        for (sample, value) in &self.samples {
            let name = sample.split('{').next().unwrap();
            let earlier = before.samples.get(sample).copied().unwrap_or(0.0);
            if self.counters.contains(name) && *value < earlier {
                wrong.push(format!("{sample} fell from {earlier} to {value}"));
            }
        }
        wrong
    }
}
