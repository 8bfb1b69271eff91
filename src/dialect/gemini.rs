//! Gemini: `POST …/models/MODEL:generateContent` and `…:streamGenerateContent`, at Google's Gemini API and at Vertex AI.
//! A stream is of events (`alt=sse`) or a JSON array. The path names the model, and says whether it is a stream.
//!
//! Format: <https://ai.google.dev/api/generate-content>,
//! <https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference>. A stream has no terminal mark: it
//! has ended when each candidate has its reason, or the prompt was blocked, and the body is over. Absent: the Live API.

use std::sync::LazyLock;

use super::lenient::{Few, Flag, Fragment, Number, Word, for_each, member};
use super::{
    DeltaKind, Description, Dialect, Framing, OwnError, PathFacts, RequestFacts, Signal, Tells, openai,
    tell_text, unescaped,
};
use crate::exchange::{DialectId, FinishReason, Name, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> = LazyLock::new(|| {
    Wanted::new(
        &[
            "generationConfig.candidateCount",
            "generationConfig.maxOutputTokens",
            "generation_config.candidate_count",
            "generation_config.max_output_tokens",
        ],
        &["contents", "systemInstruction", "system_instruction", "tools"],
    )
});
const TEXTS: &[&str] = &[
    "candidates.*.content.parts.*.text",
    "candidates.*.content.parts.*.functionCall",
    "candidates.*.content.parts.*.executableCode",
];
static BODY: LazyLock<Wanted> = LazyLock::new(|| {
    let kept = &[
        "candidates.*.finishReason",
        "promptFeedback",
        "usageMetadata",
        "modelVersion",
        "responseId",
        "error",
        "*.error",
    ];
    Wanted::new(kept, TEXTS)
});

const WHOLE: &str = ":generateContent";
const STREAM: &str = ":streamGenerateContent";

/// The API.
#[derive(Debug)]
pub(super) struct Gemini;

impl Dialect for Gemini {
    fn id(&self) -> DialectId {
        DialectId("gemini")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && (path.ends_with(WHOLE) || path.ends_with(STREAM))
    }

    fn path_facts(&self, path: &str) -> PathFacts {
        let path = unescaped(path);
        let path = path.trim_end_matches('/');
        let streamed = path.strip_suffix(STREAM);
        let named = streamed.or_else(|| path.strip_suffix(WHOLE)).unwrap_or_default();
        let model = named.rsplit('/').next().filter(|model| !model.is_empty());
        PathFacts { model: model.map(Name::from), stream: Some(streamed.is_some()) }
    }

    fn describe(&self) -> Description {
        Description {
            paths: &[":generateContent", ":streamGenerateContent"],
            stream: Some(Framing::Events),
            end: "each candidate's `finishReason`, then the body's end",
            tells: &[
                Tells::Whole,
                Tells::Input,
                Tells::CacheRead,
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
        let number = |names: [&'static str; 2]| names.iter().find_map(|name| openai::most(members, name));
        let asked = number(["generationConfig.candidateCount", "generation_config.candidate_count"]);
        let choices = asked.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(1);
        let most = number(["generationConfig.maxOutputTokens", "generation_config.max_output_tokens"]);
        let texts = ["contents", "systemInstruction", "system_instruction"];
        let text = texts.map(|path| members.measure(path).text_bytes).iter().sum::<u64>();
        RequestFacts {
            choices,
            max_output: most.and_then(|most| openai::of_all(most, choices)),
            prompt_text_bytes: Some(text + members.measure("tools").bytes),
            ..RequestFacts::default()
        }
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        let word = |path| Word(members.text(path).filter(|word| !word.is_empty()));
        tell_text(members, TEXTS, emit);
        for (choice, reason) in (0..).zip(members.each("candidates.*.finishReason")) {
            if let Some(reason) = Word::of(reason).as_str() {
                emit(Signal::Finish { choice, reason: finish_reason(reason) });
            }
        }
        let answer = Answer {
            usage_metadata: members.last("usageMetadata").and_then(json::read),
            prompt_feedback: members.last("promptFeedback"),
            model_version: word("modelVersion"),
            response_id: word("responseId"),
            error: members.last("error").or_else(|| members.last("*.error")),
            ..Answer::default()
        };
        answer.tell(emit);
        // Half a body is not the end, even of a prompt that is blocked.
        if members.is_complete() {
            emit(Signal::Done);
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        if event.data == b"[DONE]" {
            return; // some gateways add it
        }
        let answer = json::read_bytes::<Answer<'_>>(event.data);
        let Some(answer) = answer else { return emit(Signal::Undecodable) };
        if answer.tell(emit) {
            emit(Signal::Done);
        }
    }

    fn streams_arrays(&self) -> bool {
        true
    }

    fn knows_prompts(&self) -> bool {
        false
    }

    fn error_body(&self, error: &OwnError<'_>) -> String {
        let OwnError { status, message, request_id } = *error;
        let details = [serde_json::json!({
            "@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request_id,
        })];
        let word = error_status(status);
        serde_json::json!({
            "error": {"code": status, "message": message, "status": word, "details": details},
        })
        .to_string()
    }
}

/// A whole answer, an event, or an element of a stream that is an array: they have the same members.
#[derive(Default)]
struct Answer<'a> {
    candidates: Few<Candidate<'a>>,
    usage_metadata: Option<UsageBody<'a>>,
    prompt_feedback: Option<&'a str>,
    model_version: Word<'a>,
    response_id: Word<'a>,
    error: Option<&'a str>,
}

object!(Answer<'a> {
    candidates, usage_metadata = "usageMetadata", prompt_feedback = "promptFeedback",
    model_version = "modelVersion", response_id = "responseId", error
});

#[derive(Default)]
struct Candidate<'a> {
    index: Number,
    content: Option<Content<'a>>,
    finish_reason: Word<'a>,
}

object!(Candidate<'a> { index, content, finish_reason = "finishReason" });

#[derive(Default)]
struct Content<'a> {
    parts: Few<Part<'a>>,
}

object!(Content<'a> { parts });

/// A piece of a candidate. What a tool of the server put out is none of the model's tokens, and the signature of a
/// thought rides on a part that has them.
#[derive(Default)]
struct Part<'a> {
    text: Option<&'a str>,
    thought: Flag,
    function_call: Option<&'a str>,
    executable_code: Option<&'a str>,
    inline_data: Option<&'a str>,
}

object!(Part<'a> {
    text, thought, function_call = "functionCall", executable_code = "executableCode",
    inline_data = "inlineData"
});

/// A call comes whole, its arguments as an object, and its name stands for it; or they come in parts, where that is
/// asked for.
#[derive(Default)]
struct Call<'a> {
    name: Option<&'a str>,
    partial_args: Few<Argument<'a>>,
}

