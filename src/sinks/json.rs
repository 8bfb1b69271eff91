//! JSON as the logs write it: member by member, into one buffer. Names of members need no look for what to escape:
//! half of a line's cost.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::account::price::PICO;

/// Where the members of a line go.
pub(super) trait MemberWriter {
    type Error;

    /// Adds a member that is known.
    fn put<T: Serialize>(&mut self, name: &'static str, value: Option<T>) -> Result<(), Self::Error>;

    /// Adds a member that is known, whose text is one of ours and has nothing to escape.
    fn put_word(&mut self, name: &'static str, word: Option<&'static str>) -> Result<(), Self::Error> {
        self.put(name, word)
    }

    /// Adds a time that is known, to the millisecond.
    fn put_time(&mut self, name: &'static str, time: Option<SystemTime>) -> Result<(), Self::Error> {
        self.put(name, time.map(|time| humantime::format_rfc3339_millis(time).to_string()))
    }
}

/// Any format.
pub(super) struct Map<M>(pub(super) M);

impl<M: SerializeMap> MemberWriter for Map<M> {
    type Error = M::Error;

    fn put<T: Serialize>(&mut self, name: &'static str, value: Option<T>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.0.serialize_entry(name, &value))
    }
}

/// Whether a file of lines ends in the midst of one, where a full disk or a sudden end has left it.
pub(super) fn is_torn(file: &File) -> io::Result<bool> {
    let Some(end) = file.metadata()?.len().checked_sub(1) else { return Ok(false) };
    let mut last = [0];
    file.read_exact_at(&mut last, end)?;
    Ok(last != *b"\n")
}

/// The text of an object, at the end of a buffer.
pub(super) struct Text<'a>(&'a mut Vec<u8>);

impl MemberWriter for Text<'_> {
    type Error = serde_json::Error;

    fn put<T: Serialize>(&mut self, name: &'static str, value: Option<T>) -> serde_json::Result<()> {
        let Some(value) = value else { return Ok(()) };
        self.put_name(name);
        serde_json::to_writer(&mut *self.0, &value)
    }

    fn put_word(&mut self, name: &'static str, word: Option<&'static str>) -> serde_json::Result<()> {
        let Some(word) = word else { return Ok(()) };
        self.put_name(name);
        [b"\"", word.as_bytes(), b"\""].into_iter().for_each(|piece| self.0.extend_from_slice(piece));
        Ok(())
    }

    fn put_time(&mut self, name: &'static str, time: Option<SystemTime>) -> serde_json::Result<()> {
        let Some(time) = time else { return Ok(()) };
        self.put_name(name);
        write!(self.0, "\"{}\"", humantime::format_rfc3339_millis(time)).map_err(serde_json::Error::io)
    }
}

impl<'a> Text<'a> {
    /// An object without members yet.
    pub(super) fn begin(text: &'a mut Vec<u8>) -> Self {
        text.push(b'{');
        Self(text)
    }

    /// Closes it, without a line feed.
    pub(super) fn end(self) {
        self.0.push(b'}');
    }

    fn put_name(&mut self, name: &'static str) {
        self.0.reserve(name.len() + 4); // once, not for each piece
        if self.0.last() != Some(&b'{') {
            self.0.push(b','); // after a member, whose value is whole
        }
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

/// Money as a number with all its decimals: exact where a reader reads decimals, as for a bill it should.
pub(super) struct Amount(pub(super) u128);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = format!("{}.{:012}", self.0 / PICO, self.0 % PICO);
        let text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
        RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}
