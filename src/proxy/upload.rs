//! A request's body: read ahead while there is no connection yet, passed on as it came, or taken whole where it has to
//! be edited. It is seen once, however often it is sent.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::error::Elapsed;

use super::watch::Watch;
use crate::clock::Moment;
use crate::live::Stage;

/// How much of a request's body is read while no connection has asked for it yet. A client that hangs up is
/// noticed only while its body is being read, or has been.
const READ_AHEAD: usize = 256 << 10;

/// The longest request that is read ahead to its end where it may have to be edited; a prompt of 200,000 tokens fits.
const READ_WHOLE: usize = 2 << 20;

/// Frames of a request that is read ahead are gathered up to about this size.
const GATHERED: usize = 16 << 10;

/// How much is read ahead of all requests together; beyond it no more than the first piece of each, and that is counted.
pub(super) const READ_AHEAD_IN_ALL: usize = 64 << 20;

/// How much of a request is read ahead in any case: as a rule all of it, or what tells what it asks for.
const READ_ALWAYS: usize = 16 << 10;

/// How long the rest of a request is waited for once nobody will take it. Clients write it right behind its head.
const REST_LIMIT: Duration = Duration::from_millis(100);

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub(super) enum RequestTap {
    /// As the client sends it.
    Passing(Arc<Upload>),
    /// All of it was read ahead.
    Whole(Box<Whole>),
}

/// A request's body of which all is here, and has been seen.
#[derive(Debug)]
pub(super) struct Whole {
    /// Counts as read ahead for as long as a piece of it is here.
    original: Arc<Original>,
    pieces: VecDeque<Bytes>,
}

/// A request's body as it came, while it may be needed again.
#[derive(Debug)]
pub(super) struct Original {
    upload: Arc<Upload>,
    bytes: Bytes,
}

/// Why not all of a request was read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotWhole {
    TooLarge,
    /// They cannot be sent twice.
    HasTrailers,
}

/// A request's body, as the tap and whoever waits for the answer share it.
#[derive(Debug)]
pub(super) struct Upload {
    state: Mutex<UploadState>,
    watch: Arc<Watch>,
}

