//! Limits on tokens per minute, as arithmetic. A request is charged what it may come to before it is sent, and what it
//! came to once that is known; tokens count from the second that they are charged to until sixty seconds after it is
//! over. What turns out to be more than was charged is charged then, and where the minute has no room for it, to
//! minutes to come: it is owed.

mod limit;
mod window;

use std::collections::BTreeMap;

use hashbrown::HashMap;

pub use limit::{ALL, Action, Hold, Limit, Limits, Scope, hit};
pub use window::{Full, LIFE, Stamp, Verdict, Window, judge};

/// The most minutes that debt is spread over.
const DEBT_MINUTES: u64 = 60;

/// How many windows there may be. A further one is not kept: who is limited by it is not limited.
const WINDOWS: usize = 65_536;

/// What an open exchange is charged.
#[derive(Debug)]
struct Open {
    tokens: u64,
    places: Vec<Charged>,
}

/// What of it stands in one window.
#[derive(Debug)]
struct Charged {
    scope: Scope,
    /// The limit that debt is paid by.
    limit: Option<u64>,
    /// By second, as far as it counts.
    charges: Vec<(u64, u64)>,
}

/// All windows, as far as they are ours, and the exchanges that are charged to them.
#[derive(Debug, Default)]
pub struct Quota {
    windows: HashMap<Scope, Held>,
    open: HashMap<u64, Open>,
}

#[derive(Debug, Default)]
struct Held {
    ours: Window,
    /// What others charge to the same window: at the last word from the place where it is shared.
    others: Window,
    /// What has been charged and taken back since then, by second.
    untold: BTreeMap<u64, i64>,
}

impl Held {
    fn all(&self) -> Window {
        let mut all = self.ours.clone();
        self.others.seconds.iter().for_each(|(second, tokens)| all.charge(*second, *tokens));
        all
    }

    /// What counts of all.
    fn sum(&self, now: Stamp) -> u64 {
        self.ours.sum(now).saturating_add(self.others.sum(now))
    }

    fn charge(&mut self, second: u64, tokens: u64) {
        self.ours.charge(second, tokens);
        *self.untold.entry(second).or_insert(0) += i64::try_from(tokens).unwrap_or(i64::MAX);
    }

    fn refund(&mut self, second: u64, tokens: u64) {
        self.ours.refund(second, tokens);
        *self.untold.entry(second).or_insert(0) -= i64::try_from(tokens).unwrap_or(i64::MAX);
    }

    fn forget(&mut self, now: Stamp) {
        self.ours.forget(now);
        self.others.forget(now);
        self.untold.retain(|second, tokens| *tokens != 0 && !now.until_over(*second).is_zero());
    }

    /// Charges tokens that no room was kept for: now, as far as the limit has room, else to later minutes.
    fn owe(&mut self, now: Stamp, tokens: u64, limit: Option<u64>) -> Vec<(u64, u64)> {
        let limit = limit.filter(|limit| *limit > 0).unwrap_or(u64::MAX); // nobody owes what is only observed
        let (mut sum, mut left) = (self.sum(now), tokens);
        let mut charges = Vec::new();
        while left > 0 {
            let minute = (sum / limit).min(DEBT_MINUTES);
            let room = if minute == DEBT_MINUTES { left } else { left.min(limit - sum % limit) };
            charges.push((now.second() + 60 * minute, room));
            sum = sum.saturating_add(room);
            left -= room;
        }
        charges.iter().for_each(|(second, tokens)| self.charge(*second, *tokens));
        charges
    }
}

impl Quota {
    /// Asks for so many tokens for an exchange, of one in so many shares of the limits, and charges them where there is
    /// room.
    pub fn reserve(&mut self, number: u64, now: Stamp, tokens: u64, share: u64, holds: &[Hold]) -> Verdict {
        let verdict = self.judge(holds, tokens, share, now);
        if matches!(verdict, Verdict::Pass { .. }) {
            self.charge(number, now.second(), tokens, holds);
        }
        verdict
    }

