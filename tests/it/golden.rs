//! Every case of `tests/golden` yields the exchange that stands beside it, however its bytes are cut.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use streamgauge::account::model::Models;
use streamgauge::account::settle::{Finished, settle};
use streamgauge::clock::Moment;
use streamgauge::dialect::{self, DIALECTS};
use streamgauge::exchange::{self, DialectId, Name};
use streamgauge::live::Origin;
use streamgauge::observe::{Head, Observation, Observer};
use streamgauge::sinks::request_log::Line;

use crate::case::{Case, Ending, Response};
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
    let case = Case::read(folder).map_err(told)?;
    let seen = observe(&case, case.pieces());
    different_when_cut(&case, &seen).map_err(told)?;
    different_when_encoded(&case, &seen).map_err(told)?;
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
    let diff = difference(&members(expected.as_ref()), &members(Some(&got)));
    if diff.is_empty() { Ok(()) } else { Err(told(format!("(- expected, + seen)\n{diff}"))) }
}

/// Runs a case with its bytes cut in other ways; whatever is seen must be the same, times included.
fn different_when_cut(case: &Case, seen: &Observation) -> Result<(), String> {
    let differs = |how: String, pieces: Pieces<'_>| {
        let again = observe(case, pieces);
        if again == *seen {
            return Ok(());
        }
        Err(format!("{how}: not what whole chunks yield\n- {seen:?}\n+ {again:?}"))
    };
    let whole = case.pieces();
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
    let plain = case.pieces();
    for name in ENCODINGS {
        let mut case = case.clone();
        let encoded = encode(name, &plain.response, case.ending == Ending::End);
        let bytes: usize = encoded.iter().map(|(_, piece)| piece.len()).sum();
        let mut headers = response.headers.clone();
        headers.0.push(("Content-Encoding".to_owned(), name.as_bytes().to_vec()));
        case.response = Some(Response { headers, body: encoded, ..response.clone() });
        let whole = case.pieces();
        let bytewise = Pieces { response: bytewise(&whole.response), ..whole.clone() };
        for (how, pieces) in [("flushed", whole), ("bytewise", bytewise)] {
            let again = observe(&case, pieces);
            let want = Observation { bytes_out: bytes as u64, ..seen.clone() };
            if again != want {
                return Err(format!("{name}, {how}: not what is seen without\n- {want:?}\n+ {again:?}"));
            }
        }
    }
    Ok(())
}

/// A case's bytes as they are handed over.
#[derive(Clone)]
struct Pieces<'a> {
    request: Vec<(Duration, &'a [u8])>,
    response: Vec<(Duration, &'a [u8])>,
}

impl Case {
    fn pieces(&self) -> Pieces<'_> {
        let body = self.response.iter().flat_map(|response| &response.body);
        Pieces {
            request: vec![(Duration::ZERO, self.request.body.as_slice())],
            response: body.map(|(at, bytes)| (*at, bytes.as_slice())).collect(),
        }
    }
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
fn observe(case: &Case, pieces: Pieces<'_>) -> Observation {
    let at = |since_start: Duration| Moment::new(since_start);
    let mut observer =
        Observer::new(dialect::find(&case.request.method, case.request.path()), at(Duration::ZERO));
    pieces.request.iter().for_each(|(_, bytes)| observer.request_chunk(bytes));
    observer.request_end(at(Duration::ZERO));
    if let Some(response) = &case.response {
        observer.head(&head(case, response), at(response.head));
    }
    let mut token_events = 0;
    for (time, bytes) in pieces.response {
        token_events += observer.response_chunk(bytes, at(time)).token_events;
    }
    let mut seen = observer.finish(transport(case.ending), at(case.ended));
    assert!(token_events <= seen.chunks, "events told while they came: {token_events} of {}", seen.chunks);
    // Where the upstream gave no head, the client got the proxy's own answer.
    seen.closure.code = seen.closure.code.or(match case.ending {
        Ending::NoAnswer => Some(502),
        Ending::TimedOut => Some(504),
        _ => None,
    });
    seen
}

fn head<'a>(case: &Case, response: &'a Response) -> Head<'a> {
    let header = |name| response.headers.get(name);
    Head {
        status: response.status,
        content_type: header("content-type"),
        content_encoding: header("content-encoding"),
        request_id: ["x-request-id", "request-id", "apim-request-id", "x-amzn-requestid"]
            .into_iter()
            .find_map(header),
        bodiless: case.request.method == "HEAD" || matches!(response.status, 204 | 304),
    }
}

fn transport(ending: Ending) -> exchange::Ending {
    match ending {
        Ending::End => exchange::Ending::Clean,
        Ending::Cut => exchange::Ending::UpstreamBroke,
        Ending::ClientGone => exchange::Ending::ClientGone,
        Ending::NoAnswer => exchange::Ending::NoAnswer,
        Ending::TimedOut => exchange::Ending::TimedOut,
        Ending::Drained => exchange::Ending::Drained,
    }
}

/// The line that a case's exchange has in the request log, without what differs from run to run.
fn line(case: &Case, observation: Observation) -> String {
    let dialect = dialect::find(&case.request.method, case.request.path());
    let origin = Origin {
        request_id: Name::from("golden"),
        trace_id: None,
        tenant: Name::from("anonymous"),
        upstream: Name::from("default"),
        dialect: dialect.map_or(DialectId::UNKNOWN, |dialect| dialect.id()),
        started: Moment::new(Duration::ZERO),
    };
    let finished = Finished {
        origin,
        observation,
        ending: transport(case.ending),
        connect: None,
        overhead_request: None,
        overhead_response: Duration::ZERO,
        in_flight_at_start: 0,
    };
    let exchange = settle(finished, &Models::default(), Name::from("golden"), SystemTime::UNIX_EPOCH);
    serde_json::to_string_pretty(&Line::reproducible(&exchange)).unwrap()
}

/// The members of an expected or seen exchange, as they are written; `about` is for people.
fn members(json: Option<&Value>) -> BTreeMap<String, String> {
    let object = json.and_then(Value::as_object).cloned().unwrap_or_default();
    object
        .into_iter()
        .filter(|(name, _)| name != "about")
        .map(|(name, value)| (name, value.to_string()))
        .collect()
}

fn difference(expected: &BTreeMap<String, String>, seen: &BTreeMap<String, String>) -> String {
    let mut lines = String::new();
    for name in expected.keys().chain(seen.keys().filter(|name| !expected.contains_key(*name))) {
        let (want, got) = (expected.get(name), seen.get(name));
        if want != got {
            want.iter().for_each(|value| writeln!(lines, "    - {name}: {value}").unwrap());
            got.iter().for_each(|value| writeln!(lines, "    + {name}: {value}").unwrap());
        }
    }
    lines
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
