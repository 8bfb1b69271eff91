//! What models answer to Bedrock's `invoke`, each family in its own format: Anthropic's messages, Amazon's Nova and
//! Titan, Meta's Llama, Mistral's texts and chats, OpenAI's chats (as DeepSeek, Qwen and AI21 have them, too), Cohere's.
//! In a stream each piece is base64 in JSON, and the last one has Bedrock's own count.

use std::sync::LazyLock;

use super::super::anthropic_messages::{self, AnthropicMessages};
use super::super::lenient::{Few, Number, Word, number};
use super::super::openai_chat::OpenaiChat;
use super::super::{DeltaKind, Dialect, Signal, openai};
use super::{base64, converse, finish_reason, tell, tell_usage};
use crate::exchange::Usage;
use crate::wire::json::{self, object};
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
    if let Some(usage) = members.last("usage") {
        tell_any_usage(usage, emit);
    }
    let results = members.each("results.*.tokenCount");
    let results = results.filter_map(|json| Number::of(json).0).reduce(u64::saturating_add);
    let output = number(members, "generation_token_count").0.or(results);
    let usage = Usage {
        input: number(members, "inputTextTokenCount").or(number(members, "prompt_token_count")),
        output: output.or_else(|| generates_nothing(members).then_some(0)),
        ..Usage::default()
    };
    if !usage.is_empty() {
        emit(Signal::Usage(usage));
    }
    for path in REASONS {
        for (choice, reason) in (0..).zip(members.each(path)) {
            if let Some(reason) = Word::of(reason).as_str() {
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

#[derive(Default)]
struct Chunk<'a> {
    bytes: Word<'a>,
}

object!(Chunk<'a> { bytes });

const ORDINARY: usize = 2048; // a token event of any family has some hundred bytes

/// Tells what a piece of a stream says.
pub(super) fn tell_chunk(data: &str, emit: &mut dyn FnMut(Signal<'_>)) {
    let chunk: Chunk<'_> = json::read(data).unwrap_or_default();
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
    match json::read::<Payload<'_>>(json) {
        Some(payload) => payload.tell(&event, emit),
        None => emit(Signal::Undecodable),
    }
}

const METRICS: &str = "amazon-bedrock-invocationMetrics";

#[derive(Default)]
struct Payload<'a> {
    metrics: Option<Metrics>,
    /// Claude's.
    kind: Word<'a>,
    /// Nova's: converse's events, each in a member of its name.
    content_block_start: Option<&'a str>,
    content_block_delta: Option<&'a str>,
    message_stop: Option<&'a str>,
    metadata: Option<&'a str>,
    /// OpenAI's.
    choices: Few<Choice<'a>>,
    usage: Option<&'a str>,
    /// Llama's.
    generation: Option<&'a str>,
    prompt_token_count: Number,
    generation_token_count: Number,
    stop_reason: Word<'a>,
    /// Titan's.
    output_text: Option<&'a str>,
    completion_reason: Word<'a>,
    /// Mistral's texts.
    outputs: Few<Choice<'a>>,
    /// Cohere's, and Claude's before messages.
    text: Option<&'a str>,
    completion: Option<&'a str>,
    finish_reason: Word<'a>,
}

object!(Payload<'a> {
    metrics = "amazon-bedrock-invocationMetrics", kind = "type", content_block_start = "contentBlockStart",
    content_block_delta = "contentBlockDelta", message_stop = "messageStop", metadata, choices, usage,
    generation, prompt_token_count, generation_token_count, stop_reason, output_text = "outputText",
    completion_reason = "completionReason", outputs, text, completion, finish_reason
});

/// A choice as OpenAI's format does not have it; one with a `delta` is [`OpenaiChat`]'s.
#[derive(Default)]
struct Choice<'a> {
    delta: Option<&'a str>,
    message: Option<Message<'a>>,
    text: Option<&'a str>,
    stop_reason: Word<'a>,
    finish_reason: Word<'a>,
}

object!(Choice<'a> { delta, message, text, stop_reason, finish_reason });

#[derive(Default)]
struct Message<'a> {
    content: Option<&'a str>,
    tool_calls: Few<Call<'a>>,
}

object!(Message<'a> { content, tool_calls });

#[derive(Default)]
struct Call<'a> {
    function: Option<Function<'a>>,
}

object!(Call<'a> { function });

#[derive(Default)]
struct Function<'a> {
    name: Option<&'a str>,
    arguments: Option<&'a str>,
}

object!(Function<'a> { name, arguments });

#[derive(Default)]
struct Metrics {
    input_token_count: Number,
    cache_read_input_token_count: Number,
    cache_write_input_token_count: Number,
    output_token_count: Number,
}

object!(Metrics {
    input_token_count = "inputTokenCount", cache_read_input_token_count = "cacheReadInputTokenCount",
    cache_write_input_token_count = "cacheWriteInputTokenCount", output_token_count = "outputTokenCount"
});

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
                converse(name, json, emit);
            }
        }
        if self.choices.iter().any(|choice| choice.delta.is_some()) {
            OpenaiChat.event(event, emit);
        } else if let Some(usage) = self.usage.filter(|_| self.kind.as_str().is_none()) {
            tell_any_usage(usage, emit);
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
        if !own.is_empty() {
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
            for function in message.tool_calls.iter().filter_map(|call| call.function.as_ref()) {
                tell(function.name, DeltaKind::ToolCall, emit);
                tell(function.arguments, DeltaKind::ToolCall, emit);
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
