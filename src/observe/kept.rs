//! The text of an exchange, kept until its end so that it can be counted: only where there is a tokenizer for its
//! model, only in memory, and only so much of it.

use std::sync::Arc;

use crate::dialect::{DeltaKind, Fragment};
use crate::exchange::Name;
use crate::wire::{Budget, Share};

/// The longest request or answer that is kept; of a longer one nothing is, and its tokens are estimated.
const LIMIT: usize = 2 << 20;

/// Who says whether an exchange's text is to be kept.
pub trait Keeps: Send + Sync + std::fmt::Debug {
    /// Whether there is a tokenizer for the model that was asked for, or that serves.
    fn keeps(&self, requested: Option<&Name>, served: Option<&Name>) -> bool;
}

/// What was kept of one exchange.
#[derive(Debug)]
pub struct Kept {
    /// The request's body, whole.
    pub request: Option<Vec<u8>>,
    /// What was generated; none where it is not known in full.
    pub output: Option<Output>,
    /// Whether it is known what the API adds to the text of a prompt.
    pub knows_prompts: bool,
    /// Its part of what all may keep; given back with it.
    share: Share,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The channels of a stream's choices, each by itself.
    Parts(Vec<Part>),
    /// A whole answer's body.
    Body(Vec<u8>),
}

/// The text of one channel of one choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    choice: u32,
    kind: DeltaKind,
    /// Its deltas, one after another.
    pub text: String,
    /// How many bytes of it came in the first event that had a token.
    first_event: usize,
}

impl Kept {
    /// Of the two sides those that somebody wants.
    #[must_use]
    pub fn only(mut self, input: bool, output: bool) -> Self {
        self.request = self.request.filter(|_| input);
        self.output = self.output.filter(|_| output);
        self
    }

    /// Whether what was generated is known in full.
    pub fn has_output(&self) -> bool {
        self.output.is_some()
    }

    /// The text of the first event that had a token: its channels, where it is known.
    pub fn first_event(&self) -> impl Iterator<Item = &str> {
        let parts = match &self.output {
            Some(Output::Parts(parts)) => parts.as_slice(),
            _ => &[],
        };
        parts.iter().filter_map(|part| part.text.get(..part.first_event)).filter(|text| !text.is_empty())
    }
}

/// Keeps the text of an exchange that runs.
#[derive(Debug)]
pub(super) struct Keeping {
    keeps: Arc<dyn Keeps>,
    kept: Kept,
    /// Whether there is a tokenizer, once that is known.
    decided: Option<bool>,
    /// Bytes that are kept.
    bytes: usize,
}

impl Keeping {
    pub(super) fn new(keeps: Arc<dyn Keeps>, knows_prompts: bool, budget: Arc<Budget>) -> Self {
        let output = Some(Output::Parts(Vec::new()));
        let kept = Kept { request: Some(Vec::new()), output, knows_prompts, share: Share::of(budget) };
        Self { keeps, kept, decided: None, bytes: 0 }
    }

    /// Whether so much more fits: into what one may keep of a text of which there is `held`, and into what all may.
    fn fits(&mut self, held: usize, more: usize) -> bool {
        self.bytes += more;
        held + more <= LIMIT && self.kept.share.grow_to(self.bytes)
    }

    pub(super) fn request_chunk(&mut self, bytes: &[u8]) {
        let Some(held) = self.kept.request.as_ref().map(Vec::len) else { return };
        if !self.fits(held, bytes.len()) {
            self.lose_request();
        } else if let Some(request) = &mut self.kept.request {
            request.extend_from_slice(bytes);
        }
    }

    /// The request has been read.
    pub(super) fn request_end(&mut self, requested: Option<&Name>) {
        if self.keeps.keeps(requested, None) {
            self.decided = Some(true);
        } else {
            self.lose_request(); // the model that serves may still be known
        }
    }

    /// Whether there is a tokenizer. The requested name has been asked for; an answer may name another one.
    fn wanted(&mut self, requested: Option<&Name>, served: Option<&Name>) -> bool {
        let is_other = served.is_some() && served != requested;
        *self.decided.get_or_insert_with(|| is_other && self.keeps.keeps(requested, served))
    }

