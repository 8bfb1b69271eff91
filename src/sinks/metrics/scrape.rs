//! What is read at the moment of a scrape rather than recorded: the sidecar's own pulse, and what is open.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::catalog::{Id, Kind, Row, Section, TABLE};
use super::family::Block;
use super::labels::{Key, Label, Labels};
use super::{Metrics, Store};
use crate::exchange::Name;
use crate::vitals::{DropStage, JwksVitals, ObservationFailure, UsageInjection};

/// One upstream at the moment of a scrape. Started and ended are read once, so that every page adds up.
#[derive(Debug, Default)]
struct Pulse {
    started: u64,
    ended: u64,
    chunks: u64,
    /// None where usage was never to be asked for.
    injections: Option<[(UsageInjection, u64); UsageInjection::ALL.len()]>,
    awaiting: u64,
    oldest: Duration,
}

impl Metrics {
    /// Every metric that has a series, in the table's order, the process's last.
    pub(super) fn gather(&self) -> Vec<Block> {
        self.close_minute(self.clock.now());
        let pulses = self.pulses();
        let mut blocks: Vec<Block> = self.process.collect().into_iter().map(Block::from).collect();
        let mut series: usize = blocks.iter().map(Block::series).sum();
        let process = std::mem::take(&mut blocks);
        for (row, store) in TABLE.iter().zip(&self.stores) {
            let values = self.keyed(row).or_else(|| Some(picked(row, self.read(row.id, &pulses, series)?)));
            let block = match (values, store) {
                (Some(values), _) => Block::of_values(row, &values),
                (None, Store::Counters(family)) => family.collect(),
                (None, Store::Wide(family)) => family.collect(),
                (None, Store::Histograms(family)) => family.collect(),
                (None, Store::Read) => continue,
            };
            series += block.series();
            blocks.push(block);
        }
        blocks.extend(process);
        blocks.retain(|block| block.series() > 0);
        blocks
    }

    /// The values of a metric that has a file of its own to tell them.
    fn keyed(&self, row: &Row) -> Option<Vec<(Key, f64)>> {
        let now = self.clock.now();
        match row.id {
            Id::TokensLastMinute => Some(self.tokens_last_minute(now)),
            id @ (Id::TpmLimit | Id::TpmUsed) => Some(self.windows(id)),
            id @ (Id::LimitStoreUp | Id::LimitStoreFallbacks) => Some(self.limit_store(id)),
            id @ (Id::SloThreshold | Id::SloObjective) => Some(self.objectives(id)),
            Id::HardwareCost => Some(self.hardware_cost(now)),
            id @ (Id::Budget | Id::BudgetSpent) => Some(self.budgets(id)),
            Id::PricePerMillionTokens => Some(self.prices()),
            id @ (Id::JwksLastFetch | Id::JwksFetchFailures) => Some(self.keys_fetched(id)),
            id @ (Id::UpstreamLimit | Id::UpstreamLimitRemaining | Id::UpstreamLimitReset) => {
                Some(self.told_limits(id, now))
            }
            id if row.section == Section::Models && row.kind == Kind::Gauge => Some(self.of_models(id)),
            _ => None,
        }
    }

    /// By the URLs of keys: when they came last, or how often they did not.
    fn keys_fetched(&self, id: Id) -> Vec<(Key, f64)> {
        let value = |vitals: &JwksVitals| match id {
            Id::JwksLastFetch => vitals.last_fetch(),
            _ => vitals.failures.get() as f64,
        };
        self.vitals.jwks().into_iter().map(|(url, vitals)| (Key::from([url]), value(&vitals))).collect()
    }

