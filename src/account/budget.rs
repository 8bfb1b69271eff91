//! Budgets, as arithmetic: which period an instant lies in, what was spent in it, here and by other replicas. Nothing
//! here blocks a request: a budget is a number to compare with.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::quota::ALL;
use crate::exchange::Name;

/// How many accounts there may be, each with its period. What a further one spends is not counted against its budget.
pub const ACCOUNTS: usize = 16_384;

/// How many replicas' amounts are kept apart, to give them back to a server that has lost them: a thousand restarts in a
/// period. Those of further ones are kept as one sum.
const REPLICAS: usize = 1_000;

/// How far from now a period may lie to be kept: exchanges are settled late, and wall clocks step back.
const KEPT: u64 = 3_600;

const DAY: u64 = 86_400;

/// How often a budget begins anew, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// At each full hour.
    Hour,
    /// At midnight.
    Day,
    /// At midnight before Monday.
    Week,
    /// At midnight before the month's first day.
    Month,
}

/// A period's first second and the one after its last, since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bounds {
    /// The first.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
}

impl Period {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// The value of the label `period`, and the word in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The period that holds this instant.
    pub fn holding(self, at: SystemTime) -> Bounds {
        let second = seconds(at);
        let day = second / DAY;
        let days = |start: u64, end: u64| Bounds { start: start * DAY, end: end * DAY };
        match self {
            Self::Hour => Bounds { start: second / 3_600 * 3_600, end: (second / 3_600 + 1) * 3_600 },
            Self::Day => days(day, day + 1),
            Self::Week => {
                let next_monday = (day + 3) / 7 * 7 + 4; // the epoch was a Thursday
                days(next_monday.saturating_sub(7), next_monday)
            }
            Self::Month => {
                let first = first_of_month(day);
                days(first, first_of_month(first + 31))
            }
        }
    }
}

/// The first day of a day's month, both in days since the epoch. Years are reckoned from March, so that the leap day is
/// a year's last.
const fn first_of_month(day: u64) -> u64 {
    const EPOCH: u64 = 719_468; // days from 0000-03-01 to 1970-01-01
    const FOUR_CENTURIES: u64 = 146_097;
    let day_of_era = (day + EPOCH) % FOUR_CENTURIES;
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153; // five months from March or August have 153 days
    day.saturating_sub(day_of_year - (153 * month + 2) / 5)
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whose money in which currency, by which period.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// The tenant; of a budget [`ALL`]: each tenant by itself.
    pub tenant: Name,
    /// As ISO 4217 writes it.
    pub currency: Name,
    /// How often it begins anew.
    pub period: Period,
}

/// A budget as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Whose.
    pub account: Account,
    /// For a period, in millionths of a millionth of the currency's unit.
    pub amount: u128,
}

/// The configured budgets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetList(pub Vec<Budget>);

impl BudgetList {
    /// The amount of an account's budget: a tenant's own, else the one for each tenant.
    pub fn amount(&self, account: &Account) -> Option<u128> {
        let own = self.0.iter().find(|budget| budget.account == *account);
        own.or_else(|| self.for_each(account)).map(|budget| budget.amount)
    }

    /// Whether an account is one of a budget for each tenant, and its tenant has none of its own.
    pub fn is_one_of_many(&self, account: &Account) -> bool {
        self.for_each(account).is_some() && !self.0.iter().any(|budget| budget.account == *account)
    }

    /// The accounts of tenants that are named.
    pub fn named(&self) -> impl Iterator<Item = &Account> {
        self.0.iter().map(|budget| &budget.account).filter(|account| account.tenant.as_str() != ALL)
    }

    /// The currencies and periods of the budgets for each tenant.
    pub fn of_each_tenant(&self) -> impl Iterator<Item = &Account> {
        self.0.iter().map(|budget| &budget.account).filter(|account| account.tenant.as_str() == ALL)
    }

