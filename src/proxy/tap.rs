//! The taps: bodies that pass every frame on as it came and let the watch see it. The only `poll_frame` of the
//! project. Nothing that can fail stands between receiving a frame and returning it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::error::Elapsed;

use super::connect::Line;
use super::deadline::{Deadline, Silent};
use super::upstream::Lease;
use super::watch::{Recording, Watch};
use crate::clock::Moment;
use crate::exchange::Ending;

/// How much of a request's body is read while no connection has asked for it yet. A client that hangs up is
/// noticed only while its body is being read, or has been.
const READ_AHEAD: usize = 256 << 10;

/// How much is read ahead of all requests together; beyond it nothing is, and that is counted.
pub(super) const READ_AHEAD_IN_ALL: usize = 64 << 20;

/// How long the rest of a request is waited for once nobody will take it. Clients write it right behind its head.
const REST_LIMIT: Duration = Duration::from_millis(100);

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub(super) struct RequestTap(Arc<Upload>);

/// A request's body, as the tap and whoever waits for the answer share it.
#[derive(Debug)]
pub(super) struct Upload {
    state: Mutex<UploadState>,
    watch: Arc<Watch>,
}

#[derive(Debug)]
struct UploadState {
    incoming: Incoming,
    ahead: VecDeque<Result<Frame<Bytes>, hyper::Error>>,
    ahead_bytes: usize,
    /// A connection has asked for the body: it is read no further ahead.
    taken: bool,
    failed: bool,
    /// It was read ahead to its end.
    ended: bool,
    /// The upstream has asked for more than the client has sent.
    waits_for_client: bool,
    /// When the upstream last took something.
    moved: Moment,
}

impl Upload {
    pub(super) fn new(incoming: Incoming, watch: Arc<Watch>, now: Moment) -> Arc<Self> {
        if incoming.is_end_stream() {
            watch.request_end(now);
        }
        let state = UploadState {
            incoming,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            taken: false,
            failed: false,
            ended: false,
            waits_for_client: false,
            moved: now,
        };
        Arc::new(Self { state: Mutex::new(state), watch })
    }

    /// The body for the upstream.
    pub(super) fn tap(self: &Arc<Self>) -> RequestTap {
        RequestTap(Arc::clone(self))
    }

    /// Whether the client stopped uploading.
    pub(super) fn has_failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Since when the upstream owes an answer: it took the last it could get then. None while the client owes
    /// more of its request.
    pub(super) fn owed_since(&self) -> Option<Moment> {
        let state = self.state.lock();
        (!state.waits_for_client).then_some(state.moved)
    }

