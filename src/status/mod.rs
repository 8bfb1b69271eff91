//! What a person on call wants to see now, of this one sidecar: who hangs, what is wrong, how near limits are. The same
//! facts as JSON ([`Status`] serialised, docs/status.md) and as a page ([`page`]).
//!
//! Everything is read when somebody asks, from what is kept anyway: nothing here is on the way of traffic. Absent: history
//! (Prometheus has it), other replicas, and what was said: no prompt, no answer, no header's value but those that name a
//! tenant and a request.

mod open;
pub mod page;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hashbrown::HashMap;
use serde::Serialize;

use crate::account::slo::Slo;
use crate::clock::Moment;
use crate::config::{Config, Target, Transport};
use crate::exchange::{Name, Outcome};
use crate::live::Live;
use crate::proxy::Proxy;
use crate::sinks::metrics::{BudgetFigure, Metrics, WindowFigure};
use crate::sinks::recent::{Recent, Score, Scores};
pub use open::{OpenExchange, State};
pub use trouble::Trouble;

/// How many open exchanges are shown: a screen or two, of which the first lines are read.
pub const OPEN_SHOWN: usize = 50;

/// How many tenants, and how many models, are shown. /metrics has all.
pub const NAMES_SHOWN: usize = 50;

const LONGEST_NAME: usize = 128; // as in labels; a longer one ends in `…` here

/// Where what is shown comes from.
#[derive(Debug)]
pub struct Sources {
    /// What is open, and the configuration in force.
    pub proxy: Arc<Proxy>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What happened lately.
    pub recent: Arc<Recent>,
}

/// The sidecar at one moment. What is unknown is absent.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The program's.
    pub version: &'static str,
    /// As `config` in the request log.
    pub config: String,
    /// When this was, in UTC.
    pub time: String,
    /// Since the start.
    pub uptime_seconds: f64,
    /// It takes requests; else it drains.
    pub ready: bool,
    /// How the last reload went.
    pub reload: Reload,
    /// What is wrong now, the gravest first.
    pub troubles: Vec<Trouble>,
    /// Exchanges that are open, of all upstreams.
    #[serde(flatten)]
    pub load: Load,
    /// The configured ones, and those of before a reload that still have exchanges.
    pub upstreams: Vec<Upstream>,
    /// The oldest open exchanges.
    pub open: Vec<OpenExchange>,
    /// How much of the last minute `models` tells of.
    pub window_seconds: f64,
    /// Models of that time, those with most requests first.
    pub models: Vec<Model>,
    /// Tenants, those nearest to a limit first.
    pub tenants: Vec<Tenant>,
    /// Objectives.
    pub slos: Vec<Objective>,
    /// How much is not shown.
    pub left_out: LeftOut,
}

/// How the last reload went.
#[derive(Debug, Serialize)]
pub struct Reload {
    /// It was taken, or there was none; else the log says why.
    pub successful: bool,
    /// When the configuration in force was loaded.
    pub loaded: String,
}

/// How many exchanges are open.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Load {
    /// All.
    pub in_flight: u64,
    /// Streams without a token yet.
    pub awaiting_first_token: u64,
    /// The age of the oldest of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_awaiting_first_token_seconds: Option<f64>,
}

/// An upstream.
#[derive(Debug, Serialize)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Where it is; none where it is not configured any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What is open there.
    #[serde(flatten)]
    pub load: Load,
    /// The exchange that ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<LastEnd>,
}

/// How an upstream's last exchange ended.
#[derive(Debug, Serialize)]
pub struct LastEnd {
    /// As the label `outcome`.
    pub outcome: &'static str,
    /// The status that the client got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// How long ago.
    pub seconds_ago: f64,
}

/// A model in the last minute.
#[derive(Debug, Default, Serialize)]
pub struct Model {
    /// The label; `unknown` where nothing has accepted the name yet.
    pub model: String,
    /// Exchanges that ended.
    pub requests: u64,
    /// Of those, how many the upstream or the sidecar failed.
    pub failed: u64,
    /// The same by the label `outcome`.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Median TTFT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_p50_seconds: Option<f64>,
    /// Of 100 first tokens 95 came within that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_p95_seconds: Option<f64>,
    /// Median of each answer's speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second_p50: Option<f64>,
    /// As `streamgauge_tokens_last_minute`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_last_minute: Option<u64>,
}

/// A tenant.
#[derive(Debug, Default, Serialize)]
pub struct Tenant {
    /// The name.
    pub tenant: String,
    /// What it has open.
    #[serde(flatten)]
    pub load: Load,
    /// As `streamgauge_tokens_last_minute`, of all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_last_minute: Option<u64>,
    /// Limits on tokens per minute.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Window>,
    /// Budgets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<Budget>,
}

/// A limit on tokens per minute.
#[derive(Debug, Serialize)]
pub struct Window {
    /// `*`: of all models together.
    pub model: String,
    /// So many in any sixty seconds.
    pub tokens_per_minute: u64,
    /// As `streamgauge_tpm_used`.
    pub used: u64,
}

