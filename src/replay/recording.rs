//! Reads raw recordings: the bytes of one exchange as they were on the wire of HTTP/1, and when each read of
//! the answer came. Undoes transfer coding, keeps the time of every read, drops what belongs to the
//! connection.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;

use super::case::{Case, Ending, Headers, Request, Response, headers, line, request, status};

/// Names of headers that belong to the connection.
const HOP: &[&str] = &["connection", "transfer-encoding", "keep-alive", "proxy-connection"];

/// Reads a recording from its three files: the bytes sent, the bytes received, and a line of JSON for each
/// read: `t_us` since the first request byte was sent, `off` and `len` in the bytes received; `eof` or
/// `client_closed` stands in the last line.
///
/// # Errors
/// What in which file is not in the format.
pub fn read(sent: &[u8], received: &[u8], timing: &str) -> Result<Case, String> {
    let request = asked(sent).map_err(|error| format!("the request: {error}"))?;
    let reads = Reads::of(timing).map_err(|error| format!("the timing: {error}"))?;
    let gone = reads.last.client_closed;
    if received.is_empty() {
        let ending = if gone { Ending::ClientGone } else { Ending::NoAnswer };
        return Ok(Case { request, response: None, ending, ended: reads.last.at() });
    }
    let (response, end) =
        answered(received, &request.method, &reads).map_err(|error| format!("the response: {error}"))?;
    let (ending, ended) = match end {
        _ if gone => (Ending::ClientGone, reads.last.at()),
        End::Known(at) => (Ending::End, at),
        End::WithConnection => (Ending::End, reads.last.at()),
        End::Missing => (Ending::Cut, reads.last.at()),
    };
    Ok(Case { request, response: Some(response), ending, ended })
}

/// Where a body ends.
enum End {
    /// At this time, as its framing says.
    Known(Duration),
    /// With the connection, as the head says by its silence.
    WithConnection,
    /// Its framing says that more should have come.
    Missing,
}

fn asked(sent: &[u8]) -> Result<Request, String> {
    let mut request = request(sent)?;
    if is_chunked(&request.headers) {
        let (ranges, _) = chunks(&request.body)?;
        request.body = ranges.into_iter().flat_map(|range| part(&request.body, range).to_vec()).collect();
    }
    request.headers.0.retain(|(name, _)| !is_hop(name) && !name.eq_ignore_ascii_case("content-length"));
    Ok(request)
}

fn answered(received: &[u8], method: &str, reads: &Reads) -> Result<(Response, End), String> {
    let (status_line, rest) = line(received);
    let status = status(status_line)?;
    let (mut headers, body) = headers(rest)?;
    let start = received.len() - body.len();
    if matches!(status, 100..=199) && status != 101 {
        return Err(format!("a recording that begins with a {status} is not read"));
    }
    let length = headers.get("content-length").and_then(|length| length.parse::<usize>().ok());
    let (ranges, end) = if method == "HEAD" || matches!(status, 204 | 304) {
        (Vec::new(), Some(0))
    } else if is_chunked(&headers) {
        chunks(body)?
    } else if let Some(length) = length {
        (std::iter::once(0..length.min(body.len())).collect(), (body.len() >= length).then_some(length))
    } else {
        (std::iter::once(0..body.len()).collect(), None)
    };
    let end = match end {
        Some(end) => End::Known(reads.arrival(start + end).ok_or("its end is in no read")?),
        None if length.is_none() && !is_chunked(&headers) => End::WithConnection,
        None => End::Missing,
    };
    let head = reads.arrival(start).ok_or("its head is in no read")?;
    headers.0.retain(|(name, _)| !is_hop(name));
    let body = reads.pieces(received, start, &ranges);
    Ok((Response { head, status, headers, body }, end))
}

fn is_hop(name: &str) -> bool {
    HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop))
}

fn is_chunked(headers: &Headers) -> bool {
    headers.get("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
}

/// The ranges of a chunked body that are content, and where it ends; none where it does not.
fn chunks(body: &[u8]) -> Result<(Vec<Range<usize>>, Option<usize>), String> {
    let newline = |from: usize| Some(memchr::memmem::find(body.get(from..)?, b"\r\n")? + from);
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(end) = newline(at) {
        let size = String::from_utf8_lossy(part(body, at..end));
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| format!("{size:?} is no size of a chunk"))?;
        at = end + 2;
        if size == 0 {
            return Ok((ranges, newline(at).map(|end| end + 2)));
        }
        let after = at.saturating_add(size);
        ranges.push(at..after.min(body.len()));
        at = after.saturating_add(2);
    }
    Ok((ranges, None))
}

