//! Ollama: `POST …/api/chat` and `…/api/generate`, and embeddings at `…/api/embed` and `…/api/embeddings`. Streams are
//! lines of JSON, and a generated answer is a stream unless the request says otherwise. The durations that it reports
//! are passed over: times are measured here.
//!
//! Format: <https://github.com/ollama/ollama/blob/main/docs/api.md>.

use std::sync::LazyLock;

use super::lenient::{Flag, Fragment, Length, Number, Word, for_each, number};
use super::{
    DeltaKind, Description, Dialect, Framing, OwnError, PathFacts, RequestFacts, Signal, Tells, openai,
    tell_text,
};
use crate::exchange::{DialectId, FinishReason, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> = LazyLock::new(|| {
    Wanted::new(
        &["model", "stream", "options.num_predict"],
        &["messages", "prompt", "system", "suffix", "tools", "input"],
    )
});
const TEXTS: &[&str] = &["message", "response", "thinking"];
const EMBEDDINGS: [&str; 2] = ["embeddings", "embedding"];
static BODY: LazyLock<Wanted> = LazyLock::new(|| {
    Wanted::new(
        &["model", "done_reason", "prompt_eval_count", "eval_count", "error"],
        &["message", "response", "thinking", "embeddings", "embedding"],
    )
});

/// The API.
#[derive(Debug)]
pub(super) struct Ollama;

impl Dialect for Ollama {
    fn id(&self) -> DialectId {
        DialectId("ollama")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        let generates = path.ends_with("/api/chat") || path.ends_with("/api/generate");
        method == "POST" && (generates || embeds(path))
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"],
            stream: Some(Framing::Lines),
            end: "`\"done\": true`",
            tells: &[
                Tells::Whole,
                Tells::Input,
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
        let texts =
            ["messages", "prompt", "system", "suffix", "input"].map(|path| members.measure(path).text_bytes);
        let text = texts.iter().sum::<u64>() + members.measure("tools").bytes;
        let stream = members.get::<bool>("stream").unwrap_or(true);
        let max_output = openai::most(members, "options.num_predict"); // -1 and -2: without end
        RequestFacts { stream, max_output, ..openai::request(members, 1, text) }
    }

    fn path_facts(&self, path: &str) -> PathFacts {
        PathFacts { stream: embeds(path).then_some(false), ..PathFacts::default() }
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(model) = members.text("model").filter(|model| !model.is_empty()) {
            emit(Signal::Model(&model));
        }
        let is_embedding = EMBEDDINGS.iter().any(|path| members.measure(path).bytes > 0);
        let output = if is_embedding { Number(Some(0)) } else { number(members, "eval_count") };
        tell_usage(number(members, "prompt_eval_count"), output, emit);
        tell_text(members, TEXTS, emit);
        if let Some(reason) = members.text("done_reason").filter(|reason| !reason.is_empty()) {
            emit(Signal::Finish { choice: 0, reason: finish_reason(&reason) });
        }
        if let Some(error) = members.last("error") {
            emit(Signal::Failed(&openai::error_class(error)));
        }
        if members.is_complete() {
            emit(Signal::Done);
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        match json::read_bytes::<Line<'_>>(event.data) {
            Some(line) => line.tell(emit),
            None => emit(Signal::Undecodable),
        }
    }

    fn error_body(&self, error: &OwnError<'_>) -> String {
        let OwnError { message, request_id, .. } = *error;
        serde_json::json!({"error": message, "request_id": request_id}).to_string()
    }
}

fn embeds(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    path.ends_with("/api/embed") || path.ends_with("/api/embeddings")
}

#[derive(Default)]
struct Line<'a> {
    model: Word<'a>,
    /// Of `/api/chat`.
    message: Option<&'a str>,
    /// Of `/api/generate`, as is `thinking` here.
    response: Option<&'a str>,
    thinking: Option<&'a str>,
    /// Where they are asked for.
    logprobs: Length,
    done: Flag,
    done_reason: Word<'a>,
    prompt_eval_count: Number,
    eval_count: Number,
    /// A text.
    error: Option<&'a str>,
}

object!(Line<'a> {
    model, message, response, thinking, logprobs, done, done_reason, prompt_eval_count, eval_count, error
});

#[derive(Default)]
struct Message<'a> {
    thinking: Option<&'a str>,
    content: Option<&'a str>,
    tool_calls: Option<&'a str>,
}

object!(Message<'a> { thinking, content, tool_calls });

#[derive(Default)]
struct ToolCall<'a> {
    function: Option<Function<'a>>,
}

object!(ToolCall<'a> { function });

/// A call comes whole, its arguments as an object: the name stands for it.
#[derive(Default)]
struct Function<'a> {
    name: Option<&'a str>,
}

object!(Function<'a> { name });

impl Line<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(model) = self.model.as_str() {
            emit(Signal::Model(model));
        }
        self.tell_deltas(emit);
        tell_usage(self.prompt_eval_count, self.eval_count, emit);
        if let Some(error) = self.error {
            return emit(Signal::Failed(&openai::error_class(error)));
        }
        if self.done.0 {
            let reason = self.done_reason.as_str().map_or(FinishReason::Other, finish_reason);
            emit(Signal::Finish { choice: 0, reason });
            emit(Signal::Done);
        }
    }

    fn tell_deltas(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        // The line tells its tokens once; they go with its first delta.
        let mut tokens = self.logprobs.0;
        let mut tell = |json: Option<&str>, kind| {
            if let Some(text) = json.and_then(Fragment::of) {
                let here = tokens;
                tokens = tokens.map(|_| 0);
                emit(Signal::Delta { choice: 0, text, tokens: here, kind });
            }
        };
        let message = self.message.and_then(json::read::<Message<'_>>);
        let message = message.unwrap_or_default();
        tell(message.thinking.or(self.thinking), DeltaKind::Reasoning);
        tell(message.content.or(self.response), DeltaKind::Content);
        if let Some(calls) = message.tool_calls {
            for_each(calls, &mut |call: ToolCall<'_>| {
                tell(call.function.and_then(|function| function.name), DeltaKind::ToolCall);
            });
        }
    }
}

/// A prompt that was all in the cache may have no `prompt_eval_count`: its input is not known then.
fn tell_usage(input: Number, output: Number, emit: &mut dyn FnMut(Signal<'_>)) {
    let usage = Usage { input: input.0, output: output.0, ..Usage::default() };
    if !usage.is_empty() {
        emit(Signal::Usage(usage));
    }
}

/// `load` and `unload` end an answer that was never to have any output.
fn finish_reason(word: &str) -> FinishReason {
    match word {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        _ => FinishReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_have_ollamas_shape() {
        let error = OwnError { status: 502, message: "no \"answer\"", request_id: "r-1" };
        let body: serde_json::Value = serde_json::from_str(&Ollama.error_body(&error)).unwrap();
        assert_eq!(body, serde_json::json!({"error": "no \"answer\"", "request_id": "r-1"}));
    }

    #[test]
    fn an_answer_is_a_stream_unless_the_request_says_otherwise() {
        let stream = |body: &str| {
            let mut skim = crate::wire::Skim::new(Ollama.request_members());
            skim.push(body.as_bytes());
            Ollama.request(&skim.finish()).stream
        };
        assert!(stream(r#"{"model":"m"}"#) && stream(r#"{"stream":true}"#) && stream(r#"{"stream":null}"#));
        assert!(!stream(r#"{"stream":false}"#));
    }
}