    fn saw(&self, frame: &Result<Frame<Bytes>, hyper::Error>) {
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
            self.watch.request_chunk(data);
        }
    }

    /// Reads ahead while no connection has asked for the body. Ready when the client stopped uploading.
    pub(super) fn poll_ahead(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        while !state.taken && !state.failed && state.ahead_bytes < READ_AHEAD && self.watch.may_read_ahead() {
            match Pin::new(&mut state.incoming).poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    let bytes = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    state.ahead_bytes += bytes;
                    self.watch.read_ahead().fetch_add(bytes, Ordering::Relaxed);
                    state.failed = frame.is_err();
                    self.saw(&frame);
                    state.ahead.push_back(frame);
                }
                Poll::Ready(None) => {
                    state.ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        if state.failed && !state.taken { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads ahead what the client is still sending, where no connection has asked for it and none will: what was
    /// asked for is known then, and the client is not cut off in mid-sentence, which would lose it our answer.
    pub(super) async fn read_rest(&self) {
        let rest = poll_fn(|cx| match self.poll_ahead(cx) {
            Poll::Pending if self.may_go_on() => Poll::Pending,
            _ => Poll::Ready(()),
        });
        // Who takes longer is answered all the same.
        let _: Result<(), Elapsed> = tokio::time::timeout(REST_LIMIT, rest).await;
    }

    fn may_go_on(&self) -> bool {
        let state = self.state.lock();
        let is_over = state.ended || state.incoming.is_end_stream();
        !state.taken && !is_over && state.ahead_bytes < READ_AHEAD
    }

    fn poll_next(
        &self,
        state: &mut UploadState,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        state.taken = true;
        if let Some(frame) = state.ahead.pop_front() {
            let bytes = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
            state.ahead_bytes -= bytes;
            self.watch.read_ahead().fetch_sub(bytes, Ordering::Relaxed);
            if state.ahead.is_empty() {
                state.ahead = VecDeque::new(); // its memory is not held while the answer runs
            }
            return Poll::Ready(Some(frame));
        }
        let polled = Pin::new(&mut state.incoming).poll_frame(cx);
        if let Poll::Ready(Some(frame)) = &polled {
            self.saw(frame);
        }
        polled
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.watch.read_ahead().fetch_sub(self.state.get_mut().ahead_bytes, Ordering::Relaxed);
    }
}

impl UploadState {
    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.incoming.is_end_stream()
    }
}

impl Body for RequestTap {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self(upload) = &*self;
        let mut state = upload.state.lock();
        let polled = upload.poll_next(&mut state, cx);
        state.waits_for_client = polled.is_pending();
        let frame = ready!(polled);
        state.moved = upload.watch.now();
        state.failed |= matches!(frame, Some(Err(_)));
        // After trailers or with a declared length the body may not be polled to its end.
        let is_trailers = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
        if frame.is_none() || is_trailers || state.is_end_stream() {
            upload.watch.request_end(state.moved);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.state.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.0.state.lock();
        let coming = state.incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(coming.lower() + state.ahead_bytes as u64);
        if let Some(upper) = coming.upper() {
            hint.set_upper(upper + state.ahead_bytes as u64);
        }
        hint
    }
}

/// An answer's body on its way to the client.
///
/// A frame is returned first and looked at afterwards: while it is being written nothing is parsed. It is
/// looked at when the body is polled again after that write, or at the end.
#[derive(Debug)]
pub(super) struct ResponseTap {
    /// None once a deadline has cut it.
    incoming: Option<Incoming>,
    /// None once the exchange has ended.
    recording: Option<Recording>,
    reads: Reads,
    deadline: Deadline,
    upload: Arc<Upload>,
    /// Given back at a clean end, dropped with the connection at any other.
    lease: Option<Lease>,
    /// Frames that were returned and not looked at, with the time of their read.
    unseen: Vec<(Bytes, Moment)>,
    /// The task has been woken to look at them.
    woken: bool,
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

impl ResponseTap {
    pub(super) fn new(
        incoming: Incoming,
        recording: Recording,
        reads: Reads,
        deadline: Deadline,
        upload: Arc<Upload>,
        lease: Lease,
    ) -> Self {
        let mut tap = Self {
            incoming: Some(incoming),
            recording: Some(recording),
            reads,
            deadline,
            upload,
            lease: Some(lease),
            unseen: Vec::new(),
            woken: false,
        };
        if tap.is_end_stream() {
            tap.finish(Ending::Clean);
        }
        tap
    }

    fn finish(&mut self, ending: Ending) {
        self.look();
        let Some(recording) = self.recording.take() else { return };
        let now = recording.watch().now();
        recording.finish_at(ending, now);
        if ending == Ending::Clean
            && let Some(lease) = self.lease.take()
        {
            lease.keep(now);
        }
    }

    /// Looks at the frames that have been returned.
    fn look(&mut self) {
        self.woken = false;
        let Some(recording) = &mut self.recording else { return self.unseen.clear() };
        if self.unseen.is_empty() {
            return;
        }
        let before = recording.watch().now();
        for (data, at) in self.unseen.drain(..) {
            recording.watch().response_chunk(&data, at);
        }
        recording.add_overhead(recording.watch().now().since(before));
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

impl Body for ResponseTap {
    type Data = Bytes;
    type Error = TapError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TapError>>> {
        if self.woken {
            self.look();
        }
        let read_before = self.reads.line.as_ref().map(Line::last_read);
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let Poll::Ready(polled) = Pin::new(incoming).poll_frame(cx) else {
            if !self.unseen.is_empty() {
                // What has been returned is written now; then there is time to look.
                self.woken = true;
                cx.waker().wake_by_ref();
            }
            ready!(self.deadline.poll_passed(cx));
            self.finish(Ending::TimedOut);
            self.incoming = None;
            return Poll::Ready(Some(Err(Silent.into())));
        };
        match &polled {
            Some(Ok(frame)) => {
                self.remember(frame, read_before);
                self.deadline.restart();
                // After trailers, with a declared length or over HTTP/2 the body may not be polled to its end.
                if frame.is_trailers() || self.is_end_stream() {
                    self.finish(Ending::Clean);
                }
            }
            // A client that breaks its upload off ends the answer too.
            Some(Err(_)) if self.upload.has_failed() => self.finish(Ending::ClientGone),
            Some(Err(_)) => self.finish(Ending::UpstreamBroke),
            None => self.finish(Ending::Clean),
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