object!(Call<'a> { name, partial_args = "partialArgs" });

/// What has come of an argument: text of its own, or a value that its place stands for.
#[derive(Default)]
struct Argument<'a> {
    string_value: Option<&'a str>,
    json_path: Option<&'a str>,
}

object!(Argument<'a> { string_value = "stringValue", json_path = "jsonPath" });

/// Code that was written, or a file, in base64.
#[derive(Default)]
struct Blob<'a> {
    code: Option<&'a str>,
    data: Option<&'a str>,
}

object!(Blob<'a> { code, data });

impl Answer<'_> {
    /// Whether that was all: no candidate comes.
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) -> bool {
        if let Some(model) = self.model_version.as_str() {
            emit(Signal::Model(model));
        }
        if let Some(id) = self.response_id.as_str() {
            emit(Signal::UpstreamId(id));
        }
        self.candidates.iter().for_each(|candidate| candidate.tell(emit));
        if let Some(usage) = &self.usage_metadata {
            usage.tell(emit);
        }
        if let Some(error) = self.error {
            emit(Signal::Failed(&error_class(error)));
            return false;
        }
        let feedback = self.prompt_feedback.and_then(json::read);
        let is_blocked =
            feedback.is_some_and(|feedback: Feedback<'_>| feedback.block_reason.as_str().is_some());
        if is_blocked {
            emit(Signal::Finish { choice: 0, reason: FinishReason::ContentFilter });
        }
        is_blocked
    }
}

