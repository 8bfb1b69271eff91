//! Recording and alert rules for Prometheus: generated, so that every objective has windows and factors that it can
//! reach, and every name in them is in the catalogue.
//!
//! Rules are data: [`Rule`]s in [`Group`]s, from tables ([`requests`], [`usage`], [`sidecar`]) and from the configured
//! objectives ([`slo`], [`speed`]). [`write()`] puts them into YAML.

mod requests;
mod rule;
mod sidecar;
mod slo;
mod speed;
#[cfg(test)]
mod tests;
mod usage;
mod window;
mod write;

pub use self::rule::{Alert, Group, Record, Rule, Severity};
pub use self::write::{Format, write};

use self::rule::Row;
use self::window::{Window, divided};
use crate::account::slo::Slos;
use crate::config::{Config, LimitStore};

/// What is the same in all rules.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The scrape job of the sidecars.
    pub job: String,
    /// Where runbooks are: `{this}/{alert}.md`.
    pub runbooks: String,
    /// Where dashboards are: `{this}/streamgauge-{which}`.
    pub dashboards: String,
    /// What all times are divided by; 1: none.
    pub rehearsal: u32,
}

/// What rules take from a configuration.
#[derive(Debug, Clone, Default)]
pub struct Promises {
    /// What is promised of exchanges.
    pub slos: Slos,
    /// Whether histograms tell tenants apart.
    pub tenant_on_histograms: bool,
    /// Whether all instances show the same of budgets: a Redis keeps them.
    pub limit_store_shared: bool,
}

impl From<Config> for Promises {
    fn from(config: Config) -> Self {
        Self {
            slos: config.slos,
            tenant_on_histograms: config.metrics.tenant_on_histograms,
            limit_store_shared: config.limit_store != LimitStore::Memory,
        }
    }
}

/// Rules, and what is to be said of them.
#[derive(Debug, Clone)]
pub struct Rules {
    /// In the order of the file.
    pub groups: Vec<Group>,
    /// What an objective could not have, and what it has instead.
    pub notes: Vec<String>,
}

impl Rules {
    /// The rules of these objectives, and the general ones.
    pub fn new(promises: &Promises, settings: &Settings) -> Self {
        let (mut groups, mut notes) = slo::groups(&promises.slos);
        let (speed, more) = speed::group(&promises.slos, promises.tenant_on_histograms);
        groups.extend(speed);
        notes.extend(more);
        let group = |name: &str, rows: &[Row]| Group {
            name: name.to_owned(),
            interval: None,
            rules: rows.iter().map(|row| Rule::Alert(row.alert(&settings.job))).collect(),
        };
        groups.push(group("streamgauge-requests", requests::ROWS));
        let mut of_usage = group("streamgauge-usage", usage::ROWS);
        of_usage
            .rules
            .splice(0..0, usage::records(promises.limit_store_shared).into_iter().map(Rule::Record));
        groups.push(of_usage);
        groups.push(group("streamgauge-sidecar", sidecar::ROWS));
        for group in &mut groups {
            group.rehearse(settings.rehearsal);
        }
        Self { groups, notes }
    }
}

/// How often a rehearsal's rules are evaluated, before it is divided: twice a minute.
const INTERVAL: Window = Window(std::time::Duration::from_secs(30));

impl Group {
    fn rehearse(&mut self, by: u32) {
        if by == 1 {
            return;
        }
        let interval = self.interval.map_or(INTERVAL, Window).divided(by).0;
        self.interval = Some(interval.max(std::time::Duration::from_secs(1)));
        for rule in &mut self.rules {
            match rule {
                Rule::Record(Record { expr, .. }) => *expr = divided(expr, by),
                Rule::Alert(alert) => {
                    alert.expr = divided(&alert.expr, by);
                    alert.after = Window(alert.after).divided(by).0;
                    alert.keep = Window(alert.keep).divided(by).0;
                }
            }
        }
    }
}