    fn for_each(&self, account: &Account) -> Option<&Budget> {
        let is_it = |of: &Account| (&of.currency, of.period) == (&account.currency, account.period);
        self.0.iter().find(|budget| budget.account.tenant.as_str() == ALL && is_it(&budget.account))
    }

    /// The accounts that a tenant's spending in a currency counts in.
    fn of(&self, tenant: &Name, currency: &Name) -> impl Iterator<Item = Account> {
        let account = |period| Account { tenant: tenant.clone(), currency: currency.clone(), period };
        Period::ALL.map(account).into_iter().filter(|account| self.amount(account).is_some())
    }
}

/// An account in one of its periods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// The account.
    pub account: Account,
    /// The period.
    pub bounds: Bounds,
}

impl Term {
    fn holding(account: &Account, at: SystemTime) -> Self {
        Self { account: account.clone(), bounds: account.period.holding(at) }
    }
}

/// What was spent in a term. Each replica's amount only grows, so of two that are told of one replica the larger is the
/// newer.
#[derive(Debug, Default)]
struct Spent {
    own: u128,
    /// What the server has of it.
    told: u128,
    others: BTreeMap<Name, u128>,
    /// Of replicas beyond those.
    rest: u128,
    /// The server has less of the others than was known here.
    is_missed: bool,
}

impl Spent {
    fn sum(&self) -> u128 {
        self.others.values().fold(self.own.saturating_add(self.rest), |sum, of| sum.saturating_add(*of))
    }
}

/// What is to be told to the server that replicas share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// Where it belongs.
    pub term: Term,
    /// What was spent here.
    pub own: u128,
    /// What other replicas have spent, where the server has lost it.
    pub others: Vec<(Name, u128)>,
}

/// What is spent of every budget.
#[derive(Debug, Default)]
pub struct Spending(BTreeMap<Term, Spent>);

impl Spending {
    /// A tenant has spent so much, in millionths of a millionth. Gives whether there was room for it.
    pub fn add(
        &mut self,
        list: &BudgetList,
        tenant: &Name,
        (currency, pico): (&Name, u128),
        at: SystemTime,
    ) -> bool {
        list.of(tenant, currency).fold(true, |all, account| {
            let spent = self.term(Term::holding(&account, at));
            let has_room = spent.is_some();
            if let Some(spent) = spent {
                spent.own = spent.own.saturating_add(pico);
            }
            all && has_room
        })
    }

    fn term(&mut self, term: Term) -> Option<&mut Spent> {
        if self.0.len() >= ACCOUNTS && !self.0.contains_key(&term) {
            return None;
        }
        Some(self.0.entry(term).or_default())
    }

    /// What others spend of this account is to be asked for from now on.
    pub fn watch(&mut self, account: &Account, now: SystemTime) {
        self.term(Term::holding(account, now));
    }

    /// Of each account what is spent in its present period, by all replicas as far as is known.
    pub fn spent(&self, now: SystemTime) -> BTreeMap<Account, u128> {
        let mut all = BTreeMap::new();
        for (Term { account, bounds }, spent) in &self.0 {
            let is_now = account.period.holding(now) == *bounds;
            let sum: &mut u128 = all.entry(account.clone()).or_default();
            *sum = sum.saturating_add(if is_now { spent.sum() } else { 0 });
        }
        all
    }

    /// What the server does not know; `looks`: and every present term, to ask what others have spent.
    pub fn to_tell(&self, now: SystemTime, looks: bool) -> Vec<Telling> {
        let is_now = |term: &Term| term.account.period.holding(now) == term.bounds;
        let is_due = |term: &Term, spent: &Spent| {
            spent.own != spent.told || looks && (spent.is_missed || is_now(term))
        };
        let telling = |(term, spent): (&Term, &Spent)| {
            let others = spent.others.iter().filter(|_| spent.is_missed);
            let others = others.map(|(name, amount)| (name.clone(), *amount)).collect();
            Telling { term: term.clone(), own: spent.own, others }
        };
        self.0.iter().filter(|(term, spent)| is_due(term, spent)).map(telling).collect()
    }

