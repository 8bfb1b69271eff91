//! What was breached, and from when to when.
//!
//! Each scrape interval of a party (an objective's tenant with a model) scores its bad requests less a share of all of
//! them. A run of intervals whose scores add up to the most, so that it cannot be made longer or shorter without losing,
//! is a breach: the maximal scoring runs of Ruzzo and Tompa ("A linear time algorithm for finding all maximal scoring
//! subsequences", ISMB 1999). So one bad request among many good ones begins nothing, and a good one among bad ones ends
//! nothing. Breaches that overlap are one incident.

use std::collections::BTreeMap;

use super::growth::Scrapes;
use super::{Series, Span};

/// What an objective promises, as the metrics tell.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Objective {
    /// Its name; empty: no objective is configured, and failures are counted.
    pub name: String,
    /// The share that is to keep it.
    pub share: f64,
    /// Seconds to the first token, where it asks for that.
    pub ttft: Option<f64>,
    /// Seconds a token.
    pub tpot: Option<f64>,
    /// Seconds of the whole exchange.
    pub duration: Option<f64>,
}

/// Times as fast as the budget may burn: the lower one of the alerts that page.
const BURN: f64 = 6.0;
/// No share is more than all: where six times what may be bad is more than this, this is enough.
const CEILING: f64 = 0.7;
/// Fewer bad requests are no breach, however strict the objective: they may be one user's.
pub const BAD: f64 = 5.0;
/// The share of failures that is a breach where nothing is promised: that of the alert on upstream errors.
const FAILURES: f64 = 0.05;

impl Objective {
    /// Where nothing is promised: requests are to succeed.
    pub fn none() -> Self {
        Self { share: 1.0 - FAILURES, ..Self::default() }
    }

    /// The share that may miss it.
    pub fn budget(&self) -> f64 {
        (1.0 - self.share).clamp(0.0, 1.0)
    }

    /// The share of bad requests from which a run of intervals is a breach.
    pub fn breach(&self) -> f64 {
        if self.name.is_empty() {
            return FAILURES;
        }
        let budget = self.budget();
        (BURN * budget).min(if budget < CEILING { CEILING } else { budget + (1.0 - budget) / 2.0 })
    }
}

/// Whose requests are judged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Party {
    /// The objective's name.
    pub slo: String,
    /// The label.
    pub tenant: String,
    /// The label.
    pub model: String,
}

impl Party {
    /// Out of the labels.
    pub fn of(series: &Series) -> Self {
        let label = |name| series.label(name).to_owned();
        Self { slo: label("slo"), tenant: label("tenant"), model: label("model") }
    }
}

/// Requests that a scrape showed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    after: f64,
    at: f64,
    bad: f64,
    all: f64,
}

/// What each party's requests were judged to be, scrape by scrape.
#[derive(Debug, Clone, Default)]
pub struct Verdicts(BTreeMap<Party, Vec<Seen>>);

impl Verdicts {
    /// From the counters of requests that are judged, and of those that are bad.
    pub fn of(scrapes: &Scrapes, all: &[Series], bad: &[Series]) -> Self {
        let mut seen: BTreeMap<Party, BTreeMap<(u64, u64), Seen>> = BTreeMap::new();
        for (series, is_bad) in all.iter().map(|one| (one, false)).chain(bad.iter().map(|one| (one, true))) {
            let of_party = seen.entry(Party::of(series)).or_default();
            for growth in scrapes.growth(series) {
                let fresh = Seen { after: growth.after, at: growth.at, bad: 0.0, all: 0.0 };
                let one = of_party.entry((growth.at.to_bits(), growth.after.to_bits())).or_insert(fresh);
                *(if is_bad { &mut one.bad } else { &mut one.all }) += growth.by;
            }
        }
        // Positive numbers order like their bits.
        Self(seen.into_iter().map(|(party, seen)| (party, seen.into_values().collect())).collect())
    }

    /// Each party's requests of a span: judged, and bad.
    pub fn within(&self, span: Span) -> BTreeMap<Party, (f64, f64)> {
        let sum = |seen: &Vec<Seen>| {
            let seen = seen.iter().filter(|seen| span.has(seen.at));
            seen.fold((0.0, 0.0), |(all, bad), seen| (all + seen.all, bad + seen.bad))
        };
        let sums = self.0.iter().map(|(party, seen)| (party.clone(), sum(seen)));
        sums.filter(|(_, (all, bad))| *all > 0.0 || *bad > 0.0).collect()
    }

