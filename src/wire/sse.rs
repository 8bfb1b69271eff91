//! Cuts bytes into server-sent events, as the HTML standard has them (section 9.2, "Server-sent events").
//! Knows nothing of JSON or any API. `id` and `retry` are left out: nobody who only watches needs them.

use super::{Event, Framed};

/// The longest event that is held: a token event has some hundred bytes, one with 20 logprobs some
/// thousand, an image in a tool's answer some hundred thousand.
pub const EVENT_LIMIT: usize = 1 << 20;

const LINE_LIMIT: usize = EVENT_LIMIT + 16; // the longest data with the field's name and a byte order mark before it
const NAME_LIMIT: usize = 256; // the longest name of any API has some forty bytes
pub(super) const KEPT_CAPACITY: usize = 64 << 10; // what a decoder's buffer may keep allocated after a long event

/// A decoder for one stream.
#[derive(Debug, Default)]
pub struct Sse {
    /// The line that has begun and not ended.
    line: Vec<u8>,
    /// The data lines of the event that has begun, joined by LF.
    data: Vec<u8>,
    name: Vec<u8>,
    has_data: bool,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// A line has ended: no byte order mark may follow.
    begun: bool,
    /// The event that has begun was too large.
    too_large: bool,
}

impl Sse {
    /// Reads more of the stream; `emit` gets each event that these bytes complete.
    pub fn push(&mut self, chunk: &[u8], emit: &mut dyn FnMut(Framed<'_>)) {
        let mut rest = chunk;
        // The data of an event that has one data line, all in this chunk: the usual case, not copied.
        let mut whole: Option<&[u8]> = None;
        loop {
            if self.after_cr
                && let Some((first, after)) = rest.split_first()
            {
                self.after_cr = false;
                rest = if *first == b'\n' { after } else { rest };
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else { break };
            let (head, tail) = rest.split_at(end);
            self.after_cr = tail.first() == Some(&b'\r');
            rest = tail.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                let head = self.without_mark(head);
                match Field::of(head) {
                    Field::Data(value) if !self.has_data && whole.is_none() => whole = Some(value),
                    field => self.take(field, &mut whole, emit),
                }
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(head);
                let field = Field::of(self.without_mark(&line));
                self.take(field, &mut whole, emit);
                line.clear();
                line.shrink_to(KEPT_CAPACITY);
                self.line = line;
            }
            self.begun = true;
        }
        if let Some(value) = whole.take() {
            self.append(value);
        }
        self.line.extend_from_slice(rest);
        if self.line.len() > LINE_LIMIT {
            self.drop_line();
        }
    }

    /// The stream has ended: an event that lacks nothing but its blank line is given out.
    pub fn finish(mut self, emit: &mut dyn FnMut(Framed<'_>)) {
        let line = std::mem::take(&mut self.line);
        let field = Field::of(self.without_mark(&line));
        self.take(field, &mut None, emit);
        self.take(Field::Blank, &mut None, emit);
    }

    fn without_mark<'l>(&self, line: &'l [u8]) -> &'l [u8] {
        if self.begun { line } else { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) }
    }

    fn take(&mut self, field: Field<'_>, whole: &mut Option<&[u8]>, emit: &mut dyn FnMut(Framed<'_>)) {
        match field {
            Field::Other => {}
            Field::Name(name) => {
                self.name.clear();
                if name.len() <= NAME_LIMIT {
                    self.name.extend_from_slice(name);
                }
            }
            Field::Data(value) => {
                if let Some(first) = whole.take() {
                    self.append(first);
                }
                self.append(value);
            }
            Field::Blank => {
                let data = whole.take().or_else(|| self.has_data.then_some(self.data.as_slice()));
                if self.too_large || data.is_some_and(|data| data.len() > EVENT_LIMIT) {
                    emit(Framed::TooLarge);
                } else if let Some(data) = data.filter(|data| !data.is_empty()) {
                    let name = std::str::from_utf8(&self.name).ok().filter(|name| !name.is_empty());
                    emit(Framed::Event(Event { name, data }));
                }
                self.data.clear();
                self.data.shrink_to(KEPT_CAPACITY);
                self.name.clear();
                self.has_data = false;
                self.too_large = false;
            }
        }
    }

    fn append(&mut self, value: &[u8]) {
        let joint = usize::from(std::mem::replace(&mut self.has_data, true));
        if self.too_large || self.data.len() + joint + value.len() > EVENT_LIMIT {
            self.too_large = true;
            self.data.clear();
            return;
        }
        self.data.extend_from_slice(b"\n".get(..joint).unwrap_or_default());
        self.data.extend_from_slice(value);
    }

    /// Gives up a line that is too long; it goes on as a comment, so that it is not taken for the blank one.
    fn drop_line(&mut self) {
        if matches!(Field::of(self.without_mark(&self.line)), Field::Data(_)) {
            self.has_data = true;
            self.too_large = true;
        }
        self.line.clear();
        self.line.push(b':');
    }
}

