//! Labels: which there are, the values that one record has, and the budget that bounds the values that
//! clients choose.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use hashbrown::{DefaultHashBuilder, HashMap, HashSet};
use parking_lot::Mutex;

use crate::clock::Moment;
use crate::exchange::Name;
use crate::vitals::Tally;

/// What has no place of its own.
pub const OTHER: &str = "other";

/// What has no name yet, or none at all.
pub const UNKNOWN: &str = "unknown";

/// The longest name in a label, in bytes: a page of thousands of series stays readable, and the names of
/// published models are half as long.
pub const LONGEST_NAME: usize = 128;

/// A label's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Who asked.
    Tenant,
    /// Which model.
    Model,
    /// The configured name of the inference server.
    Upstream,
    /// Which API.
    Dialect,
    /// Whether the answer was an event stream.
    Stream,
    /// The status that the client got.
    Code,
    /// How the exchange ended.
    Outcome,
    /// Why; the values differ from metric to metric.
    Reason,
    /// Which part of an exchange.
    Phase,
    /// How long the prompt was.
    InputBand,
    /// Input or output.
    Direction,
    /// Where a count came from.
    Source,
    /// Whether tokens are still being added, or were too many.
    State,
    /// Of a price which kind of token, of a limit what it is of.
    Kind,
    /// A currency, as ISO 4217 writes it.
    Currency,
    /// How often a budget begins anew.
    Period,
    /// Another configured model.
    Alternative,
    /// A configured objective.
    Slo,
    /// Where a record was lost.
    Stage,
    /// What was done.
    Action,
    /// Where something is fetched.
    Url,
    /// The name of a label.
    Label,
    /// The program's version.
    Version,
}

impl Label {
    /// All of them, in the order of the variants.
    pub const ALL: [Label; 23] = [
        Self::Tenant,
        Self::Model,
        Self::Upstream,
        Self::Dialect,
        Self::Stream,
        Self::Code,
        Self::Outcome,
        Self::Reason,
        Self::Phase,
        Self::InputBand,
        Self::Direction,
        Self::Source,
        Self::State,
        Self::Kind,
        Self::Currency,
        Self::Period,
        Self::Alternative,
        Self::Slo,
        Self::Stage,
        Self::Action,
        Self::Url,
        Self::Label,
        Self::Version,
    ];

    /// The name on the page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Model => "model",
            Self::Upstream => "upstream",
            Self::Dialect => "dialect",
            Self::Stream => "stream",
            Self::Code => "code",
            Self::Outcome => "outcome",
            Self::Reason => "reason",
            Self::Phase => "phase",
            Self::InputBand => "input_band",
            Self::Direction => "direction",
            Self::Source => "source",
            Self::State => "state",
            Self::Kind => "kind",
            Self::Currency => "currency",
            Self::Period => "period",
            Self::Alternative => "alternative",
            Self::Slo => "slo",
            Self::Stage => "stage",
            Self::Action => "action",
            Self::Url => "url",
            Self::Label => "label",
            Self::Version => "version",
        }
    }
}

/// The values of a row's labels, in the row's order. Two keys are equal when every value is.
pub(super) type Key = Box<[Name]>;

/// The values that one record has for its labels, each with its hash; each row picks its own.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Labels<'a>([Option<(&'a str, u64)>; Label::ALL.len()]);

impl<'a> Labels<'a> {
    /// The values of a key.
    pub(super) fn of(labels: &[Label], key: &'a [Name]) -> Self {
        let mut all = Self::default();
        labels.iter().zip(key).for_each(|(label, value)| all.set(*label, value.as_str()));
        all
    }

    /// These values and one more.
    pub(super) fn with(mut self, label: Label, value: &'a str) -> Self {
        self.set(label, value);
        self
    }

    /// Sets one value, or replaces it.
    pub(super) fn set(&mut self, label: Label, value: &'a str) {
        if let Some(slot) = self.0.get_mut(label as usize) {
            *slot = Some((value, hash(value)));
        }
    }

