//! All series of one metric. They are told apart by their label values themselves, compared one by one: the
//! `*Vec` types of the prometheus crate key them by a hash of the values run together, so that `acme`, `1-gpt`
//! and `acme1`, `-gpt` become one series, and with it one bill.
//!
//! What a record adds is added under the map's lock for reading, and a series is dropped under its lock for
//! writing: nothing is ever added to a series that is no longer on the page.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use hashbrown::HashTable;
use parking_lot::{Mutex, RwLock};
use prometheus::core::Metric as _;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{HistogramOpts, IntCounter};

use super::catalog::{Kind, Row};
use super::labels::{Key, Label, Labels, hash_of_key};
use crate::clock::Moment;
use crate::exchange::Name;

const EXEMPLAR_CHARS: usize = 128; // OpenMetrics' bound on an exemplar's label names and values together

/// What a series holds.
pub(super) trait Instrument: Sized {
    /// A new one at 0, like this one in everything else.
    fn another(&self) -> Self;

    /// Its present value, without labels, and its exemplars.
    fn read(&self) -> (Metric, Exemplars);
}

impl Instrument for IntCounter {
    fn another(&self) -> Self {
        counter().unwrap_or_else(|_| self.clone())
    }

    fn read(&self) -> (Metric, Exemplars) {
        (self.metric(), Exemplars::new())
    }
}

/// A counter in integers beyond 64 bits, such as money.
#[derive(Debug)]
pub(super) struct Wide {
    all: Mutex<u128>,
    unit: u128, // so many are one on the page
}

impl Wide {
    pub(super) fn new(unit: u128) -> Self {
        Self { all: Mutex::new(0), unit }
    }

    /// Adds so many.
    pub(super) fn add(&self, n: u128) {
        let mut all = self.all.lock();
        *all = all.saturating_add(n);
    }
}

impl Instrument for Wide {
    fn another(&self) -> Self {
        Self::new(self.unit)
    }

    fn read(&self) -> (Metric, Exemplars) {
        let (mut metric, mut counter) = (Metric::default(), Counter::default());
        counter.set_value(units(*self.all.lock(), self.unit));
        metric.set_counter(counter);
        (metric, Exemplars::new())
    }
}

/// The nearest double of an amount in its unit.
pub(super) fn units(all: u128, unit: u128) -> f64 {
    // Both exact up to 2^53: one rounding.
    all as f64 / unit as f64
}

/// A counter at 0. Name and help are never shown: the row has them.
pub(super) fn counter() -> prometheus::Result<IntCounter> {
    IntCounter::new("counter", "counter")
}

/// A histogram, with the last exemplar of each of its buckets.
#[derive(Debug)]
pub(super) struct Histogram {
    values: prometheus::Histogram,
    bounds: Vec<f64>,
    exemplars: Mutex<Exemplars>,
}

/// Exemplars by the place of their bucket; +Inf is the one after the last bound.
pub(super) type Exemplars = Vec<(usize, Exemplar)>;

/// An exchange that a bucket's count can be looked into by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exemplar {
    pub(super) labels: [Option<(&'static str, Name)>; 2],
    pub(super) value: f64,
    pub(super) at: SystemTime,
}

/// Where an exemplar leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trail<'a> {
    pub(super) trace_id: Option<&'a Name>,
    pub(super) request_id: &'a Name,
    pub(super) at: SystemTime,
}

impl Trail<'_> {
    /// The labels that fit, the trace before the request; none where neither does.
    fn exemplar(&self, value: f64) -> Option<Exemplar> {
        let mut room = EXEMPLAR_CHARS;
        let mut fitting = |name: &'static str, id: Option<&Name>| {
            let id = id?;
            room = room.checked_sub(name.len() + id.as_str().chars().count())?;
            Some((name, id.clone()))
        };
        let labels = [fitting("trace_id", self.trace_id), fitting("request_id", Some(self.request_id))];
        labels.iter().any(Option::is_some).then_some(Exemplar { labels, value, at: self.at })
    }
}

impl Histogram {
    /// A histogram with these bounds, ascending and finite.
    pub(super) fn new(bounds: &[f64]) -> prometheus::Result<Self> {
        let values = Self::values(bounds)?;
        Ok(Self { values, bounds: bounds.to_vec(), exemplars: Mutex::default() })
    }

    fn values(bounds: &[f64]) -> prometheus::Result<prometheus::Histogram> {
        prometheus::Histogram::with_opts(
            HistogramOpts::new("histogram", "histogram").buckets(bounds.to_vec()),
        )
    }