enum Field<'l> {
    Blank,
    Data(&'l [u8]),
    Name(&'l [u8]),
    /// A comment, or a field that does not matter here.
    Other,
}

impl<'l> Field<'l> {
    fn of(line: &'l [u8]) -> Self {
        let value = |value: &'l [u8]| value.strip_prefix(b" ").unwrap_or(value);
        if line.is_empty() {
            Self::Blank
        } else if let Some(data) = line.strip_prefix(b"data:") {
            Self::Data(value(data))
        } else if let Some(name) = line.strip_prefix(b"event:") {
            Self::Name(value(name))
        } else if line == b"data" {
            Self::Data(b"")
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut emit = |framed: Framed<'_>| {
            seen.push(match framed {
                Framed::TooLarge => "too large".to_owned(),
                Framed::Broken => "broken".to_owned(),
                Framed::Event(Event { name, data }) => {
                    format!("{}={}", name.unwrap_or("-"), String::from_utf8_lossy(data))
                }
            });
        };
        let mut sse = Sse::default();
        for chunk in chunks {
            sse.push(chunk, &mut emit);
        }
        sse.finish(&mut emit);
        seen
    }

    /// Checks what a stream holds: whole, at every split into two, and bytewise.
    fn check(stream: &str, want: &[&str]) {
        let bytes = stream.as_bytes();
        assert_eq!(decode(&[bytes]), want, "{stream:?}, whole");
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(decode(&[head, tail]), want, "{stream:?}, split at {at}");
        }
        assert_eq!(decode(&bytes.chunks(1).collect::<Vec<_>>()), want, "{stream:?}, bytewise");
    }

    #[test]
    fn every_line_ending() {
        check("data: a\n\ndata: b\n\n", &["-=a", "-=b"]);
        check("data: a\r\n\r\ndata: b\r\n\r\n", &["-=a", "-=b"]);
        check("data: a\r\rdata: b\r\r", &["-=a", "-=b"]);
        check("data: a\r\n\ndata: b\n\r\n", &["-=a", "-=b"]);
    }

    #[test]
    fn several_data_lines_are_joined_by_a_line_feed() {
        check("data: a\ndata: b\ndata:\ndata\n\n", &["-=a\nb\n\n"]);
        check("data: a\r\ndata: b\r\ndata:\r\ndata\r\n\r\n", &["-=a\nb\n\n"]);
    }

    #[test]
    fn one_space_after_the_colon_is_not_part_of_the_value() {
        check("data:a\n\ndata:  a\n\n", &["-=a", "-= a"]);
    }

    #[test]
    fn names_belong_to_one_event() {
        check("event: ping\ndata: {}\n\ndata: {}\n\n", &["ping={}", "-={}"]);
        check("event: x\n\ndata: a\n\n", &["-=a"]);
        check("event: ping\r\ndata: {}\r\n\r\ndata: {}\r\n\r\n", &["ping={}", "-={}"]);
    }

    #[test]
    fn comments_and_other_fields_are_passed_over() {
        check(": keep-alive\n\n:\n\nid: 7\nretry: 5\nnonsense\ndatax: 1\ndata: a\n\n", &["-=a"]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_field_and_only_there() {
        check("\u{FEFF}data: a\n\n\u{FEFF}data: b\n\n", &["-=a"]);
    }

    #[test]
    fn an_event_without_data_is_none() {
        check("data:\n\ndata\n\nevent: x\n\n\n\n", &[]);
    }

    #[test]
    fn the_last_event_needs_no_blank_line() {
        check("data: a\n\ndata: b\n", &["-=a", "-=b"]);
        check("data: a\n\ndata: b", &["-=a", "-=b"]);
    }

    #[test]
    fn text_of_many_bytes_may_be_split_anywhere() {
        check("data: {\"content\":\"日本 🌊\"}\n\n", &["-={\"content\":\"日本 🌊\"}"]);
    }

    #[test]
    fn an_event_beyond_the_limit_is_dropped_and_the_next_one_read() {
        let long = "x".repeat(EVENT_LIMIT + 1);
        for stream in [
            format!("data: {long}\n\ndata: b\n\n"),
            format!("data: a\ndata: {long}\ndata: c\n\ndata: b\n\n"),
            format!(": {long}\n\ndata: b\n\n"),
            format!("\u{FEFF}data: {long}\r\n\r\ndata: b\r\n\r\n"),
        ] {
            let whole = decode(&[stream.as_bytes()]);
            for size in [1 << 16, 1000, EVENT_LIMIT * 3] {
                let got = decode(&stream.as_bytes().chunks(size).collect::<Vec<_>>());
                assert_eq!(got.last().map(String::as_str), Some("-=b"), "in chunks of {size}");
                assert_eq!(got, whole, "in chunks of {size}");
                assert!(got.iter().all(|event| event.len() < 100), "in chunks of {size}");
            }
        }
    }

    #[test]
    fn memory_is_given_back_after_a_long_event() {
        let mut sse = Sse::default();
        for chunk in format!("data: {}\n\n", "x".repeat(EVENT_LIMIT / 2)).as_bytes().chunks(4096) {
            sse.push(chunk, &mut |_| {});
        }
        assert!(sse.data.capacity() + sse.line.capacity() <= 2 * KEPT_CAPACITY);
    }
}
