//! Cuts a JSON array into its elements, each given out when its last byte has come: a stream of objects, as
//! Google's APIs send it where no events are asked for. Knows nothing of what the elements mean; broken JSON is
//! cut somewhere, and the pieces are its reader's to refuse.

use super::lexeme::is_blank;
use super::sse::{EVENT_LIMIT, KEPT_CAPACITY};
use super::{Event, Framed};

/// A decoder for one stream.
#[derive(Debug, Default)]
pub struct JsonArray {
    state: State,
    /// Brackets of the element that are open.
    depth: u32,
    /// The element that has begun, as far as it came in earlier chunks.
    element: Vec<u8>,
    /// It was too large.
    too_large: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// The array's bracket is to come.
    #[default]
    Before,
    /// An element is to come, or the array's end.
    Between,
    /// In an object or an array.
    Inside,
    InString,
    /// After a backslash in a string.
    Escape,
    /// In a number or a word, whose end is told only by what follows. (A string by itself is cut as one.)
    InWord,
    /// The array has ended; nothing of what follows is read.
    Ended,
}

impl JsonArray {
    /// Reads more of the stream; `emit` gets each element that these bytes complete.
    pub fn push(&mut self, chunk: &[u8], emit: &mut dyn FnMut(Framed<'_>)) {
        let (mut rest, mut begun) = (chunk, chunk);
        while let Some((&byte, after)) = rest.split_first() {
            let was = self.state;
            if was == State::InString {
                // The usual case: text, most of it without an end or an escape.
                let plain = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                rest = rest.get(plain..).unwrap_or_default();
                let Some((&byte, after)) = rest.split_first() else { break };
                self.state = if byte == b'"' { State::Inside } else { State::Escape };
                rest = after;
                continue;
            }
            self.step(byte);
            if was == State::Between && self.state != State::Between {
                begun = rest;
            }
            let is_last = was == State::Inside && self.state == State::Between;
            if is_last || was == State::InWord && self.state != State::InWord {
                let end = if is_last { after } else { rest };
                let length = begun.len().saturating_sub(end.len());
                self.give(begun.get(..length).unwrap_or_default(), emit);
            }
            rest = after;
        }
        if !matches!(self.state, State::Before | State::Between | State::Ended) {
            self.append(begun);
        }
    }

    /// The stream has ended: an element that lacks its end is given out, for its reader to refuse.
    pub fn finish(mut self, emit: &mut dyn FnMut(Framed<'_>)) {
        if !matches!(self.state, State::Before | State::Between | State::Ended) {
            self.give(&[], emit);
        }
    }

    /// Where the decoder is after a byte that is in no string.
    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (State::Before, b'[') => State::Between,
            (State::Before, blank) if is_blank(blank) => State::Before,
            (State::Between | State::InWord, byte) if byte == b',' || is_blank(byte) => State::Between,
            (State::Before, _) | (State::Between | State::InWord, b']') | (State::Ended, _) => State::Ended,
            (State::Between, b'{' | b'[') => {
                self.depth = 1;
                State::Inside
            }
            (State::Between | State::InWord, _) => State::InWord,
            (State::Inside, b'"') => State::InString,
            (State::Inside, b'{' | b'[') => {
                self.depth = self.depth.saturating_add(1);
                State::Inside
            }
            (State::Inside, b'}' | b']') => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 { State::Between } else { State::Inside }
            }
            (State::Inside, _) => State::Inside,
            (State::InString | State::Escape, _) => State::InString,
        };
    }

    /// Gives out the element whose last bytes these are.
    fn give(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Framed<'_>)) {
        if self.element.is_empty() && !self.too_large && bytes.len() <= EVENT_LIMIT {
            return emit(Framed::Event(Event { name: None, data: bytes })); // the usual case, not copied
        }
        self.append(bytes);
        if std::mem::take(&mut self.too_large) {
            emit(Framed::TooLarge);
        } else {
            emit(Framed::Event(Event { name: None, data: &self.element }));
        }
        self.element.clear();
        self.element.shrink_to(KEPT_CAPACITY);
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.too_large || self.element.len() + bytes.len() > EVENT_LIMIT {
            self.too_large = true;
            self.element.clear();
        } else {
            self.element.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        let mut array = JsonArray::default();
        for chunk in chunks {
            array.push(chunk, &mut emit);
        }
        array.finish(&mut emit);
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
    fn an_element_is_an_event() {
        check("[{\"a\":1}\n,\r\n{\"b\":[2,{}]}\n]\n", &["{\"a\":1}", "{\"b\":[2,{}]}"]);
        check(" \n[ {} , [] ,{\"日\":\"本\"}]", &["{}", "[]", "{\"日\":\"本\"}"]);
        check("[]", &[]);
        check("", &[]);
    }

    #[test]
    fn brackets_and_quotes_in_texts_are_text() {
        check(
            r#"[{"a":"]}"},{"b":"\"]}\\"},{"c\"{":"\u007d"}]"#,
            &[r#"{"a":"]}"}"#, r#"{"b":"\"]}\\"}"#, r#"{"c\"{":"\u007d"}"#],
        );
    }

    #[test]
    fn words_are_elements_too() {
        check("[1,true , null]", &["1", "true", "null"]);
    }

    #[test]
    fn what_lacks_its_end_is_given_out_as_it_is() {
        check("[{},{\"a\":\"x", &["{}", "{\"a\":\"x"]);
        check("[{},", &["{}"]);
    }

    #[test]
    fn what_is_no_array_and_what_follows_one_is_nothing() {
        check("{\"a\":[1]}", &[]);
        check("[{}] [{}]", &["{}"]);
    }

    #[test]
    fn an_element_comes_with_its_last_byte() {
        let mut array = JsonArray::default();
        let mut seen = 0;
        for (chunk, want) in [("[{\"a\":", 0), ("1", 0), ("}", 1), (",{}", 2), ("]", 2)] {
            array.push(chunk.as_bytes(), &mut |_| seen += 1);
            assert_eq!(seen, want, "after {chunk}");
        }
    }

    #[test]
    fn an_element_beyond_the_limit_is_dropped_and_the_next_one_read() {
        for (length, want) in [(EVENT_LIMIT - 8, false), (EVENT_LIMIT - 7, true), (EVENT_LIMIT * 3, true)] {
            let stream = format!("[{{}},{{\"a\": \"{}\"}},{{\"b\":1}}]", "x".repeat(length - 1));
            for size in [1000, 1 << 16, stream.len()] {
                let got = decode(stream.as_bytes().chunks(size));
                assert_eq!(
                    (got.len(), got[0].as_str(), got[2].as_str()),
                    (3, "{}", "{\"b\":1}"),
                    "by {size}"
                );
                assert_eq!(got[1] == "too large", want, "{length} bytes in chunks of {size}");
            }
        }
    }

    #[test]
    fn memory_is_given_back_after_a_long_element() {
        let mut array = JsonArray::default();
        for chunk in format!("[{{\"a\":\"{}\"}}", "x".repeat(EVENT_LIMIT / 2)).as_bytes().chunks(4096) {
            array.push(chunk, &mut |_| {});
        }
        assert!(array.element.capacity() <= KEPT_CAPACITY);
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_alike_however_they_come(
            bytes in proptest::collection::vec(proptest::sample::select(&b"[]{}\",\\ \n1a:"[..]), 0..64),
            size in 1..16usize,
        ) {
            prop_assert_eq!(decode(bytes.chunks(size)), decode([bytes.as_slice()]));
        }
    }
}