    fn pulses(&self) -> BTreeMap<Name, Pulse> {
        let mut pulses = BTreeMap::new();
        for (name, vitals) in self.vitals.upstreams() {
            let (started, ended) = vitals.started_and_ended();
            let counts = || UsageInjection::ALL.map(|action| (action, vitals.injections(action).get()));
            let injections = vitals.injects().then(counts);
            let pulse = Pulse { started, ended, chunks: vitals.chunks.get(), injections, ..Pulse::default() };
            pulses.insert(name, pulse);
        }
        let now = self.clock.now();
        for live in self.live.snapshot() {
            let Some(since) = live.awaiting_since() else { continue };
            let pulse = pulses.entry(live.origin.upstream.clone()).or_default();
            pulse.awaiting += 1;
            pulse.oldest = pulse.oldest.max(now.since(since));
        }
        pulses
    }

    /// The values of a metric that is read, not recorded. `series`: how many stand before it on the page.
    fn read<'p>(
        &self,
        id: Id,
        pulses: &'p BTreeMap<Name, Pulse>,
        series: usize,
    ) -> Option<Vec<(Labels<'p>, f64)>> {
        let by_upstream = |value: fn(&Pulse) -> f64| {
            let labels = |name: &'p Name| Labels::default().with(Label::Upstream, name.as_str());
            Some(pulses.iter().map(|(name, pulse)| (labels(name), value(pulse))).collect())
        };
        let plain = |value: f64| Some(vec![(Labels::default(), value)]);
        match id {
            Id::RequestsStarted => by_upstream(|pulse| pulse.started as f64),
            Id::RequestsEnded => by_upstream(|pulse| pulse.ended as f64),
            Id::InFlight => by_upstream(|pulse| pulse.started.saturating_sub(pulse.ended) as f64),
            Id::AwaitingFirstToken => by_upstream(|pulse| pulse.awaiting as f64),
            Id::OldestAwaitingFirstToken => by_upstream(|pulse| pulse.oldest.as_secs_f64()),
            Id::OutputChunks => by_upstream(|pulse| pulse.chunks as f64),
            Id::UnsettledTokens => Some(self.unsettled().map(unsettled).into()),
            Id::UsageInjections => {
                let each = pulses.iter().flat_map(|(name, pulse)| {
                    let labels = Labels::default().with(Label::Upstream, name.as_str());
                    let counts = pulse.injections.into_iter().flatten();
                    counts.map(move |(action, n)| (labels.with(Label::Action, action.label()), n as f64))
                });
                Some(each.collect())
            }
            Id::BuildInfo => {
                Some(vec![(Labels::default().with(Label::Version, env!("CARGO_PKG_VERSION")), 1.0)])
            }
            Id::ReloadSuccessful => plain(f64::from(u8::from(self.reloaded.lock().successful))),
            Id::ReloadSuccessTime => plain(unix_seconds(self.reloaded.lock().at)),
            Id::ObservationFailures => Some(by(Label::Reason, ObservationFailure::ALL, |reason| {
                (reason.label(), self.vitals.failures(reason).get())
            })),
            Id::RecordsDropped => Some(by(Label::Stage, DropStage::ALL, |stage| {
                (stage.label(), self.vitals.dropped(stage).get())
            })),
            Id::LabelOverflow => {
                Some(by(Label::Label, [(Label::Tenant, &self.tenants), (Label::Model, &self.models)], |it| {
                    (it.0.as_str(), it.1.overflow().get())
                }))
            }
            Id::Series => plain((series + 1) as f64),
            _ => None,
        }
    }
}

/// One value for each of these.
fn by<T, const N: usize>(
    label: Label,
    all: [T; N],
    value: impl Fn(T) -> (&'static str, u64),
) -> Vec<(Labels<'static>, f64)> {
    all.map(value).map(|(name, count)| (Labels::default().with(label, name), count as f64)).into()
}

fn unsettled(of: (&'static str, &'static str, u64)) -> (Labels<'static>, f64) {
    let (direction, state, tokens) = of;
    (Labels::default().with(Label::Direction, direction).with(Label::State, state), tokens as f64)
}

fn picked(row: &Row, values: Vec<(Labels<'_>, f64)>) -> Vec<(Key, f64)> {
    values.into_iter().map(|(labels, value)| (labels.pick(row.labels), value)).collect()
}

fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