    /// An objective's requests whoever they are of.
    fn together(&self, slo: &str) -> Vec<Seen> {
        let own = self.0.iter().filter(|(party, _)| party.slo == slo);
        let mut seen: Vec<Seen> = own.flat_map(|(_, seen)| seen.iter().copied()).collect();
        seen.sort_by(|one, other| one.at.total_cmp(&other.at));
        seen
    }
}

/// A breach, or several that overlap.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// From the last scrape before the first bad request was counted to the one that showed the last.
    pub span: Span,
    /// The scrape that showed the first.
    pub first_seen: f64,
    /// The scrape before the one that showed the last.
    pub last_before: f64,
    /// Whether it had begun before there is any data.
    pub began_before: bool,
    /// Whether it went on when the data end.
    pub goes_on: bool,
    /// Who was judged in it, the hardest hit first.
    pub parties: Vec<Hit>,
}

/// What an incident was to a party.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Who.
    pub party: Party,
    /// Requests that were judged.
    pub judged: f64,
    /// Requests that missed the objective.
    pub bad: f64,
    /// Whether that is a breach: the others had bad requests no more often than is a breach.
    pub is_hit: bool,
}

impl Incident {
    /// Bad requests of all whom it hit.
    pub fn bad(&self) -> f64 {
        self.parties.iter().map(|hit| hit.bad).sum()
    }

    /// Whom it hit.
    pub fn hit(&self) -> impl Iterator<Item = &Hit> {
        self.parties.iter().filter(|hit| hit.is_hit)
    }
}

/// A run of scrapes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Run {
    first: Seen,
    last: Seen,
    bad: f64,
}

/// The incidents in the data, the one with the most bad requests first. `data` is the time of which there is any.
pub fn incidents(verdicts: &Verdicts, objectives: &[Objective], data: Span, interval: f64) -> Vec<Incident> {
    let mut runs: Vec<Run> = Vec::new();
    for objective in objectives {
        let breach = objective.breach();
        let own = verdicts.0.iter().filter(|(party, _)| party.slo == objective.name);
        let mut found: Vec<Run> = own.flat_map(|(_, seen)| breaches(seen, breach)).collect();
        if found.is_empty() {
            found = breaches(&verdicts.together(&objective.name), breach); // of many that are each too quiet
        }
        runs.extend(found);
    }
    let near_begin = data.begin + 2.5 * interval;
    let near_end = data.end - 2.5 * interval;
    // What was breached all the time would swallow everything else: it is told by itself.
    let is_chronic = |run: &Run| run.first.after <= near_begin && run.last.at >= near_end;
    let (chronic, rest): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(is_chronic);
    let mut incidents = Vec::new();
    for runs in clusters(rest).into_iter().chain(clusters(chronic)) {
        incidents.extend(incident(&runs, verdicts, objectives, (near_begin, near_end)));
    }
    incidents.sort_by(|one, other| other.bad().total_cmp(&one.bad()));
    incidents
}

fn incident(
    runs: &[Run],
    verdicts: &Verdicts,
    objectives: &[Objective],
    (near_begin, near_end): (f64, f64),
) -> Option<Incident> {
    let first = runs.iter().min_by(|one, other| one.first.at.total_cmp(&other.first.at))?.first;
    let last = runs.iter().max_by(|one, other| one.last.at.total_cmp(&other.last.at))?.last;
    let span = Span { begin: first.after, end: last.at };
    let hit = |(party, (judged, bad)): (Party, (f64, f64))| {
        let breach = objectives.iter().find(|one| one.name == party.slo).map_or(1.0, Objective::breach);
        Hit { party, judged, bad, is_hit: bad > breach * judged && bad > 0.0 }
    };
    let mut parties: Vec<Hit> = verdicts.within(span).into_iter().map(hit).collect();
    parties.sort_by(|one, other| other.bad.total_cmp(&one.bad));
    Some(Incident {
        span,
        first_seen: first.at,
        last_before: last.after,
        began_before: span.begin <= near_begin,
        goes_on: span.end >= near_end,
        parties,
    })
}