    /// Adds one value; its exchange becomes its bucket's exemplar.
    pub(super) fn observe(&self, value: f64, trail: Option<Trail<'_>>) {
        self.values.observe(value);
        let Some(exemplar) = trail.and_then(|trail| trail.exemplar(value)) else { return };
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        let mut exemplars = self.exemplars.lock();
        match exemplars.iter_mut().find(|(place, _)| *place == bucket) {
            Some((_, old)) => *old = exemplar,
            None => exemplars.push((bucket, exemplar)),
        }
    }
}

impl Instrument for Histogram {
    fn another(&self) -> Self {
        let values = Self::values(&self.bounds).unwrap_or_else(|_| self.values.clone());
        Self { values, bounds: self.bounds.clone(), exemplars: Mutex::default() }
    }

    fn read(&self) -> (Metric, Exemplars) {
        (self.values.metric(), self.exemplars.lock().clone())
    }
}

/// All series of one metric.
#[derive(Debug)]
pub(super) struct Family<M> {
    row: &'static Row,
    /// The row's, and the tenant's where histograms are to have it.
    labels: Vec<Label>,
    /// Others are made like it. It was made at the start, where wrong options would have been an error.
    pattern: M,
    series: RwLock<HashTable<Series<M>>>,
}

#[derive(Debug)]
struct Series<M> {
    key: Key,
    instrument: M,
    touched: AtomicU64,
}

impl<M: Instrument> Family<M> {
    /// A family without series.
    pub(super) fn new(row: &'static Row, labels: Vec<Label>, pattern: M) -> Self {
        Self { row, labels, pattern, series: RwLock::default() }
    }

    /// The labels of every series.
    pub(super) fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// Lets `record` change the series of these labels, made at 0 if it is not there.
    pub(super) fn touch(&self, labels: &Labels<'_>, now: Moment, record: impl FnOnce(&M)) {
        let hash = labels.hash(&self.labels);
        let is_it = |series: &Series<M>| labels.are(&self.labels, &series.key);
        if let Some(series) = self.series.read().find(hash, is_it) {
            return series.touch(now, record);
        }
        let make = || {
            let (key, instrument) = (labels.pick(&self.labels), self.pattern.another());
            Series { key, instrument, touched: AtomicU64::new(0) }
        };
        let rehash = |series: &Series<M>| hash_of_key(&series.key);
        let mut series = self.series.write();
        series.entry(hash, is_it, rehash).or_insert_with(make).get().touch(now, record);
    }

    /// Whether there is a series of this key.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.series.read().find(hash_of_key(key), |series| series.key == *key).is_some()
    }

    /// Drops the series that `is_idle` tells from the labels and the moment of the last record.
    pub(super) fn drop_idle(&self, is_idle: impl Fn(&[Name], Moment) -> bool) {
        let touched = |series: &Series<M>| Moment::from_nanos(series.touched.load(Ordering::Relaxed));
        self.series.write().retain(|series| !is_idle(&series.key, touched(series)));
    }

    /// Every series as it is now.
    pub(super) fn collect(&self) -> Block {
        let series = self.series.read();
        let mut sorted: Vec<_> = series.iter().collect();
        sorted.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let readings = sorted.into_iter().map(|series| (&series.key, series.instrument.read()));
        Block::new(self.row, &self.labels, readings)
    }
}

impl<M> Series<M> {
    fn touch(&self, now: Moment, record: impl FnOnce(&M)) {
        record(&self.instrument);
        self.touched.store(now.as_nanos(), Ordering::Relaxed);
    }
}

/// One metric as it stands on a page.
#[derive(Debug)]
pub(super) struct Block {
    /// Name, help, type, and every series.
    pub(super) family: MetricFamily,
    /// The exemplars of each series of `family`, in the same order.
    pub(super) exemplars: Vec<Exemplars>,
}

impl Block {
    fn new<'a>(
        row: &Row,
        labels: &[Label],
        readings: impl Iterator<Item = (&'a Key, (Metric, Exemplars))>,
    ) -> Self {
        let labelled = |(key, (mut metric, exemplars)): (&Key, (Metric, Exemplars))| {
            metric.set_label(label_pairs(labels, key));
            (metric, exemplars)
        };
        let (metrics, exemplars): (Vec<_>, Vec<_>) = readings.map(labelled).unzip();
        let mut family = MetricFamily::default();
        family.set_name(row.full_name());
        family.set_help(row.help.to_owned());
        family.set_field_type(match row.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram(_) => MetricType::HISTOGRAM,
        });
        family.set_metric(metrics);
        Self { family, exemplars }
    }

    /// A metric whose values are read from elsewhere at this moment: a counter or a gauge.
    pub(super) fn of_values(row: &Row, values: &[(Key, f64)]) -> Self {
        let reading = |value: f64| {
            let (mut metric, mut counter, mut gauge) =
                (Metric::default(), Counter::default(), Gauge::default());
            counter.set_value(value);
            gauge.set_value(value);
            metric.set_counter(counter);
            metric.set_gauge(gauge);
            (metric, Exemplars::new())
        };
        Self::new(row, row.labels, values.iter().map(|(key, value)| (key, reading(*value))))
    }

    /// How many time series this is.
    pub(super) fn series(&self) -> usize {
        let of_one = |metric: &Metric| match self.family.get_field_type() {
            MetricType::HISTOGRAM => metric.get_histogram().get_bucket().len() + 3, // +Inf, sum, count
            _ => 1,
        };
        self.family.get_metric().iter().map(of_one).sum()
    }
}