#[derive(Default)]
struct Feedback<'a> {
    block_reason: Word<'a>,
}

object!(Feedback<'a> { block_reason = "blockReason" });

impl Candidate<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        let choice = self.index.0.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
        for part in self.content.iter().flat_map(|content| content.parts.iter()) {
            part.tell(&mut |json: Option<&str>, kind| {
                if let Some(text) = json.and_then(Fragment::of) {
                    emit(Signal::Delta { choice, text, tokens: None, kind });
                }
            });
        }
        if let Some(word) = self.finish_reason.as_str() {
            emit(Signal::Finish { choice, reason: finish_reason(word) });
        }
    }
}

impl<'a> Part<'a> {
    fn tell(&self, piece: &mut dyn FnMut(Option<&'a str>, DeltaKind)) {
        piece(self.text, if self.thought.0 { DeltaKind::Reasoning } else { DeltaKind::Content });
        let call: Call<'_> = member(self.function_call);
        piece(call.name, DeltaKind::ToolCall);
        for argument in call.partial_args.iter() {
            piece(argument.string_value.or(argument.json_path), DeltaKind::ToolCall);
        }
        piece(member::<Blob<'_>>(self.executable_code).code, DeltaKind::ToolCall);
        piece(member::<Blob<'_>>(self.inline_data).data, DeltaKind::Audio);
    }
}

/// Of the prompt, cached input is a part; the results of tools, and thoughts beside the answer, are none.
#[derive(Default)]
struct UsageBody<'a> {
    prompt_token_count: Number,
    tool_use_prompt_token_count: Number,
    cached_content_token_count: Number,
    candidates_token_count: Number,
    thoughts_token_count: Number,
    total_token_count: Number,
    prompt_tokens_details: Option<&'a str>,
    candidates_tokens_details: Option<&'a str>,
    traffic_type: Word<'a>,
}

object!(UsageBody<'a> {
    prompt_token_count = "promptTokenCount", tool_use_prompt_token_count = "toolUsePromptTokenCount",
    cached_content_token_count = "cachedContentTokenCount", candidates_token_count = "candidatesTokenCount",
    thoughts_token_count = "thoughtsTokenCount", total_token_count = "totalTokenCount",
    prompt_tokens_details = "promptTokensDetails", candidates_tokens_details = "candidatesTokensDetails",
    traffic_type = "trafficType"
});

#[derive(Default)]
struct Modality<'a> {
    modality: Word<'a>,
    token_count: Number,
}

object!(Modality<'a> { modality, token_count = "tokenCount" });

impl UsageBody<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(tier) = self.traffic_type.as_str() {
            emit(Signal::Tier(tier));
        }
        let usage = Usage {
            input: sum([self.prompt_token_count, self.tool_use_prompt_token_count]),
            cache_read: self.cached_content_token_count.0,
            audio_input: self.prompt_tokens_details.and_then(sound),
            output: self.output(),
            reasoning: self.thoughts_token_count.0,
            audio_output: self.candidates_tokens_details.and_then(sound),
            ..Usage::default()
        };
        if !usage.is_empty() {
            emit(Signal::Usage(usage));
        }
    }

    /// Output with its thoughts. Some endpoints have counted them into the candidates: there the total tells.
    fn output(&self) -> Option<u64> {
        let without =
            sum([self.prompt_token_count, self.tool_use_prompt_token_count, self.candidates_token_count]);
        let has_thoughts = self.candidates_token_count.0.is_some() && self.total_token_count.0 == without;
        if has_thoughts {
            return self.candidates_token_count.0;
        }
        sum([self.candidates_token_count, self.thoughts_token_count])
    }
}

