//! Tokens per minute: over the last sixty seconds at any moment, and of each minute of the wall clock once it is over.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::{Duration, SystemTime};

use hashbrown::HashMap;

use crate::clock::Moment;

const SECONDS: u64 = 60;

/// The last sixty seconds, the running one among them: tokens by the second in which they flowed. Only seconds that
/// had any take room.
#[derive(Debug, Clone, Default)]
pub struct Window {
    slots: VecDeque<(u64, u64)>, // second and tokens, ascending
}

impl Window {
    /// Adds tokens that flowed at `at`.
    pub fn add(&mut self, at: Moment, tokens: u64) {
        let second = second(at);
        let place = self.slots.partition_point(|(earlier, _)| *earlier < second);
        match self.slots.get_mut(place).filter(|(found, _)| *found == second) {
            Some((_, sum)) => *sum = sum.saturating_add(tokens),
            None => self.slots.insert(place, (second, tokens)),
        }
        if let Some((newest, _)) = self.slots.back().copied() {
            self.forget_before(newest); // whether or not somebody asks for the sum
        }
    }

    /// What flowed in the sixty seconds until `now`.
    pub fn sum(&mut self, now: Moment) -> u64 {
        self.forget_before(second(now));
        self.slots.iter().fold(0, |all, (_, tokens)| all.saturating_add(*tokens))
    }

    /// Forgets the seconds that are over for sixty.
    fn forget_before(&mut self, now: u64) {
        let is_over = |(second, _): &(u64, u64)| second + SECONDS <= now;
        while self.slots.front().is_some_and(is_over) {
            self.slots.pop_front();
        }
    }
}

fn second(at: Moment) -> u64 {
    at.since(Moment::default()).as_secs()
}

/// The running minute of the wall clock. It ends when the clock that never steps says so: a step of the wall clock can
/// cut one minute short, so that the next ones begin where the clock's do; none is ever longer than sixty seconds.
#[derive(Debug)]
pub struct Minutes<K> {
    running: Option<Running>,
    sums: HashMap<K, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    started: Moment,
    ends: Moment,
}

impl<K> Default for Minutes<K> {
    fn default() -> Self {
        Self { running: None, sums: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Minutes<K> {
    /// Closes the minute if it is over, and gives what flowed in it. `wall` is what the wall clock says at `now`.
    pub fn close(&mut self, now: Moment, wall: impl FnOnce() -> SystemTime) -> Vec<(K, u64)> {
        if self.running.is_some_and(|running| now < running.ends) {
            return Vec::new();
        }
        let since_epoch = wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let into = Duration::new(since_epoch.as_secs() % SECONDS, since_epoch.subsec_nanos());
        let began = Moment::default() + now.since(Moment::default() + into);
        let started = self.running.map_or(began, |last| began.max(last.ends));
        self.running = Some(Running { started, ends: now + (Duration::from_secs(SECONDS) - into) });
        self.sums.drain().collect()
    }

    /// Adds tokens that flowed at `at`; gives when they count: then, or `now` where that minute has been closed.
    /// [`Self::close`] comes before it.
    pub fn add(&mut self, series: &K, at: Moment, now: Moment, tokens: u64) -> Moment {
        match self.sums.get_mut(series) {
            Some(sum) => *sum = sum.saturating_add(tokens),
            None => drop(self.sums.insert(series.clone(), tokens)),
        }
        if self.running.is_some_and(|running| at < running.started) { now } else { at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Moment {
        Moment::new(Duration::from_secs_f64(seconds))
    }

    fn wall(seconds: f64) -> impl FnOnce() -> SystemTime {
        move || SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_window_holds_sixty_seconds_whatever_order_they_are_told_in() {
        let mut window = Window::default();
        for (second, tokens) in [(10.0, 1), (10.9, 2), (40.0, 8), (11.2, 4)] {
            window.add(at(second), tokens);
        }
        assert_eq!(window.sum(at(40.0)), 15);
        assert_eq!(window.sum(at(69.9)), 15);
        assert_eq!(window.sum(at(70.0)), 12);
        assert_eq!(window.sum(at(71.0)), 8);
        assert_eq!(window.sum(at(100.0)), 0);
        assert!(window.slots.is_empty());
    }

    #[test]
    fn a_window_that_nobody_reads_holds_no_more_than_its_sixty_seconds() {
        let mut window = Window::default();
        for second in 0..1_000 {
            window.add(at(f64::from(second)), u64::MAX / 2);
        }
        assert_eq!((window.slots.len(), window.sum(at(999.0))), (60, u64::MAX));
    }

    /// Adds tokens; gives what is closed by then.
    fn add(minutes: &mut Minutes<char>, now: f64, wall_now: f64, tokens: u64) -> Vec<(char, u64)> {
        let closed = minutes.close(at(now), wall(wall_now));
        minutes.add(&'a', at(now), at(now), tokens);
        closed
    }

    #[test]
    fn a_minute_is_closed_at_the_wall_clocks_edge() {
        let mut minutes = Minutes::default();
        assert_eq!(add(&mut minutes, 7.0, 50.0, 1), []);
        assert_eq!(add(&mut minutes, 16.9, 59.9, 2), []);
        assert_eq!(add(&mut minutes, 17.0, 60.0, 4), [('a', 3)]);
        assert_eq!(add(&mut minutes, 76.9, 119.9, 8), []);
        assert_eq!(minutes.close(at(77.0), wall(120.0)), [('a', 12)]);
        assert_eq!(minutes.close(at(500.0), wall(543.0)), [], "a minute without traffic is not told of");
    }

    #[test]
    fn a_step_of_the_wall_clock_makes_no_minute_longer() {
        let mut minutes = Minutes::default();
        add(&mut minutes, 0.0, 0.0, 1);
        assert_eq!(add(&mut minutes, 59.0, 19.0, 2), [], "stepped back by 40 s: the minute goes on");
        assert_eq!(add(&mut minutes, 60.0, 20.0, 4), [('a', 3)], "and ends when it would have");
        assert_eq!(add(&mut minutes, 99.9, 59.9, 8), []);
        assert_eq!(add(&mut minutes, 100.0, 60.0, 16), [('a', 12)], "the next one ends with the clock's");
        assert_eq!(add(&mut minutes, 130.0, 4_000.0, 32), [], "a step forward changes nothing either");
        assert_eq!(add(&mut minutes, 160.0, 4_030.0, 64), [('a', 48)]);
        assert_eq!(add(&mut minutes, 210.0, 4_080.0, 0), [('a', 64)], "4,030 is ten seconds into a minute");
    }

    #[test]
    fn nothing_is_added_to_a_minute_that_is_closed() {
        let mut minutes = Minutes::default();
        add(&mut minutes, 0.0, 30.0, 1);
        assert_eq!(minutes.close(at(31.0), wall(61.0)), [('a', 1)]);
        assert_eq!(minutes.add(&'a', at(29.0), at(32.0), 5), at(32.0));
        assert_eq!(minutes.add(&'a', at(30.5), at(32.0), 5), at(30.5), "closed late, it ended in time");
    }
}
