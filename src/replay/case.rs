//! A recorded exchange, and the text that it is kept as: what was asked, what came back when, how it ended.
//! `tests/golden/README.md` describes the format. Knows nothing of what a case should yield.

use std::time::Duration;

use crate::exchange;

/// A request and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What was asked.
    pub request: Request,
    /// What came back; none where nothing did.
    pub response: Option<Response>,
    /// How it ended.
    pub ending: Ending,
    /// When it ended, since the request's start.
    pub ended: Duration,
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Its headers, in order.
    pub headers: Headers,
    /// Its body, without transfer coding.
    pub body: Vec<u8>,
}

/// A response that has at least a head.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// When its head came.
    pub head: Duration,
    /// Its status.
    pub status: u16,
    /// Its headers, in order.
    pub headers: Headers,
    /// The pieces of its body and when each came, without transfer coding; none is empty.
    pub body: Vec<(Duration, Vec<u8>)>,
}

/// Headers in their order, names in their case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The response ended cleanly.
    End,
    /// The upstream broke off.
    Cut,
    /// The client left.
    ClientGone,
    /// The upstream gave no head.
    NoAnswer,
    /// A deadline passed.
    TimedOut,
    /// The proxy's own shutdown cut it.
    Drained,
}

impl Case {
    /// Reads a case from its two files.
    ///
    /// # Errors
    /// What in which file is not in the format.
    pub fn parse(request_file: &[u8], response_file: &[u8]) -> Result<Self, String> {
        let request = request(request_file).map_err(|error| format!("request.http: {error}"))?;
        let (response, ending, ended) =
            response(response_file).map_err(|error| format!("response.http: {error}"))?;
        Ok(Self { request, response, ending, ended })
    }
}

impl Ending {
    /// How the transport of a proxy would have seen it.
    pub fn transport(self) -> exchange::Ending {
        match self {
            Self::End => exchange::Ending::Clean,
            Self::Cut => exchange::Ending::UpstreamBroke,
            Self::ClientGone => exchange::Ending::ClientGone,
            Self::NoAnswer => exchange::Ending::NoAnswer,
            Self::TimedOut => exchange::Ending::TimedOut,
            Self::Drained => exchange::Ending::Drained,
        }
    }
}

impl Request {
    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

impl Headers {
    /// The first value under a name, where it is text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.texts().find(|(there, _)| there.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All whose values are text.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value).ok()?)))
    }
}

/// Reads `request.http`.
pub(super) fn request(file: &[u8]) -> Result<Request, String> {
    let (first, rest) = line(file);
    let words: Vec<String> =
        first.split(|byte| *byte == b' ').map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let [method, target, version] = words.as_slice() else {
        return Err("the first line is no request line".to_owned());
    };
    if !version.starts_with("HTTP/") {
        return Err(format!("{version:?} is no version of HTTP"));
    }
    let (headers, body) = headers(rest)?;
    Ok(Request { method: method.clone(), target: target.clone(), headers, body: body.to_vec() })
}

/// Reads `response.http`: the response, how it ended and when.
fn response(file: &[u8]) -> Result<(Option<Response>, Ending, Duration), String> {
    let (first, rest) = line(file);
    let mut head = Duration::ZERO;
    let mut rest_of_head = file;
    if let Some(mark) = Mark::of(first)? {
        if mark.ending.is_some() && !rest.is_empty() {
            return Err("there is more after the ending mark".to_owned());
        }
        if let Some(ending) = mark.ending {
            return Ok((None, ending, mark.at));
        }
        head = mark.at;
        rest_of_head = rest;
    }
    let (status_line, rest) = line(rest_of_head);
    let status = status(status_line)?;
    let (headers, body) = headers(rest)?;
    let (body, ending, ended) = marked(body, head)?;
    Ok((Some(Response { head, status, headers, body }), ending, ended))
}

/// The status that a status line tells.
pub(super) fn status(line: &[u8]) -> Result<u16, String> {
    let line = std::str::from_utf8(line).ok().filter(|line| line.starts_with("HTTP/"));
    let status = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
    status.ok_or_else(|| "there is no status line".to_owned())
}

type Pieces = Vec<(Duration, Vec<u8>)>;

/// Reads a body with marks, the last of which is the ending.
fn marked(body: &[u8], head: Duration) -> Result<(Pieces, Ending, Duration), String> {
    let mut pieces: Pieces = Vec::new();
    let mut piece: Vec<u8> = Vec::new();
    let mut now = head;
    let mut rest = body;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (whole, after) = rest.split_at(end);
        rest = after;
        if let Some(literal) = whole.strip_prefix(b"@").filter(|line| line.starts_with(b"@")) {
            piece.extend_from_slice(literal);
            continue;
        }
        let Some(mark) = Mark::of(line(whole).0)? else {
            piece.extend_from_slice(whole);
            continue;
        };
        if mark.at < now {
            return Err(format!("{:?} is before {now:?}", mark.at));
        }
        if mark.joins && piece.pop() != Some(b'\n') {
            return Err(format!("no newline to leave out before the mark at {:?}", mark.at));
        }
        if !piece.is_empty() {
            pieces.push((now, std::mem::take(&mut piece)));
        }
        now = mark.at;
        if let Some(ending) = mark.ending {
            let more = if rest.is_empty() { Ok(()) } else { Err("there is more after the ending mark") };
            return more.map(|()| (pieces, ending, now)).map_err(str::to_owned);
        }
    }
    Err("there is no ending mark".to_owned())
}

