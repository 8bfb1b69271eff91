//! The exposition: what Prometheus scrapes. Facts become series (`record`), a scrape makes a page of them and
//! of what is read at that moment (`scrape`), in the text format or as OpenMetrics.
//!
//! What there is, is in the [`catalog`]; how many series there may be is the budget's ([`labels`]). Nothing
//! here knows HTTP: the admin port does.

pub mod buckets;
mod budgets;
pub mod catalog;
pub mod docs;
mod family;
mod figures;
mod flow;
mod format;
mod hardware;
mod id;
pub mod labels;
mod limits;
mod page;
mod prices;
mod record;
mod row;
mod scrape;
mod slo;
#[cfg(test)]
mod tests;
mod upstream_limits;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use prometheus::IntCounter;
use prometheus::proto::MetricFamily;

use self::catalog::{Id, Kind, Row, TABLE};
use self::family::{Family, Histogram, Trail, Wide};
pub use self::figures::{BudgetFigure, WindowFigure};
use self::flow::Flows;
pub use self::format::{Format, accepts_gzip, gzip};
use self::hardware::Costs;
use self::labels::{Budget, Key, Label, Labels, OTHER, cut};
use crate::account::model::Models;
use crate::account::quota::ALL;
use crate::account::slo::Slos;
use crate::admission::Admission;
use crate::budgets::Budgets;
use crate::clock::{Clock, Moment};
use crate::config::Config;
use crate::exchange::{Name, Source};
use crate::live::LiveTable;
use crate::vitals::Vitals;

const DIRECTIONS: [&str; 2] = [INPUT, OUTPUT];
const INPUT: &str = "input";
const OUTPUT: &str = "output";
const SOURCES: [&str; 4] =
    [Source::Reported.label(), Source::Tokenized.label(), Source::Estimated.label(), MISSING];
const UNREPORTED: [&str; 2] = [Source::Tokenized.label(), Source::Estimated.label()];
const MISSING: &str = "missing";

/// Why there are no metrics. Completes "could not …".
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// `metrics.buckets` has a name that is no histogram's.
    #[error("replace the buckets of `{name}`: no histogram is called so; there are {}", histograms())]
    NoHistogram {
        /// The name.
        name: String,
    },
    /// `metrics.buckets` has a list without bounds.
    #[error("replace the buckets of `{name}`: the list is empty")]
    NoBounds {
        /// The histogram.
        name: String,
    },
    /// The library refused.
    #[error("make the metric `{name}`")]
    Refused {
        /// The metric.
        name: &'static str,
        /// What the library says.
        source: prometheus::Error,
    },
}

fn histograms() -> String {
    let names = TABLE.iter().filter(|row| matches!(row.kind, Kind::Histogram(_))).map(|row| row.name);
    names.collect::<Vec<_>>().join(", ")
}

/// All metrics of one sidecar: told facts as a [`Sink`](crate::sinks::Sink), read by scrapes.
#[derive(Debug)]
pub struct Metrics {
    stores: Vec<Store>, // one for each row of the table, in its order
    tenants: Budget,
    models: Budget,
    flows: Flows,
    limits: upstream_limits::Told,
    price_names: prices::PriceNames,
    hardware_costs: Mutex<Costs>,
    windows: Option<Arc<Admission>>,
    spent: Option<Arc<Budgets>>,
    settings: RwLock<Settings>,
    reloaded: Mutex<Reloaded>,
    vitals: Arc<Vitals>,
    live: Arc<LiveTable>,
    clock: Clock,
    process: Process,
}

/// The series of one row.
#[derive(Debug)]
enum Store {
    Counters(Family<IntCounter>),
    Wide(Family<Wide>),
    Histograms(Family<Histogram>),
    Read, // at the scrape, from elsewhere
}

#[derive(Debug)]
struct Settings {
    idle: Duration,
    exemplars: bool,
    models: Arc<Models>,
    limits: limits::Told,
    budgets: budgets::Told,
    slos: Slos,
    presets: Vec<HashSet<Key>>, // series that are there from the start, for each row of the table
}

