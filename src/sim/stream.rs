//! The bodies of answers: [`Stream`] sends a script in time, event by event; each event is a frame of its own.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::api::{Api, Finish, Piece, Refusal};
use super::fault::Fault;
use super::script::Script;
use super::stats::{Ending, Ticket};
use crate::clock::{Clock, Moment};

const EVENT_ROOM: usize = 4096; // about eighteen events share an allocation
const FLUSH_PAUSE: Duration = Duration::from_millis(1); // lets what was sent reach the socket before it is broken

/// What the server answers with.
pub(super) enum Answering {
    /// All at once.
    Full(Option<Bytes>),
    /// The first half of something, then an error that makes the connection break.
    Half { half: Option<Bytes>, pause: Pin<Box<Sleep>> },
    /// In time.
    Stream(Box<Stream>),
}

impl Answering {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }

    /// Tokens that every choice has sent so far; of what is no stream none is known.
    pub(super) fn sent_tokens(&self) -> u32 {
        match self {
            Self::Stream(stream) => stream.position,
            Self::Full(_) | Self::Half { .. } => 0,
        }
    }

    pub(super) fn half(bytes: Vec<u8>) -> Self {
        let mut bytes = Bytes::from(bytes);
        bytes.truncate(bytes.len() / 2);
        Self::Half { half: Some(bytes), pause: Box::pin(tokio::time::sleep(FLUSH_PAUSE)) }
    }
}

/// A body broke off on purpose.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken off on purpose")
    }
}

impl std::error::Error for Broken {}

impl Body for Answering {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Half { half, pause } => match half.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => pause.as_mut().poll(cx).map(|()| Some(Err(Broken))),
            },
            Self::Stream(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Half { .. } | Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer on its way.
pub(super) struct Stream {
    script: Script,
    api: &'static dyn Api,
    clock: Clock,
    ticket: Ticket,
    /// Told that the connection must be reset, where it can be.
    reset: Arc<AtomicBool>,
    stage: Stage,
    /// When the stage acts; never where nothing.
    due: Option<Moment>,
    /// When the next comment goes out; gone with the first token.
    comment: Option<Moment>,
    /// At how many tokens the fault strikes; gone once it has.
    strike: Option<u32>,
    /// Tokens that every choice has sent.
    position: u32,
    out: BytesMut,
    timer: Pin<Box<Sleep>>,
}

/// What is sent next. The choices take turns within `Opening` and `Decoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening { choice: u32 },
    Decoding { choice: u32 },
    Stopping { choice: u32, count: u32 },
    Usage,
    Done,
    Breaking,
    Ended,
}

