//! How long a connection may stand without a request's head, for the library, which asks for a new sleep with each head
//! and drops it when that has come. A connection has one sleep here, which goes on through its requests and is set
//! anew when it ends too early: the runtime's timers are locked once in two minutes, not twice for each request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;

use super::bell::Bell;

/// The timer of one connection. Of two sleeps that it is asked for, the later one ends later.
#[derive(Debug, Default)]
pub(super) struct HeadTimer(Arc<Mutex<Alarm>>);

#[derive(Debug, Default)]
struct Alarm {
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    bell: Option<Arc<Bell>>,
}

struct Until {
    alarm: Arc<Mutex<Alarm>>,
    deadline: tokio::time::Instant,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Until { alarm: Arc::clone(&self.0), deadline: deadline.into() })
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Alarm { sleep, bell } = &mut *self.alarm.lock();
        let Some(waker) = Bell::hang(bell, cx) else { return Poll::Pending };
        let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.deadline)));
        while sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            if sleep.deadline() >= self.deadline {
                *bell = None; // nothing will ring it
                return Poll::Ready(());
            }
            sleep.as_mut().reset(self.deadline);
        }
        Poll::Pending
    }
}

impl Sleep for Until {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_sleep_ends_at_its_own_time_though_one_goes_on_through_all() {
        let timer = HeadTimer::default();
        let began = timer.now();
        let second = Duration::from_secs(1);
        let mut first = timer.sleep(10 * second);
        let early = tokio::time::timeout(4 * second, &mut first).await;
        assert!(early.is_err(), "it ended before its time");
        drop(first); // the head has come
        timer.sleep(10 * second).await;
        assert_eq!((timer.now() - began).as_secs(), 14);
        timer.sleep(3 * second).await;
        assert_eq!((timer.now() - began).as_secs(), 17);
    }
}
