//! Every case of `tests/golden` yields the exchange that stands beside it, however its bytes are cut.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use streamgauge::dialect::DIALECTS;
use streamgauge::exchange::DialectId;
use streamgauge::observe::Observation;
use streamgauge::replay::{self, Pieces, difference::difference};
use streamgauge::sinks::request_log::Line;

use crate::case::{self, Case, Ending, Response};
use crate::encode::{ENCODINGS, encode};

const EVERY_SPLIT: usize = 8 << 10; // bytes of a body that is split at every place; a longer one at random ones
const RANDOM_SPLITS: usize = 64;
const FILES: [&str; 3] = ["request.http", "response.http", "exchange.json"];

#[test]
fn every_case_yields_its_exchange() {
    let cases = folders(&root()).into_iter().flat_map(|dialect| folders(&dialect)).collect::<Vec<_>>();
    assert!(cases.len() >= 40, "only {} cases in {}", cases.len(), root().display());
    let failures = on_all_cores(&cases, |folder| check(folder).err());
    let failures: Vec<_> = failures.into_iter().flatten().collect();
    assert!(
        failures.is_empty(),
        "{} of {} cases fail\n\n{}\nIf the new results are right by docs/measurement.md, write them with\n    \
         UPDATE=1 cargo test --test it golden\nand have every changed line reviewed by a human.",
        failures.len(),
        cases.len(),
        failures.join("\n"),
    );
}

#[test]
fn every_dialect_has_cases_and_every_case_its_files() {
    let mut missing = Vec::new();
    for id in DIALECTS.iter().map(|dialect| dialect.id()).chain([DialectId::UNKNOWN]) {
        if folders(&root().join(id.0)).is_empty() {
            missing.push(format!("{}: no case", id.0));
        }
    }
    for folder in folders(&root()).iter().flat_map(|dialect| folders(dialect)) {
        missing.extend(
            FILES
                .iter()
                .filter(|file| !folder.join(file).is_file())
                .map(|file| format!("{}: no {file}", name(&folder))),
        );
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Runs a case in every cut; the error tells all that is wrong with it.
fn check(folder: &Path) -> Result<(), String> {
    let told = |error: String| format!("{}: {error}\n", name(folder));
    let case = case::read(folder).map_err(told)?;
    let seen = observe(&case, &Pieces::of(&case));
    different_when_cut(&case, &seen).map_err(told)?;
    different_when_encoded(&case, &seen).map_err(told)?;
    different_when_asked_encoded(&case, &seen).map_err(told)?;
    let line = line(&case, seen);
    let got: Value = serde_json::from_str(&line).map_err(|error| told(error.to_string()))?;
    let path = folder.join("exchange.json");
    let expected = std::fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    let about =
        expected.as_ref().and_then(|json| json.get("about")).and_then(Value::as_str).map(str::to_owned);
    if std::env::var_os("UPDATE").is_some() {
        let about = about.unwrap_or_else(|| "say here what this case shows".to_owned());
        return std::fs::write(&path, file(&about, &line)).map_err(|error| told(error.to_string()));
    }
    about
        .filter(|about| !about.is_empty())
        .ok_or_else(|| told("exchange.json says nothing under \"about\"".to_owned()))?;
    let diff = difference(&expected.unwrap_or_default(), &got);
    if diff.is_empty() {
        return Ok(());
    }
    Err(told(format!("(- expected, + seen)\n{diff}\n{}", replay::explain(&case, true))))
}

/// Runs a case with its bytes cut in other ways; whatever is seen must be the same, times included.
fn different_when_cut(case: &Case, seen: &Observation) -> Result<(), String> {
    let differs = |how: String, pieces: Pieces<'_>| {
        let again = observe(case, &pieces);
        if again == *seen {
            return Ok(());
        }
        Err(format!("{how}: not what whole chunks yield\n- {seen:?}\n+ {again:?}"))
    };
    let whole = Pieces::of(case);
    differs(
        "bytewise".to_owned(),
        Pieces { request: bytewise(&whole.request), response: bytewise(&whole.response) },
    )?;
    for at in places(length(&whole.response)) {
        differs(
            format!("response split at {at}"),
            Pieces { response: split(&whole.response, at), ..whole.clone() },
        )?;
    }
    for at in places(length(&whole.request)) {
        differs(
            format!("request split at {at}"),
            Pieces { request: split(&whole.request, at), ..whole.clone() },
        )?;
    }
    Ok(())
}

/// Runs a case as a server would play it that encodes its body and flushes at each of the case's times: all but
/// the bytes on the wire must be the same, times included.
fn different_when_encoded(case: &Case, seen: &Observation) -> Result<(), String> {
    let Some(response) = case.response.as_ref().filter(|it| it.headers.get("content-encoding").is_none())
    else {
        return Ok(());
    };
    let plain = Pieces::of(case);
    for name in ENCODINGS {
        let mut case = case.clone();
        let encoded = encode(name, &plain.response, case.ending == Ending::End);
        let bytes: usize = encoded.iter().map(|(_, piece)| piece.len()).sum();
        let mut headers = response.headers.clone();
        headers.0.push(("Content-Encoding".to_owned(), name.as_bytes().to_vec()));
        case.response = Some(Response { headers, body: encoded, ..response.clone() });
        let whole = Pieces::of(&case);
        let bytewise = Pieces { response: bytewise(&whole.response), ..whole.clone() };
        for (how, pieces) in [("flushed", whole), ("bytewise", bytewise)] {
            let again = observe(&case, &pieces);
            let want = Observation { bytes_out: bytes as u64, ..seen.clone() };
            if again != want {
                return Err(format!("{name}, {how}: not what is seen without\n- {want:?}\n+ {again:?}"));
            }
        }
    }
    Ok(())
}

/// Runs a case as a client would play it that encodes its request: all but the bytes on the wire must be the same.
fn different_when_asked_encoded(case: &Case, seen: &Observation) -> Result<(), String> {
    if case.request.headers.get("content-encoding").is_some() || seen.request.is_none() {
        return Ok(());
    }
    for name in ENCODINGS {
        let mut case = case.clone();
        let encoded = encode(name, &[(Duration::ZERO, case.request.body.as_slice())], true);
        case.request.body = encoded.into_iter().flat_map(|(_, piece)| piece).collect();
        case.request.headers.0.push(("Content-Encoding".to_owned(), name.as_bytes().to_vec()));
        let whole = Pieces::of(&case);
        let bytewise = Pieces { request: bytewise(&whole.request), ..whole.clone() };
        for (how, pieces) in [("whole", whole), ("bytewise", bytewise)] {
            let again = observe(&case, &pieces);
            let want = Observation { bytes_in: case.request.body.len() as u64, ..seen.clone() };
            if again != want {
                return Err(format!(
                    "request in {name}, {how}: not what is seen without\n- {want:?}\n+ {again:?}"
                ));
            }
        }
    }
    Ok(())
}

fn length(pieces: &[(Duration, &[u8])]) -> usize {
    pieces.iter().map(|(_, bytes)| bytes.len()).sum()
}

fn bytewise<'a>(pieces: &[(Duration, &'a [u8])]) -> Vec<(Duration, &'a [u8])> {
    pieces.iter().flat_map(|(at, bytes)| bytes.chunks(1).map(|byte| (*at, byte))).collect()
}