fn sum<const N: usize>(numbers: [Number; N]) -> Option<u64> {
    numbers.into_iter().filter_map(|number| number.0).reduce(u64::saturating_add)
}

/// How many of the tokens that these details tell apart are sound.
fn sound(details: &str) -> Option<u64> {
    const SOUND: &str = "AUDIO";
    let mut tokens = None;
    // Every event of a stream has details, and hardly a stream has sound.
    if details.contains(SOUND) || details.contains('\\') {
        for_each(details, &mut |detail: Modality<'_>| {
            if detail.modality.as_str() == Some(SOUND) {
                tokens = sum([Number(tokens), detail.token_count]);
            }
        });
    }
    tokens
}

/// The class of an error: Google's word for its status.
fn error_class(json: &str) -> String {
    #[derive(Default)]
    struct ErrorBody<'a> {
        status: Word<'a>,
    }

    object!(ErrorBody<'a> { status });
    let body: ErrorBody<'_> = json::read(json).unwrap_or_default();
    body.status.as_str().map_or_else(|| openai::error_class(json), str::to_owned)
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "MODEL_ARMOR"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => FinishReason::ContentFilter,
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MISSING_THOUGHT_SIGNATURE"
        | "MALFORMED_RESPONSE" => FinishReason::Error,
        _ => FinishReason::Other,
    }
}

/// Google's word for a status.
fn error_status(status: u16) -> &'static str {
    match status {
        400 => "INVALID_ARGUMENT",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        502 | 503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_have_googles_shape() {
        let error = OwnError { status: 504, message: "too \"late\"", request_id: "r-1" };
        let body: serde_json::Value = serde_json::from_str(&Gemini.error_body(&error)).unwrap();
        let details = serde_json::json!([
            {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "r-1"}
        ]);
        let want = serde_json::json!({"error": {
            "code": 504, "message": "too \"late\"", "status": "DEADLINE_EXCEEDED", "details": details,
        }});
        assert_eq!(body, want);
    }

    #[test]
    fn the_path_names_the_model_and_says_whether_it_is_a_stream() {
        let told = |path| {
            let facts = Gemini.path_facts(path);
            (facts.model.map(|name| name.as_str().to_owned()).unwrap_or_default(), facts.stream)
        };
        let vertex =
            "/v1/projects/p/locations/global/publishers/google/models/gemini-3-pro:streamGenerateContent";
        for (path, want) in [
            ("/v1beta/models/gemini-3-flash:generateContent", ("gemini-3-flash", Some(false))),
            ("/t/acme/v1/models/gemini-3-flash%3AstreamGenerateContent/", ("gemini-3-flash", Some(true))),
            ("/v1beta/tunedModels/mine-1:generateContent", ("mine-1", Some(false))),
            (vertex, ("gemini-3-pro", Some(true))),
            ("/v1/projects/p/locations/l/endpoints/42:generateContent", ("42", Some(false))),
            ("/v1beta/models/:generateContent", ("", Some(false))),
        ] {
            assert_eq!(told(path), (want.0.to_owned(), want.1), "{path}");
        }
    }

    #[test]
    fn thoughts_are_output_once_whether_or_not_the_candidates_have_them() {
        let output = |json| json::read::<UsageBody<'_>>(json).unwrap().output();
        for (json, want) in [
            (
                r#"{"promptTokenCount":5,"candidatesTokenCount":7,"thoughtsTokenCount":3,"totalTokenCount":15}"#,
                10,
            ),
            (
                r#"{"promptTokenCount":5,"candidatesTokenCount":10,"thoughtsTokenCount":3,"totalTokenCount":15}"#,
                10,
            ),
            (r#"{"promptTokenCount":5,"thoughtsTokenCount":3,"totalTokenCount":8}"#, 3),
            (r#"{"promptTokenCount":5,"candidatesTokenCount":7}"#, 7),
        ] {
            assert_eq!(output(json), Some(want), "{json}");
        }
        assert_eq!(output(r#"{"promptTokenCount":5,"totalTokenCount":5}"#), None);
    }
}
