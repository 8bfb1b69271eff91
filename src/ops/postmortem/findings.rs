//! Everything that is known when the report is written.

use std::collections::BTreeMap;

use super::Span;
use super::anatomy::{Anatomy, anatomy};
use super::cause::{Judgement, Scales, judge};
use super::changes::{Event, Firing};
use super::chart::Lines;
use super::detect::{Hit, Incident, Objective, Party};
use super::log::Log;
use super::measures::Measures;

/// What the report is made of.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// The time that was asked for.
    pub asked: Span,
    /// The time of which there are samples.
    pub data: Span,
    /// Seconds between two scrapes.
    pub interval: f64,
    /// Sidecars that were scraped.
    pub instances: usize,
    /// What is promised; where nothing is, that requests succeed.
    pub objectives: Vec<Objective>,
    /// Requests judged and bad in the time that was asked for.
    pub totals: BTreeMap<Party, (f64, f64)>,
    /// What is looked into.
    pub main: Option<Main>,
    /// Further incidents.
    pub others: Vec<Incident>,
    /// Alerts that fired.
    pub alerts: Vec<Firing>,
    /// What else happened.
    pub events: Vec<Event>,
    /// Charts.
    pub charts: Vec<Lines>,
    /// What the request log says, where it was given.
    pub log: Option<Log>,
    /// What limits what can be said.
    pub notes: Vec<String>,
    /// When the report was made.
    pub made: f64,
}

/// The incident that is looked into.
#[derive(Debug, Clone)]
pub struct Main {
    /// When, and whom it hit.
    pub incident: Incident,
    /// What was promised to the hardest hit.
    pub objective: Objective,
    /// Requests of that objective that are judged in a second, usually.
    pub usual: f64,
    /// The time before, where there is any.
    pub before: Option<Measures>,
    /// The incident.
    pub during: Measures,
    /// What first tokens waited for.
    pub anatomy: Anatomy,
    /// The cause.
    pub judgement: Judgement,
}

impl Main {
    /// Weighs what was measured.
    pub fn new(
        incident: Incident,
        objective: Objective,
        usual: f64,
        before: Option<Measures>,
        during: Measures,
    ) -> Self {
        let anatomy = anatomy(before.as_ref(), &during);
        let scales = Scales {
            incident: &incident,
            objective: &objective,
            before: before.as_ref(),
            during: &during,
            anatomy: &anatomy,
        };
        let judgement = judge(&scales);
        Self { incident, objective, usual, before, during, anatomy, judgement }
    }

    /// Whom it hit under the objective that most missed.
    pub fn hit(&self) -> impl Iterator<Item = &Hit> {
        self.incident.hit().filter(|hit| hit.party.slo == self.objective.name)
    }

    /// Requests of those that were judged, and bad.
    pub fn judged(&self) -> (f64, f64) {
        let own = self.incident.parties.iter().filter(|hit| hit.party.slo == self.objective.name);
        own.fold((0.0, 0.0), |(judged, bad), hit| (judged + hit.judged, bad + hit.bad))
    }
}

/// The objective that most requests of an incident missed.
pub fn objective_of(incident: &Incident, objectives: &[Objective]) -> Objective {
    let mut bad: BTreeMap<&str, f64> = BTreeMap::new();
    for hit in &incident.parties {
        *bad.entry(hit.party.slo.as_str()).or_default() += hit.bad;
    }
    let most = bad.into_iter().max_by(|one, other| one.1.total_cmp(&other.1)).map(|(name, _)| name);
    objectives.iter().find(|one| Some(one.name.as_str()) == most).cloned().unwrap_or_default()
}

/// The time before an incident that it can be compared with: until it, back to the end of the one before or to where the
/// data begin. None where that is shorter than a few scrapes.
pub fn baseline(incident: &Incident, all: &[Incident], data: Span, interval: f64) -> Option<Span> {
    let end = incident.span.begin;
    // What is breached all the time ends nowhere before.
    let ended = all.iter().map(|one| one.span.end).filter(|other| *other <= end);
    let begin = ended.fold(data.begin, f64::max);
    Some(Span { begin, end }).filter(|span| span.seconds() >= SCRAPES * interval.max(1.0))
}

const SCRAPES: f64 = 4.0;

/// What of the time charts show: the incident with as much before it, and half as much behind it.
pub fn charted(incident: Span, data: Span) -> Span {
    let room = incident.seconds().max(SHORTEST);
    Span { begin: (incident.begin - room).max(data.begin), end: (incident.end + room / 2.0).min(data.end) }
}

const SHORTEST: f64 = 60.0; // seconds: around a shorter one nothing would be seen

#[cfg(test)]
mod tests {
    use super::*;

    fn incident(begin: f64, end: f64) -> Incident {
        Incident {
            span: Span { begin, end },
            first_seen: begin + 1.0,
            last_before: end - 1.0,
            began_before: false,
            goes_on: false,
            parties: Vec::new(),
        }
    }

    #[test]
    fn the_time_before_begins_where_the_incident_before_ended() {
        let data = Span { begin: 0.0, end: 1000.0 };
        let all = [incident(100.0, 200.0), incident(500.0, 600.0), incident(0.0, 1000.0)];
        let of = |place: usize| baseline(&all[place], &all, data, 5.0);
        assert_eq!(of(1), Some(Span { begin: 200.0, end: 500.0 }));
        assert_eq!(of(0), Some(Span { begin: 0.0, end: 100.0 }));
        assert_eq!(of(2), None);
    }

    #[test]
    fn charts_show_the_incident_and_around_it() {
        let data = Span { begin: 0.0, end: 10_000.0 };
        assert_eq!(charted(Span { begin: 5000.0, end: 5600.0 }, data), Span { begin: 4400.0, end: 5900.0 });
        assert_eq!(charted(Span { begin: 10.0, end: 9990.0 }, data), data);
    }
}
