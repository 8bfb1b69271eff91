//! Text Generation Inference's own API: `POST …/generate_stream`, and what it answers at `…/generate`, a path that
//! [`super::sglang`] has too and reads, for only the request's body tells whose it is. Its root path is left out: any
//! server has one.
//!
//! Format: <https://huggingface.co/docs/text-generation-inference/reference/api_reference>. Events are tokens, one
//! each; the last one has the details. Nothing says which model it is.

use std::sync::LazyLock;

use super::lenient::{Flag, Fragment, Number, Word};
use super::{
    DeltaKind, Description, Dialect, Framing, OwnError, PathFacts, RequestFacts, Signal, Tells, openai,
    tell_text,
};
use crate::exchange::{DialectId, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&[MOST], &["inputs"]));
const MOST: &str = "parameters.max_new_tokens";

static BODY: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(BODY_MEMBERS, &BODY_MEASURES));
const BODY_MEMBERS: &[&str] = &[
    "error",
    "error_type",
    "details.finish_reason",
    "details.generated_tokens",
    "details.best_of_sequences.*.generated_tokens",
    "*.details.finish_reason",
    "*.details.generated_tokens",
];
const BODY_MEASURES: [&str; 4] =
    ["generated_text", "*.generated_text", "details.best_of_sequences.*.generated_text", PREFILL];

/// The members that [`tell_body`] reads: kept ones, and measured ones.
pub(super) const MEMBERS: (&[&str], &[&str]) = (BODY_MEMBERS, &BODY_MEASURES);

/// The prompt's tokens, each with its text, where they were asked for.
const PREFILL: &str = "details.prefill";

/// The API.
#[derive(Debug)]
pub(super) struct Tgi;

impl Dialect for Tgi {
    fn id(&self) -> DialectId {
        DialectId("tgi")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && path.ends_with("/generate_stream")
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/generate_stream", "/generate"],
            stream: Some(Framing::Events),
            end: "`details`",
            tells: &[Tells::Whole, Tells::Input, Tells::Output, Tells::FinishReason, Tells::Failure],
        }
    }

    fn request_members(&self) -> &'static Wanted {
        &REQUEST
    }

    fn request(&self, members: &Members) -> RequestFacts {
        let text = members.measure("inputs").text_bytes;
        RequestFacts {
            choices: 1, // `best_of` is one answer: the others come with its details
            max_output: openai::most(members, MOST),
            prompt_text_bytes: Some(text),
            ..RequestFacts::default()
        }
    }

    fn path_facts(&self, _: &str) -> PathFacts {
        PathFacts { stream: Some(true), ..PathFacts::default() }
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        tell_body(members, emit);
        if members.is_complete() {
            emit(Signal::Done);
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        match json::read_bytes::<Answer<'_>>(event.data) {
            Some(answer) => answer.tell(emit),
            None => emit(Signal::Undecodable),
        }
    }

    fn error_body(&self, error: &OwnError<'_>) -> String {
        let OwnError { status, message, request_id } = *error;
        let kind = match status {
            429 => "overloaded",
            400 | 404 | 413 => "validation",
            _ => "generation",
        };
        serde_json::json!({"error": message, "error_type": kind, "request_id": request_id}).to_string()
    }
}

#[derive(Default)]
struct Answer<'a> {
    token: Option<Token<'a>>,
    details: Option<Details<'a>>,
    /// The whole text again, in the last event.
    generated_text: Option<&'a str>,
    error: Option<&'a str>,
    error_type: Word<'a>,
}

object!(Answer<'a> { token, details, generated_text, error, error_type });

#[derive(Default)]
struct Token<'a> {
    text: Option<&'a str>,
    /// It ends the text or the like, and is none of it.
    special: Flag,
}

object!(Token<'a> { text, special });

#[derive(Default)]
struct Details<'a> {
    finish_reason: Word<'a>,
    generated_tokens: Number,
    /// Since TGI 3.
    input_length: Number,
}

object!(Details<'a> { finish_reason, generated_tokens, input_length });

impl Answer<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        if self.error.is_some() {
            return emit(Signal::Failed(self.error_type.as_str().unwrap_or("error")));
        }
        let token = self.token.as_ref().filter(|token| !token.special.0);
        if let Some(text) = token.and_then(|token| token.text).and_then(Fragment::of) {
            emit(Signal::Delta { choice: 0, text, tokens: Some(1), kind: DeltaKind::Content });
        }
        if let Some(details) = &self.details {
            let (input, output) = (details.input_length.0, details.generated_tokens.0);
            emit(Signal::Usage(Usage { input, output, ..Usage::default() }));
            if let Some(word) = details.finish_reason.as_str() {
                emit(Signal::Finish { choice: 0, reason: openai::finish_reason(word) });
            }
        }
        if self.details.is_some() || self.generated_text.is_some() {
            emit(Signal::Done);
        }
    }
}

/// Says what a whole answer has: one object, or an array of one for older clients.
pub(super) fn tell_body(members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
    let tokens = [
        "details.generated_tokens",
        "details.best_of_sequences.*.generated_tokens",
        "*.details.generated_tokens",
    ];
    let numbers = tokens.into_iter().flat_map(|path| members.each(path));
    let numbers = numbers.filter_map(|json| Number::of(json).0);
    let output = numbers.reduce(u64::saturating_add);
    let input = Some(members.measure(PREFILL).texts).filter(|tokens| *tokens > 0);
    if input.or(output).is_some() {
        emit(Signal::Usage(Usage { input, output, ..Usage::default() }));
    }
    let texts = &["generated_text", "*.generated_text", "details.best_of_sequences.*.generated_text"];
    tell_text(members, texts, emit);
    for path in ["details.finish_reason", "*.details.finish_reason"] {
        if let Some(word) = members.text(path) {
            emit(Signal::Finish { choice: 0, reason: openai::finish_reason(&word) });
        }
    }
    // An object here is SGLang's.
    if members.text("error").is_some() {
        emit(Signal::Failed(members.text("error_type").as_deref().unwrap_or("error")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_have_tgis_shape() {
        for (status, kind) in [(429, "overloaded"), (404, "validation"), (502, "generation")] {
            let error = OwnError { status, message: "no \"answer\"", request_id: "r-1" };
            let body: serde_json::Value = serde_json::from_str(&Tgi.error_body(&error)).unwrap();
            let want = serde_json::json!({"error": "no \"answer\"", "error_type": kind, "request_id": "r-1"});
            assert_eq!(body, want);
        }
    }
}
