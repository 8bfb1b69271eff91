//! The tap: a body of an answer that passes every frame on as it came and lets the watch see it. Nothing that can fail
//! stands between receiving a frame and returning it. Where the request was made to ask for usage, what the injection
//! leaves of the frame goes on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use smallvec::SmallVec;

use super::connect::Line;
use super::deadline::{Deadline, Silent};
use super::inject::Injection;
use super::upload::{Upload, longer};
use super::upstream::Lease;
use super::watch::Recording;
use crate::clock::Moment;
use crate::exchange::Ending;

/// An answer's body on its way to the client.
///
/// A frame is returned first and looked at afterwards: while it is being written nothing is parsed. It is
/// looked at when the body is polled again after that write, or at the end.
#[derive(Debug)]
pub(super) struct ResponseTap {
    /// None once a deadline has cut it.
    incoming: Option<Incoming>,
    /// Where the request was made to ask for usage, and the answer shows that.
    injection: Option<Box<Injection>>,
    /// None once the exchange has ended.
    recording: Option<Recording>,
    reads: Reads,
    deadline: Deadline,
    upload: Arc<Upload>,
    /// Given back at a clean end, dropped with the connection at any other.
    lease: Option<Lease>,
    /// Frames that were returned and not looked at, with the time of their read.
    unseen: SmallVec<[(Bytes, Moment); 1]>, // as a rule there is one
    /// The task has been woken to look at them.
    woken: bool,
    /// Something was handed over, the head at first, that the library may not have written.
    unwritten: bool,
    /// What broke the answer while something was.
    broken: Option<TapError>,
}

const UNSEEN: usize = 16; // frames; more come only when the upstream is faster than the client

/// When what is read was read.
#[derive(Debug)]
pub(super) struct Reads {
    /// The connection, where it is HTTP/1; over HTTP/2 others use it too, and the time is now.
    pub(super) line: Option<Line>,
    /// The read that the last frame was in.
    pub(super) last: Moment,
}

/// What breaks an answer's body: the upstream's own error, its source kept for HTTP/2's reset codes, or our
/// deadline.
pub(super) type TapError = Box<dyn std::error::Error + Send + Sync>;

/// What an answer's body gives when it is ready.
pub(super) type Polled = Option<Result<Frame<Bytes>, TapError>>;

impl ResponseTap {
    pub(super) fn new(
        incoming: Incoming,
        injection: Option<Box<Injection>>,
        recording: Recording,
        reads: Reads,
        deadline: Deadline,
        upload: Arc<Upload>,
        lease: Lease,
    ) -> Self {
        let mut tap = Self {
            incoming: Some(incoming),
            injection,
            recording: Some(recording),
            reads,
            deadline,
            upload,
            lease: Some(lease),
            unseen: SmallVec::new(),
            woken: false,
            unwritten: true,
            broken: None,
        };
        if tap.is_end_stream() {
            tap.finish(Ending::Clean);
        }
        tap
    }

    fn finish(&mut self, ending: Ending) {
        let looked = self.look();
        let Some(recording) = self.recording.take() else { return };
        if let Some(cut) = self.injection.as_ref().map(|injection| injection.cut()).filter(|&cut| cut > 0) {
            recording.watch().withheld(cut, cut);
        }
        let now = looked.unwrap_or_else(|| recording.watch().now());
        recording.finish_at(ending, now);
        if ending == Ending::Clean
            && let Some(lease) = self.lease.take()
        {
            lease.keep(now);
        }
    }

    /// Looks at the frames that have been returned; gives when it was done with them, where there were some.
    fn look(&mut self) -> Option<Moment> {
        self.woken = false;
        let Some(recording) = &mut self.recording else {
            self.unseen.clear();
            return None;
        };
        if self.unseen.is_empty() {
            return None;
        }
        let before = recording.watch().now();
        for (data, at) in self.unseen.drain(..) {
            recording.watch().response_chunk(&data, at);
        }
        let after = recording.watch().now();
        recording.add_overhead(after.since(before));
        Some(after)
    }

    /// Keeps a frame that is about to be returned, to be looked at later.
    fn remember(&mut self, frame: &Frame<Bytes>, read_before: Option<Moment>) {
        let Some((recording, data)) = self.recording.as_ref().zip(frame.data_ref()) else { return };
        let at = self.reads.of_frame(read_before, || recording.watch().now());
        self.unseen.push((data.clone(), at));
        if self.unseen.len() >= UNSEEN {
            self.look();
        }
    }
}

