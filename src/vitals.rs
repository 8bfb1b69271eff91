//! The sidecar's own pulse: plain atomics that the data plane counts up and a scrape reads. No labels beyond
//! the configured upstream's name, no locks on the way of traffic.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::RwLock;

use crate::exchange::Name;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Counts one more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed); // a thread that writes takes the memory from the others
        }
    }

    /// What has been counted so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Exchanges begun and ended at one upstream.
#[derive(Debug, Default)]
pub struct UpstreamVitals {
    started: AtomicU64,
    ended: AtomicU64,
    /// Token events forwarded from this upstream.
    pub chunks: Tally,
    /// None where usage was never to be asked for.
    injections: OnceLock<[Tally; UsageInjection::ALL.len()]>,
}

impl UpstreamVitals {
    /// One exchange more has begun.
    pub fn start(&self) {
        self.started.fetch_add(1, Ordering::SeqCst);
    }

    /// One exchange more has ended.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// (started, ended) such that ended ≤ started: ended is read first.
    pub fn started_and_ended(&self) -> (u64, u64) {
        let ended = self.ended.load(Ordering::SeqCst);
        (self.started.load(Ordering::SeqCst), ended)
    }

    /// How often this was done to ask for usage.
    pub fn injections(&self, action: UsageInjection) -> &Tally {
        let [asked, cut, refused, too_large, too_slow] = self.injections.get_or_init(Default::default);
        match action {
            UsageInjection::Asked => asked,
            UsageInjection::Cut => cut,
            UsageInjection::Refused => refused,
            UsageInjection::TooLarge => too_large,
            UsageInjection::TooSlow => too_slow,
        }
    }

    /// Whether usage is or was to be asked for.
    pub fn injects(&self) -> bool {
        self.injections.get().is_some()
    }
}

/// How the fetching of an issuer's keys goes.
#[derive(Debug, Default)]
pub struct JwksVitals {
    /// Milliseconds of Unix time; 0: never.
    fetched: AtomicU64,
    /// Tries that brought no keys.
    pub failures: Tally,
}

impl JwksVitals {
    /// Keys have come.
    pub fn fetched(&self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.fetched.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When keys came last, in seconds of Unix time; 0: never.
    pub fn last_fetch(&self) -> f64 {
        self.fetched.load(Ordering::Relaxed) as f64 / 1e3
    }
}

/// What is done to have a stream report its usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UsageInjection {
    /// A request was edited so that it asks.
    Asked,
    /// The event that brought the usage was taken out of an answer.
    Cut,
    /// The upstream refused an edited request, which was sent once more as the client wrote it.
    Refused,
    /// A request was longer than is read ahead and went on as it came.
    TooLarge,
    /// A request took longer to come than is waited for and went on as it came.
    TooSlow,
}

impl UsageInjection {
    /// All of them, in the order of the exposition.
    pub const ALL: [UsageInjection; 5] =
        [Self::Asked, Self::Cut, Self::Refused, Self::TooLarge, Self::TooSlow];

    /// The value of the label `action`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Cut => "cut",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
        }
    }
}

/// Why observation gave up on an exchange while traffic went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObservationFailure {
    /// What all requests together may have read ahead was full: one more was not read ahead.
    CaptureOverflow,
    /// All decoders of content encodings together held as much as they may: an encoded answer was not read.
    DecoderMemory,
    /// An answer was not in the content encoding that it declares, or grew beyond all measure.
    Decompression,
    /// An event was longer than the decoder holds.
    EventTooLarge,
    /// The rest of a session over WebSocket was not read: it was no WebSocket, or more responses were open than are kept.
    Frames,
    /// The observer panicked.
    Panic,
}

impl ObservationFailure {
    /// All of them, in the order of the exposition.
    pub const ALL: [ObservationFailure; 6] = [
        Self::CaptureOverflow,
        Self::DecoderMemory,
        Self::Decompression,
        Self::EventTooLarge,
        Self::Frames,
        Self::Panic,
    ];

    /// The value of the label `reason`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::CaptureOverflow => "capture_overflow",
            Self::DecoderMemory => "decoder_memory",
            Self::Decompression => "decompression",
            Self::EventTooLarge => "event_too_large",
            Self::Frames => "frames",
            Self::Panic => "panic",
        }
    }
}

