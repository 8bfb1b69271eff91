//! What bytes mean, one API a file. A dialect says *what* an event or a body tells; it keeps no time, no state
//! and cannot fail: what it does not know it passes over.
//!
//! To add one: a file that implements [`Dialect`], a line in [`DIALECTS`], a folder of cases in
//! `tests/golden`.

mod anthropic_messages;
mod bedrock;
mod cohere;
pub mod conversation;
mod describe;
mod gemini;
pub mod inject;
mod kserve;
mod lenient;
mod llamacpp;
mod ollama;
mod openai;
mod openai_chat;
mod openai_completions;
mod openai_embeddings;
mod openai_realtime;
mod openai_responses;
pub mod prompt;
mod rerank;
mod sglang;
mod tgi;

use std::borrow::Cow;

use crate::exchange::{DialectId, FinishReason, Name, Unobserved, Usage};
use crate::wire::{Event, Members, Wanted};

pub use describe::{Description, Framing, Tells, page};
pub use lenient::Fragment;

/// Every API that is understood; the first that matches a path has it.
pub const DIALECTS: &[&dyn Dialect] = &[
    &openai_chat::OpenaiChat,
    &openai_completions::OpenaiCompletions,
    &ollama::Ollama,
    &openai_embeddings::OpenaiEmbeddings,
    &openai_responses::OpenaiResponses,
    &anthropic_messages::AnthropicMessages,
    &llamacpp::Llamacpp,
    &kserve::Kserve,
    &tgi::Tgi,
    &sglang::Sglang,
    &gemini::Gemini,
    &bedrock::Bedrock,
    &cohere::Cohere,
    &rerank::Rerank,
];

/// One API.
///
/// A made-up one is one file, and one line in [`DIALECTS`] (`&echo::Echo,`) by which its paths are found:
///
/// ```
/// use std::{sync::LazyLock, time::Duration};
/// use streamgauge::clock::Moment;
/// use streamgauge::dialect::{DeltaKind, Dialect, Fragment, RequestFacts, Signal};
/// use streamgauge::exchange::{DialectId, Ending, Usage};
/// use streamgauge::observe::{Head, Observer};
/// use streamgauge::wire::{Event, Members, Wanted};
///
/// struct Echo;
///
/// static REQUEST: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&["stream"], &["say"]));
/// static BODY: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&["tokens"], &["said"]));
///
/// impl Dialect for Echo {
///     fn id(&self) -> DialectId {
///         DialectId("echo")
///     }
///     fn matches(&self, method: &str, path: &str) -> bool {
///         method == "POST" && path.ends_with("/echo")
///     }
///     fn request_members(&self) -> &'static Wanted {
///         &REQUEST
///     }
///     fn request(&self, members: &Members) -> RequestFacts {
///         RequestFacts {
///             stream: members.get("stream").unwrap_or(false),
///             prompt_text_bytes: Some(members.measure("say").text_bytes),
///             ..RequestFacts::default()
///         }
///     }
///     fn body_members(&self) -> &'static Wanted {
///         &BODY
///     }
///     fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
///         emit(Signal::Usage(Usage { output: members.get("tokens"), ..Usage::default() }));
///         emit(Signal::Text { bytes: members.measure("said").text_bytes });
///         if members.is_complete() {
///             emit(Signal::Done);
///         }
///     }
///     /// An event is a JSON text, or the word `over`.
///     fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
///         if event.data == b"over" {
///             return emit(Signal::Done);
///         }
///         match serde_json::from_slice::<&serde_json::value::RawValue>(event.data) {
///             Ok(json) => Fragment::of(json.get()).into_iter().for_each(|text| {
///                 emit(Signal::Delta { choice: 0, text, tokens: Some(1), kind: DeltaKind::Content });
///             }),
///             Err(_) => emit(Signal::Undecodable),
///         }
///     }
/// }
///
/// let at = |millis| Moment::new(Duration::from_millis(millis));
/// let mut observer = Observer::new(Ok(&Echo), at(0));
/// observer.request_chunk(br#"{"say":"hello","stream":true}"#);
/// observer.request_end(at(0));
/// observer.head(&Head { status: 200, content_type: Some("text/event-stream"), ..Head::default() }, at(10));
/// observer.response_chunk(b"data: \"hel\"\n\ndata: \"lo\"\n\n", at(25));
/// observer.response_chunk(b"data: over\n\n", at(30));
/// let seen = observer.finish(Ending::Clean, at(31));
/// assert_eq!((seen.clocks.first_token, seen.chunks, seen.text_bytes), (Some(at(25)), 2, Some(5)));
/// assert!(seen.closure.terminal);
/// ```
pub trait Dialect: Sync {
    /// Its name in labels.
    fn id(&self) -> DialectId;

