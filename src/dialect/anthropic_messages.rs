//! Anthropic messages: `POST …/v1/messages`, also as vLLM, llama.cpp, SGLang and LiteLLM speak it.
//!
//! Format: <https://docs.anthropic.com/en/api/messages-streaming> and what real servers were seen to send.
//! `[DONE]`, which some servers add, is no mark here: it comes after broken answers too.

use std::sync::LazyLock;

use super::lenient::{Fragment, Number, Word, member};
use super::{
    DeltaKind, Description, Dialect, Framing, OwnError, RequestFacts, Signal, Tells, openai, tell_text,
};
use crate::exchange::{DialectId, FinishReason, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> =
    LazyLock::new(|| Wanted::new(&["model", "stream", "max_tokens"], &["messages", "system", "tools"]));
const TEXTS: &[&str] = &["content"];
static BODY: LazyLock<Wanted> =
    LazyLock::new(|| Wanted::new(&["model", "id", "type", "stop_reason", "usage", "error"], TEXTS));

/// The API.
#[derive(Debug)]
pub(super) struct AnthropicMessages;

impl Dialect for AnthropicMessages {
    fn id(&self) -> DialectId {
        DialectId("anthropic_messages")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && path.ends_with("/v1/messages")
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/v1/messages"],
            stream: Some(Framing::Events),
            end: "`message_stop`",
            tells: &[
                Tells::Whole,
                Tells::Input,
                Tells::CacheRead,
                Tells::CacheWrite,
                Tells::Output,
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
        openai::request(members, 1, text("messages") + text("system") + members.measure("tools").bytes)
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        let word = |path| members.text(path).filter(|word| !word.is_empty());
        if let Some(model) = word("model") {
            emit(Signal::Model(&model));
        }
        if let Some(id) = word("id") {
            emit(Signal::UpstreamId(&id));
        }
        if let Some(usage) = members.last("usage") {
            tell_usage(usage, true, emit);
        }
        tell_text(members, TEXTS, emit);
        if let Some(reason) = word("stop_reason") {
            emit(Signal::Finish { choice: 0, reason: finish_reason(&reason) });
        }
        if let Some(error) = members.last("error") {
            emit(Signal::Failed(&openai::error_class(error)));
        } else if word("type").as_deref() == Some("error") {
            emit(Signal::Failed("error"));
        }
        if members.is_complete() {
            emit(Signal::Done);
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        if event.data == b"[DONE]" {
            return;
        }
        let is_error = event.name == Some("error");
        let Some(envelope) = json::read_bytes::<Envelope<'_>>(event.data) else {
            return emit(if is_error { Signal::Failed("error") } else { Signal::Undecodable });
        };
        envelope.tell(event.name, emit);
    }

    fn error_body(&self, error: &OwnError<'_>) -> String {
        let OwnError { status, message, request_id } = *error;
        let kind = error_type(status);
        serde_json::json!({
            "type": "error",
            "error": {"type": kind, "message": message},
            "request_id": request_id,
        })
        .to_string()
    }
}

#[derive(Default)]
struct Envelope<'a> {
    kind: Word<'a>,
    message: Option<&'a str>,
    content_block: Option<&'a str>,
    delta: Option<&'a str>,
    usage: Option<&'a str>,
    error: Option<&'a str>,
}

object!(Envelope<'a> { kind = "type", message, content_block, delta, usage, error });

impl Envelope<'_> {
    fn tell(&self, name: Option<&str>, emit: &mut dyn FnMut(Signal<'_>)) {
        let kind = self.kind.as_str().or(name).unwrap_or_default();
        if let Some(error) = self.error {
            return emit(Signal::Failed(&openai::error_class(error)));
        }
        match kind {
            "message_start" => member::<Message<'_>>(self.message).tell(emit),
            "content_block_start" => member::<Block<'_>>(self.content_block).tell(emit),
            "content_block_delta" => member::<Delta<'_>>(self.delta).tell(emit),
            "message_delta" => {
                if let Some(usage) = self.usage {
                    tell_usage(usage, true, emit);
                }
                if let Some(word) = member::<MessageDelta<'_>>(self.delta).stop_reason.as_str() {
                    emit(Signal::Finish { choice: 0, reason: finish_reason(word) });
                }
            }
            "message_stop" => emit(Signal::Done),
            "error" => emit(Signal::Failed("error")),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Message<'a> {
    id: Word<'a>,
    model: Word<'a>,
    usage: Option<&'a str>,
}

object!(Message<'a> { id, model, usage });

impl Message<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(model) = self.model.as_str() {
            emit(Signal::Model(model));
        }
        if let Some(id) = self.id.as_str() {
            emit(Signal::UpstreamId(id));
        }
        if let Some(usage) = self.usage {
            // What it says of output stands there before there is any: no report.
            tell_usage(usage, false, emit);
        }
    }
}

/// A content block as it begins: mostly empty, but the name of a tool is there and nowhere else.
#[derive(Default)]
struct Block<'a> {
    kind: Word<'a>,
    text: Option<&'a str>,
    thinking: Option<&'a str>,
    /// Thoughts that are not shown come in one piece.
    data: Option<&'a str>,
    name: Option<&'a str>,
}

object!(Block<'a> { kind = "type", text, thinking, data, name });

impl Block<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        // Results of tools that the server runs itself are blocks too, and none of the model's tokens.
        match self.kind.as_str() {
            Some("text") => tell(self.text, DeltaKind::Content, emit),
            Some("thinking") => tell(self.thinking, DeltaKind::Reasoning, emit),
            Some("redacted_thinking") => tell(self.data, DeltaKind::Reasoning, emit),
            Some("tool_use" | "server_tool_use" | "mcp_tool_use") => {
                tell(self.name, DeltaKind::ToolCall, emit);
            }
            _ => {}
        }
    }
}

