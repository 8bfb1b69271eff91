//! Asks Prometheus what the report needs, in an order in which each answer says what to ask next: was there a sidecar,
//! what was judged, when was it bad, and then what of the time before and of the incident.
#![expect(clippy::print_stderr, reason = "says how far it has come")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use anyhow::bail;

use crate::cli::prometheus::{Prometheus, Series as Answer};
use crate::ops::postmortem::changes::{Event, firings, instants, versions};
use crate::ops::postmortem::chart::{LINES, Lines};
use crate::ops::postmortem::detect::{Incident, Objective, Verdicts, incidents};
use crate::ops::postmortem::findings::{Findings, Main, baseline, charted, objective_of};
use crate::ops::postmortem::growth::Scrapes;
use crate::ops::postmortem::measures::Measures;
use crate::ops::postmortem::queries::{
    ALERTS, ASKS, BAD, FAILED, JUDGED, Of, PLOTS, PRESENCE, Plot, RELOADS, REQUESTS, SHARES, Scope,
    THRESHOLDS, duration, select,
};
use crate::ops::postmortem::{Series, Span};

/// Points of a line in a chart. Prometheus refuses 11,000; a screen shows no more than these.
const POINTS: f64 = 240.0;
/// Samples in an answer: some 15 MB of JSON.
const SAMPLES_AT_ONCE: f64 = 400_000.0;
/// Samples of a counter in all: 160 MB of memory.
const SAMPLES: f64 = 10_000_000.0;
/// Seconds before the time that was asked for, to compare it with.
const BEFORE: f64 = 3_600.0;
/// Scrapes without which nothing can be told.
const SCRAPES: f64 = 4.0;
/// A rate needs four scrapes, and some of them fail.
const RATE: f64 = 4.0;

/// Asks.
#[derive(Debug)]
pub(super) struct Gather {
    prometheus: Prometheus,
    scope: Scope,
    asked: Cell<u32>,
}

/// What is known of the time before it is looked into.
#[derive(Debug)]
struct Ground {
    data: Span,
    scrapes: Scrapes,
    objectives: Vec<Objective>,
    verdicts: Verdicts,
}

impl Gather {
    pub(super) fn new(prometheus: Prometheus, job: Option<String>) -> Self {
        Self { prometheus, scope: Scope { job, models: Vec::new() }, asked: Cell::new(0) }
    }

    /// Everything but what the log says.
    pub(super) fn findings(mut self, asked: Span, now: f64) -> anyhow::Result<Findings> {
        let ground = self.ground(asked)?;
        let Ground { data, scrapes, objectives, verdicts } = &ground;
        let interval = scrapes.interval;
        let all = incidents(verdicts, objectives, *data, interval);
        let mut found: Vec<Incident> = all.iter().filter(|one| one.span.overlaps(&asked)).cloned().collect();
        // What is bad all the time is no incident, unless it is the only one.
        let burst = found.iter().position(|one| !(one.began_before && one.goes_on)).unwrap_or_default();
        let main = (burst < found.len()).then(|| found.remove(burst));
        let main = match main {
            Some(incident) => Some(self.main(incident, &all, &ground)?),
            None => None,
        };
        let span = main.as_ref().map_or(asked, |main| charted(main.incident.span, *data));
        self.say("charts and what happened around it");
        let alerts = self.alerts(*data, interval, objectives)?;
        let alerts = firings(&alerts, interval);
        let findings = Findings {
            asked,
            data: *data,
            interval,
            instances: scrapes.instances(),
            objectives: objectives.clone(),
            totals: verdicts.within(asked),
            charts: self.charts(
                span,
                interval,
                main.as_ref(),
                alerts.iter().map(|one| one.span).collect(),
            )?,
            alerts,
            events: self.events(*data, interval)?,
            others: found,
            log: None,
            notes: notes(&ground, asked),
            made: now,
            main,
        };
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        Ok(findings)
    }

