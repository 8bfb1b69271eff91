//! Who waits for which turn: one queue for each tenant, first come, first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::exchange::Name;

/// How many requests of one tenant may wait. Each holds a connection of its client and up to two megabytes.
const LONGEST: usize = 1000;

/// The queues in which somebody waits.
#[derive(Debug, Default)]
pub(super) struct Queues(Mutex<HashMap<Name, Arc<Queue>>>);

#[derive(Debug)]
struct Queue {
    first: Arc<Semaphore>,
    freed: Notify,
    /// In it, the first included.
    members: AtomicUsize,
}

/// A place in a queue.
struct Place<'q> {
    queues: &'q Queues,
    tenant: Name,
    queue: Arc<Queue>,
}

/// The first place of a queue.
pub(super) struct Turn<'q> {
    /// Whether somebody was before it.
    pub(super) has_waited: bool,
    permit: Option<OwnedSemaphorePermit>,
    place: Place<'q>,
}

/// Why there is no turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    TooMany,
    TooLate,
}

impl Queues {
    /// Takes a place in a tenant's queue; ready when it is the first one.
    pub(super) async fn turn(&self, tenant: &Name, gives_up: Instant) -> Result<Turn<'_>, NoTurn> {
        let place = self.enter(tenant).ok_or(NoTurn::TooMany)?;
        let first = Arc::clone(&place.queue.first);
        if let Ok(permit) = Arc::clone(&first).try_acquire_owned() {
            return Ok(Turn { has_waited: false, permit: Some(permit), place });
        }
        // It is never closed.
        let permit = tokio::time::timeout_at(gives_up, first.acquire_owned()).await;
        let permit = permit.map_err(|_| NoTurn::TooLate)?.ok();
        Ok(Turn { has_waited: true, permit, place })
    }

    fn enter(&self, tenant: &Name) -> Option<Place<'_>> {
        let mut queues = self.0.lock();
        let queue = queues.entry_ref(tenant).or_insert_with(|| {
            Arc::new(Queue {
                first: Arc::new(Semaphore::new(1)),
                freed: Notify::new(),
                members: AtomicUsize::new(0),
            })
        });
        if queue.members.load(Ordering::Relaxed) >= LONGEST {
            return None;
        }
        queue.members.fetch_add(1, Ordering::Relaxed);
        Some(Place { queues: self, tenant: tenant.clone(), queue: Arc::clone(queue) })
    }

    /// A tenant has been given tokens back.
    pub(super) fn freed(&self, tenant: &Name) {
        if let Some(queue) = self.0.lock().get(tenant) {
            queue.freed.notify_waiters();
        }
    }
}

impl Turn<'_> {
    /// Ready when the tenant has been given tokens back after this was called.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.place.queue.freed.notified()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.permit.take()); // before the place: who finds the queue empty finds its turn free
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queues = self.queues.0.lock();
        if self.queue.members.fetch_sub(1, Ordering::Relaxed) == 1 {
            queues.remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_there_only_while_somebody_is_in_it_and_has_an_end() {
        let (queues, tenant) = (Queues::default(), Name::from("t"));
        let clock = Clock::start();
        let later = || clock.instant(clock.now() + Duration::from_secs(1));
        let first = queues.turn(&tenant, later()).await.ok().unwrap();
        let places: Vec<_> = (1..LONGEST).map(|_| queues.enter(&tenant).unwrap()).collect();
        assert_eq!(queues.turn(&tenant, later()).await.err(), Some(NoTurn::TooMany));
        assert!(!queues.turn(&Name::from("other"), later()).await.ok().unwrap().has_waited);
        drop(places);
        assert_eq!(queues.turn(&tenant, later()).await.err(), Some(NoTurn::TooLate));
        drop(first);
        assert!(queues.0.lock().is_empty());
    }
}