    /// A stream's text goes on. Gives whether more of it is wanted.
    pub(super) fn delta(
        &mut self,
        names: (Option<&Name>, Option<&Name>),
        choice: u32,
        kind: DeltaKind,
        text: Fragment<'_>,
    ) -> bool {
        if !self.wanted(names.0, names.1) {
            return false;
        }
        if self.kept.output.is_none() {
            return true;
        }
        let text = text.decode().filter(|_| kind != DeltaKind::Audio);
        let held = self.output_bytes();
        let fitting = text.filter(|text| self.fits(held, text.len()));
        match (fitting, &mut self.kept.output) {
            (Some(text), Some(Output::Parts(parts))) => {
                match parts.iter_mut().find(|part| part.choice == choice && part.kind == kind) {
                    Some(part) => part.text.push_str(&text),
                    None => parts.push(Part { choice, kind, text: text.into_owned(), first_event: 0 }),
                }
            }
            _ => self.lose_output(),
        }
        true
    }

    /// What has come by now came in the first event that had a token.
    pub(super) fn end_first_event(&mut self) {
        if let Some(Output::Parts(parts)) = &mut self.kept.output {
            parts.iter_mut().for_each(|part| part.first_event = part.text.len());
        }
    }

    /// A whole answer's body goes on.
    pub(super) fn body_chunk(&mut self, names: (Option<&Name>, Option<&Name>), bytes: &[u8]) {
        if !self.wanted(names.0, names.1) || self.kept.output.is_none() {
            return;
        }
        let held = self.output_bytes();
        if !self.fits(held, bytes.len()) {
            return self.lose_output();
        }
        match &mut self.kept.output {
            Some(Output::Body(body)) => body.extend_from_slice(bytes),
            _ => self.kept.output = Some(Output::Body(bytes.to_vec())),
        }
    }

    fn output_bytes(&self) -> usize {
        match &self.kept.output {
            Some(Output::Parts(parts)) => parts.iter().map(|part| part.text.len()).sum(),
            Some(Output::Body(body)) => body.len(),
            None => 0,
        }
    }

    /// The request cannot be read, or kept.
    pub(super) fn lose_request(&mut self) {
        self.kept.request = None;
        self.give_back();
    }

    /// Something of what was generated could not be read, or kept.
    pub(super) fn lose_output(&mut self) {
        self.kept.output = None;
        self.give_back();
    }

    /// Others may keep what is kept here no more.
    fn give_back(&mut self) {
        self.bytes = self.kept.request.as_ref().map_or(0, Vec::len) + self.output_bytes();
        self.kept.share.shrink_to(self.bytes);
    }

    /// What was kept, where there is a tokenizer to count it.
    pub(super) fn finish(self) -> Option<Kept> {
        (self.decided == Some(true)).then_some(self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is a tokenizer for one model.
    #[derive(Debug)]
    struct Only(&'static str);

    impl Keeps for Only {
        fn keeps(&self, requested: Option<&Name>, served: Option<&Name>) -> bool {
            [requested, served].into_iter().flatten().any(|name| name.as_str() == self.0)
        }
    }

    fn keeping(limit: usize) -> (Keeping, Arc<Budget>) {
        let budget = Arc::new(Budget::new(limit));
        (Keeping::new(Arc::new(Only("known")), true, Arc::clone(&budget)), budget)
    }

    #[test]
    fn what_nobody_counts_takes_no_room_from_others() {
        for (model, held) in [("known", 8), ("unknown", 0)] {
            let (mut keeping, budget) = keeping(100);
            keeping.request_chunk(b"half");
            keeping.request_chunk(b"rest");
            keeping.request_end(Some(&Name::from(model)));
            assert_eq!(budget.held(), held, "{model}");
        }
    }

    #[test]
    fn of_what_does_not_fit_nothing_is_held() {
        let (mut keeping, budget) = keeping(10);
        keeping.request_chunk(b"eight by");
        keeping.request_chunk(b"more");
        assert_eq!(budget.held(), 0);
        let served = Name::from("known");
        keeping.body_chunk((None, Some(&served)), b"an answer");
        assert_eq!(budget.held(), 9);
        keeping.body_chunk((None, Some(&served)), b"of two pieces");
        assert_eq!(budget.held(), 0);
        assert_eq!(keeping.finish().map(|kept| (kept.request, kept.output)), Some((None, None)));
    }
}
