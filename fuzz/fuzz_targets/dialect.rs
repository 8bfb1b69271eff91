//! Whatever an upstream answers to whatever a client asks: each dialect sees the same in one piece and cut in two, and what
//! it sees means something. The first byte selects the dialect, by name; the second how the answer is framed and which
//! status it has, the third where it is cut. The request's path and a line feed come first, then its body up to the first
//! NUL. `STREAMGAUGE_FUZZ_ONLY` takes nothing but what selects the dialect of that name.

#![no_main]

#[path = "../only.rs"]
mod only;

use std::time::Duration;

use libfuzzer_sys::{Corpus, fuzz_target};
use streamgauge::clock::Moment;
use streamgauge::dialect::{DIALECTS, Dialect, find};
use streamgauge::exchange::Ending;
use streamgauge::observe::{Head, Observation, Observer};
use streamgauge::replay;
use streamgauge::wire::event_stream;

const MESSAGES: &str = "application/vnd.amazon.eventstream";
const CONTENT_TYPES: [&str; 6] =
    ["text/event-stream", "application/x-ndjson", "application/json", "", MESSAGES, MESSAGES];
const SEALED: usize = 5; // the last one's messages are made here, for a checksum is hardly guessed

fuzz_target!(|input: &[u8]| -> Corpus {
    let [which, how, place, bytes @ ..] = input else { return Corpus::Reject };
    let mut dialects = DIALECTS.to_vec();
    dialects.sort_by_key(|dialect| dialect.id().0);
    let dialect = dialects[usize::from(*which) % dialects.len()];
    if !only::is_wanted(dialect.id().0) {
        return Corpus::Reject;
    }
    let framing = usize::from(how % 6);
    let content_type = CONTENT_TYPES[framing];
    let status = [200, 200, 400, 500][usize::from(how / 6 % 4)];
    let ending = [Ending::Clean, Ending::UpstreamBroke, Ending::ClientGone][usize::from(how / 24 % 3)];
    let asked = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
    let (request, answer) = (&bytes[..asked], bytes[asked..].strip_prefix(&[0]).unwrap_or(&bytes[asked..]));
    let line = request.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (path, request) = (String::from_utf8_lossy(&request[..line]), &request[line..]);
    let _ = find("POST", &path);
    let sealed = if framing == SEALED { sealed(answer) } else { Vec::new() };
    let answer = if framing == SEALED { &sealed } else { answer };
    let cut = |bytes: &[u8]| bytes.len() * usize::from(*place) / 255;
    let head =
        Head { status, content_type: Some(content_type).filter(|it| !it.is_empty()), ..Head::default() };
    let whole = observe(dialect, &path, [request, &[]], &head, [answer, &[]], ending);
    let (at, after) = (cut(request), cut(answer));
    let in_two = observe(
        dialect,
        &path,
        [&request[..at], &request[at..]],
        &head,
        [&answer[..after], &answer[after..]],
        ending,
    );
    assert_eq!(whole, in_two);
    let exchange = replay::settled(Ok(dialect), whole, ending);
    assert!(exchange.chunks > 0 || exchange.timing.ttft.is_none(), "{exchange:?}");
    assert!(exchange.timing.ttft.is_none_or(|ttft| ttft <= exchange.timing.duration), "{exchange:?}");
    Corpus::Keep
});

fn observe(
    dialect: &'static dyn Dialect,
    path: &str,
    request: [&[u8]; 2],
    head: &Head<'_>,
    answer: [&[u8]; 2],
    ending: Ending,
) -> Observation {
    let at = |millis| Moment::new(Duration::from_millis(millis));
    let mut observer = Observer::new(Ok(dialect), at(0)).on_path(path);
    request.iter().for_each(|piece| observer.request_chunk(piece));
    observer.request_end(at(1));
    observer.head(head, at(2));
    answer.iter().for_each(|piece| {
        observer.response_chunk(piece, at(3));
    });
    *observer.finish(ending, at(4))
}

/// Messages of these lines, each an event's type up to a blank, and its payload.
fn sealed(lines: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let (kind, payload) = line.split_at(line.iter().position(|byte| *byte == b' ').unwrap_or(0));
        let kind = String::from_utf8_lossy(kind);
        let name = if kind.ends_with("Exception") { ":exception-type" } else { ":event-type" };
        let class = if kind.ends_with("Exception") { "exception" } else { "event" };
        event_stream::write(&[(":message-type", class), (name, &kind)], payload, &mut stream);
    }
    stream
}
