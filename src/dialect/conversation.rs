//! APIs that are spoken over WebSocket: many responses in one connection. Says which message asks for a response, which
//! are of one and which end it; what they tell of it is the dialect's to say. Keeps no state: that is the session's.
//!
//! Format: <https://platform.openai.com/docs/api-reference/realtime> and
//! <https://platform.openai.com/docs/guides/websocket-mode>.

use std::borrow::Cow;

use super::lenient::{Number, Word, member};
use super::openai_realtime::OpenaiRealtime;
use super::openai_responses::OpenaiResponses;
use super::{Dialect, PathFacts, unescaped};
use crate::exchange::Name;
use crate::wire::json::{self, object};

/// Every API that is spoken so; the first that matches a path has it.
pub const CONVERSATIONS: &[Conversation] = &[
    Conversation { dialect: &OpenaiRealtime, path: "/realtime", each_asks: false },
    Conversation { dialect: &OpenaiResponses, path: "/responses", each_asks: true },
];

/// One API.
#[derive(Debug)]
pub struct Conversation {
    /// What its messages mean.
    pub dialect: &'static dyn Dialect,
    path: &'static str,
    /// Every large message of the client asks for a response; else it may be sound or a picture.
    pub each_asks: bool,
}

/// The API of a connection that left HTTP by way of this path.
pub fn find(path: &str) -> Option<&'static Conversation> {
    let path = unescaped(path);
    let path = path.trim_end_matches('/');
    CONVERSATIONS.iter().find(|conversation| path.ends_with(conversation.path))
}

impl Conversation {
    /// What a connection's query asks of all its responses: each of them is a stream, and Azure calls a model a deployment.
    pub fn asked(&self, query: Option<&str>) -> PathFacts {
        let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let named = |name: &str| pairs.clone().find(|(key, value)| *key == name && !value.is_empty());
        let model = named("model").or_else(|| named("deployment"));
        PathFacts { model: model.map(|(_, value)| Name::from(&*unescaped(value))), stream: Some(true) }
    }
}

/// A message of the client that asks for a response.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asking<'a> {
    /// The client's own name for the message.
    pub event_id: Option<Cow<'a, str>>,
    /// Which of several queues of responses it is for.
    pub lane: Option<Cow<'a, str>>,
}

/// Whether a message of the client asks for a response.
pub fn asking(message: &[u8]) -> Option<Asking<'_>> {
    let envelope = envelope(message)?;
    let asks = envelope.kind.as_str() == Some("response.create");
    asks.then_some(Asking { event_id: envelope.event_id.0, lane: envelope.stream_id.0 })
}

/// What a message of the server is to the session.
#[derive(Debug, PartialEq)]
pub enum Told<'a> {
    /// Nothing.
    Other,
    /// It names the model that serves the session.
    Model(Cow<'a, str>),
    /// Somebody begins to speak.
    Speech,
    /// Somebody has stopped speaking.
    Silence,
    /// What was spoken until now is the prompt.
    Committed,
    /// It is of a response.
    Response(OfResponse<'a>),
    /// Something that the client sent was refused.
    Refused(Refused<'a>),
}

/// What a message is to its response.
#[derive(Debug, PartialEq)]
pub struct OfResponse<'a> {
    /// The response's name, where the message says it.
    pub id: Option<Cow<'a, str>>,
    /// Which of several queues it is in, where the client named one.
    pub lane: Option<Cow<'a, str>>,
    /// What it is of it.
    pub part: Part,
}

/// Which part of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The first.
    Begin,
    /// One of many.
    Middle,
    /// The last.
    End,
    /// The last of one that the client did not want any longer.
    Cancelled,
}

/// Something that the client sent was refused.
#[derive(Debug, PartialEq)]
pub struct Refused<'a> {
    /// The client's own name for the message.
    pub event_id: Option<Cow<'a, str>>,
    /// The queue that it was for.
    pub lane: Option<Cow<'a, str>>,
    /// The status that this would be over HTTP.
    pub status: u16,
    /// It may be a `response.create` that was refused.
    pub may_be_response: bool,
}

/// What a message of the server is to the session.
pub fn told(message: &[u8]) -> Told<'_> {
    let Some(envelope) = envelope(message) else { return Told::Other };
    match envelope.kind.as_str().unwrap_or_default() {
        "session.created" | "session.updated" => {
            member::<Named<'_>>(envelope.session).model.0.map_or(Told::Other, Told::Model)
        }
        "input_audio_buffer.speech_started" => Told::Speech,
        "input_audio_buffer.speech_stopped" => Told::Silence,
        "input_audio_buffer.committed" => Told::Committed,
        "error" => Told::Refused(envelope.refused()),
        kind => match part(kind) {
            Some(part) => Told::Response(envelope.of_response(part)),
            None => Told::Other,
        },
    }
}

