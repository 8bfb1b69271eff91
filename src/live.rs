//! What is known of each open exchange, as atomics: the data plane writes, the accounts plane and a scrape
//! read. One entry per open exchange, taken out when its record is finished.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::clock::Moment;
use crate::exchange::{DialectId, Goals, InputBand, Limited, ModelNames, Name, Usage};

/// What was known when the exchange began.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Its number since the start of the process.
    pub number: u64,
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

/// How far a request has come on its way up. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// It is read ahead.
    Receiving,
    /// It waits for what our own limits say.
    Held,
    /// It waits for a connection.
    Connecting,
    /// A connection takes it.
    Sending,
    /// Its last byte has been handed over.
    Sent,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Receiving, Self::Held, Self::Connecting, Self::Sending, Self::Sent];
}

/// One open exchange.
#[derive(Debug)]
pub struct Live {
    /// What was known at its start.
    pub origin: Origin,
    stage: AtomicU8,
    /// 0: none yet.
    code: AtomicU16,
    requested: OnceLock<Name>,
    /// Token events by the last look, and the look that first found so many.
    looked: AtomicU64,
    moved: AtomicU64,
    awaits_token: AtomicBool,
    accepted: OnceLock<Box<Accepted>>,
    first_token: AtomicU64,
    first_token_told: AtomicBool,
    named: OnceLock<Box<Accepted>>,
    limited: OnceLock<Box<Limited>>,
    limited_told: AtomicBool,
    goals: OnceLock<Box<Goals>>,
    /// Of each objective, as bits: its verdict has been told, and it was bad.
    judged: AtomicU64,
    bad: AtomicU64,
    events: AtomicU64,
    text: AtomicU64,
    input: AtomicU64,
    output: AtomicU64,
    /// Text and events by the time of that report.
    text_told: AtomicU64,
    events_told: AtomicU64,
    /// It has ended, and whoever counts has taken its record; or there is no record of it.
    taken: AtomicBool,
}

/// What is known of an exchange that the upstream has accepted.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The model's names as known by then.
    pub model: ModelNames,
    /// What is asked for.
    pub ask: Ask,
    /// When the request's last byte was handed to the upstream.
    pub sent: Option<Moment>,
}

/// How much an exchange asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The API, where only the body tells it.
    pub dialect: Option<DialectId>,
    /// The band of the prompt's size.
    pub input_band: InputBand,
    /// Bytes of the prompt's text; none where no dialect read it, or it is no text.
    pub text_bytes: Option<u64>,
    /// The most tokens that may be generated, where the request says.
    pub max_output: Option<u64>,
}

/// How much of a stream has come so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Bytes of generated text that no report has told of.
    pub text: u64,
    /// Token events that no report has told of.
    pub events: u64,
    /// Input tokens, where a report has come.
    pub input: Option<u64>,
    /// Output tokens by the last report, where one has come.
    pub output: Option<u64>,
}

const NONE: u64 = u64::MAX; // no moment: 584 years after the start; no count
const NAME_LIMIT: usize = 128; // a label's longest value

impl Live {
    /// An exchange that has just begun. `has_record`: there is a place for its record.
    pub fn new(origin: Origin, has_record: bool) -> Self {
        Self {
            origin,
            stage: AtomicU8::new(Stage::Receiving as u8),
            code: AtomicU16::new(0),
            requested: OnceLock::new(),
            looked: AtomicU64::new(0),
            moved: AtomicU64::new(NONE),
            awaits_token: AtomicBool::new(false),
            accepted: OnceLock::new(),
            first_token: AtomicU64::new(NONE),
            first_token_told: AtomicBool::new(false),
            named: OnceLock::new(),
            limited: OnceLock::new(),
            limited_told: AtomicBool::new(false),
            goals: OnceLock::new(),
            judged: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            events: AtomicU64::new(0),
            text: AtomicU64::new(0),
            input: AtomicU64::new(NONE),
            output: AtomicU64::new(NONE),
            text_told: AtomicU64::new(0),
            events_told: AtomicU64::new(0),
            taken: AtomicBool::new(!has_record),
        }
    }

