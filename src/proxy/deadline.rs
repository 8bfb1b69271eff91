//! How long an upstream may owe its first byte, and be silent after it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::upload::Upload;

/// How long the upstream may be silent.
#[derive(Debug)]
pub(super) struct Deadline {
    /// The moment that the next byte must not miss; none: no limit now.
    sleep: Option<Pin<Box<Sleep>>>,
    /// How long the first byte may take; none: no limit, or it has come.
    first_byte: Option<Duration>,
    /// How long a pause after it may be; none: no limit.
    idle: Option<Duration>,
}

impl Deadline {
    /// A deadline for the first byte, and one for each pause after it.
    pub(super) fn new(first_byte: Option<Duration>, idle: Option<Duration>) -> Self {
        Self { sleep: first_byte.map(|limit| Box::pin(tokio::time::sleep(limit))), first_byte, idle }
    }

    /// Ready when the upstream has been silent for too long, at whatever it is.
    pub(super) fn poll_silent(&mut self, upload: &Upload, cx: &mut Context<'_>) -> Poll<()> {
        if self.first_byte.is_some() { self.poll_first_byte(upload, cx) } else { self.poll_passed(cx) }
    }

    /// Ready when it has passed.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Ready when the upstream has owed its first byte for too long: since it took the end of the request, or
    /// all of it that the client has sent. The client's own slowness is not the upstream's.
    pub(super) fn poll_first_byte(&mut self, upload: &Upload, cx: &mut Context<'_>) -> Poll<()> {
        while self.poll_passed(cx).is_ready() {
            let Some((limit, sleep)) = self.first_byte.zip(self.sleep.as_mut()) else { break };
            let owed = upload.owed_since().map_or(Duration::ZERO, |since| upload.now().since(since));
            if owed >= limit {
                return Poll::Ready(());
            }
            let rest = tokio::time::sleep(limit - owed).deadline();
            sleep.as_mut().reset(rest);
        }
        Poll::Pending
    }

    /// A byte has come.
    pub(super) fn restart(&mut self) {
        self.first_byte = None;
        match (self.idle, &mut self.sleep) {
            (None, sleep) => *sleep = None,
            (Some(idle), None) => self.sleep = Some(Box::pin(tokio::time::sleep(idle))),
            (Some(idle), Some(sleep)) => sleep.as_mut().reset(tokio::time::sleep(idle).deadline()),
        }
    }
}

/// The upstream was silent for longer than the configured timeout.
#[derive(Debug, thiserror::Error)]
#[error("the upstream was silent for longer than its configured timeout")]
pub(super) struct Silent;
