//! llama.cpp's own completions: `POST …/completion` and `…/infill`. `…/completions` is OpenAI's.
//!
//! Format: <https://github.com/ggml-org/llama.cpp/tree/master/tools/server> and what it was seen to send.
//! Several prompts of one request are choices, and each of them has its own terminal mark and counts.

use std::sync::LazyLock;

use super::lenient::{Flag, Fragment, Length, Number, Word, number};
use super::{DeltaKind, Description, Dialect, Framing, RequestFacts, Signal, Tells, openai, tell_text};
use crate::exchange::{DialectId, FinishReason, Usage};
use crate::wire::json::{self, object};
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
        let word = |path| members.last(path).map(Word::of).unwrap_or_default();
        let flag = |path| Flag(members.last(path) == Some("true"));
        let answer = Answer {
            model: word("model"),
            stop: flag("stop"),
            stop_type: word("stop_type"),
            stopped_limit: flag("stopped_limit"),
            stopped_eos: flag("stopped_eos"),
            stopped_word: flag("stopped_word"),
            tokens_predicted: number(members, "tokens_predicted"),
            tokens_evaluated: number(members, "tokens_evaluated"),
            timings: members.last("timings"),
            error: members.last("error"),
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
        match json::read_bytes::<Answer<'_>>(event.data) {
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
#[derive(Default)]
struct Answer<'a> {
    index: Number,
    content: Option<&'a str>,
    tokens: Length,
    model: Word<'a>,
    stop: Flag,
    stop_type: Word<'a>,
    /// In place of `stop_type` until the end of 2024.
    stopped_limit: Flag,
    stopped_eos: Flag,
    stopped_word: Flag,
    tokens_predicted: Number,
    tokens_evaluated: Number,
    timings: Option<&'a str>,
    error: Option<&'a str>,
}

object!(Answer<'a> {
    index, content, tokens, model, stop, stop_type, stopped_limit, stopped_eos, stopped_word,
    tokens_predicted, tokens_evaluated, timings, error
});

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
        if !usage.is_empty() {
            emit(Signal::ChoiceUsage { choice, usage });
        }
        if let Some(error) = self.error {
            emit(Signal::Failed(&openai::error_class(error)));
        } else if self.stop.0 {
            emit(Signal::Finish { choice, reason: self.reason() });
        }
    }

    /// `tokens_evaluated` is the whole prompt, cached or not; `tokens_predicted` grows from event to event.
    fn usage(&self) -> Usage {
        let (input, output) = (self.tokens_evaluated.0, self.tokens_predicted.0);
        match self.timings.and_then(openai::read_timings) {
            Some(timings) => {
                Usage { input: input.or(timings.input), output: output.or(timings.output), ..timings }
            }
            None => Usage { input, output, ..Usage::default() },
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
    let sum = |path| members.each(path).filter_map(|json| Number::of(json).0).reduce(u64::saturating_add);
    let usage =
        Usage { input: sum("*.tokens_evaluated"), output: sum("*.tokens_predicted"), ..Usage::default() };
    if !usage.is_empty() {
        emit(Signal::Usage(usage));
    }
    if let Some(model) = members.text("*.model").filter(|model| !model.is_empty()) {
        emit(Signal::Model(&model));
    }
    for (choice, word) in (0..).zip(members.each("*.stop_type")) {
        if let Some(word) = Word::of(word).as_str() {
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
