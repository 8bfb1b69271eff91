//! What happened lately: the last minute by model, how each upstream answered last, what each objective has counted
//! since the start. For people who look now; Prometheus has the history.
//!
//! Absent: anything that runs, which [`crate::live`] knows.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Fact, Sink};
use crate::clock::{Clock, Moment};
use crate::exchange::{Exchange, ModelNames, Name, Outcome};

/// How far back it looks.
pub const WINDOW: Duration = Duration::from_secs(60);

/// How many facts are kept: two for each exchange of 270 a second. Beyond it the window gets shorter, not wrong.
const RING: usize = 32_768;

const NAMES: usize = 256; // of upstreams and objectives; configurations have a handful

/// The sink.
#[derive(Debug)]
pub struct Recent {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ring: VecDeque<Entry>, // oldest first
    /// Everything since then is in the ring, unless it is older than the window.
    complete_since: Moment,
    answers: BTreeMap<Name, LastAnswer>,
    verdicts: BTreeMap<Name, Verdicts>,
}

#[derive(Debug)]
struct Entry {
    at: Moment,
    model: Option<Name>,
    seen: Seen,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    FirstToken(Duration),
    End(Outcome),
    Speed(f64),
}

/// What was seen of a model within the window. What nothing is known of is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Score {
    /// Exchanges that ended, by how they ended.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Median time to the first token.
    pub ttft_p50: Option<Duration>,
    /// The time within which 95 of 100 first tokens came.
    pub ttft_p95: Option<Duration>,
    /// Median speed of an answer, tokens in a second.
    pub tps_p50: Option<f64>,
}

/// The window: how much of it was seen, and the models in it; none: what has no name.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// How far back it goes.
    pub covers: Duration,
    /// By model.
    pub models: BTreeMap<Option<Name>, Score>,
}

/// How an upstream answered last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAnswer {
    /// When that ended.
    pub at: Moment,
    /// How.
    pub outcome: Outcome,
    /// The status that the client got.
    pub code: Option<u16>,
}

/// What an objective has counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Exchanges that kept it.
    pub good: u64,
    /// Exchanges that did not.
    pub bad: u64,
}

impl Recent {
    /// Nothing has happened yet.
    pub fn new(clock: Clock) -> Self {
        let state = State {
            ring: VecDeque::new(),
            complete_since: clock.now(),
            answers: BTreeMap::new(),
            verdicts: BTreeMap::new(),
        };
        Self { clock, state: Mutex::new(state) }
    }

    /// The last minute, by model.
    pub fn scores(&self) -> Scores {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.forget(now);
        let covers = now.since(state.complete_since).min(WINDOW);
        let entries: Vec<_> = state.ring.iter().map(|entry| (entry.model.clone(), entry.seen)).collect();
        drop(state); // who records does not wait for the sorting
        let mut models: BTreeMap<Option<Name>, (Score, Vec<Duration>, Vec<f64>)> = BTreeMap::new();
        for (model, seen) in entries {
            let (score, ttfts, speeds) = models.entry(model).or_default();
            match seen {
                Seen::FirstToken(ttft) => ttfts.push(ttft),
                Seen::End(outcome) => *score.outcomes.entry(outcome.label()).or_default() += 1,
                Seen::Speed(tps) => speeds.push(tps),
            }
        }
        let score = |(mut score, mut ttfts, mut speeds): (Score, Vec<Duration>, Vec<f64>)| {
            ttfts.sort_unstable();
            speeds.sort_unstable_by(f64::total_cmp);
            score.ttft_p50 = percentile(&ttfts, 50);
            score.ttft_p95 = percentile(&ttfts, 95);
            score.tps_p50 = percentile(&speeds, 50);
            score
        };
        Scores { covers, models: models.into_iter().map(|(name, seen)| (name, score(seen))).collect() }
    }

    /// How each upstream answered last.
    pub fn last_answers(&self) -> BTreeMap<Name, LastAnswer> {
        self.state.lock().answers.clone()
    }

    /// What each objective has counted.
    pub fn verdicts(&self) -> BTreeMap<Name, Verdicts> {
        self.state.lock().verdicts.clone()
    }