/// The same pieces with one more cut, so many bytes from the start.
fn split<'a>(pieces: &[(Duration, &'a [u8])], place: usize) -> Vec<(Duration, &'a [u8])> {
    let mut before = 0;
    let mut cut = Vec::with_capacity(pieces.len() + 1);
    for (at, bytes) in pieces {
        let (head, tail) = bytes.split_at(place.saturating_sub(before).min(bytes.len()));
        cut.extend([head, tail].into_iter().filter(|part| !part.is_empty()).map(|part| (*at, part)));
        before += bytes.len();
    }
    cut
}

/// Where a body of this length is split.
fn places(length: usize) -> Vec<usize> {
    if length <= EVERY_SPLIT {
        return (1..length).collect();
    }
    let mut state = 0x9E37_79B9_7F4A_7C15_u64; // fixed, so that a failure comes again
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        1 + usize::try_from(state % (length as u64 - 1)).unwrap()
    };
    (0..RANDOM_SPLITS).map(|_| next()).collect()
}

/// What the observer sees of a case whose bytes come in these pieces.
fn observe(case: &Case, pieces: &Pieces<'_>) -> Observation {
    let (seen, token_events) = replay::observe(case, pieces);
    assert!(token_events <= seen.chunks, "events told while they came: {token_events} of {}", seen.chunks);
    seen
}

/// The line that a case's exchange has in the request log, without what differs from run to run.
fn line(case: &Case, observation: Observation) -> String {
    let exchange = replay::exchange(case, observation);
    serde_json::to_string_pretty(&Line::reproducible(&exchange)).unwrap()
}

fn file(about: &str, line: &str) -> String {
    let about = Value::from(about);
    let rest = line.strip_prefix('{').unwrap();
    format!("{{\n  \"about\": {about},{rest}\n")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A case's name: dialect and folder.
fn name(folder: &Path) -> String {
    folder.strip_prefix(root()).unwrap_or(folder).display().to_string()
}

/// The folders in a folder, sorted.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// Runs `work` for each item, in order of the items in the answer.
fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        while let Some((at, item)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, items.get(at)?)))
        {
            done.push((at, work(item)));
        }
        done
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}
