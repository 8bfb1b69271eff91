//! Cohere's chat: `POST …/v2/chat`.
//!
//! Format: <https://docs.cohere.com/v2/docs/streaming> and the types of Cohere's own client. What is billed is the
//! count: `tokens` beside it has also what Cohere puts around a prompt and asks nothing for.

use std::sync::LazyLock;

use super::lenient::{Fragment, Number, Word, member};
use super::{
    DeltaKind, Description, Dialect, Framing, OwnError, RequestFacts, Signal, Tells, openai, tell_text,
};
use crate::exchange::{DialectId, FinishReason, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> =
    LazyLock::new(|| Wanted::new(&["model", "stream", "max_tokens"], &["messages", "documents", "tools"]));
/// Where the generated text of a whole answer is: citations beside it repeat what it says, and pages of documents.
const TEXTS: &[&str] = &["message.content", "message.tool_plan", "message.tool_calls"];
static BODY: LazyLock<Wanted> =
    LazyLock::new(|| Wanted::new(&["id", "finish_reason", "usage", "error"], TEXTS));

/// The API.
#[derive(Debug)]
pub(super) struct Cohere;

impl Dialect for Cohere {
    fn id(&self) -> DialectId {
        DialectId("cohere")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && path.ends_with("/v2/chat")
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/v2/chat"],
            stream: Some(Framing::Events),
            end: "`message-end`",
            tells: &[
                Tells::Whole,
                Tells::Input,
                Tells::CacheRead,
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
        openai::request(members, 1, text("messages") + text("documents") + members.measure("tools").bytes)
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    /// An error answer is `{"message": "…"}`: a sentence, and no class.
    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        let word = |path| members.text(path).filter(|word| !word.is_empty());
        if let Some(id) = word("id") {
            emit(Signal::UpstreamId(&id));
        }
        if let Some(usage) = members.last("usage") {
            tell_usage(usage, emit);
        }
        tell_text(members, TEXTS, emit);
        if let Some(reason) = word("finish_reason") {
            tell_finish(&reason, emit);
        }
        if let Some(error) = members.last("error") {
            emit(Signal::Failed(&openai::error_class(error)));
        }
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

    fn error_body(&self, error: &OwnError<'_>) -> String {
        let OwnError { message, request_id, .. } = *error;
        serde_json::json!({"id": request_id, "message": message}).to_string()
    }
}

#[derive(Default)]
struct Envelope<'a> {
    kind: Word<'a>,
    id: Word<'a>,
    delta: Option<Delta<'a>>,
    error: Option<&'a str>,
    /// Of an error in place of a stream.
    message: Option<&'a str>,
}

object!(Envelope<'a> { kind = "type", id, delta, error, message });

#[derive(Default)]
struct Delta<'a> {
    message: Option<Message<'a>>,
    finish_reason: Word<'a>,
    usage: Option<&'a str>,
    error: Word<'a>,
}

object!(Delta<'a> { message, finish_reason, usage, error });

#[derive(Default)]
struct Message<'a> {
    content: Option<&'a str>,
    tool_plan: Option<&'a str>,
    tool_calls: Option<&'a str>,
}

object!(Message<'a> { content, tool_plan, tool_calls });

/// Of content, and of a call of a tool.
#[derive(Default)]
struct Piece<'a> {
    text: Option<&'a str>,
    thinking: Option<&'a str>,
    function: Option<Function<'a>>,
}

object!(Piece<'a> { text, thinking, function });

#[derive(Default)]
struct Function<'a> {
    name: Option<&'a str>,
    arguments: Option<&'a str>,
}

object!(Function<'a> { name, arguments });

impl Envelope<'_> {
    fn tell(&self, name: Option<&str>, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(error) = self.error {
            return emit(Signal::Failed(&openai::error_class(error)));
        }
        let kind = self.kind.as_str().or(name);
        match kind {
            Some("message-start") => {
                if let Some(id) = self.id.as_str() {
                    emit(Signal::UpstreamId(id));
                }
            }
            Some(
                "content-start" | "content-delta" | "tool-plan-delta" | "tool-call-start" | "tool-call-delta",
            ) => {
                if let Some(message) = self.delta.as_ref().and_then(|delta| delta.message.as_ref()) {
                    message.tell(emit);
                }
            }
            Some("message-end") => {
                let nothing = Delta::default();
                let delta = self.delta.as_ref().unwrap_or(&nothing);
                if let Some(usage) = delta.usage {
                    tell_usage(usage, emit);
                }
                if let Some(reason) = delta.finish_reason.as_str() {
                    tell_finish(reason, emit);
                }
                if delta.error.as_str().is_some() {
                    emit(Signal::Failed("error")); // what it says is a sentence
                }
                emit(Signal::Done);
            }
            Some("error") => emit(Signal::Failed("error")),
            None if self.message.is_some() => emit(Signal::Failed("error")),
            _ => {}
        }
    }
}

impl Message<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        tell(self.tool_plan, DeltaKind::Reasoning, emit);
        for piece in [self.content, self.tool_calls] {
            let piece = member::<Piece<'_>>(piece);
            tell(piece.thinking, DeltaKind::Reasoning, emit);
            tell(piece.text, DeltaKind::Content, emit);
            let function = piece.function.unwrap_or_default();
            tell(function.name, DeltaKind::ToolCall, emit);
            tell(function.arguments, DeltaKind::ToolCall, emit);
        }
    }
}

