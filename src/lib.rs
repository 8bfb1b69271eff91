//! Streamgauge.

pub mod cli;
pub mod clock;
pub mod config;
pub mod exchange;
pub mod live;
pub mod sim;
pub mod sinks;
pub mod vitals;
