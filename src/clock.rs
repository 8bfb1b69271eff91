//! Time. The only file that asks the operating system for it; everything else is handed a [`Moment`].

use std::time::{Duration, SystemTime};

/// A point in monotonic time, as the time since the process's [`Clock`] began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The moment `since_start` after the clock began.
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// The moment `nanos` nanoseconds after the clock began.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }

    /// Nanoseconds since the clock began; 584 years fit.
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }
}

/// Where moments come from. It follows tokio's time, so that a test which pauses time pauses this too.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: tokio::time::Instant,
    /// What the wall clock showed then, where it is not to be asked.
    wall: Option<SystemTime>,
}

impl Clock {
    /// A clock that begins now.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for the time")]
    pub fn start() -> Self {
        Self { start: tokio::time::Instant::now(), wall: None }
    }

    /// The same with a wall clock that showed `wall` at its start and goes with it, in paused time too.
    #[must_use]
    pub const fn with_wall(self, wall: SystemTime) -> Self {
        Self { wall: Some(wall), ..self }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    /// The instant of a moment, for timers.
    pub fn instant(&self, at: Moment) -> tokio::time::Instant {
        self.start + at.0
    }

    /// The wall-clock time of a moment, reckoned from now: a step of the wall clock moves what is asked for
    /// afterwards, never the distance between two moments.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for the time")]
    pub fn wall(&self, at: Moment) -> SystemTime {
        if let Some(start) = self.wall {
            return start + at.0;
        }
        let now = SystemTime::now();
        now.checked_sub(self.now().since(at)).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_never_before_the_one_it_is_measured_from() {
        let (early, late) = (Moment::from_nanos(5), Moment::from_nanos(9));
        assert_eq!(late.since(early), Duration::from_nanos(4));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_paused_time() {
        let clock = Clock::start();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(clock.now(), Moment::new(Duration::from_secs(3600)));
    }
}
