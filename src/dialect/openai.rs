//! What the OpenAI-style APIs have in common: usage, errors, finish reasons, model names. Servers differ in
//! the details and every one is met here: vLLM, SGLang, llama.cpp, TGI, LiteLLM, OpenRouter, Azure.
//!
//! Format: <https://platform.openai.com/docs/api-reference/chat> and what real servers were seen to send.

use std::sync::LazyLock;

use super::lenient::{COUNT_LIMIT, Few, Number, Word, number};
use super::{OwnError, RequestFacts, Signal, tell_text};
use crate::exchange::{FinishReason, Name, Usage};
use crate::wire::json::{self, Object, members, object};
use crate::wire::{Event, Members, Wanted};

/// Reads one event of a stream; `tell` says what one of its choices holds.
pub(super) fn event<'a, C: Object<'a> + Default>(
    event: &Event<'a>,
    emit: &mut dyn FnMut(Signal<'_>),
    tell: impl Fn(&C, &mut dyn FnMut(Signal<'_>)),
) {
    if event.data == b"[DONE]" {
        return emit(Signal::Done);
    }
    let is_error = event.name == Some("error");
    let Some(envelope) = json::read_bytes::<Envelope<'a, C>>(event.data) else {
        return emit(if is_error { Signal::Failed("error") } else { Signal::Undecodable });
    };
    envelope.tell(is_error, emit);
    envelope.choices.iter().for_each(|choice| tell(choice, emit));
}

/// The members of an event that are the same in every API of this style.
#[derive(Debug, Default)]
struct Envelope<'a, C> {
    id: Word<'a>,
    model: Word<'a>,
    choices: Few<C>,
    usage: Option<&'a str>,
    timings: Option<&'a str>,
    error: Option<&'a str>,
    object: Word<'a>,
    service_tier: Word<'a>,
    /// Of an error that has no envelope.
    kind: Word<'a>,
    code: Word<'a>,
}

impl<'a, C: Object<'a> + Default> Object<'a> for Envelope<'a, C> {
    members!('a { id, model, choices, usage, timings, error, object, service_tier, kind = "type", code });
}

impl<C> Envelope<'_, C> {
    /// Says what does not depend on the choices: model, id, usage, error. `is_error`: the event's name says so.
    fn tell(&self, is_error: bool, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(model) = self.model.as_str() {
            emit(Signal::Model(model));
        }
        if let Some(id) = self.id.as_str() {
            emit(Signal::UpstreamId(id));
        }
        if let Some(tier) = self.service_tier.as_str() {
            emit(Signal::Tier(tier));
        }
        tell_usage(self.usage, self.timings, emit);
        if let Some(error) = self.error {
            emit(Signal::Failed(&error_class(error)));
        } else if is_error || self.object.as_str() == Some("error") {
            // vLLM before 0.9 sent errors without an envelope.
            emit(Signal::Failed(self.kind.as_str().or(self.code.as_str()).unwrap_or("error")));
        }
    }
}

/// Says what usage an answer reports: in `usage`, else in llama.cpp's `timings`.
pub(super) fn tell_usage(usage: Option<&str>, timings: Option<&str>, emit: &mut dyn FnMut(Signal<'_>)) {
    let (usage, timings) = (usage.and_then(read_usage), timings.and_then(read_timings));
    let cached = timings.and_then(|timings| timings.cache_read);
    let usage = usage.map(|usage| Usage { cache_read: usage.cache_read.or(cached), ..usage });
    if let Some(usage) = usage.or(timings) {
        emit(Signal::Usage(usage));
    }
}

#[derive(Default)]
struct UsageBody {
    prompt_tokens: Number,
    completion_tokens: Number,
    total_tokens: Number,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's own name for cached input.
    prompt_cache_hit_tokens: Number,
    /// Moonshot's.
    cached_tokens: Number,
    /// LiteLLM's for what Anthropic's API calls so.
    cache_creation_input_tokens: Number,
}

object!(UsageBody {
    prompt_tokens,
    completion_tokens,
    total_tokens,
    prompt_tokens_details,
    completion_tokens_details,
    prompt_cache_hit_tokens,
    cached_tokens,
    cache_creation_input_tokens
});

#[derive(Clone, Default)]
struct PromptDetails {
    cached_tokens: Number,
    /// OpenRouter's name.
    cache_write_tokens: Number,
    /// vLLM's name.
    created_cache_tokens: Number,
    /// LiteLLM's.
    cache_creation_tokens: Number,
    audio_tokens: Number,
}

object!(PromptDetails {
    cached_tokens,
    cache_write_tokens,
    created_cache_tokens,
    cache_creation_tokens,
    audio_tokens
});

#[derive(Clone, Default)]
struct CompletionDetails {
    reasoning_tokens: Number,
    audio_tokens: Number,
}

object!(CompletionDetails { reasoning_tokens, audio_tokens });

fn read_usage(json: &str) -> Option<Usage> {
    let body: UsageBody = json::read::<UsageBody>(json)?;
    let prompt = body.prompt_tokens_details.clone().unwrap_or_default();
    let completion = body.completion_tokens_details.clone().unwrap_or_default();
    let usage = Usage {
        input: body.prompt_tokens.0,
        cache_read: first([prompt.cached_tokens, body.prompt_cache_hit_tokens, body.cached_tokens]),
        cache_write: first([
            prompt.cache_write_tokens,
            prompt.created_cache_tokens,
            prompt.cache_creation_tokens,
            body.cache_creation_input_tokens,
        ]),
        audio_input: prompt.audio_tokens.0,
        output: output(&body, completion.reasoning_tokens),
        reasoning: completion.reasoning_tokens.0,
        audio_output: completion.audio_tokens.0,
        ..Usage::default()
    };
    (!usage.is_empty()).then_some(usage)
}

fn first<const N: usize>(numbers: [Number; N]) -> Option<u64> {
    numbers.into_iter().find_map(|number| number.0)
}

/// Output with its thoughts. xAI reports thoughts beside it: there only the total has both.
fn output(body: &UsageBody, reasoning: Number) -> Option<u64> {
    let (output, input) = (body.completion_tokens.0?, body.prompt_tokens.0.unwrap_or(0));
    let with_thoughts = output.saturating_add(reasoning.0.unwrap_or(0));
    let is_beside = body.total_tokens.0 == Some(input.saturating_add(with_thoughts));
    Some(if is_beside { with_thoughts } else { output })
}

/// llama.cpp's `timings`: `prompt_n` tokens were read, `cache_n` came from the cache.
#[derive(Default)]
struct Timings {
    cache_n: Number,
    prompt_n: Number,
    predicted_n: Number,
}

object!(Timings { cache_n, prompt_n, predicted_n });

pub(super) fn read_timings(json: &str) -> Option<Usage> {
    let timings: Timings = json::read::<Timings>(json)?;
    Some(Usage {
        input: timings.prompt_n.0.map(|read| read.saturating_add(timings.cache_n.0.unwrap_or(0))),
        cache_read: timings.cache_n.0,
        output: timings.predicted_n.0,
        ..Usage::default()
    })
}

/// The class of an error: the API's own word for it.
pub(super) fn error_class(json: &str) -> String {
    #[derive(Default)]
    struct ErrorBody<'a> {
        kind: Word<'a>,
        code: Word<'a>,
    }

    object!(ErrorBody<'a> { kind = "type", code });
    let body: ErrorBody<'_> = json::read(json).unwrap_or_default();
    body.kind.as_str().or(body.code.as_str()).unwrap_or("error").to_owned()
}

/// Says what a body that is no stream has besides its choices' text.
pub(super) fn tell_body(members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
    let word = |path| members.text(path).filter(|word| !word.is_empty());
    if let Some(model) = word("model") {
        emit(Signal::Model(&model));
    }
    if let Some(id) = word("id") {
        emit(Signal::UpstreamId(&id));
    }
    if let Some(tier) = word("service_tier") {
        emit(Signal::Tier(&tier));
    }
    tell_usage(members.last("usage"), members.last("timings"), emit);
    tell_text(members, BODY_TEXTS, emit);
    let reasons = members.each("choices.*.finish_reason");
    for (choice, reason) in (0..).zip(reasons) {
        if let Some(reason) = Word::of(reason).as_str() {
            emit(Signal::Finish { choice, reason: finish_reason(reason) });
        }
    }
    if let Some(error) = members.last("error") {
        emit(Signal::Failed(&error_class(error)));
    } else if members.text("object").as_deref() == Some("error") {
        // vLLM before 0.9 answered errors without an envelope.
        emit(Signal::Failed(word("type").as_deref().unwrap_or("error")));
    }
    if members.is_complete() {
        emit(Signal::Done);
    }
}

/// The members that [`tell_body`] reads.
pub(super) const BODY_MEMBERS: &[&str] = &[
    "model",
    "id",
    "object",
    "type",
    "service_tier",
    "usage",
    "timings",
    "error",
    "choices.*.finish_reason",
];

/// Where the generated text of a body is.
const BODY_TEXTS: &[&str] = &["choices.*.message", "choices.*.text"];

pub(super) static BODY: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(BODY_MEMBERS, BODY_TEXTS));

/// The word for why a choice ended, as the servers of this style write it.
pub(super) fn finish_reason(word: &str) -> FinishReason {
    match word {
        "stop" | "eos" | "eos_token" | "stop_sequence" | "end_turn" => FinishReason::Stop,
        "length" | "max_tokens" | "model_length" => FinishReason::Length,
        "tool_calls" | "function_call" | "tool_use" => FinishReason::ToolCalls,
        "content_filter" | "safety" => FinishReason::ContentFilter,
        "error" | "abort" => FinishReason::Error,
        _ => FinishReason::Other,
    }
}

/// What a request of this style tells; `prompts` is how many prompts it holds.
pub(super) fn request(members: &Members, prompts: u32, prompt_text_bytes: u64) -> RequestFacts {
    let n = members.get::<u32>("n").filter(|n| *n > 0).unwrap_or(1);
    let choices = n.saturating_mul(prompts);
    // The newer name counts where both are given.
    let max_tokens = ["max_completion_tokens", "max_tokens"].iter().find_map(|name| most(members, name));
    RequestFacts {
        dialect: None,
        model: members.text("model").filter(|model| !model.is_empty()).map(|model| Name::from(&*model)),
        stream: members.get::<bool>("stream").unwrap_or(false),
        choices,
        choices_a_prompt: n,
        max_output: max_tokens.and_then(|most| of_all(most, choices)),
        prompt_text_bytes: Some(prompt_text_bytes),
    }
}

/// The most tokens that may be generated, as a member says.
pub(super) fn most(members: &Members, name: &'static str) -> Option<u64> {
    number(members, name).0
}

/// So many tokens for each of so many choices.
pub(super) fn of_all(tokens: u64, choices: u32) -> Option<u64> {
    tokens.checked_mul(choices.into()).filter(|all| *all <= COUNT_LIMIT)
}

/// The members that [`request`] reads.
pub(super) const REQUEST_MEMBERS: &[&str] = &["model", "stream", "n", "max_tokens", "max_completion_tokens"];

/// The word for the kind of error that a status is.
fn error_type(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        429 => "rate_limit_exceeded",
        504 => "timeout_error",
        _ => "upstream_error",
    }
}

/// An error of our own in this style's shape.
pub(super) fn error_body(error: &OwnError<'_>) -> String {
    let OwnError { status, message, request_id } = *error;
    serde_json::json!({
        "error": {
            "message": message,
            "type": error_type(status),
            "param": null,
            "code": status,
            "request_id": request_id,
        }
    })
    .to_string()
}
