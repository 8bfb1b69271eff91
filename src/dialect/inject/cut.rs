//! Takes the usage event out of a stream: the first one whose JSON has an object as `usage` and no choice in `choices`.
//! Everything else goes on as it came. An event that is whole when it comes waits for nothing; of one that is not, the
//! bytes are held until it is whole or cannot be the one any more.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::wire::{Framed, Sse, is_blank};

/// The longest event that is held or taken out; one with usage has some hundred bytes.
const HELD_LIMIT: usize = 64 << 10;

const MARK: &[u8; 3] = b"\xEF\xBB\xBF"; // a byte order mark, which may stand before the first event

/// Takes the usage event out of one stream.
#[derive(Debug, Default)]
pub struct Cutter {
    place: Place,
    /// What is held of the event that has begun.
    held: Vec<u8>,
    probe: Probe,
    /// How much of a byte order mark the stream has begun with; all of it stands for none that can come.
    mark: usize,
    /// The line that has begun has a byte.
    in_line: bool,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    cut: usize,
}

/// Where in the stream the next byte stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Between events, or in a comment there.
    #[default]
    Between,
    /// In an event that may be the one.
    Open,
    /// In one that is not.
    Passing,
    /// Behind the one.
    Behind,
}

impl Cutter {
    /// Takes the next bytes; `pass` gets those that go on, in their order.
    pub fn push(&mut self, chunk: Bytes, pass: &mut dyn FnMut(Bytes)) {
        let mut goes = 0; // what stands before it has gone on, is held or is cut
        let mut begins = 0; // where the event that may be the one begins, or goes on
        let mut at = 0;
        while let Some((&byte, _)) = chunk.get(at..).and_then(<[u8]>::split_first) {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                at += 1;
                if self.place == Place::Behind {
                    (goes, self.cut) = (at, self.cut + 1);
                }
                continue;
            }
            if self.place == Place::Behind {
                break;
            }
            let begins_line = self.place == Place::Between && !self.in_line;
            if begins_line && self.is_mark(byte) {
                at += 1;
                continue;
            }
            if begins_line && !matches!(byte, b':' | b'\n' | b'\r') {
                let is_first = self.mark == 0 || self.mark == MARK.len();
                self.place = if is_first { Place::Open } else { Place::Passing };
                begins = at;
            }
            self.mark = MARK.len();
            let Some(end) = self.line_end(&chunk, &mut at) else { continue };
            if self.place == Place::Open && self.is_the_one(chunk.get(begins..end).unwrap_or_default()) {
                hand(chunk.slice(goes..begins), pass);
                self.cut = self.held.len() + end - begins;
                (self.held, self.place, goes) = (Vec::new(), Place::Behind, end);
            } else {
                self.release(pass);
                self.place = Place::Between;
            }
        }
        if self.place == Place::Open {
            let piece = chunk.get(begins..).unwrap_or_default();
            if self.held.len() + piece.len() <= HELD_LIMIT && self.probe.push(piece) {
                self.held.extend_from_slice(piece);
                return hand(chunk.slice(goes..begins), pass);
            }
            self.release(pass);
            self.place = Place::Passing;
        }
        hand(if goes == 0 { chunk } else { chunk.slice(goes..) }, pass);
    }

    /// The stream has ended: what is held goes on. `whole`: as it should, so that an event which lacks nothing but its
    /// blank line is one.
    pub fn finish(&mut self, whole: bool, pass: &mut dyn FnMut(Bytes)) {
        if whole && self.place == Place::Open && self.is_the_one(b"\n\n") {
            self.cut = self.held.len();
            self.held = Vec::new();
        }
        self.release(pass);
        self.place = Place::Behind;
    }

    /// How many bytes have been taken out.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// How many bytes are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether a byte at the stream's very beginning is part of a byte order mark.
    fn is_mark(&mut self, byte: u8) -> bool {
        let is_mark = MARK.get(self.mark) == Some(&byte);
        self.mark += usize::from(is_mark);
        is_mark
    }

    /// Reads on to the end of the line; where that ends an event, gives where it ends.
    fn line_end(&mut self, chunk: &[u8], at: &mut usize) -> Option<usize> {
        let rest = chunk.get(*at..).unwrap_or_default();
        let Some(length) = memchr::memchr2(b'\n', b'\r', rest) else {
            (*at, self.in_line) = (chunk.len(), true);
            return None;
        };
        let was_blank = length == 0 && !std::mem::take(&mut self.in_line);
        self.in_line = false;
        self.after_cr = rest.get(length) == Some(&b'\r');
        *at += length + 1;
        (was_blank && self.place != Place::Between).then_some(*at)
    }

    /// Whether what is held is, with this end of it, the usage event.
    fn is_the_one(&mut self, end: &[u8]) -> bool {
        if self.held.len() + end.len() > HELD_LIMIT {
            return false;
        }
        if self.held.is_empty() {
            return is_usage_event(end);
        }
        let event = [&self.held, end].concat();
        is_usage_event(&event)
    }

    fn release(&mut self, pass: &mut dyn FnMut(Bytes)) {
        hand(std::mem::take(&mut self.held).into(), pass);
        self.probe = Probe::default();
    }
}

