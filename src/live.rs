//! What is known of each open exchange, as atomics: the data plane writes, the accounts plane and a scrape
//! read. One entry per open exchange, taken out when its record is finished.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::clock::Moment;
use crate::exchange::{DialectId, InputBand, ModelNames, Name};

/// What was known when the exchange began.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The client's `x-request-id`, else one of ours.
    pub request_id: Name,
    /// The trace that the client's `traceparent` names.
    pub trace_id: Option<Name>,
    /// Who asks.
    pub tenant: Name,
    /// The configured upstream's name; `none` where none matched.
    pub upstream: Name,
    /// Which API it speaks.
    pub dialect: DialectId,
    /// t0.
    pub started: Moment,
}

/// One open exchange.
#[derive(Debug)]
pub struct Live {
    /// What was known at its start.
    pub origin: Origin,
    awaits_token: AtomicBool,
    first_token: AtomicU64,
    first_token_told: AtomicBool,
    accepted: OnceLock<Accepted>,
    delivered: AtomicU64,
    events: AtomicU64,
}

/// What is known once the upstream has accepted the request and the first token came.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The model's names as known by then.
    pub model: ModelNames,
    /// The band of the prompt's size.
    pub input_band: InputBand,
}

const NONE: u64 = u64::MAX; // no moment: 584 years after the start

impl Live {
    /// An exchange that has just begun.
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            awaits_token: AtomicBool::new(false),
            first_token: AtomicU64::new(NONE),
            first_token_told: AtomicBool::new(false),
            accepted: OnceLock::new(),
            delivered: AtomicU64::new(0),
            events: AtomicU64::new(0),
        }
    }

    /// Says whether a first token is to come: a stream was asked for, or has begun.
    pub fn set_awaits_token(&self, awaits: bool) {
        self.awaits_token.store(awaits, Ordering::Relaxed);
    }

    /// Keeps the moment of the first token.
    pub fn set_first_token(&self, at: Moment, accepted: Accepted) {
        if self.accepted.set(accepted).is_ok() {
            self.first_token.store(at.as_nanos(), Ordering::Release);
        }
    }

    /// The moment of the first token, and what was known then.
    pub fn first_token(&self) -> Option<(Moment, &Accepted)> {
        match self.first_token.load(Ordering::Acquire) {
            NONE => None,
            nanos => self.accepted.get().map(|accepted| (Moment::from_nanos(nanos), accepted)),
        }
    }

    /// The first token, handed out once: to whoever records it.
    pub fn take_first_token(&self) -> Option<(Moment, &Accepted)> {
        let found = self.first_token()?;
        (!self.first_token_told.swap(true, Ordering::AcqRel)).then_some(found)
    }

    /// Since when the client has been waiting for a first token; none where none is to come or it came.
    pub fn awaiting_since(&self) -> Option<Moment> {
        let waits = self.awaits_token.load(Ordering::Relaxed) && self.first_token().is_none();
        waits.then_some(self.origin.started)
    }

    /// Adds what a chunk of the answer held.
    pub fn add_delivered(&self, bytes: u64, events: u64) {
        self.delivered.fetch_add(bytes, Ordering::Relaxed);
        self.events.fetch_add(events, Ordering::Relaxed);
    }

    /// Bytes handed to the client's connection, and token events in them.
    pub fn delivered(&self) -> (u64, u64) {
        (self.delivered.load(Ordering::Relaxed), self.events.load(Ordering::Relaxed))
    }
}

/// All open exchanges.
#[derive(Debug, Default)]
pub struct LiveTable {
    open: Mutex<HashMap<u64, Arc<Live>>>,
    next: AtomicU64,
}

/// The place of one exchange in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveKey(u64);

impl LiveTable {
    /// Enters an exchange that has begun. Gives its place and how many were open before it.
    pub fn insert(&self, live: Arc<Live>) -> (LiveKey, u64) {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock();
        let before = open.len() as u64;
        open.insert(key, live);
        (LiveKey(key), before)
    }

    /// Takes an exchange out.
    pub fn remove(&self, key: LiveKey) {
        self.open.lock().remove(&key.0);
    }

    /// Every open exchange at this moment.
    pub fn snapshot(&self) -> Vec<Arc<Live>> {
        self.open.lock().values().cloned().collect()
    }

    /// Since when the one that has waited longest for its first token has been waiting.
    pub fn oldest_awaiting(&self) -> Option<Moment> {
        self.open.lock().values().filter_map(|live| live.awaiting_since()).min()
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Live {
        Live::new(Origin {
            request_id: Name::from("r"),
            trace_id: None,
            tenant: Name::from("t"),
            upstream: Name::from("u"),
            dialect: DialectId("d"),
            started: Moment::from_nanos(7),
        })
    }

    fn accepted() -> Accepted {
        Accepted { model: ModelNames::default(), input_band: InputBand::Le1k }
    }

    #[test]
    fn a_first_token_is_kept_once_and_handed_out_once() {
        let live = live();
        live.set_first_token(Moment::from_nanos(9), accepted());
        live.set_first_token(Moment::from_nanos(12), accepted());
        assert_eq!(live.take_first_token().map(|(at, _)| at), Some(Moment::from_nanos(9)));
        assert!(live.take_first_token().is_none());
        assert!(live.first_token().is_some());
    }

    #[test]
    fn only_a_stream_without_a_token_is_waiting() {
        let live = live();
        assert_eq!(live.awaiting_since(), None);
        live.set_awaits_token(true);
        assert_eq!(live.awaiting_since(), Some(Moment::from_nanos(7)));
        live.set_first_token(Moment::from_nanos(9), accepted());
        assert_eq!(live.awaiting_since(), None);
    }

    #[test]
    fn the_oldest_that_waits_is_found_among_those_that_do_not() {
        let table = LiveTable::default();
        assert_eq!(table.oldest_awaiting(), None);
        let begun = |nanos| {
            let live = live();
            Live::new(Origin { started: Moment::from_nanos(nanos), ..live.origin })
        };
        for (nanos, waits) in [(3, false), (9, true), (5, true)] {
            let live = begun(nanos);
            live.set_awaits_token(waits);
            table.insert(Arc::new(live));
        }
        assert_eq!(table.oldest_awaiting(), Some(Moment::from_nanos(5)));
    }
}