/// Runs that overlap.
fn clusters(mut runs: Vec<Run>) -> Vec<Vec<Run>> {
    runs.sort_by(|one, other| one.first.after.total_cmp(&other.first.after));
    let mut clusters: Vec<Vec<Run>> = Vec::new();
    for run in runs {
        let own = clusters.last_mut().filter(|cluster| {
            let end = cluster.iter().map(|run| run.last.at).max_by(f64::total_cmp);
            end.is_some_and(|end| run.first.after < end)
        });
        match own {
            Some(cluster) => cluster.push(run),
            None => clusters.push(vec![run]),
        }
    }
    clusters
}

/// A candidate of the algorithm: what the scores had come to before it and with it.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    from: usize,
    to: usize,
    before: f64,
    with: f64,
}

fn breaches(seen: &[Seen], breach: f64) -> Vec<Run> {
    let mut total = 0.0;
    let mut candidates: Vec<Candidate> = Vec::new();
    for (place, one) in seen.iter().enumerate() {
        let before = total;
        total += one.bad - breach * one.all.max(one.bad);
        if total <= before {
            continue;
        }
        let mut fresh = Candidate { from: place, to: place, before, with: total };
        loop {
            let lower = candidates.iter().rposition(|older| older.before < fresh.before);
            let joined = lower.and_then(|at| candidates.get(at).copied().map(|older| (at, older)));
            match joined.filter(|(_, older)| older.with < fresh.with) {
                Some((at, older)) => {
                    candidates.truncate(at);
                    fresh = Candidate { from: older.from, before: older.before, ..fresh };
                }
                None => break candidates.push(fresh),
            }
        }
    }
    let own = candidates.iter().filter_map(|one| seen.get(one.from..=one.to));
    own.flat_map(|own| apart(own, breach)).filter(|run| run.bad >= BAD).collect()
}

