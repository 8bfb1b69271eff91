//! What the sidecar measured of each model in the last half minute. A sink like any other: it is told facts and
//! knows nothing of the simulated world.
//!
//! Absent: models that are not in the demonstration, and anything older than the window.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Moment};
use crate::exchange::{Exchange, ModelNames, Name};
use crate::sinks::{Fact, Sink};

/// How far back it looks.
pub(super) const WINDOW: Duration = Duration::from_secs(30);

const RING: usize = 16_384; // the highest pace fills a tenth of it; beyond it the window gets shorter, not wrong

/// The sink.
#[derive(Debug)]
pub(super) struct Scoreboard {
    clock: Clock,
    models: Vec<(Name, Mutex<Window>)>,
}

/// What was measured of a model within the window. What nothing is known of is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Score {
    /// Exchanges that ended, in a minute.
    pub(super) requests_per_minute: Option<f64>,
    /// Median time to the first token.
    pub(super) ttft_p50: Option<Duration>,
    /// The time within which 95 of 100 first tokens came.
    pub(super) ttft_p95: Option<Duration>,
    /// Median speed of an answer, tokens in a second.
    pub(super) tps_p50: Option<f64>,
    /// Input and output tokens, in a minute.
    pub(super) tokens_per_minute: Option<f64>,
}

impl Scoreboard {
    /// A board for these models.
    pub(super) fn new<'a>(models: impl IntoIterator<Item = &'a str>, clock: Clock) -> Self {
        let window = |name| (Name::from(name), Mutex::new(Window::new(clock.now())));
        Self { clock, models: models.into_iter().map(window).collect() }
    }

    /// The present score of each model.
    pub(super) fn scores(&self) -> Vec<(&Name, Score)> {
        let now = self.clock.now();
        self.models.iter().map(|(name, window)| (name, window.lock().score(now))).collect()
    }

    fn push(&self, model: &ModelNames, accepted: bool, seen: Seen) {
        let Some(label) = model.label(accepted) else { return };
        if let Some((_, window)) = self.models.iter().find(|(name, _)| name == label) {
            window.lock().push(self.clock.now(), seen);
        }
    }
}

impl Sink for Scoreboard {
    fn record(&self, fact: &Fact<'_>) {
        match fact {
            Fact::FirstToken { accepted, ttft, .. } => {
                self.push(&accepted.model, true, Seen::FirstToken(*ttft));
            }
            Fact::Ended(_)
            | Fact::Limited { .. }
            | Fact::Judged { .. }
            | Fact::Flow { .. }
            | Fact::Audited { .. } => {}
            Fact::Settled(exchange) => {
                self.push(&exchange.model, exchange.accepted(), Seen::end_of(exchange))
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    FirstToken(Duration),
    End { tps: Option<f64>, tokens: u64 },
}

impl Seen {
    fn end_of(exchange: &Exchange) -> Self {
        let tokens = [exchange.input, exchange.output].into_iter().flatten().map(|count| count.value).sum();
        Self::End { tps: exchange.timing.tps, tokens }
    }
}

/// What was seen of a model, oldest first.
#[derive(Debug)]
struct Window {
    ring: VecDeque<(Moment, Seen)>,
    /// Everything since then is in the ring, unless it is older than the window.
    complete_since: Moment,
}

impl Window {
    fn new(now: Moment) -> Self {
        Self { ring: VecDeque::new(), complete_since: now }
    }

    fn push(&mut self, now: Moment, seen: Seen) {
        self.forget(now);
        if self.ring.len() >= RING
            && let Some((at, _)) = self.ring.pop_front()
        {
            self.complete_since = at;
        }
        self.ring.push_back((now, seen));
    }

    fn forget(&mut self, now: Moment) {
        while self.ring.front().is_some_and(|(at, _)| now.since(*at) > WINDOW) {
            self.ring.pop_front();
        }
    }

    fn score(&mut self, now: Moment) -> Score {
        self.forget(now);
        let (mut ttfts, mut speeds, mut requests, mut tokens) = (Vec::new(), Vec::new(), 0u64, 0u64);
        for (_, seen) in &self.ring {
            match *seen {
                Seen::FirstToken(ttft) => ttfts.push(ttft),
                Seen::End { tps, tokens: of_this } => {
                    requests += 1;
                    tokens = tokens.saturating_add(of_this);
                    speeds.extend(tps);
                }
            }
        }
        ttfts.sort_unstable();
        speeds.sort_unstable_by(f64::total_cmp);
        let span = now.since(self.complete_since).min(WINDOW).as_secs_f64();
        let per_minute = |count: u64| (span > 0.0).then(|| count as f64 * 60.0 / span);
        Score {
            requests_per_minute: per_minute(requests),
            ttft_p50: percentile(&ttfts, 50),
            ttft_p95: percentile(&ttfts, 95),
            tps_p50: percentile(&speeds, 50),
            tokens_per_minute: per_minute(tokens),
        }
    }
}

/// The least value that `percent` of 100 do not exceed (nearest rank); none of none.
fn percentile<T: Copy>(ascending: &[T], percent: usize) -> Option<T> {
    let rank = (ascending.len() * percent).div_ceil(100);
    ascending.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{DialectId, InputBand};
    use crate::live::{Accepted, Ask, Origin};

    const MILLI: Duration = Duration::from_millis(1);

    fn board() -> Scoreboard {
        Scoreboard::new(["small", "large"], Clock::start())
    }

    fn first_token(board: &Scoreboard, model: &str, millis: u32) {
        let origin = Origin {
            number: 0,
            request_id: Name::from("r"),
            trace_id: None,
            tenant: Name::from("t"),
            upstream: Name::from("u"),
            dialect: DialectId("d"),
            started: Moment::default(),
        };
        let model = ModelNames { configured: Some(Name::from(model)), ..ModelNames::default() };
        let ask = Ask { dialect: None, input_band: InputBand::Le1k, text_bytes: None, max_output: None };
        let accepted = Accepted { model, ask, sent: None };
        board.record(&Fact::FirstToken { origin: &origin, accepted: &accepted, ttft: MILLI * millis });
    }

    fn score(board: &Scoreboard, model: &str) -> Score {
        board.scores().into_iter().find(|(name, _)| name.as_str() == model).unwrap().1
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 95)), (Some(50), Some(95)));
        assert_eq!((percentile(&[1, 2, 3], 50), percentile(&[1, 2, 3], 95)), (Some(2), Some(3)));
        assert_eq!((percentile(&[7], 50), percentile::<u32>(&[], 50)), (Some(7), None));
    }

