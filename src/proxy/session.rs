//! Sessions over WebSocket, in a tunnel: a copy of its bytes is read, and each response in it recorded as an exchange of
//! its own. The tunnel waits for none of it, and goes on where nothing can be read any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use http::HeaderMap;
use http::header::{SEC_WEBSOCKET_EXTENSIONS, UPGRADE};
use parking_lot::Mutex;

use super::Proxy;
use super::watch::Recording;
use crate::clock::Moment;
use crate::dialect::PathFacts;
use crate::dialect::conversation::{self, Conversation};
use crate::exchange::{Ending, Name};
use crate::live::Origin;
use crate::observe::{Head, Observer, Session, Side, Start, Turn, Unread};
use crate::vitals::{ObservationFailure, UpstreamVitals};
use crate::wire::Stop;
use crate::wire::websocket::Extensions;

/// What a request asks that would leave HTTP for a WebSocket of a known API.
#[derive(Debug)]
pub(super) struct Invitation {
    conversation: &'static Conversation,
    asked: PathFacts,
}

impl Invitation {
    /// What this request asks, where it is one.
    pub(super) fn of<B>(request: &http::Request<B>) -> Option<Box<Self>> {
        let protocols = request.headers().get_all(UPGRADE).iter();
        let mut names = protocols.filter_map(|value| value.to_str().ok()).map(str::trim);
        if !names.any(|name| name.eq_ignore_ascii_case("websocket")) {
            return None;
        }
        let conversation = conversation::find(request.uri().path())?;
        Some(Box::new(Self { conversation, asked: conversation.asked(request.uri().query()) }))
    }
}

/// The session in a tunnel.
#[derive(Debug)]
pub(super) struct Sitting {
    /// None when nothing more can be read.
    session: Mutex<Option<Session<Recording>>>,
    proxy: Arc<Proxy>,
    upstream: Arc<UpstreamVitals>,
    conversation: &'static Conversation,
    /// Of the tunnel.
    origin: Origin,
}

impl Sitting {
    /// The session in a tunnel that was agreed on in this answer's head; none where its extensions are not known.
    pub(super) fn begin(
        proxy: &Arc<Proxy>,
        invitation: &Invitation,
        tunnel: &Recording,
        answer: &HeaderMap,
    ) -> Option<Self> {
        let extensions = answer.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
        let agreed = Extensions::of(extensions.map(|value| value.to_str().unwrap_or("unknown")))?;
        let Invitation { conversation, asked } = invitation;
        let session = Session::new(conversation, asked.clone(), agreed, &proxy.decoders);
        Some(Self {
            session: Mutex::new(Some(session)),
            proxy: Arc::clone(proxy),
            upstream: Arc::clone(tunnel.watch().upstream()),
            conversation,
            origin: tunnel.watch().origin().clone(),
        })
    }

    /// These bytes have passed, read at `at`. A panic ends the reading, never the tunnel.
    pub(super) fn see(&self, side: Side, bytes: &[u8], at: Moment) {
        let mut slot = self.session.lock();
        let Some(session) = slot.as_mut() else { return };
        let read = catch_unwind(AssertUnwindSafe(|| {
            let read = session.push(side, bytes, at, &mut |start| self.record(&start));
            self.failed(ObservationFailure::EventTooLarge, session.take_too_large());
            read
        }));
        let failure = match read {
            Ok(Ok(())) => return,
            Ok(Err(Unread::Frames)) => ObservationFailure::Frames,
            Ok(Err(Unread::Encoding(Stop::Undecodable))) => ObservationFailure::Decompression,
            Ok(Err(Unread::Encoding(Stop::NoMemory))) => ObservationFailure::DecoderMemory,
            Err(_) => ObservationFailure::Panic,
        };
        self.failed(failure, 1);
        if let Some(session) = slot.take() {
            session.give_up(at);
        }
    }

    fn failed(&self, failure: ObservationFailure, times: u64) {
        self.proxy.vitals.failures(failure).add(times);
    }

    /// This side's bytes have ended.
    pub(super) fn ended(&self, side: Side) {
        if let Some(session) = self.session.lock().as_mut() {
            session.ended(side);
        }
    }

    /// The tunnel has ended; gives whether responses in it were read, and all that passed.
    pub(super) fn finish(&self, ending: Ending) -> bool {
        let Some(session) = self.session.lock().take() else { return false };
        let was_read = session.was_read();
        session.finish(ending, self.proxy.clock.now());
        was_read
    }

    /// The record of a response that begins: named by the tunnel's own id and its number in the process.
    fn record(&self, start: &Start<'_>) -> Recording {
        let number = self.proxy.live.next_number();
        let request_id = Name::from(&*format!("{}-{number}", self.origin.request_id));
        let dialect = self.conversation.dialect;
        let origin =
            Origin { number, request_id, dialect: dialect.id(), started: start.at, ..self.origin.clone() };
        let observer = Observer::new(Ok(dialect), start.at).in_session(start);
        let config = Arc::clone(&self.proxy.routes.load().config);
        Recording::begin(&self.proxy, origin, observer, config, Arc::clone(&self.upstream))
    }
}

impl Turn for Recording {
    fn asked(&mut self, message: Option<&[u8]>, at: Moment) {
        self.watch().asked_in_session(message, at);
    }

    fn head(&mut self, head: &Head<'_>, at: Moment) {
        self.head(head, at, None);
    }

    fn message(&mut self, message: &[u8], at: Moment) {
        self.watch().response_chunk(message, at);
    }

    fn skipped(&mut self, at: Moment) {
        self.watch().skipped(at);
    }

    fn lost(&mut self) {
        self.lose_answer();
    }

    fn finish(self, ending: Ending, at: Moment) {
        self.finish_at(ending, at);
    }
}
