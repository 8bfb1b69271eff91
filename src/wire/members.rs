//! What is looked for in a JSON body, and what was found. [`super::skim`] finds it.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;

/// What is asked of a body. Paths are dotted member names from the top; `*` stands for every element of an
/// array. At most [`PATTERNS`] in all, and no path may lie inside another one.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Members whose JSON is kept.
    pub keep: &'static [&'static str],
    /// Members that are measured.
    pub measure: &'static [&'static str],
}

impl Wanted {
    /// A path by its number among those to keep and then to measure.
    fn path(&self, number: usize) -> Option<&'static str> {
        let rest = || self.measure.get(number - self.keep.len());
        self.keep.get(number).or_else(rest).copied()
    }
}

/// How many paths one body may be asked for.
pub const PATTERNS: usize = 32;

/// The paths that go on from a member: they begin with the same bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Which ones, as bits.
    paths: u32,
    /// How many bytes of them lead here.
    length: usize,
    /// Which names they may go on with, as bits: see [`name_bit`].
    names: u64,
}

impl Place {
    pub(super) const NOWHERE: Self = Self { paths: 0, length: 0, names: 0 };

    /// Where every path begins.
    pub(super) fn top(wanted: &Wanted) -> Self {
        let mut place = Self::NOWHERE;
        for (number, path) in wanted.keep.iter().chain(wanted.measure).enumerate() {
            place.add(number, path.as_bytes());
        }
        place
    }

    /// One more path, and what is left of it.
    fn add(&mut self, number: usize, rest: &[u8]) {
        self.paths |= 1 << number;
        self.names |= name_bit(rest.split(|&byte| byte == b'.').next().unwrap_or_default());
    }

    /// Whether a path may go on with this name; of others, hardly one passes.
    pub(super) fn may_go_on_with(&self, name: &[u8]) -> bool {
        self.names & name_bit(name) != 0
    }

    /// The place of a member of what is here, and the path that ends there: its number among those to keep and
    /// then to measure.
    pub(super) fn member(self, wanted: &Wanted, name: &[u8]) -> (Self, Option<usize>) {
        if !self.may_go_on_with(name) {
            return (Self::NOWHERE, None);
        }
        let length = self.length + name.len() + 1;
        let (mut place, mut target) = (Self { length, ..Self::NOWHERE }, None);
        let mut left = self.paths;
        while left != 0 {
            let number = left.trailing_zeros() as usize;
            left &= left - 1;
            let Some(path) = wanted.path(number) else { break };
            let rest = path.as_bytes().get(self.length..).unwrap_or_default();
            // Where the name ends tells most of them apart, before they are compared.
            let is_end = rest.len() == name.len();
            let goes_on = rest.get(name.len()) == Some(&b'.');
            // A name with a dot in it is no part of a path.
            if !(is_end || goes_on) || !rest.starts_with(name) || name.contains(&b'.') {
                continue;
            }
            if is_end {
                target = target.or(Some(number));
            } else {
                place.add(number, rest.get(name.len() + 1..).unwrap_or_default());
            }
        }
        (place, target)
    }
}

/// One of 64 bits, told by a name's first byte and length.
fn name_bit(name: &[u8]) -> u64 {
    let initial = name.first().copied().map_or(0, usize::from);
    1 << ((initial + 5 * name.len()) % 64)
}

/// How large a member was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measure {
    /// Its bytes of JSON.
    pub bytes: u64,
    /// Bytes of its text, in UTF-8 and without JSON's escapes.
    pub text_bytes: u64,
    /// How many texts it held.
    pub texts: u64,
    /// How many numbers it held: token ids, where a prompt is given so.
    pub numbers: u64,
    /// How many arrays it held, itself not counted: prompts, where they are given as token ids.
    pub arrays: u64,
}

/// What a body held of what was asked for.
#[derive(Debug, Default)]
pub struct Members {
    wanted: Option<Wanted>,
    /// Path and place in `json` of what is kept.
    pub(super) kept: Vec<(usize, Range<usize>)>,
    pub(super) json: Vec<u8>,
    measured: Vec<(usize, Measure)>,
    pub(super) complete: bool,
}

impl Members {
    pub(super) fn of(wanted: Wanted) -> Self {
        Self { wanted: Some(wanted), ..Self::default() }
    }

    pub(super) fn add_measure(&mut self, path: usize, measure: Measure) {
        match self.measured.iter_mut().find(|(at, _)| *at == path) {
            Some((_, sum)) => {
                sum.bytes += measure.bytes;
                sum.text_bytes += measure.text_bytes;
                sum.texts += measure.texts;
                sum.numbers += measure.numbers;
                sum.arrays += measure.arrays;
            }
            None => self.measured.push((path, measure)),
        }
    }

    /// Whether the body was one whole JSON object or array.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The JSON of every member at a kept path, in the body's order.
    pub fn each<'m>(&'m self, path: &'static str) -> impl Iterator<Item = &'m [u8]> + 'm {
        let index = self.wanted.and_then(|wanted| wanted.keep.iter().position(|&kept| kept == path));
        let kept = self.kept.iter().filter(move |(at, _)| Some(*at) == index);
        kept.filter_map(|(_, range)| self.json.get(range.clone()))
    }

    /// The value at a kept path, where there is one that is not null and fits the type; the last one, if the
    /// body says it twice.
    pub fn get<T: DeserializeOwned>(&self, path: &'static str) -> Option<T> {
        self.each(path).last().and_then(|json| serde_json::from_slice::<Option<T>>(json).ok().flatten())
    }

    /// The text at a kept path.
    pub fn text(&self, path: &'static str) -> Option<Cow<'_, str>> {
        let json = self.each(path).last()?;
        serde_json::from_slice::<&str>(json)
            .map(Cow::Borrowed)
            .or_else(|_| serde_json::from_slice::<String>(json).map(Cow::Owned))
            .ok()
    }

    /// Whether a kept path is there and is not null.
    pub fn has(&self, path: &'static str) -> bool {
        self.each(path).last().is_some_and(|json| json != b"null")
    }

    /// The measure of the members at a measured path, all together.
    pub fn measure(&self, path: &'static str) -> Measure {
        let index = self.wanted.and_then(|wanted| wanted.measure.iter().position(|&at| at == path));
        self.measured
            .iter()
            .find(|(at, _)| Some(*at) == index)
            .map(|(_, measure)| *measure)
            .unwrap_or_default()
    }
}
