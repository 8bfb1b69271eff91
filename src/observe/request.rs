//! How a request's body is read: a copy of it, taken out of its content encoding. What it means is the dialect's to say.

use std::sync::Arc;

use super::Observer;
use crate::wire::encoding::MEMORY_IN_ALL;
use crate::wire::{Budget, Decoder, Encoding, Stop};

impl Observer {
    /// The request's head has come: its body is in the encoding that this header names.
    pub fn request_encoding(&mut self, content_encoding: &str) {
        let encoding = Encoding::of(content_encoding);
        if encoding == Encoding::Identity || self.dialect.is_none() {
            return;
        }
        match Decoder::new(encoding, &self.decoding_budget()) {
            Ok(decoder) => self.request_decoder = Some(Box::new(decoder)),
            Err(_) if encoding == Encoding::Unread => self.lose_request(),
            Err(stop) => self.give_up_request(stop),
        }
    }

    /// More of the request's body has passed.
    pub fn request_chunk(&mut self, bytes: &[u8]) {
        self.seen.bytes_in += bytes.len() as u64;
        let Some(mut decoder) = self.request_decoder.take() else { return self.read_asked(bytes) };
        match decoder.push(bytes, &mut |plain| self.read_asked(plain)) {
            Ok(()) => self.request_decoder = Some(decoder),
            Err(stop) => self.give_up_request(stop),
        }
    }

    /// Reads bytes of the body as they are without an encoding.
    fn read_asked(&mut self, bytes: &[u8]) {
        if let Some(skim) = &mut self.request {
            skim.push(bytes);
            if skim.has_ended() {
                self.read_request(); // whatever follows changes nothing
            }
        }
        // Afterwards: as a rule this is all of the body, and it is known by now whether somebody wants it.
        if let Some(keeping) = &mut self.keeping {
            keeping.request_chunk(bytes);
        }
    }

    /// What decoding may hold.
    pub(super) fn decoding_budget(&self) -> Arc<Budget> {
        self.budget.clone().unwrap_or_else(|| Arc::new(Budget::new(MEMORY_IN_ALL)))
    }

    fn give_up_request(&mut self, stop: Stop) {
        self.seen.undecoded = Some(stop);
        self.lose_request();
    }

    /// What the request asks for stays unknown.
    fn lose_request(&mut self) {
        self.request = None;
        if let Some(keeping) = &mut self.keeping {
            keeping.lose_request();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::clock::Moment;
    use crate::dialect;

    const BODY: &[u8] =
        br#"{"model":"m","stream":true,"max_tokens":5,"messages":[{"role":"user","content":"Hello"}]}"#;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// What is understood of a request in this encoding, which comes in pieces of seven bytes; within so many bytes of memory.
    fn read(
        encoding: &str,
        body: &[u8],
        budget: usize,
    ) -> (Option<dialect::RequestFacts>, Option<Stop>, u64) {
        let at = |millis| Moment::new(Duration::from_millis(millis));
        let mut observer = Observer::new(dialect::find("POST", "/v1/chat/completions"), at(0))
            .within(Arc::new(Budget::new(budget)));
        observer.request_encoding(encoding);
        body.chunks(7).for_each(|chunk| observer.request_chunk(chunk));
        observer.request_end(at(1));
        let seen = observer.finish(crate::exchange::Ending::Clean, at(2));
        (seen.request, seen.undecoded, seen.bytes_in)
    }

    #[test]
    fn a_request_in_an_encoding_is_understood_as_it_is_without() {
        let (facts, ..) = read("identity", BODY, 1 << 20);
        assert_eq!(
            facts.as_ref().map(|facts| (facts.stream, facts.prompt_text_bytes)),
            Some((true, Some(5)))
        );
        let members = [gzip(&BODY[..20]), gzip(&BODY[20..])].concat();
        for body in [gzip(BODY), members] {
            let wire = body.len() as u64;
            assert_eq!(read("gzip", &body, 1 << 20), (facts.clone(), None, wire));
        }
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_what_is_broken_is_told() {
        let body = gzip(BODY);
        let wire = body.len() as u64;
        assert_eq!(read("compress", &body, 1 << 20), (None, None, wire));
        assert_eq!(read("gzip, br", &body, 1 << 20), (None, None, wire));
        assert_eq!(read("gzip", BODY, 1 << 20), (None, Some(Stop::Undecodable), BODY.len() as u64));
        assert_eq!(read("gzip", &body, 1000), (None, Some(Stop::NoMemory), wire));
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert_eq!(read("gzip", &bomb, 1 << 20), (None, Some(Stop::Undecodable), bomb.len() as u64));
    }
}
