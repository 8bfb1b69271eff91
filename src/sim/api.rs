//! What an API must tell the server: how to read its requests and how to write its answers. Knows nothing of
//! time, connections or faults. A new API is one file and one entry in [`APIS`].

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::gemini::Gemini;
use super::rate_limit::Standing;
use super::{anthropic, bedrock, chance, cohere, embeddings, kserve, ollama, openai, responses, sglang, tgi};
use crate::clock::Clock;

/// Every API that the server speaks; the first that answers a path has it.
pub(crate) const APIS: [&dyn Api; 21] = [
    &openai::Chat,
    &openai::Completions,
    &embeddings::Embeddings,
    &anthropic::Messages,
    &ollama::Chat,
    &ollama::Generate,
    &embeddings::OllamaEmbed,
    &kserve::Generate { stream: false },
    &kserve::Generate { stream: true },
    &tgi::Stream,
    &sglang::Generate,
    &responses::Responses,
    &Gemini::Whole,
    &Gemini::Events,
    &Gemini::Array,
    &bedrock::CONVERSE,
    &bedrock::CONVERSE_STREAM,
    &bedrock::INVOKE,
    &bedrock::INVOKE_STREAM,
    &cohere::Chat,
    &cohere::Rerank,
];

/// An API.
pub(crate) trait Api: Sync {
    /// How its paths end.
    fn path(&self) -> &'static str;

    /// Whether a path is its own.
    fn answers(&self, path: &str) -> bool {
        path.ends_with(self.path())
    }

    /// Whether a query is its own, where a path is not enough to tell.
    fn answers_query(&self, _: &str) -> bool {
        true
    }

    /// The model that a path names, where it is named there.
    fn model<'p>(&self, _: &'p str) -> Option<&'p str> {
        None
    }

    /// Reads a request's body.
    fn read(&self, body: &[u8]) -> Result<Wish, Refusal>;

    /// The content type of its streams.
    fn stream_type(&self) -> &'static str;

    /// The bytes that every event of this reply begins with; kept as [`Reply::lead`].
    fn lead(&self, reply: &Reply) -> Vec<u8>;

    /// What a choice sends before its first token; may be nothing.
    fn open(&self, reply: &Reply, choice: u32, out: &mut BytesMut);

    /// The event of some tokens; of none, where it only brings the finish reason.
    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut);

    /// The event that brings the usage of the whole reply; may be nothing.
    fn usage(&self, reply: &Reply, out: &mut BytesMut);

    /// The terminal mark.
    fn done(&self, reply: &Reply, out: &mut BytesMut);

    /// What means nothing and keeps the connection busy; may be nothing.
    fn comment(&self, out: &mut BytesMut);

    /// The event that brings an error.
    fn failure(&self, refusal: &Refusal, out: &mut BytesMut);

    /// Whether the terminal mark follows an error too.
    fn ends_failures(&self) -> bool {
        true
    }

    /// A whole answer's body.
    fn whole(&self, reply: &Reply) -> Vec<u8>;

    /// An error answer's body.
    fn refusal(&self, refusal: &Refusal) -> Bytes;

    /// Says in an answer's head how a limit stands.
    fn limits(&self, standing: &Standing, headers: &mut HeaderMap, _: &Clock) {
        standing.put_openai(headers);
    }
}

/// The API of a path and its query.
pub(crate) fn find(path: &str, query: &str) -> Option<&'static dyn Api> {
    APIS.into_iter().find(|api| api.answers(path) && api.answers_query(query))
}

/// Writing to a buffer that grows cannot fail.
pub(super) fn put(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    let _: std::fmt::Result = out.write_fmt(text);
}

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    pub(crate) prompt_tokens: u32,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) choices: u32,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
}

/// Why a request gets an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) param: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None }
    }

    pub(crate) fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }
}

/// All that is decided of an answer before its first byte.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// 16 hex digits; the API puts its prefix before them.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) prompt_tokens: u32,
    pub(crate) choices: u32,
    /// Of each choice, reasoning included.
    pub(crate) tokens: u32,
    /// How many of them, the first, are reasoning.
    pub(crate) reasoning: u32,
    pub(crate) finish: Finish,
    pub(crate) usage: Usage,
    pub(crate) seed: u64,
    pub(crate) lead: Vec<u8>,
}

impl Reply {
    /// The tokens of all choices.
    pub(crate) fn completion_tokens(&self) -> u32 {
        self.tokens.saturating_mul(self.choices)
    }

    /// The words of a choice from one place to another.
    pub(crate) fn words(
        &self,
        choice: u32,
        places: std::ops::Range<u32>,
    ) -> impl Iterator<Item = &'static str> {
        let seed = self.seed;
        places.map(move |place| chance::word(seed, choice, place))
    }
}

/// Where usage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) at_end: bool,
    pub(crate) in_each: bool,
    /// Also in streams, where an API's streams have it unasked.
    pub(crate) in_whole: bool,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It had said all; an empty event says so after the last token.
    Stop,
    /// `max_tokens` were over; the event of the last token says so.
    Length,
}

/// Tokens that go out together, all of them reasoning or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) choice: u32,
    /// Tokens of this choice before these.
    pub(crate) from: u32,
    pub(crate) count: u32,
    pub(crate) finish: Option<Finish>,
}

impl Piece {
    /// Tokens of this choice up to the end of these.
    pub(crate) fn to(&self) -> u32 {
        self.from.saturating_add(self.count)
    }
}