impl Stream {
    pub(super) fn new(
        mut script: Script,
        api: &'static dyn Api,
        clock: Clock,
        ticket: Ticket,
        reset: Arc<AtomicBool>,
    ) -> Self {
        script.reply.lead = api.lead(&script.reply);
        let now = clock.now();
        let first = now + script.pace.first;
        Self {
            api,
            clock,
            ticket,
            reset,
            stage: Stage::Opening { choice: 0 },
            due: (script.fault != Some(Fault::Hang)).then_some(first),
            comment: script.comments.map(|every| now + every),
            strike: script.fault.and_then(|fault| fault.strikes_at(script.reply.tokens)),
            position: 0,
            out: BytesMut::with_capacity(EVENT_ROOM),
            timer: Box::pin(tokio::time::sleep_until(clock.instant(first))),
            script,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        while self.stage != Stage::Ended {
            let now = self.clock.now();
            if self.due.is_some_and(|due| due <= now) {
                if self.act(now).is_err() {
                    return Poll::Ready(Some(Err(Broken)));
                }
            } else if self.comment.is_some_and(|comment| comment <= now) {
                self.comment = self.script.comments.map(|every| now + every);
                self.api.comment(&mut self.out);
            } else {
                ready!(self.poll_timer(cx));
            }
            if !self.out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(self.out.split().freeze()))));
            }
        }
        Poll::Ready(None)
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(wake) = self.due.into_iter().chain(self.comment).min() else { return Poll::Pending };
        let wake = self.clock.instant(wake);
        if self.timer.deadline() != wake {
            self.timer.as_mut().reset(wake);
        }
        self.timer.as_mut().poll(cx)
    }

    /// Writes the stage's event, if it has one, and moves on.
    fn act(&mut self, now: Moment) -> Result<(), Broken> {
        let round = matches!(self.stage, Stage::Decoding { choice: 0 } | Stage::Usage | Stage::Done);
        if let (true, Some(fault)) = (round, self.script.fault)
            && self.strike.take_if(|at| *at <= self.position).is_some()
        {
            self.break_by(fault, now);
            return Ok(());
        }
        match self.stage {
            Stage::Opening { choice } => self.open(choice),
            Stage::Decoding { choice } => self.decode(choice),
            Stage::Stopping { choice, count } => {
                let piece =
                    Piece { choice, from: self.script.reply.tokens, count: 0, finish: Some(Finish::Stop) };
                self.api.piece(&self.script.reply, &piece, &mut self.out);
                self.advance(choice, count);
            }
            Stage::Usage => {
                if self.script.reply.usage.at_end {
                    self.api.usage(&self.script.reply, &mut self.out);
                }
                self.stage = Stage::Done;
            }
            Stage::Done => {
                if self.script.fault == Some(Fault::NoDone) {
                    self.ticket.end(Ending::Broken);
                } else {
                    self.api.done(&self.script.reply, &mut self.out);
                    self.ticket.end(Ending::Completed);
                }
                self.stage = Stage::Ended;
            }
            Stage::Breaking => {
                self.ticket.end(Ending::Broken);
                self.stage = Stage::Ended;
                return Err(Broken);
            }
            Stage::Ended => {}
        }
        Ok(())
    }

    fn open(&mut self, choice: u32) {
        self.api.open(&self.script.reply, choice, &mut self.out);
        self.stage = if choice + 1 < self.script.reply.choices {
            Stage::Opening { choice: choice + 1 }
        } else {
            self.wait(self.script.pace.role_delay);
            Stage::Decoding { choice: 0 }
        };
    }

    fn decode(&mut self, choice: u32) {
        self.comment = None;
        let (count, tokens) = (self.next_count(), self.script.reply.tokens);
        let last = self.position + count == tokens;
        if count > 0 {
            let finish = (last && self.script.reply.finish == Finish::Length).then_some(Finish::Length);
            let piece = Piece { choice, from: self.position, count, finish };
            self.api.piece(&self.script.reply, &piece, &mut self.out);
            self.ticket.sent(count);
        }
        if last && self.script.reply.finish == Finish::Stop {
            self.stage = Stage::Stopping { choice, count };
        } else {
            self.advance(choice, count);
        }
    }

    /// After `choice` has sent `count` tokens: the next choice's turn, the next tokens or the end.
    fn advance(&mut self, choice: u32, count: u32) {
        if choice + 1 < self.script.reply.choices {
            self.stage = Stage::Decoding { choice: choice + 1 };
            return;
        }
        self.position += count;
        let next = self.next_count();
        if next > 0 {
            self.stage = Stage::Decoding { choice: 0 };
            let pause = self.script.pace.decode(next);
            self.wait(pause);
        } else {
            self.stage = Stage::Usage;
            if let Some(Fault::SlowTail(pause)) = self.script.fault {
                self.wait(pause);
            }
        }
    }

    /// How many tokens the next event holds: reasoning and content never share one.
    fn next_count(&self) -> u32 {
        let reply = &self.script.reply;
        let end = if self.position < reply.reasoning { reply.reasoning } else { reply.tokens };
        self.script.pace.tokens_per_chunk.min(end.saturating_sub(self.position))
    }

    /// Delays what comes next. Reckoned from when this was due, not from when it was sent: no drift, and after a
    /// slow reader the stream catches up, as a server does that generates on.
    fn wait(&mut self, pause: Duration) {
        self.due = self.due.map(|due| due + pause);
    }

    fn break_by(&mut self, fault: Fault, now: Moment) {
        match fault {
            Fault::ErrorEvent { .. } => {
                self.api.failure(&engine_failure(), &mut self.out);
                self.ticket.end(Ending::Broken);
                self.stage = if self.api.ends_failures() { Stage::Done } else { Stage::Ended };
            }
            Fault::Cut { .. } => {
                let piece = Piece { choice: 0, from: self.position, count: 1, finish: None };
                self.api.piece(&self.script.reply, &piece, &mut self.out);
                self.out.truncate(self.out.len() / 2);
                self.stage = Stage::Breaking;
                self.due = Some(now + FLUSH_PAUSE);
            }
            Fault::Reset { .. } => {
                self.reset.store(true, Relaxed);
                self.stage = Stage::Breaking;
                self.due = Some(now + FLUSH_PAUSE);
            }
            Fault::HangMid { .. } => {
                self.comment = None;
                self.due = None;
            }
            Fault::End { .. } => {
                self.ticket.end(Ending::Broken);
                self.stage = Stage::Ended;
            }
            Fault::Status(_)
            | Fault::NoDone
            | Fault::HangHead
            | Fault::Hang
            | Fault::SlowTail(_)
            | Fault::RefuseUsage => {}
        }
    }
}

/// The error that faults put into answers.
pub(super) fn engine_failure() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "EngineCore encountered an issue (simulated)")
}
