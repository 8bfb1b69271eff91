//! What an observer tells of its work, for those who explain an exchange to people. Traffic is observed
//! without: then a step is one branch.

use super::Head;
use crate::clock::Moment;
use crate::dialect::{RequestFacts, Signal};
use crate::exchange::Clocks;
use crate::wire::Event;

/// A step of an observer's work.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// The request's last byte has gone to the upstream.
    Sent {
        /// Bytes of its body.
        bytes: u64,
        /// What it told.
        facts: Option<&'a RequestFacts>,
    },
    /// The answer's head has come.
    Head(&'a Head<'a>),
    /// An event begins to be read. What the dialect says next is said of it.
    Event(&'a Event<'a>),
    /// An event that was too long to be read has passed.
    TooLarge,
    /// A piece of the stream is not what its framing says.
    Broken,
    /// The answer's whole body begins to be read. What the dialect says next is said of it.
    Body,
    /// The event or body has been read.
    Read,
    /// A chunk of the answer's body has been read, with all events that it completed.
    Chunk {
        /// Its length.
        bytes: usize,
        /// It is part of a stream of events.
        streamed: bool,
    },
}

/// Is told what an observer does.
pub trait Trace: Send + std::fmt::Debug {
    /// A step was taken at `at`, and the clocks stand so.
    fn step(&mut self, step: Step<'_>, at: Moment, clocks: &Clocks);

    /// The dialect says this of the event or body that is being read.
    fn says(&mut self, signal: &Signal<'_>);
}