    /// Whether there is anything to look at, and what was judged.
    fn ground(&self, asked: Span) -> anyhow::Result<Ground> {
        self.say("whether it scraped a sidecar");
        let wanted = Span { begin: asked.begin - asked.seconds().min(BEFORE), ..asked };
        let presence = select(PRESENCE, &self.scope, Of::All, "");
        // How often is not known yet; few scrape more than once a second.
        let scrapes = Scrapes::of(&self.raw(&presence, wanted, None)?);
        let (Some(first), Some(last), false) = (scrapes.first(), scrapes.last(), scrapes.is_empty()) else {
            let job = self.scope.job.as_ref().map(|job| format!(" of the job {job:?}")).unwrap_or_default();
            bail!(
                "{}: it has no {PRESENCE}{job} of that time; does it scrape a sidecar, and did it then? It may have dropped \
                 what is older than its retention",
                self.prometheus.name()
            );
        };
        let data = Span { begin: first, end: last };
        if data.seconds() < SCRAPES * scrapes.interval || scrapes.interval <= 0.0 {
            bail!(
                "{}: it has {:.0} scrapes of that time, one each {:.0} s: too few to tell anything; ask for a longer time",
                self.prometheus.name(),
                data.seconds() / scrapes.interval.max(1.0) + 1.0,
                scrapes.interval
            );
        }
        self.say("what is promised, and what was missed");
        let mut objectives = self.objectives(wanted)?;
        let interval = scrapes.interval;
        let counter = |name: &str| self.raw(&select(name, &self.scope, Of::All, ""), wanted, Some(interval));
        let verdicts = if objectives.is_empty() {
            objectives.push(Objective::none());
            let is = |one: &Series, outcomes: &[&str]| outcomes.contains(&one.label("outcome"));
            let counters = counter(REQUESTS)?;
            let judged: Vec<_> =
                counters.into_iter().filter(|one| !is(one, &["rejected", "drained"])).collect();
            let bad = judged.iter().filter(|one| is(one, &FAILED) || one.label("code") == "429");
            let bad: Vec<_> = bad.cloned().collect();
            Verdicts::of(&scrapes, &judged, &bad)
        } else {
            Verdicts::of(&scrapes, &counter(JUDGED)?, &counter(BAD)?)
        };
        Ok(Ground { data, scrapes, objectives, verdicts })
    }

    /// What was promised last in a span.
    fn objectives(&self, span: Span) -> anyhow::Result<Vec<Objective>> {
        let last = |metric: &str, by: &str| {
            let series = select(metric, &self.scope, Of::All, "");
            let query = format!("max by ({by}) (last_over_time({series}[{}]))", duration(span.seconds()));
            self.query(&query, span.end)
        };
        let mut objectives: BTreeMap<String, Objective> = BTreeMap::new();
        for one in last(SHARES, "slo")? {
            if let Some(share) = one.value() {
                let name = one.label("slo").to_owned();
                objectives.insert(name.clone(), Objective { name, share, ..Objective::default() });
            }
        }
        for one in last(THRESHOLDS, "slo, kind")? {
            let Some(objective) = objectives.get_mut(one.label("slo")) else { continue };
            match one.label("kind") {
                "ttft" => objective.ttft = one.value(),
                "tpot" => objective.tpot = one.value(),
                "duration" => objective.duration = one.value(),
                _ => {}
            }
        }
        Ok(objectives.into_values().collect())
    }

    fn main(&mut self, incident: Incident, all: &[Incident], ground: &Ground) -> anyhow::Result<Main> {
        let interval = ground.scrapes.interval;
        let objective = objective_of(&incident, &ground.objectives);
        let own = incident.hit().filter(|hit| hit.party.slo == objective.name);
        let mut models: Vec<String> = own.map(|hit| hit.party.model.clone()).collect();
        models.sort();
        models.dedup();
        if models.iter().any(|model| model == "unknown") {
            models.clear(); // whose it was is not known, so all are looked at
        }
        self.scope.models = models;
        let before = baseline(&incident, all, ground.data, interval);
        let before = before.map(|before| self.measures("the time before", before, interval)).transpose()?;
        let before = before.filter(|before| before.ended(|_| true) > 0.0);
        let during = self.measures("the incident", incident.span, interval)?;
        let usual = before.as_ref().map_or(ground.data, |before| before.span);
        let judged: f64 = ground
            .verdicts
            .within(usual)
            .into_iter()
            .filter(|(party, _)| party.slo == objective.name)
            .map(|(_, (judged, _))| judged)
            .sum();
        Ok(Main::new(incident, objective, judged / usual.seconds().max(1.0), before, during))
    }

