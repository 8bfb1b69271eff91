//! Skims a JSON body as it passes: of an object, or an array of them, small members that were asked for are kept, big
//! ones are only measured, everything else is passed over. A 2 MB prompt or a 5 MB embedding is never held.
//! Knows the grammar of JSON (RFC 8259) well enough to tell a whole body from a cut one; it does not check
//! that numbers and words are spelled right.

mod capture;

use super::lexeme::{Unicode, is_blank, plain, run, scalar, word_end};
use super::members::{At, Members, Wanted, is_text_key};
use capture::Capture;

const TRACKED_DEPTH: usize = 6; // the longest path has four parts
const DEPTH_LIMIT: u32 = 120; // parsers of JSON stop at about this depth too
const _: () = assert!(DEPTH_LIMIT <= u128::BITS, "a bit for each container that is open");
const KEY_LIMIT: usize = 192; // the longest name that any path has, every letter of it escaped

/// A scanner for one body.
#[derive(Debug)]
pub struct Skim {
    wanted: &'static Wanted,
    state: State,
    /// How many containers are open; the outer ones are in `outer`, the kinds of all in `arrays`.
    depth: u32,
    outer: [At; TRACKED_DEPTH],
    arrays: u128,
    /// For each open container: whether strings directly in it are text.
    texts: u128,
    /// What earlier chunks held of the key that is being read.
    key: Vec<u8>,
    /// Where the value to come lies.
    place: At,
    /// Whether the value to come is text if it is a string.
    is_text: bool,
    capture: Option<Capture>,
    /// The first byte of this chunk that the capture has not taken.
    untaken: usize,
    members: Members,
    unicode: Unicode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A value must come.
    Value,
    /// A value, or the end of an empty array.
    FirstElement,
    /// A key, or the end of an empty object.
    FirstKey,
    /// A key must come.
    Key,
    Colon,
    /// A value has ended: a comma or the end of its container.
    After,
    InKey,
    InString,
    Escape {
        key: bool,
    },
    InUnicode {
        key: bool,
    },
    /// In a number, `true`, `false` or `null`.
    InWord,
    /// The body's object or array has ended.
    Ended,
    /// This is neither a JSON object nor an array.
    Broken,
}

impl Skim {
    /// A scanner that looks for what is wanted.
    pub fn new(wanted: &'static Wanted) -> Self {
        Self {
            wanted,
            state: State::Value,
            depth: 0,
            outer: [At::Nowhere; TRACKED_DEPTH],
            arrays: 0,
            texts: 0,
            key: Vec::new(),
            place: At::TOP,
            is_text: false,
            capture: None,
            untaken: 0,
            members: Members::of(wanted),
            unicode: Unicode::default(),
        }
    }

    /// Reads more of the body.
    pub fn push(&mut self, chunk: &[u8]) {
        self.untaken = 0;
        let mut at = 0;
        while let Some((&byte, after)) = chunk.get(at..).and_then(<[u8]>::split_first) {
            at = match self.state {
                State::InString => self.string(chunk, at),
                State::InKey => self.key(chunk, at),
                State::InWord => self.word(chunk, at),
                State::Broken => break,
                State::Escape { .. } | State::InUnicode { .. } => self.step(byte, chunk, at),
                _ if is_blank(byte) => at + 1 + after.iter().take_while(|&&byte| is_blank(byte)).count(),
                _ => self.step(byte, chunk, at),
            };
        }
        self.take(chunk, at.min(chunk.len())); // all, or up to where it broke
    }

    /// Whether the body's object or array has ended: nothing more will be found.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// What has been found by now.
    pub const fn so_far(&self) -> &Members {
        &self.members
    }

    /// The body has ended: what it held.
    pub fn finish(mut self) -> Members {
        self.members.complete = self.state == State::Ended;
        if self.measuring().is_some() {
            self.end_capture(); // a cut body has so much of it
        }
        self.members
    }