#[derive(Debug)]
struct Reloaded {
    successful: bool,
    at: SystemTime, // the last that succeeded
}

impl Metrics {
    /// The metrics of a sidecar that starts with this configuration.
    pub fn new(
        config: &Config,
        vitals: Arc<Vitals>,
        live: Arc<LiveTable>,
        clock: Clock,
    ) -> Result<Self, MetricsError> {
        if let Some(name) = config.metrics.buckets.keys().find(|name| !is_histogram(name)) {
            return Err(MetricsError::NoHistogram { name: name.clone() });
        }
        let stores = TABLE.iter().map(|row| Store::new(row, config)).collect::<Result<_, _>>()?;
        let metrics = Self {
            stores,
            tenants: Budget::new(config.tenants.limit, known_tenants(config)),
            models: Budget::new(config.metrics.model_limit, known_models(config)),
            flows: Flows::default(),
            limits: upstream_limits::Told::default(),
            price_names: prices::PriceNames::default(),
            hardware_costs: Mutex::new(Costs::from(clock.now())),
            windows: None,
            spent: None,
            settings: RwLock::new(Settings::of(config)),
            reloaded: Mutex::new(Reloaded { successful: true, at: clock.wall(clock.now()) }),
            vitals,
            live,
            clock,
            process: Process::new(),
        };
        metrics.preset();
        Ok(metrics)
    }

    /// Takes a reloaded configuration: names that are known, limits, idle time, exemplars. Buckets stay what
    /// they were at the start.
    pub fn apply(&self, config: &Config) {
        self.tenants.apply(config.tenants.limit, known_tenants(config));
        self.models.apply(config.metrics.model_limit, known_models(config));
        self.hardware_cost(self.clock.now()); // at the price that held until now
        *self.settings.write() = Settings::of(config);
        self.preset();
    }

    /// Tells how the last reload went.
    pub fn reload(&self, success: bool, at: SystemTime) {
        let mut reloaded = self.reloaded.lock();
        reloaded.successful = success;
        if success {
            reloaded.at = at;
        }
    }

    /// Drops the series of tenants and models that went idle, and frees their names' slots. A counter stays
    /// while an exchange of its tenant or model is in flight: what that settles would begin at 0 again.
    pub fn sweep_idle(&self, now: Moment) {
        let settings = self.settings.read();
        let idle = settings.idle;
        let is_old = |touched: Moment| now.since(touched) > idle;
        let mut busy = self.busy();
        self.flowing(&mut busy);
        self.tenants.free(|name, touched| is_old(touched) && !busy.tenants.contains(name));
        self.models.free(|name, touched| is_old(touched) && !busy.models.contains(name));
        let varying =
            TABLE.iter().zip(&self.stores).zip(&settings.presets).filter(|((row, _), _)| row.varies());
        for ((row, store), presets) in varying {
            match store {
                Store::Counters(family) => family.drop_idle(|key, touched| {
                    is_old(touched) && !presets.contains(key) && !busy.has_any_of(row.labels, key)
                }),
                Store::Wide(family) => {
                    family.drop_idle(|key, touched| is_old(touched) && !busy.has_any_of(row.labels, key));
                }
                Store::Histograms(family) => family.drop_idle(|_, touched| is_old(touched)),
                Store::Read => {}
            }
        }
        drop(settings);
        self.sweep_limits(is_old);
        self.price_names.retain(|label| self.models.find(label).is_some());
        self.sweep_flows(|labels, key, touched| is_old(touched) && !busy.has_any_of(labels, key), now);
    }

    /// A page.
    pub fn render(&self, format: Format) -> Vec<u8> {
        page::page(&self.gather(), format).into_bytes()
    }

