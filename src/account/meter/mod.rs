//! Tokens while they flow: what a running stream has added to its series, and what that was too much of. A series
//! only ever grows: what turns out to have been added too much is owed by it and taken from what it grows by next.

mod minute;

use std::hash::Hash;

use hashbrown::HashMap;

pub use minute::{Minutes, Window};

/// Tokens of one exchange, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of prompts.
    pub input: u64,
    /// Generated.
    pub output: u64,
}

impl Tokens {
    /// No tokens.
    pub const NONE: Self = Self { input: 0, output: 0 };

    #[must_use]
    fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    #[must_use]
    fn less(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    #[must_use]
    fn with(self, other: Self, op: fn(u64, u64) -> u64) -> Self {
        Self { input: op(self.input, other.input), output: op(self.output, other.output) }
    }
}

/// What is open, and what is owed. `K` tells one series from another.
#[derive(Debug)]
pub struct Meter<K> {
    open: HashMap<u64, Open<K>>,
    owed: HashMap<K, Tokens>,
}

/// A stream that has been added to its series before its end.
#[derive(Debug)]
struct Open<K> {
    series: K,
    added: Tokens,
}

/// What a series grows by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth<K> {
    /// Which.
    pub series: K,
    /// By how much.
    pub tokens: Tokens,
}

