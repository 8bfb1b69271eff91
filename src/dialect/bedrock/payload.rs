//! What models answer to Bedrock's `invoke`, each family in its own format: Anthropic's messages, Amazon's Nova and
//! Titan, Meta's Llama, Mistral's texts and chats, OpenAI's chats (as DeepSeek, Qwen and AI21 have them, too), Cohere's.
//! In a stream each piece is base64 in JSON, and the last one has Bedrock's own count.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::anthropic_messages::{self, AnthropicMessages};
use super::super::lenient::{Few, Number, Word};
use super::super::openai_chat::OpenaiChat;
use super::super::{DeltaKind, Dialect, Signal, openai};
use super::{base64, converse, finish_reason, tell, tell_usage};
use crate::exchange::Usage;
use crate::wire::{Event, Members, Wanted};

const KEEP: &[&str] = &[
    "id",
    "type",
    "usage",
    "stopReason",
    "stop_reason",
    "completionReason",
    "finish_reason",
    "choices.*.finish_reason",
    "choices.*.stop_reason",
    "outputs.*.stop_reason",
    "results.*.completionReason",
    "results.*.tokenCount",
    "inputTextTokenCount",
    "prompt_token_count",
    "generation_token_count",
    "serviceTier.type",
    "trace.promptRouter.invokedModelId",
    "response_type",
    "results.*.relevance_score",
    "error",
    "__type",
];
/// Where the generated text of a whole answer is.
pub(super) const TEXTS: &[&str] = &[
    "output.message.content",
    "content",
    "generation",
    "results.*.outputText",
    "outputs.*.text",
    "choices.*.message",
    "choices.*.text",
    "text",
];
pub(super) static BODY: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(KEEP, TEXTS));

/// Where a whole answer says why it ended.
const REASONS: &[&str] = &[
    "stopReason",
    "stop_reason",
    "finish_reason",
    "completionReason",
    "choices.*.finish_reason",
    "choices.*.stop_reason",
    "outputs.*.stop_reason",
    "results.*.completionReason",
];

/// Tells what a whole answer says besides its text.
pub(super) fn tell_body(members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
    if let Some(id) = members.text("id").filter(|id| !id.is_empty()) {
        emit(Signal::UpstreamId(&id));
    }
    let json = |path| members.each(path).last().and_then(|json| std::str::from_utf8(json).ok());
    if let Some(usage) = json("usage") {
        tell_any_usage(usage, emit);
    }
    let number = |path| members.get::<Number>(path).unwrap_or_default();
    let results = members.each("results.*.tokenCount");
    let results =
        results.filter_map(|json| serde_json::from_slice::<Number>(json).ok()?.0).reduce(u64::saturating_add);
    let output = number("generation_token_count").0.or(results);
    let usage = Usage {
        input: number("inputTextTokenCount").or(number("prompt_token_count")),
        output: output.or_else(|| generates_nothing(members).then_some(0)),
        ..Usage::default()
    };
    if usage != Usage::default() {
        emit(Signal::Usage(usage));
    }
    for path in REASONS {
        for (choice, reason) in (0..).zip(members.each(path)) {
            if let Some(reason) =
                serde_json::from_slice(reason).ok().filter(|reason: &&str| !reason.is_empty())
            {
                emit(Signal::Finish { choice, reason: finish_reason(reason) });
            }
        }
    }
    if members.text("type").as_deref() == Some("error") && !members.has("error") {
        emit(Signal::Failed("error"));
    }
}

/// Whether a whole answer is one of embeddings, Titan's or Cohere's, or of a rerank: it has no output to count.
fn generates_nothing(members: &Members) -> bool {
    // Of one that was cut off, what generates may be what is missing.
    let is_of_titan = members.is_complete()
        && members.has("inputTextTokenCount")
        && members.measure("results.*.outputText").bytes == 0
        && members.each("results.*.tokenCount").next().is_none();
    let is_of_cohere = members.text("response_type").is_some_and(|kind| kind.starts_with("embeddings"));
    is_of_titan || is_of_cohere || members.has("results.*.relevance_score")
}