fn tell(json: Option<&str>, kind: DeltaKind, emit: &mut dyn FnMut(Signal<'_>)) {
    if let Some(text) = json.and_then(Fragment::of) {
        emit(Signal::Delta { choice: 0, text, tokens: None, kind });
    }
}

#[derive(Default)]
struct UsageBody {
    billed_units: Option<Counts>,
    tokens: Option<Counts>,
    cached_tokens: Number,
}

object!(UsageBody { billed_units, tokens, cached_tokens });

#[derive(Default)]
struct Counts {
    input_tokens: Number,
    output_tokens: Number,
}

object!(Counts { input_tokens, output_tokens });

fn tell_usage(json: &str, emit: &mut dyn FnMut(Signal<'_>)) {
    let Some(body) = json::read::<UsageBody>(json) else { return };
    let (billed, tokens) = (body.billed_units.unwrap_or_default(), body.tokens.unwrap_or_default());
    let input = billed.input_tokens.or(tokens.input_tokens);
    let usage = Usage {
        input,
        // It may count what stands around the prompt, too, and is a part of the input all the same.
        cache_read: body.cached_tokens.0.map(|cached| input.map_or(cached, |input| cached.min(input))),
        output: billed.output_tokens.or(tokens.output_tokens),
        ..Usage::default()
    };
    if !usage.is_empty() {
        emit(Signal::Usage(usage));
    }
}

fn tell_finish(word: &str, emit: &mut dyn FnMut(Signal<'_>)) {
    emit(Signal::Finish { choice: 0, reason: finish_reason(word) });
    // An answer that ended so has failed, whatever its status.
    match word {
        "ERROR" => emit(Signal::Failed("error")),
        "TIMEOUT" => emit(Signal::Failed("timeout")),
        _ => {}
    }
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "COMPLETE" | "STOP_SEQUENCE" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        "TOOL_CALL" => FinishReason::ToolCalls,
        "ERROR_TOXIC" => FinishReason::ContentFilter,
        "ERROR" | "TIMEOUT" => FinishReason::Error,
        _ => FinishReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_have_coheres_shape() {
        let error = OwnError { status: 429, message: "no \"room\"", request_id: "r-1" };
        let body: serde_json::Value = serde_json::from_str(&Cohere.error_body(&error)).unwrap();
        assert_eq!(body, serde_json::json!({"id": "r-1", "message": "no \"room\""}));
    }
}
