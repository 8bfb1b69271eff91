//! Wakes a task, and keeps that it did: what rings is looked at when it has rung, not each time that its task is polled
//! for something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

/// What a task leaves where it waits.
#[derive(Debug)]
pub(super) struct Bell {
    task: Waker,
    rung: AtomicBool,
}

impl Bell {
    /// Puts a bell for this task into the slot: a waker to poll with what is to ring it. None where the one that hangs
    /// there will do, and has not rung.
    pub(super) fn hang(slot: &mut Option<Arc<Self>>, cx: &Context<'_>) -> Option<Waker> {
        let will_do =
            |bell: &Arc<Self>| !bell.rung.load(Ordering::Acquire) && bell.task.will_wake(cx.waker());
        if slot.as_ref().is_some_and(will_do) {
            return None;
        }
        let bell = Self { task: cx.waker().clone(), rung: AtomicBool::new(false) };
        Some(Waker::from(Arc::clone(slot.insert(Arc::new(bell)))))
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
