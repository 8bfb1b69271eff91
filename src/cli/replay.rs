//! `streamgauge replay`: recorded exchanges through the observer, without a network.
#![expect(clippy::print_stderr, reason = "progress is for the terminal")]

use std::io::{IsTerminal, Write as _, stderr, stdout};
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::Value;

use super::recorded::Recorded;
use crate::replay::{self, Pieces, difference::difference};
use crate::sinks::request_log::Line;

/// See what the observer makes of recorded exchanges, without a network
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Folders of cases or recordings, or single ones
    #[arg(required = true, value_name = "DIR|FILE")]
    paths: Vec<PathBuf>,
}

const EXAMPLES: &str = "\
EXAMPLES:
  streamgauge replay tests/golden                        every case below: ok, or what differs
  streamgauge replay tests/golden/openai_chat/vllm_n_2   one case
  streamgauge replay recordings/chat_stream.request.http > exchange.json

A case is a folder with request.http and response.http (tests/golden/README.md has the format), and
the exchange.json that it should yield. A recording is NAME.request.http, NAME.response.http (the
bytes on the wire) and NAME.timing.jsonl. One without exchange.json is printed as its exchange, in
JSON.

Exit code 1 where any case differs from its exchange.json.";

const MANY: usize = 100; // exchanges; fewer are read before anybody would look at their progress

/// What became of an exchange.
enum Result {
    Same,
    /// What differs.
    Differs(String),
    /// Nothing says what it should be; this was seen.
    Seen(Value),
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut recorded = Vec::new();
    for path in &args.paths {
        recorded.extend(Recorded::all(path)?);
    }
    if let [one] = recorded.as_slice() {
        return alone(one);
    }
    let mut out = stdout().lock();
    let (mut same, mut differ, mut unjudged) = (0, 0, 0);
    for (n, one) in recorded.iter().enumerate() {
        progress(n, recorded.len());
        let name = one.path().display();
        match judge(one) {
            Ok(Result::Same) => {
                same += 1;
                writeln!(out, "ok       {name}")?;
            }
            Ok(Result::Differs(difference)) => {
                differ += 1;
                write!(out, "differs  {name}\n{difference}")?;
            }
            Ok(Result::Seen(exchange)) => {
                unjudged += 1;
                writeln!(out, "seen     {name}: {}", in_short(&exchange))?;
            }
            Err(error) => {
                differ += 1;
                writeln!(out, "broken   {name}: {error:#}")?;
            }
        }
    }
    progress(recorded.len(), recorded.len());
    let seen = if unjudged > 0 { format!(", {unjudged} without exchange.json") } else { String::new() };
    writeln!(out, "\n{} exchanges: {same} ok, {differ} differ{seen}", recorded.len())?;
    if differ > 0 {
        bail!("{differ} of {} exchanges differ (- expected, + seen)", recorded.len());
    }
    Ok(())
}

fn alone(one: &Recorded) -> anyhow::Result<()> {
    let name = one.path();
    let mut out = stdout().lock();
    match judge(one)? {
        Result::Same => writeln!(out, "ok       {}", name.display())?,
        Result::Seen(exchange) => writeln!(out, "{exchange:#}")?,
        Result::Differs(difference) => {
            write!(out, "differs  {}\n{difference}", name.display())?;
            bail!("{} differs (- expected, + seen)", file_name(name));
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn judge(one: &Recorded) -> anyhow::Result<Result> {
    let case = one.read()?;
    let expected = one.expected()?;
    let (observation, _) = replay::observe(&case, &Pieces::of(&case));
    // The text and back: numbers are compared as they are written.
    let line = serde_json::to_string(&Line::reproducible(&replay::exchange(&case, observation)))?;
    let seen: Value = serde_json::from_str(&line)?;
    let Some(expected) = expected else { return Ok(Result::Seen(seen)) };
    let difference = difference(&expected, &seen);
    Ok(if difference.is_empty() { Result::Same } else { Result::Differs(difference) })
}

fn in_short(exchange: &Value) -> String {
    let text = |name| exchange.get(name).and_then(Value::as_str).unwrap_or("?");
    let mut short = format!("{}, {}", text("dialect"), text("outcome"));
    if let Some(ttft) = exchange.get("ttft_seconds").and_then(Value::as_f64) {
        short += &format!(", TTFT {:.0} ms", ttft * 1e3);
    }
    for (name, what) in [("input_tokens", "in"), ("output_tokens", "out")] {
        if let Some(tokens) = exchange.get(name) {
            short += &format!(", {tokens} {what}");
        }
    }
    short
}

/// Shows how far a long run is, on a terminal that shows nothing else.
fn progress(done: usize, of: usize) {
    if of < MANY || !stderr().is_terminal() || stdout().is_terminal() {
        return;
    }
    if done == of {
        eprint!("\r\x1b[K");
    } else if done.is_multiple_of(10) {
        eprint!("\r{done} of {of}");
    }
}