/// Where a record of an exchange was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropStage {
    /// No place in the channel to the accounts plane when the exchange began: it has no full record anywhere.
    Channel,
    /// The request log's writer could not keep up: the line is missing there, metrics have it.
    RequestLog,
    /// The usage ledger's disk failed for too long: the line is missing there, metrics have it.
    UsageLedger,
    /// Too many tenants spend money: its cost is not counted against a budget.
    Budgets,
}

impl DropStage {
    /// All of them, in the order of the exposition.
    pub const ALL: [DropStage; 4] = [Self::Channel, Self::RequestLog, Self::UsageLedger, Self::Budgets];

    /// The value of the label `stage`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::RequestLog => "request_log",
            Self::UsageLedger => "usage_ledger",
            Self::Budgets => "budgets",
        }
    }
}

/// Everything that the sidecar counts about itself outside the exchange's own record.
#[derive(Debug, Default)]
pub struct Vitals {
    upstreams: RwLock<BTreeMap<Name, Arc<UpstreamVitals>>>,
    jwks: RwLock<BTreeMap<Name, Arc<JwksVitals>>>,
    failures: [Tally; ObservationFailure::ALL.len()],
    dropped: [Tally; DropStage::ALL.len()],
}

impl Vitals {
    /// The counters of the upstream of this name, made at its first use and kept for good.
    pub fn upstream(&self, name: &Name) -> Arc<UpstreamVitals> {
        if let Some(found) = self.upstreams.read().get(name) {
            return Arc::clone(found);
        }
        Arc::clone(self.upstreams.write().entry(name.clone()).or_default())
    }

    /// Every upstream that was ever configured, by name.
    pub fn upstreams(&self) -> Vec<(Name, Arc<UpstreamVitals>)> {
        self.upstreams.read().iter().map(|(name, vitals)| (name.clone(), Arc::clone(vitals))).collect()
    }

    /// The counters of the keys at these URLs. Those of others are forgotten: nobody fetches them any more.
    pub fn jwks_at(&self, urls: &[Name]) -> Vec<Arc<JwksVitals>> {
        let mut all = self.jwks.write();
        all.retain(|url, _| urls.contains(url));
        urls.iter().map(|url| Arc::clone(all.entry(url.clone()).or_default())).collect()
    }

    /// Every URL that keys are fetched from.
    pub fn jwks(&self) -> Vec<(Name, Arc<JwksVitals>)> {
        self.jwks.read().iter().map(|(url, vitals)| (url.clone(), Arc::clone(vitals))).collect()
    }

    /// Observation failures of one reason.
    pub fn failures(&self, reason: ObservationFailure) -> &Tally {
        match reason {
            ObservationFailure::CaptureOverflow => &self.failures[0],
            ObservationFailure::DecoderMemory => &self.failures[1],
            ObservationFailure::Decompression => &self.failures[2],
            ObservationFailure::EventTooLarge => &self.failures[3],
            ObservationFailure::Frames => &self.failures[4],
            ObservationFailure::Panic => &self.failures[5],
        }
    }

    /// Records dropped at one stage.
    pub fn dropped(&self, stage: DropStage) -> &Tally {
        match stage {
            DropStage::Channel => &self.dropped[0],
            DropStage::RequestLog => &self.dropped[1],
            DropStage::UsageLedger => &self.dropped[2],
            DropStage::Budgets => &self.dropped[3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstreams_counters_are_kept_under_its_name() {
        let vitals = Vitals::default();
        vitals.upstream(&Name::from("a")).start();
        vitals.upstream(&Name::from("a")).start();
        vitals.upstream(&Name::from("a")).end();
        assert_eq!(vitals.upstream(&Name::from("a")).started_and_ended(), (2, 1));
        assert_eq!(vitals.upstreams().len(), 1);
    }

    #[test]
    fn who_never_asks_for_usage_counts_nothing_of_it() {
        let upstream = UpstreamVitals::default();
        assert!(!upstream.injects());
        upstream.injections(UsageInjection::Cut).add_one();
        let counts = UsageInjection::ALL.map(|action| upstream.injections(action).get());
        assert_eq!((upstream.injects(), counts), (true, [0, 1, 0, 0, 0]));
    }
}
