//! Streamgauge.

pub mod clock;
pub mod config;
pub mod exchange;
pub mod live;
pub mod sinks;
pub mod vitals;
