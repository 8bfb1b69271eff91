//! Skims a JSON body as it passes: of an object, or an array of them, small members that were asked for are kept, big
//! ones are only measured, everything else is passed over. A 2 MB prompt or a 5 MB embedding is never held.
//! Knows the grammar of JSON (RFC 8259) well enough to tell a whole body from a cut one; it does not check
//! that numbers and words are spelled right.

use super::members::{Measure, Members, PATTERNS, Wanted};

const KEPT_LIMIT: usize = 64 << 10; // all kept values of a body together: a usage object has some hundred bytes
const TRACKED_DEPTH: usize = 6; // the longest path has four parts
const KEY_LIMIT: usize = 64; // the longest name that any path has is far shorter
const DEPTH_LIMIT: u32 = 120; // parsers of JSON stop at about this depth too

/// Members whose strings are text that a model reads or writes. Images, audio, ids and addresses are none.
const TEXT_KEYS: [&[u8]; 10] = [
    b"content",
    b"text",
    b"arguments",
    b"prompt",
    b"input",
    b"system",
    b"description",
    b"reasoning",
    b"reasoning_content",
    b"thinking",
];

/// A scanner for one body.
#[derive(Debug)]
pub struct Skim {
    wanted: Wanted,
    state: State,
    /// Containers that are open; the outer ones in `frames`, the kinds of all in `arrays`.
    depth: u32,
    frames: Vec<Frame>,
    arrays: u128,
    /// For each open container: whether strings directly in it are text.
    texts: u128,
    key: Vec<u8>,
    /// Paths that the value to come lies on.
    matching: u32,
    /// Whether the value to come is text if it is a string.
    is_text: bool,
    keeping: Option<Keeping>,
    measuring: Option<Measuring>,
    kept_bytes: usize,
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
    InString {
        key: bool,
    },
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

#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Paths of which this container is a part.
    matching: u32,
}

#[derive(Debug)]
struct Keeping {
    path: usize,
    depth: u32,
    json: Vec<u8>,
    overflowed: bool,
}

#[derive(Debug)]
struct Measuring {
    path: usize,
    depth: u32,
    measure: Measure,
}

/// The `\uXXXX` that is being read.
#[derive(Debug, Default)]
struct Unicode {
    digits: u8,
    value: u32,
}

/// Whether the part of a path at this depth, from 1, is `name`.
fn is_part(path: &str, depth: usize, name: &[u8]) -> bool {
    if depth == 1 {
        let rest = path.as_bytes().strip_prefix(name);
        return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."));
    }
    path.split('.').nth(depth - 1).is_some_and(|part| part.as_bytes() == name)
}

impl Skim {
    /// A scanner that looks for what is wanted.
    pub fn new(wanted: Wanted) -> Self {
        debug_assert!(wanted.keep.len() + wanted.measure.len() <= PATTERNS);
        Self {
            wanted,
            state: State::Value,
            depth: 0,
            frames: Vec::with_capacity(TRACKED_DEPTH),
            arrays: 0,
            texts: 0,
            key: Vec::new(),
            matching: u32::MAX,
            is_text: false,
            keeping: None,
            measuring: None,
            kept_bytes: 0,
            members: Members::of(wanted),
            unicode: Unicode::default(),
        }
    }

    /// Reads more of the body.
    pub fn push(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while let Some((&byte, after)) = rest.split_first() {
            if let State::InString { key } = self.state {
                let run = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                let (text, tail) = rest.split_at(run);
                self.take_text(text, key);
                rest = tail;
                if let Some((&end, after)) = tail.split_first() {
                    self.take_raw(end);
                    self.state = if end == b'\\' { State::Escape { key } } else { self.string_ended(key) };
                    rest = after;
                }
                continue;
            }
            self.step(byte);
            rest = after;
        }
    }

    /// The body has ended: what it held.
    pub fn finish(mut self) -> Members {
        self.members.complete = self.state == State::Ended;
        self.members
    }