    /// Whether a request of this method to this path (without query) is a generation of this API. Matches by
    /// the path's end: gateways and tenants put prefixes before it.
    fn matches(&self, method: &str, path: &str) -> bool;

    /// What it understands, for people.
    fn describe(&self) -> Description {
        Description::default()
    }

    /// What is looked for in a request's body.
    fn request_members(&self) -> &'static Wanted;

    /// What a request's body tells.
    fn request(&self, members: &Members) -> RequestFacts;

    /// What a request's path (without query) tells, where the API says it there and not in the body.
    fn path_facts(&self, _: &str) -> PathFacts {
        PathFacts::default()
    }

    /// What is looked for in an answer's body that is no stream.
    fn body_members(&self) -> &'static Wanted;

    /// What an answer's body that is no stream tells.
    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>));

    /// What one event of an answer's stream tells.
    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>));

    /// Whether a stream of this API reports usage when `stream_options` asks for it: see [`inject`].
    fn reports_usage_when_asked(&self) -> bool {
        false
    }

    /// Whether nothing marks the end of a stream of this API, so that one whose body ends as HTTP says it should has
    /// ended.
    fn ends_without_mark(&self) -> bool {
        false
    }

    /// Whether it is known what this API adds to the text of a prompt; else a count of the text is an estimate.
    fn knows_prompts(&self) -> bool {
        true
    }

    /// Whether a JSON array is a stream of this API, its elements the events.
    fn streams_arrays(&self) -> bool {
        false
    }

    /// The body of an error that we answer ourselves, in this API's shape: OpenAI's, unless it has its own.
    fn error_body(&self, error: &OwnError<'_>) -> String {
        openai::error_body(error)
    }
}

/// Says how much text the measured members of a whole answer hold, where they are there.
fn tell_text(members: &Members, paths: &[&'static str], emit: &mut dyn FnMut(Signal<'_>)) {
    let mut measures =
        paths.iter().map(|path| members.measure(path)).filter(|measure| measure.bytes > 0).peekable();
    if measures.peek().is_some() {
        emit(Signal::Text { bytes: measures.map(|measure| measure.text_bytes).sum() });
    }
}

/// An error that we answer ourselves.
#[derive(Debug, Clone, Copy)]
pub struct OwnError<'a> {
    /// The status.
    pub status: u16,
    /// For humans; says that it comes from the sidecar.
    pub message: &'a str,
    /// By which the exchange is found in the request log.
    pub request_id: &'a str,
}

