//! What an exchange's record must say, by what its client saw and what was done to it.

use serde_json::Value;

use super::client::Saw;
use super::plan::{ASKED, Act, Behind, Golden, Plan, Role};
use super::wire::End;

/// Whether the sidecar gets to know of it; none where that is a matter of moments.
pub(super) fn reaches(plan: &Plan, is_cut: bool) -> Option<bool> {
    match plan.role {
        Role::Garbled => Some(false),
        _ if is_cut => None,
        _ => Some(true),
    }
}

pub(super) fn judge(
    plan: &Plan,
    golden: &Golden,
    saw: &Saw,
    line: &Value,
    is_cut: bool,
) -> Result<(), String> {
    let outcome = line["outcome"].as_str().unwrap();
    let code = line["code"].as_u64();
    let is = |allowed: &[&str]| {
        let is_drained = is_cut && outcome == "drained" && saw.end == End::Broken;
        (allowed.contains(&outcome) || is_drained)
            .then_some(())
            .ok_or_else(|| format!("{outcome} is none of {allowed:?}"))
    };
    if plan.role == Role::BreaksChunk {
        // Its library answers it, or the upstream was quicker.
        return if outcome == "drained" { is(&["drained"]) } else { Ok(()) };
    }
    if let Some(seen) = saw.code
        && code != Some(u64::from(seen))
    {
        return Err(format!("the client got {seen}"));
    }
    let (got, told) = (saw.body.0.len() as u64, line["bytes_out"].as_u64());
    let is_2xx = code.is_some_and(|code| (200..300).contains(&code));
    if is_2xx && saw.end != End::Left && told != Some(got) {
        return Err(format!("the client got {got} bytes, {told:?} went out"));
    }
    let refuses = plan.behind == Behind::Nowhere || plan.role == Role::Doubtful;
    match (saw.code, saw.end) {
        (_, End::Left) => left(plan, saw, outcome, is_cut),
        (None, _) if is_cut => {
            // Over HTTP/2 an answer has ended when the library has all of it, which our shutdown may keep from writing it.
            let whole = code.filter(|code| plan.over_http2 && *code >= 400);
            is(whole.map_or(&["drained"], |code| of_error(refuses, code)))
        }
        (None, _) => Err("the client got nothing".to_owned()),
        (Some(_), End::Clean) if refuses => is(&["rejected"]),
        (Some(code @ 400..), _) => is(of_error(refuses, u64::from(code))),
        (Some(200..=299), End::Clean) => clean(plan, golden, saw, &is),
        (Some(200..=299), End::Broken) if says_error(plan, saw) => is(&["stream_failed"]),
        (Some(200..=299), End::Broken) if is_encoded(plan, golden) || says_end(plan, golden, saw) => {
            is(&["completed", "truncated", "timed_out", "stream_failed"])
        }
        (Some(200..=299), End::Broken) => is(&["truncated", "timed_out", "stream_failed"]),
        (Some(_), End::Clean) => is(&["completed"]),
        (Some(_), End::Broken) => is(&["truncated", "timed_out"]),
    }
}

/// What an answer of an error's status may be recorded as.
fn of_error(refuses: bool, code: u64) -> &'static [&'static str] {
    match code {
        _ if refuses => &["rejected"],
        504 => &["timed_out"],
        500.. => &["upstream_failed"],
        _ => &["upstream_refused", "rejected"],
    }
}

/// A 2xx that came to its end.
fn clean(
    plan: &Plan,
    golden: &Golden,
    saw: &Saw,
    is: &dyn Fn(&[&str]) -> Result<(), String>,
) -> Result<(), String> {
    if says_error(plan, saw) {
        return is(&["stream_failed"]);
    }
    if plan.behind == Behind::Script {
        return match (plan.act, &golden.outcome) {
            (Act::Whole, Some(outcome)) => is(&[outcome]),
            (Act::Encoded(_), Some(outcome)) if !golden.is_encoded() => is(&[outcome]),
            _ => is(&["completed", "truncated", "stream_failed"]),
        };
    }
    match plan.fault {
        Some("end") => is(&["truncated"]),
        Some("no-done") => is(&["completed", "truncated"]),
        _ if says_end(plan, golden, saw) => is(&["completed"]),
        _ => Err("a stream without an end".to_owned()),
    }
}

/// The client hung up.
fn left(plan: &Plan, saw: &Saw, outcome: &str, is_cut: bool) -> Result<(), String> {
    let says_error = says_error(plan, saw);
    let hangs = match plan.behind {
        Behind::Script => plan.act == Act::HangBeforeHead,
        Behind::Sim(_) => matches!(plan.fault, Some("hang" | "hang-head")),
        Behind::Nobody | Behind::Nowhere => true,
    };
    let never = match outcome {
        "completed" => says_error || hangs,
        "drained" => !is_cut,
        "sidecar_failed" => true,
        _ => false,
    };
    (!never).then_some(()).ok_or_else(|| format!("{outcome}, though its client left"))
}

/// Whether an error came in the answer, as far as the client has read it.
fn says_error(plan: &Plan, saw: &Saw) -> bool {
    let is_sim = matches!(plan.behind, Behind::Sim(_));
    is_sim && String::from_utf8_lossy(&saw.body.0).contains("EngineCore encountered an issue")
}

/// Whether the body is one that a client without decoders cannot read.
fn is_encoded(plan: &Plan, golden: &Golden) -> bool {
    let by_act = matches!(plan.act, Act::Encoded(_) | Act::BadlyEncoded(_));
    plan.behind == Behind::Script && (by_act || golden.is_encoded())
}

/// Whether the answer says that it is over, as far as plain means tell: of a dialect that is not listed it may.
fn says_end(plan: &Plan, golden: &Golden, saw: &Saw) -> bool {
    let mark = match plan.behind {
        Behind::Script => match golden.dialect.as_str() {
            "openai_chat" | "openai_completions" => Some("[DONE]"),
            "openai_responses" => Some("response."),
            "anthropic_messages" => Some("message_stop"),
            "ollama" => Some("\"done\":true"),
            "llamacpp" => Some("\"stop\":true"),
            "gemini" => Some("blockReason"),
            "openai_embeddings" | "unknown" => None,
            _ => Some(""),
        },
        _ => Some(ASKED[plan.which % ASKED.len()].2).filter(|mark| !mark.is_empty()),
    };
    let text = String::from_utf8_lossy(&saw.body.0).replace(' ', "");
    let is_json = serde_json::from_slice::<Value>(&saw.body.0).is_ok();
    is_json || mark.is_some_and(|mark| text.contains(mark))
}
