//! The inference protocol of KServe and Triton: `POST …/v2/models/MODEL[/versions/VERSION]/` with `generate`,
//! `generate_stream` or `infer`. Tensors of numbers and bodies with binary data are passed over.
//!
//! Format: <https://github.com/triton-inference-server/server/tree/main/docs/protocol>. A stream has no mark of its
//! end, and nothing is reported of its tokens, unless the request asks Triton's vLLM backend for it.

use std::sync::LazyLock;

use super::lenient::{Fragment, Number, Word, number};
use super::{
    DeltaKind, Description, Dialect, Framing, OwnError, PathFacts, RequestFacts, Signal, Tells, openai,
};
use crate::exchange::{DialectId, Name, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

const MOST: [&str; 2] = ["max_tokens", "parameters.max_tokens"];
static REQUEST: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&MOST, &["text_input", "inputs.*.data"]));
const TEXTS: [&str; 2] = ["text_output", "outputs.*.data"];
static BODY: LazyLock<Wanted> = LazyLock::new(|| {
    Wanted::new(
        &["model_name", "id", "finish_reason", "num_input_tokens", "num_output_tokens", "error"],
        &TEXTS,
    )
});

const MODELS: &str = "/v2/models/";

/// The API.
#[derive(Debug)]
pub(super) struct Kserve;

impl Dialect for Kserve {
    fn id(&self) -> DialectId {
        DialectId("kserve")
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        method == "POST" && place(path).is_some()
    }

    fn describe(&self) -> Description {
        Description {
            paths: &["/v2/models/MODEL[/versions/VERSION]/generate", "/generate_stream", "/infer"],
            stream: Some(Framing::Events),
            end: "the clean end of the body",
            tells: &[Tells::Whole, Tells::Input, Tells::Output, Tells::FinishReason, Tells::Failure],
        }
    }

    fn request_members(&self) -> &'static Wanted {
        &REQUEST
    }

    fn request(&self, members: &Members) -> RequestFacts {
        let texts = ["text_input", "inputs.*.data"].map(|path| members.measure(path));
        // What is no text may be token ids, or pixels: how many tokens that is, nobody knows from here.
        let is_text = texts.iter().any(|measure| measure.texts > 0);
        RequestFacts {
            choices: 1,
            max_output: MOST.into_iter().find_map(|path| openai::most(members, path)),
            prompt_text_bytes: is_text.then(|| texts.iter().map(|measure| measure.text_bytes).sum()),
            ..RequestFacts::default()
        }
    }

    fn path_facts(&self, path: &str) -> PathFacts {
        let Some((model, verb)) = place(path.trim_end_matches('/')) else { return PathFacts::default() };
        let model = Some(model).filter(|model| !model.is_empty()).map(Name::from);
        PathFacts { model, stream: Some(verb == "generate_stream") }
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        let word = |path| members.text(path).filter(|word| !word.is_empty());
        if let Some(model) = word("model_name") {
            emit(Signal::Model(&model));
        }
        if let Some(id) = word("id") {
            emit(Signal::UpstreamId(&id));
        }
        let usage = Usage {
            input: number(members, "num_input_tokens").0,
            output: number(members, "num_output_tokens").0,
            ..Usage::default()
        };
        if !usage.is_empty() {
            emit(Signal::Usage(usage));
        }
        let texts = TEXTS.map(|path| members.measure(path));
        if texts.iter().any(|measure| measure.texts > 0) {
            emit(Signal::Text { bytes: texts.iter().map(|measure| measure.text_bytes).sum() });
        }
        if let Some(reason) = word("finish_reason") {
            tell_reason(&reason, emit);
        }
        if word("error").is_some() {
            emit(Signal::Failed("error"));
        }
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

    fn ends_without_mark(&self) -> bool {
        true
    }

    fn error_body(&self, error: &OwnError<'_>) -> String {
        let OwnError { message, request_id, .. } = *error;
        serde_json::json!({"error": message, "request_id": request_id}).to_string()
    }
}

/// The model in a path, and what is asked of it, where that generates something.
fn place(path: &str) -> Option<(&str, &str)> {
    let (_, rest) = path.rsplit_once(MODELS)?;
    let (model, verb) = rest.split_once('/')?;
    let verb = match verb.strip_prefix("versions/") {
        Some(version) => version.split_once('/')?.1,
        None => verb,
    };
    ["generate", "generate_stream", "infer"].contains(&verb).then_some((model, verb))
}

/// Whether a path is a model's: what is no generation of it asks for its metadata, statistics or readiness.
pub(super) fn is_of_model(path: &str) -> bool {
    path.contains(MODELS)
}

#[derive(Default)]
struct Answer<'a> {
    model_name: Word<'a>,
    text_output: Option<&'a str>,
    finish_reason: Word<'a>,
    num_input_tokens: Number,
    /// Those of this event.
    num_output_tokens: Number,
    error: Option<&'a str>,
}

object!(Answer<'a> { model_name, text_output, finish_reason, num_input_tokens, num_output_tokens, error });

impl Answer<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        if self.error.is_some() {
            return emit(Signal::Failed("error"));
        }
        if let Some(model) = self.model_name.as_str() {
            emit(Signal::Model(model));
        }
        let mut tokens = self.num_output_tokens.0.and_then(|tokens| u32::try_from(tokens).ok());
        let mut tell = |text: Fragment<'_>| {
            emit(Signal::Delta { choice: 0, text, tokens: tokens.take(), kind: DeltaKind::Content });
        };
        if let Some(output) = self.text_output {
            match Fragment::of(output) {
                Some(text) => tell(text),
                None => {
                    json::for_each(output, &mut |part| Fragment::of(part).into_iter().for_each(&mut tell))
                }
            }
        }
        if let Some(input) = self.num_input_tokens.0 {
            emit(Signal::Usage(Usage { input: Some(input), ..Usage::default() }));
        }
        if let Some(word) = self.finish_reason.as_str() {
            tell_reason(word, emit);
        }
    }
}

/// While it runs, the reason is `None`, in a word.
fn tell_reason(word: &str, emit: &mut dyn FnMut(Signal<'_>)) {
    if !["None", "null"].contains(&word) {
        emit(Signal::Finish { choice: 0, reason: openai::finish_reason(word) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_says_model_and_stream() {
        let facts = |path| {
            let PathFacts { model, stream } = Kserve.path_facts(path);
            Kserve.matches("POST", path).then(|| (model.unwrap().as_str().to_owned(), stream.unwrap()))
        };
        let known = |model: &str, stream| Some((model.to_owned(), stream));
        assert_eq!(facts("/v2/models/m/generate"), known("m", false));
        assert_eq!(facts("/triton/v2/models/m/versions/1/generate_stream"), known("m", true));
        assert_eq!(facts("/v2/models/m/infer"), known("m", false));
        for other in
            ["/v2/models/m", "/v2/models/m/versions/1", "/v2/models/m/ready", "/v2/models/m/versions/1/stats"]
        {
            assert_eq!(facts(other), None, "{other}");
        }
    }

    #[test]
    fn our_own_errors_have_tritons_shape() {
        let error = OwnError { status: 502, message: "no \"answer\"", request_id: "r-1" };
        let body: serde_json::Value = serde_json::from_str(&Kserve.error_body(&error)).unwrap();
        assert_eq!(body, serde_json::json!({"error": "no \"answer\"", "request_id": "r-1"}));
    }
}