impl From<MetricFamily> for Block {
    fn from(family: MetricFamily) -> Self {
        Self { exemplars: vec![Exemplars::new(); family.get_metric().len()], family }
    }
}

fn label_pairs(labels: &[Label], key: &[Name]) -> Vec<LabelPair> {
    let pair = |(label, value): (&Label, &Name)| {
        let mut pair = LabelPair::default();
        pair.set_name(label.as_str().to_owned());
        pair.set_value(value.to_string());
        pair
    };
    labels.iter().zip(key).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::super::catalog::{Id, TABLE};
    use super::*;

    fn key(values: &[&str]) -> Key {
        values.iter().copied().map(Name::from).collect()
    }

    fn tokens() -> Family<IntCounter> {
        {
            let row = &TABLE[Id::InputTokens as usize];
            Family::new(row, row.labels.to_vec(), counter().unwrap())
        }
    }

    fn add(family: &Family<IntCounter>, values: &[&str], n: u64, at: u64) {
        let key = key(values);
        family.touch(&Labels::of(family.labels(), &key), Moment::from_nanos(at), |counter| counter.inc_by(n));
    }

    fn values(family: &Family<IntCounter>) -> Vec<f64> {
        family.collect().family.get_metric().iter().map(|m| m.get_counter().get_value()).collect()
    }

    #[test]
    fn series_that_the_prometheus_crates_vectors_merge_stay_apart() {
        let family = tokens();
        add(&family, &["acme", "1-gpt", "u"], 100, 1);
        add(&family, &["acme1", "-gpt", "u"], 7, 1);
        add(&family, &["77kepQFQ8Kl", "", "u"], 1, 1); // equal under FNV-1a, as published
        add(&family, &["!0IC=VloaY", "", "u"], 10, 1);
        assert_eq!(values(&family), [10.0, 1.0, 100.0, 7.0]);
    }

    #[test]
    fn a_series_that_is_dropped_begins_again_at_nothing() {
        let family = tokens();
        add(&family, &["a", "m", "u"], 5, 10);
        add(&family, &["b", "m", "u"], 6, 20);
        family.drop_idle(|_, touched| touched < Moment::from_nanos(15));
        assert_eq!(values(&family), [6.0]);
        add(&family, &["a", "m", "u"], 1, 30);
        assert_eq!(values(&family), [1.0, 6.0]);
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_the_bucket_below_it_and_so_does_its_exemplar() {
        let histogram = Histogram::new(&[1.0, 2.0]).unwrap();
        let id = Name::from("r");
        let trail = Trail { trace_id: None, request_id: &id, at: SystemTime::UNIX_EPOCH };
        for value in [1.0, 1.5, 1.6, 9.0] {
            histogram.observe(value, Some(trail));
        }
        let (metric, exemplars) = histogram.read();
        let counts: Vec<u64> =
            metric.get_histogram().get_bucket().iter().map(|bucket| bucket.cumulative_count()).collect();
        assert_eq!(counts, [1, 3]);
        let found: Vec<_> = exemplars.iter().map(|(bucket, exemplar)| (*bucket, exemplar.value)).collect();
        assert_eq!(found, [(0, 1.0), (1, 1.6), (2, 9.0)]);
    }

    #[test]
    fn an_exemplar_has_the_ids_that_fit() {
        let (trace, long, short) = (Name::from("t"), Name::from("é".repeat(119).as_str()), Name::from("r"));
        let names = |trace_id, request_id| {
            let trail = Trail { trace_id, request_id, at: SystemTime::UNIX_EPOCH };
            trail
                .exemplar(1.0)
                .map(|exemplar| exemplar.labels.iter().flatten().map(|(name, _)| *name).collect::<Vec<_>>())
        };
        assert_eq!(names(Some(&trace), &short), Some(vec!["trace_id", "request_id"]));
        assert_eq!(names(Some(&trace), &long), Some(vec!["trace_id"]));
        assert_eq!(names(None, &long), None);
    }
}