/// A budget.
#[derive(Debug, Serialize)]
pub struct Budget {
    /// Three letters.
    pub currency: String,
    /// How often it begins anew.
    pub period: String,
    /// For a period.
    pub amount: f64,
    /// As `streamgauge_budget_spent`.
    pub spent: f64,
}

/// An objective.
#[derive(Debug, Serialize)]
pub struct Objective {
    /// Its name.
    pub slo: String,
    /// The share of requests that is to keep it.
    pub objective: f64,
    /// The times that it asks for: `ttft`, `tpot`, `duration`.
    pub threshold_seconds: BTreeMap<&'static str, f64>,
    /// Requests that kept it since the start of this process.
    pub good_since_start: u64,
    /// Requests that did not.
    pub bad_since_start: u64,
}

/// How many of each are not shown.
#[derive(Debug, Default, Serialize)]
pub struct LeftOut {
    /// Open exchanges.
    pub open: usize,
    /// Models.
    pub models: usize,
    /// Tenants.
    pub tenants: usize,
}

impl Sources {
    /// The sidecar now. `ready`: whether it takes requests.
    pub fn look(&self, ready: bool) -> Status {
        let clock = self.proxy.clock;
        let now = clock.now();
        let config = Arc::clone(&self.proxy.routes.load().config);
        let open = self.proxy.live.snapshot();
        let loads = Loads::of(&open, now);
        let scores = self.recent.scores();
        let tokens = self.metrics.tokens_by_tenant_and_model();
        let (successful, loaded) = self.metrics.last_reload();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION"),
            config: config.hash.to_string(),
            time: utc(clock.wall(now)),
            uptime_seconds: seconds(now.since(Moment::default())),
            ready,
            reload: Reload { successful, loaded: utc(loaded) },
            troubles: Vec::new(),
            upstreams: self.upstreams(&config, &loads, now),
            open: open::oldest(&open, &config.models, now),
            window_seconds: seconds(scores.covers),
            models: models(scores, &tokens),
            tenants: self.tenants(&loads, &tokens),
            slos: self.objectives(&config.slos.0),
            left_out: LeftOut::default(),
            load: loads.all,
        };
        status.troubles = trouble::all(&status, self.metrics.limit_store_is_up());
        status.left_out = LeftOut {
            open: open.len() - status.open.len(),
            models: cut(&mut status.models),
            tenants: cut(&mut status.tenants),
        };
        status
    }

    fn upstreams(&self, config: &Config, loads: &Loads, now: Moment) -> Vec<Upstream> {
        let last = self.recent.last_answers();
        let upstream = |name: &Name, url: Option<String>| {
            let last = last.get(name).map(|last| LastEnd {
                outcome: last.outcome.label(),
                code: last.code,
                seconds_ago: seconds(now.since(last.at)),
            });
            let load = loads.upstreams.get(name).cloned().unwrap_or_default();
            Upstream { name: shown(name), url, load, last }
        };
        let configured = config.upstreams.iter();
        let mut all: Vec<_> = configured.map(|own| upstream(&own.name, Some(url(&own.target)))).collect();
        let is_configured = |name: &Name| config.upstreams.iter().any(|own| own.name == *name);
        all.extend(
            loads.upstreams.keys().filter(|name| !is_configured(name)).map(|name| upstream(name, None)),
        );
        all
    }

    fn tenants(&self, loads: &Loads, tokens: &[(Name, Name, u64)]) -> Vec<Tenant> {
        let mut all: BTreeMap<Name, Tenant> = BTreeMap::new();
        let mut of = |name: &Name, add: &mut dyn FnMut(&mut Tenant)| {
            let new = || Tenant { tenant: shown(name), ..Tenant::default() };
            add(all.entry(name.clone()).or_insert_with(new));
        };
        for (name, load) in &loads.tenants {
            of(name, &mut |tenant| tenant.load = load.clone());
        }
        for (name, _, tokens) in tokens {
            of(name, &mut |tenant| *tenant.tokens_last_minute.get_or_insert(0) += tokens);
        }
        for WindowFigure { tenant: name, model, limit, used } in self.metrics.window_figures() {
            of(&name, &mut |tenant| {
                tenant.limits.push(Window { model: shown(&model), tokens_per_minute: limit, used });
            });
        }
        for BudgetFigure { tenant: name, currency, period, amount, spent } in self.metrics.budget_figures() {
            of(&name, &mut |tenant| {
                let (currency, period) = (currency.to_string(), period.to_string());
                tenant.budgets.push(Budget { currency, period, amount, spent });
            });
        }
        let mut all: Vec<Tenant> = all.into_values().collect();
        all.sort_by(|one, other| other.urgency().total_cmp(&one.urgency()));
        all
    }

    fn objectives(&self, slos: &[Slo]) -> Vec<Objective> {
        let verdicts = self.recent.verdicts();
        let objective = |slo: &Slo| {
            let verdicts = verdicts.get(&slo.name).copied().unwrap_or_default();
            Objective {
                slo: shown(&slo.name),
                objective: f64::from(slo.objective) / 1e6,
                threshold_seconds: slo.asks.thresholds().map(|(kind, time)| (kind, seconds(time))).collect(),
                good_since_start: verdicts.good,
                bad_since_start: verdicts.bad,
            }
        };
        slos.iter().map(objective).collect()
    }
}

