//! Reranking: `POST …/rerank`, as Cohere (`/v1`, `/v2`), Jina, Voyage and vLLM speak it. There is input and no output.
//! Cohere bills searches, which are no tokens: where it tells no tokens, there are none to report.
//!
//! Format: <https://docs.cohere.com/reference/rerank>, <https://api.jina.ai/redoc> and vLLM's Jina- and Cohere-like API.

use std::sync::LazyLock;

use super::lenient::Number;
use super::{Description, Dialect, OwnError, RequestFacts, Signal, Tells, openai};
use crate::exchange::{DialectId, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&["model"], &["query", "documents"]));
static BODY: LazyLock<Wanted> =
    LazyLock::new(|| Wanted::new(&["id", "model", "object", "type", "usage", "meta", "error"], &[]));

/// The API.
#[derive(Debug)]
pub(super) struct Rerank;

impl Dialect for Rerank {
    fn id(&self) -> DialectId {
        DialectId("rerank")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && path.ends_with("/rerank")
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/rerank"],
            stream: None,
            end: "",
            tells: &[Tells::Whole, Tells::Input, Tells::Failure],
        }
    }

    fn request_members(&self) -> &'static Wanted {
        &REQUEST
    }

    fn request(&self, members: &Members) -> RequestFacts {
        let text = members.measure("query").text_bytes + members.measure("documents").text_bytes;
        RequestFacts { stream: false, max_output: None, ..openai::request(members, 1, text) }
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        let word = |path| members.text(path).filter(|word| !word.is_empty());
        if let Some(model) = word("model") {
            emit(Signal::Model(&model));
        }
        if let Some(id) = word("id") {
            emit(Signal::UpstreamId(&id));
        }
        let usage = members
            .last("usage")
            .and_then(json::read::<UsageBody>)
            .map(|usage| usage.prompt_tokens.or(usage.total_tokens));
        let meta = || members.last("meta").and_then(json::read::<Meta>).map(Meta::input);
        if let Some(input) = usage.flatten().or_else(|| meta().flatten()) {
            emit(Signal::Usage(Usage { input: Some(input), ..Usage::default() }));
        }
        if let Some(error) = members.last("error") {
            emit(Signal::Failed(&openai::error_class(error)));
        } else if word("object").as_deref() == Some("error") {
            emit(Signal::Failed(word("type").as_deref().unwrap_or("error")));
        }
        if members.is_complete() {
            emit(Signal::Done);
        }
    }

    /// It has no streams.
    fn event(&self, _: &Event<'_>, _: &mut dyn FnMut(Signal<'_>)) {}

    fn knows_prompts(&self) -> bool {
        false
    }

    /// Cohere's shape, with OpenAI's member beside it: the other servers have that.
    fn error_body(&self, error: &OwnError<'_>) -> String {
        let mut body: serde_json::Value =
            serde_json::from_str(&openai::error_body(error)).unwrap_or_default();
        if let Some(members) = body.as_object_mut() {
            members.insert("message".to_owned(), error.message.into());
        }
        body.to_string()
    }
}

/// Of Jina, vLLM and Voyage.
#[derive(Default)]
struct UsageBody {
    prompt_tokens: Number,
    total_tokens: Number,
}

object!(UsageBody { prompt_tokens, total_tokens });

/// Of Cohere.
#[derive(Default)]
struct Meta {
    billed_units: Option<Counts>,
    tokens: Option<Counts>,
}

object!(Meta { billed_units, tokens });

#[derive(Default)]
struct Counts {
    input_tokens: Number,
}

object!(Counts { input_tokens });

impl Meta {
    fn input(self) -> Option<u64> {
        let count = |counts: Option<Counts>| counts.unwrap_or_default().input_tokens;
        count(self.billed_units).or(count(self.tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_have_both_shapes() {
        let error = OwnError { status: 429, message: "no room", request_id: "r-1" };
        let body: serde_json::Value = serde_json::from_str(&Rerank.error_body(&error)).unwrap();
        assert_eq!(body["message"], "no room");
        assert_eq!(body["error"]["message"], "no room");
        assert_eq!(body["error"]["request_id"], "r-1");
    }
}