    /// What the server has of a term, replica by replica; `own` is this one's name.
    pub fn heard(&mut self, term: &Term, own: &str, amounts: &BTreeMap<Name, u128>) {
        let Some(spent) = self.0.get_mut(term) else { return };
        spent.told = amounts.get(own).copied().unwrap_or(0);
        let is_less = |name: &Name, known: u128| amounts.get(name).is_none_or(|amount| *amount < known);
        spent.is_missed = spent.others.iter().any(|(name, known)| is_less(name, *known));
        let mut rest = 0_u128;
        for (name, amount) in amounts.iter().filter(|(name, _)| name.as_str() != own) {
            if let Some(known) = spent.others.get_mut(name) {
                *known = (*known).max(*amount);
            } else if spent.others.len() < REPLICAS {
                spent.others.insert(name.clone(), *amount);
            } else {
                rest = rest.saturating_add(*amount);
            }
        }
        spent.rest = spent.rest.max(rest);
    }

    /// Forgets periods that are long over, and accounts without a budget.
    pub fn sweep(&mut self, list: &BudgetList, now: SystemTime) {
        let now = seconds(now);
        self.0.retain(|Term { account, bounds }, _| {
            let is_near = bounds.end + KEPT > now && bounds.start <= now + KEPT;
            is_near && list.amount(account).is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    fn shown(period: Period, instant: &str) -> (String, String) {
        let Bounds { start, end } = period.holding(at(instant));
        let show = |second| {
            humantime::format_rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(second)).to_string()
        };
        (show(start), show(end))
    }

    #[test]
    fn periods_are_those_of_the_calendar() {
        use Period::{Day, Hour, Month, Week};
        for (period, instant, start, end) in [
            (Hour, "2027-01-15T08:59:59.999Z", "2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z"),
            (Day, "2027-01-15T00:00:00Z", "2027-01-15T00:00:00Z", "2027-01-16T00:00:00Z"),
            (Day, "2026-12-31T23:59:59Z", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Week, "2027-01-11T00:00:00Z", "2027-01-11T00:00:00Z", "2027-01-18T00:00:00Z"), // a Monday
            (Week, "2027-01-17T23:59:59Z", "2027-01-11T00:00:00Z", "2027-01-18T00:00:00Z"), // the Sunday after it
            (Week, "2027-01-01T12:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"),
            (Month, "2027-01-31T23:59:59Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"),
            (Month, "2027-02-28T12:00:00Z", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z"),
            (Month, "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Month, "2100-02-28T23:59:59Z", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z"), // no leap year
            (Month, "2100-03-01T00:00:00Z", "2100-03-01T00:00:00Z", "2100-04-01T00:00:00Z"),
            (Month, "2000-02-29T00:00:00Z", "2000-02-01T00:00:00Z", "2000-03-01T00:00:00Z"), // one
            (Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Month, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1970-02-01T00:00:00Z"),
        ] {
            let want = (start.to_owned(), end.to_owned());
            assert_eq!(shown(period, instant), want, "the {} of {instant}", period.label());
        }
    }

    proptest! {
        /// Against the library that writes the log's times.
        #[test]
        fn each_instant_lies_in_its_period_and_the_next_one_begins_where_it_ends(second in 0..16_000_000_000_u64) {
            let instant = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            let text = humantime::format_rfc3339(instant).to_string();
            for (period, same, rest) in [
                (Period::Hour, 13, ":00:00Z"), (Period::Day, 10, "T00:00:00Z"), (Period::Month, 7, "-01T00:00:00Z"),
            ] {
                let (start, end) = shown(period, &text);
                prop_assert_eq!(&start, &format!("{text:.same$}{rest}"));
                prop_assert!(end.ends_with(rest) && end > text && start <= text, "{start} {text} {end}");
                prop_assert_eq!(&shown(period, &end).0, &end);
            }
            let week = Period::Week.holding(instant);
            prop_assert!(week.start <= second && second < week.end);
            prop_assert!(week.start == 0 || week.end - week.start == 7 * DAY);
        }
    }

    fn name(text: &str) -> Name {
        Name::from(text)
    }

    fn account(tenant: &str, period: Period) -> Account {
        Account { tenant: name(tenant), currency: name("USD"), period }
    }

    fn list(budgets: &[(&str, Period, u128)]) -> BudgetList {
        let budget = |(tenant, period, amount): &(&str, Period, u128)| Budget {
            account: account(tenant, *period),
            amount: *amount,
        };
        BudgetList(budgets.iter().map(budget).collect())
    }

    fn spent(spending: &Spending, tenant: &str, period: Period, now: &str) -> Option<u128> {
        spending.spent(at(now)).get(&account(tenant, period)).copied()
    }

    fn add(spending: &mut Spending, list: &BudgetList, tenant: &str, pico: u128, when: &str) {
        assert!(spending.add(list, &name(tenant), (&name("USD"), pico), at(when)));
    }

    #[test]
    fn a_tenants_own_budget_goes_before_the_one_for_each() {
        let list = list(&[("*", Period::Day, 7), ("a", Period::Day, 9), ("a", Period::Month, 90)]);
        assert_eq!(list.amount(&account("a", Period::Day)), Some(9));
        assert_eq!(list.amount(&account("b", Period::Day)), Some(7));
        assert_eq!(list.amount(&account("b", Period::Month)), None);
        let many = ["a", "b"].map(|tenant| list.is_one_of_many(&account(tenant, Period::Day)));
        assert_eq!(many, [false, true]);
        let mut spending = Spending::default();
        add(&mut spending, &list, "a", 5, "2027-01-15T08:00:00Z");
        add(&mut spending, &list, "b", 6, "2027-01-15T08:00:00Z");
        assert!(spending.add(&list, &name("b"), (&name("EUR"), 50), at("2027-01-15T08:00:00Z")));
        let want = [
            (account("a", Period::Day), 5),
            (account("a", Period::Month), 5),
            (account("b", Period::Day), 6),
        ];
        assert_eq!(spending.spent(at("2027-01-15T09:00:00Z")), BTreeMap::from(want));
    }

    #[test]
    fn a_period_ends_at_its_instant_and_what_is_settled_late_counts_where_it_ended() {
        let list = list(&[("a", Period::Month, 1)]);
        let mut spending = Spending::default();
        add(&mut spending, &list, "a", 5, "2027-01-31T23:59:59Z");
        assert_eq!(spent(&spending, "a", Period::Month, "2027-01-31T23:59:59.999Z"), Some(5));
        assert_eq!(spent(&spending, "a", Period::Month, "2027-02-01T00:00:00Z"), Some(0));
        add(&mut spending, &list, "a", 2, "2027-02-01T00:00:00Z");
        add(&mut spending, &list, "a", 30, "2027-01-31T23:59:59Z");
        assert_eq!(spent(&spending, "a", Period::Month, "2027-02-01T00:00:01Z"), Some(2));
        // The wall clock is set back over the border, and forth again.
        spending.sweep(&list, at("2027-02-01T00:59:00Z"));
        assert_eq!(spent(&spending, "a", Period::Month, "2027-01-31T23:59:59Z"), Some(35));
        assert_eq!(spent(&spending, "a", Period::Month, "2027-02-01T00:00:02Z"), Some(2));
        spending.sweep(&list, at("2027-02-01T01:00:00Z"));
        assert_eq!(spent(&spending, "a", Period::Month, "2027-01-31T23:59:59Z"), Some(0));
        spending.sweep(&BudgetList::default(), at("2027-02-01T01:00:00Z"));
        assert_eq!(spent(&spending, "a", Period::Month, "2027-02-01T01:00:00Z"), None, "without a budget");
    }

    #[test]
    fn beyond_the_bound_nothing_is_kept_and_it_is_told() {
        let list = list(&[("*", Period::Month, 1)]);
        let mut spending = Spending::default();
        let now = "2027-01-15T08:00:00Z";
        for number in 0..ACCOUNTS {
            add(&mut spending, &list, &number.to_string(), 1, now);
        }
        assert!(!spending.add(&list, &name("more"), (&name("USD"), 1), at(now)));
        add(&mut spending, &list, "0", 1, now);
        assert_eq!(spent(&spending, "0", Period::Month, now), Some(2));
    }

    const NOW: &str = "2027-01-15T08:00:00Z";

    /// What the server says when it has these amounts.
    fn heard(spending: &mut Spending, amounts: &[(&str, u128)]) {
        let term = Term::holding(&account("a", Period::Day), at(NOW));
        let amounts = amounts.iter().map(|(replica, amount)| (name(replica), *amount)).collect();
        spending.heard(&term, "me", &amounts);
    }

    fn to_tell(spending: &Spending, looks: bool) -> Vec<(u128, Vec<(Name, u128)>)> {
        spending.to_tell(at(NOW), looks).into_iter().map(|telling| (telling.own, telling.others)).collect()
    }

    #[test]
    fn replicas_amounts_add_up_and_none_is_told_twice() {
        let list = list(&[("a", Period::Day, 1)]);
        let mut spending = Spending::default();
        spending.watch(&account("a", Period::Day), at(NOW));
        assert_eq!((to_tell(&spending, false), to_tell(&spending, true)), (vec![], vec![(0, vec![])]));
        add(&mut spending, &list, "a", 5, NOW);
        assert_eq!(to_tell(&spending, false), [(5, vec![])]);
        assert_eq!(to_tell(&spending, false), [(5, vec![])], "until the server has it");
        heard(&mut spending, &[("me", 5), ("other", 7), ("gone", 1)]);
        assert_eq!(to_tell(&spending, false), []);
        assert_eq!(spent(&spending, "a", Period::Day, NOW), Some(13));
        add(&mut spending, &list, "a", 2, NOW);
        assert_eq!(spent(&spending, "a", Period::Day, NOW), Some(15));
        // An older answer comes late.
        heard(&mut spending, &[("me", 5), ("other", 8), ("gone", 1)]);
        assert_eq!(
            (spent(&spending, "a", Period::Day, NOW), to_tell(&spending, false)),
            (Some(16), vec![(7, vec![])])
        );
    }

    #[test]
    fn a_server_that_has_lost_all_is_told_what_is_known_and_the_sum_never_shrinks() {
        let list = list(&[("a", Period::Day, 1)]);
        let mut spending = Spending::default();
        add(&mut spending, &list, "a", 5, NOW);
        heard(&mut spending, &[("me", 5), ("other", 7), ("gone", 1)]);
        heard(&mut spending, &[("other", 9)]);
        assert_eq!(spent(&spending, "a", Period::Day, NOW), Some(15));
        let others = vec![(name("gone"), 1), (name("other"), 9)];
        assert_eq!(to_tell(&spending, false), [(5, others)]);
        heard(&mut spending, &[("me", 5), ("other", 9), ("gone", 1)]);
        assert_eq!((to_tell(&spending, false), to_tell(&spending, true)), (vec![], vec![(5, vec![])]));
    }

    #[test]
    fn of_replicas_beyond_the_bound_the_sum_is_kept() {
        let list = list(&[("a", Period::Day, 1)]);
        let mut spending = Spending::default();
        add(&mut spending, &list, "a", 5, NOW);
        let names: Vec<String> = (0..REPLICAS + 3).map(|number| format!("{number:05}")).collect();
        let all: Vec<(&str, u128)> = names.iter().map(|name| (name.as_str(), 2)).collect();
        let want = 5 + 2 * (REPLICAS as u128 + 3);
        heard(&mut spending, &all);
        assert_eq!(spent(&spending, "a", Period::Day, NOW), Some(want));
        heard(&mut spending, &all);
        heard(&mut spending, &[]);
        assert_eq!(spent(&spending, "a", Period::Day, NOW), Some(want));
        assert_eq!(to_tell(&spending, true)[0].1.len(), REPLICAS);
    }
}
