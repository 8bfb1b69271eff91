//! Values as upstreams really send them: numbers as floats or null, text that need not be decoded to be
//! known. A value of a type that was not expected is absent; only a scalar where an object or a list must be makes
//! a text one that cannot be read.

use std::borrow::Cow;
use std::fmt;

use crate::wire::json::{self, Json, Object, Read};
use crate::wire::{Members, text_bytes};

/// A piece of text as it stands in an event: between the quotes of its JSON, escapes and all. Nothing is
/// decoded or copied until somebody asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fragment<'a>(&'a str);

impl<'a> Fragment<'a> {
    /// The text of a JSON string; none if it is empty or no string.
    pub fn of(json: &'a str) -> Option<Self> {
        let inner = json.strip_prefix('"')?.strip_suffix('"')?;
        (!inner.is_empty()).then_some(Self(inner))
    }

    /// How many bytes of UTF-8 the text is.
    pub fn bytes(&self) -> u64 {
        text_bytes(self.0)
    }

    /// The text as it stands in its JSON.
    pub(crate) fn raw(&self) -> &'a str {
        self.0
    }

    /// What comes after so many bytes of its JSON; none where nothing does.
    pub(crate) fn after(&self, bytes: usize) -> Option<Self> {
        self.0.get(bytes..).filter(|rest| !rest.is_empty()).map(Self)
    }

    /// The text, decoded; none where it has an escape that stands for no character.
    pub fn decode(&self) -> Option<Cow<'a, str>> {
        if !self.0.contains('\\') {
            return Some(Cow::Borrowed(self.0));
        }
        serde_json::from_str::<String>(&format!("\"{}\"", self.0)).ok().map(Cow::Owned)
    }
}

impl fmt::Debug for Fragment<'_> {
    /// Its length only: text of a person must not get into a log by way of a debug line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fragment({} bytes)", self.0.len())
    }
}

/// A count that may be written as an integer, a float or null; none if it is negative or anything else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Number(pub(super) Option<u64>);

impl Number {
    /// As it is written.
    pub(super) fn of(json: &str) -> Self {
        let float = || json.parse::<f64>().ok().filter(|f| *f >= 0.0).map(|f| f as u64);
        Self(json.parse::<u64>().ok().or_else(float).filter(|n| *n <= COUNT_LIMIT))
    }

    /// This number, else the other one.
    pub(super) fn or(self, other: Number) -> Option<u64> {
        self.0.or(other.0)
    }
}

impl<'a> Read<'a> for Number {
    fn read(&mut self, json: &mut Json<'a>) {
        *self = match json.count() {
            Some(count) => Self(Some(count).filter(|n| *n <= COUNT_LIMIT)),
            None => Self::of(json.raw()),
        };
    }
}

/// No exchange has more tokens than this: what says so is no count, and a counter that it were added to would be lost.
pub(super) const COUNT_LIMIT: u64 = 1 << 32;

/// A word that an API uses; none where it is empty, null or anything but a string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Word<'a>(pub(super) Option<Cow<'a, str>>);

impl<'a> Word<'a> {
    /// As it is written.
    pub(super) fn of(json: &'a str) -> Self {
        Self(Fragment::of(json).and_then(|fragment| fragment.decode()))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl<'a> Read<'a> for Word<'a> {
    fn read(&mut self, json: &mut Json<'a>) {
        *self = match json.bare_text() {
            Some(text) => Self((!text.is_empty()).then_some(Cow::Borrowed(text))),
            None => Self::of(json.raw()),
        };
    }
}

/// Whether a member is `true`; anything else is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flag(pub(super) bool);

impl<'a> Read<'a> for Flag {
    fn read(&mut self, json: &mut Json<'a>) {
        *self = Self(json.raw() == "true");
    }
}

/// How many elements an array has; none if it is no array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Length(pub(super) Option<u32>);

impl<'a> Read<'a> for Length {
    fn read(&mut self, json: &mut Json<'a>) {
        self.0 = json.is_array().then_some(0);
        if let Some(length) = &mut self.0 {
            json.elements(|_| *length += 1);
        }
    }
}

/// The elements of an array of which there is one as a rule; nothing where it is null.
#[derive(Debug)]
pub(super) struct Few<T> {
    first: Option<T>,
    rest: Vec<T>,
}

impl<T> Few<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.rest)
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self { first: None, rest: Vec::new() }
    }
}

impl<'a, T: Object<'a> + Default> Read<'a> for Few<T> {
    fn read(&mut self, json: &mut Json<'a>) {
        *self = Self::default();
        if json.is_null() {
            return;
        }
        json.elements(|json| match self.first {
            None => json.object(self.first.insert(T::default())),
            Some(_) => json.object(self.rest.push_mut(T::default())),
        });
    }
}

/// Calls `visit` for each element of a JSON array that `T` can be read from; nothing where it is no array.
pub(super) fn for_each<'a, T: Object<'a> + Default>(json: &'a str, visit: &mut dyn FnMut(T)) {
    json::for_each(json, &mut |element| json::read(element).into_iter().for_each(&mut *visit));
}

/// A member of an event; all of it absent where it is not there or has another form.
pub(super) fn member<'a, T: Object<'a> + Default>(json: Option<&'a str>) -> T {
    json.and_then(json::read).unwrap_or_default()
}

/// The number at a kept path of a body.
pub(super) fn number(members: &Members, path: &'static str) -> Number {
    members.last(path).map(Number::of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::members;

    #[derive(Default)]
    struct Member<T> {
        value: T,
    }

    impl<'a, T: Read<'a>> Object<'a> for Member<T> {
        members!('a { value });
    }

    fn read<'a, T: Read<'a> + Default>(value: &str) -> T {
        let object = format!("{{\"value\":{value}}}").leak();
        json::read::<Member<T>>(object).unwrap().value
    }

    #[test]
    fn numbers_as_upstreams_write_them() {
        let read = |json| read::<Number>(json).0;
        assert_eq!(read("24"), Some(24));
        assert_eq!(read("24.0"), Some(24));
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("4294967296"), Some(1 << 32));
        for none in
            ["4294967297", "18446744073709551615", "null", "-1", "\"24\"", "{}", "[1]", "true", "1e300"]
        {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn a_fragment_is_text_that_is_not_empty() {
        let text = |json| Fragment::of(json).map(|fragment| fragment.decode().map(Cow::into_owned));
        assert_eq!(text(r#""a\nb""#), Some(Some("a\nb".to_owned())));
        assert_eq!(text(r#""\"""#), Some(Some("\"".to_owned())));
        assert_eq!(text(r#""\ud83c""#), Some(None), "half an emoji is text that cannot be decoded");
        for none in [r#""""#, "null", "1", "[]"] {
            assert_eq!(text(none), None, "{none}");
        }
    }

    #[test]
    fn arrays_are_counted_and_visited_leniently() {
        let length = |json| read::<Length>(json).0;
        assert_eq!((length("[1,[2],{}]"), length("null"), length("3")), (Some(3), None, None));
        let mut words = Vec::new();
        let array = r#"[{"value":"a"}, 1, null, {"value":[]}, {"value":"b"}]"#;
        for_each(array, &mut |element: Member<Word<'_>>| words.extend(element.value.0.map(Cow::into_owned)));
        assert_eq!(words, ["a", "b"]);
    }
}
