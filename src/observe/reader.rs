//! How an answer's body is read: taken out of its content encoding, then cut by its framing. What it means is
//! the dialect's to say, and when, its parent's.

use super::{Head, Observer, Seen, Step};
use crate::clock::Moment;
use crate::dialect::Framing;
use crate::exchange::{Ending, Unobserved};
use crate::wire::{
    Decoder, Encoding, Event, EventStream, Framed, JsonArray, Ndjson, Skim, Sse, Stop, is_blank,
};

/// How the answer's body is read.
#[derive(Debug)]
pub(super) enum Answer {
    /// No head has come.
    Awaited,
    /// The head did not say: the first byte will. `binary`: declared as bytes, of which JSON may be the beginning only.
    Unclear {
        binary: bool,
    },
    Stream(Sse),
    Lines(Ndjson),
    Elements(JsonArray),
    Frames(EventStream),
    /// Each chunk is a whole event.
    Messages,
    Whole(Box<Skim>),
    /// Passed without being read.
    Opaque,
}

impl Answer {
    pub(super) fn is_stream(&self) -> bool {
        matches!(
            self,
            Self::Stream(_) | Self::Lines(_) | Self::Elements(_) | Self::Frames(_) | Self::Messages
        )
    }
}

impl Observer {
    pub(super) fn reader(&mut self, head: &Head<'_>, media_type: &str) -> Answer {
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
        let answer = match stream(media_type) {
            _ if accepted && head.in_messages => Answer::Messages,
            Some(answer) if accepted => answer,
            // Its first byte tells a stream from a whole answer.
            None if is_json && accepted && dialect.streams_arrays() => Answer::Unclear { binary: false },
            None if is_json => Answer::Whole(Box::new(Skim::new(dialect.body_members()))),
            None if accepted => {
                Answer::Unclear { binary: media_type.eq_ignore_ascii_case("application/octet-stream") }
            }
            _ => Answer::Opaque,
        };
        if encoding == Encoding::Identity || matches!(answer, Answer::Opaque) {
            return answer;
        }
        match Decoder::new(encoding, &self.decoding_budget()) {
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

    /// So many bytes of what was seen of the answer's body did not go on to the client.
    pub fn withheld(&mut self, bytes: u64) {
        self.seen.bytes_out = self.seen.bytes_out.saturating_sub(bytes);
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
        self.lose_text();
        if stop == Stop::NoMemory && std::mem::take(&mut self.seen.closure.observed) {
            self.seen.unobserved = Some(Unobserved::Encoding);
        }
        self.seen.closure.observed = false;
    }

    /// Reads bytes of the body as they are without an encoding.
    fn read(&mut self, mut bytes: &[u8], at: Moment) -> Seen {
        if let Answer::Unclear { binary } = self.answer
            && let Some(begin) = bytes.iter().position(|&byte| !is_blank(byte))
            && let Some(begun @ &[first, ..]) = bytes.get(begin..)
        {
            bytes = begun; // blanks before it are passed over, as they are where they come by themselves
            self.answer = self.guess(first, binary);
        }
        match std::mem::replace(&mut self.answer, Answer::Opaque) {
            Answer::Stream(mut sse) => {
                let mut seen = Seen::default();
                sse.push(bytes, &mut |framed| seen.add(self.framed(&framed, at)));
                self.answer = Answer::Stream(sse);
                seen
            }
            Answer::Lines(mut lines) => {
                let mut seen = Seen::default();
                lines.push(bytes, &mut |framed| seen.add(self.framed(&framed, at)));
                self.answer = Answer::Lines(lines);
                seen
            }
            Answer::Elements(mut array) => {
                let mut seen = Seen::default();
                array.push(bytes, &mut |framed| seen.add(self.framed(&framed, at)));
                self.answer = Answer::Elements(array);
                seen
            }
            Answer::Messages => {
                self.answer = Answer::Messages;
                self.framed(&Framed::Event(Event { name: None, data: bytes }), at)
            }
            Answer::Frames(mut frames) => {
                let mut seen = Seen::default();
                frames.push(bytes, &mut |framed| seen.add(self.framed(&framed, at)));
                self.answer = Answer::Frames(frames);
                seen
            }
            Answer::Whole(mut skim) => {
                skim.push(bytes);
                self.keep_body(bytes);
                self.answer = Answer::Whole(skim);
                Seen::default()
            }
            other => {
                self.answer = other;
                Seen::default()
            }
        }
    }

    /// The body has ended: what only its end completes.
    pub(super) fn read_end(&mut self, ending: Ending, at: Moment) {
        let is_clean = ending == Ending::Clean;
        let answer = std::mem::replace(&mut self.answer, Answer::Opaque);
        let emit = &mut |framed: Framed<'_>| {
            self.framed(&framed, at);
        };
        match answer {
            Answer::Stream(sse) if is_clean => sse.finish(emit),
            Answer::Lines(lines) if is_clean => lines.finish(emit),
            Answer::Elements(array) if is_clean => array.finish(emit),
            Answer::Frames(frames) if is_clean => frames.finish(emit),
            Answer::Whole(skim) => self.read_whole(*skim, at),
            _ => {}
        }
    }

    fn read_whole(&mut self, skim: Skim, at: Moment) {
        let Some(dialect) = self.dialect else { return };
        let members = skim.finish();
        self.tell(Step::Body, at);
        dialect.body(&members, &mut |signal| {
            self.take(&signal);
        });
        self.tell(Step::Read, at);
    }

    /// What a 2xx body is whose declared type does not tell, by its first byte that is no blank.
    fn guess(&mut self, first: u8, binary: bool) -> Answer {
        let asks_stream = self.seen.request.as_ref().is_some_and(|facts| facts.stream);
        match (first, self.dialect) {
            (b'{', Some(dialect)) if asks_stream && dialect.describe().stream == Some(Framing::Lines) => {
                self.seen.streamed = true;
                self.seen.text_bytes = Some(0);
                Answer::Lines(Ndjson::default())
            }
            (b'{', Some(dialect)) if !binary => Answer::Whole(Box::new(Skim::new(dialect.body_members()))),
            (b'[', Some(dialect)) if dialect.streams_arrays() => {
                self.seen.streamed = true;
                self.seen.text_bytes = Some(0);
                Answer::Elements(JsonArray::default())
            }
            (b'd' | b'e' | b':' | b'i' | b'r' | 0xEF, Some(_)) => {
                self.seen.streamed = true;
                self.seen.text_bytes = Some(0);
                Answer::Stream(Sse::default())
            }
            _ => {
                self.seen.closure.observed = false;
                Answer::Opaque
            }
        }
    }
}

/// How a stream of this media type is read; none where it is no stream.
pub(super) fn stream(media_type: &str) -> Option<Answer> {
    if media_type.eq_ignore_ascii_case("text/event-stream") {
        return Some(Answer::Stream(Sse::default()));
    }
    if media_type.eq_ignore_ascii_case("application/vnd.amazon.eventstream") {
        return Some(Answer::Frames(EventStream::default()));
    }
    let lines = LINES_OF_JSON.iter().any(|known| media_type.eq_ignore_ascii_case(known));
    lines.then(|| Answer::Lines(Ndjson::default()))
}

/// Media types of lines of JSON, none of them registered.
const LINES_OF_JSON: [&str; 5] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/jsonlines",
];

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::dialect;
    use crate::exchange::Outcome;
    use crate::observe::Observation;
    use crate::wire::Budget;

    const WHOLE: &[u8] = br#"{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}"#;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// What is seen of an answer that says it is JSON in gzip, within a budget of so many bytes.
    fn observe(status: u16, body: &[u8], budget: usize) -> Observation {
        let at = |millis| Moment::new(Duration::from_millis(millis));
        let mut observer = Observer::new(dialect::find("POST", "/v1/chat/completions"), at(0))
            .within(Arc::new(Budget::new(budget)));
        let (content_type, content_encoding) = (Some("application/json"), Some("gzip"));
        observer.head(&Head { status, content_type, content_encoding, ..Head::default() }, at(1));
        body.chunks(7).for_each(|chunk| assert_eq!(observer.response_chunk(chunk, at(2)), Seen::default()));
        *observer.finish(Ending::Clean, at(3))
    }

    #[test]
    fn beyond_the_budget_an_answer_is_unobserved() {
        let body = gzip(WHOLE);
        let read = observe(200, &body, 1 << 20);
        assert_eq!((read.usage.input, read.unobserved, read.undecoded), (Some(3), None, None));
        let passed = observe(200, &body, 1000);
        assert_eq!(passed.usage.input, None);
        assert_eq!(passed.unobserved, Some(Unobserved::Encoding));
        assert_eq!((passed.undecoded, passed.bytes_out), (Some(Stop::NoMemory), body.len() as u64));
        assert_eq!(passed.outcome(Ending::Clean), Outcome::Completed);
    }

    #[test]
    fn what_an_answer_without_a_type_is_depends_on_no_reads_end() {
        let at = |millis| Moment::new(Duration::from_millis(millis));
        let read = |pieces: [&[u8]; 2]| {
            let mut observer =
                Observer::new(dialect::find("POST", "/v1beta/models/g:streamGenerateContent"), at(0));
            observer.head(&Head { status: 200, ..Head::default() }, at(1));
            for piece in pieces {
                observer.response_chunk(piece, at(2));
            }
            *observer.finish(Ending::Clean, at(3))
        };
        let kinds =
            [b" \r\n\t[{}, m:ge}]".as_slice(), b"\x0c[m:ge}]", b"\n\x0c\r{}", b"\n data: {}\n\n", b"  {}"];
        for (body, streamed) in kinds.into_iter().zip([true, false, false, true, false]) {
            let whole = read([body, b""]);
            assert_eq!(whole.streamed, streamed, "{body:?}");
            for at in 0..body.len() {
                let (head, tail) = body.split_at(at);
                assert_eq!(read([head, tail]), whole, "{body:?}, split at {at}");
            }
        }
    }

    #[test]
    fn an_error_in_an_encoding_is_read_too() {
        let error = gzip(br#"{"error":{"message":"no","type":"invalid_request_error"}}"#);
        let read = observe(400, &error, 1 << 20);
        assert_eq!(read.error_class.as_ref().map(|class| class.as_str()), Some("invalid_request_error"));
        let passed = observe(400, &error, 1000);
        assert_eq!((passed.unobserved, passed.error_class), (None, None));
    }

    #[test]
    fn what_cannot_be_decoded_is_judged_by_the_transport() {
        let passed = observe(200, WHOLE, 1 << 20);
        assert_eq!((passed.unobserved, passed.undecoded), (None, Some(Stop::Undecodable)));
        assert_eq!(passed.outcome(Ending::Clean), Outcome::Completed);
        assert_eq!(passed.outcome(Ending::UpstreamBroke), Outcome::Truncated);
    }
}
