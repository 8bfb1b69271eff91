//! Reads a JSON text that is all here, such as an event's, into the fields that a dialect names. What nobody asks for is
//! passed over, but checked, so that a broken text is never half read. The grammar is RFC 8259's; of a member that is
//! there twice, the last one holds. [`super::skim`] reads bodies that come in pieces.

use super::lexeme::{is_blank, plain, text_end};

const DEPTH_LIMIT: u32 = 500; // containers in each other; each takes some hundred bytes of the stack

/// What can be read from a JSON value.
pub trait Read<'a> {
    /// Reads the value that `json` stands at, to its end.
    fn read(&mut self, json: &mut Json<'a>);
}

/// What can be read from a JSON object, member by member.
pub trait Object<'a> {
    /// Reads the member of this name. One that is of no use is left where it stands: it is passed over.
    fn member(&mut self, name: &str, json: &mut Json<'a>);
}

/// Makes a struct an [`Object`]: of these fields, each is the member of its own name, or of the one that it is given.
macro_rules! object {
    ($object:ident { $($fields:tt)* }) => {
        impl $crate::wire::json::Object<'_> for $object {
            $crate::wire::json::members!('_ { $($fields)* });
        }
    };
    ($object:ident<$a:lifetime> { $($fields:tt)* }) => {
        impl<$a> $crate::wire::json::Object<$a> for $object<$a> {
            $crate::wire::json::members!($a { $($fields)* });
        }
    };
}

macro_rules! members {
    ($a:lifetime { $($field:ident $(= $name:literal)?),* }) => {
        fn member(&mut self, name: &str, json: &mut $crate::wire::json::Json<$a>) {
            let Self { $($field: _),* } = self; // all of them: one that is left out would never be read
            match name {
                $($crate::wire::json::member_name!($field $($name)?) => json.read(&mut self.$field),)*
                _ => {}
            }
        }
    };
}

macro_rules! member_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

pub(crate) use {member_name, members, object};

/// What a JSON object holds; none where the text is broken, or of another shape than `T` can be read from.
#[inline]
pub fn read<'a, T: Object<'a> + Default>(text: &'a str) -> Option<T> {
    let mut json = Json { text, at: 0, depth: 0 };
    let mut value = T::default();
    json.token();
    json.members(|name, json| value.member(name, json));
    json.token();
    (json.at == text.len()).then_some(value)
}

/// The same of bytes, which must be UTF-8.
#[inline]
pub fn read_bytes<'a, T: Object<'a> + Default>(text: &'a [u8]) -> Option<T> {
    std::str::from_utf8(text).ok().and_then(read)
}

/// Calls `visit` for each element of an array, as it is written; nothing where the text is no array. Of a broken text some
/// elements may be visited.
pub fn for_each<'a>(text: &'a str, visit: &mut dyn FnMut(&'a str)) {
    let mut json = Json { text, at: 0, depth: 0 };
    json.token();
    json.elements(|json| visit(json.raw()));
}

/// A JSON text, and where in it reading is.
#[derive(Debug)]
pub struct Json<'a> {
    text: &'a str,
    /// The next byte to read; behind the text's end where it turned out to be broken.
    at: usize,
    /// How many objects and arrays are open here.
    depth: u32,
}