struct Mark {
    at: Duration,
    /// The newline before it is not part of the body.
    joins: bool,
    ending: Option<Ending>,
}

impl Mark {
    /// The mark that a line is; none where it is none.
    fn of(line: &[u8]) -> Result<Option<Self>, String> {
        let Some(rest) = line.strip_prefix(b"@") else { return Ok(None) };
        let text = std::str::from_utf8(rest).map_err(|_| "a line that begins with @ is no mark")?;
        let (time, ending) = text.split_once(' ').map_or((text, None), |(time, word)| (time, Some(word)));
        let (time, joins) = time.strip_suffix('~').map_or((time, false), |time| (time, true));
        let ending = match ending {
            None => None,
            Some("end") => Some(Ending::End),
            Some("cut") => Some(Ending::Cut),
            Some("client_gone") => Some(Ending::ClientGone),
            Some("no_answer") => Some(Ending::NoAnswer),
            Some("timed_out") => Some(Ending::TimedOut),
            Some("drained") => Some(Ending::Drained),
            Some(other) => return Err(format!("{other:?} is no ending")),
        };
        let at = duration(time).ok_or_else(|| format!("@{text}: no duration (or an @ not doubled)"))?;
        Ok(Some(Self { at, joins, ending }))
    }
}

/// `350ms`, `99.823ms`, `1.5s`, `12us`: to the nanosecond.
fn duration(text: &str) -> Option<Duration> {
    let (number, nanos) = [("ms", 1_000_000u64), ("us", 1_000), ("s", 1_000_000_000)]
        .into_iter()
        .find_map(|(unit, nanos)| Some((text.strip_suffix(unit)?, nanos)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(nanos)? / scale;
    Some(Duration::from_nanos(whole.parse::<u64>().ok()?.checked_mul(nanos)?.checked_add(part)?))
}

/// The headers, and what comes after their blank line.
pub(super) fn headers(mut rest: &[u8]) -> Result<(Headers, &[u8]), String> {
    let mut found = Vec::new();
    loop {
        if rest.is_empty() {
            return Err("the head has no blank line at its end".to_owned());
        }
        let (header, after) = line(rest);
        rest = after;
        if header.is_empty() {
            return Ok((Headers(found), rest));
        }
        let colon = header.iter().position(|byte| *byte == b':').ok_or("a header without a colon")?;
        let (name, value) = header.split_at(colon);
        let name = String::from_utf8(name.to_vec()).map_err(|_| "a header's name is no text")?;
        found.push((name, value.get(1..).unwrap_or_default().trim_ascii().to_vec()));
    }
}

/// The first line without its LF or CRLF, and what comes after it.
pub(super) fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    (line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_body_is_cut_at_its_marks() {
        let file =
            b"@5ms\nHTTP/1.1 200 OK\r\nX-A: 1\r\nx-a:2\r\n\r\nab\n@10ms\nc\n@11ms~\nd\n@@e\n@12.5ms~ cut\n";
        let (response, ending, ended) = response(file).unwrap();
        let response = response.unwrap();
        assert_eq!((ending, ended), (Ending::Cut, Duration::from_micros(12_500)));
        assert_eq!((response.head, response.status), (ms(5), 200));
        assert_eq!(
            response.headers.0,
            [("X-A".to_owned(), b"1".to_vec()), ("x-a".to_owned(), b"2".to_vec())]
        );
        assert_eq!(
            response.body,
            [(ms(5), b"ab\n".to_vec()), (ms(10), b"c".to_vec()), (ms(11), b"d\n@e".to_vec())]
        );
    }

    #[test]
    fn no_response_is_an_ending_and_nothing_else() {
        assert_eq!(response(b"@300ms client_gone\n"), Ok((None, Ending::ClientGone, ms(300))));
        assert!(response(b"@300ms client_gone\nHTTP/1.1 200 OK\n\n@1s end\n").is_err());
    }

    #[test]
    fn what_is_not_in_the_format_is_refused() {
        let head = "HTTP/1.1 200 OK\n\n";
        for wrong in ["a\n", "@1ms\n", "@soon end\n", "a\n@2ms\nb\n@1ms end\n", "@1ms end\na", "@1ms off\n"] {
            assert!(response(format!("{head}{wrong}").as_bytes()).is_err(), "{wrong}");
        }
        assert!(request(b"GET /\n\n").is_err());
        assert!(request(b"GET / HTTP/1.1\nHost: a\n").is_err());
    }

    #[test]
    fn a_requests_body_is_whatever_comes_after_the_blank_line() {
        let got = request(b"POST /v1/x?a=b HTTP/1.1\r\nHost: h\r\n\r\n{\r\n\r\n@}").unwrap();
        assert_eq!((got.method.as_str(), got.path()), ("POST", "/v1/x"));
        assert_eq!(got.body, b"{\r\n\r\n@}");
        assert_eq!(got.headers.get("host"), Some("h"));
    }
}
