//! Every golden case once more, through the whole proxy: what reaches the server and the client is what the
//! other side sent, byte for byte and at the same time, and the record is the one that the observer alone makes.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::case::{self, Case, Ending, Headers, Response};
use super::harness::{ONE_UPSTREAM, Sidecar, Wire};

fn folders(of: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

#[test]
fn every_case_passes_unchanged() {
    let checked = play_all(|_| true, |case, want| Box::pin(pass(case, want)));
    assert!(checked >= 40, "only {checked} cases");
}

#[test]
fn every_case_passes_less_the_usage_event_where_that_was_asked_for() {
    let asked = |dialect: &str| dialect.starts_with("openai_c");
    let checked = play_all(asked, |case, want| Box::pin(inject(case, want)));
    assert!(checked >= 40, "only {checked} cases");
}

type Passing<'c> = Pin<Box<dyn Future<Output = Result<(), String>> + 'c>>;

/// Plays the cases of these dialects; gives how many there are.
fn play_all(plays: fn(&str) -> bool, pass: impl for<'c> Fn(&'c Case, Value) -> Passing<'c>) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut wrong = Vec::new();
    let mut checked = 0;
    for dialect in
        folders(&root).into_iter().filter(|folder| plays(folder.file_name().unwrap().to_str().unwrap()))
    {
        for folder in folders(&dialect) {
            let case = case::read(&folder).unwrap();
            let want: Value =
                serde_json::from_slice(&std::fs::read(folder.join("exchange.json")).unwrap()).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let passing = std::panic::AssertUnwindSafe(|| runtime.unwrap().block_on(pass(&case, want)));
            let result = std::panic::catch_unwind(passing).unwrap_or_else(|_| Err("panicked".to_owned()));
            checked += 1;
            wrong.extend(result.err().map(|error| format!("{}: {error}", folder.display())));
        }
    }
    assert!(wrong.is_empty(), "{} of {checked}:\n{}", wrong.len(), wrong.join("\n"));
    checked
}

/// Whether a case needs more than the upstream's bytes: what that is, is in `endings`, `timing` and `tunnel`.
fn is_elsewhere(case: &Case) -> bool {
    let is_tunnel = case.response.as_ref().is_some_and(|response| response.status == 101);
    is_tunnel || matches!(case.ending, Ending::TimedOut | Ending::Drained | Ending::NoAnswer)
}

async fn pass(case: &Case, want: Value) -> Result<(), String> {
    if is_elsewhere(case) {
        return Ok(());
    }
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    let start = tokio::time::Instant::now();
    let sent = request(case);
    let server = {
        let (case, sent) = (case.clone(), sent.clone());
        sidecar.beside(async move {
            let mut server = upstream.accept().await;
            let came = server.read_exactly(sent.len()).await;
            (came, play(&case, server, start).await)
        })
    };
    client.write(&sent).await;
    let seen = listen(case, &mut client, start).await;
    drop(client);
    let (came, server) = server.await.unwrap();
    drop(server);
    same("request", &came, &sent)?;
    if let Some(response) = &case.response {
        let (head, body) = seen;
        check_head(response, &head)?;
        let mut sent: Vec<(Duration, Vec<u8>)> = Vec::new();
        response.body.iter().for_each(|(at, piece)| append(&mut sent, *at, piece));
        if body != sent {
            let sizes = |pieces: &[(Duration, Vec<u8>)]| -> Vec<_> {
                pieces.iter().map(|(at, piece)| (*at, piece.len())).collect()
            };
            return Err(format!("body came as {:?}, was sent as {:?}", sizes(&body), sizes(&sent)));
        }
    }
    check_record(&sidecar, want).await
}

const INJECTING: &str = "upstreams: [{name: default, url: 'http://upstream:8000', inject_usage: true}]";