/// A run, held to its own share of bad requests. Two bursts with a long good time between them are worse, taken together,
/// than a breach must be: held to half of that share they are two. And a bad request by chance, shortly before what was
/// nearly all bad, is no part of it: its ends are held to a quarter, which leaves what grows bad slowly whole.
fn apart(own: &[Seen], breach: f64) -> Vec<Run> {
    let (bad, all) =
        own.iter().fold((0.0, 0.0), |(bad, all), seen| (bad + seen.bad, all + seen.all.max(seen.bad)));
    let share = bad / all;
    for (part, least) in [(share / 2.0, 2), (share / 4.0, 1)] {
        let parts = if part > breach { breaches(own, part) } else { Vec::new() };
        if parts.len() >= least {
            return parts;
        }
    }
    let run = || Some(Run { first: *own.first()?, last: *own.last()?, bad });
    run().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A party's counters, from what each second brought: good and bad requests.
    fn counters(tenant: &str, seconds: &[(u32, u32)]) -> (Series, Series) {
        let labels = [("slo", "chat"), ("tenant", tenant), ("model", "m"), ("instance", "a")];
        let labels: BTreeMap<_, _> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (mut all, mut bad) = ((100.0, vec![(0.0, 100.0)]), (0.0, vec![(0.0, 0.0)]));
        for (second, (good, missed)) in seconds.iter().enumerate() {
            all.0 += f64::from(good + missed);
            bad.0 += f64::from(*missed);
            all.1.push((second as f64 + 1.0, all.0));
            bad.1.push((second as f64 + 1.0, bad.0));
        }
        (Series { labels: labels.clone(), points: all.1 }, Series { labels, points: bad.1 })
    }

    fn find(parties: &[(&str, Vec<(u32, u32)>)]) -> Vec<(f64, f64, Vec<String>)> {
        let pairs: Vec<_> = parties.iter().map(|(tenant, seconds)| counters(tenant, seconds)).collect();
        let (all, bad): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let scrapes = Scrapes::of(&all);
        let objective = Objective { name: "chat".into(), share: 0.99, ..Objective::default() };
        let data = Span { begin: 0.0, end: parties[0].1.len() as f64 };
        incidents(&Verdicts::of(&scrapes, &all, &bad), &[objective], data, scrapes.interval)
            .iter()
            .map(|one| {
                (one.span.begin, one.span.end, one.hit().map(|hit| hit.party.tenant.clone()).collect())
            })
            .collect()
    }

    fn quiet(seconds: usize) -> Vec<(u32, u32)> {
        vec![(10, 0); seconds]
    }

    fn chain(parts: &[Vec<(u32, u32)>]) -> Vec<(u32, u32)> {
        parts.concat()
    }

    #[test]
    fn a_breach_begins_and_ends_with_its_bad_requests() {
        let seconds = chain(&[quiet(60), vec![(2, 8); 20], quiet(60)]);
        assert_eq!(find(&[("web", seconds), ("batch", quiet(140))]), [(60.0, 80.0, vec!["web".to_owned()])]);
    }

    #[test]
    fn a_good_second_among_bad_ones_ends_nothing_and_a_bad_request_among_good_ones_begins_nothing() {
        let bad = chain(&[vec![(0, 10); 5], quiet(2), vec![(0, 10); 5]]);
        let seconds = chain(&[quiet(20), vec![(9, 1)], quiet(39), bad, quiet(20), vec![(9, 1)], quiet(20)]);
        assert_eq!(find(&[("web", seconds)]), [(60.0, 72.0, vec!["web".to_owned()])]);
    }

    #[test]
    fn nothing_is_found_where_no_more_than_the_budget_is_bad_or_a_few_are() {
        let one_percent = [vec![(10, 0); 9], vec![(9, 1)]].concat().repeat(30);
        assert_eq!(find(&[("web", one_percent)]), []);
        assert_eq!(find(&[("web", chain(&[quiet(60), vec![(0, 4)], quiet(60)]))]), []);
        assert_eq!(find(&[("web", quiet(60))]), []);
    }

    #[test]
    fn two_that_are_far_apart_are_two_and_two_tenants_at_once_are_one() {
        let twice = chain(&[quiet(60), vec![(0, 10); 5], quiet(60), vec![(0, 10); 10], quiet(60)]);
        let found = find(&[("web", twice)]);
        assert_eq!(
            found.iter().map(|one| (one.0, one.1)).collect::<Vec<_>>(),
            [(125.0, 135.0), (60.0, 65.0)]
        );
        let early = chain(&[quiet(60), vec![(0, 10); 10], quiet(50)]);
        let late = chain(&[quiet(65), vec![(0, 20); 10], quiet(45)]);
        let both = vec!["late".to_owned(), "early".to_owned()];
        assert_eq!(find(&[("early", early), ("late", late)]), [(60.0, 75.0, both)]);
    }

    #[test]
    fn a_bad_request_by_chance_shortly_before_or_after_is_no_part_of_it() {
        let stray = chain(&[vec![(2, 1)], vec![(3, 0); 5]]);
        let after = stray.iter().rev().copied().collect();
        let seconds = chain(&[vec![(3, 0); 54], stray, vec![(0, 12); 20], after, vec![(3, 0); 54]]);
        assert_eq!(find(&[("web", seconds)]), [(60.0, 80.0, vec!["web".to_owned()])]);
    }

    #[test]
    fn what_grows_bad_slowly_begins_before_most_is_bad() {
        let grows = (0..20).map(|tenth| (20 - tenth, tenth)).collect();
        let found =
            find(&[("web", chain(&[vec![(20, 0); 60], grows, vec![(0, 20); 40], vec![(20, 0); 60]]))]);
        assert!((60.0..=66.0).contains(&found[0].0) && found[0].1 == 120.0, "{found:?}");
    }

    #[test]
    fn who_is_always_bad_does_not_hide_who_became_so() {
        let always = vec![(5, 5); 120];
        let became = chain(&[quiet(60), vec![(0, 10); 10], quiet(50)]);
        let found = find(&[("always", always), ("became", became)]);
        assert_eq!((found[0].0, found[0].1), (0.0, 120.0));
        assert_eq!((found[1].0, found[1].1), (60.0, 70.0));
    }

    #[test]
    fn tenants_that_are_each_too_quiet_are_seen_together() {
        let one = |second: usize| {
            let mut seconds = vec![(0, 0); 60];
            seconds[second] = (0, 2);
            seconds
        };
        let found = find(&[("a", one(30)), ("b", one(31)), ("c", one(33))]);
        assert_eq!((found[0].0, found[0].1, found[0].2.len()), (30.0, 34.0, 3));
    }

    #[test]
    fn a_share_that_cannot_be_six_times_as_large_is_seventy_percent() {
        let breach =
            |share| (Objective { name: "x".into(), share, ..Objective::default() }.breach() * 1e6).round();
        assert_eq!(
            [breach(0.999), breach(0.99), breach(0.8), breach(0.2)],
            [6000.0, 60_000.0, 700_000.0, 900_000.0]
        );
    }
}
