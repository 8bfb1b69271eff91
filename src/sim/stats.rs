//! What the server has done: counters, and the memory of its last answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::Sim;
use super::rate_limit::Charge;
use super::script::Script;

/// Counts since the start; `open` is of now. Every generation request is, in the end, one of completed, cancelled,
/// broken and refused: their sum and `open` are `requests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Generation requests.
    pub requests: u64,
    /// Answers that are planned, waited for or sent now.
    pub open: u64,
    /// Answers sent to their end.
    pub completed: u64,
    /// Answers whose client left before the end.
    pub cancelled: u64,
    /// Answers broken off, or ended with an error, by a fault.
    pub broken: u64,
    /// Requests that got an error status.
    pub refused: u64,
    /// Generated tokens handed to connections.
    pub tokens: u64,
    /// Connections accepted.
    pub connections: u64,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Sent to its end.
    Completed,
    /// The client left.
    Cancelled,
    /// A fault broke it off or put an error into it.
    Broken,
}

/// An answer that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The request's `x-request-id`, else the answer's own id.
    pub request_id: String,
    /// The model it named.
    pub model: String,
    /// Whether it was a stream.
    pub stream: bool,
    /// What its usage says of the prompt.
    pub prompt_tokens: u32,
    /// What its usage says of the output, had it been sent whole.
    pub completion_tokens: u32,
    /// Generated tokens handed to the connection.
    pub sent_tokens: u32,
    /// How it ended.
    pub ending: Ending,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) connections: AtomicU64,
    open: AtomicU64,
    completed: AtomicU64,
    cancelled: AtomicU64,
    broken: AtomicU64,
    tokens: AtomicU64,
    open_by_model: Mutex<BTreeMap<String, u64>>, // without zeros: no more names than open answers
}

impl Counters {
    pub(super) fn open_of(&self, model: &str) -> u64 {
        self.open_by_model.lock().get(model).copied().unwrap_or_default()
    }

    fn opened(&self, model: &str) {
        self.open.fetch_add(1, Relaxed);
        *self.open_by_model.lock().entry(model.to_owned()).or_default() += 1;
    }

    fn closed(&self, model: &str) {
        self.open.fetch_sub(1, Relaxed);
        let mut open = self.open_by_model.lock();
        match open.get_mut(model) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(model)),
        }
    }

    pub(super) fn read(&self) -> Stats {
        Stats {
            requests: self.requests.load(Relaxed),
            open: self.open.load(Relaxed),
            completed: self.completed.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            broken: self.broken.load(Relaxed),
            refused: self.refused.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            connections: self.connections.load(Relaxed),
        }
    }
}

/// An open answer. Dropped before it is told an ending, it counts as cancelled.
#[derive(Debug)]
pub(super) struct Ticket {
    sim: Arc<Sim>,
    answer: Option<Answer>,
    charge: Option<Charge>,
    slot: Option<OwnedSemaphorePermit>,
}

impl Ticket {
    pub(super) fn open(sim: Arc<Sim>, script: &Script, request_id: String, charge: Option<Charge>) -> Self {
        sim.counters.opened(&script.reply.model);
        let answer = Answer {
            request_id,
            model: script.reply.model.clone(),
            stream: script.stream,
            prompt_tokens: script.reply.prompt_tokens,
            completion_tokens: script.reply.completion_tokens(),
            sent_tokens: 0,
            ending: Ending::Cancelled,
        };
        Self { sim, answer: Some(answer), charge, slot: None }
    }

    /// Waits until this answer is among those that are worked on at once; it is until it ends.
    pub(super) async fn wait_for_slot(&mut self) {
        if let Some(slots) = &self.sim.slots {
            self.slot = Arc::clone(slots).acquire_owned().await.ok();
        }
    }

    pub(super) fn sent(&mut self, tokens: u32) {
        self.sim.counters.tokens.fetch_add(u64::from(tokens), Relaxed);
        if let Some(answer) = &mut self.answer {
            answer.sent_tokens = answer.sent_tokens.saturating_add(tokens);
        }
    }

    /// Ends the answer, and with it what is charged for it; what is said of it afterwards changes nothing.
    pub(super) fn end(&mut self, ending: Ending) {
        let Some(answer) = self.answer.take() else { return };
        drop(self.slot.take());
        if let Some(charge) = self.charge {
            let used = u64::from(answer.prompt_tokens).saturating_add(answer.sent_tokens.into());
            self.sim.limiter.settle(charge, used, &self.sim.clock);
        }
        let counters = &self.sim.counters;
        let counter = match ending {
            Ending::Completed => &counters.completed,
            Ending::Cancelled => &counters.cancelled,
            Ending::Broken => &counters.broken,
        };
        counter.fetch_add(1, Relaxed);
        counters.closed(&answer.model);
        let remember = self.sim.settings.load().remember;
        if remember > 0 {
            let mut answers = self.sim.answers.lock();
            while answers.len() >= remember {
                answers.pop_front();
            }
            answers.push_back(Answer { ending, ..answer });
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Ending::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_answers_are_counted_by_model_and_forgotten_when_none_is_left() {
        let counters = Counters::default();
        ["a", "b", "a"].iter().for_each(|model| counters.opened(model));
        assert_eq!((counters.open_of("a"), counters.open_of("b"), counters.open_of("c")), (2, 1, 0));
        ["a", "b", "a"].iter().for_each(|model| counters.closed(model));
        assert_eq!((counters.open_of("a"), counters.read().open), (0, 0));
        assert!(counters.open_by_model.lock().is_empty());
    }
}
