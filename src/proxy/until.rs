//! Runs what may be cancelled.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio_util::sync::CancellationToken;

/// Runs `work` until it is done, or `stop` is cancelled: none then. As the token's own way does, but that one takes a
/// lock each time the work is polled, several times for each request; here the token is looked at when it rings.
pub(super) async fn until<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    if stop.is_cancelled() {
        return None;
    }
    let (mut stopped, mut work) = (pin!(stop.cancelled()), pin!(work));
    let mut bell: Option<Arc<Bell>> = None;
    std::future::poll_fn(|cx| {
        // First, so that what has come by now is taken: a request that has been read is answered.
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if bell.as_ref().is_none_or(|bell| bell.has_rung() || !bell.task.will_wake(cx.waker())) {
            let hung = bell.insert(Arc::new(Bell::of(cx.waker())));
            let waker = Waker::from(Arc::clone(hung));
            if stopped.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    })
    .await
}

/// Wakes a task, and keeps that it did.
struct Bell {
    task: Waker,
    rung: AtomicBool,
}

impl Bell {
    fn of(task: &Waker) -> Self {
        Self { task: task.clone(), rung: AtomicBool::new(false) }
    }

    fn has_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn, ready};

    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn work_that_is_done_gives_its_result_and_a_cancelled_token_ends_the_rest() {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        assert_eq!(until(&stop, ready(7)).await, Some(7));
        let waiting = tasks.spawn({
            let stop = stop.clone();
            async move { until(&stop, pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        stop.cancel();
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!(until(&stop, ready(7)).await, None, "it was cancelled before");
    }

    #[tokio::test]
    async fn work_that_is_done_when_the_token_is_cancelled_gives_its_result() {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (finish, finished) = tokio::sync::oneshot::channel();
        let waiting = tasks.spawn({
            let stop = stop.clone();
            async move { until(&stop, finished).await }
        });
        tokio::task::yield_now().await;
        stop.cancel();
        finish.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Some(Ok(7)));
    }

    #[tokio::test]
    async fn a_token_is_heard_by_another_task_than_the_one_that_polled_first() {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut work = Box::pin({
            let stop = stop.clone();
            async move { until(&stop, pending::<()>()).await }
        });
        let first = tasks.spawn(async move {
            let polled = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
            (polled, work)
        });
        let (polled, work) = first.await.unwrap();
        assert!(polled.is_pending());
        let waiting = tasks.spawn(work);
        tokio::task::yield_now().await;
        stop.cancel();
        assert_eq!(waiting.await.unwrap(), None);
    }
}
