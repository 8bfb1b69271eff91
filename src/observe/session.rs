//! A session over WebSocket: many responses in one connection, each an exchange of its own. Reads a copy of both
//! directions, tells the exchanges apart, and says when one begins, what is of it and how it ends. Who keeps them is
//! not known here ([`Turn`]).
//!
//! An exchange begins with the client's request for it; where the server answers unasked, when the client had stopped
//! speaking, or else with the response. The first response that begins is the one asked for first. Absent: telling them
//! apart where the client asks for one while the server begins another unasked; then the server's is taken for the
//! client's.

use std::mem::take;
use std::sync::Arc;

use super::{Answer, Head, Observer};
use crate::clock::Moment;
use crate::dialect::PathFacts;
use crate::dialect::conversation::{Conversation, OfResponse, Part, Refused, Told, asking, told};
use crate::exchange::{Ending, Name, Unobserved};
use crate::wire::websocket::{Broken, Extensions, Message, WebSocket};
use crate::wire::{Budget, Stop};

/// How many responses of one session may be open at once. A client has one, or one for each of a few queues.
const OPEN_LIMIT: usize = 64;

const ID_LIMIT: usize = 128; // the longest name of a response, message or queue that is kept

/// Which end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who asks.
    Client,
    /// Who answers.
    Server,
}

/// What is known of an exchange when it begins.
#[derive(Debug)]
pub struct Start<'s> {
    /// When.
    pub at: Moment,
    /// What the connection asked of all its responses.
    pub asked: &'s PathFacts,
    /// The model that serves the session, where the server named one.
    pub served: Option<&'s Name>,
}

/// Keeps one exchange of a session.
pub trait Turn {
    /// All that the client asked, and when; nothing where it was too long, or the server answers unasked.
    fn asked(&mut self, message: Option<&[u8]>, at: Moment);

    /// The answer begins.
    fn head(&mut self, head: &Head<'_>, at: Moment);

    /// A message of the answer.
    fn message(&mut self, message: &[u8], at: Moment);

    /// A message of the answer was too long to be read.
    fn skipped(&mut self, at: Moment);

    /// No more of it can be read.
    fn lost(&mut self);

    /// It has ended.
    fn finish(self, ending: Ending, at: Moment);
}

/// Why a session cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// What passes are no frames, or more responses are open than are kept.
    Frames,
    /// A compressed message cannot be read, or there is no memory for a message.
    Encoding(Stop),
}

impl From<Broken> for Unread {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Frames => Self::Frames,
            Broken::Encoding(stop) => Self::Encoding(stop),
        }
    }
}

/// What both ends of a connection say.
#[derive(Debug)]
pub struct Session<T> {
    client: WebSocket,
    server: WebSocket,
    turns: Turns<T>,
}

#[derive(Debug)]
struct Turns<T> {
    conversation: &'static Conversation,
    asked: PathFacts,
    served: Option<Name>,
    open: Vec<Open<T>>,
    /// When the client stopped speaking, where no response has begun since.
    silent: Option<Moment>,
    /// Who closed first.
    closed_by: Option<Side>,
    /// Messages that were too long, of no response that is known.
    too_large: u64,
    /// How many responses were read to their end.
    read: u64,
    crowded: bool,
}

/// An exchange that has not ended.
#[derive(Debug)]
struct Open<T> {
    turn: T,
    begun: bool,
    response: Option<Name>,
    lane: Option<Name>,
    event_id: Option<Name>,
}

impl<T: Turn> Session<T> {
    /// A session of this API, where the ends agreed on these extensions.
    pub fn new(
        conversation: &'static Conversation,
        asked: PathFacts,
        agreed: Extensions,
        budget: &Arc<Budget>,
    ) -> Self {
        Self {
            client: WebSocket::of_client(agreed, budget),
            server: WebSocket::of_server(agreed, budget),
            turns: Turns {
                conversation,
                asked,
                served: None,
                open: Vec::new(),
                silent: None,
                closed_by: None,
                too_large: 0,
                read: 0,
                crowded: false,
            },
        }
    }

