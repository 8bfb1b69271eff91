//! What a dialect understands, as data: `docs/dialects.md` is made of it, and a test holds it to the cases of
//! `tests/golden`. What a byte means is each dialect's own to say.

use std::fmt::Write as _;

use super::{DIALECTS, Dialect, OwnError, openai};

/// What a dialect understands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Description {
    /// The ends of its paths, with what varies in them in capitals.
    pub paths: &'static [&'static str],
    /// How its streams are cut into events; none where it has no streams.
    pub stream: Option<Framing>,
    /// What marks the end of a stream.
    pub end: &'static str,
    /// What is read of its answers, in streams or in whole ones.
    pub tells: &'static [Tells],
}

/// How a stream is cut into events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events.
    Events,
    /// Lines of JSON.
    Lines,
    /// Messages of AWS's event stream.
    Messages,
}

impl Framing {
    /// In words.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Lines => "lines of JSON",
            Self::Messages => "AWS's event stream",
        }
    }
}

/// Something that an answer may tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    /// Its meaning, where it is no stream.
    Whole,
    /// How many tokens the input was.
    Input,
    /// How many of them came from a prompt cache.
    CacheRead,
    /// How many were written to one.
    CacheWrite,
    /// How many tokens the output was.
    Output,
    /// How many of them were reasoning.
    Reasoning,
    /// Which part of a stream is thoughts and not the answer.
    Thoughts,
    /// Why it ended.
    FinishReason,
    /// That it failed, in a body whose status is a 2xx.
    Failure,
}

impl Tells {
    /// Every one, in the order of the page's columns.
    pub const ALL: [Self; 9] = [
        Self::Whole,
        Self::Input,
        Self::CacheRead,
        Self::CacheWrite,
        Self::Output,
        Self::Reasoning,
        Self::Thoughts,
        Self::FinishReason,
        Self::Failure,
    ];

    /// The head of its column.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Whole => "whole answers",
            Self::Input => "input",
            Self::CacheRead => "cached input",
            Self::CacheWrite => "cache writes",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
            Self::Thoughts => "thoughts in a stream",
            Self::FinishReason => "finish reason",
            Self::Failure => "errors in a 2xx",
        }
    }
}

const HEAD: &str = "# What is understood

<!-- Written by a test from the table in src/dialect: UPDATE=1 cargo test --test it dialects -->

An API is known by the end of a request's path, so gateways and tenants may put prefixes before it. What is not in this
table passes all the same: it is timed, has the dialect `unknown`, and is counted in
`streamgauge_unobserved_requests_total`.

`yes` is held to recorded and made cases of that API in `tests/golden`. What an API does not report of tokens is counted
or estimated from the text ([measurement.md](measurement.md#where-a-count-comes-from)).

## Paths and streams

";

const TOKENS: &str = "
`usage on request`: whether [`inject_usage`](inject_usage.md) can ask for it. `our errors`: the shape of what the sidecar
itself answers to a client of this API, with 502 or 429, say.

## What answers tell

";

const NOTES: &str = "
## By server

- **TGI and SGLang** both have `POST …/generate`, and a request's head does not say whose it is; the body does: TGI's has
  `inputs`. One whose body cannot be read is `sglang`, and our own errors there have OpenAI's shape. TGI's root path
  (`POST /`) is not understood: any server has one. Of TGI's whole answers without `details`, the text is estimated; with
  `return_full_text` it holds the prompt, too.
- **SGLang** says a text from its start with every event, unless it was told not to: only what is new counts. Its counts
  are of each sample; they add up, and a prompt that `n` samples share is input once. Answers of token ids alone have
  counts and no times of tokens.
- **Triton and KServe** put the model into the path. Streams have no mark of their end, so the clean end of the body is
  it. Tensors of numbers and bodies with binary tensors are passed over: their tokens are `missing`.
- **Ollama's** durations are not used: times are measured, not believed.
- **OpenAI Realtime** (`…/realtime`, the dialect `openai_realtime`) and the Responses API in messages are spoken over
  WebSocket: each response is an exchange ([measurement.md](measurement.md#sessions-over-websocket)).
- **Azure OpenAI** (`…/openai/deployments/D/chat/completions?api-version=…`, `…/openai/v1/…`) and **OpenRouter**
  (`…/api/v1/…`) are OpenAI's APIs at other paths.
";

/// The page `docs/dialects.md`.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    let none = "–";
    let mut row = |cells: &[&str]| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    };
    row(&["dialect", "paths", "stream", "its end", "usage on request", "our errors"]);
    row(&["---"; 6]);
    for dialect in DIALECTS {
        let it = dialect.describe();
        let paths = it.paths.iter().map(|path| format!("`…{path}`")).collect::<Vec<_>>().join(", ");
        row(&[
            &format!("`{}`", dialect.id().0),
            &paths,
            if dialect.streams_arrays() {
                "events, or a JSON array"
            } else {
                it.stream.map_or(none, Framing::label)
            },
            if it.end.is_empty() { none } else { it.end },
            if dialect.reports_usage_when_asked() { "yes" } else { none },
            if has_own_errors(*dialect) { "its own" } else { "OpenAI's" },
        ]);
    }
    page.push_str(TOKENS);
    let mut row = |cells: Vec<&str>| {
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    };
    row(std::iter::once("dialect").chain(Tells::ALL.map(Tells::label)).collect());
    row(vec!["---"; Tells::ALL.len() + 1]);
    for dialect in DIALECTS {
        let it = dialect.describe();
        let name = format!("`{}`", dialect.id().0);
        let cells = Tells::ALL.map(|what| if it.tells.contains(&what) { "yes" } else { none });
        row(std::iter::once(name.as_str()).chain(cells).collect());
    }
    page.push_str(NOTES);
    page
}

fn has_own_errors(dialect: &dyn Dialect) -> bool {
    let error = OwnError { status: 502, message: "m", request_id: "r" };
    dialect.error_body(&error) != openai::error_body(&error)
}
