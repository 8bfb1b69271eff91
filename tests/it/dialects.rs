//! What dialects say that they understand is what their cases show, and what `docs/dialects.md` says.

use std::path::{Path, PathBuf};

use serde_json::Value;
use streamgauge::dialect::{DIALECTS, Tells, page};

#[test]
fn docs_dialects_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dialects.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let told = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(told == page(), "docs/dialects.md is old: UPDATE=1 cargo test --test it dialects");
}

#[test]
fn what_a_dialect_claims_a_case_shows_and_the_reverse() {
    let mut wrong = Vec::new();
    for dialect in DIALECTS {
        let (name, it) = (dialect.id().0, dialect.describe());
        let cases = cases(name);
        for what in Tells::ALL {
            let (claimed, shown) = (it.tells.contains(&what), cases.iter().any(|case| shows(case, what)));
            if claimed != shown {
                wrong.push(format!("{name}: {} is claimed: {claimed}, shown: {shown}", what.label()));
            }
        }
        let streams = cases.iter().any(|case| case["ttft_seconds"].is_number());
        if it.stream.is_some() != streams {
            wrong.push(format!("{name}: a stream is claimed: {}, shown: {streams}", it.stream.is_some()));
        }
        for path in it.paths {
            let known = path.replace("[/versions/VERSION]", "");
            let end = known.rsplit("MODEL").next().unwrap_or_default();
            if !requests(name).iter().any(|asked| asked.ends_with(end)) {
                wrong.push(format!("{name}: no case asks {path}"));
            }
        }
        if it.paths.is_empty() {
            wrong.push(format!("{name}: describes no path"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a case's exchange shows that something is understood.
fn shows(case: &Value, what: Tells) -> bool {
    let some = |name: &str| case[name].as_u64().is_some_and(|number| number > 0);
    let (stream, completed) = (case["stream"] == true, case["outcome"] == "completed");
    match what {
        Tells::Whole => !stream && completed && case["code"] == 200 && case["input_tokens"].is_number(),
        Tells::Input => case["input_source"] == "reported",
        Tells::CacheRead => some("cache_read_input_tokens"),
        Tells::CacheWrite => some("cache_write_input_tokens"),
        Tells::Output => case["output_source"] == "reported" && some("output_tokens"),
        Tells::Reasoning => some("reasoning_output_tokens"),
        Tells::Thoughts => {
            case["ttft_seconds"].is_number() && case["first_answer_seconds"] != case["ttft_seconds"]
        }
        Tells::FinishReason => case["finish_reason"].is_string(),
        Tells::Failure => case["outcome"] == "stream_failed",
    }
}

fn folders(dialect: &str) -> impl Iterator<Item = PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(dialect);
    std::fs::read_dir(root).into_iter().flatten().map(|entry| entry.unwrap().path())
}

fn cases(dialect: &str) -> Vec<Value> {
    folders(dialect)
        .map(|folder| serde_json::from_slice(&std::fs::read(folder.join("exchange.json")).unwrap()).unwrap())
        .collect()
}

/// The paths that a dialect's cases ask for.
fn requests(dialect: &str) -> Vec<String> {
    folders(dialect)
        .map(|folder| {
            let head = std::fs::read(folder.join("request.http")).unwrap();
            let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
            let target = line.split(' ').nth(1).unwrap_or_default();
            target.split('?').next().unwrap_or_default().to_owned()
        })
        .collect()
}