#[derive(Debug)]
struct UploadState {
    incoming: Incoming,
    ahead: SmallVec<[Result<Frame<Bytes>, hyper::Error>; 1]>, // as a rule there is one
    ahead_bytes: usize,
    /// It is not sent before all of it is here, or it turns out too large for that.
    awaits_whole: bool,
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
            ahead: SmallVec::new(),
            ahead_bytes: 0,
            awaits_whole: false,
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
        RequestTap::Passing(Arc::clone(self))
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
        self.read_ahead(&mut state, cx);
        if state.failed && !state.taken { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Gives whether there was room for all that has come.
    fn read_ahead(&self, state: &mut UploadState, cx: &mut Context<'_>) -> bool {
        let limit = if state.awaits_whole { READ_WHOLE } else { READ_AHEAD };
        while !state.taken && !state.failed {
            let is_enough = state.ahead_bytes >= READ_ALWAYS;
            if state.ahead_bytes >= limit || (is_enough && !self.watch.may_read_ahead()) {
                return false;
            }
            match Pin::new(&mut state.incoming).poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    let bytes = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    state.ahead_bytes += bytes;
                    self.watch.read_ahead().fetch_add(bytes, Ordering::Relaxed);
                    state.failed = frame.is_err();
                    self.saw(&frame);
                    state.keep(frame);
                }
                Poll::Ready(None) => {
                    state.ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        true
    }

    /// From now on the upstream is asked for nothing before all of the body is here, if it can be that.
    pub(super) fn await_whole(&self) {
        let mut state = self.state.lock();
        state.awaits_whole = state.incoming.size_hint().lower() <= READ_WHOLE as u64;
        state.waits_for_client = state.awaits_whole;
    }

    /// Reads ahead to the end and takes all of it. What cannot be had so stays to be read as usual.
    pub(super) fn poll_whole(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Result<Original, NotWhole>> {
        let mut state = self.state.lock();
        let had_room = state.awaits_whole && self.read_ahead(&mut state, cx);
        let is_over = state.ended || state.incoming.is_end_stream();
        if state.failed || (had_room && !is_over) {
            return Poll::Pending;
        }
        state.awaits_whole = false;
        state.waits_for_client = false;
        state.moved = self.watch.now();
        if !is_over {
            return Poll::Ready(Err(NotWhole::TooLarge));
        }
        if !state.ahead.iter().all(|frame| frame.as_ref().is_ok_and(Frame::is_data)) {
            return Poll::Ready(Err(NotWhole::HasTrailers));
        }
        state.taken = true;
        let length = std::mem::take(&mut state.ahead_bytes); // the original has them
        let mut frames =
            std::mem::take(&mut state.ahead).into_iter().filter_map(|frame| frame.ok()?.into_data().ok());
        let first = frames.next().unwrap_or_default();
        let mut rest = frames.peekable();
        let bytes = if rest.peek().is_none() {
            first // as a rule
        } else {
            let mut all = BytesMut::with_capacity(length);
            all.extend_from_slice(&first);
            rest.for_each(|data| all.extend_from_slice(&data));
            all.freeze()
        };
        Poll::Ready(Ok(Original { upload: Arc::clone(self), bytes }))
    }

    /// What has been read ahead goes on as it came, and the rest of the body with it.
    pub(super) fn give_up_whole(&self) {
        let mut state = self.state.lock();
        state.awaits_whole = false;
        state.moved = self.watch.now();
    }

    /// The upstream has answered: it owes nothing while its answer is looked at.
    pub(super) fn is_looked_at(&self) {
        self.state.lock().waits_for_client = true;
    }

    /// From here on it owes what follows.
    pub(super) fn was_looked_at(&self) {
        let mut state = self.state.lock();
        state.waits_for_client = false;
        state.moved = self.watch.now();
    }

    /// The request has come so far.
    pub(super) fn reach(&self, stage: Stage) {
        self.watch.reach(stage);
    }

    /// The present moment.
    pub(super) fn now(&self) -> Moment {
        self.watch.now()
    }

    /// The upstream has taken something that was here already.
    fn handed(&self, is_last: bool) {
        let mut state = self.state.lock();
        state.moved = self.watch.now();
        self.watch.reach(Stage::Sending);
        if is_last {
            self.watch.request_end(state.moved);
        }
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
        if !std::mem::replace(&mut state.taken, true) {
            self.watch.reach(Stage::Sending);
        }
        if !state.ahead.is_empty() {
            let frame = state.ahead.remove(0);
            let bytes = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
            state.ahead_bytes -= bytes;
            self.watch.read_ahead().fetch_sub(bytes, Ordering::Relaxed);
            if state.ahead.is_empty() {
                state.ahead.shrink_to_fit(); // its memory is not held while the answer runs
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

impl Original {
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// A body for the upstream, of these pieces.
    pub(super) fn send(self: &Arc<Self>, pieces: VecDeque<Bytes>) -> RequestTap {
        RequestTap::Whole(Box::new(Whole { original: Arc::clone(self), pieces }))
    }

    /// The body is read as any other, after all.
    pub(super) fn put_back(mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self.upload.state.lock();
        state.taken = false;
        state.ahead_bytes = bytes.len();
        if !bytes.is_empty() {
            state.ahead.push(Ok(Frame::data(bytes))); // an empty frame would be a body where there is none
        }
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        self.upload.watch.read_ahead().fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl UploadState {
    /// Keeps a frame. Small ones are gathered: by itself each costs a hundred bytes, and holds the buffer that it was
    /// read into.
    fn keep(&mut self, frame: Result<Frame<Bytes>, hyper::Error>) {
        let is_small = |data: &Bytes| data.len() < GATHERED;
        let small = frame.as_ref().ok().and_then(Frame::data_ref).filter(|data| is_small(data));
        let last =
            self.ahead.last().and_then(|last| last.as_ref().ok()?.data_ref()).filter(|data| is_small(data));
        let (Some(data), Some(last)) = (small, last) else { return self.ahead.push(frame) };
        let last = last.clone();
        self.ahead.pop();
        let mut both = last.try_into_mut().unwrap_or_else(|last| BytesMut::from(last.as_ref()));
        both.extend_from_slice(data);
        self.ahead.push(Ok(Frame::data(both.freeze())));
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.incoming.is_end_stream()
    }
}

impl Body for RequestTap {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let upload = match &mut *self {
            Self::Passing(upload) => upload,
            Self::Whole(whole) => {
                let Some(piece) = whole.pieces.pop_front() else { return Poll::Ready(None) };
                whole.original.upload.handed(whole.pieces.is_empty());
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        };
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
        match self {
            Self::Passing(upload) => upload.state.lock().is_end_stream(),
            Self::Whole(whole) => whole.pieces.is_empty(),
        }
    }

    /// Of what was read to its end, nothing: it is framed as the client's head says, as everything else is.
    fn size_hint(&self) -> SizeHint {
        let Self::Passing(upload) = self else { return SizeHint::default() };
        let state = upload.state.lock();
        longer(&state.incoming.size_hint(), state.ahead_bytes)
    }
}

/// The size of what is to come and of what has been read ahead of it.
pub(super) fn longer(coming: &SizeHint, ahead: usize) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(coming.lower() + ahead as u64);
    if let Some(upper) = coming.upper() {
        hint.set_upper(upper + ahead as u64);
    }
    hint
}
