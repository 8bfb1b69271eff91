//! What an operator's other programs are given: rules for Prometheus. Speaks to nobody and reads nothing but the
//! configuration and the catalogue of metrics.

pub mod rules;