/// A model's own report of tokens.
fn tell_any_usage(json: &str, emit: &mut dyn FnMut(Signal<'_>)) {
    if json.contains("\"prompt_tokens\"") {
        openai::tell_usage(Some(json), None, emit);
    } else if json.contains("\"input_tokens\"") {
        anthropic_messages::tell_usage(json, true, emit);
    } else {
        tell_usage(json, emit);
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Chunk<'a> {
    #[serde(borrow)]
    bytes: Word<'a>,
}

const ORDINARY: usize = 2048; // a token event of any family has some hundred bytes

/// Tells what a piece of a stream says.
pub(super) fn tell_chunk(data: &str, emit: &mut dyn FnMut(Signal<'_>)) {
    let chunk: Chunk<'_> = serde_json::from_str(data).unwrap_or_default();
    let Some(text) = chunk.bytes.as_str() else { return emit(Signal::Undecodable) };
    let (mut ordinary, mut long) = ([0; ORDINARY], Vec::new());
    let out = if text.len() <= ORDINARY {
        ordinary.as_mut_slice()
    } else {
        long.resize(text.len(), 0);
        long.as_mut_slice()
    };
    match base64::decode(text, out).and_then(|bytes| std::str::from_utf8(bytes).ok()) {
        Some(json) => tell_payload(json, emit),
        None => emit(Signal::Undecodable),
    }
}

fn tell_payload(json: &str, emit: &mut dyn FnMut(Signal<'_>)) {
    // What serves is what was asked for: prices know Bedrock's name of it, and not the family's own.
    let emit = &mut |signal: Signal<'_>| {
        if !matches!(signal, Signal::Model(_)) {
            emit(signal);
        }
    };
    let event = Event { name: None, data: json.as_bytes() };
    if json.starts_with("{\"type\":\"") && !json.contains(METRICS) {
        return AnthropicMessages.event(&event, emit); // nearly all of Claude's
    }
    match serde_json::from_str::<Payload<'_>>(json) {
        Ok(payload) => payload.tell(&event, emit),
        Err(_) => emit(Signal::Undecodable),
    }
}

const METRICS: &str = "amazon-bedrock-invocationMetrics";

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Payload<'a> {
    #[serde(rename = "amazon-bedrock-invocationMetrics")]
    metrics: Option<Metrics>,
    /// Claude's.
    #[serde(borrow, rename = "type")]
    kind: Word<'a>,
    /// Nova's: converse's events, each in a member of its name.
    #[serde(borrow)]
    content_block_start: Option<&'a RawValue>,
    #[serde(borrow)]
    content_block_delta: Option<&'a RawValue>,
    #[serde(borrow)]
    message_stop: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    /// OpenAI's.
    #[serde(borrow)]
    choices: Few<Choice<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    /// Llama's.
    #[serde(borrow)]
    generation: Option<&'a RawValue>,
    #[serde(rename = "prompt_token_count")]
    prompt_token_count: Number,
    #[serde(rename = "generation_token_count")]
    generation_token_count: Number,
    #[serde(borrow, rename = "stop_reason")]
    stop_reason: Word<'a>,
    /// Titan's.
    #[serde(borrow)]
    output_text: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_reason: Word<'a>,
    /// Mistral's texts.
    #[serde(borrow)]
    outputs: Few<Choice<'a>>,
    /// Cohere's, and Claude's before messages.
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    completion: Option<&'a RawValue>,
    #[serde(borrow, rename = "finish_reason")]
    finish_reason: Word<'a>,
}

/// A choice as OpenAI's format does not have it; one with a `delta` is [`OpenaiChat`]'s.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Word<'a>,
    #[serde(borrow)]
    finish_reason: Word<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Few<Call<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Call<'a> {
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Metrics {
    input_token_count: Number,
    cache_read_input_token_count: Number,
    cache_write_input_token_count: Number,
    output_token_count: Number,
}

impl Payload<'_> {
    fn tell(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        if self.kind.as_str().is_some() {
            AnthropicMessages.event(event, emit);
        }
        for (name, json) in [
            ("contentBlockStart", self.content_block_start),
            ("contentBlockDelta", self.content_block_delta),
            ("messageStop", self.message_stop),
            ("metadata", self.metadata),
        ] {
            if let Some(json) = json {
                converse(name, json.get(), emit);
            }
        }
        if self.choices.iter().any(|choice| choice.delta.is_some()) {
            OpenaiChat.event(event, emit);
        } else if let Some(usage) = self.usage.filter(|_| self.kind.as_str().is_none()) {
            tell_any_usage(usage.get(), emit);
        }
        for text in [self.generation, self.output_text, self.text, self.completion] {
            tell(text, DeltaKind::Content, emit);
        }
        let odd = self.choices.iter().filter(|choice| choice.delta.is_none());
        odd.chain(self.outputs.iter()).for_each(|choice| choice.tell(emit));
        let own = Usage {
            input: self.prompt_token_count.0,
            output: self.generation_token_count.0,
            ..Usage::default()
        };
        if own != Usage::default() {
            emit(Signal::Usage(own));
        }
        for reason in [&self.stop_reason, &self.completion_reason, &self.finish_reason] {
            tell_finish(reason, emit);
        }
        if let Some(metrics) = &self.metrics {
            if self.usage.is_none() {
                emit(Signal::Usage(metrics.usage()));
            }
            emit(Signal::Done);
        }
    }
}

impl Choice<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        tell(self.text, DeltaKind::Content, emit);
        if let Some(message) = &self.message {
            tell(message.content, DeltaKind::Content, emit);
            for call in message.tool_calls.iter() {
                tell(call.function.name, DeltaKind::ToolCall, emit);
                tell(call.function.arguments, DeltaKind::ToolCall, emit);
            }
        }
        tell_finish(&self.stop_reason, emit);
        tell_finish(&self.finish_reason, emit);
    }
}

fn tell_finish(word: &Word<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
    if let Some(reason) = word.as_str() {
        emit(Signal::Finish { choice: 0, reason: finish_reason(reason) });
    }
}

impl Metrics {
    /// Cached input is counted apart, where it is counted.
    fn usage(&self) -> Usage {
        let (read, write) = (self.cache_read_input_token_count.0, self.cache_write_input_token_count.0);
        let apart = read.or(write).is_some();
        Usage {
            input: self.input_token_count.0.filter(|_| !apart),
            input_uncached: self.input_token_count.0.filter(|_| apart),
            cache_read: read,
            cache_write: write,
            output: self.output_token_count.0,
            ..Usage::default()
        }
    }
}
