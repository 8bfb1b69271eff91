//! Values as upstreams really send them: numbers as floats or null, text that need not be decoded to be
//! known. Nothing here fails for a type that it did not expect: the value is absent then.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::wire::text_bytes;

/// A piece of text as it stands in an event: between the quotes of its JSON, escapes and all. Nothing is
/// decoded or copied until somebody asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fragment<'a>(&'a str);

impl<'a> Fragment<'a> {
    /// The text of a JSON string; none if it is empty or no string.
    pub fn of(json: &'a RawValue) -> Option<Self> {
        let inner = json.get().strip_prefix('"')?.strip_suffix('"')?;
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
    /// This number, else the other one.
    pub(super) fn or(self, other: Number) -> Option<u64> {
        self.0.or(other.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(from)?.get();
        let float = || text.parse::<f64>().ok().filter(|f| *f >= 0.0).map(|f| f as u64);
        Ok(Self(text.parse::<u64>().ok().or_else(float).filter(|n| *n <= COUNT_LIMIT)))
    }
}

/// No exchange has more tokens than this: what says so is no count, and a counter that it were added to would be lost.
pub(super) const COUNT_LIMIT: u64 = 1 << 32;

/// A word that an API uses; none where it is empty, null or anything but a string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Word<'a>(pub(super) Option<Cow<'a, str>>);

impl Word<'_> {
    pub(super) fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(Fragment::of(<&RawValue>::deserialize(from)?).and_then(|fragment| fragment.decode())))
    }
}

/// Whether a member is `true`; anything else is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(<&RawValue>::deserialize(from)?.get() == "true"))
    }
}

/// How many elements an array has; none if it is no array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Length(pub(super) Option<u32>);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(from)?.get();
        // Only what is an array is tried: an error would be put together for each null.
        let elements = json.starts_with('[').then(|| serde_json::from_str::<Elements>(json).ok());
        Ok(Self(elements.flatten().map(|elements| elements.0)))
    }
}

struct Elements(u32);

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Elements;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Elements, A::Error> {
                let mut n = 0;
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    n += 1;
                }
                Ok(Elements(n))
            }
        }
        from.deserialize_seq(Count)
    }
}

/// The elements of an array of which there is one as a rule; nothing where it is null.
#[derive(Debug)]
pub(super) struct Few<T> {
    pub(super) first: Option<T>,
    pub(super) rest: Vec<T>,
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

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Elements<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array or null")
            }

            fn visit_unit<E>(self) -> Result<Few<T>, E> {
                Ok(Few::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Few<T>, A::Error> {
                let mut few = Few { first: elements.next_element()?, rest: Vec::new() };
                while let Some(element) = elements.next_element()? {
                    few.rest.push(element);
                }
                Ok(few)
            }
        }
        from.deserialize_any(Elements(PhantomData))
    }
}

/// Calls `visit` for each element of a JSON array that `T` can be read from; nothing where it is no array.
pub(super) fn for_each<'a, T: Deserialize<'a>>(json: &'a RawValue, visit: &mut dyn FnMut(T)) {
    struct Each<'v, T>(&'v mut dyn FnMut(T));
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Each<'_, T> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
            while let Some(element) = elements.next_element::<&'de RawValue>()? {
                if let Ok(element) = serde_json::from_str(element.get()) {
                    (self.0)(element);
                }
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_str(json.get());
    // What is no array holds no elements.
    let _ = json.deserialize_seq(Each(visit));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_upstreams_write_them() {
        let read = |json| serde_json::from_str::<Number>(json).unwrap().0;
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
        let text = |json| {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            Fragment::of(raw).map(|fragment| fragment.decode().map(Cow::into_owned))
        };
        assert_eq!(text(r#""a\nb""#), Some(Some("a\nb".to_owned())));
        assert_eq!(text(r#""\"""#), Some(Some("\"".to_owned())));
        assert_eq!(text(r#""\ud83c""#), Some(None), "half an emoji is text that cannot be decoded");
        for none in [r#""""#, "null", "1", "[]"] {
            assert_eq!(text(none), None, "{none}");
        }
    }

    #[test]
    fn arrays_are_counted_and_visited_leniently() {
        let length = |json| serde_json::from_str::<Length>(json).unwrap().0;
        assert_eq!((length("[1,[2],{}]"), length("null"), length("3")), (Some(3), None, None));
        let raw: &RawValue = serde_json::from_str(r#"["a", 1, null, "b"]"#).unwrap();
        let mut words = Vec::new();
        for_each(raw, &mut |word: Word<'_>| words.extend(word.0.map(Cow::into_owned)));
        assert_eq!(words, ["a", "b"]);
    }
}