fn part(kind: &str) -> Option<Part> {
    Some(match kind.strip_prefix("response.")? {
        "created" => Part::Begin,
        "done" | "completed" | "incomplete" | "failed" => Part::End,
        other if other.starts_with("steer.") => return None,
        _ => Part::Middle,
    })
}

fn envelope(message: &[u8]) -> Option<Envelope<'_>> {
    json::read_bytes(message)
}

/// The members of a message that say what it is to the session.
#[derive(Default)]
struct Envelope<'a> {
    kind: Word<'a>,
    event_id: Word<'a>,
    stream_id: Word<'a>,
    response_id: Word<'a>,
    response: Option<&'a str>,
    session: Option<&'a str>,
    error: Option<&'a str>,
    status: Number,
}

object!(Envelope<'a> { kind = "type", event_id, stream_id, response_id, response, session, error, status });

#[derive(Default)]
struct Named<'a> {
    id: Word<'a>,
    model: Word<'a>,
    status: Word<'a>,
}

object!(Named<'a> { id, model, status });

#[derive(Default)]
struct Error<'a> {
    kind: Word<'a>,
    code: Word<'a>,
    param: Word<'a>,
    event_id: Word<'a>,
}

object!(Error<'a> { kind = "type", code, param, event_id });

impl<'a> Envelope<'a> {
    fn of_response(self, part: Part) -> OfResponse<'a> {
        // Of most messages the response is not there: its own name is.
        let response = self.response.map(|json| member::<Named<'a>>(Some(json))).unwrap_or_default();
        let is_cancelled = part == Part::End && response.status.as_str() == Some("cancelled");
        OfResponse {
            id: self.response_id.0.or(response.id.0),
            lane: self.stream_id.0,
            part: if is_cancelled { Part::Cancelled } else { part },
        }
    }

    fn refused(self) -> Refused<'a> {
        let error = member::<Error<'a>>(self.error);
        let told = self.status.0.and_then(|status| u16::try_from(status).ok());
        let status = told.filter(|status| (400..600).contains(status)).unwrap_or_else(|| error.status());
        Refused {
            may_be_response: error.may_be_response(),
            event_id: error.event_id.0,
            lane: self.stream_id.0,
            status,
        }
    }
}

