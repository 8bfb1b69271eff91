//! SGLang's own API: `POST …/generate`. TGI has that path too, and nothing in a request's head tells the two apart,
//! so both are read here; whose it was, the request's body tells.
//!
//! Format: <https://docs.sglang.ai/basic_usage/native_api.html>. An event says a choice's text from its start, unless
//! the server was told to send what is new only, and reports that choice's tokens so far. Answers of token ids alone
//! have counts and no clocks.

use std::sync::LazyLock;

use super::lenient::{Fragment, Number, Word};
use super::{Description, Dialect, Framing, RequestFacts, Signal, Tells, openai, tell_text, tgi};
use crate::exchange::{DialectId, FinishReason, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> = LazyLock::new(|| {
    let keep: &[&str] = &[
        "model",
        "stream",
        "sampling_params.max_new_tokens",
        "sampling_params.n",
        "parameters.max_new_tokens",
    ];
    Wanted::new(keep, &["text", "input_ids", "inputs"])
});
const OWN_MEMBERS: [&str; 3] = ["meta_info", "*.meta_info", "message"];
const TEXTS: [&str; 2] = ["text", "*.text"];
static BODY: LazyLock<Wanted> = LazyLock::new(|| {
    let (kept, measured) = tgi::MEMBERS;
    // Once for the life of the process.
    let joined =
        |a: &[&'static str], b: &[&'static str]| -> &'static [&'static str] { [a, b].concat().leak() };
    Wanted::new(joined(&OWN_MEMBERS, kept), joined(&TEXTS, measured))
});

const BYTES_A_TOKEN: u64 = 4; // a prompt given as token ids is measured as if it were text

/// The API.
#[derive(Debug)]
pub(super) struct Sglang;

impl Dialect for Sglang {
    fn id(&self) -> DialectId {
        DialectId("sglang")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        ["POST", "PUT"].contains(&method) && path.ends_with("/generate")
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/generate"],
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
        let (text, ids) = (members.measure("text"), members.measure("input_ids"));
        let several = text.texts + ids.arrays;
        let prompts = u32::try_from(several.max(1)).unwrap_or(u32::MAX);
        let share = members.get::<u32>("sampling_params.n").filter(|n| *n > 0).unwrap_or(1);
        let choices = prompts.saturating_mul(share);
        let of_tgi = || openai::most(members, "parameters.max_new_tokens");
        let most = openai::most(members, "sampling_params.max_new_tokens").or_else(of_tgi);
        let inputs = members.measure("inputs");
        let is_of_tgi = inputs.bytes > 0 && text.bytes + ids.bytes == 0;
        RequestFacts {
            dialect: is_of_tgi.then(|| tgi::Tgi.id()),
            choices,
            choices_a_prompt: share,
            max_output: most.and_then(|most| openai::of_all(most, choices)),
            ..openai::request(members, 1, text.text_bytes + ids.numbers * BYTES_A_TOKEN + inputs.text_bytes)
        }
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        let choices = members.each("meta_info").chain(members.each("*.meta_info"));
        for (choice, json) in (0..).zip(choices) {
            if let Some(meta) = json::read(json) {
                Meta::tell(&meta, choice, emit);
            }
        }
        tell_text(members, &TEXTS, emit);
        tgi::tell_body(members, emit);
        if let Some(error) = members.last("error").filter(|error| error.starts_with('{')) {
            emit(Signal::Failed(&openai::error_class(error)));
        }
        if members.is_complete() {
            emit(Signal::Done);
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        if event.data == b"[DONE]" {
            return emit(Signal::Done);
        }
        match json::read_bytes::<Answer<'_>>(event.data) {
            Some(answer) => answer.tell(emit),
            None => emit(Signal::Undecodable),
        }
    }
}

#[derive(Default)]
struct Answer<'a> {
    text: Option<&'a str>,
    meta_info: Option<Meta<'a>>,
    index: Number,
    error: Option<&'a str>,
}

object!(Answer<'a> { text, meta_info, index, error });

#[derive(Default)]
struct Meta<'a> {
    id: Word<'a>,
    /// An object; a word, or null in quotes, in older servers.
    finish_reason: Option<&'a str>,
    prompt_tokens: Number,
    completion_tokens: Number,
    cached_tokens: Number,
}

object!(Meta<'a> { id, finish_reason, prompt_tokens, completion_tokens, cached_tokens });

#[derive(Default)]
struct Reason<'a> {
    kind: Word<'a>,
    err_type: Word<'a>,
    status_code: Number,
}

object!(Reason<'a> { kind = "type", err_type, status_code });

impl Answer<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        let choice = self.index.0.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
        if let Some(text) = self.text.and_then(Fragment::of) {
            emit(Signal::TextSoFar { choice, text });
        }
        if let Some(meta) = &self.meta_info {
            meta.tell(choice, emit);
        }
        if let Some(error) = self.error {
            emit(Signal::Failed(&openai::error_class(error)));
        }
    }
}

impl Meta<'_> {
    fn tell(&self, choice: u32, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(id) = self.id.as_str() {
            emit(Signal::UpstreamId(id));
        }
        let usage = Usage {
            input: self.prompt_tokens.0,
            cache_read: self.cached_tokens.0,
            output: self.completion_tokens.0,
            ..Usage::default()
        };
        if !usage.is_empty() {
            emit(Signal::ChoiceUsage { choice, usage });
        }
        let Some(json) = self.finish_reason else { return };
        let reason = match json.starts_with('{') {
            true => json::read::<Reason<'_>>(json).unwrap_or_default(),
            false => Reason { kind: Word::of(json), ..Reason::default() },
        };
        let Some(kind) = reason.kind.as_str() else { return };
        let why = openai::finish_reason(kind);
        emit(Signal::Finish { choice, reason: why });
        // An abort has a status where it is an error, and none where somebody asked for it.
        if why == FinishReason::Error && reason.status_code.0.is_some() {
            emit(Signal::Failed(reason.err_type.as_str().unwrap_or(kind)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Skim;

    #[test]
    fn the_body_tells_whose_request_it_is() {
        let told = |body: &str| {
            let mut skim = Skim::new(Sglang.request_members());
            skim.push(body.as_bytes());
            Sglang.request(&skim.finish()).dialect.map(|id| id.0)
        };
        assert_eq!(told(r#"{"inputs":"a","parameters":{"max_new_tokens":4}}"#), Some("tgi"));
        assert_eq!(told(r#"{"inputs":""}"#), Some("tgi"));
        for own in [r#"{"text":"a"}"#, r#"{"input_ids":[1]}"#, r#"{"text":"a","inputs":"b"}"#, "{}", ""] {
            assert_eq!(told(own), None, "{own}");
        }
    }
}
