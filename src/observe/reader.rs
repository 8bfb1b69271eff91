//! How an answer's body is read: taken out of its content encoding, then cut by its framing. What it means is
//! the dialect's to say, and when, its parent's.

use super::{Head, Observer, Seen, Step};
use crate::clock::Moment;
use crate::exchange::Unobserved;
use crate::wire::{Decoder, Encoding, Skim, Sse, Stop};

/// How the answer's body is read.
#[derive(Debug)]
pub(super) enum Answer {
    /// No head has come.
    Awaited,
    /// The head did not say: the first byte will.
    Unclear,
    Stream(Sse),
    Whole(Box<Skim>),
    /// Passed without being read.
    Opaque,
}

impl Observer {
    pub(super) fn reader(&mut self, head: &Head<'_>, media_type: &str, is_stream: bool) -> Answer {
        if head.status == 101 {
            self.seen.unobserved = Some(Unobserved::Upgrade);
            return Answer::Opaque;
        }
        let Some(dialect) = self.dialect.filter(|_| !head.bodiless) else { return Answer::Opaque };
        let accepted = (200..300).contains(&head.status);
        let encoding = Encoding::of(head.content_encoding.unwrap_or_default());
        if encoding == Encoding::Unread {
            self.seen.unobserved = Some(Unobserved::Encoding).filter(|_| accepted);
            return Answer::Opaque;
        }
        self.seen.closure.observed = accepted;
        let is_json = media_type.eq_ignore_ascii_case("application/json") || media_type.ends_with("+json");
        let answer = match (is_stream, is_json) {
            (true, _) if accepted => Answer::Stream(Sse::default()),
            (_, true) => Answer::Whole(Box::new(Skim::new(dialect.body_members()))),
            (false, false) if accepted => Answer::Unclear,
            _ => Answer::Opaque,
        };
        if encoding == Encoding::Identity || matches!(answer, Answer::Opaque) {
            return answer;
        }
        match Decoder::new(encoding, &self.budget.clone().unwrap_or_default()) {
            Ok(decoder) => {
                self.decoder = Some(decoder);
                answer
            }
            Err(stop) => {
                self.give_up(stop);
                Answer::Opaque
            }
        }
    }

    /// More of the answer's body has passed, read at `at`.
    pub fn response_chunk(&mut self, bytes: &[u8], at: Moment) -> Seen {
        self.seen.bytes_out += bytes.len() as u64;
        if bytes.is_empty() {
            return Seen::default();
        }
        self.seen.clocks.first_byte.get_or_insert(at);
        let seen = self.decode(bytes, at);
        self.tell(Step::Chunk { bytes: bytes.len(), streamed: self.seen.streamed }, at);
        seen
    }

    /// Takes the encoding off and reads what is under it.
    fn decode(&mut self, bytes: &[u8], at: Moment) -> Seen {
        let Some(mut decoder) = self.decoder.take() else { return self.read(bytes, at) };
        let mut seen = Seen::default();
        match decoder.push(bytes, &mut |plain| seen.add(self.read(plain, at))) {
            // A body that nobody reads needs no decoding.
            Ok(()) => self.decoder = Some(decoder).filter(|_| !matches!(self.answer, Answer::Opaque)),
            Err(stop) => {
                self.give_up(stop);
                self.answer = Answer::Opaque;
            }
        }
        seen
    }

    /// The answer's encoding cannot be read any further: from here on it is judged by the transport.
    fn give_up(&mut self, stop: Stop) {
        self.seen.undecoded = Some(stop);
        if stop == Stop::NoMemory && std::mem::take(&mut self.seen.closure.observed) {
            self.seen.unobserved = Some(Unobserved::Encoding);
        }
        self.seen.closure.observed = false;
    }

    /// Reads bytes of the body as they are without an encoding.
    fn read(&mut self, bytes: &[u8], at: Moment) -> Seen {
        if matches!(self.answer, Answer::Unclear)
            && let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace())
        {
            self.answer = self.guess(*first);
        }
        match std::mem::replace(&mut self.answer, Answer::Opaque) {
            Answer::Stream(mut sse) => {
                let mut seen = Seen::default();
                sse.push(bytes, &mut |framed| seen.add(self.framed(&framed, at)));
                self.answer = Answer::Stream(sse);
                seen
            }
            Answer::Whole(mut skim) => {
                skim.push(bytes);
                self.answer = Answer::Whole(skim);
                Seen::default()
            }
            other => {
                self.answer = other;
                Seen::default()
            }
        }
    }

    /// What a 2xx body of no declared type is, by its first byte that is no white space.
    fn guess(&mut self, first: u8) -> Answer {
        match (first, self.dialect) {
            (b'{', Some(dialect)) => Answer::Whole(Box::new(Skim::new(dialect.body_members()))),
            (b'd' | b'e' | b':' | b'i' | b'r' | 0xEF, Some(_)) => {
                self.seen.streamed = true;
                Answer::Stream(Sse::default())
            }
            _ => {
                self.seen.closure.observed = false;
                Answer::Opaque
            }
        }
    }
}
