//! The request log's lines of an incident: its slowest requests with their ids, and what failed. One line at a time, in
//! bounded memory, however long the log is. Reads no file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use super::Span;
use super::detect::{Incident, Objective};

/// Requests that are shown.
pub const SLOWEST: usize = 10;
/// Classes of errors that are told apart; what comes after them is `other`.
const CLASSES: usize = 50;

/// What is kept of a line. Prompts are in no line.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow, default)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    upstream_request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    trace_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tenant: Cow<'a, str>,
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    #[serde(borrow, default)]
    error_class: Option<Cow<'a, str>>,
    #[serde(default)]
    code: Option<u16>,
    duration_seconds: f64,
    #[serde(default)]
    ttft_seconds: Option<f64>,
    #[serde(default)]
    tpot_seconds: Option<f64>,
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(borrow, default)]
    slo: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// A request that is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// When its head had been read, in Unix seconds.
    pub sent: f64,
    /// Its id: the client's, else ours.
    pub id: String,
    /// The upstream's own id.
    pub upstream_id: Option<String>,
    /// Of the client's trace.
    pub trace_id: Option<String>,
    /// The label.
    pub tenant: String,
    /// The label.
    pub model: String,
    /// How it ended, and its status and error where there are any.
    pub outcome: String,
    /// Seconds to the first token.
    pub ttft: Option<f64>,
    /// Seconds a token.
    pub tpot: Option<f64>,
    /// Seconds in all.
    pub duration: f64,
    /// Tokens of the prompt.
    pub input: Option<u64>,
    /// Tokens of the answer.
    pub output: Option<u64>,
    rank: f64,
}

/// What requests are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Time to the first token; of those that got none how long they lasted.
    FirstToken,
    /// Time of a token.
    Speed,
    /// Time in all.
    Duration,
}

impl Rank {
    /// What an objective asks for.
    pub fn of(objective: &Objective) -> Self {
        match (objective.ttft, objective.tpot) {
            (Some(_), _) => Self::FirstToken,
            (None, Some(_)) => Self::Speed,
            (None, None) => Self::Duration,
        }
    }
}

/// What the log says of an incident.
#[derive(Debug, Clone)]
pub struct Log {
    span: Span,
    rank: Rank,
    objective: String,
    /// Tenants and models that were hit.
    hit: Vec<(String, String)>,
    /// Lines that were read.
    pub lines: u64,
    /// Lines that are none of the request log's, or longer than one.
    pub broken: u64,
    /// Lines of the time of the incident.
    pub within: u64,
    /// Those of them that missed the objective.
    pub bad: u64,
    /// The slowest of those that were hit, the slowest first.
    pub slowest: Vec<Request>,
    /// How often each class of errors came, among those that were hit.
    pub errors: BTreeMap<String, u64>,
}

impl Log {
    /// Of an incident, in which mostly one objective was missed.
    pub fn new(incident: &Incident, objective: &Objective) -> Self {
        let hit = incident.hit().map(|hit| (hit.party.tenant.clone(), hit.party.model.clone()));
        Self {
            span: incident.span,
            rank: Rank::of(objective),
            objective: objective.name.clone(),
            hit: hit.collect(),
            lines: 0,
            broken: 0,
            within: 0,
            bad: 0,
            slowest: Vec::new(),
            errors: BTreeMap::new(),
        }
    }

    /// Takes a line, without its line feed.
    pub fn take(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        self.lines += 1;
        let read = serde_json::from_slice::<Line<'_>>(line).ok();
        match read.and_then(|line| ended(&line).map(|ended| (line, ended))) {
            Some((line, ended)) => self.read(&line, ended),
            None => self.broken += 1,
        }
    }

    /// Counts a line that was too long to be one.
    pub fn skip(&mut self) {
        self.lines += 1;
        self.broken += 1;
    }

    fn read(&mut self, line: &Line<'_>, ended: f64) {
        let sent = ended - line.duration_seconds.max(0.0);
        if !(sent <= self.span.end && ended > self.span.begin) {
            return;
        }
        self.within += 1;
        if line.slo.get(self.objective.as_str()).is_some_and(|verdict| verdict == "bad") {
            self.bad += 1;
        }
        let own = |(tenant, model): &(String, String)| {
            *tenant == line.tenant && (*model == line.model || line.model == "unknown")
        };
        if !self.hit.is_empty() && !self.hit.iter().any(own) {
            return;
        }
        if line.outcome != "completed" && line.outcome != "client_gone" {
            let class = line.error_class.as_deref().unwrap_or(&line.outcome);
            let known = self.errors.contains_key(class) || self.errors.len() < CLASSES;
            *self.errors.entry(if known { class } else { "other" }.to_owned()).or_default() += 1;
        }
        let rank = match self.rank {
            Rank::FirstToken => line.ttft_seconds.or(Some(line.duration_seconds)),
            Rank::Speed => line.tpot_seconds,
            Rank::Duration => Some(line.duration_seconds),
        };
        if let Some(rank) = rank.filter(|rank| rank.is_finite()) {
            self.rank(line, sent, rank);
        }
    }