/// As [`pass`], before an upstream that is asked for usage: requests and answers that are not changed for it pass, of
/// the others the record says the same but for the bytes that went out.
async fn inject(case: &Case, mut want: Value) -> Result<(), String> {
    if is_elsewhere(case) {
        return Ok(());
    }
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let mut client = sidecar.connect();
    let start = tokio::time::Instant::now();
    let server = {
        let case = case.clone();
        sidecar.beside(async move {
            let mut server = upstream.accept().await;
            let head = server.read_head().await.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let came = server.read_exactly(length.map_or(0, |length| length.parse().unwrap())).await;
            (came, play(&case, server, start).await)
        })
    };
    client.write(request(case)).await;
    let (_, pieces) = listen(case, &mut client, start).await;
    drop(client);
    let (came, server) = server.await.unwrap();
    drop(server);
    let is_edited = came != case.request.body;
    if is_edited {
        let text = String::from_utf8_lossy(&case.request.body);
        let want = text.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
        same("request", &came, want.as_bytes())?;
    }
    if let Some(response) = &case.response {
        let sent: Vec<u8> = response.body.iter().flat_map(|(_, piece)| piece.clone()).collect();
        let got: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
        let is_stream = matches!(response.status, 200..300)
            && response.headers.get("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
            && response.headers.get("content-encoding").is_none_or(|coding| coding == "identity");
        same("answer", &got, &if is_edited && is_stream { less_usage(&sent, case.ending) } else { sent })?;
        want["bytes_out"] = got.len().into();
    }
    check_record(&sidecar, want).await
}

/// A stream less its first usage event, found by plain means; an event without its end is one if the stream ends well.
fn less_usage(stream: &[u8], ending: Ending) -> Vec<u8> {
    let text = String::from_utf8_lossy(stream);
    let blank = if text.contains("\r\n\r\n") {
        "\r\n\r\n"
    } else if text.contains("\n\n") {
        "\n\n"
    } else {
        "\r\r"
    };
    let mut taken = false;
    let mut kept = String::new();
    for event in text.split_inclusive(blank) {
        let lines = event
            .split(['\r', '\n'])
            .filter_map(|line| line.trim_start_matches('\u{FEFF}').strip_prefix("data:"));
        let data: Value = serde_json::from_str(&lines.collect::<Vec<_>>().join("\n")).unwrap_or_default();
        let is_whole = event.ends_with(blank) || ending == Ending::End;
        let is_one = data["usage"].is_object() && data["choices"].as_array().is_some_and(Vec::is_empty);
        if taken || !is_one || !is_whole {
            kept.push_str(event);
            continue;
        }
        taken = true;
        let comments = event.split_inclusive('\n').take_while(|line| line.starts_with(':'));
        kept.extend(comments);
    }
    if taken { kept.into_bytes() } else { stream.to_vec() }
}

async fn check_record(sidecar: &Sidecar, mut want: Value) -> Result<(), String> {
    let got = sidecar.reproducible().await;
    want.as_object_mut().unwrap().remove("about");
    for side in ["input", "output"] {
        // Replaying has no tokenizer: it estimates what the sidecar counts.
        if got[format!("{side}_source")] == "tokenized" && want[format!("{side}_source")] == "estimated" {
            want[format!("{side}_source")] = "tokenized".into();
            want[format!("{side}_tokens")] = got[format!("{side}_tokens")].clone();
        }
    }
    let got: Value =
        got.as_object().unwrap().iter().map(|(name, value)| (name.clone(), faster(name, value))).collect();
    if got != want {
        return Err(format!("recorded {got}\n  instead of {want}"));
    }
    Ok(())
}

/// A measure as it would be at the case's own speed.
fn faster(name: &str, value: &Value) -> Value {
    match value.as_f64() {
        Some(seconds) if name.ends_with("_seconds") => {
            ((seconds * 1e6 / f64::from(SLOWER)).round() / 1e6).into()
        }
        _ => value.clone(),
    }
}

fn same(what: &str, got: &[u8], want: &[u8]) -> Result<(), String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (got == want).then_some(()).ok_or_else(|| format!("{what} came as {:?}, was {:?}", text(got), text(want)))
}

/// The request as it goes over the wire.
fn request(case: &Case) -> Vec<u8> {
    let request = &case.request;
    let mut wire = format!("{} {} HTTP/1.1\r\n", request.method, request.target).into_bytes();
    write_headers(&mut wire, &request.headers, "Content-Length");
    if request.headers.get("host").is_none() {
        wire.extend_from_slice(b"Host: api\r\n");
    }
    if !request.body.is_empty() {
        wire.extend_from_slice(format!("Content-Length: {}\r\n", request.body.len()).as_bytes());
    }
    wire.extend_from_slice(b"\r\n");
    wire.extend_from_slice(&request.body);
    wire
}

fn write_headers(wire: &mut Vec<u8>, headers: &Headers, but: &str) {
    for (name, value) in headers.0.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(but)) {
        wire.extend_from_slice(name.as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value);
        wire.extend_from_slice(b"\r\n");
    }
}

/// Timers under paused time tick in milliseconds, recordings in microseconds: everything is played a thousand
/// times slower, and what was measured is divided again.
const SLOWER: u32 = 1000;

