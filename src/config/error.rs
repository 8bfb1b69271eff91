//! What is wrong with a configuration, and where.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Something in a configuration that is wrong. Reads as `4:10: tenants.limit: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Line and column, from 1, where they are known.
    pub position: Option<(usize, usize)>,
    place: Place,
    text: String,
}

/// The path of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Place {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn key(mut self, key: &str) -> Self {
        self.0.push(Step::Key(key.to_owned()));
        self
    }

    pub(super) fn index(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if n == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl Error {
    /// A value that is wrong by itself or does not go with another one.
    pub(super) fn at(place: Place, text: impl Into<String>) -> Self {
        Self { position: None, place, text: text.into() }
    }

    /// What the YAML reader says; it writes the key's path before and the position behind its text.
    pub(super) fn of_yaml(error: &serde_yaml::Error) -> Self {
        let position = error.location().map(|at| (at.line(), at.column()));
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        Self { position, place: Place::new(), text: guarded(text) }
    }

    /// The same with the position of its key in the text.
    pub(super) fn located(mut self, text: &str) -> Self {
        if self.position.is_none() && !self.place.0.is_empty() {
            let walk = Walk(&self.place.0).deserialize(serde_yaml::Deserializer::from_str(text));
            self.position = walk.err().and_then(|error| error.location()).map(|at| (at.line(), at.column()));
        }
        self
    }
}

/// What the reader says, less what it repeats of the file where that may be a secret: who writes a key in the wrong place
/// has it in a log then. A key's name that is only mistyped stays.
fn guarded(text: &str) -> String {
    let is_name = |word: &str| {
        let is_word = word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        word.len() < SHORTEST_KEY || word.len() <= 32 && is_word
    };
    let repeated = [
        ("unknown field `", "`, expected ", "unknown field `", "`, expected "),
        ("unknown field `", "`, there are no fields", "unknown field `", "`, there are no fields"),
        ("unknown variant `", "`, expected ", "unknown variant `", "`, expected "),
        ("duplicate field `", "`", "duplicate field `", "`"),
        ("duplicate entry with key \"", "\"", "duplicate entry with key \"", "\""),
        ("string \"", "\", expected ", "a text", ", expected "),
    ];
    for (before, after, opening, closing) in repeated {
        let Some((head, rest)) = text.split_once(before) else { continue };
        let Some((word, tail)) = rest.rsplit_once(after) else { continue };
        let quotes = opening != before;
        let word = if quotes {
            ""
        } else if is_name(word) {
            word
        } else {
            "…"
        };
        return format!("{head}{opening}{word}{closing}{tail}");
    }
    text.to_owned()
}

/// Whether a text has a word that may be a key: a long one of letters and digits.
pub(super) fn may_be_secret(text: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
    words.any(|word| {
        let has = |is: fn(&u8) -> bool| word.as_bytes().iter().any(is);
        word.len() >= SHORTEST_KEY && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
    })
}

/// Below it a word is told whatever it is made of. No vendor's key is as short.
const SHORTEST_KEY: usize = 16;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}: ")?;
        }
        if !self.place.0.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// Walks a YAML document to a place and fails there: the reader then says where "there" is.
#[derive(Clone, Copy)]
struct Walk<'p>(&'p [Step]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        while let Some(key) = map.next_key::<String>()? {
            if *step == Step::Key(key) {
                return map.next_value_seed(Walk(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        let mut index = 0;
        loop {
            if *step == Step::Index(index) {
                return elements.next_element_seed(Walk(rest)).map(|_| ());
            }
            if elements.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_reader_repeats_is_told_where_it_is_no_secret() {
        let key = "sk-proj-aB3dE6gH9";
        for (said, told) in [
            (
                "unknown field `tenant`, expected one of `a`, `b`",
                "unknown field `tenant`, expected one of `a`, `b`",
            ),
            ("unknown field `http3`, expected `a`", "unknown field `http3`, expected `a`"),
            ("a.b: unknown field `sk-proj-aB3dE6gH9`, expected `a`", "a.b: unknown field `…`, expected `a`"),
            (
                "unknown field `a`, expected `sk-proj-aB3dE6gH9`, expected `a`",
                "unknown field `…`, expected `a`",
            ),
            ("unknown variant `sk-proj-aB3dE6gH9`, expected `a`", "unknown variant `…`, expected `a`"),
            (
                "x: invalid type: string \"sk-proj-aB3dE6gH9\", expected a map",
                "x: invalid type: a text, expected a map",
            ),
            (
                "invalid type: string \"a\", expected b\", expected a map",
                "invalid type: a text, expected a map",
            ),
            ("duplicate entry with key \"sk-proj-aB3dE6gH9\"", "duplicate entry with key \"…\""),
            ("missing field `url`", "missing field `url`"),
        ] {
            let guarded = guarded(said);
            assert!(!guarded.contains(key), "{guarded}");
            assert_eq!(guarded, told);
        }
    }

    #[test]
    fn a_long_word_of_letters_and_digits_may_be_a_secret() {
        for secret in
            ["sk-proj-aB3dE6gH9", "Bearer 0123456789abcdef", "x=aaaaaaaaaaaaaaa1", "AIzaSyD-4_abcdefgh"]
        {
            assert!(may_be_secret(secret), "{secret}");
        }
        for other in [
            "25s",
            "0.0.0.0:8080",
            "http://gpu-17.internal.example:8000/v1",
            "1234567890123456",
            "aaaaaaaaaaaaaaaaa",
        ] {
            assert!(!may_be_secret(other), "{other}");
        }
    }
}