    /// Reads a string's text from here; gives where to go on.
    fn string(&mut self, chunk: &[u8], at: usize) -> usize {
        let (text, end) = run(chunk, at);
        self.add_text(text.len() as u64);
        let next = at + text.len() + 1;
        match end {
            Some(b'"') => self.value_ended(chunk, next),
            Some(_) => {
                self.state = State::Escape { key: false };
                next
            }
            None => next,
        }
    }

    /// Reads a key from here; gives where to go on.
    fn key(&mut self, chunk: &[u8], at: usize) -> usize {
        let (text, end) = run(chunk, at);
        let next = at + text.len() + 1;
        if end == Some(b'"') && self.key.is_empty() {
            self.key_ended(text);
            if let Some(scalar) = scalar(chunk, next)
                && self.takes(chunk, next + 1, scalar)
            {
                return self.member_ended(chunk, scalar.end);
            }
        } else {
            self.hold_key(text);
            match end {
                Some(b'"') => {
                    let mut key = std::mem::take(&mut self.key);
                    self.key_ended(plain(&key).as_ref().map_or(key.as_slice(), String::as_bytes));
                    key.clear();
                    self.key = key;
                }
                Some(escape) => {
                    self.hold_key(&[escape]);
                    self.state = State::Escape { key: true };
                }
                None => {}
            }
        }
        match (self.state, chunk.get(next), chunk.get(next + 1)) {
            // What nearly always follows a key.
            (State::Colon, Some(b':'), Some(&byte)) if !is_blank(byte) => {
                self.value_begins(byte, chunk, next + 1)
            }
            _ => next,
        }
    }

    /// Where a member of the innermost container lies.
    fn member(&self, name: &[u8]) -> At {
        let container = (self.depth as usize).checked_sub(1).and_then(|at| self.outer.get(at));
        container.map_or(At::Nowhere, |container| self.wanted.member(*container, name))
    }

    /// Keeps a piece of a key, as far as any path could have it.
    fn hold_key(&mut self, piece: &[u8]) {
        let room = KEY_LIMIT.saturating_sub(self.key.len());
        self.key.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }

    /// Reads a number or a word from here; gives where to go on.
    fn word(&mut self, chunk: &[u8], at: usize) -> usize {
        match word_end(chunk, at) {
            Some(end) => self.value_ended(chunk, end),
            None => chunk.len(),
        }
    }

    /// Reads one byte; gives where to go on.
    fn step(&mut self, byte: u8, chunk: &[u8], at: usize) -> usize {
        match self.state {
            State::Escape { key } => self.escape(byte, key),
            State::InUnicode { key } => self.unicode_digit(byte, key),
            State::FirstElement if byte == b']' => return self.container_ends(chunk, at),
            State::Value | State::FirstElement => return self.value_begins(byte, chunk, at),
            State::FirstKey | State::Key if byte == b'"' => self.state = State::InKey,
            State::FirstKey if byte == b'}' => return self.container_ends(chunk, at),
            State::Colon if byte == b':' => self.state = State::Value,
            State::After if byte == b',' => self.next_member(),
            State::After if byte == if self.in_array() { b']' } else { b'}' } => {
                return self.container_ends(chunk, at);
            }
            _ => self.state = State::Broken,
        }
        at + 1
    }

    /// A value begins with this byte; gives where to go on.
    fn value_begins(&mut self, byte: u8, chunk: &[u8], at: usize) -> usize {
        if self.depth == 0 && !matches!(byte, b'{' | b'[') {
            self.state = State::Broken;
            return at + 1;
        }
        self.start_capture(at);
        match byte {
            b'{' | b'[' => self.container_begins(byte == b'['),
            b'"' => {
                if self.is_text
                    && let Some(measure) = self.measuring()
                {
                    measure.texts += 1;
                }
                self.state = State::InString;
                return self.string(chunk, at + 1);
            }
            b'-' | b'0'..=b'9' => {
                if let Some(measure) = self.measuring() {
                    measure.numbers += 1;
                }
                self.state = State::InWord;
                return self.word(chunk, at + 1);
            }
            b't' | b'f' | b'n' => {
                self.state = State::InWord;
                return self.word(chunk, at + 1);
            }
            _ => self.state = State::Broken,
        }
        at + 1
    }

