//! What happened around an incident: alerts that fired, versions, reloads, restarts.

use super::text::name;
use super::{Series, Span};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, in Unix seconds.
    pub at: f64,
    /// What.
    pub what: String,
}

/// An alert that fired.
#[derive(Debug, Clone, PartialEq)]
pub struct Firing {
    /// Its name.
    pub name: String,
    /// Whom it wakes.
    pub severity: String,
    /// What it was about: its further labels.
    pub about: String,
    /// From the first evaluation that had it to the last.
    pub span: Span,
}

/// Labels of an alert that say what it is about, in this order.
const ABOUT: [&str; 6] = ["slo", "tenant", "model", "upstream", "instance", "scope"];

/// The spans in which alerts fired, from the samples of `ALERTS`; `interval` is how often Prometheus scrapes.
pub fn firings(series: &[Series], interval: f64) -> Vec<Firing> {
    let mut found = Vec::new();
    for one in series {
        let about: Vec<_> = ABOUT
            .into_iter()
            .filter(|label| !one.label(label).is_empty())
            .map(|label| format!("{label} {}", name(one.label(label))))
            .collect();
        for span in spans(&one.points, interval) {
            found.push(Firing {
                name: name(one.label("alertname")),
                severity: name(one.label("severity")),
                about: about.join(", "),
                span,
            });
        }
    }
    found.sort_by(|one, other| one.span.begin.total_cmp(&other.span.begin));
    found
}

/// Stretches without a gap that is longer than usual.
fn spans(points: &[(f64, f64)], interval: f64) -> Vec<Span> {
    let mut gaps: Vec<f64> =
        points.windows(2).filter_map(|pair| Some(pair.last()?.0 - pair.first()?.0)).collect();
    gaps.sort_by(f64::total_cmp);
    let usual = gaps.get(gaps.len() / 2).copied().unwrap_or(interval).max(interval);
    let mut spans: Vec<Span> = Vec::new();
    for (at, _) in points.iter().copied() {
        match spans.last_mut().filter(|span| at - span.end <= 2.5 * usual) {
            Some(span) => span.end = at,
            None => spans.push(Span { begin: at, end: at }),
        }
    }
    spans
}

/// Values that are themselves instants, such as of a reload, within a span: those close together as one.
pub fn instants(series: &[Series], span: Span, what: &str) -> Vec<Event> {
    let mut instants: Vec<(f64, String)> = Vec::new();
    for one in series {
        let instance = one.label("instance").to_owned();
        let own = one.points.iter().map(|(_, value)| *value).filter(|value| span.has(*value));
        instants.extend(own.map(|at| (at, instance.clone())));
    }
    instants.sort_by(|one, other| one.0.total_cmp(&other.0).then_with(|| one.1.cmp(&other.1)));
    instants.dedup();
    let mut groups: Vec<Vec<(f64, String)>> = Vec::new();
    for one in instants {
        let close =
            groups.last_mut().filter(|group| group.first().is_some_and(|first| one.0 - first.0 <= TOGETHER));
        match close {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    let event = |group: Vec<(f64, String)>| {
        let (at, instance) = group.first()?;
        let who = if group.len() == 1 { name(instance) } else { format!("{} instances", group.len()) };
        Some(Event { at: *at, what: format!("{what} ({who})") })
    };
    groups.into_iter().filter_map(event).collect()
}

const TOGETHER: f64 = 30.0; // seconds: what is rolled out to many pods comes one after the other

/// Versions that appear later than the data begin.
pub fn versions(series: &[Series], begin: f64, step: f64) -> Vec<Event> {
    let new = |one: &Series| {
        let (at, _) = one.points.first().copied().filter(|(at, _)| *at > begin + 1.5 * step)?;
        Some(Event { at, what: format!("version {} is first seen", name(one.label("version"))) })
    };
    series.iter().filter_map(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(labels: &[(&str, &str)], points: &[(f64, f64)]) -> Series {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Series { labels, points: points.to_vec() }
    }

    #[test]
    fn an_alert_that_fires_twice_has_two_spans() {
        let points: Vec<_> = [10.0, 15.0, 20.0, 25.0, 100.0, 105.0].map(|at| (at, 1.0)).to_vec();
        let labels = [("alertname", "StreamgaugeHung"), ("severity", "page"), ("upstream", "a\n")];
        let found = firings(&[series(&labels, &points)], 1.0);
        let spans: Vec<_> = found.iter().map(|one| (one.span.begin, one.span.end)).collect();
        assert_eq!(spans, [(10.0, 25.0), (100.0, 105.0)]);
        assert_eq!(found[0].about, "upstream a\u{fffd}");
    }

    #[test]
    fn a_rollout_is_one_event() {
        let at = |instance: &str, value| series(&[("instance", instance)], &[(0.0, value), (60.0, value)]);
        let span = Span { begin: 100.0, end: 300.0 };
        let found =
            instants(&[at("a", 150.0), at("b", 160.0), at("c", 250.0), at("d", 50.0)], span, "reloaded");
        let told: Vec<_> = found.iter().map(|one| (one.at, one.what.as_str())).collect();
        assert_eq!(told, [(150.0, "reloaded (2 instances)"), (250.0, "reloaded (c)")]);
    }

    #[test]
    fn a_version_that_was_there_from_the_start_is_no_event() {
        let version = |own: &str, at| series(&[("version", own)], &[(at, 1.0)]);
        let found = versions(&[version("1", 0.0), version("2", 60.0)], 0.0, 10.0);
        assert_eq!(found, [Event { at: 60.0, what: "version 2 is first seen".to_owned() }]);
    }
}