/// All that a dialect can say of an answer. No time, no tenant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Signal<'a> {
    /// The model that serves it.
    Model(&'a str),
    /// Generated output; never empty.
    Delta {
        /// Which choice it belongs to.
        choice: u32,
        /// The text, or what stands for it (a tool's name, base64 audio).
        text: Fragment<'a>,
        /// How many tokens it is, where the event tells.
        tokens: Option<u32>,
        /// The channel.
        kind: DeltaKind,
    },
    /// A whole answer's generated text, all choices together.
    Text {
        /// Bytes of UTF-8.
        bytes: u64,
    },
    /// All of a choice's text up to here, where events say it again from its start.
    TextSoFar {
        /// Which choice it belongs to.
        choice: u32,
        /// The text.
        text: Fragment<'a>,
    },
    /// What the upstream reports of tokens; the last report of a number wins.
    Usage(Usage),
    /// What it reports of one choice alone: what all of them report is added up.
    ChoiceUsage {
        /// Which.
        choice: u32,
        /// Of its prompt and its output.
        usage: Usage,
    },
    /// A choice has ended.
    Finish {
        /// Which.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// The answer is an error, of this class (a word of the API, never a message).
    Failed(&'a str),
    /// The upstream's own id of the answer.
    UpstreamId(&'a str),
    /// The service tier that it was answered in: it has a price of its own.
    Tier(&'a str),
    /// The terminal mark.
    Done,
    /// The terminal mark of one choice, where each has its own; the choice's [`Signal::Finish`] came before it.
    ChoiceDone,
    /// An event that could not be read.
    Undecodable,
}

/// The channel of generated output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeltaKind {
    /// The answer.
    Content,
    /// Thoughts before it.
    Reasoning,
    /// A call of a tool or function.
    ToolCall,
    /// The model says no.
    Refusal,
    /// Sound, or a picture.
    Audio,
}

/// What a request's body tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFacts {
    /// Whose API it is, where two have the same path and only the body tells.
    pub dialect: Option<DialectId>,
    /// The model asked for.
    pub model: Option<Name>,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// How many choices are asked for, prompts times choices each.
    pub choices: u32,
    /// How many choices one after another share a prompt, where each reports it; 0 is as good as 1.
    pub choices_a_prompt: u32,
    /// The most tokens that may be generated, all choices together, where the request says.
    pub max_output: Option<u64>,
    /// Bytes of the prompt's text, in which images are none; none where the prompt is no text.
    pub prompt_text_bytes: Option<u64>,
}

/// What a request's path tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathFacts {
    /// The model asked for.
    pub model: Option<Name>,
    /// Whether a stream is asked for.
    pub stream: Option<bool>,
}

impl RequestFacts {
    /// With what the path says: it decides, for it is what the server goes by.
    #[must_use]
    pub fn with(mut self, path: Option<&PathFacts>) -> Self {
        let Some(path) = path else { return self };
        self.stream = path.stream.unwrap_or(self.stream);
        self.model = path.model.clone().or(self.model);
        self
    }
}

/// The dialect of a request, or why there is none.
///
/// # Errors
/// The reason for which the exchange is passed through without being understood.
pub fn find(method: &str, path: &str) -> Result<&'static dyn Dialect, Unobserved> {
    let path = unescaped(path);
    let path = path.trim_end_matches('/');
    if let Some(dialect) = DIALECTS.iter().find(|dialect| dialect.matches(method, path)) {
        return Ok(*dialect);
    }
    let known = NOT_GENERATIONS.iter().any(|end| path.ends_with(end))
        || kserve::is_of_model(path)
        || openai_responses::is_of_answer(path);
    Err(if known { Unobserved::NotGeneration } else { Unobserved::UnknownPath })
}