#[derive(Default)]
struct Delta<'a> {
    text: Option<&'a str>,
    thinking: Option<&'a str>,
    signature: Option<&'a str>,
    partial_json: Option<&'a str>,
}

object!(Delta<'a> { text, thinking, signature, partial_json });

impl Delta<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        tell(self.thinking, DeltaKind::Reasoning, emit);
        tell(self.signature, DeltaKind::Reasoning, emit);
        tell(self.text, DeltaKind::Content, emit);
        tell(self.partial_json, DeltaKind::ToolCall, emit);
    }
}

#[derive(Default)]
struct MessageDelta<'a> {
    stop_reason: Word<'a>,
}

object!(MessageDelta<'a> { stop_reason });

fn tell(json: Option<&str>, kind: DeltaKind, emit: &mut dyn FnMut(Signal<'_>)) {
    if let Some(text) = json.and_then(Fragment::of) {
        emit(Signal::Delta { choice: 0, text, tokens: None, kind });
    }
}

/// Cached input is reported apart from the rest.
#[derive(Default)]
struct UsageBody<'a> {
    input_tokens: Number,
    cache_read_input_tokens: Number,
    cache_creation_input_tokens: Number,
    cache_creation: Option<CacheCreation>,
    output_tokens: Number,
    service_tier: Word<'a>,
}

object!(UsageBody<'a> {
    input_tokens, cache_read_input_tokens, cache_creation_input_tokens, cache_creation, output_tokens,
    service_tier
});

/// What was written to the cache, by how long it stays.
#[derive(Default)]
struct CacheCreation {
    ephemeral_1h_input_tokens: Number,
}

object!(CacheCreation { ephemeral_1h_input_tokens });

pub(super) fn tell_usage(json: &str, has_output: bool, emit: &mut dyn FnMut(Signal<'_>)) {
    let Some(body) = json::read::<UsageBody<'_>>(json) else { return };
    if let Some(tier) = body.service_tier.as_str() {
        emit(Signal::Tier(tier));
    }
    let usage = read_usage(&body);
    emit(Signal::Usage(if has_output { usage } else { Usage { output: None, ..usage } }));
}

fn read_usage(body: &UsageBody<'_>) -> Usage {
    Usage {
        input_uncached: body.input_tokens.0,
        cache_read: body.cache_read_input_tokens.0,
        cache_write: body.cache_creation_input_tokens.0,
        cache_write_1h: body.cache_creation.as_ref().and_then(|written| written.ephemeral_1h_input_tokens.0),
        output: body.output_tokens.0,
        ..Usage::default()
    }
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

/// Anthropic's word for the kind of error that a status is.
fn error_type(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        504 => "timeout_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_have_anthropics_shape() {
        let error = OwnError { status: 504, message: "too \"late\"", request_id: "r-1" };
        let body: serde_json::Value = serde_json::from_str(&AnthropicMessages.error_body(&error)).unwrap();
        let want = serde_json::json!({
            "type": "error",
            "error": {"type": "timeout_error", "message": "too \"late\""},
            "request_id": "r-1",
        });
        assert_eq!(body, want);
    }
}
