//! A post-mortem: what went wrong in a span of time, told from what Prometheus and the request log have.
//!
//! Series in, a report out: [`detect`] finds what was breached and when, [`queries`] says what is to be asked about it,
//! [`measures`] makes numbers of the answers, [`cause`] weighs what explains them, [`document`] puts all of it into
//! words, [`html`] and [`markdown`] write them down.
//!
//! Absent: asking (the command does), clocks, and any judgement of people.

pub mod anatomy;
pub mod cause;
pub mod changes;
pub mod chart;
pub mod class;
pub mod detect;
pub mod document;
pub mod findings;
pub mod growth;
pub mod html;
pub mod log;
pub mod markdown;
pub mod measures;
pub mod queries;
mod sections;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;

/// A span of time, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Span {
    /// Where it begins.
    pub begin: f64,
    /// Where it ends.
    pub end: f64,
}

impl Span {
    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        (self.end - self.begin).max(0.0)
    }

    /// Whether the two have time in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.begin < other.end && other.begin < self.end
    }

    /// Whether an instant lies in it; its end does.
    pub fn has(&self, at: f64) -> bool {
        self.begin < at && at <= self.end
    }
}

/// A series of Prometheus'.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// Its labels, without the name.
    pub labels: BTreeMap<String, String>,
    /// Unix seconds and value, in order.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A label's value; empty where it is not there, as Prometheus has it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The last value.
    pub fn value(&self) -> Option<f64> {
        self.points.last().map(|(_, value)| *value).filter(|value| value.is_finite())
    }
}