    fn push(&self, model: &ModelNames, accepted: bool, seen: Seen) {
        let entry = Entry { at: self.clock.now(), model: model.label(accepted).cloned(), seen };
        self.state.lock().push(entry);
    }

    fn ended(&self, exchange: &Exchange) {
        let Exchange { outcome, code, ref upstream, .. } = *exchange;
        let at = self.clock.now();
        let mut state = self.state.lock();
        if exchange.is_generation() {
            let model = exchange.model.label(exchange.accepted()).cloned();
            state.push(Entry { at, model, seen: Seen::End(outcome) });
        }
        let answers = &mut state.answers;
        if answers.len() < NAMES || answers.contains_key(upstream) {
            answers.insert(upstream.clone(), LastAnswer { at, outcome, code });
        }
    }

    fn judged(&self, slo: &Name, is_bad: bool) {
        let verdicts = &mut self.state.lock().verdicts;
        if verdicts.len() < NAMES || verdicts.contains_key(slo) {
            let verdicts = verdicts.entry(slo.clone()).or_default();
            verdicts.bad += u64::from(is_bad);
            verdicts.good += u64::from(!is_bad);
        }
    }
}

impl Sink for Recent {
    fn record(&self, fact: &Fact<'_>) {
        match fact {
            Fact::FirstToken { accepted, ttft, .. } => {
                self.push(&accepted.model, true, Seen::FirstToken(*ttft));
            }
            Fact::Ended(exchange) => self.ended(exchange),
            Fact::Settled(exchange) => {
                if let Some(tps) = exchange.timing.tps {
                    self.push(&exchange.model, exchange.accepted(), Seen::Speed(tps));
                }
            }
            Fact::Judged { slo, is_bad, .. } => self.judged(slo, *is_bad),
            Fact::Limited { .. } | Fact::Flow { .. } | Fact::Audited { .. } => {}
        }
    }
}

impl State {
    fn push(&mut self, entry: Entry) {
        self.forget(entry.at);
        if self.ring.len() >= RING
            && let Some(lost) = self.ring.pop_front()
        {
            self.complete_since = lost.at;
        }
        self.ring.push_back(entry);
    }

    fn forget(&mut self, now: Moment) {
        while self.ring.front().is_some_and(|entry| now.since(entry.at) > WINDOW) {
            self.ring.pop_front();
        }
    }
}

/// The least value that `percent` of 100 do not exceed (nearest rank); none of none.
pub fn percentile<T: Copy>(ascending: &[T], percent: usize) -> Option<T> {
    let rank = (ascending.len() * percent).div_ceil(100);
    ascending.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_a_minute_is_forgotten_but_for_the_last_answer() {
        let recent = Recent::new(Clock::start());
        tokio::time::advance(SECOND).await;
        recent.record(&Fact::Ended(&Exchange::completed()));
        let failed = Exchange { outcome: Outcome::UpstreamFailed, code: None, ..Exchange::completed() };
        recent.record(&Fact::Ended(&failed));
        let scores = recent.scores();
        assert_eq!(scores.covers, SECOND, "there is no minute yet");
        let outcomes = |scores: &Scores, model: Option<&str>| {
            scores.models.get(&model.map(Name::from)).map(|score| score.outcomes.clone())
        };
        assert_eq!(outcomes(&scores, Some("m")), Some([("completed", 1)].into()));
        assert_eq!(
            outcomes(&scores, None),
            Some([("upstream_failed", 1)].into()),
            "its name was made up, maybe"
        );
        tokio::time::advance(2 * WINDOW).await;
        assert!(recent.scores().models.is_empty());
        assert_eq!(recent.last_answers()[&Name::from("default")].outcome, Outcome::UpstreamFailed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_ring_makes_the_window_shorter() {
        let recent = Recent::new(Clock::start());
        for _ in 0..RING {
            recent.record(&Fact::Ended(&Exchange::completed()));
        }
        tokio::time::advance(SECOND).await;
        recent.record(&Fact::Ended(&Exchange::completed()));
        assert_eq!(recent.scores().covers, SECOND);
        assert_eq!(recent.state.lock().ring.len(), RING);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 95)), (Some(50), Some(95)));
        assert_eq!((percentile(&[7], 50), percentile::<u32>(&[], 50)), (Some(7), None));
    }
}