impl<K> Default for Meter<K> {
    fn default() -> Self {
        Self { open: HashMap::new(), owed: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Meter<K> {
    /// The exchange of this number has had so many tokens so far. All that is added before its end goes to one series:
    /// the one that it is given first.
    pub fn flow(&mut self, number: u64, so_far: Tokens, series: impl FnOnce() -> K) -> Growth<K> {
        let open = self.open.entry(number).or_insert_with(|| Open { series: series(), added: Tokens::NONE });
        let more = so_far.less(open.added);
        open.added = open.added.plus(more);
        let series = open.series.clone();
        Growth { tokens: self.grow(&series, more), series }
    }

    /// The exchange of this number has ended, with so many tokens, which are this series'. Of a side that nobody can tell
    /// any more what was added is all that is known: it stays. Gives what the series grows by.
    pub fn settle(
        &mut self,
        number: u64,
        input: Option<u64>,
        output: Option<u64>,
        series: impl FnOnce() -> K,
    ) -> Tokens {
        let open = self.open.remove(&number);
        let added = open.as_ref().map_or(Tokens::NONE, |open| open.added);
        let tokens = Tokens { input: input.unwrap_or(added.input), output: output.unwrap_or(added.output) };
        if open.is_none() && self.owed.is_empty() {
            return tokens; // as a rule
        }
        let series = series();
        let Some(open) = open else { return self.grow(&series, tokens) };
        if open.series == series {
            self.owe(&series, open.added.less(tokens));
            return self.grow(&series, tokens.less(open.added));
        }
        self.owe(&open.series, open.added);
        self.grow(&series, tokens)
    }

    fn owe(&mut self, series: &K, tokens: Tokens) {
        if tokens != Tokens::NONE {
            let before = self.owed.get(series).copied().unwrap_or_default();
            self.owed.insert(series.clone(), before.plus(tokens));
        }
    }

    /// What a series grows by, less what it owes.
    fn grow(&mut self, series: &K, tokens: Tokens) -> Tokens {
        let Some(owed) = self.owed.get_mut(series) else { return tokens };
        let repaid = owed.with(tokens, u64::min);
        *owed = owed.less(repaid);
        if *owed == Tokens::NONE {
            self.owed.remove(series);
        }
        tokens.less(repaid)
    }

    /// The series of exchanges that are open.
    pub fn open(&self) -> impl Iterator<Item = &K> {
        self.open.values().map(|open| &open.series)
    }

    /// Forgets what series owe that are no more.
    pub fn forget(&mut self, is_gone: impl Fn(&K) -> bool) {
        self.owed.retain(|series, _| !is_gone(series));
    }

    /// Added while streams run, not yet settled.
    pub fn live(&self) -> Tokens {
        self.open.values().fold(Tokens::NONE, |all, open| all.plus(open.added))
    }

    /// Added too much, to be taken from what comes next.
    pub fn owed(&self) -> Tokens {
        self.owed.values().fold(Tokens::NONE, |all, owed| all.plus(*owed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const fn tokens(input: u64, output: u64) -> Tokens {
        Tokens { input, output }
    }

    /// Counters as a page has them.
    #[derive(Default)]
    struct Counters(BTreeMap<u8, Tokens>);

    impl Counters {
        fn add(&mut self, series: u8, tokens: Tokens) {
            let counter = self.0.entry(series).or_default();
            *counter = counter.plus(tokens);
        }

        fn sum(&self) -> Tokens {
            self.0.values().fold(Tokens::NONE, |all, counter| all.plus(*counter))
        }
    }

    #[test]
    fn what_was_added_too_much_is_taken_from_what_comes_next() {
        let mut meter = Meter::default();
        assert_eq!(meter.flow(1, tokens(10, 50), || 'a').tokens, tokens(10, 50));
        assert_eq!(meter.flow(1, tokens(10, 80), || 'b').tokens, tokens(0, 30));
        assert_eq!(meter.settle(1, Some(12), Some(70), || 'a'), tokens(2, 0));
        assert_eq!((meter.live(), meter.owed()), (Tokens::NONE, tokens(0, 10)));
        assert_eq!(meter.flow(2, tokens(0, 4), || 'a').tokens, Tokens::NONE);
        assert_eq!(meter.settle(2, Some(5), Some(9), || 'a'), tokens(5, 0));
        assert_eq!(meter.owed(), tokens(0, 1));
        assert_eq!(meter.settle(3, Some(1), Some(3), || 'a'), tokens(1, 2));
        assert_eq!(meter.owed(), Tokens::NONE);
    }

    #[test]
    fn an_estimate_that_shrinks_takes_nothing_back_before_the_end() {
        let mut meter = Meter::default();
        meter.flow(1, tokens(0, 50), || 'a');
        assert_eq!(meter.flow(1, tokens(0, 40), || 'a').tokens, Tokens::NONE);
        assert_eq!(meter.flow(1, tokens(0, 51), || 'a').tokens, tokens(0, 1));
    }

    #[test]
    fn what_nobody_can_tell_at_the_end_stays_as_it_was_told_before() {
        let mut meter = Meter::default();
        meter.flow(1, tokens(7, 50), || 'a');
        assert_eq!(meter.settle(1, Some(9), None, || 'a'), tokens(2, 0));
        assert_eq!((meter.live(), meter.owed()), (Tokens::NONE, Tokens::NONE));
        assert_eq!(meter.settle(2, None, None, || 'a'), Tokens::NONE);
    }

    #[test]
    fn a_model_that_turns_out_to_be_another_is_owed_all() {
        let mut meter = Meter::default();
        meter.flow(1, tokens(7, 5), || 'a');
        assert_eq!(meter.settle(1, Some(7), Some(6), || 'b'), tokens(7, 6));
        assert_eq!(meter.owed(), tokens(7, 5));
        meter.forget(|series| *series == 'a');
        assert_eq!(meter.owed(), Tokens::NONE);
    }

    /// What happens to one of a few exchanges: it flows, or ends.
    fn steps() -> impl Strategy<Value = Vec<(u64, bool, u64, u64, u8)>> {
        let step = (0..6_u64, prop::bool::weighted(0.7), 0..1000_u64, 0..1000_u64, 0..3_u8);
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Counters are unsigned and only added to, so that none can fall: that what was settled comes out all the
        /// same is what is shown here.
        #[test]
        fn at_rest_counters_less_what_is_owed_are_what_was_settled(steps in steps()) {
            let (mut meter, mut counters) = (Meter::default(), Counters::default());
            let mut settled = Tokens::NONE;
            for (place, (number, flows, input, output, series)) in steps.into_iter().enumerate() {
                if flows {
                    let growth = meter.flow(number, tokens(input, output), || series);
                    counters.add(growth.series, growth.tokens);
                } else {
                    settled = settled.plus(tokens(input, output));
                    counters.add(series, meter.settle(number, Some(input), Some(output), || series));
                }
                let known = settled.plus(meter.live());
                prop_assert_eq!(counters.sum(), known.plus(meter.owed()), "after step {}", place);
            }
            for number in 0..6 {
                if meter.open.contains_key(&number) {
                    settled = settled.plus(tokens(3, 3));
                    counters.add(0, meter.settle(number, Some(3), Some(3), || 0));
                }
            }
            prop_assert_eq!(meter.live(), Tokens::NONE);
            prop_assert_eq!(counters.sum().less(meter.owed()), settled);
        }
    }
}