impl<'a> Json<'a> {
    /// The value that stands here, as it is written.
    #[inline]
    pub fn raw(&mut self) -> &'a str {
        let from = self.at;
        self.skip();
        self.text.get(from..self.at).unwrap_or_default()
    }

    /// Reads the string that stands here, if it has no escape; otherwise nothing is read.
    #[inline]
    pub fn bare_text(&mut self) -> Option<&'a str> {
        if self.peek() != b'"' {
            return None;
        }
        let from = self.at + 1;
        let end = text_end(self.text.as_bytes(), from).and_then(|(end, by)| (by == b'"').then_some(end))?;
        self.at = end + 1;
        self.text.get(from..end)
    }

    /// Reads the number that stands here, if it is written in at most 15 digits and nothing else; otherwise nothing is read.
    #[inline]
    pub fn count(&mut self) -> Option<u64> {
        let (mut number, mut digits) = (0, 0);
        let text = self.text.as_bytes().get(self.at..)?;
        while let Some(byte @ b'0'..=b'9') = text.get(digits) {
            number = number * 10 + u64::from(byte - b'0');
            digits += 1;
            if digits > 15 {
                return None;
            }
        }
        let ends = matches!(text.get(digits), Some(b',' | b'}' | b']'));
        let is_valid = digits == 1 || digits > 1 && text.first() != Some(&b'0');
        (ends && is_valid).then(|| {
            self.at += digits;
            number
        })
    }

    /// Reads the value that stands here into `value`.
    #[inline]
    pub fn read<T: Read<'a>>(&mut self, value: &mut T) {
        value.read(self);
    }

    /// Reads the object that stands here. Some servers write an empty one as an array.
    #[inline]
    pub fn object<T: Object<'a>>(&mut self, object: &mut T) {
        match self.peek() {
            b'{' => self.members(|name, json| object.member(name, json)),
            b'[' => self.skip(),
            _ => self.give_up(),
        }
    }

    /// Reads the array that stands here: `element` reads an element, or leaves it where it stands.
    #[inline]
    pub fn elements(&mut self, mut element: impl FnMut(&mut Self)) {
        self.container(b'[', b']', |json| json.value(&mut element));
    }

    /// Whether `null` stands here; it is read then.
    #[inline]
    pub fn is_null(&mut self) -> bool {
        let is_null = self.peek() == b'n';
        if is_null {
            self.word(b"null");
        }
        is_null
    }

    /// Whether an array begins here.
    pub fn is_array(&self) -> bool {
        self.peek() == b'['
    }

    #[inline]
    fn members(&mut self, mut member: impl FnMut(&str, &mut Self)) {
        self.container(b'{', b'}', |json| {
            let Text { inner, is_plain } = json.string();
            let escaped = if is_plain { None } else { plain(inner.as_bytes()) };
            let name = escaped.as_deref().unwrap_or(inner);
            json.colon();
            json.value(&mut |json| member(name, json));
        });
    }

    /// Reads what is between these brackets, parted by commas.
    #[inline]
    fn container(&mut self, open: u8, close: u8, mut part: impl FnMut(&mut Self)) {
        self.take(open);
        self.depth += 1;
        if self.depth > DEPTH_LIMIT || self.has_given_up() {
            return self.give_up();
        }
        if self.token() != close {
            loop {
                part(self);
                if self.token() != b',' {
                    break;
                }
                self.at += 1;
                self.token();
            }
        }
        self.take(close);
        self.depth -= 1;
    }

    #[inline]
    fn colon(&mut self) {
        self.token();
        self.take(b':');
        self.token();
    }

    /// Reads the value that stands here, or passes it over where `read` leaves it.
    #[inline]
    fn value(&mut self, read: &mut impl FnMut(&mut Self)) {
        let before = self.at;
        read(self);
        if self.at == before {
            self.skip();
        }
    }

    fn skip(&mut self) {
        match self.peek() {
            b'"' => _ = self.string(),
            b'{' => self.container(b'{', b'}', |json| {
                json.string();
                json.colon();
                json.skip();
            }),
            b'[' => self.container(b'[', b']', Self::skip),
            b'n' => self.word(b"null"),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            _ => self.number(),
        }
    }

    #[inline]
    fn string(&mut self) -> Text<'a> {
        match self.bare_text() {
            Some(inner) => Text { inner, is_plain: true },
            None => Text { inner: self.text_with_escapes(), is_plain: false },
        }
    }

    /// Reads any string; gives what is between its quotes.
    fn text_with_escapes(&mut self) -> &'a str {
        self.take(b'"');
        let from = self.at;
        loop {
            match text_end(self.text.as_bytes(), self.at) {
                Some((end, b'"')) => {
                    self.at = end + 1;
                    return self.text.get(from..end).unwrap_or_default();
                }
                Some((escape, b'\\')) => {
                    self.at = escape + 1;
                    self.escape();
                }
                _ => {
                    self.give_up();
                    return "";
                }
            }
        }
    }

    fn escape(&mut self) {
        match self.next() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
            b'u' => {
                for _ in 0..4 {
                    if !self.next().is_ascii_hexdigit() {
                        return self.give_up();
                    }
                }
            }
            _ => self.give_up(),
        }
    }

    fn number(&mut self) {
        if self.count().is_some() {
            return;
        }
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1, // no digit follows
            _ => self.digits(),
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits();
        }
    }

    /// Reads digits, at least one.
    fn digits(&mut self) {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        match digits {
            0 => self.give_up(),
            _ => self.at += digits,
        }
    }

    #[inline]
    fn word<const N: usize>(&mut self, word: &[u8; N]) {
        match self.rest().first_chunk() == Some(word) {
            true => self.at += N,
            false => self.give_up(),
        }
    }

    #[inline]
    fn take(&mut self, byte: u8) {
        match self.peek() == byte {
            true => self.at += 1,
            false => self.give_up(),
        }
    }

    /// The next byte that is no blank.
    #[inline]
    fn token(&mut self) -> u8 {
        loop {
            match self.peek() {
                byte if is_blank(byte) => self.at += 1,
                byte => return byte,
            }
        }
    }

    fn next(&mut self) -> u8 {
        let byte = self.peek();
        self.at += 1;
        byte
    }

    /// The next byte; 0, which nothing begins with, where there is none.
    #[inline]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Goes where nothing more can be read.
    #[cold]
    fn give_up(&mut self) {
        self.at = usize::MAX / 2;
    }

    fn has_given_up(&self) -> bool {
        self.at > self.text.len()
    }
}

