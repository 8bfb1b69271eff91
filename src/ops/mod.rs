//! What an operator's other programs are given: rules for Prometheus, dashboards for Grafana. Speaks to nobody and reads
//! nothing but the configuration and the catalogue of metrics.

mod board;
pub mod dashboards;
#[cfg(test)]
mod known;
pub mod rules;