    fn step(&mut self, byte: u8) {
        match self.state {
            State::Escape { key } => self.escape(byte, key),
            State::InUnicode { key } => self.unicode_digit(byte, key),
            State::InWord if !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r') => {
                self.take_raw(byte);
            }
            State::InWord => {
                self.value_ended();
                self.step(byte);
            }
            State::InString { .. } | State::Broken => {}
            _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => {
                if self.keeping.is_some() || self.measuring.is_some() {
                    self.take_raw(byte);
                }
            }
            State::Value | State::FirstElement => self.value_begins(byte),
            State::FirstKey | State::Key if byte == b'"' => {
                self.take_raw(byte);
                self.key.clear();
                self.state = State::InString { key: true };
            }
            State::FirstKey if byte == b'}' => self.container_ends(byte),
            State::Colon if byte == b':' => {
                self.take_raw(byte);
                self.state = State::Value;
            }
            State::After if byte == b',' => {
                self.take_raw(byte);
                self.next_member();
            }
            State::After if byte == if self.in_array() { b']' } else { b'}' } => self.container_ends(byte),
            State::FirstKey | State::Key | State::Colon | State::After | State::Ended => {
                self.state = State::Broken;
            }
        }
    }

    fn value_begins(&mut self, byte: u8) {
        if byte == b']' && self.state == State::FirstElement {
            return self.container_ends(byte);
        }
        if self.depth == 0 && !matches!(byte, b'{' | b'[') {
            self.state = State::Broken;
            return;
        }
        self.start_capture();
        self.take_raw(byte);
        match byte {
            b'{' | b'[' => self.container_begins(byte == b'['),
            b'"' => {
                if let Some(measuring) = self.measuring.as_mut().filter(|_| self.is_text) {
                    measuring.measure.texts += 1;
                }
                self.state = State::InString { key: false };
            }
            b'-' | b'0'..=b'9' => {
                if let Some(measuring) = &mut self.measuring {
                    measuring.measure.numbers += 1;
                }
                self.state = State::InWord;
            }
            b't' | b'f' | b'n' => self.state = State::InWord,
            _ => self.state = State::Broken,
        }
    }

    fn container_begins(&mut self, array: bool) {
        if self.depth >= DEPTH_LIMIT {
            self.state = State::Broken;
            return;
        }
        if self.frames.len() < TRACKED_DEPTH && self.frames.len() == self.depth as usize {
            self.frames.push(Frame { matching: self.matching });
        }
        if let Some(measuring) = self.measuring.as_mut().filter(|at| array && at.depth < self.depth) {
            measuring.measure.arrays += 1;
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

    fn container_ends(&mut self, byte: u8) {
        self.take_raw(byte);
        self.depth = self.depth.saturating_sub(1);
        self.frames.truncate(self.depth as usize);
        self.arrays >>= 1;
        self.texts >>= 1;
        self.value_ended();
    }

    fn value_ended(&mut self) {
        self.end_capture();
        self.state = if self.depth == 0 { State::Ended } else { State::After };
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
        self.matching = self.on_path(b"*");
    }

    fn string_ended(&mut self, key: bool) -> State {
        if !key {
            self.value_ended();
            return self.state;
        }
        self.is_text = TEXT_KEYS.contains(&self.key.as_slice());
        let key = std::mem::take(&mut self.key);
        self.matching = self.on_path(&key);
        self.key = key;
        State::Colon
    }

    /// The paths on which a member of the innermost container lies.
    fn on_path(&self, name: &[u8]) -> u32 {
        let depth = self.depth as usize;
        let parent = match self.frames.last() {
            Some(frame) if self.frames.len() == depth => frame.matching,
            _ => return 0,
        };
        let mut matching = 0;
        for (bit, path) in self.paths().enumerate().filter(|(bit, _)| parent >> bit & 1 == 1) {
            if is_part(path, depth, name) {
                matching |= 1 << bit;
            }
        }
        matching
    }

    fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.wanted.keep.iter().chain(self.wanted.measure).copied()
    }

    /// Begins to keep or measure, if the value to come ends a path.
    fn start_capture(&mut self) {
        if self.matching == 0 || self.depth == 0 || self.keeping.is_some() || self.measuring.is_some() {
            return;
        }
        let depth = self.depth;
        let ends = |path: &str| path.bytes().filter(|byte| *byte == b'.').count() + 1 == depth as usize;
        let matching = self.matching;
        let Some(at) = self
            .paths()
            .enumerate()
            .find(|(bit, path)| matching >> bit & 1 == 1 && ends(path))
            .map(|(at, _)| at)
        else {
            return;
        };
        match at.checked_sub(self.wanted.keep.len()) {
            None => self.keeping = Some(Keeping { path: at, depth, json: Vec::new(), overflowed: false }),
            Some(path) => {
                self.measuring = Some(Measuring { path, depth, measure: Measure::default() });
                // A text that stands directly at the path is what the path was asked for.
                self.is_text = true;
            }
        }
    }

    fn end_capture(&mut self) {
        if let Some(keeping) = self.keeping.take_if(|keeping| keeping.depth == self.depth)
            && !keeping.overflowed
        {
            self.kept_bytes += keeping.json.len();
            self.members.kept.push((keeping.path, keeping.json.into_boxed_slice()));
        }
        if let Some(Measuring { path, measure, .. }) = self.measuring.take_if(|at| at.depth == self.depth) {
            match self.members.measured.iter_mut().find(|(at, _)| *at == path) {
                Some((_, sum)) => {
                    sum.bytes += measure.bytes;
                    sum.text_bytes += measure.text_bytes;
                    sum.texts += measure.texts;
                    sum.numbers += measure.numbers;
                    sum.arrays += measure.arrays;
                }
                None => self.members.measured.push((path, measure)),
            }
        }
    }

    fn take_raw(&mut self, byte: u8) {
        self.capture(&[byte]);
    }

    fn take_text(&mut self, text: &[u8], key: bool) {
        self.capture(text);
        if key {
            let room = KEY_LIMIT.saturating_sub(self.key.len());
            self.key.extend_from_slice(text.get(..room).unwrap_or(text));
        } else {
            self.add_text(text.len() as u64);
        }
    }

    fn add_text(&mut self, bytes: u64) {
        if let Some(measuring) = self.measuring.as_mut().filter(|_| self.is_text) {
            measuring.measure.text_bytes += bytes;
        }
    }

    fn capture(&mut self, bytes: &[u8]) {
        if let Some(keeping) = &mut self.keeping {
            keeping.overflowed |= self.kept_bytes + keeping.json.len() + bytes.len() > KEPT_LIMIT;
            if keeping.overflowed {
                keeping.json = Vec::new();
            } else {
                keeping.json.extend_from_slice(bytes);
            }
        }
        if let Some(measuring) = &mut self.measuring {
            measuring.measure.bytes += bytes.len() as u64;
        }
    }

    fn escape(&mut self, byte: u8, key: bool) {
        self.take_raw(byte);
        if byte == b'u' {
            self.unicode = Unicode::default();
            self.state = State::InUnicode { key };
            return;
        }
        if !key {
            self.add_text(1);
        }
        self.state = State::InString { key };
    }

    fn unicode_digit(&mut self, byte: u8, key: bool) {
        let Some(digit) = char::from(byte).to_digit(16) else {
            self.state = State::Broken;
            return;
        };
        self.take_raw(byte);
        self.unicode.value = self.unicode.value << 4 | digit;
        self.unicode.digits += 1;
        if self.unicode.digits == 4 {
            let utf8_bytes = match self.unicode.value {
                0..=0x7F => 1,
                // Half of a pair that takes four bytes together, or a letter of two.
                0x80..=0x7FF | 0xD800..=0xDFFF => 2,
                _ => 3,
            };
            if !key {
                self.add_text(utf8_bytes);
            }
            self.state = State::InString { key };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        keep: &["model", "usage", "stream", "choices.*.finish_reason", "choices.*.index"],
        measure: &["messages", "prompt", "choices.*.message"],
    };

    fn skim<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Members {
        let mut skim = Skim::new(WANTED);
        for chunk in chunks {
            skim.push(chunk);
        }
        skim.finish()
    }

    /// Skims a body whole, bytewise and at every split, which must make no difference.
    fn members(body: &str) -> Members {
        let whole = skim([body.as_bytes()]);
        let shape = |members: &Members| (members.kept.clone(), members.measured.clone(), members.complete);
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
        assert_eq!(got.each("usage").next(), Some(br#"{"a":[1,{"b":2}]}"#.as_slice()));
        assert!(got.is_complete());
    }

    #[test]
    fn members_of_array_elements_are_kept_in_order() {
        let got = members(
            r#"{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"},{"finish_reason":null,"index":1}]}"#,
        );
        let reasons: Vec<_> = got.each("choices.*.finish_reason").collect();
        assert_eq!(reasons, [br#""stop""#.as_slice(), b"null"]);
        assert_eq!(got.measure("choices.*.message").text_bytes, 2);
    }

    #[test]
    fn members_of_an_array_at_the_top_are_kept() {
        let mut skim = Skim::new(Wanted { keep: &["n", "*.n"], measure: &[] });
        skim.push(br#"[{"n":1,"x":{"n":5}},[{"n":6}],{"n":2}]"#);
        let got = skim.finish();
        assert_eq!(got.each("*.n").collect::<Vec<_>>(), [b"1", b"2"]);
        assert!(got.is_complete() && !got.has("n"));
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
