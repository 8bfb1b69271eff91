//! A simulated inference server and the traffic that drives it: for `streamgauge simulate` and `demo`, for tests
//! and benchmarks, and as a target for anybody's load tests.
//!
//! It speaks HTTP/1.1 and HTTP/2 (prior knowledge), answers in the shapes of vLLM, Ollama, SGLang, TGI, Triton, Gemini,
//! Bedrock, Cohere, llama.cpp (embeddings) and OpenAI's Realtime at a speed that is set for each model, and goes wrong in the
//! ways that real servers do. What it says is decided by a seed; all waiting is
//! on tokio's clock, so that a test which pauses time gets hours in milliseconds.
//!
//! Reading order: [`Settings`] and [`Profile`] say how it behaves, [`Fault`] what goes wrong, `script` plans one
//! answer from them and the request's `x-sim-*` headers, `api` and a file for each API write it down, `stream` sends it in
//! time, `server` holds connections and `websocket` sessions, `rate_limit` is the limit on tokens per minute, [`traffic`]
//! is the other side.
//!
//! Absent: no contention (each request runs at its model's speed, once it has one of the slots), no tool calls, no
//! logprobs.

mod anthropic;
mod api;
mod bedrock;
mod chance;
mod cohere;
mod embeddings;
mod fault;
mod gemini;
mod kserve;
mod ollama;
mod openai;
mod prompt;
mod rate_limit;
mod realtime;
mod responses;
mod script;
mod server;
mod settings;
mod sglang;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod tgi;
pub mod traffic;
mod websocket;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;

pub use fault::{FAULT_FORMS, Fault, Mishap};
pub use settings::{Profile, Settings, UsagePolicy};
pub use stats::{Answer, Ending, Stats};

/// The simulated server. It serves any number of listeners and connections, see [`Sim::serve`] and
/// [`Sim::serve_io`].
#[derive(Debug)]
pub struct Sim {
    clock: Clock,
    settings: ArcSwap<Settings>,
    sequence: AtomicU64,
    counters: stats::Counters,
    answers: Mutex<VecDeque<Answer>>,
    limiter: rate_limit::RateLimiter,
    slots: Option<Arc<Semaphore>>,
    sessions: TaskTracker,
}

impl Sim {
    /// A server that behaves as `settings` say and waits by `clock`.
    pub fn new(settings: Settings, clock: Clock) -> Arc<Self> {
        let slots = settings.slots.map(|slots| Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS))));
        Arc::new(Self {
            clock,
            settings: ArcSwap::from_pointee(settings),
            sequence: AtomicU64::new(0),
            counters: stats::Counters::default(),
            answers: Mutex::default(),
            limiter: rate_limit::RateLimiter::default(),
            slots,
            sessions: TaskTracker::new(),
        })
    }

    /// How it behaves now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Changes how it behaves, from the next request on; answers that have begun go on as planned. `change` may be
    /// called more than once, where somebody else changes settings at the same time.
    pub fn update(&self, mut change: impl FnMut(&mut Settings)) {
        self.settings.rcu(|settings| {
            let mut settings = Settings::clone(settings);
            change(&mut settings);
            settings
        });
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }

    /// Answers for requests that named this model, planned, waited for or sent now.
    pub fn open(&self, model: &str) -> u64 {
        self.counters.open_of(model)
    }

    /// The last answers that are over, oldest first: as many as [`Settings::remember`] says.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.lock().iter().cloned().collect()
    }
}
