//! OpenAI text completions: `POST …/completions`, also as vLLM, SGLang and llama.cpp speak it.

use std::sync::LazyLock;

use super::lenient::{Fragment, Length, Number, Word};
use super::{DeltaKind, Description, Dialect, Framing, RequestFacts, Signal, Tells, openai};
use crate::exchange::DialectId;
use crate::wire::json::object;
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> =
    LazyLock::new(|| Wanted::new(openai::REQUEST_MEMBERS, &["prompt", "suffix"]));

/// The API.
#[derive(Debug)]
pub(super) struct OpenaiCompletions;

const BYTES_A_TOKEN: u64 = 4; // a prompt given as token ids is measured as if it were text

impl Dialect for OpenaiCompletions {
    fn id(&self) -> DialectId {
        DialectId("openai_completions")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && path.ends_with("/completions")
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/completions"],
            stream: Some(Framing::Events),
            end: "`[DONE]`",
            tells: &[
                Tells::Whole,
                Tells::Input,
                Tells::CacheRead,
                Tells::Output,
                Tells::FinishReason,
                Tells::Failure,
            ],
        }
    }

    fn request_members(&self) -> &'static Wanted {
        &REQUEST
    }

    fn request(&self, members: &Members) -> RequestFacts {
        let prompt = members.measure("prompt");
        let prompts = u32::try_from((prompt.texts + prompt.arrays).max(1)).unwrap_or(u32::MAX);
        let text = prompt.text_bytes + prompt.numbers * BYTES_A_TOKEN + members.measure("suffix").text_bytes;
        openai::request(members, prompts, text)
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
    text: Option<&'a str>,
    finish_reason: Word<'a>,
    /// vLLM, when asked for them.
    token_ids: Length,
    logprobs: Option<Logprobs>,
}

object!(Choice<'a> { index, text, finish_reason, token_ids, logprobs });

#[derive(Default)]
struct Logprobs {
    tokens: Length,
}

object!(Logprobs { tokens });

impl Choice<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        let choice = self.index.0.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
        if let Some(text) = self.text.and_then(Fragment::of) {
            let tokens = self.token_ids.0.or_else(|| self.logprobs.as_ref().and_then(|of| of.tokens.0));
            emit(Signal::Delta { choice, text, tokens, kind: DeltaKind::Content });
        }
        if let Some(word) = self.finish_reason.as_str() {
            emit(Signal::Finish { choice, reason: openai::finish_reason(word) });
        }
    }
}
