//! The taps: bodies that pass every frame on as it came and let the watch see it. The only `poll_frame` of the
//! project. Nothing that can fail stands between receiving a frame and returning it.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::Sleep;

use super::connect::Line;
use super::upstream::Load;
use super::watch::{Recording, Watch};
use crate::clock::Moment;
use crate::exchange::Ending;

/// How much of a request's body is read while no connection has asked for it yet. A client that hangs up is
/// noticed only while its body is being read, or has been.
const READ_AHEAD: usize = 256 << 10;

/// A request's body on its way to the upstream.
pub(super) struct RequestTap(Arc<Upload>);

/// A request's body, as the tap and whoever waits for the connection share it.
pub(super) struct Upload {
    state: Mutex<UploadState>,
    watch: Arc<Watch>,
}

struct UploadState {
    incoming: Incoming,
    ahead: VecDeque<Result<Frame<Bytes>, hyper::Error>>,
    ahead_bytes: usize,
    /// A connection has asked for the body: it is read no further ahead.
    taken: bool,
    failed: bool,
}

impl Upload {
    pub(super) fn new(incoming: Incoming, watch: Arc<Watch>) -> Arc<Self> {
        if incoming.is_end_stream() {
            watch.request_end();
        }
        let state =
            UploadState { incoming, ahead: VecDeque::new(), ahead_bytes: 0, taken: false, failed: false };
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

    fn saw(&self, frame: &Result<Frame<Bytes>, hyper::Error>) {
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
            self.watch.request_chunk(data);
        }
    }

    /// Reads ahead while no connection has asked for the body. Ready when the client stopped uploading.
    pub(super) fn poll_ahead(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        while !state.taken && !state.failed && state.ahead_bytes < READ_AHEAD {
            match Pin::new(&mut state.incoming).poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    state.ahead_bytes += frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    state.failed = frame.is_err();
                    self.saw(&frame);
                    state.ahead.push_back(frame);
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if state.failed && !state.taken { Poll::Ready(()) } else { Poll::Pending }
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
        state.taken = true;
        let frame = match state.ahead.pop_front() {
            Some(frame) => Some(frame),
            None => {
                let frame = ready!(Pin::new(&mut state.incoming).poll_frame(cx));
                frame.iter().for_each(|frame| upload.saw(frame));
                frame
            }
        };
        state.failed |= matches!(frame, Some(Err(_)));
        // After trailers or with a declared length the body may not be polled to its end.
        let is_trailers = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
        if frame.is_none() || is_trailers || state.is_end_stream() {
            upload.watch.request_end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.state.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.0.state.lock();
        let ahead: usize = state.ahead.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum();
        let coming = state.incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(coming.lower() + ahead as u64);
        if let Some(upper) = coming.upper() {
            hint.set_upper(upper + ahead as u64);
        }
        hint
    }
}

/// An answer's body on its way to the client.
pub(super) struct ResponseTap {
    /// None once a deadline has cut it.
    incoming: Option<Incoming>,
    /// None once the exchange has ended.
    recording: Option<Recording>,
    reads: Reads,
    deadline: Deadline,
    _load: Load,
}

/// When what is read was read.
pub(super) struct Reads {
    /// The connection, where it is HTTP/1; over HTTP/2 others use it too, and the time is now.
    pub(super) line: Option<Line>,
    /// The read that the last frame was in.
    pub(super) last: Moment,
}

/// How long the upstream may be silent.
pub(super) struct Deadline {
    /// The moment that the next byte must not miss; none: no limit now.
    sleep: Option<Pin<Box<Sleep>>>,
    /// How long a pause may be after the first byte; none: no limit then.
    idle: Option<Duration>,
}

impl Deadline {
    /// A deadline for the first byte, and one for each pause after it.
    pub(super) fn new(first_byte: Option<tokio::time::Instant>, idle: Option<Duration>) -> Self {
        Self { sleep: first_byte.map(|at| Box::pin(tokio::time::sleep_until(at))), idle }
    }

    /// Ready when it has passed.
    pub(super) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// A byte has come.
    fn restart(&mut self) {
        match (self.idle, &mut self.sleep) {
            (None, sleep) => *sleep = None,
            (Some(idle), None) => self.sleep = Some(Box::pin(tokio::time::sleep(idle))),
            (Some(idle), Some(sleep)) => sleep.as_mut().reset(tokio::time::sleep(idle).deadline()),
        }
    }
}

/// The upstream was silent for longer than the configured timeout.
#[derive(Debug)]
pub(super) struct Silent;

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream was silent for longer than its configured timeout")
    }
}

impl std::error::Error for Silent {}

/// What breaks an answer's body: the upstream's own error, its source kept for HTTP/2's reset codes, or our
/// deadline.
pub(super) type TapError = Box<dyn std::error::Error + Send + Sync>;

impl ResponseTap {
    pub(super) fn new(
        incoming: Incoming,
        recording: Recording,
        reads: Reads,
        deadline: Deadline,
        load: Load,
    ) -> Self {
        let mut tap =
            Self { incoming: Some(incoming), recording: Some(recording), reads, deadline, _load: load };
        if tap.is_end_stream() {
            tap.finish(Ending::Clean);
        }
        tap
    }

    fn finish(&mut self, ending: Ending) {
        if let Some(recording) = self.recording.take() {
            recording.finish(ending);
        }
    }

    fn saw(&mut self, frame: &Frame<Bytes>, read_before: Option<Moment>) {
        let Some(recording) = &mut self.recording else { return };
        let now = recording.watch().now();
        if let Some(data) = frame.data_ref() {
            let at = self.reads.of_frame(read_before, now);
            recording.watch().response_chunk(data, at);
            recording.add_overhead(recording.watch().now().since(now));
        }
    }
}

impl Reads {
    /// The read that brought a frame. `before` is the connection's last read when the frame was asked for: if
    /// that is newer than the last frame's, the frame was waiting since then; else it came just now, or in the
    /// same read as the last one.
    fn of_frame(&mut self, before: Option<Moment>, now: Moment) -> Moment {
        let at = match (&self.line, before) {
            (Some(_), Some(before)) if before > self.last => before,
            (Some(line), _) => line.last_read(),
            (None, _) => now,
        };
        // The stamp of another read may have come in between; never before the last frame, never after now.
        self.last = at.max(self.last).min(now);
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
        let read_before = self.reads.line.as_ref().map(Line::last_read);
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let Poll::Ready(polled) = Pin::new(incoming).poll_frame(cx) else {
            ready!(self.deadline.poll_passed(cx));
            self.finish(Ending::TimedOut);
            self.incoming = None;
            return Poll::Ready(Some(Err(Silent.into())));
        };
        match &polled {
            Some(Ok(frame)) => {
                self.saw(frame, read_before);
                self.deadline.restart();
                // After trailers, with a declared length or over HTTP/2 the body may not be polled to its end.
                if frame.is_trailers() || self.is_end_stream() {
                    self.finish(Ending::Clean);
                }
            }
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
