//! llama.cpp's own completions: `POST …/completion` and `…/infill`. `…/completions` is OpenAI's.
//!
//! Format: <https://github.com/ggml-org/llama.cpp/tree/master/tools/server> and what it was seen to send.
//! Several prompts of one request are choices, and each of them has its own terminal mark and counts.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::lenient::{Flag, Fragment, Length, Number, Word};
use super::{DeltaKind, Description, Dialect, Framing, RequestFacts, Signal, Tells, openai, tell_text};
use crate::exchange::{DialectId, FinishReason, Usage};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> = LazyLock::new(|| {
    Wanted::new(&["model", "stream", "n_predict"], &["prompt", "input_prefix", "input_suffix", "input_extra"])
});
static BODY: LazyLock<Wanted> = LazyLock::new(|| {
    Wanted::new(
        &[
            "model",
            "stop",
            "stop_type",
            "stopped_limit",
            "stopped_eos",
            "stopped_word",
            "tokens_predicted",
            "tokens_evaluated",
            "timings",
            "error",
            "*.model",
            "*.stop_type",
            "*.tokens_predicted",
            "*.tokens_evaluated",
        ],
        TEXTS,
    )
});
const TEXTS: &[&str] = &["content", "*.content"];

/// The API.
#[derive(Debug)]
pub(super) struct Llamacpp;

const BYTES_A_TOKEN: u64 = 4; // a prompt given as token ids is measured as if it were text

impl Dialect for Llamacpp {
    fn id(&self) -> DialectId {
        DialectId("llamacpp")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && (path.ends_with("/completion") || path.ends_with("/infill"))
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/completion", "/infill"],
            stream: Some(Framing::Events),
            end: "`\"stop\": true`, of each prompt",
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
        // Texts among token ids make one prompt with them.
        let mixed = prompt.numbers > 0 && prompt.arrays == 0;
        let prompts = if mixed { 1 } else { (prompt.texts + prompt.arrays).max(1) };
        let text = prompt.text_bytes + prompt.numbers * BYTES_A_TOKEN;
        let around =
            ["input_prefix", "input_suffix", "input_extra"].map(|path| members.measure(path).text_bytes);
        let prompts = u32::try_from(prompts).unwrap_or(u32::MAX);
        let most = openai::most(members, "n_predict"); // -1: without end
        RequestFacts {
            choices: prompts,
            max_output: most.and_then(|most| openai::of_all(most, prompts)),
            ..openai::request(members, 1, text + around.iter().sum::<u64>())
        }
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        fn read<'m, T: Deserialize<'m> + Default>(members: &'m Members, path: &'static str) -> T {
            let json = members.each(path).last().and_then(|json| std::str::from_utf8(json).ok());
            json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
        }
        let answer = Answer {
            model: read(members, "model"),
            stop: read(members, "stop"),
            stop_type: read(members, "stop_type"),
            stopped_limit: read(members, "stopped_limit"),
            stopped_eos: read(members, "stopped_eos"),
            stopped_word: read(members, "stopped_word"),
            tokens_predicted: read(members, "tokens_predicted"),
            tokens_evaluated: read(members, "tokens_evaluated"),
            timings: read(members, "timings"),
            error: read(members, "error"),
            ..Answer::default()
        };
        answer.tell(emit);
        tell_text(members, TEXTS, emit);
        tell_several(members, emit);
        if members.is_complete() {
            emit(Signal::Done);
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        if event.data == b"[DONE]" {
            return;
        }
        let text = std::str::from_utf8(event.data).ok();
        match text.and_then(|text| serde_json::from_str::<Answer<'_>>(text).ok()) {
            Some(answer) => {
                answer.tell(emit);
                if answer.stop.0 && answer.error.is_none() {
                    emit(Signal::ChoiceDone);
                }
            }
            None if event.name == Some("error") => emit(Signal::Failed("error")),
            None => emit(Signal::Undecodable),
        }
    }
}

/// An event, or a whole answer: they have the same members.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer<'a> {
    index: Number,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    tokens: Length,
    #[serde(borrow)]
    model: Word<'a>,
    stop: Flag,
    #[serde(borrow)]
    stop_type: Word<'a>,
    /// In place of `stop_type` until the end of 2024.
    stopped_limit: Flag,
    stopped_eos: Flag,
    stopped_word: Flag,
    tokens_predicted: Number,
    tokens_evaluated: Number,
    #[serde(borrow)]
    timings: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl Answer<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        let choice = self.index.0.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
        if let Some(model) = self.model.as_str() {
            emit(Signal::Model(model));
        }
        if let Some(text) = self.content.and_then(Fragment::of) {
            emit(Signal::Delta { choice, text, tokens: self.tokens.0, kind: DeltaKind::Content });
        }
        let usage = self.usage();
        if usage != Usage::default() {
            emit(Signal::ChoiceUsage { choice, usage });
        }
        if let Some(error) = self.error {
            emit(Signal::Failed(&openai::error_class(error.get())));
        } else if self.stop.0 {
            emit(Signal::Finish { choice, reason: self.reason() });
        }
    }

    /// `tokens_evaluated` is the whole prompt, cached or not; `tokens_predicted` grows from event to event.
    fn usage(&self) -> Usage {
        let timings = self.timings.and_then(|json| openai::read_timings(json.get())).unwrap_or_default();
        Usage {
            input: self.tokens_evaluated.0.or(timings.input),
            output: self.tokens_predicted.0.or(timings.output),
            ..timings
        }
    }

    fn reason(&self) -> FinishReason {
        match self.stop_type.as_str() {
            Some(word) => finish_reason(word),
            None if self.stopped_limit.0 => FinishReason::Length,
            None if self.stopped_eos.0 || self.stopped_word.0 => FinishReason::Stop,
            None => FinishReason::Other,
        }
    }
}

/// Several prompts that are answered whole come as an array: each is a choice of its own, with counts of its
/// own.
fn tell_several(members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
    let sum = |path| {
        let number = |json| serde_json::from_slice::<Option<u64>>(json).ok().flatten();
        members.each(path).filter_map(number).reduce(u64::saturating_add)
    };
    let usage =
        Usage { input: sum("*.tokens_evaluated"), output: sum("*.tokens_predicted"), ..Usage::default() };
    if usage != Usage::default() {
        emit(Signal::Usage(usage));
    }
    if let Some(model) = members.text("*.model").filter(|model| !model.is_empty()) {
        emit(Signal::Model(&model));
    }
    for (choice, word) in (0..).zip(members.each("*.stop_type")) {
        if let Ok(word) = serde_json::from_slice::<&str>(word) {
            emit(Signal::Finish { choice, reason: finish_reason(word) });
        }
    }
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "eos" | "word" => FinishReason::Stop,
        "limit" => FinishReason::Length,
        _ => FinishReason::Other,
    }
}
