//! Streamgauge.

pub mod account;
pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dialect;
pub mod exchange;
pub mod live;
pub mod observe;
pub mod pipeline;
pub mod proxy;
pub mod sim;
pub mod sinks;
pub mod vitals;
pub mod wire;