impl Error<'_> {
    /// The status that an error of this class has over HTTP.
    fn status(&self) -> u16 {
        match self.kind.as_str().or(self.code.as_str()).unwrap_or_default() {
            "invalid_request_error" => 400,
            "authentication_error" => 401,
            "permission_error" => 403,
            "not_found_error" => 404,
            "rate_limit_error"
            | "rate_limit_exceeded"
            | "rate_limits_exceeded"
            | "tokens"
            | "requests"
            | "insufficient_quota" => 429,
            _ => 500,
        }
    }

    /// Whether it may say that a response is refused: what names another part of the session does not.
    fn may_be_response(&self) -> bool {
        let param = self.param.as_str().unwrap_or_default();
        let is_other = ["session", "item", "audio"].iter().any(|other| param.starts_with(other));
        let code = self.code.as_str().unwrap_or_default();
        !is_other && !matches!(code, "response_cancel_not_active" | "input_audio_buffer_commit_empty")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_by_the_end_of_its_path() {
        let id = |path| find(path).map(|conversation| conversation.dialect.id().0);
        assert_eq!(id("/v1/realtime"), Some("openai_realtime"));
        assert_eq!(id("/openai/realtime/"), Some("openai_realtime"));
        assert_eq!(id("/t/acme/v1/responses"), Some("openai_responses"));
        assert_eq!(id("/v1/realtime/client_secrets"), None);
        assert_eq!(id("/v1/responses/resp_1"), None);
        assert_eq!(id("/ws"), None);
    }

    #[test]
    fn a_query_names_the_model() {
        let model = |query| find("/v1/realtime").unwrap().asked(query).model;
        let name = |name: &str| Some(Name::from(name));
        assert_eq!(model(Some("model=gpt-realtime")), name("gpt-realtime"));
        assert_eq!(model(Some("api-version=2025&deployment=d%2F1")), name("d/1"));
        assert_eq!(model(Some("intent=x&model=")), None);
        assert_eq!(model(None), None);
    }

    #[test]
    fn what_asks_for_a_response() {
        let asked =
            asking(br#"{"type":"response.create","event_id":"e1","stream_id":"main","model":"m"}"#).unwrap();
        assert_eq!((asked.event_id.as_deref(), asked.lane.as_deref()), (Some("e1"), Some("main")));
        assert_eq!(asking(br#"{"type":"response.create","event_id":null}"#), Some(Asking::default()));
        for other in [&br#"{"type":"response.cancel"}"#[..], b"{}", b"[]", b"no JSON", b"\xFF", b""] {
            assert_eq!(asking(other), None);
        }
    }

    fn response(id: Option<&'static str>, lane: Option<&'static str>, part: Part) -> Told<'static> {
        Told::Response(OfResponse { id: id.map(Cow::from), lane: lane.map(Cow::from), part })
    }

    #[test]
    fn what_messages_are_to_the_session() {
        for (message, want) in [
            (r#"{"type":"session.created","session":{"id":"s","model":"m"}}"#, Told::Model("m".into())),
            (r#"{"type":"session.updated","session":{"type":"transcription"}}"#, Told::Other),
            (r#"{"type":"input_audio_buffer.speech_started"}"#, Told::Speech),
            (r#"{"type":"input_audio_buffer.speech_stopped","audio_end_ms":7}"#, Told::Silence),
            (r#"{"type":"input_audio_buffer.committed","item_id":"i"}"#, Told::Committed),
            (
                r#"{"type":"response.created","event_id":"e","response":{"id":"resp_1","status":"in_progress"}}"#,
                response(Some("resp_1"), None, Part::Begin),
            ),
            (
                r#"{"type":"response.output_text.delta","response_id":"resp_1","item_id":"i","delta":"x"}"#,
                response(Some("resp_1"), None, Part::Middle),
            ),
            (
                r#"{"type":"response.output_text.delta","stream_id":"main","item_id":"i","delta":"x"}"#,
                response(None, Some("main"), Part::Middle),
            ),
            (
                r#"{"type":"response.done","response":{"id":"resp_1","status":"cancelled"}}"#,
                response(Some("resp_1"), None, Part::Cancelled),
            ),
            (
                r#"{"type":"response.incomplete","response":{"id":"resp_1","status":"incomplete"}}"#,
                response(Some("resp_1"), None, Part::End),
            ),
            (r#"{"type":"response.steer.accepted","steer":{"id":"s"}}"#, Told::Other),
            (r#"{"type":"rate_limits.updated","rate_limits":[]}"#, Told::Other),
            (r#"{"type":"conversation.item.added"}"#, Told::Other),
            ("[1]", Told::Other),
            ("", Told::Other),
        ] {
            assert_eq!(told(message.as_bytes()), want, "{message}");
        }
    }

    #[test]
    fn what_an_error_refuses() {
        let refused = |error: &str, more: &str| {
            let message = format!(r#"{{"type":"error","event_id":"s1","error":{error}{more}}}"#);
            match told(message.as_bytes()) {
                Told::Refused(refused) => {
                    let event_id = refused.event_id.map(Cow::into_owned);
                    (refused.status, refused.may_be_response, event_id)
                }
                other => panic!("{other:?}"),
            }
        };
        let invalid = r#"{"type":"invalid_request_error","code":"x","event_id":"e1","param":null}"#;
        assert_eq!(refused(invalid, ""), (400, true, Some("e1".to_owned())));
        assert_eq!(refused(invalid, r#","status":404"#).0, 404);
        assert_eq!(refused(invalid, r#","status":200"#).0, 400);
        assert_eq!(refused(r#"{"type":"server_error"}"#, ""), (500, true, None));
        assert_eq!(refused(r#"{"type":"rate_limit_error"}"#, "").0, 429);
        assert_eq!(refused("null", ""), (500, true, None));
        for other in [
            r#"{"type":"invalid_request_error","code":"response_cancel_not_active"}"#,
            r#"{"type":"invalid_request_error","code":"input_audio_buffer_commit_empty"}"#,
            r#"{"type":"invalid_request_error","code":"invalid_value","param":"session.voice"}"#,
            r#"{"type":"invalid_request_error","code":"invalid_value","param":"item.content"}"#,
        ] {
            assert!(!refused(other, "").1, "{other}");
        }
    }
}