    /// The request has come so far.
    pub fn reach(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    /// How far the request has come.
    pub fn stage(&self) -> Stage {
        let stage = self.stage.load(Ordering::Relaxed);
        Stage::ALL.get(usize::from(stage)).copied().unwrap_or(Stage::Sent)
    }

    /// The answer's head has come, with this status.
    pub fn set_code(&self, code: u16) {
        self.code.store(code, Ordering::Relaxed);
    }

    /// The answer's status; none before its head.
    pub fn code(&self) -> Option<u16> {
        Some(self.code.load(Ordering::Relaxed)).filter(|code| *code > 0)
    }

    /// Keeps the model that is asked for.
    pub fn set_requested(&self, model: &Name) {
        // It may be read off the first piece of a request and off its end.
        let _ = self.requested.set(model.cut(NAME_LIMIT));
    }

    /// The model that is asked for, as far as is known.
    pub fn requested(&self) -> Option<&Name> {
        self.requested.get()
    }

    /// Notes whether tokens have come since the last look: what is not to cost a chunk anything is looked for.
    pub fn look(&self, now: Moment) {
        let events = self.events();
        if self.looked.swap(events, Ordering::Relaxed) != events {
            self.moved.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// When tokens came last, as far as looks tell: up to one look too late.
    pub fn last_token(&self, now: Moment) -> Option<Moment> {
        let (first, _) = self.first_token()?;
        if self.looked.load(Ordering::Relaxed) != self.events() {
            return Some(now);
        }
        Some(match self.moved.load(Ordering::Relaxed) {
            NONE => first,
            nanos => first.max(Moment::from_nanos(nanos)),
        })
    }

    /// Says whether a first token is to come: a stream was asked for, or has begun.
    pub fn set_awaits_token(&self, awaits: bool) {
        self.awaits_token.store(awaits, Ordering::Relaxed);
    }

    /// The upstream has accepted it, and streams. That of a model that is not configured is not kept: its name may be
    /// another one in the answer.
    pub fn set_accepted(&self, accepted: Accepted) {
        if accepted.model.configured.is_some() {
            // An answer has one head.
            let _ = self.accepted.set(Box::new(accepted));
        }
    }

    /// Keeps the moment of the first token.
    pub fn set_first_token(&self, at: Moment, accepted: Accepted) {
        if self.named.set(Box::new(accepted)).is_ok() {
            self.first_token.store(at.as_nanos(), Ordering::Release);
        }
    }

    /// The moment of the first token, and what was known then.
    pub fn first_token(&self) -> Option<(Moment, &Accepted)> {
        match self.first_token.load(Ordering::Acquire) {
            NONE => None,
            nanos => self.named.get().map(|accepted| (Moment::from_nanos(nanos), accepted.as_ref())),
        }
    }

    /// What is known of it as soon as the upstream has accepted it: none before, and of whole answers. A model that is
    /// not configured has its name from the first event on.
    pub fn accepted(&self) -> Option<&Accepted> {
        self.named.get().or_else(|| self.accepted.get()).map(Box::as_ref)
    }

    /// The first token, handed out once: to whoever records it.
    pub fn take_first_token(&self) -> Option<(Moment, &Accepted)> {
        let found = self.first_token()?;
        (!self.first_token_told.swap(true, Ordering::AcqRel)).then_some(found)
    }

    /// Keeps what it is judged by while it runs.
    pub fn set_goals(&self, goals: Goals) {
        // Its request ends once.
        let _ = self.goals.set(Box::new(goals));
    }

    /// What it is judged by while it runs; none before its request has been read.
    pub fn goals(&self) -> Option<&Goals> {
        self.goals.get().map(Box::as_ref)
    }

    /// Whether the verdict on the objective of this place has been told, and that it was bad.
    pub fn judged(&self, place: u8) -> Option<bool> {
        let has = |bits: &AtomicU64| bits.load(Ordering::Relaxed) >> place & 1 == 1;
        has(&self.judged).then(|| has(&self.bad))
    }

    /// The verdict on the objective of this place is told now. It stands.
    pub fn judge(&self, place: u8, is_bad: bool) {
        self.bad.fetch_or(u64::from(is_bad) << place, Ordering::Relaxed);
        self.judged.fetch_or(1 << place, Ordering::Relaxed);
    }

    /// Keeps what our own limits did to it.
    pub fn set_limited(&self, limited: Limited) {
        // It is asked for once.
        let _ = self.limited.set(Box::new(limited));
    }

    /// What our own limits did to it, as far as is known.
    pub fn limited(&self) -> Option<&Limited> {
        self.limited.get().map(Box::as_ref)
    }

    /// The same, handed out once: to whoever counts it.
    pub fn take_limited(&self) -> Option<&Limited> {
        let limited = self.limited()?;
        (!self.limited_told.swap(true, Ordering::Relaxed)).then_some(limited)
    }

    /// Whether the answer is to be a stream, as far as is known.
    pub fn is_stream(&self) -> Option<bool> {
        let is_known = self.stage() == Stage::Sent || self.code().is_some();
        is_known.then(|| self.awaits_token.load(Ordering::Relaxed))
    }

    /// Since when the client has been waiting for a first token; none where none is to come or it came.
    pub fn awaiting_since(&self) -> Option<Moment> {
        let waits = self.awaits_token.load(Ordering::Relaxed) && self.first_token().is_none();
        waits.then_some(self.origin.started)
    }

    /// Adds the token events of a chunk; what has come by now is so much text, and was reported so.
    pub fn add_chunk(&self, events: u64, text: u64, usage: &Usage) {
        let events = self.events.fetch_add(events, Ordering::Relaxed) + events;
        self.text.store(text, Ordering::Relaxed);
        self.input.store(usage.input.unwrap_or(NONE), Ordering::Relaxed);
        if self.output.swap(usage.output.unwrap_or(NONE), Ordering::Relaxed) != usage.output.unwrap_or(NONE) {
            self.text_told.store(text, Ordering::Relaxed);
            self.events_told.store(events, Ordering::Relaxed);
        }
    }

    /// How many token events have come.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// How much has come so far.
    pub fn flow(&self) -> Flow {
        let known = |count: &AtomicU64| Some(count.load(Ordering::Relaxed)).filter(|n| *n != NONE);
        let since = |all: &AtomicU64, told: &AtomicU64| {
            all.load(Ordering::Relaxed).saturating_sub(told.load(Ordering::Relaxed))
        };
        Flow {
            text: since(&self.text, &self.text_told),
            events: since(&self.events, &self.events_told),
            input: known(&self.input),
            output: known(&self.output),
        }
    }

    /// Its record has been taken: from here on that tells its tokens.
    pub fn take(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }

    /// Whether its tokens are nobody's to count before its end.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }
}

/// All open exchanges.
#[derive(Debug, Default)]
pub struct LiveTable {
    open: Mutex<HashMap<u64, Arc<Live>>>,
    next: AtomicU64,
}

impl LiveTable {
    /// The number of the next exchange.
    pub fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters an exchange that has begun. Gives how many were open before it.
    pub fn insert(&self, live: Arc<Live>) -> u64 {
        let mut open = self.open.lock();
        let before = open.len() as u64;
        open.insert(live.origin.number, live);
        before
    }

    /// Takes an exchange out.
    pub fn remove(&self, number: u64) {
        self.open.lock().remove(&number);
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
        let origin = Origin {
            number: 0,
            request_id: Name::from("r"),
            trace_id: None,
            tenant: Name::from("t"),
            upstream: Name::from("u"),
            dialect: DialectId("d"),
            started: Moment::from_nanos(7),
        };
        Live::new(origin, true)
    }

    fn accepted() -> Accepted {
        let ask = Ask { dialect: None, input_band: InputBand::Le1k, text_bytes: Some(5), max_output: None };
        Accepted { model: ModelNames::default(), ask, sent: None }
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
    fn a_model_that_is_not_configured_has_its_name_from_the_first_token_on() {
        let live = live();
        live.set_accepted(accepted());
        assert!(live.accepted().is_none());
        live.set_first_token(Moment::from_nanos(9), accepted());
        assert!(live.accepted().is_some());
    }

    #[test]
    fn the_oldest_that_waits_is_found_among_those_that_do_not() {
        let table = LiveTable::default();
        assert_eq!(table.oldest_awaiting(), None);
        let begun = |nanos| {
            let live = live();
            Live::new(Origin { number: nanos, started: Moment::from_nanos(nanos), ..live.origin }, true)
        };
        for (nanos, waits) in [(3, false), (9, true), (5, true)] {
            let live = begun(nanos);
            live.set_awaits_token(waits);
            table.insert(Arc::new(live));
        }
        assert_eq!(table.oldest_awaiting(), Some(Moment::from_nanos(5)));
    }
}
