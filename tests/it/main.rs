//! Everything that is tested from outside, in one binary: no foreign program, no sockets unless a test is about
//! them, paused time over pipes in memory.

mod case;
mod endings;
mod golden;
mod harness;

mod timing;
