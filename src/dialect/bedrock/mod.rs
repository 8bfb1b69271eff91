//! Amazon Bedrock's runtime: `POST …/model/{id}/converse`, `…/converse-stream`, `…/invoke` and
//! `…/invoke-with-response-stream`. Streams are messages of `application/vnd.amazon.eventstream`, the model is in
//! the path. What models answer to an `invoke` in formats of their own is [`payload`]'s.
//!
//! Format: <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_Operations_Amazon_Bedrock_Runtime.html> and
//! the service's model in AWS's own SDK.

mod base64;
mod payload;

use std::sync::LazyLock;

use super::lenient::{Fragment, Number, Word, for_each};
use super::{
    DeltaKind, Description, Dialect, Framing, OwnError, PathFacts, RequestFacts, Signal, Tells, openai,
    tell_text, unescaped,
};
use crate::exchange::{DialectId, FinishReason, Name, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted, event_stream};

/// Where converse, and then the models that `invoke` runs, have the most tokens that may be generated.
const MOST: &[&str] = &[
    "inferenceConfig.maxTokens",
    "inferenceConfig.max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
    "max_gen_len",
    "max_tokens_to_sample",
    "textGenerationConfig.maxTokenCount",
];
const PROMPTS: &[&str] = &["messages", "system", "prompt", "inputText", "toolConfig", "tools"];
static REQUEST: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(MOST, PROMPTS));

/// The API.
#[derive(Debug)]
pub(super) struct Bedrock;

impl Dialect for Bedrock {
    fn id(&self) -> DialectId {
        DialectId("bedrock")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && asked(path).is_some()
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/model/MODEL/converse", "/converse-stream", "/invoke", "/invoke-with-response-stream"],
            stream: Some(Framing::Messages),
            end: "`metadata`; of an invoke its last piece",
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

    fn path_facts(&self, path: &str) -> PathFacts {
        let path = unescaped(path);
        let Some((model, stream)) = asked(path.trim_end_matches('/')) else { return PathFacts::default() };
        PathFacts { model: Some(Name::from(model_of(model))), stream: Some(stream) }
    }

    fn request_members(&self) -> &'static Wanted {
        &REQUEST
    }

    fn request(&self, members: &Members) -> RequestFacts {
        let texts =
            ["messages", "system", "prompt", "inputText"].map(|path| members.measure(path).text_bytes);
        let tools = ["toolConfig", "tools"].map(|path| members.measure(path).bytes);
        RequestFacts {
            choices: 1,
            max_output: MOST.iter().find_map(|path| openai::most(members, path)),
            prompt_text_bytes: Some(texts.iter().chain(&tools).sum()),
            ..RequestFacts::default()
        }
    }

    fn body_members(&self) -> &'static Wanted {
        &payload::BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(tier) = members.text("serviceTier.type") {
            emit(Signal::Tier(&tier));
        }
        if let Some(model) = members.text("trace.promptRouter.invokedModelId").filter(|id| !id.is_empty()) {
            emit(Signal::Model(model_of(&model)));
        }
        payload::tell_body(members, emit);
        tell_text(members, payload::TEXTS, emit);
        let kind = members.text("__type");
        if let Some(kind) = kind.as_deref().and_then(|kind| kind.rsplit('#').next()) {
            emit(Signal::Failed(kind));
        } else if let Some(error) = members.last("error") {
            emit(Signal::Failed(&openai::error_class(error)));
        }
        if members.is_complete() {
            emit(Signal::Done);
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        let Ok(data) = std::str::from_utf8(event.data) else { return emit(Signal::Undecodable) };
        match event.name.unwrap_or_default() {
            event_stream::ERROR => emit(Signal::Failed(if data.is_empty() { "error" } else { data })),
            name if name.ends_with("Exception") => emit(Signal::Failed(name)),
            "chunk" => payload::tell_chunk(data, emit),
            name => converse(name, data, emit),
        }
    }

    fn knows_prompts(&self) -> bool {
        false
    }

    fn error_body(&self, error: &OwnError<'_>) -> String {
        let OwnError { status, message, request_id } = *error;
        let kind = error_type(status);
        serde_json::json!({"__type": kind, "message": message, "request_id": request_id}).to_string()
    }
}

/// The model of a path, and whether it asks for a stream; none where it is none of the API's generations.
fn asked(path: &str) -> Option<(&str, bool)> {
    let (_, rest) = path.split_once("/model/")?;
    let (model, operation) = rest.rsplit_once('/')?;
    let stream = match operation {
        "converse" | "invoke" => false,
        "converse-stream" | "invoke-with-response-stream" => true,
        _ => return None,
    };
    (!model.is_empty()).then_some((model, stream))
}

