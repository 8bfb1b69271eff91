//! Everything that is tested from outside, in one binary: no foreign program, no sockets unless a test is about
//! them, paused time over pipes in memory.
#![expect(clippy::disallowed_methods, reason = "a test plays the world around the sidecar")]

#[cfg(test)]
mod app;
#[cfg(test)]
mod bodies;
mod budget;
#[cfg(test)]
mod case;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod counting;
#[cfg(test)]
mod dashboards;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod dialects;
#[cfg(test)]
mod encode;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod flow;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod health;
#[cfg(test)]
mod hops;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod inject;
#[cfg(test)]
mod inject_odd;
#[cfg(test)]
mod jwks;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod postmortem;
#[cfg(test)]
mod price;
#[cfg(test)]
mod realtime;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod runbooks;
#[cfg(test)]
mod size;
#[cfg(test)]
mod slo;
#[cfg(test)]
mod status;
#[cfg(test)]
mod tenants;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod timing;
#[cfg(test)]
mod tunnel;