/// Plays the upstream; gives the connection back where the upstream did not break it off.
async fn play(case: &Case, mut server: Wire, start: tokio::time::Instant) -> Option<Wire> {
    let until = |at: Duration| tokio::time::sleep_until(start + at * SLOWER);
    if let Some(response) = &case.response {
        until(response.head).await;
        let mut head = format!("HTTP/1.1 {} Fine\r\n", response.status).into_bytes();
        write_headers(&mut head, &response.headers, "Transfer-Encoding");
        let chunked = is_chunked(case, response);
        if chunked {
            head.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        head.extend_from_slice(b"\r\n");
        server.write(&head).await;
        for (at, piece) in &response.body {
            until(*at).await;
            if chunked {
                server.write(format!("{:X}\r\n", piece.len())).await;
            }
            server.write(piece).await;
            if chunked {
                server.write("\r\n").await;
            }
        }
        until(case.ended).await;
        if case.ending == Ending::End && chunked {
            server.write("0\r\n\r\n").await;
        }
    }
    until(case.ended).await;
    if case.ending == Ending::ClientGone {
        assert!(server.closes_within(Duration::from_millis(100)).await, "the upstream is not released");
    }
    (case.ending != Ending::Cut).then_some(server)
}

/// Whether the body has no declared length, and there is one.
fn is_chunked(case: &Case, response: &Response) -> bool {
    let bodiless = case.request.method == "HEAD" || matches!(response.status, 204 | 304);
    response.headers.get("content-length").is_none() && !bodiless
}

type Pieces = Vec<(Duration, Vec<u8>)>;

fn append(pieces: &mut Pieces, at: Duration, bytes: &[u8]) {
    match pieces.last_mut() {
        Some((last, piece)) if *last == at => piece.extend_from_slice(bytes),
        _ if bytes.is_empty() => {}
        _ => pieces.push((at, bytes.to_vec())),
    }
}

/// What the client sees until the case ends: the head, and the body's pieces with their times.
async fn listen(case: &Case, client: &mut Wire, start: tokio::time::Instant) -> (String, Pieces) {
    let (mut raw, mut ends) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 64 << 10];
    let ended = start + case.ended * SLOWER;
    // A client that stays reads on for a moment: nothing more may come. One that leaves does so after what came
    // at that very moment.
    let moment = Duration::from_millis(if case.ending == Ending::ClientGone { 0 } else { 5 });
    tokio::select! {
        biased;
        () = async {
            while let Ok(n @ 1..) = client.0.read(&mut buffer).await {
                raw.extend_from_slice(&buffer[..n]);
                ends.push((raw.len(), start.elapsed() / SLOWER));
            }
            tokio::time::sleep_until(ended).await;
        } => {}
        () = async {
            tokio::time::sleep_until(ended + moment).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let head_end = raw.windows(4).position(|four| four == b"\r\n\r\n").map_or(raw.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&raw[..head_end]).into_owned();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let mut pieces = Pieces::new();
    for (offset, data) in data(&raw, head_end, chunked) {
        for (n, byte) in data.iter().enumerate() {
            let at = ends.iter().find(|(end, _)| offset + n < *end).map(|(_, at)| *at).unwrap();
            append(&mut pieces, at, &[*byte]);
        }
    }
    (head, pieces)
}

/// The body's data and where each piece of it stands.
fn data(raw: &[u8], from: usize, chunked: bool) -> Vec<(usize, &[u8])> {
    if !chunked {
        return vec![(from, &raw[from..])];
    }
    let mut found = Vec::new();
    let mut at = from;
    while let Some(line) = raw[at..].windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&raw[at..at + line]).unwrap(), 16).unwrap();
        let start = at + line + 2;
        let end = (start + size).min(raw.len());
        found.push((start, &raw[start..end]));
        at = (end + 2).min(raw.len());
        if size == 0 {
            break;
        }
    }
    found
}

fn check_head(response: &Response, head: &str) -> Result<(), String> {
    let mut lines = head.trim_end().split("\r\n");
    let status = format!("HTTP/1.1 {} Fine", response.status);
    if lines.next() != Some(&status) {
        return Err(format!("status line of {head:?} is not {status:?}"));
    }
    let mut got: Vec<_> =
        lines.filter(|line| !line.eq_ignore_ascii_case("transfer-encoding: chunked")).collect();
    let mut want: Vec<String> = Vec::new();
    for (name, value) in &response.headers.0 {
        if !["transfer-encoding", "connection", "keep-alive"].contains(&name.to_ascii_lowercase().as_str()) {
            want.push(format!("{name}: {}", String::from_utf8_lossy(value)));
        }
    }
    // Between names the order may change; within a name `hops` checks it.
    got.sort_unstable();
    want.sort();
    (got == want).then_some(()).ok_or_else(|| format!("headers came as {got:?}, were {want:?}"))
}
