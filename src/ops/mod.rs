//! What operators and their other programs are given: rules for Prometheus, and reports of what it saw. Speaks to nobody
//! and reads nothing but what it is handed.

pub mod postmortem;
pub mod rules;
