//! OpenAI chat completions: `POST …/chat/completions`, also as vLLM, SGLang, llama.cpp, TGI, Azure and gateways
//! speak it.

use std::sync::LazyLock;

use super::lenient::{Few, Fragment, Length, Number, Word, for_each};
use super::{DeltaKind, Description, Dialect, Framing, RequestFacts, Signal, Tells, openai};
use crate::exchange::DialectId;
use crate::wire::json::object;
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> =
    LazyLock::new(|| Wanted::new(openai::REQUEST_MEMBERS, &["messages", "tools"]));

/// The API.
#[derive(Debug)]
pub(super) struct OpenaiChat;

impl Dialect for OpenaiChat {
    fn id(&self) -> DialectId {
        DialectId("openai_chat")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && path.ends_with("/chat/completions")
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/chat/completions"],
            stream: Some(Framing::Events),
            end: "`[DONE]`",
            tells: &[
                Tells::Whole,
                Tells::Input,
                Tells::CacheRead,
                Tells::CacheWrite,
                Tells::Output,
                Tells::Reasoning,
                Tells::Thoughts,
                Tells::FinishReason,
                Tells::Failure,
            ],
        }
    }

    fn request_members(&self) -> &'static Wanted {
        &REQUEST
    }

    fn request(&self, members: &Members) -> RequestFacts {
        let text = members.measure("messages").text_bytes + members.measure("tools").bytes;
        openai::request(members, 1, text)
    }

    fn body_members(&self) -> &'static Wanted {
        &openai::BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        openai::tell_body(members, emit);
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        openai::event(event, emit, |choice: &Choice<'_>, emit| choice.tell(emit));
    }

    fn reports_usage_when_asked(&self) -> bool {
        true
    }
}

#[derive(Default)]
struct Choice<'a> {
    index: Number,
    delta: Option<Delta<'a>>,
    finish_reason: Word<'a>,
    /// vLLM, when asked for them.
    token_ids: Length,
    logprobs: Option<Logprobs>,
}

object!(Choice<'a> { index, delta, finish_reason, token_ids, logprobs });

#[derive(Default)]
struct Logprobs {
    content: Length,
}

object!(Logprobs { content });

#[derive(Default)]
struct Delta<'a> {
    content: Option<&'a str>,
    /// vLLM and OpenRouter say `reasoning`, SGLang, DeepSeek and llama.cpp `reasoning_content`; some say both.
    reasoning: Option<&'a str>,
    reasoning_content: Option<&'a str>,
    refusal: Option<&'a str>,
    tool_calls: Few<ToolCall<'a>>,
    function_call: Option<Function<'a>>,
    audio: Option<Audio<'a>>,
}

object!(Delta<'a> { content, reasoning, reasoning_content, refusal, tool_calls, function_call, audio });

#[derive(Default)]
struct ToolCall<'a> {
    function: Option<Function<'a>>,
}

object!(ToolCall<'a> { function });

#[derive(Default)]
struct Function<'a> {
    name: Option<&'a str>,
    arguments: Option<&'a str>,
}

object!(Function<'a> { name, arguments });

#[derive(Default)]
struct Audio<'a> {
    data: Option<&'a str>,
    transcript: Option<&'a str>,
}

object!(Audio<'a> { data, transcript });

/// An element of a `content` that is an array, as Mistral sends it while a model thinks.
#[derive(Default)]
struct Part<'a> {
    text: Option<&'a str>,
    thinking: Option<&'a str>,
}

object!(Part<'a> { text, thinking });

impl Choice<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        let choice = self.index.0.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
        let logprobs = self.logprobs.as_ref().and_then(|logprobs| logprobs.content.0);
        // The event tells its tokens once; they go with its first delta.
        let mut tokens = self.token_ids.0.or(logprobs);
        if let Some(delta) = &self.delta {
            delta.pieces(&mut |text, kind| {
                let here = tokens;
                tokens = tokens.map(|_| 0);
                emit(Signal::Delta { choice, text, tokens: here, kind });
            });
        }
        if let Some(word) = self.finish_reason.as_str() {
            emit(Signal::Finish { choice, reason: openai::finish_reason(word) });
        }
    }
}

impl<'a> Delta<'a> {
    fn pieces(&self, piece: &mut dyn FnMut(Fragment<'a>, DeltaKind)) {
        let text = |json: Option<&'a str>| json.and_then(Fragment::of);
        if let Some(reasoning) = text(self.reasoning).or_else(|| text(self.reasoning_content)) {
            piece(reasoning, DeltaKind::Reasoning);
        }
        if let Some(content) = text(self.content) {
            piece(content, DeltaKind::Content);
        } else if let Some(parts) = self.content {
            for_each(parts, &mut |part: Part<'a>| part.pieces(DeltaKind::Content, piece));
        }
        if let Some(refusal) = text(self.refusal) {
            piece(refusal, DeltaKind::Refusal);
        }
        for call in self.tool_calls.iter() {
            call.function.iter().for_each(|function| function.pieces(piece));
        }
        if let Some(call) = &self.function_call {
            call.pieces(piece);
        }
        if let Some(sound) =
            self.audio.as_ref().and_then(|audio| text(audio.transcript).or_else(|| text(audio.data)))
        {
            piece(sound, DeltaKind::Audio);
        }
    }
}

impl<'a> Function<'a> {
    fn pieces(&self, piece: &mut dyn FnMut(Fragment<'a>, DeltaKind)) {
        for json in [self.name, self.arguments].into_iter().flatten() {
            if let Some(text) = Fragment::of(json) {
                piece(text, DeltaKind::ToolCall);
            }
        }
    }
}

impl<'a> Part<'a> {
    fn pieces(&self, kind: DeltaKind, piece: &mut dyn FnMut(Fragment<'a>, DeltaKind)) {
        if let Some(text) = self.text.and_then(Fragment::of) {
            piece(text, kind);
        }
        if let Some(thinking) = self.thinking {
            match Fragment::of(thinking) {
                Some(text) => piece(text, DeltaKind::Reasoning),
                None => for_each(thinking, &mut |part: Part<'a>| {
                    part.text
                        .and_then(Fragment::of)
                        .into_iter()
                        .for_each(|text| piece(text, DeltaKind::Reasoning));
                }),
            }
        }
    }
}