    fn container_begins(&mut self, array: bool) {
        if self.depth >= DEPTH_LIMIT {
            self.state = State::Broken;
            return;
        }
        let depth = self.depth;
        if let Some(outer) = self.outer.get_mut(depth as usize) {
            *outer = self.place;
        }
        if array
            && self.capture.as_ref().is_some_and(|capture| capture.depth < depth)
            && let Some(measure) = self.measuring()
        {
            measure.arrays += 1;
        }
        self.depth += 1;
        self.arrays = self.arrays << 1 | u128::from(array);
        self.texts = self.texts << 1 | u128::from(array && self.is_text);
        if array {
            self.element();
            self.state = State::FirstElement;
        } else {
            self.state = State::FirstKey;
        }
    }

    fn container_ends(&mut self, chunk: &[u8], at: usize) -> usize {
        self.depth = self.depth.saturating_sub(1);
        self.arrays >>= 1;
        self.texts >>= 1;
        self.value_ended(chunk, at + 1)
    }

    /// A value has ended, before this place in the chunk; gives where to go on.
    fn value_ended(&mut self, chunk: &[u8], end: usize) -> usize {
        if self.capture.as_ref().is_some_and(|capture| capture.depth == self.depth) {
            self.take(chunk, end);
            self.end_capture();
        }
        if self.depth == 0 {
            self.state = State::Ended;
            return end;
        }
        self.member_ended(chunk, end)
    }

    /// A member or an element has ended, before this place in the chunk; gives where to go on.
    fn member_ended(&mut self, chunk: &[u8], end: usize) -> usize {
        if chunk.get(end) != Some(&b',') {
            self.state = State::After;
            return end;
        }
        self.next_member();
        if self.state == State::Key && chunk.get(end + 1) == Some(&b'"') {
            self.state = State::InKey;
            return end + 2;
        }
        end + 1
    }

    fn next_member(&mut self) {
        if self.in_array() {
            self.element();
            self.state = State::Value;
        } else {
            self.state = State::Key;
        }
    }

    fn in_array(&self) -> bool {
        self.arrays & 1 == 1
    }

    fn element(&mut self) {
        self.is_text = self.texts & 1 == 1;
        self.follow(b"*");
    }

    fn key_ended(&mut self, key: &[u8]) {
        self.is_text = self.measuring().is_some() && is_text_key(key);
        self.follow(key);
        self.state = State::Colon;
    }

    /// Goes to a member of the innermost container.
    fn follow(&mut self, name: &[u8]) {
        self.place = if self.capture.is_none() { self.member(name) } else { At::Nowhere };
    }

    fn add_text(&mut self, bytes: u64) {
        if self.is_text
            && let Some(measure) = self.measuring()
        {
            measure.text_bytes += bytes;
        }
    }

    fn escape(&mut self, byte: u8, key: bool) {
        if key {
            self.hold_key(&[byte]);
        }
        if byte != b'u' {
            return self.escaped(key, 1);
        }
        self.unicode = Unicode::default();
        self.state = State::InUnicode { key };
    }

    fn unicode_digit(&mut self, byte: u8, key: bool) {
        let Some(digit) = char::from(byte).to_digit(16) else {
            self.state = State::Broken;
            return;
        };
        if key {
            self.hold_key(&[byte]);
        }
        if let Some(utf8_bytes) = self.unicode.add(digit) {
            self.escaped(key, utf8_bytes);
        }
    }