fn hand(bytes: Bytes, pass: &mut dyn FnMut(Bytes)) {
    if !bytes.is_empty() {
        pass(bytes);
    }
}

/// What tells the usage event. One that has a member twice is refused: by the first, the bytes may have gone on already.
#[derive(Deserialize)]
struct Report<'a> {
    #[serde(borrow)]
    usage: &'a RawValue,
    #[serde(borrow)]
    choices: &'a RawValue,
}

fn is_usage_event(event: &[u8]) -> bool {
    // Most events; and one before which a byte order mark stands that is not the stream's first.
    if memchr::memmem::find(event, b"\"usage\"").is_none() || event.starts_with(MARK) {
        return false;
    }
    let mut is_one = false;
    Sse::default().push(event, &mut |framed| {
        if let Framed::Event(event) = framed {
            is_one = serde_json::from_slice::<Report<'_>>(event.data).is_ok_and(|report| report.tells());
        }
    });
    is_one
}

impl Report<'_> {
    fn tells(&self) -> bool {
        let elements = self.choices.get().strip_prefix('[').and_then(|choices| choices.strip_suffix(']'));
        self.usage.get().starts_with('{') && elements.is_some_and(|elements| elements.trim_ascii().is_empty())
    }
}

/// Reads an event as far as it has come, to tell early that it is not the one. It does not check the JSON: that is done
/// once the event is whole.
#[derive(Debug, Default)]
struct Probe {
    line: Line,
    depth: u32,
    awaits: Awaits,
    string: Option<InString>,
    /// The member of the outermost object that is being read.
    member: Member,
    /// How many bytes its name has so far.
    named: usize,
}

/// What is known of the line that has begun.
#[derive(Debug, Clone, Copy)]
enum Line {
    /// So many bytes of [`FIELD`] have come.
    Name(usize),
    Data,
    Other,
}