    /// The values of these labels, and their hashes.
    fn each(&self, labels: &[Label]) -> impl Iterator<Item = (&'a str, u64)> {
        labels.iter().map(|label| {
            let value = self.0.get(*label as usize).copied().flatten();
            debug_assert!(value.is_some(), "{label:?} is unset");
            value.unwrap_or_else(|| (UNKNOWN, hash(UNKNOWN)))
        })
    }

    /// The values of these labels.
    pub(super) fn values(&self, labels: &[Label]) -> impl Iterator<Item = &'a str> {
        self.each(labels).map(|(value, _)| value)
    }

    /// Whether the key of these labels is this one, which has as many values.
    pub(super) fn are(&self, labels: &[Label], key: &[Name]) -> bool {
        self.values(labels).zip(key).all(|(value, other)| value == other.as_str())
    }

    /// The key of these labels.
    pub(super) fn pick(&self, labels: &[Label]) -> Key {
        self.values(labels).map(Name::from).collect()
    }

    /// The hash of [`Self::pick`]: see [`hash_of_key`].
    pub(super) fn hash(&self, labels: &[Label]) -> u64 {
        combined(self.each(labels).map(|(_, hash)| hash))
    }
}

/// The hash of a key, which a record has at hand: it hashes each value once, for all rows. Seeded anew in each process,
/// for clients choose the values.
pub(super) fn hash_of_key(key: &Key) -> u64 {
    combined(key.iter().map(|value| hash(value.as_str())))
}

static SEED: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

fn hash(value: &str) -> u64 {
    SEED.hash_one(value)
}