    /// Makes the series that are to be there from the start.
    fn preset(&self) {
        let now = self.clock.now();
        for (store, presets) in self.stores.iter().zip(&self.settings.read().presets) {
            let Store::Counters(family) = store else { continue };
            for key in presets {
                family.touch(&Labels::of(family.labels(), key), now, |_| ());
            }
        }
    }

    /// Adds to a counter.
    fn add(&self, id: Id, labels: &Labels<'_>, n: u64, now: Moment) {
        let place = id as usize;
        debug_assert!(matches!(self.stores.get(place), Some(Store::Counters(_))), "{id:?} is no counter");
        if let Some(Store::Counters(family)) = self.stores.get(place) {
            family.touch(labels, now, |counter| counter.inc_by(n));
        }
    }

    /// Adds to a counter beyond 64 bits.
    fn add_wide(&self, id: Id, labels: &Labels<'_>, n: u128, now: Moment) {
        let place = id as usize;
        debug_assert!(matches!(self.stores.get(place), Some(Store::Wide(_))), "{id:?} is no such counter");
        if let Some(Store::Wide(family)) = self.stores.get(place) {
            family.touch(labels, now, |counter| counter.add(n));
        }
    }

    /// Adds a value to a histogram; `trail` is kept where the row has exemplars.
    fn observe(&self, id: Id, labels: &Labels<'_>, value: f64, trail: Option<Trail<'_>>, now: Moment) {
        let place = id as usize;
        debug_assert!(matches!(self.stores.get(place), Some(Store::Histograms(_))), "{id:?} is no histogram");
        if let (Some(row), Some(Store::Histograms(family))) = (TABLE.get(place), self.stores.get(place)) {
            let trail = trail.filter(|_| row.exemplars && self.settings.read().exemplars);
            family.touch(labels, now, |histogram| histogram.observe(value, trail));
        }
    }

    /// Whether a counter has the series of this key.
    fn has_series(&self, id: Id, key: &Key) -> bool {
        match self.stores.get(id as usize) {
            Some(Store::Counters(family)) => family.has(key),
            _ => false,
        }
    }

    /// Whose exchanges are in flight.
    fn busy(&self) -> Busy {
        let mut busy = Busy::default();
        for live in self.live.snapshot() {
            let tenant = &live.origin.tenant;
            busy.tenants.insert(self.tenants.find(tenant).unwrap_or_else(|| Name::from(OTHER)));
            busy.tenants.insert(tenant.clone()); // it may have had a slot earlier
            let Some(accepted) = live.accepted() else { continue };
            let Some(model) = accepted.model.label(true).map(cut) else { continue };
            busy.models.insert(self.models.find(&model).unwrap_or_else(|| Name::from(OTHER)));
            busy.models.insert(model);
        }
        busy
    }
}

#[derive(Debug, Default)]
struct Busy {
    tenants: HashSet<Name>,
    models: HashSet<Name>,
}

impl Busy {
    fn has_any_of(&self, labels: &[Label], key: &[Name]) -> bool {
        labels.iter().zip(key).any(|(label, value)| match label {
            Label::Tenant => self.tenants.contains(value),
            Label::Model => self.models.contains(value),
            _ => false,
        })
    }
}

impl Store {
    fn new(row: &'static Row, config: &Config) -> Result<Self, MetricsError> {
        let refused = |source| MetricsError::Refused { name: row.name, source };
        Ok(match row.kind {
            Kind::Counter => match row.wide {
                Some(unit) => Self::Wide(Family::new(row, row.labels.to_vec(), Wide::new(unit))),
                None => {
                    Self::Counters(Family::new(row, row.labels.to_vec(), family::counter().map_err(refused)?))
                }
            },
            Kind::Gauge => Self::Read,
            Kind::Histogram(buckets) => {
                let configured = config.metrics.buckets.get(row.name);
                let bounds = configured.map_or_else(|| buckets.bounds(), Vec::as_slice);
                if bounds.is_empty() {
                    return Err(MetricsError::NoBounds { name: row.name.to_owned() });
                }
                // How many kept an objective can be read off.
                let mut bounds: Vec<f64> =
                    bounds.iter().copied().chain(slo::thresholds(row.id, &config.slos)).collect();
                bounds.sort_by(f64::total_cmp);
                bounds.dedup();
                let by_tenant = config.metrics.tenant_on_histograms && row.can_have_tenant();
                let labels = by_tenant.then_some(Label::Tenant).into_iter().chain(row.labels.iter().copied());
                Self::Histograms(Family::new(
                    row,
                    labels.collect(),
                    Histogram::new(&bounds).map_err(refused)?,
                ))
            }
        })
    }
}

