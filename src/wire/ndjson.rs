//! Cuts bytes into lines of JSON (<https://github.com/ndjson/ndjson-spec>). Knows nothing of JSON or any API;
//! blank lines are no events.

use super::sse::{EVENT_LIMIT, KEPT_CAPACITY};
use super::{Event, Framed};

/// A decoder for one stream.
#[derive(Debug, Default)]
pub struct Ndjson {
    /// The line that has begun and not ended.
    line: Vec<u8>,
    /// It was too large.
    too_large: bool,
}

impl Ndjson {
    /// Reads more of the stream; `emit` gets each event that these bytes complete.
    pub fn push(&mut self, chunk: &[u8], emit: &mut dyn FnMut(Framed<'_>)) {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (head, tail) = rest.split_at(end);
            rest = tail.get(1..).unwrap_or_default();
            if self.line.is_empty() && !self.too_large {
                give(head, emit); // the usual case, not copied
            } else {
                self.append(head);
                self.end_line(emit);
            }
        }
        self.append(rest);
    }

    /// The stream has ended: a last line that lacks nothing but its newline is given out.
    pub fn finish(mut self, emit: &mut dyn FnMut(Framed<'_>)) {
        self.end_line(emit);
    }

    fn append(&mut self, bytes: &[u8]) {
        // One byte more for the CR that may end the line.
        if self.too_large || self.line.len() + bytes.len() > EVENT_LIMIT + 1 {
            self.too_large = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self, emit: &mut dyn FnMut(Framed<'_>)) {
        if std::mem::take(&mut self.too_large) {
            emit(Framed::TooLarge);
        } else {
            give(&self.line, emit);
        }
        self.line.clear();
        self.line.shrink_to(KEPT_CAPACITY);
    }
}

fn give(line: &[u8], emit: &mut dyn FnMut(Framed<'_>)) {
    let data = line.strip_suffix(b"\r").unwrap_or(line);
    if data.len() > EVENT_LIMIT {
        emit(Framed::TooLarge);
    } else if !data.trim_ascii().is_empty() {
        emit(Framed::Event(Event { name: None, data }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Vec<String> {
        let mut seen = Vec::new();
        let mut emit = |framed: Framed<'_>| {
            seen.push(match framed {
                Framed::TooLarge => "too large".to_owned(),
                Framed::Broken => "broken".to_owned(),
                Framed::Event(Event { name, data }) => {
                    assert_eq!(name, None);
                    String::from_utf8_lossy(data).into_owned()
                }
            });
        };
        let mut ndjson = Ndjson::default();
        for chunk in chunks {
            ndjson.push(chunk, &mut emit);
        }
        ndjson.finish(&mut emit);
        seen
    }

    /// Checks what a stream holds: whole, at every split into two, and bytewise.
    fn check(stream: &str, want: &[&str]) {
        let bytes = stream.as_bytes();
        assert_eq!(decode([bytes]), want, "{stream:?}, whole");
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(decode([head, tail]), want, "{stream:?}, split at {at}");
        }
        assert_eq!(decode(bytes.chunks(1)), want, "{stream:?}, bytewise");
    }

    #[test]
    fn a_line_is_an_event_with_either_line_ending() {
        check("{}\n{\"a\":1}\n", &["{}", "{\"a\":1}"]);
        check("{}\r\n{\"a\":\"日本\"}\r\n", &["{}", "{\"a\":\"日本\"}"]);
    }

    #[test]
    fn blank_lines_are_no_events() {
        check("\n\r\n{}\n  \n\t\r\n{}\n\n", &["{}", "{}"]);
        check("", &[]);
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        check("{}\n{}", &["{}", "{}"]);
        check("{}\n{}\r", &["{}", "{}"]);
    }

    #[test]
    fn a_line_beyond_the_limit_is_dropped_and_the_next_one_read() {
        for (length, line_end, want) in [
            (EVENT_LIMIT, "\n", None),
            (EVENT_LIMIT, "\r\n", None),
            (EVENT_LIMIT + 1, "\n", Some("too large")),
            (EVENT_LIMIT * 2, "\r\n", Some("too large")),
        ] {
            let stream = format!("a\n{}{line_end}b\n", "x".repeat(length));
            for size in [1000, 1 << 16, stream.len()] {
                let got = decode(stream.as_bytes().chunks(size));
                assert_eq!((got.len(), got[0].as_str(), got[2].as_str()), (3, "a", "b"), "chunks of {size}");
                assert_eq!(got[1] == "too large", want.is_some(), "{length} bytes in chunks of {size}");
            }
        }
    }

    #[test]
    fn memory_is_given_back_after_a_long_line() {
        let mut ndjson = Ndjson::default();
        for chunk in format!("{}\n", "x".repeat(EVENT_LIMIT / 2)).as_bytes().chunks(4096) {
            ndjson.push(chunk, &mut |_| {});
        }
        assert!(ndjson.line.capacity() <= KEPT_CAPACITY);
    }
}