    /// More bytes of this side have passed, read at `at`; `begin` makes an exchange. After an error nothing more can be
    /// read: see [`Self::give_up`].
    pub fn push(
        &mut self,
        side: Side,
        bytes: &[u8],
        at: Moment,
        begin: &mut dyn FnMut(Start<'_>) -> T,
    ) -> Result<(), Unread> {
        let turns = &mut self.turns;
        match side {
            Side::Client => self.client.push(bytes, &mut |message| turns.of_client(message, at, begin)),
            Side::Server => self.server.push(bytes, &mut |message| turns.of_server(message, at, begin)),
        }?;
        if turns.crowded { Err(Unread::Frames) } else { Ok(()) }
    }

    /// This side's bytes have ended.
    pub fn ended(&mut self, side: Side) {
        self.turns.closed_by.get_or_insert(side);
    }

    /// Messages since the last time that were too long and of no response that is known.
    pub fn take_too_large(&mut self) -> u64 {
        take(&mut self.turns.too_large)
    }

    /// Whether a response was read in it.
    pub fn was_read(&self) -> bool {
        self.turns.read > 0
    }

    /// The session cannot be read any further: what is open is judged by the connection, which goes on.
    pub fn give_up(self, at: Moment) {
        for mut open in self.turns.open {
            open.turn.lost();
            open.turn.finish(Ending::Clean, at);
        }
    }

    /// The connection has ended.
    pub fn finish(self, ending: Ending, at: Moment) {
        let ending = self.turns.ending(ending);
        self.turns.open.into_iter().for_each(|open| open.turn.finish(ending, at));
    }
}

impl<T: Turn> Turns<T> {
    /// How what is open ends with its connection: a clean end is none to a response that was to come.
    fn ending(&self, ending: Ending) -> Ending {
        match (ending, self.closed_by) {
            (Ending::Drained | Ending::SidecarFailed, _) => ending,
            (_, Some(Side::Client)) => Ending::ClientGone,
            (_, Some(Side::Server)) | (Ending::Clean, None) => Ending::UpstreamBroke,
            (_, None) => ending,
        }
    }

    fn of_client(&mut self, message: Message<'_>, at: Moment, begin: &mut dyn FnMut(Start<'_>) -> T) {
        match message {
            Message::Ping(_) => {}
            Message::Close => _ = self.closed_by.get_or_insert(Side::Client),
            Message::TooLarge => {
                self.too_large += 1;
                if self.conversation.each_asks
                    && let Some(mut open) = self.begin(at, begin)
                {
                    open.turn.asked(None, at);
                    self.open.push(open);
                }
            }
            Message::Data(message) => {
                if let Some(asking) = asking(message)
                    && let Some(mut open) = self.begin(at, begin)
                {
                    open.event_id = asking.event_id.as_deref().map(name);
                    open.lane = asking.lane.as_deref().map(name);
                    open.turn.asked(Some(message), at);
                    self.open.push(open);
                }
            }
        }
    }

    /// A new exchange, where there is room for one more.
    fn begin(&mut self, at: Moment, begin: &mut dyn FnMut(Start<'_>) -> T) -> Option<Open<T>> {
        self.crowded |= self.open.len() >= OPEN_LIMIT;
        if self.crowded {
            return None;
        }
        let turn = begin(Start { at, asked: &self.asked, served: self.served.as_ref() });
        Some(Open { turn, begun: false, response: None, lane: None, event_id: None })
    }

    fn of_server(&mut self, message: Message<'_>, at: Moment, begin: &mut dyn FnMut(Start<'_>) -> T) {
        let message = match message {
            Message::Data(message) => message,
            Message::Ping(_) => return,
            Message::TooLarge => return self.skip(at),
            Message::Close => {
                self.closed_by.get_or_insert(Side::Server);
                let ending = self.ending(Ending::Clean);
                return self.open.drain(..).for_each(|open| open.turn.finish(ending, at));
            }
        };
        match told(message) {
            Told::Other => {}
            Told::Model(model) => self.served = Some(name(&model)),
            Told::Speech => self.silent = None,
            Told::Silence => self.silent = Some(at),
            Told::Committed => _ = self.silent.get_or_insert(at),
            Told::Response(of) => self.response(&of, message, at, begin),
            Told::Refused(refused) => self.refuse(&refused, message, at),
        }
    }

    /// A message was too long: whatever is open, it may have been of that.
    fn skip(&mut self, at: Moment) {
        let mut begun = self.open.iter_mut().filter(|open| open.begun).peekable();
        if begun.peek().is_none() {
            self.too_large += 1;
        }
        begun.for_each(|open| open.turn.skipped(at));
    }

