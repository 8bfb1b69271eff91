//! The measures of time, defined once. docs/measurement.md has the formulas in prose.

use std::time::Duration;

use crate::clock::Moment;

/// The moments of one exchange, as the observer stamped them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clocks {
    /// t0: the request's head had been read.
    pub started: Moment,
    /// tu: the request's last byte had been handed to the upstream.
    pub sent: Option<Moment>,
    /// th: the answer's head had been read.
    pub head: Option<Moment>,
    /// tb: the first byte of the answer's body.
    pub first_byte: Option<Moment>,
    /// tf: the first event that carries a generated token, on any channel.
    pub first_token: Option<Moment>,
    /// ta: the first event that carries answer content, a tool call or a refusal (not reasoning).
    pub first_answer: Option<Moment>,
    /// tl: the last event that carries a generated token.
    pub last_token: Option<Moment>,
    /// The longest time between two token events.
    pub longest_gap: Option<Duration>,
    /// n1: tokens in the event at tf, where the event told.
    pub first_event_tokens: Option<u64>,
    /// te: the end.
    pub ended: Moment,
}

/// The measures of one exchange. Those of the stream are there only for 2xx streaming answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timing {
    /// te − t0.
    pub duration: Duration,
    /// tb − t0.
    pub ttfb: Option<Duration>,
    /// tf − t0.
    pub ttft: Option<Duration>,
    /// ta − t0.
    pub first_answer: Option<Duration>,
    /// tl − t0.
    pub last_token: Option<Duration>,
    /// The worst stall between two token events.
    pub longest_gap: Option<Duration>,
    /// (tl − tf) / (N − n1), in one choice's stream.
    pub tpot: Option<Duration>,
    /// (N − n1) / (tl − tf), in one choice's stream.
    pub tps: Option<f64>,
    /// t0 until the request was handed to a connection, less connecting.
    pub overhead_request: Option<Duration>,
    /// Time spent inside the tap, all of the answer's chunks together.
    pub overhead_response: Duration,
}

impl Timing {
    /// The measures of an exchange whose clocks stood so.
    ///
    /// `streamed`: the answer was a 2xx event stream. `output`: N, where known. `choices`: how many were asked for or
    /// seen; speed is told of a single one only.
    pub fn of(clocks: &Clocks, streamed: bool, output: Option<u64>, choices: u32) -> Self {
        let since_start = |at: Option<Moment>| at.filter(|_| streamed).map(|at| at.since(clocks.started));
        let decode = clocks
            .last_token
            .zip(clocks.first_token)
            .map(|(last, first)| last.since(first))
            .filter(|span| streamed && choices <= 1 && !span.is_zero());
        let tokens_after_first =
            output.and_then(|n| n.checked_sub(clocks.first_event_tokens.unwrap_or(1))).filter(|&n| n > 0);
        let speed = decode.zip(tokens_after_first);
        Self {
            duration: clocks.ended.since(clocks.started),
            ttfb: since_start(clocks.first_byte),
            ttft: since_start(clocks.first_token),
            first_answer: since_start(clocks.first_answer),
            last_token: since_start(clocks.last_token),
            longest_gap: clocks.longest_gap.filter(|_| streamed),
            tpot: speed.map(|(span, n)| Duration::from_secs_f64(span.as_secs_f64() / n as f64)),
            tps: speed.map(|(span, n)| n as f64 / span.as_secs_f64()),
            overhead_request: None,
            overhead_response: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::new(Duration::from_millis(millis))
    }

    fn stream() -> Clocks {
        Clocks {
            started: at(100),
            head: Some(at(200)),
            first_byte: Some(at(200)),
            first_token: Some(at(350)),
            first_answer: Some(at(350)),
            last_token: Some(at(1350)),
            ended: at(1400),
            ..Clocks::default()
        }
    }

    #[test]
    fn speed_is_over_the_tokens_after_the_first_event() {
        let timing = Timing::of(&stream(), true, Some(21), 1);
        assert_eq!(timing.ttft, Some(Duration::from_millis(250)));
        assert_eq!(timing.tpot, Some(Duration::from_millis(50)));
        assert_eq!(timing.tps, Some(20.0));
        let burst = Clocks { first_event_tokens: Some(11), ..stream() };
        assert_eq!(Timing::of(&burst, true, Some(21), 1).tps, Some(10.0));
    }

    #[test]
    fn what_cannot_be_told_is_absent_not_zero() {
        assert_eq!(Timing::of(&stream(), true, None, 1).tps, None);
        assert_eq!(Timing::of(&stream(), true, Some(1), 1).tpot, None);
        assert_eq!(Timing::of(&stream(), true, Some(0), 1).tpot, None);
        assert_eq!(Timing::of(&stream(), true, Some(21), 2).tps, None);
        let single = Clocks { last_token: Some(at(350)), ..stream() };
        assert_eq!(Timing::of(&single, true, Some(21), 1).tps, None);
    }

    #[test]
    fn an_answer_that_was_no_stream_has_a_duration_and_nothing_else() {
        let timing = Timing::of(&stream(), false, Some(21), 1);
        assert_eq!(timing, Timing { duration: Duration::from_millis(1300), ..Timing::default() });
    }
}
