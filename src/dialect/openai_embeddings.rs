//! OpenAI embeddings: `POST …/embeddings`, also as vLLM, SGLang, llama.cpp, Voyage and Mistral speak it. There
//! is input and no output. The embeddings themselves, megabytes of them, are passed over.

use std::sync::LazyLock;

use super::lenient::Number;
use super::{Description, Dialect, RequestFacts, Signal, Tells, openai};
use crate::exchange::{DialectId, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

// vLLM takes `messages` in place of `input` for models that embed images.
static REQUEST: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&["model"], &["input", "messages"]));

/// The API.
#[derive(Debug)]
pub(super) struct OpenaiEmbeddings;

const BYTES_A_TOKEN: u64 = 4; // an input given as token ids is measured as if it were text

impl Dialect for OpenaiEmbeddings {
    fn id(&self) -> DialectId {
        DialectId("openai_embeddings")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && path.ends_with("/embeddings")
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/embeddings"],
            stream: None,
            end: "",
            tells: &[Tells::Whole, Tells::Input, Tells::CacheRead, Tells::Failure],
        }
    }

    fn request_members(&self) -> &'static Wanted {
        &REQUEST
    }

    fn request(&self, members: &Members) -> RequestFacts {
        let input = members.measure("input");
        let text = input.text_bytes + input.numbers * BYTES_A_TOKEN + members.measure("messages").text_bytes;
        RequestFacts { stream: false, ..openai::request(members, 1, text) }
    }

    fn body_members(&self) -> &'static Wanted {
        &openai::BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        openai::tell_body(members, &mut |signal| tell_input_only(signal, emit));
        if let Some(usage) = members.last("usage").and_then(read_usage) {
            emit(Signal::Usage(usage));
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        let no_choice = |(): &(), _: &mut dyn FnMut(Signal<'_>)| {};
        openai::event(event, &mut |signal| tell_input_only(signal, emit), no_choice);
    }
}

/// Some servers report 0 output tokens where there is no output to report on.
fn tell_input_only(signal: Signal<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
    emit(match signal {
        Signal::Usage(usage) => Signal::Usage(Usage { output: None, reasoning: None, ..usage }),
        other => other,
    });
}

/// Voyage reports a total only; it is the input, as there is nothing else.
fn read_usage(json: &str) -> Option<Usage> {
    #[derive(Default)]
    struct Total {
        prompt_tokens: Number,
        total_tokens: Number,
    }

    object!(Total { prompt_tokens, total_tokens });
    let body: Total = json::read(json)?;
    Some(Usage { input: body.prompt_tokens.or(body.total_tokens), ..Usage::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Skim;

    #[test]
    fn megabytes_of_embeddings_are_passed_over_and_the_usage_behind_them_read() {
        let mut skim = Skim::new(OpenaiEmbeddings.body_members());
        skim.push(br#"{"object":"list","model":"m","data":["#);
        let embedding = format!(r#"{{"index":0,"embedding":[{}0.5]}},"#, "-0.01234567,".repeat(4096));
        for _ in 0..100 {
            embedding.as_bytes().chunks(16 << 10).for_each(|chunk| skim.push(chunk));
        }
        skim.push(br#"{"index":100,"embedding":"AAAA"}],"usage":{"prompt_tokens":800,"total_tokens":800}}"#);
        let members = skim.finish();
        let kept = openai::BODY_MEMBERS.iter().flat_map(|path| members.each(path));
        let kept: usize = kept.map(str::len).sum();
        assert!(kept < 100, "{kept} bytes kept");
        let mut usage = None;
        OpenaiEmbeddings.body(&members, &mut |signal| {
            if let Signal::Usage(told) = signal {
                usage = Some(told);
            }
        });
        assert_eq!(usage, Some(Usage { input: Some(800), ..Usage::default() }));
    }
}
