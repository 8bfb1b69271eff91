//! OpenAI responses: `POST …/responses`, also as vLLM, llama.cpp, Azure and gateways speak it; and the same events in
//! messages over WebSocket, of which [`super::conversation`] says which belong to which response.
//!
//! Format: <https://platform.openai.com/docs/api-reference/responses-streaming> and what real servers were seen to
//! send. The mark is `response.completed` or `response.incomplete`, and why it ended stands in the response itself: vLLM
//! says `completed` of an answer that ran out of tokens. `[DONE]`, which some servers add, is no mark here. Absent:
//! answers that are fetched later (`background`), for each of those requests would tell the same tokens again.

use std::sync::LazyLock;

use super::lenient::{Few, Fragment, Length, Number, Word, member};
use super::{DeltaKind, Description, Dialect, Framing, RequestFacts, Signal, Tells, openai, tell_text};
use crate::exchange::{DialectId, FinishReason, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> = LazyLock::new(|| {
    Wanted::new(&["model", "stream", "max_output_tokens"], &["input", "instructions", "tools"])
});
const TEXTS: &[&str] = &["output.*.content", "output.*.summary", "output.*.arguments", "output.*.input"];
static BODY: LazyLock<Wanted> = LazyLock::new(|| {
    let kept = &[
        "model",
        "id",
        "status",
        "service_tier",
        "incomplete_details.reason",
        "usage",
        "timings",
        "error",
        "output.*.type",
    ];
    Wanted::new(kept, TEXTS)
});

/// The API.
#[derive(Debug)]
pub(super) struct OpenaiResponses;

/// Whether a path is of an answer that was made before: to fetch, cancel or delete it.
pub(super) fn is_of_answer(path: &str) -> bool {
    path.split_once("/responses/").is_some_and(|(_, id)| id.starts_with("resp"))
}

impl Dialect for OpenaiResponses {
    fn id(&self) -> DialectId {
        DialectId("openai_responses")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && path.ends_with("/responses")
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/responses"],
            stream: Some(Framing::Events),
            end: "`response.completed`, `response.incomplete`",
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
        let text = |path| members.measure(path).text_bytes;
        let text = text("input") + text("instructions") + members.measure("tools").bytes;
        let max_output = openai::most(members, "max_output_tokens");
        RequestFacts { max_output, ..openai::request(members, 1, text) }
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        let word = |path| Word(members.text(path).filter(|word| !word.is_empty()));
        let calls = members.each("output.*.type").any(|json| Word::of(json).as_str().is_some_and(is_call));
        tell_text(members, TEXTS, emit);
        let answer = Answer {
            id: word("id"),
            model: word("model"),
            status: word("status"),
            service_tier: word("service_tier"),
            incomplete_details: Some(Incomplete { reason: word("incomplete_details.reason") }),
            usage: members.last("usage"),
            error: members.last("error"),
            output: Few::default(),
        };
        answer.tell(calls, members.last("timings"), emit);
        if members.is_complete() {
            emit(Signal::Done);
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        if event.data == b"[DONE]" {
            return;
        }
        match json::read_bytes::<Envelope<'_>>(event.data) {
            Some(envelope) => envelope.tell(event.name, emit),
            None if event.name == Some("error") => emit(Signal::Failed("error")),
            None => emit(Signal::Undecodable),
        }
    }

    fn knows_prompts(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct Envelope<'a> {
    kind: Word<'a>,
    delta: Option<&'a str>,
    /// One for each token of the delta, where they are asked for; else empty.
    logprobs: Length,
    item: Option<&'a str>,
    response: Option<&'a str>,
    /// llama.cpp's, beside the response.
    timings: Option<&'a str>,
    error: Option<&'a str>,
    /// Of an error that has no envelope.
    code: Word<'a>,
}

object!(Envelope<'a> { kind = "type", delta, logprobs, item, response, timings, error, code });

impl Envelope<'_> {
    fn tell(&self, name: Option<&str>, emit: &mut dyn FnMut(Signal<'_>)) {
        let kind = self.kind.as_str().or(name).unwrap_or_default();
        if let Some(channel) = kind.strip_suffix(".delta").and_then(channel) {
            if let Some(text) = self.delta.and_then(Fragment::of) {
                let tokens = self.logprobs.0.filter(|tokens| *tokens > 0);
                emit(Signal::Delta { choice: 0, text, tokens, kind: channel });
            }
            return;
        }
        if let Some(error) = self.error {
            return emit(Signal::Failed(&openai::error_class(error)));
        }
        match kind {
            "error" => emit(Signal::Failed(self.code.as_str().unwrap_or("error"))),
            "response.output_item.added" => {
                if let Some(name) = member::<Item<'_>>(self.item).name.and_then(Fragment::of) {
                    emit(Signal::Delta { choice: 0, text: name, tokens: None, kind: DeltaKind::ToolCall });
                }
            }
            "response.created" | "response.queued" | "response.in_progress" => {
                member::<Answer<'_>>(self.response).tell_names(emit);
            }
            "response.completed" | "response.incomplete" | "response.failed" => self.tell_end(kind, emit),
            _ => {}
        }
    }

    fn tell_end(&self, kind: &str, emit: &mut dyn FnMut(Signal<'_>)) {
        let mut answer = member::<Answer<'_>>(self.response);
        if answer.status.0.is_none() {
            answer.status = Word(kind.strip_prefix("response.").map(Into::into));
        }
        let calls = answer.output.iter().any(|item| item.kind.as_str().is_some_and(is_call));
        answer.tell(calls, self.timings, emit);
        match kind {
            "response.failed" if answer.error.is_none() => emit(Signal::Failed("error")),
            "response.failed" => {}
            _ => emit(Signal::Done),
        }
    }
}

/// The channel of a delta, by its event's name without its end. A tool's output is none of the model's tokens.
pub(super) fn channel(of: &str) -> Option<DeltaKind> {
    let part = of.strip_prefix("response.")?;
    Some(match part {
        "output_text" => DeltaKind::Content,
        "refusal" => DeltaKind::Refusal,
        "function_call_arguments"
        | "custom_tool_call_input"
        | "mcp_call_arguments"
        | "mcp_call.arguments"
        | "code_interpreter_call_code"
        | "code_interpreter_call.code"
        | "shell_call_command"
        | "apply_patch_call_operation_diff" => DeltaKind::ToolCall,
        _ if part.starts_with("reasoning") => DeltaKind::Reasoning,
        _ if part.starts_with("audio") || part.starts_with("output_audio") => DeltaKind::Audio,
        _ => return None,
    })
}

/// Whether an item of the output is a call that the client is to answer. Of tools that the server runs itself the model
/// has seen the results already.
pub(super) fn is_call(kind: &str) -> bool {
    matches!(
        kind,
        "function_call"
            | "custom_tool_call"
            | "computer_call"
            | "local_shell_call"
            | "shell_call"
            | "apply_patch_call"
            | "mcp_approval_request"
    )
}

/// An item as it begins: the name of a tool is there before its arguments.
#[derive(Default)]
pub(super) struct Item<'a> {
    pub(super) kind: Word<'a>,
    pub(super) name: Option<&'a str>,
}

object!(Item<'a> { kind = "type", name });

/// A response: a whole answer, or what an event says of one.
#[derive(Default)]
struct Answer<'a> {
    id: Word<'a>,
    model: Word<'a>,
    status: Word<'a>,
    service_tier: Word<'a>,
    incomplete_details: Option<Incomplete<'a>>,
    usage: Option<&'a str>,
    error: Option<&'a str>,
    output: Few<Item<'a>>,
}

object!(Answer<'a> { id, model, status, service_tier, incomplete_details, usage, error, output });

#[derive(Default)]
struct Incomplete<'a> {
    reason: Word<'a>,
}

object!(Incomplete<'a> { reason });

impl Answer<'_> {
    fn tell_names(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(model) = self.model.as_str() {
            emit(Signal::Model(model));
        }
        if let Some(id) = self.id.as_str() {
            emit(Signal::UpstreamId(id));
        }
        if let Some(tier) = self.service_tier.as_str() {
            emit(Signal::Tier(tier));
        }
    }

    /// Says what a response tells. `calls`: there is a call among its output that the client is to answer.
    fn tell(&self, calls: bool, timings: Option<&str>, emit: &mut dyn FnMut(Signal<'_>)) {
        self.tell_names(emit);
        tell_usage(self.usage, timings, emit);
        if let Some(error) = self.error {
            return emit(Signal::Failed(&openai::error_class(error)));
        }
        let reason = match self.status.as_str() {
            Some("completed") if calls => FinishReason::ToolCalls,
            Some("completed") => FinishReason::Stop,
            Some("incomplete") => {
                let details = self.incomplete_details.as_ref();
                match details.and_then(|details| details.reason.as_str()) {
                    Some("max_output_tokens" | "max_tokens") => FinishReason::Length,
                    Some("content_filter") => FinishReason::ContentFilter,
                    _ => FinishReason::Other,
                }
            }
            Some("failed") => return emit(Signal::Failed("error")),
            Some("cancelled") => FinishReason::Other,
            // It has not ended: it is being made in the background.
            _ => return,
        };
        emit(Signal::Finish { choice: 0, reason });
    }
}

#[derive(Default)]
struct UsageBody {
    input_tokens: Number,
    output_tokens: Number,
    input_tokens_details: Option<InputDetails>,
    output_tokens_details: Option<OutputDetails>,
}

object!(UsageBody { input_tokens, output_tokens, input_tokens_details, output_tokens_details });

#[derive(Default)]
struct InputDetails {
    cached_tokens: Number,
    cache_write_tokens: Number,
}

object!(InputDetails { cached_tokens, cache_write_tokens });

#[derive(Default)]
struct OutputDetails {
    reasoning_tokens: Number,
}

object!(OutputDetails { reasoning_tokens });

fn tell_usage(usage: Option<&str>, timings: Option<&str>, emit: &mut dyn FnMut(Signal<'_>)) {
    let timings = timings.and_then(openai::read_timings).unwrap_or_default();
    let usage = match usage.and_then(json::read::<UsageBody>) {
        Some(body) => {
            let input = body.input_tokens_details.unwrap_or_default();
            Usage {
                input: body.input_tokens.0,
                cache_read: input.cached_tokens.0.or(timings.cache_read),
                cache_write: input.cache_write_tokens.0,
                output: body.output_tokens.0,
                reasoning: body.output_tokens_details.unwrap_or_default().reasoning_tokens.0,
                ..Usage::default()
            }
        }
        None => timings,
    };
    if !usage.is_empty() {
        emit(Signal::Usage(usage));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_of_a_delta() {
        let channel = |name: &str| channel(name.strip_suffix(".delta").unwrap());
        for (name, want) in [
            ("response.output_text.delta", Some(DeltaKind::Content)),
            ("response.refusal.delta", Some(DeltaKind::Refusal)),
            ("response.reasoning_text.delta", Some(DeltaKind::Reasoning)),
            ("response.reasoning_summary_text.delta", Some(DeltaKind::Reasoning)),
            ("response.function_call_arguments.delta", Some(DeltaKind::ToolCall)),
            ("response.custom_tool_call_input.delta", Some(DeltaKind::ToolCall)),
            ("response.mcp_call_arguments.delta", Some(DeltaKind::ToolCall)),
            ("response.code_interpreter_call_code.delta", Some(DeltaKind::ToolCall)),
            ("response.audio.delta", Some(DeltaKind::Audio)),
            ("response.audio.transcript.delta", Some(DeltaKind::Audio)),
            ("response.shell_call_output_content.delta", None),
            ("response.something_new.delta", None),
        ] {
            assert_eq!(channel(name), want, "{name}");
        }
    }

    #[test]
    fn an_answer_that_was_made_before_is_no_generation() {
        for path in
            ["/v1/responses/resp_1", "/openai/v1/responses/resp_1/cancel", "/v1/responses/resp_1/input_items"]
        {
            assert!(is_of_answer(path), "{path}");
        }
        assert!(!is_of_answer("/v1/responses") && !is_of_answer("/v1/responses/compact"));
    }
}