fn combined(hashes: impl Iterator<Item = u64>) -> u64 {
    let all = hashes.fold(0_u64, |all, one| (all.rotate_left(23) ^ one).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    all ^ (all >> 32)
}

/// A model's name as a label: at most [`LONGEST_NAME`] bytes, cut between characters.
pub(super) fn cut(name: &Name) -> Name {
    name.cut(LONGEST_NAME)
}

/// How many names that clients choose get series of their own.
///
/// Names that the configuration knows, `other` and `unknown` are free. Of the rest, `limit` have a slot; when
/// all are taken a further name has none, and its records go to `other`, so that no sum loses anything. A name
/// that the upstream never accepted (no 2xx yet) gives its slot to one that has been accepted: made-up names
/// cannot shut real ones out. The series that the evicted name has by then stay until they are idle, for a
/// counter that vanishes is a sum that shrinks; an accepted name is never evicted, so within one idle period
/// there are at most `limit` evictions, and at most 2 × `limit` such names on the page.
///
/// A name longer than [`LONGEST_NAME`] has no slot either: cutting could make one of two tenants.
#[derive(Debug)]
pub(super) struct Budget {
    state: Mutex<State>,
    overflow: Tally,
}

#[derive(Debug, Default)]
struct State {
    limit: usize,
    exempt: HashSet<Name>,
    slots: HashMap<Name, Slot>,
}

#[derive(Debug)]
struct Slot {
    accepted: bool,
    touched: Moment,
}

impl Budget {
    /// A budget of `limit` names beside the exempt ones.
    pub(super) fn new(limit: usize, exempt: impl Iterator<Item = Name>) -> Self {
        let budget = Self { state: Mutex::default(), overflow: Tally::default() };
        budget.apply(limit, exempt);
        budget
    }

    /// Takes a new limit and new exempt names. Slots beyond a lower limit are kept until they are idle.
    pub(super) fn apply(&self, limit: usize, exempt: impl Iterator<Item = Name>) {
        let mut state = self.state.lock();
        state.limit = limit;
        state.exempt = exempt.chain([Name::from(OTHER), Name::from(UNKNOWN)]).collect();
        let State { exempt, slots, .. } = &mut *state;
        slots.retain(|name, _| !exempt.contains(name));
    }

    /// The name as a label, where it has or gets a slot; none: it is one of the others. `accepted`: this
    /// record is of an exchange that the upstream accepted.
    pub(super) fn place(&self, name: &Name, accepted: bool, now: Moment) -> Option<Name> {
        let mut state = self.state.lock();
        if state.exempt.contains(name) {
            return Some(name.clone());
        }
        if let Some(slot) = state.slots.get_mut(name) {
            slot.accepted |= accepted;
            slot.touched = now;
            return Some(name.clone());
        }
        if name.as_str().len() > LONGEST_NAME {
            return None;
        }
        if state.slots.len() >= state.limit {
            let evicted = state.evictable().filter(|_| accepted)?;
            state.slots.remove(&evicted);
        }
        state.slots.insert(name.clone(), Slot { accepted, touched: now });
        Some(name.clone())
    }

    /// The label that a name has at this moment, without giving it a slot.
    pub(super) fn find(&self, name: &Name) -> Option<Name> {
        let state = self.state.lock();
        (state.exempt.contains(name) || state.slots.contains_key(name)).then(|| name.clone())
    }

    /// Whether the upstream has accepted this name before, and it still has its slot.
    pub(super) fn was_accepted(&self, name: &Name) -> bool {
        self.state.lock().slots.get(name).is_some_and(|slot| slot.accepted)
    }

    /// Frees the slots that `is_idle` tells from the name and the moment of its last record.
    pub(super) fn free(&self, is_idle: impl Fn(&Name, Moment) -> bool) {
        self.state.lock().slots.retain(|name, slot| !is_idle(name, slot.touched));
    }

    /// Exchanges whose name had no slot.
    pub(super) fn overflow(&self) -> &Tally {
        &self.overflow
    }
}

impl State {
    /// The name that was never accepted and has been silent the longest.
    fn evictable(&self) -> Option<Name> {
        let unaccepted = self.slots.iter().filter(|(_, slot)| !slot.accepted);
        unaccepted.min_by_key(|(_, slot)| slot.touched).map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Moment {
        Moment::from_nanos(nanos)
    }

    fn budget(limit: usize) -> Budget {
        Budget::new(limit, [Name::from("known")].into_iter())
    }

    fn place(budget: &Budget, name: &str, accepted: bool) -> Option<String> {
        budget.place(&Name::from(name), accepted, at(1)).map(|label| label.to_string())
    }

    #[test]
    fn every_label_has_its_place() {
        for (place, label) in Label::ALL.into_iter().enumerate() {
            assert_eq!(label as usize, place);
        }
    }

    #[test]
    fn known_names_and_the_reserved_ones_are_free() {
        let none = budget(0);
        for name in ["known", OTHER, UNKNOWN] {
            assert_eq!(place(&none, name, false).as_deref(), Some(name));
        }
        assert_eq!(place(&none, "new", true), None);
    }

    #[test]
    fn an_accepted_name_takes_the_slot_of_the_oldest_that_never_was() {
        let budget = budget(2);
        budget.place(&Name::from("made-up-1"), false, at(2));
        budget.place(&Name::from("made-up-2"), false, at(1));
        assert_eq!(place(&budget, "made-up-3", false), None);
        assert_eq!(place(&budget, "real-1", true).as_deref(), Some("real-1"));
        assert_eq!(budget.find(&Name::from("made-up-2")), None);
        assert_eq!(place(&budget, "real-2", true).as_deref(), Some("real-2"));
        assert_eq!(place(&budget, "real-3", true), None);
        assert_eq!(place(&budget, "real-1", false).as_deref(), Some("real-1"));
        assert!(budget.was_accepted(&Name::from("real-1")));
    }

    #[test]
    fn a_reload_frees_the_slots_of_names_it_makes_known_and_idle_ones_are_freed() {
        let budget = budget(2);
        place(&budget, "a", true);
        place(&budget, "b", true);
        budget.apply(2, [Name::from("a")].into_iter());
        assert_eq!(place(&budget, "c", true).as_deref(), Some("c"));
        assert_eq!(place(&budget, "d", true), None);
        budget.free(|name, _| name.as_str() == "b");
        assert_eq!(place(&budget, "d", true).as_deref(), Some("d"));
    }

    #[test]
    fn a_models_name_is_cut_between_characters_and_a_tenants_never() {
        let long = Name::from("ä".repeat(100).as_str());
        assert_eq!(cut(&long).as_str(), "ä".repeat(64));
        let odd = Name::from(format!("x{long}").as_str());
        assert_eq!(cut(&odd).as_str().len(), 127);
        assert_eq!(place(&budget(9), long.as_str(), true), None);
    }
}
