//! Dashboards for Grafana 10.4 and later, as JSON: generated, so that every name in them is in the catalogue and the
//! variables' matchers stand in every query.
//!
//! Dashboards are data: [`Page`]s of rows of panels. [`write()`] lays them out and adds what is the same in all. What they
//! show is Prometheus' to answer; alerts are not made here.

mod cost;
mod incident;
mod latency;
mod matchers;
mod overview;
mod panel;
mod sidecar;
mod slo;
mod tenants;
#[cfg(test)]
mod tests;
mod write;

pub use self::write::{Settings, write};

use self::panel::Page;

/// All of them, in the order in which they are shown.
const PAGES: [&Page; 7] = [
    &overview::PAGE,
    &incident::PAGE,
    &slo::PAGE,
    &latency::PAGE,
    &tenants::PAGE,
    &cost::PAGE,
    &sidecar::PAGE,
];