    /// An escape has ended that stands for so many bytes.
    fn escaped(&mut self, key: bool, bytes: u64) {
        if key {
            self.state = State::InKey;
        } else {
            self.add_text(bytes);
            self.state = State::InString;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::capture::KEPT_LIMIT;
    use super::*;
    use crate::wire::Measure;

    const KEEP: &[&str] = &["model", "usage", "stream", "choices.*.finish_reason", "choices.*.index"];
    const MEASURE: &[&str] = &["messages", "prompt", "choices.*.message"];
    static WANTED: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(KEEP, MEASURE));

    fn skim<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Members {
        let mut skim = Skim::new(&WANTED);
        for chunk in chunks {
            skim.push(chunk);
        }
        skim.finish()
    }

    /// Skims a body whole, bytewise and at every split, which must make no difference.
    fn members(body: &str) -> Members {
        let whole = skim([body.as_bytes()]);
        let shape = |members: &Members| {
            let kept: Vec<_> = KEEP.iter().flat_map(|path| members.each(path)).map(str::to_owned).collect();
            (kept, MEASURE.iter().map(|path| members.measure(path)).collect::<Vec<_>>(), members.complete)
        };
        assert_eq!(shape(&skim(body.as_bytes().chunks(1))), shape(&whole), "{body}, bytewise");
        for at in 0..body.len() {
            let (head, tail) = body.as_bytes().split_at(at);
            assert_eq!(shape(&skim([head, tail])), shape(&whole), "{body}, split at {at}");
        }
        whole
    }

    #[test]
    fn top_level_members_are_kept_and_deeper_ones_of_the_same_name_are_not() {
        let got =
            members(r#" {"x":{"model":"no"},"model":"a\"b","stream" : true , "usage":{"a":[1,{"b":2}]}} "#);
        assert_eq!(got.text("model").as_deref(), Some("a\"b"));
        assert_eq!(got.get::<bool>("stream"), Some(true));
        assert_eq!(got.each("usage").next(), Some(r#"{"a":[1,{"b":2}]}"#));
        assert!(got.is_complete());
    }

    #[test]
    fn members_of_array_elements_are_kept_in_order() {
        let got = members(
            r#"{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"},{"finish_reason":null,"index":1}]}"#,
        );
        let reasons: Vec<_> = got.each("choices.*.finish_reason").collect();
        assert_eq!(reasons, [r#""stop""#, "null"]);
        assert_eq!(got.measure("choices.*.message").text_bytes, 2);
    }

    #[test]
    fn members_of_an_array_at_the_top_are_kept() {
        static WANTED: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&["n", "*.n"], &[]));
        let mut skim = Skim::new(&WANTED);
        skim.push(br#"[{"n":1,"x":{"n":5}},[{"n":6}],{"n":2}]"#);
        let got = skim.finish();
        assert_eq!(got.each("*.n").collect::<Vec<_>>(), ["1", "2"]);
        assert!(got.is_complete() && !got.has("n"));
    }

    #[test]
    fn a_name_may_be_written_with_escapes_and_one_with_a_dot_is_none_that_was_asked_for() {
        let got = members(r#"{"mod\nel":"a","choices.*.index":1,"choices.*":{"index":2}}"#);
        assert!(!got.has("model") && !got.has("choices.*.index"));
        assert!(got.is_complete());
        let escaped: String = "finish_reason".chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        let got = members(&format!(
            r#"{{"mod\u0065l":"a","\u006do\u0064el\n":"b","choi\u0063es":[{{"{escaped}":"c"}}],"\u0070rompt":"abc"}}"#
        ));
        assert_eq!(got.text("model").as_deref(), Some("a"));
        assert_eq!(got.each("choices.*.finish_reason").collect::<Vec<_>>(), ["\"c\""]);
        assert_eq!(got.measure("prompt").text_bytes, 3);
    }

    #[test]
    fn a_long_key_is_held_up_to_its_limit_however_it_is_written() {
        for piece in ["k", "\\n", "\\u0041"] {
            let mut skim = Skim::new(&WANTED);
            skim.push(format!("{{\"{}", piece.repeat(100_000)).as_bytes());
            assert!(skim.key.len() <= KEY_LIMIT, "{piece}");
            skim.push(br#"":1,"model":"m"}"#);
            assert_eq!(skim.finish().text("model").as_deref(), Some("m"), "{piece}");
        }
    }

    #[test]
    fn a_null_is_there_but_is_no_value() {
        let got = members(r#"{"usage":null,"model":null}"#);
        assert!(!got.has("usage"));
        assert_eq!(got.text("model"), None);
    }

    #[test]
    fn text_is_measured_as_utf8_without_images_and_ids() {
        let got = members(
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a\n\u00e9\u4e2d\ud83c\udf0a"},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]},{"role":"x","content":"日本"}]}"#,
        );
        let measure = got.measure("messages");
        assert_eq!((measure.text_bytes, measure.texts), (1 + 1 + 2 + 3 + 4 + 6, 2));
        assert_eq!(got.measure("prompt"), Measure::default());
    }

    #[test]
    fn a_prompt_may_be_text_texts_or_token_ids() {
        assert_eq!(members(r#"{"prompt":"abc"}"#).measure("prompt").text_bytes, 3);
        let texts = members(r#"{"prompt":["abc","de"]}"#).measure("prompt");
        assert_eq!((texts.text_bytes, texts.texts, texts.numbers), (5, 2, 0));
        let ids = members(r#"{"prompt":[[1,22],[-3]]}"#).measure("prompt");
        assert_eq!((ids.text_bytes, ids.texts, ids.numbers, ids.arrays), (0, 0, 3, 2));
        assert_eq!(members(r#"{"prompt":[1,22]}"#).measure("prompt").arrays, 0);
    }

    #[test]
    fn a_cut_or_broken_body_is_not_complete() {
        for body in [
            "",
            "  ",
            r#"{"a":1"#,
            r#"{"a":"#,
            r#"{"a":"x}"#,
            "1",
            "[1}",
            "{} x",
            r#"{"a" 1}"#,
            "{,}",
            r#"{"a":[1}}"#,
            r#"{"a":"\uZZZZ"}"#,
            "data: {}",
        ] {
            assert!(!members(body).is_complete(), "{body}");
        }
        for body in ["{}", "[]", r#" [{"a":1}, 2]"#, r#"{"a":[]}"#, r#"{"a":[{},[],"",0,-1.5e3,true,null]} "#]
        {
            assert!(members(body).is_complete(), "{body}");
        }
    }

    #[test]
    fn what_breaks_is_measured_up_to_there_however_it_comes() {
        let body = br#"{"messages":[{"content":"abc" oops "def"}],"model":"m"}"#;
        let whole = skim([body.as_slice()]).measure("messages");
        assert_eq!((whole.bytes, whole.text_bytes), (19, 3));
        for at in 0..body.len() {
            let (head, tail) = body.split_at(at);
            assert_eq!(skim([head, tail]).measure("messages"), whole, "split at {at}");
        }
    }

    #[test]
    fn a_member_that_is_too_large_to_keep_is_left_out_and_the_rest_kept() {
        let body = format!(r#"{{"usage":"{}","model":"m"}}"#, "x".repeat(KEPT_LIMIT));
        let got = skim([body.as_bytes()]);
        assert!(!got.has("usage"));
        assert_eq!(got.text("model").as_deref(), Some("m"));
    }

    #[test]
    fn nesting_beyond_the_limit_is_broken_not_endless() {
        let body = format!(r#"{{"a":{}"#, "[".repeat(100_000));
        assert!(!skim([body.as_bytes()]).is_complete());
    }

    #[test]
    fn whatever_serde_json_takes_for_an_object_is_complete() {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        let tree = leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(serde_json::Value::from),
                prop::collection::hash_map("[a-z\"\\\\é]{0,6}|model|usage|messages", inner, 0..8)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        });
        proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }, |(value in tree)| {
            let text = value.to_string();
            let got = skim(text.as_bytes().chunks(3));
            prop_assert_eq!(got.is_complete(), value.is_object() || value.is_array());
            if let Some(model) = value.get("model") {
                prop_assert_eq!(got.get::<serde_json::Value>("model"), Some(model.clone()).filter(|v| !v.is_null()));
            }
        });
    }
}