    #[tokio::test(start_paused = true)]
    async fn each_model_has_its_own_score_and_others_have_none() {
        let board = board();
        tokio::time::advance(MILLI).await;
        for (model, millis) in
            [("small", 150), ("large", 400), ("small", 170), ("small", 160), ("made-up", 1)]
        {
            first_token(&board, model, millis);
        }
        let small = score(&board, "small");
        assert_eq!((small.ttft_p50, small.ttft_p95), (Some(MILLI * 160), Some(MILLI * 170)));
        assert_eq!(score(&board, "large").ttft_p50, Some(MILLI * 400));
        assert_eq!((small.tps_p50, small.requests_per_minute), (None, Some(0.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_window_is_forgotten() {
        let board = board();
        first_token(&board, "small", 900);
        tokio::time::advance(WINDOW / 2).await;
        first_token(&board, "small", 100);
        tokio::time::advance(WINDOW / 2).await;
        assert_eq!(score(&board, "small").ttft_p95, Some(MILLI * 900), "just within");
        tokio::time::advance(MILLI).await;
        assert_eq!(score(&board, "small").ttft_p95, Some(MILLI * 100));
        tokio::time::advance(WINDOW).await;
        assert_eq!(score(&board, "small").ttft_p95, None);
    }

    #[test]
    fn rates_are_over_the_time_that_was_seen() {
        let at = |seconds| Moment::new(Duration::from_secs(seconds));
        let mut window = Window::new(at(100));
        assert_eq!(window.score(at(100)), Score::default(), "no time, no rate");
        for seconds in [102, 104] {
            window.push(at(seconds), Seen::End { tps: Some(seconds as f64), tokens: 250 });
        }
        let score = window.score(at(110));
        assert_eq!((score.requests_per_minute, score.tokens_per_minute), (Some(12.0), Some(3000.0)));
        assert_eq!(score.tps_p50, Some(102.0));
        assert_eq!(window.score(at(130)).requests_per_minute, Some(4.0), "the window is full");
    }

    #[test]
    fn a_full_ring_makes_the_window_shorter_and_its_rates_stay_right() {
        let mut window = Window::new(Moment::default());
        // 2,048 a second: the ring holds 8 s of them.
        let at = |n: u64| Moment::from_nanos(n * (1_000_000_000 / 2048));
        let last = 2 * RING as u64;
        (0..=last).for_each(|n| window.push(at(n), Seen::End { tps: None, tokens: 1 }));
        assert_eq!(window.ring.len(), RING);
        let rate = window.score(at(last)).tokens_per_minute.unwrap();
        assert!((rate - 2048.0 * 60.0).abs() < 1.0, "{rate}");
    }
}