    fn measures(&self, what: &str, span: Span, interval: f64) -> anyhow::Result<Measures> {
        self.say(what);
        let mut measures = Measures::new(span);
        for ask in ASKS {
            measures.take(ask.name, self.query(&ask.promql(&self.scope, span, interval), span.end)?);
        }
        Ok(measures)
    }

    fn charts(
        &self,
        span: Span,
        interval: f64,
        main: Option<&Main>,
        alerts: Vec<Span>,
    ) -> anyhow::Result<Vec<Lines>> {
        let step = step(span, interval);
        let window = step.max(RATE * interval);
        let mut charts = Vec::new();
        for Plot { title, unit, caption, empty, curves } in PLOTS {
            let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
            for curve in *curves {
                for series in self.query_range(&curve.promql(&self.scope, window), span, step)? {
                    let label = curve.legend.strip_prefix('$').map(|label| series.label(label).to_owned());
                    lines.push((label.unwrap_or_else(|| curve.legend.to_owned()), series.points));
                }
            }
            let promised = main.map(|main| &main.objective).and_then(|objective| match *title {
                "Time to first token" => objective.ttft,
                "Output speed of a stream" => objective.tpot.map(|tpot| 1.0 / tpot),
                _ => None,
            });
            let mut caption = caption.replace("$w", &format!("{window:.0} s"));
            if main.is_none() {
                caption = caption.replace(", of the models that were hit", ""); // of all: nobody was
            }
            let fixed = curves.iter().all(|curve| !curve.legend.starts_with('$'));
            charts.push(Lines {
                title: (*title).to_owned(),
                unit: (*unit).to_owned(),
                caption,
                empty: (*empty).to_owned(),
                lines: if fixed { lines } else { largest(lines) },
                span,
                step,
                incident: main.map(|main| main.incident.span),
                alerts: alerts.clone(),
                threshold: promised,
            });
        }
        charts.sort_by_key(Lines::is_empty); // those with nothing in them last
        Ok(charts)
    }

    /// Samples of alerts. They have no job: those of objectives and upstreams that are not there are another job's.
    fn alerts(&self, data: Span, interval: f64, objectives: &[Objective]) -> anyhow::Result<Vec<Series>> {
        let started = select("streamgauge_requests_started_total", &self.scope, Of::All, "");
        let query = format!("count by (upstream) (last_over_time({started}[{}]))", duration(data.seconds()));
        let upstreams = self.query(&query, data.end)?;
        let is_own = |one: &Series| {
            let (slo, upstream) = (one.label("slo"), one.label("upstream"));
            (slo.is_empty() || objectives.iter().any(|own| own.name == slo))
                && (upstream.is_empty() || upstreams.iter().any(|own| own.label("upstream") == upstream))
        };
        let alerts = self.raw(ALERTS, data, Some(interval))?;
        Ok(alerts.into_iter().filter(is_own).collect())
    }

    fn events(&self, data: Span, interval: f64) -> anyhow::Result<Vec<Event>> {
        let step = step(data, interval);
        let presence = select(PRESENCE, &self.scope, Of::All, "");
        let began = select("process_start_time_seconds", &self.scope, Of::All, "");
        let began = format!("{began} and on (job, instance) {presence}");
        let found = versions(
            &self.query_range(&format!("count by (version) ({presence})"), data, step)?,
            data.begin,
            step,
        );
        let mut events = found;
        let reloads = self.query_range(&select(RELOADS, &self.scope, Of::All, ""), data, step)?;
        let starts = instants(&self.query_range(&began, data, step)?, data, "a sidecar started");
        // A start loads a configuration, too.
        let is_start = |event: &Event| starts.iter().any(|start| (start.at - event.at).abs() < 5.0);
        events.extend(
            instants(&reloads, data, "a configuration came into force")
                .into_iter()
                .filter(|event| !is_start(event)),
        );
        events.extend(starts);
        events.sort_by(|one, other| one.at.total_cmp(&other.at));
        Ok(events)
    }