const FIELD: &[u8; 5] = b"data:";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Awaits {
    /// The object that an event's data is.
    #[default]
    Object,
    /// The name of a member of it.
    Name,
    Colon,
    Value,
    /// The first element of `choices`.
    Choice,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InString {
    Text,
    Escape,
}

/// The members that matter, as far as a name can still be theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Member {
    #[default]
    Unknown,
    Named(&'static [u8]),
    Other,
}

const NAMES: [&[u8]; 2] = [b"usage", b"choices"];

impl Default for Line {
    fn default() -> Self {
        Self::Name(0)
    }
}

impl Probe {
    /// Takes more of the event; gives whether it may still be the one.
    fn push(&mut self, piece: &[u8]) -> bool {
        piece.iter().all(|&byte| match self.line {
            _ if matches!(byte, b'\n' | b'\r') => {
                self.line = Line::Name(0);
                true
            }
            Line::Name(length) => {
                let fits = FIELD.get(length) == Some(&byte);
                self.line = match length + 1 {
                    _ if !fits => Line::Other,
                    length if length == FIELD.len() => Line::Data,
                    length => Line::Name(length),
                };
                true
            }
            Line::Data => self.data(byte),
            Line::Other => true,
        })
    }

    fn data(&mut self, byte: u8) -> bool {
        match self.string {
            Some(InString::Escape) => {
                self.string = Some(InString::Text);
                true
            }
            Some(InString::Text) => {
                self.text(byte);
                true
            }
            None if is_blank(byte) => true,
            None => self.token(byte),
        }
    }

    /// A byte of a string.
    fn text(&mut self, byte: u8) {
        let is_name = self.awaits == Awaits::Name && self.depth == 1;
        match byte {
            b'"' => {
                self.string = None;
                if is_name {
                    self.awaits = Awaits::Colon;
                    if !matches!(self.member, Member::Named(name) if name.len() == self.named) {
                        self.member = Member::Other;
                    }
                }
                return;
            }
            b'\\' => {
                self.string = Some(InString::Escape);
                self.member = if is_name { Member::Other } else { self.member };
                return;
            }
            _ => {}
        }
        if is_name {
            let fits = |name: &&[u8]| name.get(self.named) == Some(&byte);
            self.member = match self.member {
                Member::Unknown => NAMES.into_iter().find(fits).map_or(Member::Other, Member::Named),
                Member::Named(name) if fits(&name) => Member::Named(name),
                _ => Member::Other,
            };
            self.named += 1;
        }
    }

    /// A byte outside of strings, blanks aside.
    fn token(&mut self, byte: u8) -> bool {
        let may_be = match self.awaits {
            Awaits::Object => byte == b'{',
            Awaits::Choice => byte == b']',
            Awaits::Value if self.member == Member::Named(b"usage") => byte == b'{',
            Awaits::Value if self.member == Member::Named(b"choices") => byte == b'[',
            _ => true,
        };
        self.awaits = match (self.awaits, byte) {
            (Awaits::Object, _) => Awaits::Name,
            (Awaits::Colon, _) => Awaits::Value,
            (Awaits::Value, b'[') if self.member == Member::Named(b"choices") => Awaits::Choice,
            (Awaits::Name, b'"') => Awaits::Name,
            (_, b',') if self.depth == 1 => Awaits::Name,
            _ => Awaits::Nothing,
        };
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b'"' => {
                self.string = Some(InString::Text);
                if self.awaits == Awaits::Name {
                    (self.member, self.named) = (Member::Unknown, 0);
                }
            }
            _ => {}
        }
        may_be
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USAGE: &str = r#"{"id":"x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}"#;
    const TOKEN: &str = r#"{"id":"x","choices":[{"index":0,"delta":{"content":"\"usage\""}}],"usage":null}"#;

    /// What goes on of a stream in pieces, and how many bytes are taken out of it.
    fn cut<'c>(pieces: impl IntoIterator<Item = &'c [u8]>) -> (Vec<u8>, usize) {
        let (mut cutter, mut passed) = (Cutter::default(), Vec::new());
        let mut pass = |bytes: Bytes| passed.extend_from_slice(&bytes);
        for piece in pieces {
            cutter.push(Bytes::copy_from_slice(piece), &mut pass);
        }
        cutter.finish(true, &mut pass);
        assert_eq!(cutter.held(), 0);
        (passed, cutter.cut())
    }

    /// Checks what goes on of a stream: whole, at every split into two, and bytewise.
    fn check(stream: &str, want: &str) {
        let bytes = stream.as_bytes();
        let text = |(passed, taken): (Vec<u8>, usize)| {
            assert_eq!(passed.len() + taken, bytes.len());
            String::from_utf8(passed).unwrap()
        };
        assert_eq!(text(cut([bytes])), want, "{stream:?}, whole");
        assert_eq!(text(cut(bytes.chunks(1))), want, "{stream:?}, bytewise");
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            let (passed, _) = cut([head, tail]);
            assert_eq!(String::from_utf8(passed).as_deref(), Ok(want), "{stream:?}, split at {at}");
        }
    }

    #[test]
    fn exactly_the_usage_event_is_taken_out() {
        for end in ["\n", "\r\n", "\r"] {
            let event = |data: &str| format!("data: {data}{end}{end}");
            let (token, usage, done) = (event(TOKEN), event(USAGE), event("[DONE]"));
            check(&format!("{token}{token}{usage}{done}"), &format!("{token}{token}{done}"));
            check(&format!("{usage}{usage}{done}"), &format!("{usage}{done}"));
            check(&format!("\u{FEFF}{usage}{done}"), &format!("\u{FEFF}{done}"));
            check(
                &format!(": hi{end}{end}{end}:{end}{usage}{token}"),
                &format!(": hi{end}{end}{end}:{end}{token}"),
            );
            check(&format!("event: x{end}id: 7{end}{usage}{token}"), &token);
        }
        check(&format!("data:{USAGE}\n\r\ndata: 1\n\n"), "data: 1\n\n");
        check("data: {\"usage\" : {}\ndata: ,\ndata:\"choices\":[ ]\ndata: }\n\n", "");
    }

    #[test]
    fn what_is_anything_else_passes() {
        for data in [
            TOKEN,
            "",
            "[DONE]",
            "[]",
            "{}",
            "usage",
            r#"{"usage":{}}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":[],"usage":null}"#,
            r#"{"choices":[],"usage":[]}"#,
            r#"{"choices":{},"usage":{}}"#,
            r#"{"choices":null,"usage":{}}"#,
            r#"{"choices":[{}],"usage":{}}"#,
            r#"{"choices":[],"usage":{},"usage":{}}"#,
            r#"{"choices":[],"usage":{}"#,
            r#"{"choices":[],"x":{"usage":{}}}"#,
            r#"{"choices":[],"x":"\\","y":{"usage":"}"},"usages":{}}"#,
            r#"[{"choices":[],"usage":{}}]"#,
        ] {
            let stream = format!("data: {data}\n\ndata: [DONE]\n\n");
            check(&stream, &stream);
        }
        for stream in [
            format!("datum: {USAGE}\n\n"),
            format!(": {USAGE}\n\n"),
            format!("data: 1\ndata: {USAGE}\n\n"),
            format!("data: 1\n\n\u{FEFF}data: {USAGE}\n\n"),
            "\u{FEFF}".to_owned(),
            String::new(),
        ] {
            check(&stream, &stream);
        }
    }

    #[test]
    fn an_event_that_lacks_its_blank_line_is_one_where_the_stream_ends_as_it_should() {
        for end in ["", "\n", "\r\n"] {
            check(&format!("data: 1\n\ndata: {USAGE}{end}"), "data: 1\n\n");
            let (mut cutter, mut passed) = (Cutter::default(), Vec::new());
            let mut pass = |bytes: Bytes| passed.extend_from_slice(&bytes);
            let stream = format!("data: {USAGE}{end}");
            cutter.push(Bytes::from(stream.clone()), &mut pass);
            cutter.finish(false, &mut pass);
            assert_eq!((passed, cutter.cut()), (stream.into_bytes(), 0), "it broke off");
        }
    }

    /// How many bytes of these are held when they have come.
    fn held(pieces: &[&str]) -> usize {
        let mut cutter = Cutter::default();
        for piece in pieces {
            cutter.push(Bytes::copy_from_slice(piece.as_bytes()), &mut |_| {});
        }
        cutter.held()
    }

    #[test]
    fn what_cannot_be_the_usage_event_waits_for_nothing() {
        for passes in [
            format!("data: {TOKEN}\n\n"),
            format!("data: {TOKEN}\n\n: keep"),
            r#"data: {"id":"x","choices":[{"#.to_owned(),
            r#"data: {"choices": [ 1"#.to_owned(),
            r#"data: {"usage":null,"choi"#.to_owned(),
            r#"data: {"usage": "a"#.to_owned(),
            "data: [".to_owned(),
            format!("data: {USAGE}\n\ndata: {{"),
        ] {
            assert_eq!(held(&[&passes]), 0, "{passes}");
            let (head, tail) = passes.split_at(passes.len() - 1);
            assert_eq!(held(&[head, tail]), 0, "{passes}");
        }
        for held_back in [r#"data: {"id":"x","choices":"#, r#"data: {"a":{"choices":[1],"usage":null}"#, "d"]
        {
            assert_eq!(held(&[&format!("data: 1\n\n{held_back}")]), held_back.len());
        }
    }

    #[test]
    fn no_more_than_the_limit_is_held() {
        let long = format!(r#"data: {{"x":"{}","choices":[],"usage":{{}}}}"#, "x".repeat(HELD_LIMIT));
        for size in [1, 1000, HELD_LIMIT - 1, 2 * HELD_LIMIT] {
            let (mut cutter, mut passed) = (Cutter::default(), 0);
            for piece in format!("{long}\n\n").as_bytes().chunks(size) {
                cutter.push(Bytes::copy_from_slice(piece), &mut |bytes| passed += bytes.len());
                assert!(cutter.held() <= HELD_LIMIT);
            }
            assert_eq!((passed, cutter.cut()), (long.len() + 2, 0), "in pieces of {size}");
        }
    }

    #[test]
    fn a_chunk_of_which_nothing_is_taken_or_held_is_not_copied() {
        let chunk = Bytes::from(format!("data: {TOKEN}\n\ndata: {TOKEN}\n\n"));
        let mut passed = Vec::new();
        Cutter::default().push(chunk.clone(), &mut |bytes| passed.push(bytes));
        assert_eq!(passed.iter().map(|bytes| bytes.as_ptr()).collect::<Vec<_>>(), [chunk.as_ptr()]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_split_of_the_same_bytes_gives_the_same(
            parts in prop::collection::vec(prop::sample::select(vec![
                "data: ", "data:", ":", "event: x", "{", "}", "[]", "[", "]", "\n", "\r", "\r\n", "\n\n", "\r\r", "\"", ",", " ",
                "\u{FEFF}", "\"usage\":", "\"choices\":", "null", "\"a\":1", "data: {\"usage\":{},\"choices\":[]}", "\\",
            ]), 0..24),
            sizes in prop::collection::vec(1_usize..9, 1..8),
        ) {
            let stream = parts.concat();
            let whole = cut([stream.as_bytes()]);
            let mut rest = stream.as_bytes();
            let mut pieces = Vec::new();
            for size in sizes.iter().cycle() {
                let (head, tail) = rest.split_at(rest.len().min(*size));
                pieces.push(head);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(cut(pieces), whole.clone());
            prop_assert_eq!(whole.0.len() + whole.1, stream.len());
        }
    }
}
