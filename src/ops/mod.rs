//! What operators and their other programs are given: rules for Prometheus, dashboards for Grafana, and reports of what
//! Prometheus saw. Speaks to nobody and reads nothing but what it is handed, the configuration and the catalogue of metrics.

mod board;
pub mod dashboards;
#[cfg(test)]
mod known;
pub mod postmortem;
pub mod rules;