    fn rank(&mut self, line: &Line<'_>, sent: f64, rank: f64) {
        let place = self.slowest.partition_point(|slower| slower.rank >= rank);
        if place >= SLOWEST {
            return;
        }
        let text = |of: &Option<Cow<'_, str>>| of.as_deref().map(str::to_owned);
        let code = line.code.map(|code| format!(" {code}")).unwrap_or_default();
        let class = line.error_class.as_deref().map(|class| format!(", {class}")).unwrap_or_default();
        let request = Request {
            sent,
            id: text(&line.request_id).unwrap_or_default(),
            upstream_id: text(&line.upstream_request_id),
            trace_id: text(&line.trace_id),
            tenant: line.tenant.clone().into_owned(),
            model: line.model.clone().into_owned(),
            outcome: format!("{}{code}{class}", line.outcome),
            ttft: line.ttft_seconds,
            tpot: line.tpot_seconds,
            duration: line.duration_seconds,
            input: line.input_tokens,
            output: line.output_tokens,
            rank,
        };
        self.slowest.insert(place, request);
        self.slowest.truncate(SLOWEST);
    }
}

fn ended(line: &Line<'_>) -> Option<f64> {
    let time = humantime::parse_rfc3339(&line.time).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::super::detect::{Hit, Party};
    use super::*;

    fn log(objective: &Objective) -> Log {
        let party = Party { slo: "chat".into(), tenant: "web".into(), model: "m".into() };
        let incident = Incident {
            span: Span { begin: 1_795_500_000.0, end: 1_795_500_060.0 },
            first_seen: 0.0,
            last_before: 0.0,
            began_before: false,
            goes_on: false,
            parties: vec![Hit { party, judged: 1.0, bad: 1.0, is_hit: true }],
        };
        Log::new(&incident, objective)
    }

    fn chat() -> Objective {
        Objective { name: "chat".into(), ttft: Some(0.3), ..Objective::default() }
    }

    fn line(second: u32, id: &str, more: &str) -> String {
        format!(
            r#"{{"time":"2026-11-24T06:{:02}:{:02}.000Z","request_id":"{id}","tenant":"web","model":"m","outcome":"completed",{more}}}"#,
            second / 60,
            second % 60
        )
    }

    #[test]
    fn the_slowest_come_first_and_only_those_of_the_time_and_of_whom_it_hit() {
        let mut log = log(&chat());
        for (second, id, more) in [
            (10, "quick", r#""duration_seconds":2,"ttft_seconds":0.1"#),
            (20, "slow", r#""duration_seconds":3,"ttft_seconds":2.5,"slo":{"chat":"bad"}"#),
            (30, "no-token", r#""duration_seconds":30,"code":504"#),
            (200, "later", r#""duration_seconds":3,"ttft_seconds":2.5"#),
            (70, "across", r#""duration_seconds":15,"ttft_seconds":9.5"#),
        ] {
            log.take(line(second, id, more).as_bytes());
        }
        log.take(line(20, "another", r#""duration_seconds":9"#).replace("web", "other").as_bytes());
        let ids: Vec<_> = log.slowest.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["no-token", "across", "slow", "quick"]);
        assert_eq!((log.lines, log.within, log.bad, log.broken), (6, 5, 1, 0));
        assert_eq!(
            (log.slowest[0].sent, log.slowest[0].outcome.as_str()),
            (1_795_500_000.0, "completed 504")
        );
    }

    #[test]
    fn broken_lines_are_counted_and_nothing_else() {
        let mut log = log(&chat());
        for text in
            ["", "  ", "{", "[]", "{}", "\u{0}", r#"{"time":"soon"}"#, "{\"time\":\"2026-11-24T06:00:01Z\"}"]
        {
            log.take(text.as_bytes());
        }
        log.take(&[0xff, 0xfe]);
        log.skip();
        assert_eq!((log.lines, log.broken, log.within), (8, 8, 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut log = log(&Objective { ttft: None, tpot: None, ..chat() });
        for n in 0..1000 {
            let more = format!(r#""duration_seconds":{},"error_class":"class-{n}""#, n % 50);
            log.take(
                line(1 + n % 59, &n.to_string(), &more).replace("completed", "upstream_failed").as_bytes(),
            );
        }
        assert_eq!((log.slowest.len(), log.errors.len()), (SLOWEST, CLASSES + 1));
        assert!(log.slowest.iter().all(|one| one.duration == 49.0));
        assert_eq!(log.errors.values().sum::<u64>(), 1000);
    }
}