impl Tenant {
    /// The largest share of a limit that is used.
    fn share_used(&self) -> f64 {
        self.limits.iter().map(Window::share_used).fold(0.0, f64::max)
    }

    /// What is near a limit comes first; then who waits and who works.
    fn urgency(&self) -> f64 {
        let waits = self.load.oldest_awaiting_first_token_seconds.unwrap_or(0.0);
        let busy = self.tokens_last_minute.unwrap_or(0) as f64;
        self.share_used() * 1e12 + waits * 1e9 + busy + self.load.in_flight as f64
    }
}

impl Window {
    /// Of the limit; 1 and more: nothing is left.
    fn share_used(&self) -> f64 {
        if self.tokens_per_minute == 0 { 1.0 } else { self.used as f64 / self.tokens_per_minute as f64 }
    }
}

/// How many are open, by whose they are.
#[derive(Debug, Default)]
struct Loads {
    all: Load,
    upstreams: BTreeMap<Name, Load>,
    tenants: HashMap<Name, Load>,
}

impl Loads {
    fn of(open: &[Arc<Live>], now: Moment) -> Self {
        let mut loads = Self::default();
        for live in open {
            let waits = live.awaiting_since().map(|since| seconds(now.since(since)));
            loads.all.add(waits);
            let origin = &live.origin;
            match loads.upstreams.get_mut(&origin.upstream) {
                Some(load) => load.add(waits),
                None => loads.upstreams.entry(origin.upstream.clone()).or_default().add(waits),
            }
            loads.tenants.entry_ref(&origin.tenant).or_default().add(waits);
        }
        loads
    }
}

impl Load {
    fn add(&mut self, waits: Option<f64>) {
        self.in_flight += 1;
        if let Some(waits) = waits {
            self.awaiting_first_token += 1;
            let oldest = self.oldest_awaiting_first_token_seconds.unwrap_or(0.0);
            self.oldest_awaiting_first_token_seconds = Some(oldest.max(waits));
        }
    }
}

const UNKNOWN: &str = "unknown"; // as the label has it

fn models(scores: Scores, tokens: &[(Name, Name, u64)]) -> Vec<Model> {
    let mut all: BTreeMap<String, Model> = BTreeMap::new();
    for (name, score) in scores.models {
        let model = name.as_ref().map_or_else(|| UNKNOWN.to_owned(), shown);
        all.insert(model.clone(), Model::of(model, score));
    }
    for (_, name, tokens) in tokens.iter().filter(|(.., tokens)| *tokens > 0) {
        let new = || Model { model: shown(name), ..Model::default() };
        *all.entry(shown(name)).or_insert_with(new).tokens_last_minute.get_or_insert(0) += tokens;
    }
    let mut all: Vec<Model> = all.into_values().collect();
    all.sort_by_key(|model| std::cmp::Reverse((model.requests, model.tokens_last_minute)));
    all
}

impl Model {
    fn of(model: String, score: Score) -> Self {
        let Score { outcomes, ttft_p50, ttft_p95, tps_p50 } = score;
        let failures = FAILURES.map(Outcome::label);
        Self {
            model,
            requests: outcomes.values().sum(),
            failed: outcomes.iter().filter(|(label, _)| failures.contains(label)).map(|(_, n)| n).sum(),
            outcomes,
            ttft_p50_seconds: ttft_p50.map(seconds),
            ttft_p95_seconds: ttft_p95.map(seconds),
            tokens_per_second_p50: tps_p50.map(|tps| (tps * 10.0).round() / 10.0),
            tokens_last_minute: None,
        }
    }
}

/// What a client would call broken.
const FAILURES: [Outcome; 5] = [
    Outcome::UpstreamFailed,
    Outcome::StreamFailed,
    Outcome::Truncated,
    Outcome::TimedOut,
    Outcome::SidecarFailed,
];

/// Leaves as many as are shown; gives how many those are not.
fn cut<T>(all: &mut Vec<T>) -> usize {
    let more = all.len().saturating_sub(NAMES_SHOWN);
    all.truncate(NAMES_SHOWN);
    more
}

/// A name as it is shown.
fn shown(name: &Name) -> String {
    let short = name.cut(LONGEST_NAME);
    if short == *name { short.to_string() } else { format!("{short}…") }
}

/// Where an upstream is, without anything that could be a secret.
fn url(target: &Target) -> String {
    let scheme = match (&target.tls, target.http2) {
        (Some(_), _) => "https",
        (None, true) => "h2c",
        (None, false) => "http",
    };
    match &target.transport {
        Transport::Unix(path) => format!("unix://{}", path.display()),
        Transport::Tcp { .. } => format!("{scheme}://{}", target.authority),
    }
}

fn utc(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// To the millisecond.
fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1e3
}
