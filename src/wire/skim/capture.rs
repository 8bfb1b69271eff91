//! What a skim keeps or measures of a value that was asked for. Where values begin and end is its parent's to say.

use super::Skim;
use crate::wire::lexeme::{Scalar, ScalarKind};
use crate::wire::members::{At, Measure};

pub(super) const KEPT_LIMIT: usize = 64 << 10; // all kept values of a body together: a usage object has some hundred bytes

/// A value that was asked for, while it is read.
#[derive(Debug)]
pub(super) struct Capture {
    path: usize,
    pub(super) depth: u32,
    kind: CaptureKind,
}

#[derive(Debug)]
enum CaptureKind {
    /// Its JSON is kept from here on among all that is kept; none: it is too large.
    Keep {
        from: Option<usize>,
    },
    Measure(Measure),
}

impl Measure {
    /// Counts a scalar, whose strings are text or not.
    fn add(&mut self, kind: ScalarKind, is_text: bool) {
        match kind {
            ScalarKind::Text(bytes) if is_text => {
                self.texts += 1;
                self.text_bytes += bytes as u64;
            }
            ScalarKind::Number => self.numbers += 1,
            ScalarKind::Text(_) | ScalarKind::Word => {}
        }
    }
}

impl Skim {
    /// Takes the scalar of a member whose key has just ended, all at once; gives whether there was room for it.
    pub(super) fn takes(&mut self, chunk: &[u8], begin: usize, scalar: Scalar) -> bool {
        let json = chunk.get(begin..scalar.end).unwrap_or_default();
        let At::End(number) = self.place else {
            let is_text = self.is_text;
            if let Some(measure) = self.measuring() {
                measure.add(scalar.kind, is_text);
            }
            return true;
        };
        if let Some(path) = number.checked_sub(self.wanted.kept()) {
            let mut measure = Measure { bytes: json.len() as u64, ..Measure::default() };
            measure.add(scalar.kind, true);
            self.members.add_measure(path, measure);
            return true;
        }
        let from = self.members.room();
        let fits = from + json.len() <= KEPT_LIMIT;
        if fits {
            self.members.json.extend_from_slice(json);
            self.members.keep(number, from);
        }
        fits
    }

    /// Begins to keep or measure, if the value that begins here was asked for.
    pub(super) fn start_capture(&mut self, at: usize) {
        let At::End(number) = self.place else { return };
        let (path, kind) = match number.checked_sub(self.wanted.kept()) {
            None => (number, CaptureKind::Keep { from: Some(self.members.room()) }),
            Some(path) => {
                // A text that stands directly at the path is what the path was asked for.
                self.is_text = true;
                (path, CaptureKind::Measure(Measure::default()))
            }
        };
        self.capture = Some(Capture { path, depth: self.depth, kind });
        self.untaken = at;
    }

    pub(super) fn end_capture(&mut self) {
        let Some(Capture { path, kind, .. }) = self.capture.take() else { return };
        match kind {
            CaptureKind::Keep { from: Some(from) } => self.members.keep(path, from),
            CaptureKind::Keep { from: None } => {}
            CaptureKind::Measure(measure) => self.members.add_measure(path, measure),
        }
    }

    /// Takes what the capture has not taken yet, up to this place in the chunk.
    pub(super) fn take(&mut self, chunk: &[u8], end: usize) {
        let Some(capture) = &mut self.capture else { return };
        let bytes = chunk.get(self.untaken..end).unwrap_or_default();
        self.untaken = end;
        match &mut capture.kind {
            CaptureKind::Measure(measure) => measure.bytes += bytes.len() as u64,
            CaptureKind::Keep { from } => {
                let json = &mut self.members.json;
                if let Some(start) = from.filter(|_| json.len() + bytes.len() > KEPT_LIMIT) {
                    json.truncate(start);
                    *from = None;
                }
                if from.is_some() {
                    json.extend_from_slice(bytes);
                }
            }
        }
    }

    pub(super) fn measuring(&mut self) -> Option<&mut Measure> {
        match &mut self.capture {
            Some(Capture { kind: CaptureKind::Measure(measure), .. }) => Some(measure),
            _ => None,
        }
    }
}