/// A model by its name. Of an ARN, what says which model; neither its account nor its region, which are nobody's label.
fn model_of(id: &str) -> &str {
    if !id.starts_with("arn:") {
        return id;
    }
    let resource = id.splitn(6, ':').nth(5).unwrap_or(id);
    match resource.split_once('/') {
        Some(("foundation-model" | "inference-profile", model)) => model,
        _ => resource,
    }
}

#[derive(Default)]
struct Content<'a> {
    start: Option<Block<'a>>,
    delta: Option<Block<'a>>,
}

object!(Content<'a> { start, delta });

#[derive(Default)]
struct Block<'a> {
    text: Option<&'a str>,
    reasoning_content: Option<Reasoning<'a>>,
    tool_use: Option<ToolUse<'a>>,
}

object!(Block<'a> { text, reasoning_content = "reasoningContent", tool_use = "toolUse" });

#[derive(Default)]
struct Reasoning<'a> {
    text: Option<&'a str>,
    signature: Option<&'a str>,
    redacted_content: Option<&'a str>,
}

object!(Reasoning<'a> { text, signature, redacted_content = "redactedContent" });

#[derive(Default)]
struct ToolUse<'a> {
    name: Option<&'a str>,
    input: Option<&'a str>,
}

object!(ToolUse<'a> { name, input });

impl Block<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(thoughts) = &self.reasoning_content {
            for piece in [thoughts.text, thoughts.signature, thoughts.redacted_content] {
                tell(piece, DeltaKind::Reasoning, emit);
            }
        }
        tell(self.text, DeltaKind::Content, emit);
        if let Some(call) = &self.tool_use {
            tell(call.name, DeltaKind::ToolCall, emit);
            tell(call.input, DeltaKind::ToolCall, emit);
        }
    }
}

/// What comes at the end.
#[derive(Default)]
struct Last<'a> {
    stop_reason: Word<'a>,
    usage: Option<&'a str>,
    service_tier: Option<Tier<'a>>,
    trace: Option<RoutingTrace<'a>>,
}

object!(Last<'a> { stop_reason = "stopReason", usage, service_tier = "serviceTier", trace });

/// Where a prompt router says which model it took.
#[derive(Default)]
struct RoutingTrace<'a> {
    prompt_router: Option<Routed<'a>>,
}

object!(RoutingTrace<'a> { prompt_router = "promptRouter" });

#[derive(Default)]
struct Routed<'a> {
    invoked_model_id: Word<'a>,
}

object!(Routed<'a> { invoked_model_id = "invokedModelId" });

#[derive(Default)]
struct Tier<'a> {
    kind: Word<'a>,
}

object!(Tier<'a> { kind = "type" });

/// Tells what an event of `converse-stream` says.
fn converse(name: &str, data: &str, emit: &mut dyn FnMut(Signal<'_>)) {
    match name {
        "contentBlockStart" | "contentBlockDelta" => match json::read::<Content<'_>>(data) {
            Some(content) => {
                [&content.start, &content.delta].into_iter().flatten().for_each(|block| block.tell(emit))
            }
            None => emit(Signal::Undecodable),
        },
        "messageStop" | "metadata" => match json::read::<Last<'_>>(data) {
            Some(last) => last.tell(name, emit),
            None => emit(Signal::Undecodable),
        },
        _ => {}
    }
}

impl Last<'_> {
    fn tell(&self, name: &str, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(reason) = self.stop_reason.as_str() {
            emit(Signal::Finish { choice: 0, reason: finish_reason(reason) });
        }
        if let Some(tier) = self.service_tier.as_ref().and_then(|tier| tier.kind.as_str()) {
            emit(Signal::Tier(tier));
        }
        if let Some(usage) = self.usage {
            tell_usage(usage, emit);
        }
        let routed = self.trace.as_ref().and_then(|trace| trace.prompt_router.as_ref());
        if let Some(model) = routed.and_then(|routed| routed.invoked_model_id.as_str()) {
            emit(Signal::Model(model_of(model)));
        }
        if name == "metadata" {
            emit(Signal::Done);
        }
    }
}

fn tell(json: Option<&str>, kind: DeltaKind, emit: &mut dyn FnMut(Signal<'_>)) {
    if let Some(text) = json.and_then(Fragment::of) {
        emit(Signal::Delta { choice: 0, text, tokens: None, kind });
    }
}

/// Cached input is reported apart from the rest: under the names that converse documents, under the longer ones that
/// Nova's own answers have, or under both.
#[derive(Default)]
struct UsageBody<'a> {
    input_tokens: Number,
    cache_read_input_tokens: Number,
    cache_read_input_token_count: Number,
    cache_write_input_tokens: Number,
    cache_write_input_token_count: Number,
    cache_details: Option<&'a str>,
    output_tokens: Number,
}