    /// What a request would be told now. By a share of the limits, our own charges must fit that; together with what is
    /// known of others' they must fit the whole in any case: those may have used more than their share before.
    pub fn judge(&self, holds: &[Hold], tokens: u64, share: u64, now: Stamp) -> Verdict {
        let windows = |of: fn(&Held) -> Window| -> Vec<Window> {
            holds.iter().map(|hold| self.windows.get(&hold.scope).map(of).unwrap_or_default()).collect()
        };
        let whole = judge(holds, &windows(Held::all), tokens, 1, now);
        if share <= 1 {
            return whole;
        }
        match (whole, judge(holds, &windows(|held| held.ours.clone()), tokens, share, now)) {
            (Verdict::Full(one), Verdict::Full(other)) => {
                Verdict::Full(if one.severity() > other.severity() { one } else { other })
            }
            (full @ Verdict::Full(_), _) | (_, full @ Verdict::Full(_)) => full,
            (pass, _) => pass,
        }
    }

    /// Charges so many tokens to an exchange, whether or not there is room.
    pub fn charge(&mut self, number: u64, second: u64, tokens: u64, holds: &[Hold]) {
        let mut places = Vec::with_capacity(holds.len());
        for hold in holds {
            if let Some(held) = self.held(&hold.scope) {
                held.charge(second, tokens);
                let (scope, limit) = (hold.scope.clone(), hold.cap(1));
                places.push(Charged { scope, limit, charges: vec![(second, tokens)] });
            }
        }
        self.open.insert(number, Open { tokens, places });
    }

    /// The same, where the place that shares the windows has charged it already.
    pub fn charged(&mut self, number: u64, second: u64, tokens: u64, holds: &[Hold]) {
        self.charge(number, second, tokens, holds);
        for hold in holds {
            if let Some(held) = self.windows.get_mut(&hold.scope) {
                *held.untold.entry(second).or_insert(0) -= i64::try_from(tokens).unwrap_or(i64::MAX);
            }
        }
    }

    fn held(&mut self, scope: &Scope) -> Option<&mut Held> {
        if self.windows.len() >= WINDOWS && !self.windows.contains_key(scope) {
            return None;
        }
        Some(self.windows.entry_ref(scope).or_default())
    }

    /// Whether an exchange is charged something.
    pub fn is_open(&self, number: u64) -> bool {
        self.open.contains_key(&number)
    }

    /// A running exchange has had so many tokens so far: what is more than it was charged is owed.
    pub fn so_far(&mut self, number: u64, now: Stamp, tokens: u64) {
        let Some(open) = self.open.get_mut(&number) else { return };
        let more = tokens.saturating_sub(open.tokens);
        open.tokens += more;
        for place in open.places.iter_mut().filter(|_| more > 0) {
            if let Some(held) = self.windows.get_mut(&place.scope) {
                place.charges.retain(|(second, _)| !now.until_over(*second).is_zero());
                place.charges.extend(held.owe(now, more, place.limit));
            }
        }
    }

    /// An exchange has ended, with so many tokens; where nobody can tell, what it was charged stands. Gives whether it
    /// was charged anything.
    pub fn settle(&mut self, number: u64, now: Stamp, tokens: Option<u64>) -> bool {
        self.so_far(number, now, tokens.unwrap_or(0));
        let Some(open) = self.open.remove(&number) else { return false };
        let back = tokens.map_or(0, |tokens| open.tokens.saturating_sub(tokens));
        for place in open.places {
            let Some(held) = self.windows.get_mut(&place.scope) else { continue };
            let mut left = back;
            for (second, charged) in place.charges.into_iter().rev() {
                let part = charged.min(left);
                left -= part;
                held.refund(second, part);
            }
        }
        true
    }

    /// Every window, and what counts in it.
    pub fn used(&self, now: Stamp) -> Vec<(Scope, u64)> {
        self.windows.iter().map(|(scope, held)| (scope.clone(), held.sum(now))).collect()
    }

    /// What counts in one window.
    pub fn used_of(&self, scope: &Scope, now: Stamp) -> u64 {
        self.windows.get(scope).map_or(0, |held| held.sum(now))
    }

    /// Forgets what counts no more.
    pub fn sweep(&mut self, now: Stamp) {
        self.windows.retain(|_, held| {
            held.forget(now);
            !held.ours.seconds.is_empty() || !held.others.seconds.is_empty() || !held.untold.is_empty()
        });
    }

    /// What is to be told to the place where the windows are shared: of so many at most, what was charged and taken back
    /// since this was last asked.
    pub fn take_untold(&mut self, now: Stamp, most: usize) -> Vec<(Scope, Vec<(u64, i64)>)> {
        let changed = self.windows.iter_mut().filter_map(|(scope, held)| {
            held.forget(now);
            let untold = std::mem::take(&mut held.untold);
            (!untold.is_empty()).then(|| (scope.clone(), untold.into_iter().collect()))
        });
        changed.take(most).collect()
    }