    fn response(
        &mut self,
        of: &OfResponse<'_>,
        message: &[u8],
        at: Moment,
        begin: &mut dyn FnMut(Start<'_>) -> T,
    ) {
        let place = match (of.part, self.place(of)) {
            (Part::Begin, _) => self.begun(of, at, begin),
            (Part::Middle, place) => place,
            (Part::End | Part::Cancelled, None) if self.awaited(of).is_some() => self.begun(of, at, begin),
            (Part::End | Part::Cancelled, place) => place,
        };
        let Some(place) = place else { return };
        if let Some(open) = self.open.get_mut(place) {
            open.turn.message(message, at);
        }
        if matches!(of.part, Part::End | Part::Cancelled) && place < self.open.len() {
            self.read += 1;
            let ending = if of.part == Part::Cancelled { Ending::ClientGone } else { Ending::Clean };
            self.open.remove(place).turn.finish(ending, at);
        }
    }

    /// Where the response of a message is among those that are open: by its name, or as the one of its queue.
    fn place(&self, of: &OfResponse<'_>) -> Option<usize> {
        let (id, lane) = (of.id.as_deref(), of.lane.as_deref());
        self.open.iter().position(|open| {
            let is_it = match id {
                Some(id) => open.response.as_ref().is_some_and(|own| own.as_str() == bounded(id)),
                None => is_lane(open.lane.as_ref(), lane),
            };
            open.begun && is_it
        })
    }

    /// Where the first one is that was asked for in this queue and has not begun.
    fn awaited(&self, of: &OfResponse<'_>) -> Option<usize> {
        self.open.iter().position(|open| !open.begun && is_lane(open.lane.as_ref(), of.lane.as_deref()))
    }

    /// A response has begun: the one that was asked for first, or one that nobody asked for.
    fn begun(
        &mut self,
        of: &OfResponse<'_>,
        at: Moment,
        begin: &mut dyn FnMut(Start<'_>) -> T,
    ) -> Option<usize> {
        let silent = self.silent.take();
        self.end_unseen(of, at);
        let place = match self.awaited(of) {
            Some(place) => place,
            None => {
                let started = silent.unwrap_or(at);
                let mut open = self.begin(started, begin)?;
                open.lane = of.lane.as_deref().map(name);
                open.turn.asked(None, started);
                self.open.push(open);
                self.open.len() - 1
            }
        };
        let open = self.open.get_mut(place)?;
        open.begun = true;
        open.response = of.id.as_deref().map(name);
        open.turn.head(&Head { status: 200, in_messages: true, ..Head::default() }, at);
        Some(place)
    }

    /// Where responses of a queue follow each other, the end of one must have passed unread when another begins.
    fn end_unseen(&mut self, of: &OfResponse<'_>, at: Moment) {
        let follows = |open: &Open<T>| open.begun && is_lane(open.lane.as_ref(), of.lane.as_deref());
        if self.conversation.each_asks
            && let Some(place) = self.open.iter().position(follows)
        {
            let mut open = self.open.remove(place);
            open.turn.lost();
            open.turn.finish(Ending::Clean, at);
        }
    }

    fn refuse(&mut self, refused: &Refused<'_>, message: &[u8], at: Moment) {
        let Some(place) = self.refused(refused) else { return };
        let Open { mut turn, begun, .. } = self.open.remove(place);
        if !begun {
            let content_type = Some("application/json");
            turn.head(&Head { status: refused.status, content_type, ..Head::default() }, at);
        }
        self.read += 1;
        turn.message(message, at);
        turn.finish(Ending::Clean, at);
    }

    /// Which of the open ones an error ends: the one whose message it names; else the one of its queue, where an error is
    /// an end; else the one asked for first of those without a name.
    fn refused(&self, refused: &Refused<'_>) -> Option<usize> {
        if let Some(id) = refused.event_id.as_deref() {
            let named =
                |open: &Open<T>| open.event_id.as_ref().is_some_and(|own| own.as_str() == bounded(id));
            return self.open.iter().position(|open| !open.begun && named(open));
        }
        let in_lane = |open: &&Open<T>| is_lane(open.lane.as_ref(), refused.lane.as_deref());
        let may_be = |open: &Open<T>| match self.conversation.each_asks {
            true => in_lane(&open),
            false => !open.begun && open.event_id.is_none() && refused.may_be_response,
        };
        self.open.iter().position(may_be)
    }
}

fn is_lane(own: Option<&Name>, lane: Option<&str>) -> bool {
    own.map(Name::as_str) == lane.map(bounded)
}

fn bounded(text: &str) -> &str {
    text.get(..text.floor_char_boundary(ID_LIMIT)).unwrap_or_default()
}

fn name(text: &str) -> Name {
    Name::bounded(text, ID_LIMIT)
}

impl Observer {
    /// The same, of an exchange of a session.
    #[must_use]
    pub fn in_session(mut self, start: &Start<'_>) -> Self {
        self.path = Some(Box::new(start.asked.clone()));
        self.seen.served = start.served.cloned();
        self
    }

    /// A message of the answer was too long to be read.
    pub fn skipped(&mut self, at: Moment) {
        self.framed(&crate::wire::Framed::TooLarge, at);
    }

    /// Nothing is known of what the request asked, but what its session says.
    pub fn unasked(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.lose_request();
        }
    }

    /// What passed in a tunnel was read: as exchanges of their own.
    pub fn understood(&mut self) {
        self.seen.unobserved = None;
    }

    /// No more of the answer can be read: it is judged by the connection.
    pub fn lost(&mut self) {
        self.seen.closure.code.get_or_insert(200);
        self.seen.closure.observed = false;
        self.seen.unobserved = Some(Unobserved::Upgrade);
        self.lose_text();
        self.answer = Answer::Opaque;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::dialect::conversation;
    use crate::exchange::{FinishReason, Outcome};
    use crate::observe::{Keeps, Observation};

    type Ended = Rc<RefCell<Vec<(Ending, Observation)>>>;

    /// An exchange that an observer watches.
    struct Watched {
        observer: Observer,
        ended: Ended,
    }

    impl Turn for Watched {
        fn asked(&mut self, message: Option<&[u8]>, at: Moment) {
            match message {
                Some(message) => self.observer.request_chunk(message),
                None => self.observer.unasked(),
            }
            self.observer.request_end(at);
        }

        fn head(&mut self, head: &Head<'_>, at: Moment) {
            self.observer.head(head, at);
        }

        fn message(&mut self, message: &[u8], at: Moment) {
            self.observer.response_chunk(message, at);
        }

        fn skipped(&mut self, at: Moment) {
            self.observer.skipped(at);
        }

        fn lost(&mut self) {
            self.observer.lost();
        }

        fn finish(mut self, ending: Ending, at: Moment) {
            self.ended.borrow_mut().push((ending, *self.observer.finish(ending, at)));
        }
    }

    /// Keeps the text of every model.
    #[derive(Debug)]
    struct All;

    impl Keeps for All {
        fn keeps(&self, _: Option<&Name>, _: Option<&Name>) -> bool {
            true
        }
    }

    fn millis(millis: u64) -> Moment {
        Moment::new(Duration::from_millis(millis))
    }

    fn frame(first: u8, mask: bool, payload: &[u8]) -> Vec<u8> {
        let mark = if mask { 0x80 } else { 0 };
        let length = u64::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = [&[first, mark | 127], length.as_slice()].concat();
        let key: &[u8] = if mask { &[1, 2, 3, 4] } else { &[] };
        bytes.extend(key);
        let mut keys = key.iter().cycle();
        bytes.extend(payload.iter().map(|byte| byte ^ keys.next().unwrap_or(&0)));
        bytes
    }

    /// What happens in a session: at this millisecond this side sends this text.
    type Step<'s> = (u64, Side, &'s str);

    struct Bench {
        session: Session<Watched>,
        ended: Ended,
        /// In pieces of so many bytes.
        size: usize,
    }

    impl Bench {
        fn new(path: &str, query: &str, size: usize) -> Self {
            let conversation = conversation::find(path).unwrap();
            let asked = conversation.asked(Some(query));
            let budget = Arc::new(Budget::new(16 << 20));
            let session = Session::new(conversation, asked, Extensions::default(), &budget);
            Self { session, ended: Ended::default(), size }
        }

        fn push(&mut self, at: u64, side: Side, bytes: &[u8]) -> Result<(), Unread> {
            let ended = &self.ended;
            let dialect = self.session.turns.conversation.dialect;
            let mut begin = |start: Start<'_>| Watched {
                observer: Observer::new(Ok(dialect), start.at)
                    .in_session(&start)
                    .keeping(Arc::new(All), Arc::new(Budget::new(1 << 20))),
                ended: Rc::clone(ended),
            };
            let mut pieces = bytes.chunks(self.size);
            pieces.try_for_each(|piece| self.session.push(side, piece, millis(at), &mut begin))
        }

        fn say(&mut self, (at, side, text): Step<'_>) {
            self.push(at, side, &frame(0x81, side == Side::Client, text.as_bytes())).unwrap();
        }

        fn finish(self, ending: Ending, at: u64) -> Vec<(Ending, Observation)> {
            self.session.finish(ending, millis(at));
            self.ended.take()
        }
    }