fn part(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

/// A line of the timing.
#[derive(Debug, Clone, Deserialize)]
struct Read {
    t_us: u64,
    #[serde(default)]
    off: usize,
    #[serde(default)]
    len: usize,
    #[serde(default, deserialize_with = "there")]
    client_closed: bool,
}

/// A member counts by being there, whatever it is.
fn there<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(from).map(|_| true)
}

impl Read {
    fn at(&self) -> Duration {
        Duration::from_micros(self.t_us)
    }
}

/// The reads of an answer, in order.
struct Reads {
    reads: Vec<Read>,
    /// The line that tells the end.
    last: Read,
}

impl Reads {
    fn of(timing: &str) -> Result<Self, String> {
        let lines = timing.lines().filter(|line| !line.trim().is_empty());
        let reads: Vec<Read> = lines
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("a line is not in the format: {error}"))?;
        let last = reads.last().cloned().ok_or("it has no line")?;
        Ok(Self { reads: reads.into_iter().filter(|read| read.len > 0).collect(), last })
    }

    /// When the byte before `end` was read.
    fn arrival(&self, end: usize) -> Option<Duration> {
        let holds = |read: &&Read| read.off < end && end <= read.off.saturating_add(read.len);
        self.reads.iter().find(holds).map(Read::at)
    }

    /// The content of a body that begins at `start`, cut by the reads that brought it.
    fn pieces(&self, received: &[u8], start: usize, ranges: &[Range<usize>]) -> Vec<(Duration, Vec<u8>)> {
        let mut pieces: Vec<(Duration, Vec<u8>)> = Vec::new();
        for range in ranges {
            let (first, after) = (range.start + start, range.end + start);
            for read in &self.reads {
                let from = first.max(read.off);
                let bytes = part(received, from..after.min(read.off.saturating_add(read.len)).max(from));
                match pieces.last_mut() {
                    _ if bytes.is_empty() => {}
                    Some((at, piece)) if *at == read.at() => piece.extend_from_slice(bytes),
                    _ => pieces.push((read.at(), bytes.to_vec())),
                }
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &[u8] = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}";

    fn case(received: &str, timing: &str) -> Result<Case, String> {
        read(ASKED, received.as_bytes(), timing)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn chunked_framing_is_undone_and_each_read_keeps_its_time() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n";
        let received = format!("{head}3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n");
        let start = head.len();
        let timing = format!(
            "{{\"t_us\":5,\"sent\":9}}\n{{\"t_us\":1000,\"off\":0,\"len\":{start}}}\n\
             {{\"t_us\":2000,\"off\":{start},\"len\":5}}\n{{\"t_us\":3000,\"off\":{},\"len\":20}}\n\
             {{\"t_us\":4000,\"off\":{},\"len\":{}}}\n{{\"t_us\":9000,\"eof\":true}}\n",
            start + 5,
            start + 25,
            received.len() - start - 25,
        );
        let got = case(&received, &timing).unwrap();
        let response = got.response.unwrap();
        assert_eq!(response.body, [(ms(2), b"ab".to_vec()), (ms(3), b"cdefg".to_vec())]);
        assert_eq!((response.head, got.ending, got.ended), (ms(1), Ending::End, ms(4)));
        assert_eq!(response.headers.0, [("X-A".to_owned(), b"b".to_vec())]);
        assert_eq!((got.request.body.as_slice(), got.request.headers.0.len()), (&b"{}"[..], 1));
    }

    #[test]
    fn how_it_ended_is_told_by_framing_and_by_who_closed() {
        let timing = |received: &str, last: &str| {
            format!("{{\"t_us\":1000,\"off\":0,\"len\":{}}}\n{{\"t_us\":7000,{last}:true}}\n", received.len())
        };
        for (received, last, ending, ended) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "\"eof\"", Ending::End, ms(1)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "\"eof\"", Ending::Cut, ms(7)),
            ("HTTP/1.1 200 OK\r\n\r\nabc", "\"eof\"", Ending::End, ms(7)),
            ("HTTP/1.1 204 No Content\r\n\r\n", "\"eof\"", Ending::End, ms(1)),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab",
                "\"client_closed\"",
                Ending::ClientGone,
                ms(7),
            ),
        ] {
            let got = case(received, &timing(received, last)).unwrap();
            assert_eq!((got.ending, got.ended), (ending, ended), "{received}");
        }
        assert_eq!(case("", "{\"t_us\":3000,\"eof\":true}").unwrap().ending, Ending::NoAnswer);
    }

    #[test]
    fn what_is_not_in_the_format_is_refused() {
        assert!(case("", "").is_err());
        assert!(case("HTTP/1.1 200 OK\r\n", "{\"t_us\":1,\"off\":0,\"len\":17}").is_err());
        let received = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
        assert!(case(received, "{\"t_us\":1,\"off\":0,\"len\":60}").is_err());
    }
}