    /// So many windows at most, others at each turn.
    pub fn some(&self, turn: usize, most: usize) -> Vec<Scope> {
        let turns = self.windows.len().div_ceil(most).max(1);
        self.windows.keys().skip(turn % turns * most).take(most).cloned().collect()
    }

    /// The windows' clock was behind by so many seconds: what is charged by it is moved.
    pub fn shift(&mut self, seconds: i64) {
        let moved = |second: &u64| second.saturating_add_signed(seconds);
        for held in self.windows.values_mut() {
            for window in [&mut held.ours, &mut held.others] {
                window.seconds =
                    window.seconds.iter().map(|(second, tokens)| (moved(second), *tokens)).collect();
            }
            held.untold = held.untold.iter().map(|(second, tokens)| (moved(second), *tokens)).collect();
        }
        for place in self.open.values_mut().flat_map(|open| &mut open.places) {
            place.charges.iter_mut().for_each(|(second, _)| *second = moved(second));
        }
    }

    /// All of ours, to be told anew; what was to be told is in it.
    pub fn take_all(&mut self, now: Stamp) -> Vec<(Scope, Vec<(u64, u64)>)> {
        self.sweep(now);
        let each = |(scope, held): (&Scope, &mut Held)| {
            held.untold.clear();
            (scope.clone(), held.ours.seconds.iter().map(|(second, tokens)| (*second, *tokens)).collect())
        };
        self.windows.iter_mut().map(each).collect()
    }

    /// What may be charged here in all, window by window, while not all replicas have told what they charged: a share of
    /// the limit, and no more of it than what is known of the others leaves.
    pub fn own(&self, holds: &[Hold], share: u64, now: Stamp) -> Vec<Option<u64>> {
        let others = |scope: &Scope| self.windows.get(scope).map_or(0, |held| held.others.sum(now));
        let own = |hold: &Hold| Some(hold.cap(share)?.min(hold.cap(1)?.saturating_sub(others(&hold.scope))));
        holds.iter().map(own).collect()
    }

