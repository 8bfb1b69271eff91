//! Time. The only file that asks the operating system for it; everything else is handed a [`Moment`].

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

/// A point in monotonic time, as the time since the process's [`Clock`] began: 584 years fit. One that may be absent
/// takes no more room than another: an exchange has a dozen of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(NonZeroU64); // nanoseconds, and one

impl Moment {
    /// The moment `since_start` after the clock began.
    pub fn new(since_start: Duration) -> Self {
        Self::from_nanos(nanos(since_start))
    }

    /// The moment `nanos` nanoseconds after the clock began.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// Nanoseconds since the clock began.
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub const fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    const fn since_start(self) -> Duration {
        Duration::from_nanos(self.as_nanos())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Default for Moment {
    fn default() -> Self {
        Self::from_nanos(0)
    }
}

impl std::fmt::Debug for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Moment").field(&self.since_start()).finish()
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(nanos(by)))
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
        Moment::new(self.start.elapsed())
    }

    /// The instant of a moment, for timers.
    pub fn instant(&self, at: Moment) -> tokio::time::Instant {
        self.start + at.since_start()
    }

    /// The wall-clock time of a moment, reckoned from now: a step of the wall clock moves what is asked for
    /// afterwards, never the distance between two moments.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for the time")]
    pub fn wall(&self, at: Moment) -> SystemTime {
        if let Some(start) = self.wall {
            return start + at.since_start();
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
