//! What a rule is.

use std::time::Duration;

pub(super) use crate::ops::board::Board;

/// Whom an alert wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Somebody, now: users are hurt.
    Page,
    /// Nobody before the morning.
    Ticket,
}

impl Severity {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Ticket => "ticket",
        }
    }
}

/// An alert that is the same for every configuration.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) severity: Severity,
    /// `$job` in it stands for the scrape job's name in quotes.
    pub(super) expr: &'static str,
    /// Minutes that it must hold before it fires.
    pub(super) after: u64,
    /// Minutes that it goes on firing when it holds no more, so that what comes and goes is one alert.
    pub(super) keep: u64,
    /// Tells rules of one name apart.
    pub(super) labels: &'static [(&'static str, &'static str)],
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    pub(super) board: Board,
}

/// A series that is reckoned in advance.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its name: level:metric:operations.
    pub name: String,
    /// What it is.
    pub expr: String,
    /// Further labels.
    pub labels: Vec<(&'static str, String)>,
}

/// An alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Its name, and that of its runbook.
    pub name: &'static str,
    /// Whom it wakes.
    pub severity: Severity,
    /// It fires for each series that this has.
    pub expr: String,
    /// How long that must hold.
    pub after: Duration,
    /// How long it goes on firing when it holds no more.
    pub keep: Duration,
    /// Further labels.
    pub labels: Vec<(&'static str, String)>,
    /// What is wrong, in a line.
    pub summary: String,
    /// What it means, and where to look.
    pub description: String,
    pub(super) board: Board,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// A series that is reckoned in advance.
    Record(Record),
    /// An alert.
    Alert(Alert),
}

/// Rules that are evaluated one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name, once in a file.
    pub name: String,
    /// How often; as Prometheus is configured unless given.
    pub interval: Option<Duration>,
    /// In this order.
    pub rules: Vec<Rule>,
}

impl Row {
    pub(super) fn alert(&self, job: &str) -> Alert {
        let labels = self.labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
        Alert {
            name: self.name,
            severity: self.severity,
            expr: self.expr.replace("$job", &quoted(job)),
            after: minutes(self.after),
            keep: minutes(self.keep),
            labels: labels.collect(),
            summary: self.summary.to_owned(),
            description: self.description.to_owned(),
            board: self.board,
        }
    }
}

pub(super) fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

/// A text as a string of PromQL.
pub(super) fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// A text as a template of Prometheus' that gives it: labels of alerts are templates.
pub(super) fn literal(text: &str) -> String {
    text.replace("{{", "{{ \"{{\" }}")
}