    /// The place where a window is shared says what replicas have charged to it; `by_all`: it is all that they have, so
    /// what was known of them before is nothing more.
    pub fn told(&mut self, scope: &Scope, all: Window, by_all: bool) {
        let is_known = self.windows.contains_key(scope) || !all.seconds.is_empty();
        let Some(held) = is_known.then(|| self.held(scope)).flatten() else { return };
        let mut others = all;
        for (second, tokens) in &held.ours.seconds {
            let untold = held.untold.get(second).copied().unwrap_or(0);
            others.refund(*second, tokens.saturating_add_signed(-untold));
        }
        if by_all {
            held.others = others;
            return;
        }
        for (second, tokens) in others.seconds {
            let known = held.others.seconds.entry(second).or_insert(0);
            *known = tokens.max(*known);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::exchange::Name;

    const START: u64 = 1_800_000_000;

    fn at(seconds: f64) -> Stamp {
        Stamp(START * 1000 + (seconds * 1000.0) as u64)
    }

    fn limits(limits: &[(&str, &str, u64, Action)]) -> Limits {
        let limit = |(tenant, model, tokens, action): &(&str, &str, u64, Action)| Limit {
            tenant: Name::from(*tenant),
            model: Name::from(*model),
            tokens: *tokens,
            action: *action,
        };
        Limits(limits.iter().map(limit).collect())
    }

    fn holds(tokens: u64) -> Vec<Hold> {
        limits(&[("t", ALL, tokens, Action::Reject)]).on(&Name::from("t"), None)
    }

    /// None where there was room, else how many seconds to wait; infinite: for ever.
    fn reserve(quota: &mut Quota, number: u64, seconds: f64, tokens: u64, holds: &[Hold]) -> Option<f64> {
        match quota.reserve(number, at(seconds), tokens, 1, holds) {
            Verdict::Pass { .. } => None,
            Verdict::Full(full) => Some(full.wait.map_or(f64::INFINITY, |wait| wait.as_secs_f64())),
        }
    }

    #[test]
    fn all_limits_that_match_apply_each_to_a_window_of_its_own() {
        let limits = limits(&[
            ("*", "*", 100, Action::Observe),
            ("a", "m", 50, Action::Reject),
            ("a", "*", 80, Action::Delay(Duration::from_secs(3))),
            ("b", "*", 10, Action::Reject),
        ]);
        let on = |tenant: &str, model: Option<&str>| {
            let holds = limits.on(&Name::from(tenant), model.map(Name::from).as_ref());
            holds
                .iter()
                .map(|hold| (hold.scope.model.to_string(), hold.rules.len(), hold.cap(1)))
                .collect::<Vec<_>>()
        };
        assert_eq!(on("a", Some("m")), [("*".into(), 2, Some(80)), ("m".into(), 1, Some(50))]);
        assert_eq!(on("a", Some("n")), [("*".into(), 2, Some(80))]);
        assert_eq!(on("a", None), on("a", Some("m")), "it may be any");
        assert_eq!(on("c", Some("m")), [("*".into(), 1, None)]);
        let tenant = |name: &str| (limits.watch(&Name::from(name)), limits.hold(&Name::from(name)));
        assert_eq!([tenant("a"), tenant("c")], [(true, true), (true, false)]);
        let lowest = |tenant: &str, model: &str| {
            limits.lowest(&Scope { tenant: Name::from(tenant), model: Name::from(model) })
        };
        assert_eq!([lowest("a", "*"), lowest("c", "*"), lowest("c", "m")], [Some(80), Some(100), None]);
    }

    #[test]
    fn tokens_count_until_sixty_seconds_after_their_second_and_a_little_longer() {
        let (mut quota, holds) = (Quota::default(), holds(100));
        assert_eq!(reserve(&mut quota, 1, 0.9, 60, &holds), None);
        assert_eq!(reserve(&mut quota, 2, 30.0, 40, &holds), None, "exactly as many as there are");
        assert_eq!(reserve(&mut quota, 3, 30.0, 1, &holds), Some(31.25));
        assert_eq!(reserve(&mut quota, 3, 30.0, 61, &holds), Some(61.25), "two have to be over");
        assert_eq!(reserve(&mut quota, 3, 61.249, 60, &holds), Some(0.001));
        assert_eq!(reserve(&mut quota, 3, 61.25, 60, &holds), None);
        assert_eq!(reserve(&mut quota, 4, 61.25, 101, &holds), Some(f64::INFINITY));
    }

    #[test]
    fn what_is_not_used_is_given_back_and_what_is_unknown_stands() {
        let (mut quota, holds) = (Quota::default(), holds(100));
        let used =
            |quota: &Quota, seconds| quota.used(at(seconds)).iter().map(|(_, used)| *used).sum::<u64>();
        for (number, tokens, left) in [(1, Some(10), 10), (2, None, 60), (3, Some(0), 60)] {
            let room = if number == 3 { 40 } else { 50 };
            assert_eq!(reserve(&mut quota, number, 1.0, room, &holds), None);
            assert!(quota.settle(number, at(5.0), tokens));
            assert_eq!(used(&quota, 5.0), left, "after {number}");
        }
        assert!(!quota.settle(1, at(5.0), Some(9)), "once");
        assert_eq!(used(&quota, 70.0), 0);
        quota.sweep(at(70.0));
        assert!(quota.windows.is_empty() && quota.open.is_empty());
    }

    #[test]
    fn a_refund_that_comes_late_gives_back_nothing() {
        let (mut quota, holds) = (Quota::default(), holds(100));
        reserve(&mut quota, 1, 0.0, 90, &holds);
        reserve(&mut quota, 2, 70.0, 90, &holds);
        quota.settle(1, at(71.0), Some(1));
        assert_eq!(reserve(&mut quota, 3, 71.0, 20, &holds), Some(60.25));
    }

    #[test]
    fn what_is_more_than_was_charged_is_owed_minute_by_minute() {
        let (mut quota, holds) = (Quota::default(), holds(100));
        reserve(&mut quota, 1, 0.0, 10, &holds);
        quota.so_far(1, at(2.0), 60);
        assert_eq!(reserve(&mut quota, 2, 2.0, 41, &holds), Some(59.25), "as it flows");
        quota.settle(1, at(10.0), Some(250));
        assert_eq!(quota.used(at(10.0)).first().map(|(_, used)| *used), Some(250));
        // 60 until 63.25, 40 more until 71.25, 100 until 131.25, 50 until 191.25.
        for (seconds, tokens, wait) in
            [(10.0, 1, 121.25), (100.0, 50, 31.25), (131.25, 51, 60.0), (131.25, 50, 0.0), (131.25, 1, 60.0)]
        {
            let got = reserve(&mut quota, 3, seconds, tokens, &holds).unwrap_or(0.0);
            assert_eq!(got, wait, "{tokens} at {seconds}");
        }
    }

    #[test]
    fn a_live_count_that_was_too_high_is_taken_back() {
        let (mut quota, holds) = (Quota::default(), holds(100));
        reserve(&mut quota, 1, 0.0, 10, &holds);
        quota.so_far(1, at(2.0), 60);
        quota.so_far(1, at(3.0), 50);
        quota.settle(1, at(4.0), Some(55));
        assert_eq!(reserve(&mut quota, 2, 4.0, 46, &holds), Some(57.25));
        assert_eq!(reserve(&mut quota, 2, 4.0, 45, &holds), None);
    }

    #[test]
    fn the_gravest_limit_speaks() {
        let delay = Action::Delay(Duration::from_secs(9));
        let limits = limits(&[
            ("*", "*", 100, delay),
            ("*", "m", 80, Action::Observe),
            ("*", "n", 50, Action::Reject),
        ]);
        let holds = |model: &str| limits.on(&Name::from("t"), Some(&Name::from(model)));
        let mut quota = Quota::default();
        assert_eq!(quota.reserve(1, at(0.0), 90, 1, &holds("m")), Verdict::Pass { over: vec![1] });
        let Verdict::Full(full) = quota.judge(&holds("n"), 20, 1, at(1.0)) else { panic!() };
        assert_eq!((full.hold, full.limit, full.used, full.action), (0, 100, 90, delay));
        let Verdict::Full(full) = quota.judge(&holds("n"), 60, 1, at(1.0)) else { panic!() };
        assert_eq!((full.hold, full.wait, full.action), (1, None, Action::Reject));
        let Verdict::Full(full) = quota.judge(&holds("m"), 20, 4, at(1.0)) else { panic!() };
        assert_eq!(full.limit, 25, "a quarter of it");
        let wait = |tokens| match Quota::default().judge(&holds("n"), tokens, 4, at(1.0)) {
            Verdict::Full(full) => full.wait.map(|wait| wait.as_secs_f64()),
            Verdict::Pass { .. } => Some(0.0),
        };
        assert_eq!(
            [wait(12), wait(13), wait(50)],
            [Some(0.0), Some(61.25), Some(61.25)],
            "a share is not for ever"
        );
        assert_eq!(wait(51), None);
    }

    #[test]
    fn what_was_charged_by_another_clock_is_moved_with_it() {
        let (mut quota, holds) = (Quota::default(), holds(100));
        reserve(&mut quota, 1, 0.0, 70, &holds);
        quota.shift(3_600);
        assert_eq!(reserve(&mut quota, 2, 3_610.0, 31, &holds), Some(51.25));
        quota.settle(1, at(3_610.0), Some(20));
        assert_eq!(reserve(&mut quota, 2, 3_610.0, 80, &holds), None);
    }

    #[test]
    fn no_round_tells_of_more_windows_than_it_has_time_for() {
        let mut quota = Quota::default();
        for number in 0..5 {
            let tenant = Name::from(number.to_string().as_str());
            let limits = limits(&[("*", ALL, 100, Action::Reject)]);
            quota.charge(number, START, 1, &limits.on(&tenant, None));
        }
        let told: Vec<usize> = (0..4).map(|_| quota.take_untold(at(0.0), 2).len()).collect();
        assert_eq!(told, [2, 2, 1, 0]);
        let mut seen: Vec<Scope> = (0..3).flat_map(|turn| quota.some(turn, 2)).collect();
        seen.sort();
        seen.dedup();
        assert_eq!((seen.len(), quota.some(3, 2)), (5, quota.some(0, 2)));
    }

    #[test]
    fn what_replicas_tell_each_other_adds_up() {
        let (holds, scope) = (holds(100), Scope { tenant: Name::from("t"), model: Name::from(ALL) });
        let mut quota = Quota::default();
        quota.charged(1, START, 30, &holds);
        assert_eq!(quota.take_untold(at(0.0), 9), [], "it was told already");
        quota.told(&scope, Window::of([(START, 50), (START + 1, 25)]), true); // 45 of them are others'
        assert_eq!(quota.used(at(1.0)), [(scope.clone(), 75)]);
        quota.settle(1, at(2.0), Some(10));
        assert_eq!(quota.used(at(2.0)), [(scope.clone(), 55)]);
        let untold = quota.take_untold(at(2.0), 9).remove(0).1;
        assert_eq!(untold, [(START, -20)]);
        assert_eq!(quota.take_all(at(2.0)), [(scope, vec![(START, 10)])]);
        // By half of the limit there is room for 40 of ours; with 45 of others' for 45.
        let full = |quota: &Quota, tokens| match quota.judge(&holds, tokens, 2, at(3.0)) {
            Verdict::Full(full) => Some(full.limit),
            Verdict::Pass { .. } => None,
        };
        assert_eq!([full(&quota, 40), full(&quota, 41)], [None, Some(50)]);
        quota.told(&holds[0].scope, Window::of([(START, 10), (START + 1, 70)]), true);
        assert_eq!(
            [full(&quota, 20), full(&quota, 21)],
            [None, Some(100)],
            "others have more than their share"
        );
        quota.told(&holds[0].scope, Window::of([(START, 10), (START + 2, 5)]), false);
        assert_eq!(
            [full(&quota, 15), full(&quota, 16)],
            [None, Some(100)],
            "what was known before, and what is new"
        );
        assert_eq!(quota.own(&holds, 2, at(3.0)), [Some(25)], "of 100 others have 75");
        assert_eq!(quota.own(&holds, 5, at(3.0)), [Some(20)]);
        let mut new = Quota::default();
        new.told(&holds[0].scope, Window::of([(START, 95)]), true);
        assert_eq!([full(&new, 5), full(&new, 6)], [None, Some(100)], "what only others have used");
        new.told(&holds[0].scope, Window::default(), true);
        new.sweep(at(3.0));
        assert!(new.windows.is_empty());
    }

    proptest! {
        /// Whatever is asked for and comes to less than was charged: no sixty seconds admit more than the limit.
        #[test]
        fn no_minute_admits_more_than_its_limit(
            asked in proptest::collection::vec((0_u64..5_000, 1_u64..60, 0_u64..=100, 0_u64..90_000), 1..200),
        ) {
            let (mut quota, holds) = (Quota::default(), holds(100));
            let (mut now, mut admitted, mut open) = (0, Vec::new(), Vec::new());
            for (number, (pause, tokens, share, takes)) in asked.into_iter().enumerate() {
                now += pause;
                let came_to = tokens * share / 100;
                open.retain(|(end, number, came_to)| {
                    let is_over = *end <= now;
                    if is_over {
                        quota.settle(*number, Stamp(START * 1000 + *end), Some(*came_to));
                    }
                    !is_over
                });
                let stamp = Stamp(START * 1000 + now);
                if quota.reserve(number as u64, stamp, tokens, 1, &holds) == (Verdict::Pass { over: vec![] }) {
                    admitted.push((now, came_to));
                    open.push((now + takes, number as u64, came_to));
                }
            }
            for (start, _) in &admitted {
                let minute = admitted.iter().filter(|(at, _)| (*start..start + 60_000).contains(at));
                prop_assert!(minute.map(|(_, tokens)| tokens).sum::<u64>() <= 100);
            }
        }

        /// What was under-estimated is repaid: over any time no more comes than the limit allows, but for what the
        /// requests at its beginning and end were under-estimated by.
        #[test]
        fn debts_are_repaid(
            asked in proptest::collection::vec((0_u64..3_000, 1_u64..20, 0_u64..400), 50..300),
        ) {
            let (mut quota, holds) = (Quota::default(), holds(100));
            let (mut now, mut sum, mut largest) = (0, 0, 0);
            for (number, (pause, tokens, more)) in asked.into_iter().enumerate() {
                now += pause;
                let stamp = Stamp(START * 1000 + now);
                if quota.reserve(number as u64, stamp, tokens, 1, &holds) == (Verdict::Pass { over: vec![] }) {
                    quota.settle(number as u64, stamp, Some(tokens + more));
                    sum += tokens + more;
                    largest = largest.max(tokens + more);
                }
            }
            let minutes = now / 60_000 + 1;
            prop_assert!(sum <= 100 * minutes + largest, "{sum} in {minutes} minutes");
        }
    }
}