impl Drop for ResponseTap {
    fn drop(&mut self) {
        self.look();
        if let Some((injection, recording)) = self.injection.as_ref().zip(self.recording.as_ref()) {
            let cut = injection.cut();
            recording.watch().withheld(cut + injection.waiting(), cut);
        }
    }
}

impl Reads {
    /// The read that brought a frame. `before` is the connection's last read when the frame was asked for: if
    /// that is newer than the last frame's, the frame was waiting since then; else it came just now, or in the
    /// same read as the last one. Never before the last frame: the stamp of another read may have come in between.
    fn of_frame(&mut self, before: Option<Moment>, now: impl FnOnce() -> Moment) -> Moment {
        let at = match (&self.line, before) {
            (Some(_), Some(before)) if before > self.last => before,
            (Some(line), _) => line.last_read(),
            (None, _) => now(),
        };
        self.last = at.max(self.last);
        self.last
    }
}

impl ResponseTap {
    /// What comes next of the answer, and how the exchange ends where it ends with that.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<(Polled, Option<Ending>)> {
        let read_before = self.reads.line.as_ref().map(Line::last_read);
        let polled = match self.injection.as_mut().and_then(|injection| injection.next_read()) {
            Some(frame) => Poll::Ready(Some(frame)),
            None => match &mut self.incoming {
                Some(incoming) => Pin::new(incoming).poll_frame(cx),
                None => return Poll::Ready((None, None)),
            },
        };
        let Poll::Ready(polled) = polled else {
            if !self.unseen.is_empty() {
                // What has been returned is written now; then there is time to look.
                self.woken = true;
                cx.waker().wake_by_ref();
            }
            ready!(self.deadline.poll_silent(&self.upload, cx));
            self.incoming = None;
            return Poll::Ready((Some(Err(Silent.into())), Some(Ending::TimedOut)));
        };
        let ending = match &polled {
            Some(Ok(frame)) => {
                self.remember(frame, read_before);
                self.deadline.restart();
                // After trailers, with a declared length or over HTTP/2 the body may not be polled to its end.
                (frame.is_trailers() || self.has_ended()).then_some(Ending::Clean)
            }
            // A client that breaks its upload off ends the answer too.
            Some(Err(_)) if self.upload.has_failed() => Some(Ending::ClientGone),
            Some(Err(_)) => Some(Ending::UpstreamBroke),
            None => Some(Ending::Clean),
        };
        Poll::Ready((polled.map(|frame| frame.map_err(Into::into)), ending))
    }

    /// Lets the injection have what came next, before the exchange ends with it: by then it is known what the client
    /// does not get.
    fn inject(&mut self, polled: Polled, ending: Option<Ending>) {
        let before = self.recording.as_ref().map(|recording| recording.watch().now());
        if let Some(injection) = &mut self.injection {
            injection.take(polled, ending);
        }
        if let Some((recording, before)) = self.recording.as_mut().zip(before) {
            recording.add_overhead(recording.watch().now().since(before));
        }
        if let Some(ending) = ending {
            self.finish(ending);
        }
    }

    /// Whether nothing more comes of the answer.
    fn has_ended(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
            && self.injection.as_ref().is_none_or(|injection| injection.is_read())
    }
}

impl ResponseTap {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Polled> {
        loop {
            if self.woken {
                self.look();
            }
            if let Some(polled) = self.injection.as_mut().and_then(|injection| injection.poll_next(cx)) {
                return polled;
            }
            let (polled, ending) = ready!(self.poll_upstream(cx));
            if self.injection.is_none() {
                if let Some(ending) = ending {
                    self.finish(ending);
                }
                return Poll::Ready(polled);
            }
            let is_over = polled.is_none() || ending.is_some();
            self.inject(polled, ending);
            if is_over {
                self.incoming = None; // all of it has been read
                if self.is_end_stream() {
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl Body for ResponseTap {
    type Data = Bytes;
    type Error = TapError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = self.poll_next(cx);
        let was_unwritten = std::mem::replace(&mut self.unwritten, polled.is_ready());
        match polled {
            Poll::Ready(Some(Err(error))) if was_unwritten => {
                // At an error the library throws away what it has not written; when it has to wait it writes first. A
                // client whose connection takes no more loses the rest all the same.
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none()
            && self.has_ended()
            && self.injection.as_ref().is_none_or(|injection| injection.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        let coming = self.incoming.as_ref().map_or_else(SizeHint::default, Body::size_hint);
        match &self.injection {
            None => coming,
            Some(injection) => {
                injection.length_read().map_or_else(SizeHint::default, |read| longer(&coming, read))
            }
        }
    }
}