impl Settings {
    fn of(config: &Config) -> Self {
        let presets = |row: &Row| if row.from_start { presets(row, config) } else { HashSet::new() };
        Self {
            idle: config.metrics.idle_series,
            exemplars: config.metrics.exemplars,
            models: Arc::clone(&config.models),
            limits: limits::Told::of(config),
            budgets: budgets::Told::of(config),
            slos: config.slos.clone(),
            presets: TABLE.iter().copied().map(presets).collect(),
        }
    }
}

/// The labels of a row's series that are there from the start: every combination of what is configured.
fn presets(row: &Row, config: &Config) -> HashSet<Key> {
    match row.id {
        Id::TpmLimitHits => return limits::presets(config),
        Id::SloRequests | Id::SloBadRequests => return slo::presets(config),
        _ => {}
    }
    let values = |label: &Label| -> Vec<Name> {
        match label {
            // What is reported or missing is not unreported.
            Label::Source if row.id == Id::UnreportedTokens => UNREPORTED.map(Name::from).to_vec(),
            Label::Tenant => known_tenants(config).collect(),
            Label::Model => known_models(config).collect(),
            Label::Upstream => config.upstreams.iter().map(|upstream| upstream.name.clone()).collect(),
            Label::Direction => DIRECTIONS.map(Name::from).to_vec(),
            Label::Source => SOURCES.map(Name::from).to_vec(),
            _ => Vec::new(),
        }
    };
    let extend = |keys: Vec<Vec<Name>>, label: &Label| -> Vec<Vec<Name>> {
        let values = values(label);
        let longer = |key: &Vec<Name>| -> Vec<Vec<Name>> {
            values.iter().map(|value| [key.as_slice(), std::slice::from_ref(value)].concat()).collect()
        };
        keys.iter().flat_map(longer).collect()
    };
    row.labels.iter().fold(vec![Vec::new()], extend).into_iter().map(Key::from).collect()
}

/// The tenants that the configuration names.
fn known_tenants(config: &Config) -> impl Iterator<Item = Name> {
    let tenants = &config.tenants;
    let limited = config.limits.0.iter().map(|limit| &limit.tenant).filter(|tenant| tenant.as_str() != ALL);
    let budgeted = config.budgets.named().map(|account| &account.tenant);
    let named = tenants.known.iter().chain([&tenants.default]).chain(limited).chain(budgeted);
    let named: BTreeSet<_> = named.cloned().collect();
    named.into_iter()
}

fn known_models(config: &Config) -> impl Iterator<Item = Name> {
    config.models.iter().map(|model| model.name.clone())
}

fn is_histogram(name: &str) -> bool {
    TABLE.iter().any(|row| row.name == name && matches!(row.kind, Kind::Histogram(_)))
}

/// The standard metrics of the process; only Linux has them.
struct Process {
    #[cfg(target_os = "linux")]
    collector: prometheus::process_collector::ProcessCollector,
}

impl Process {
    fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            collector: prometheus::process_collector::ProcessCollector::for_self(),
        }
    }

    fn collect(&self) -> Vec<MetricFamily> {
        #[cfg(target_os = "linux")]
        let families = prometheus::core::Collector::collect(&self.collector);
        #[cfg(not(target_os = "linux"))]
        let families = Vec::new();
        families
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}