    /// What is seen of a session that ends cleanly after so many milliseconds; however its bytes are cut.
    fn observe(path: &str, query: &str, steps: &[Step<'_>], end: u64) -> Vec<(Ending, Observation)> {
        let run = |size: usize| {
            let mut bench = Bench::new(path, query, size);
            steps.iter().for_each(|step| bench.say(*step));
            bench.finish(Ending::Clean, end)
        };
        let whole = run(usize::MAX);
        for size in [1, 2, 7, 64] {
            assert_eq!(run(size), whole, "in pieces of {size}");
        }
        whole
    }

    const CREATE: &str = r#"{"type":"response.create"}"#;

    fn created(id: &str) -> String {
        format!(
            r#"{{"type":"response.created","response":{{"id":"{id}","status":"in_progress","usage":null}}}}"#
        )
    }

    fn delta(id: &str, text: &str) -> String {
        format!(
            r#"{{"type":"response.output_text.delta","response_id":"{id}","item_id":"i","delta":"{text}"}}"#
        )
    }

    fn done(id: &str, status: &str, input: u64, output: u64) -> String {
        format!(
            r#"{{"type":"response.done","response":{{"id":"{id}","status":"{status}","output":[],
            "usage":{{"input_tokens":{input},"output_tokens":{output}}}}}}}"#
        )
    }

    fn since(seen: &Observation, at: Option<Moment>) -> Option<u64> {
        at.map(|at| u64::try_from(at.since(seen.clocks.started).as_millis()).unwrap())
    }

    use Side::{Client, Server};

    #[test]
    fn each_response_of_a_session_is_an_exchange_of_its_own() {
        let texts = [
            created("a"),
            delta("a", "Hello"),
            delta("a", " you"),
            done("a", "completed", 30, 2),
            created("b"),
            delta("b", "x"),
            done("b", "incomplete", 40, 1),
        ];
        let [a, a1, a2, a3, b, b1, b2] = texts.each_ref().map(String::as_str);
        let seen = observe(
            "/v1/realtime",
            "model=gpt-realtime",
            &[
                (0, Server, r#"{"type":"session.created","session":{"model":"gpt-realtime-2025"}}"#),
                (10, Client, r#"{"type":"conversation.item.create","item":{}}"#),
                (20, Client, r#"{"type":"response.create","response":{"max_output_tokens":9}}"#),
                (25, Server, a),
                (50, Server, a1),
                (70, Server, a2),
                (80, Server, a3),
                (1000, Client, CREATE),
                (1001, Server, b),
                (1040, Server, b1),
                (1050, Server, b2),
                (1060, Server, r#"{"type":"rate_limits.updated"}"#),
            ],
            5000,
        );
        let [(_, a), (_, b)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!(a.outcome(Ending::Clean), Outcome::Completed);
        assert_eq!((a.clocks.started, a.clocks.ended), (millis(20), millis(80)));
        assert_eq!((since(a, a.clocks.first_token), since(a, a.clocks.last_token)), (Some(30), Some(50)));
        assert_eq!((a.usage.input, a.usage.output, a.chunks, a.text_bytes), (Some(30), Some(2), 2, Some(9)));
        assert_eq!(a.request.as_ref().and_then(|facts| facts.max_output), Some(9));
        let model = a.request.as_ref().and_then(|facts| facts.model.clone());
        assert_eq!(
            (model, a.served.clone()),
            (Some("gpt-realtime".into()), Some("gpt-realtime-2025".into()))
        );
        assert_eq!((a.upstream_request_id.clone(), a.text().input), (Some("a".into()), None));
        assert_eq!((b.clocks.started, since(b, b.clocks.first_token)), (millis(1000), Some(40)));
        assert_eq!((b.usage.input, b.usage.output), (Some(40), Some(1)));
        assert_eq!((b.finish_reasons.as_slice(), b.streamed), (&[FinishReason::Other][..], true));
    }

    #[test]
    fn a_response_that_nobody_asked_for_begins_when_the_client_stopped_speaking() {
        let texts = [created("a"), delta("a", "x"), done("a", "completed", 3, 1), created("b")];
        let [a, a1, a2, b] = texts.each_ref().map(String::as_str);
        let seen = observe(
            "/v1/realtime",
            "",
            &[
                (0, Server, r#"{"type":"input_audio_buffer.speech_started"}"#),
                (100, Server, r#"{"type":"input_audio_buffer.speech_stopped"}"#),
                (105, Server, r#"{"type":"input_audio_buffer.committed"}"#),
                (110, Server, a),
                (150, Server, a1),
                (160, Server, a2),
                (9000, Server, b),
            ],
            9100,
        );
        let [(_, a), (ending, b)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!((a.clocks.started, since(a, a.clocks.first_token)), (millis(100), Some(50)));
        assert_eq!(b.clocks.started, millis(9000), "what was said before belongs to the one before");
        assert_eq!(b.outcome(*ending), Outcome::Truncated);
    }

    #[test]
    fn responses_side_by_side_are_told_apart_by_their_names() {
        let texts = [
            created("a"),
            created("b"),
            delta("b", "one"),
            delta("a", "three"),
            done("a", "completed", 1, 1),
            done("b", "completed", 2, 2),
        ];
        let [a, b, b1, a1, a2, b2] = texts.each_ref().map(String::as_str);
        let steps = [
            (0, Client, CREATE),
            (5, Client, CREATE),
            (10, Server, a),
            (11, Server, b),
            (20, Server, b1),
            (30, Server, a1),
            (40, Server, r#"{"type":"response.output_text.delta","response_id":"nobody","delta":"x"}"#),
            (50, Server, a2),
            (60, Server, b2),
        ];
        let seen = observe("/v1/realtime", "", &steps, 70);
        let [(_, a), (_, b)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!(
            (a.usage.output, a.text_bytes, since(a, a.clocks.first_token)),
            (Some(1), Some(5), Some(30))
        );
        assert_eq!(
            (b.usage.output, b.text_bytes, since(b, b.clocks.first_token)),
            (Some(2), Some(3), Some(15))
        );
    }

    #[test]
    fn queues_of_responses_are_told_apart_by_theirs() {
        let seen = observe(
            "/v1/responses",
            "",
            &[
                (
                    0,
                    Client,
                    r#"{"type":"response.create","stream_id":"l","model":"m1","input":"Hello","store":false}"#,
                ),
                (1, Client, r#"{"type":"response.create","stream_id":"k","model":"m2","input":"ab"}"#),
                (2, Client, r#"{"type":"response.create","stream_id":"l","model":"m3","input":"abc"}"#),
                (
                    10,
                    Server,
                    r#"{"type":"response.created","stream_id":"k","response":{"id":"k1","model":"m2"}}"#,
                ),
                (
                    11,
                    Server,
                    r#"{"type":"response.created","stream_id":"l","response":{"id":"l1","model":"m1-x"}}"#,
                ),
                (20, Server, r#"{"type":"response.output_text.delta","stream_id":"l","delta":"four"}"#),
                (21, Server, r#"{"type":"response.output_text.delta","stream_id":"k","delta":"sixsix"}"#),
                (
                    30,
                    Server,
                    r#"{"type":"response.completed","stream_id":"l","response":{"id":"l1","status":"completed","usage":{"input_tokens":5,"output_tokens":1}}}"#,
                ),
                (31, Server, r#"{"type":"response.created","stream_id":"l","response":{"id":"l2"}}"#),
                (
                    40,
                    Server,
                    r#"{"type":"error","stream_id":"l","status":400,"error":{"type":"invalid_request_error","code":"x","message":"m"}}"#,
                ),
                (
                    50,
                    Server,
                    r#"{"type":"response.completed","stream_id":"k","response":{"id":"k1","status":"completed","usage":{"input_tokens":6,"output_tokens":2}}}"#,
                ),
            ],
            60,
        );
        let told: Vec<_> = seen
            .iter()
            .map(|(ending, seen)| {
                let model = seen.request.as_ref().and_then(|facts| facts.model.clone());
                let prompt = seen.request.as_ref().and_then(|facts| facts.prompt_text_bytes);
                let started = u64::try_from(seen.clocks.started.since(millis(0)).as_millis()).unwrap();
                (
                    model.unwrap().to_string(),
                    prompt,
                    started,
                    seen.text_bytes,
                    seen.usage.input,
                    seen.outcome(*ending),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("m1".to_owned(), Some(5), 0, Some(4), Some(5), Outcome::Completed),
                ("m3".to_owned(), Some(3), 2, Some(0), None, Outcome::StreamFailed),
                ("m2".to_owned(), Some(2), 1, Some(6), Some(6), Outcome::Completed),
            ]
        );
    }

    #[test]
    fn what_is_refused_has_the_status_that_it_has_over_http() {
        let error = |kind: &str, id: &str| {
            format!(
                r#"{{"type":"error","error":{{"type":"{kind}","code":"c","message":"m","event_id":{id}}}}}"#
            )
        };
        let no = error("invalid_request_error", r#""mine""#);
        let failed = error("server_error", "null");
        let other =
            r#"{"type":"error","error":{"type":"invalid_request_error","code":"c","param":"session.voice"}}"#;
        let steps = [
            (0, Client, r#"{"type":"response.create"}"#),
            (1, Client, r#"{"type":"response.create","event_id":"mine"}"#),
            (5, Server, other),
            (10, Server, no.as_str()),
            (20, Server, failed.as_str()),
            (30, Server, failed.as_str()),
        ];
        let seen = observe("/v1/realtime", "", &steps, 40);
        let [(ending, mine), (_, failed)] = seen.as_slice() else { panic!("{seen:?}") };
        let class = mine.error_class.as_ref().map(|class| class.to_string());
        assert_eq!((mine.outcome(*ending), mine.closure.code), (Outcome::UpstreamRefused, Some(400)));
        assert_eq!((class.as_deref(), mine.clocks.ended), (Some("invalid_request_error"), millis(10)));
        assert_eq!((failed.outcome(*ending), failed.closure.code), (Outcome::UpstreamFailed, Some(500)));
    }

    #[test]
    fn what_is_open_ends_as_its_connection_does() {
        let close = |side| frame(0x88, side == Client, b"\x03\xe8");
        let run = |closes: &[Side], gone: Option<Side>, ending: Ending| {
            let mut bench = Bench::new("/v1/realtime", "", usize::MAX);
            bench.say((0, Client, CREATE));
            bench.say((1, Server, &created("a")));
            bench.say((2, Client, CREATE));
            closes.iter().for_each(|side| bench.push(10, *side, &close(*side)).unwrap());
            gone.into_iter().for_each(|side| bench.session.ended(side));
            let seen = bench.finish(ending, 20);
            seen.iter().map(|(ending, seen)| seen.outcome(*ending)).collect::<Vec<_>>()
        };
        let both = |outcome| vec![outcome, outcome];
        assert_eq!(run(&[Client, Server], None, Ending::Clean), both(Outcome::ClientGone));
        assert_eq!(
            run(&[Server, Client], None, Ending::Clean),
            [Outcome::Truncated, Outcome::UpstreamFailed]
        );
        assert_eq!(run(&[], Some(Client), Ending::Clean), both(Outcome::ClientGone));
        assert_eq!(run(&[], Some(Server), Ending::Clean), [Outcome::Truncated, Outcome::UpstreamFailed]);
        assert_eq!(run(&[], None, Ending::ClientGone), both(Outcome::ClientGone));
        assert_eq!(run(&[], None, Ending::UpstreamBroke), [Outcome::Truncated, Outcome::UpstreamFailed]);
        assert_eq!(run(&[Client], None, Ending::Drained), both(Outcome::Drained));
    }

    #[test]
    fn who_no_longer_wants_a_response_has_left_it() {
        let texts = [created("a"), delta("a", "x"), done("a", "cancelled", 3, 1)];
        let [a, a1, a2] = texts.each_ref().map(String::as_str);
        let steps = [
            (0, Client, CREATE),
            (1, Server, a),
            (2, Server, a1),
            (3, Client, r#"{"type":"response.cancel"}"#),
            (4, Server, a2),
        ];
        let seen = observe("/v1/realtime", "", &steps, 70);
        let [(ending, seen)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!(seen.outcome(*ending), Outcome::ClientGone);
        assert_eq!((seen.usage.output, seen.clocks.ended), (Some(1), millis(4)));
    }

    #[test]
    fn what_cannot_be_read_is_judged_by_the_connection() {
        let mut bench = Bench::new("/v1/realtime", "", usize::MAX);
        bench.say((0, Client, CREATE));
        bench.say((1, Server, &created("a")));
        bench.say((2, Client, CREATE));
        assert_eq!(bench.push(3, Server, b"HTTP/1.1"), Err(Unread::Frames));
        assert!(!bench.session.was_read());
        bench.session.give_up(millis(4));
        for (ending, seen) in bench.ended.take() {
            assert_eq!(
                (seen.outcome(ending), seen.unobserved),
                (Outcome::Completed, Some(Unobserved::Upgrade))
            );
        }
    }

    #[test]
    fn more_than_are_kept_are_not_read() {
        let mut bench = Bench::new("/v1/realtime", "", usize::MAX);
        (0..OPEN_LIMIT as u64).for_each(|at| bench.say((at, Client, CREATE)));
        assert_eq!(bench.push(99, Client, &frame(0x81, true, CREATE.as_bytes())), Err(Unread::Frames));
        bench.session.give_up(millis(100));
        assert_eq!(bench.ended.take().len(), OPEN_LIMIT);
    }

    #[test]
    fn messages_that_are_too_long_are_counted_and_what_follows_is_read() {
        let long = format!(r#"{{"type":"response.create","input":"{}"}}"#, "x".repeat(2 << 20));
        let item = format!(r#"{{"type":"response.output_item.done","x":"{}"}}"#, "x".repeat(2 << 20));
        let mut bench = Bench::new("/v1/responses", "", 4096);
        bench.say((0, Client, &long));
        bench.say((5, Server, r#"{"type":"response.created","response":{"id":"a","model":"m"}}"#));
        bench.say((6, Server, r#"{"type":"response.output_text.delta","delta":"x"}"#));
        bench.say((7, Server, &item));
        bench.say((8, Server, r#"{"type":"response.completed","response":{"id":"a","status":"completed","usage":{"input_tokens":9,"output_tokens":1}}}"#));
        assert_eq!((bench.session.take_too_large(), bench.session.take_too_large()), (1, 0));
        let seen = bench.finish(Ending::Clean, 20);
        let [(ending, seen)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!((seen.outcome(*ending), seen.clocks.started), (Outcome::Completed, millis(0)));
        assert_eq!((seen.too_large, seen.text_bytes, seen.usage.input), (1, None, Some(9)));
        let mut bench = Bench::new("/v1/realtime", "", 4096);
        bench.say((0, Client, &long));
        assert_eq!(bench.finish(Ending::Clean, 20).len(), 0, "there it may be sound");
    }

    #[test]
    fn an_end_that_passed_unread_is_known_by_the_next_beginning() {
        let mut bench = Bench::new("/v1/responses", "", usize::MAX);
        let begin =
            |id: &str| format!(r#"{{"type":"response.created","response":{{"id":"{id}","model":"m"}}}}"#);
        bench.say((0, Client, r#"{"type":"response.create","model":"m"}"#));
        bench.say((1, Server, &begin("a")));
        bench.say((2, Server, &format!(r#"{{"type":"response.completed","x":"{}"}}"#, "x".repeat(2 << 20))));
        bench.say((3, Client, r#"{"type":"response.create","model":"m"}"#));
        bench.say((4, Server, &begin("b")));
        assert_eq!(bench.ended.borrow().len(), 1);
        let seen = bench.finish(Ending::Clean, 20);
        let outcomes: Vec<_> = seen.iter().map(|(ending, seen)| seen.outcome(*ending)).collect();
        assert_eq!(outcomes, [Outcome::Completed, Outcome::Truncated]);
    }
}