/// What is between a string's quotes.
struct Text<'a> {
    inner: &'a str,
    /// It has no escape.
    is_plain: bool,
}

/// An object of which nothing is wanted.
impl Object<'_> for () {
    fn member(&mut self, _: &str, _: &mut Json<'_>) {}
}

/// The value as it is written; none where it is null.
impl<'a> Read<'a> for Option<&'a str> {
    fn read(&mut self, json: &mut Json<'a>) {
        *self = (!json.is_null()).then(|| json.raw());
    }
}

/// None where it is null.
impl<'a, T: Object<'a> + Default> Read<'a> for Option<T> {
    fn read(&mut self, json: &mut Json<'a>) {
        *self = (!json.is_null()).then(T::default);
        if let Some(object) = self {
            json.object(object);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Outer<'a> {
        text: Option<&'a str>,
        inner: Option<Inner<'a>>,
        renamed: Option<&'a str>,
    }

    object!(Outer<'a> { text, inner, renamed = "otherName" });

    #[derive(Debug, Default, PartialEq)]
    struct Inner<'a> {
        n: Option<&'a str>,
    }

    object!(Inner<'a> { n });

    #[test]
    fn members_are_read_wherever_they_stand() {
        let inner = |n| Some(Inner { n });
        for (text, want) in [
            ("{}", Outer::default()),
            (
                r#" { "text" : "a\"b" , "x":[{}, [1,"]"]] } "#,
                Outer { text: Some(r#""a\"b""#), ..Outer::default() },
            ),
            (
                r#"{"text":null,"inner":{"n":1.5e-3}}"#,
                Outer { inner: inner(Some("1.5e-3")), ..Outer::default() },
            ),
            (
                r#"{"x":{"text":"no"},"otherName":[1, 2]}"#,
                Outer { renamed: Some("[1, 2]"), ..Outer::default() },
            ),
            (r#"{"te\u0078t":true}"#, Outer { text: Some("true"), ..Outer::default() }),
            (r#"{"inner":null}"#, Outer::default()),
            (r#"{"inner":[]}"#, Outer { inner: inner(None), ..Outer::default() }),
        ] {
            assert_eq!(read::<Outer<'_>>(text), Some(want), "{text}");
        }
    }

    #[test]
    fn the_last_of_two_members_of_a_name_holds() {
        let read = |text| read::<Outer<'_>>(text).unwrap();
        assert_eq!(read(r#"{"text":"a","text":"b"}"#).text, Some("\"b\""));
        assert_eq!(read(r#"{"text":"a","text":null}"#).text, None);
        assert_eq!(read(r#"{"inner":{"n":1},"inner":{}}"#).inner, Some(Inner { n: None }));
    }

    #[test]
    fn what_is_broken_or_of_another_shape_is_not_read() {
        for text in [
            "",
            "null",
            "[]",
            "7",
            "{",
            r#"{"text""#,
            r#"{"text":}"#,
            r#"{"text":"a"}}"#,
            r#"{"text":"a",}"#,
            r#"{,"text":"a"}"#,
            r#"{"text" "a"}"#,
            r#"{"text":"a" "x":1}"#,
            r#"{text:"a"}"#,
            r#"{"inner":7}"#,
            r#"{"inner":"n"}"#,
            r#"{"x":[1,]}"#,
            r#"{"x":[1}]"#,
            r#"{"x":nul}"#,
            r#"{"x":01}"#,
            r#"{"x":1.}"#,
            r#"{"x":-}"#,
            r#"{"x":1e}"#,
            r#"{"x":+1}"#,
            r#"{"x":"\x"}"#,
            r#"{"x":"\u00g0"}"#,
            "{\"x\":\"\n\"}",
            "{\"x\":1}\0",
        ] {
            assert_eq!(read::<Outer<'_>>(text), None, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |depth| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(read::<()>(&deep(DEPTH_LIMIT as usize - 1)), Some(()));
        assert_eq!(read::<()>(&deep(DEPTH_LIMIT as usize)), None);
        assert_eq!(read::<()>(&deep(1 << 20)), None);
    }

    #[test]
    fn elements_are_visited_as_they_are_written() {
        let elements = |text| {
            let mut seen = Vec::new();
            for_each(text, &mut |element| seen.push(element));
            seen
        };
        assert_eq!(elements(r#"[1, "a,]" ,{"b": [] }]"#), ["1", r#""a,]""#, r#"{"b": [] }"#]);
        assert!(elements("[]").is_empty() && elements("null").is_empty() && elements("{}").is_empty());
    }

    /// Whether another reader takes a text for an object.
    fn is_object(text: &str) -> bool {
        serde_json::from_str::<BTreeMap<String, IgnoredAny>>(text).is_ok()
    }

    proptest! {
        #[test]
        fn what_is_an_object_is_one_to_others_too(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"a\":", "\"a\":1,", " ", "\n", "\\", "\\n", "\\u00e9",
                "é", "\u{1}", "null", "true", "false", "0", "12", "-3", ".5", "e", "E+7", "x", "{}", "[]", "\"\"",
            ]), 0..12),
            whole in any::<bool>(),
        ) {
            let inner = pieces.concat();
            let text = if whole { format!("{{\"a\":{inner}}}") } else { inner };
            prop_assert_eq!(read::<()>(&text).is_some(), is_object(&text), "{}", text);
        }

        #[test]
        fn objects_are_read_and_no_cut_or_changed_ones(
            object in object(), at in any::<prop::sample::Index>(), byte in 0_u8..128,
        ) {
            let text = object.to_string();
            prop_assert_eq!(read::<()>(&text), Some(()), "{}", text);
            let at = at.index(text.len());
            if let Some(cut) = text.get(..at) {
                prop_assert_eq!(read::<()>(cut), None, "{}", cut);
            }
            let mut changed = text.into_bytes();
            changed[at] = byte;
            if let Ok(changed) = std::str::from_utf8(&changed) {
                prop_assert_eq!(read::<()>(changed).is_some(), is_object(changed), "{}", changed);
            }
        }
    }

    fn object() -> impl Strategy<Value = serde_json::Value> {
        let scalar = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,20}".prop_map(Into::into),
        ];
        let value = scalar.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map(".{0,12}", inner, 0..5)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[a-z\"\\\\]{0,12}", value, 0..5)
            .prop_map(|members| serde_json::Value::Object(members.into_iter().collect()))
    }
}