/// A path as servers read it: one with an escape in it is the same to them, and must not pass unseen.
fn unescaped(path: &str) -> Cow<'_, str> {
    let Some((before, escapes)) = path.split_once('%') else { return Cow::Borrowed(path) };
    let mut plain = before.as_bytes().to_vec();
    for piece in escapes.split('%') {
        let escape = piece.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escape.and_then(|digits| Some((u8::from_str_radix(digits, 16).ok()?, piece.get(2..)?))) {
            Some((byte, rest)) => {
                plain.push(byte);
                plain.extend_from_slice(rest.as_bytes());
            }
            None => {
                plain.push(b'%');
                plain.extend_from_slice(piece.as_bytes());
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

/// Ends of paths of known APIs that generate nothing.
const NOT_GENERATIONS: &[&str] = &[
    "/models",
    "/health",
    "/healthz",
    "/health_generate",
    "/ready",
    "/ping",
    "/version",
    "/metrics",
    "/load",
    "/live",
    "/tokenize",
    "/detokenize",
    "/pooling",
    "/classify",
    "/score",
    "/count_tokens",
    "/count-tokens",
    "/responses/input_tokens",
    ":countTokens",
    ":embedContent",
    ":batchEmbedContents",
    "/props",
    "/slots",
    "/apply-template",
    "/get_model_info",
    "/get_server_info",
    "/model_info",
    "/server_info",
    "/flush_cache",
    "/chat_tokenize",
    "/info",
    "/api/tags",
    "/api/show",
    "/api/ps",
    "/api/version",
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/lora-adapters",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_known_by_their_end() {
        let name = |method, path| find(method, path).map(|dialect| dialect.id().0);
        assert_eq!(name("POST", "/v1/chat/completions"), Ok("openai_chat"));
        assert_eq!(name("POST", "/t/acme/v1/chat/completions/"), Ok("openai_chat"));
        assert_eq!(name("POST", "/openai/deployments/d/chat/completions"), Ok("openai_chat"));
        assert_eq!(name("POST", "/v1/completions"), Ok("openai_completions"));
        assert_eq!(name("POST", "/completions"), Ok("openai_completions"));
        assert_eq!(name("POST", "/completion"), Ok("llamacpp"));
        assert_eq!(name("POST", "/openai/deployments/d/embeddings"), Ok("openai_embeddings"));
        assert_eq!(name("POST", "/api/chat"), Ok("ollama"));
        assert_eq!(name("POST", "/ollama/api/generate"), Ok("ollama"));
        assert_eq!(name("POST", "/api/embeddings"), Ok("ollama"));
        assert_eq!(name("POST", "/api/v1/embeddings"), Ok("openai_embeddings"));
        assert_eq!(name("POST", "/generate"), Ok("sglang"));
        assert_eq!(name("POST", "/generate_stream"), Ok("tgi"));
        assert_eq!(name("POST", "/"), Err(Unobserved::UnknownPath));
        assert_eq!(name("POST", "/v2/models/m/generate_stream"), Ok("kserve"));
        assert_eq!(name("GET", "/v2/models/m/versions/1/ready"), Err(Unobserved::NotGeneration));
        assert_eq!(name("GET", "/v2/models/m"), Err(Unobserved::NotGeneration));
        assert_eq!(name("POST", "/score"), Err(Unobserved::NotGeneration));
        assert_eq!(name("POST", "/anthropic/v1/messages"), Ok("anthropic_messages"));
        assert_eq!(name("POST", "/openai/v1/responses"), Ok("openai_responses"));
        assert_eq!(name("POST", "/v1/responses/input_tokens"), Err(Unobserved::NotGeneration));
        assert_eq!(name("GET", "/v1/responses/resp_1"), Err(Unobserved::NotGeneration));
        assert_eq!(name("POST", "/v1/responses/resp_1/cancel"), Err(Unobserved::NotGeneration));
        assert_eq!(name("POST", "/v1beta/models/m:generateContent"), Ok("gemini"));
        assert_eq!(name("POST", "/v1beta/models/m:countTokens"), Err(Unobserved::NotGeneration));
        assert_eq!(name("POST", "/v1/messages/count_tokens"), Err(Unobserved::NotGeneration));
        assert_eq!(name("POST", "/v1/threads/t/messages"), Err(Unobserved::UnknownPath));
        assert_eq!(name("GET", "/v1/chat/completions"), Err(Unobserved::UnknownPath));
        assert_eq!(name("POST", "/v1/mychat/completionsx"), Err(Unobserved::UnknownPath));
        assert_eq!(name("GET", "/v1/models"), Err(Unobserved::NotGeneration));
        assert_eq!(name("POST", "/v1/chat%2Fcompletion%73"), Ok("openai_chat"));
        assert_eq!(name("POST", "/100%/%zz/%e4/v1/completion%7"), Err(Unobserved::UnknownPath));
        assert_eq!(name("POST", "/tokenize"), Err(Unobserved::NotGeneration));
        assert_eq!(name("POST", "/model/us.amazon.nova-pro-v1%3A0/converse-stream"), Ok("bedrock"));
        assert_eq!(name("POST", "/model/m/count-tokens"), Err(Unobserved::NotGeneration));
        assert_eq!(name("POST", "/converse"), Err(Unobserved::UnknownPath));
        assert_eq!(name("POST", "/v2/chat"), Ok("cohere"));
        assert_eq!(name("POST", "/v2/rerank"), Ok("rerank"));
        assert_eq!(name("OPTIONS", "*"), Err(Unobserved::UnknownPath));
    }

    #[test]
    fn every_dialect_has_its_own_name() {
        let mut names: Vec<_> = DIALECTS.iter().map(|dialect| dialect.id().0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DIALECTS.len());
    }
}