object!(UsageBody<'a> {
    input_tokens = "inputTokens", cache_read_input_tokens = "cacheReadInputTokens",
    cache_read_input_token_count = "cacheReadInputTokenCount",
    cache_write_input_tokens = "cacheWriteInputTokens",
    cache_write_input_token_count = "cacheWriteInputTokenCount", cache_details = "cacheDetails",
    output_tokens = "outputTokens"
});

#[derive(Default)]
struct CacheDetail<'a> {
    ttl: Word<'a>,
    input_tokens: Number,
}

object!(CacheDetail<'a> { ttl, input_tokens = "inputTokens" });

fn tell_usage(json: &str, emit: &mut dyn FnMut(Signal<'_>)) {
    let Some(body) = json::read::<UsageBody<'_>>(json) else { return };
    let mut hour = None;
    if let Some(details) = body.cache_details {
        for_each(details, &mut |detail: CacheDetail<'_>| {
            if detail.ttl.as_str() == Some("1h") {
                hour = detail.input_tokens.0.or(hour);
            }
        });
    }
    emit(Signal::Usage(Usage {
        input_uncached: body.input_tokens.0,
        cache_read: body.cache_read_input_tokens.or(body.cache_read_input_token_count),
        cache_write: body.cache_write_input_tokens.or(body.cache_write_input_token_count),
        cache_write_1h: hour,
        output: body.output_tokens.0,
        ..Usage::default()
    }));
}

/// The word for why an answer ended, converse's or a model's own.
fn finish_reason(word: &str) -> FinishReason {
    match word {
        "end_turn" | "stop_sequence" | "stop" | "FINISH" | "FINISHED" | "COMPLETE" | "STOP_CRITERIA_MET" => {
            FinishReason::Stop
        }
        "max_tokens" | "model_context_window_exceeded" | "length" | "LENGTH" | "MAX_TOKENS" => {
            FinishReason::Length
        }
        "tool_use" | "tool_calls" | "TOOL_CALL" => FinishReason::ToolCalls,
        "guardrail_intervened"
        | "content_filtered"
        | "content_filter"
        | "refusal"
        | "CONTENT_FILTERED"
        | "ERROR_TOXIC" => FinishReason::ContentFilter,
        "malformed_model_output" | "malformed_tool_use" | "ERROR" => FinishReason::Error,
        _ => FinishReason::Other,
    }
}

/// Bedrock's word for the kind of error that a status is.
fn error_type(status: u16) -> &'static str {
    match status {
        400 => "ValidationException",
        403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        429 => "ThrottlingException",
        502 | 503 => "ServiceUnavailableException",
        504 => "ModelTimeoutException",
        _ => "InternalServerException",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_in_the_path() {
        let of = |path: &str| {
            let facts = Bedrock.path_facts(path);
            facts.model.zip(facts.stream).map(|(model, stream)| (model.to_string(), stream))
        };
        let is = |model: &str, stream| Some((model.to_owned(), stream));
        assert_eq!(of("/model/amazon.nova-pro-v1%3A0/converse"), is("amazon.nova-pro-v1:0", false));
        assert_eq!(of("/aws/model/us.meta.llama4:0/converse-stream/"), is("us.meta.llama4:0", true));
        assert_eq!(of("/model/m/invoke"), is("m", false));
        assert_eq!(of("/model/m/invoke-with-response-stream"), is("m", true));
        for (arn, name) in [
            ("arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fm-v1%3A0", "m-v1:0"),
            ("arn:aws:bedrock:eu-west-1:123456789012:inference-profile%2Feu.m-v1:0", "eu.m-v1:0"),
            (
                "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/ab12",
                "application-inference-profile/ab12",
            ),
            ("arn:aws:sagemaker:eu-west-1:123456789012:endpoint/e", "endpoint/e"),
        ] {
            assert_eq!(of(&format!("/model/{arn}/converse")), is(name, false), "{arn}");
        }
        for none in ["/model/converse", "/model//converse", "/model/m/count-tokens", "/models/m/invoke"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn our_own_errors_have_bedrocks_shape() {
        let error = OwnError { status: 429, message: "no room", request_id: "r-1" };
        let body: serde_json::Value = serde_json::from_str(&Bedrock.error_body(&error)).unwrap();
        let want =
            serde_json::json!({"__type": "ThrottlingException", "message": "no room", "request_id": "r-1"});
        assert_eq!(body, want);
    }
}
