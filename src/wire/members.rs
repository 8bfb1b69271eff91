//! What is looked for in a JSON body, and what was found. [`super::skim`] finds it.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;
use smallvec::SmallVec;

use super::lexeme::text_end;

/// What is asked of a body. Paths are dotted member names from the top; `*` stands for every element of an
/// array. No path may lie inside another one.
#[derive(Debug)]
pub struct Wanted {
    /// Members whose JSON is kept.
    keep: &'static [&'static str],
    /// Members that are measured.
    measure: &'static [&'static str],
    /// The tree of the paths' names; the first place is where every path begins.
    places: Vec<Place>,
}

/// A place that paths lead through.
#[derive(Debug, Default)]
struct Place {
    /// Which names they go on with, as bits: see [`name_bit`].
    names: u64,
    members: Vec<Step>,
}

/// The way from a place to one of its members.
#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    to: At,
}

/// Where a value lies among the paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// No path leads there.
    Nowhere,
    /// Paths lead through it: the place's number.
    Through(usize),
    /// A path ends there: its number among those to keep and then to measure.
    End(usize),
}

impl Wanted {
    /// Of these paths, the members of the first ones are kept, those of the others measured.
    pub fn new(keep: &'static [&'static str], measure: &'static [&'static str]) -> Self {
        let mut wanted = Self { keep, measure, places: vec![Place::default()] };
        for (number, path) in keep.iter().chain(measure).enumerate() {
            wanted.add(number, path);
        }
        wanted
    }

    fn add(&mut self, number: usize, path: &'static str) {
        let (mut place, mut names) = (0, path.split('.').peekable());
        while let Some(name) = names.next() {
            let is_end = names.peek().is_none();
            let next = self.places.len();
            let Some(here) = self.places.get_mut(place) else { return };
            here.names |= name_bit(name.as_bytes());
            place = match here.members.iter().find(|step| step.name == name).map(|step| step.to) {
                Some(At::Through(place)) if !is_end => place,
                Some(_) => return debug_assert!(false, "{path} lies inside another path"),
                None if is_end => return here.members.push(Step { name, to: At::End(number) }),
                None => {
                    here.members.push(Step { name, to: At::Through(next) });
                    self.places.push(Place::default());
                    next
                }
            };
        }
    }

    /// How many of the paths' members are kept.
    pub(super) fn kept(&self) -> usize {
        self.keep.len()
    }

    /// Where a member lies of what is here.
    #[inline]
    pub(super) fn member(&self, here: At, name: &[u8]) -> At {
        let At::Through(place) = here else { return At::Nowhere };
        let Some(place) = self.places.get(place) else { return At::Nowhere };
        // Of names that no path goes on with, hardly one passes.
        if place.names & name_bit(name) == 0 {
            return At::Nowhere;
        }
        let step = place.members.iter().find(|step| step.name.as_bytes() == name);
        step.map_or(At::Nowhere, |step| step.to)
    }
}

impl At {
    /// Where every path begins.
    pub(super) const TOP: Self = Self::Through(0);
}

/// One of 64 bits, told by a name's first byte and length.
fn name_bit(name: &[u8]) -> u64 {
    let initial = name.first().copied().map_or(0, usize::from);
    1 << ((initial + 5 * name.len()) % 64)
}

/// Whether the strings of a member are text that a model reads or writes. Images, audio, ids and addresses are none.
pub(super) fn is_text_key(key: &[u8]) -> bool {
    matches!(
        key,
        b"content"
            | b"text"
            | b"arguments"
            | b"prompt"
            | b"input"
            | b"system"
            | b"description"
            | b"reasoning"
            | b"reasoning_content"
            | b"thinking"
            | b"tool_plan"
            | b"query"
            | b"documents"
            | b"inputText"
            | b"outputText"
            | b"generation"
    )
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

/// The text of a JSON string that has no escapes; none of any other value.
fn bare_text(json: &str) -> Option<&str> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    text_end(json.as_bytes(), 1).filter(|(end, _)| *end == inner.len() + 1).map(|_| inner)
}

/// A value that is kept: the number of its path and its place in the kept JSON, which is at most 64 KiB.
#[derive(Debug)]
struct KeptValue {
    path: u32,
    begin: u32,
    end: u32,
}

impl KeptValue {
    fn place(&self) -> Range<usize> {
        self.begin as usize..self.end as usize
    }
}

/// What a body held of what was asked for.
#[derive(Debug, Default)]
pub struct Members {
    wanted: Option<&'static Wanted>,
    /// What is kept; its JSON stands in `json`.
    kept: SmallVec<[KeptValue; 8]>,
    pub(super) json: Vec<u8>,
    measured: SmallVec<[(usize, Measure); 2]>,
    pub(super) complete: bool,
}

impl Members {
    pub(super) fn of(wanted: &'static Wanted) -> Self {
        Self { wanted: Some(wanted), ..Self::default() }
    }

    /// Makes room for what bodies ordinarily hold; gives where the next kept value begins in `json`.
    pub(super) fn room(&mut self) -> usize {
        if self.json.capacity() == 0 {
            self.json = Vec::with_capacity(256);
        }
        self.json.len()
    }

    /// All of `json` from this place on is the value at this path.
    pub(super) fn keep(&mut self, path: usize, from: usize) {
        self.kept.push(KeptValue { path: path as u32, begin: from as u32, end: self.json.len() as u32 });
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

    /// The JSON of every member at a kept path, in the body's order; empty where it is not UTF-8.
    pub fn each<'m>(&'m self, path: &'static str) -> impl Iterator<Item = &'m str> + 'm {
        let index = self.index(path);
        let kept = self.kept.iter().filter(move |value| Some(value.path) == index);
        kept.map(|value| self.json_of(value))
    }

    /// The JSON of the last member at a kept path; none where it is null, empty where it is not UTF-8.
    pub fn last(&self, path: &'static str) -> Option<&str> {
        let index = self.index(path)?;
        let last = self.kept.iter().rfind(|value| value.path == index).map(|value| self.json_of(value));
        last.filter(|json| *json != "null")
    }

    fn json_of(&self, value: &KeptValue) -> &str {
        let json = self.json.get(value.place()).unwrap_or_default();
        std::str::from_utf8(json).unwrap_or_default()
    }

    fn index(&self, path: &'static str) -> Option<u32> {
        (0..).zip(self.wanted?.keep).find(|&(_, kept)| *kept == path).map(|(index, _)| index)
    }

    /// The value at a kept path, where there is one that is not null and fits the type; the last one, if the
    /// body says it twice.
    pub fn get<T: DeserializeOwned>(&self, path: &'static str) -> Option<T> {
        self.last(path).and_then(|json| serde_json::from_str(json).ok())
    }

    /// The text at a kept path.
    pub fn text(&self, path: &'static str) -> Option<Cow<'_, str>> {
        let json = self.last(path).filter(|json| json.starts_with('"'))?;
        let bare = bare_text(json).map(Cow::Borrowed);
        bare.or_else(|| serde_json::from_str::<String>(json).map(Cow::Owned).ok())
    }

    /// Whether a kept path is there and is not null.
    pub fn has(&self, path: &'static str) -> bool {
        self.last(path).is_some()
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