    /// All samples of a selector in a span, as they were scraped, asked for in pieces; how often that was may not be known.
    fn raw(&self, selector: &str, span: Span, interval: Option<f64>) -> anyhow::Result<Vec<Series>> {
        let count = format!("count(last_over_time({selector}[{}]))", duration(span.seconds()));
        let count = self.query(&count, span.end)?.first().and_then(Series::value).unwrap_or_default();
        let samples = count * span.seconds() / interval.unwrap_or(1.0).max(0.1);
        let metric = selector.split('{').next().unwrap_or_default();
        if samples > SAMPLES && interval.is_some() {
            bail!(
                "{}: {metric} has {count:.0} series, which is too much for {:.1} hours; ask for a shorter time, or for one \
                 --job",
                self.prometheus.name(),
                span.seconds() / 3_600.0
            );
        }
        let pieces = (samples / SAMPLES_AT_ONCE).ceil().clamp(1.0, 1_000.0);
        let length = span.seconds() / pieces;
        let mut all: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
        for piece in 1..=pieces as u32 {
            let end = span.begin + length * f64::from(piece);
            for series in self.query(&format!("{selector}[{}]", duration(length)), end)? {
                let points = all.entry(series.labels).or_default();
                let last = points.last().map(|(at, _)| *at);
                points.extend(series.points.into_iter().filter(|(at, _)| last.is_none_or(|last| *at > last)));
            }
        }
        Ok(all.into_iter().map(|(labels, points)| Series { labels, points }).collect())
    }

    fn query(&self, query: &str, at: f64) -> anyhow::Result<Vec<Series>> {
        self.count();
        Ok(self.prometheus.query(query, Some(at))?.into_iter().map(series).collect())
    }

    fn query_range(&self, query: &str, span: Span, step: f64) -> anyhow::Result<Vec<Series>> {
        self.count();
        let answer = self.prometheus.query_range(query, (span.begin, span.end), step)?;
        Ok(answer.into_iter().map(series).collect())
    }

    /// Says what comes next; on a terminal in place of what it said before.
    fn say(&self, what: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[Kstreamgauge: asking for {what} …");
        } else {
            eprintln!("streamgauge: asking for {what}");
        }
    }

    fn count(&self) {
        self.asked.set(self.asked.get() + 1);
        if std::io::stderr().is_terminal() {
            eprint!("\x1b[s ({} questions)\x1b[u", self.asked.get());
            // The line is only for who looks.
            let _: std::io::Result<()> = std::io::stderr().flush();
        }
    }
}

/// Of a chart over a span: whole seconds, no closer than scrapes.
fn step(span: Span, interval: f64) -> f64 {
    (span.seconds() / POINTS).max(interval).max(1.0).ceil()
}

fn series(answer: Answer) -> Series {
    let mut labels = answer.metric;
    labels.remove("__name__");
    Series { labels, points: answer.values }
}

/// The lines with the most under them.
fn largest(mut lines: Vec<(String, Vec<(f64, f64)>)>) -> Vec<(String, Vec<(f64, f64)>)> {
    let under = |points: &[(f64, f64)]| {
        points.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).sum::<f64>()
    };
    lines.retain(|(_, points)| under(points) > 0.0);
    lines.sort_by(|one, other| under(&other.1).total_cmp(&under(&one.1)));
    lines.truncate(LINES - 1);
    lines
}

/// What limits what can be said.
fn notes(ground: &Ground, asked: Span) -> Vec<String> {
    let Ground { data, scrapes, objectives, .. } = ground;
    let mut notes = Vec::new();
    if data.begin > asked.begin + 2.0 * scrapes.interval {
        notes.push(format!(
            "Samples begin {:.0} s after the time that was asked for does.",
            data.begin - asked.begin
        ));
    }
    if data.end < asked.end - 2.5 * scrapes.interval {
        notes.push(format!(
            "Samples end {:.0} s before the time that was asked for does: no sidecar was scraped from then on.",
            asked.end - data.end
        ));
    }
    if scrapes.interval > COARSE {
        notes.push(format!(
            "Sidecars are scraped each {:.0} s, so begin and end are known to that only; scrape every 15 s or oftener.",
            scrapes.interval
        ));
    }
    if objectives.iter().all(|objective| objective.name.is_empty()) {
        notes.push("No objective (`slos`) is configured, so requests that failed are looked for, and late ones are not seen.".to_owned());
    }
    notes
}

const COARSE: f64 = 60.0;
