//! What an observer tells of its steps, as rows that can be kept: one for each thing that came, with what the
//! dialect says of it and how the clocks stand afterwards.

use std::sync::mpsc::Sender;

use crate::clock::Moment;
use crate::dialect::{DeltaKind, Signal};
use crate::exchange::{Clocks, FinishReason, Name, Usage};
use crate::observe::{Step, Trace, error_class};

/// Something that came.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) at: Moment,
    pub(super) what: What,
    pub(super) said: Vec<Said>,
    /// As they stand afterwards.
    pub(super) clocks: Clocks,
}

/// What it is.
#[derive(Debug, Clone)]
pub(super) enum What {
    Sent { bytes: u64, asked: Option<Asked> },
    Head { status: u16, media_type: Option<String>, encoding: Option<String> },
    Event { name: Option<String>, bytes: usize },
    TooLarge,
    Broken,
    Body,
    Chunk { bytes: usize, streamed: bool },
}

/// What a request asks for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) model: Option<String>,
    pub(super) stream: bool,
    pub(super) choices: u32,
}

/// What a dialect says.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Model(String),
    UpstreamId(String),
    Tier(String),
    Delta { choice: u32, kind: DeltaKind, tokens: Option<u32>, bytes: Option<usize>, text: Option<String> },
    Text(u64),
    Usage(Usage),
    Finish { choice: u32, reason: FinishReason },
    Failed(Name),
    Done,
    ChoiceDone,
    Undecodable,
}

/// Makes rows of steps and hands them out.
#[derive(Debug)]
pub(super) struct Rows {
    out: Sender<Row>,
    show_text: bool,
    /// The event or body that is being read.
    open: Option<Row>,
    /// An event was in the chunk that is being read.
    has_event: bool,
}

impl Rows {
    pub(super) fn new(out: Sender<Row>, show_text: bool) -> Self {
        Self { out, show_text, open: None, has_event: false }
    }

    fn give(&self, row: Row) {
        // Who no longer listens misses nothing.
        let _ = self.out.send(row);
    }
}

impl Trace for Rows {
    fn step(&mut self, step: Step<'_>, at: Moment, clocks: &Clocks) {
        let row = |what| Row { at, what, said: Vec::new(), clocks: *clocks };
        match step {
            Step::Sent { bytes, facts } => {
                let asked = facts.map(|facts| Asked {
                    model: facts.model.as_ref().map(Name::to_string),
                    stream: facts.stream,
                    choices: facts.choices,
                });
                self.give(row(What::Sent { bytes, asked }));
            }
            Step::Head(head) => self.give(row(What::Head {
                status: head.status,
                media_type: head.content_type.map(str::to_owned),
                encoding: head.content_encoding.map(str::to_owned),
            })),
            Step::Event(event) => {
                self.has_event = true;
                let name = event.name.map(str::to_owned);
                self.open = Some(row(What::Event { name, bytes: event.data.len() }));
            }
            Step::TooLarge => {
                self.has_event = true;
                self.give(row(What::TooLarge));
            }
            Step::Broken => {
                self.has_event = true;
                self.give(row(What::Broken));
            }
            Step::Body => self.open = Some(row(What::Body)),
            Step::Read => {
                if let Some(row) = self.open.take() {
                    self.give(Row { clocks: *clocks, ..row });
                }
            }
            Step::Chunk { bytes, streamed } => {
                if !std::mem::take(&mut self.has_event) {
                    self.give(row(What::Chunk { bytes, streamed }));
                }
            }
        }
    }

    fn says(&mut self, signal: &Signal<'_>) {
        let Some(row) = &mut self.open else { return };
        row.said.push(match *signal {
            Signal::Model(model) => Said::Model(model.to_owned()),
            Signal::UpstreamId(id) => Said::UpstreamId(id.to_owned()),
            Signal::Tier(tier) => Said::Tier(tier.to_owned()),
            Signal::Delta { choice, text, tokens, kind } => {
                let text = text.decode();
                let bytes = text.as_ref().map(|text| text.len());
                let text = text.filter(|_| self.show_text).map(std::borrow::Cow::into_owned);
                Said::Delta { choice, kind, tokens, bytes, text }
            }
            Signal::Text { bytes } => Said::Text(bytes),
            Signal::Usage(usage) | Signal::ChoiceUsage { usage, .. } => Said::Usage(usage),
            Signal::TextSoFar { text, .. } => Said::Text(text.bytes()),
            Signal::Finish { choice, reason } => Said::Finish { choice, reason },
            Signal::Failed(class) => Said::Failed(error_class(class)),
            Signal::Done => Said::Done,
            Signal::ChoiceDone => Said::ChoiceDone,
            Signal::Undecodable => Said::Undecodable,
        });
    }
}
