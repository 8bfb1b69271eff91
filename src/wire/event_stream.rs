//! Cuts bytes into the messages of `application/vnd.amazon.eventstream`: a prelude of two lengths with a checksum,
//! headers, a payload, a checksum of all. Knows nothing of JSON or any API.
//!
//! Format: <https://smithy.io/2.0/aws/amazon-eventstream.html>.

use flate2::Crc;

use super::sse::{EVENT_LIMIT, KEPT_CAPACITY};
use super::{Event, Framed};

const PRELUDE: usize = 12; // two lengths and their checksum
const CHECKSUM: usize = 4;
const FRAME: usize = PRELUDE + CHECKSUM; // what a message is without headers and payload
const HEADERS_LIMIT: usize = 128 << 10; // the format's own; real ones have some hundred bytes
const MESSAGE_LIMIT: usize = FRAME + HEADERS_LIMIT + EVENT_LIMIT; // the format allows 24 MiB

/// The name of an event that is an error without a type of its own: its data is the error's code.
pub const ERROR: &str = "error";

/// A decoder for one stream.
#[derive(Debug, Default)]
pub struct EventStream {
    /// What there is of a message that has begun and not ended.
    held: Vec<u8>,
    /// Bytes still to come of a message that was too large.
    skip: usize,
    /// A prelude was broken: where the next message begins is not known.
    lost: bool,
}

impl EventStream {
    /// Reads more of the stream; `emit` gets each event that these bytes complete.
    pub fn push(&mut self, chunk: &[u8], emit: &mut dyn FnMut(Framed<'_>)) {
        let mut rest = chunk;
        while !rest.is_empty() && !self.lost {
            if self.skip > 0 {
                let (_, after) = rest.split_at(self.skip.min(rest.len()));
                self.skip -= rest.len() - after.len();
                rest = after;
                if self.skip == 0 {
                    emit(Framed::TooLarge);
                }
            } else if self.held.is_empty() {
                match self.length(rest, emit) {
                    // The usual case, not copied.
                    Some(length) if length <= rest.len().min(MESSAGE_LIMIT) => {
                        let (message, after) = rest.split_at(length);
                        give(message, emit);
                        rest = after;
                    }
                    _ => rest = self.hold(rest, rest.len().min(PRELUDE)),
                }
            } else if self.held.len() < PRELUDE {
                rest = self.hold(rest, PRELUDE - self.held.len());
            } else {
                rest = self.go_on(rest, emit);
            }
            if self.skip == 0 && self.held.len() == PRELUDE && !self.lost {
                self.begin(emit);
            }
        }
    }

    /// The stream has ended: a message that has not is broken.
    pub fn finish(self, emit: &mut dyn FnMut(Framed<'_>)) {
        if self.skip > 0 {
            emit(Framed::TooLarge);
        } else if !self.held.is_empty() && !self.lost {
            emit(Framed::Broken);
        }
    }

    /// Holds so many more bytes, if there are; gives what is left.
    fn hold<'c>(&mut self, rest: &'c [u8], wanted: usize) -> &'c [u8] {
        let (now, after) = rest.split_at(wanted.min(rest.len()));
        self.held.extend_from_slice(now);
        after
    }

    /// A prelude is held: what it says of its message.
    fn begin(&mut self, emit: &mut dyn FnMut(Framed<'_>)) {
        let held = std::mem::take(&mut self.held);
        if let Some(length) = self.length(&held, emit) {
            if length > MESSAGE_LIMIT {
                self.skip = length - held.len();
            } else {
                self.held = held;
            }
        }
    }

    /// More of a message whose prelude is held and sound; gives what is left.
    fn go_on<'c>(&mut self, rest: &'c [u8], emit: &mut dyn FnMut(Framed<'_>)) -> &'c [u8] {
        let length = number(&self.held, 0).unwrap_or_default();
        let rest = self.hold(rest, length.saturating_sub(self.held.len()));
        if self.held.len() >= length {
            give(&self.held, emit);
            self.held.clear();
            self.held.shrink_to(KEPT_CAPACITY);
        }
        rest
    }

    /// How long the message is that begins here; none where its prelude is not whole, or is broken.
    fn length(&mut self, message: &[u8], emit: &mut dyn FnMut(Framed<'_>)) -> Option<usize> {
        let lengths = message.get(..8)?;
        let (length, headers) = (number(message, 0)?, number(message, 4)?);
        let is_sound =
            number(message, 8)? == checksum(lengths) && length >= FRAME && headers <= length - FRAME;
        if !is_sound {
            self.lost = true;
            emit(Framed::Broken);
        }
        is_sound.then_some(length)
    }
}

/// Gives out a whole message with a sound prelude.
fn give(message: &[u8], emit: &mut dyn FnMut(Framed<'_>)) {
    let framed = read(message).unwrap_or(Framed::Broken);
    emit(match framed {
        Framed::Event(event) if event.data.len() > EVENT_LIMIT => Framed::TooLarge,
        framed => framed,
    });
}

/// What a message holds; none where it is broken.
fn read(message: &[u8]) -> Option<Framed<'_>> {
    let (sealed, seal) = message.split_at_checked(message.len().checked_sub(CHECKSUM)?)?;
    if number(seal, 0)? != checksum(sealed) {
        return None;
    }
    let (mut headers, payload) = sealed.get(PRELUDE..)?.split_at_checked(number(message, 4)?)?;
    let (mut kind, mut event, mut exception, mut code) = (None, None, None, None);
    while !headers.is_empty() {
        let (name, value, after) = header(headers)?;
        headers = after;
        match name {
            b":message-type" => kind = value,
            b":event-type" => event = value,
            b":exception-type" => exception = value,
            b":error-code" => code = value,
            _ => {}
        }
    }
    Some(Framed::Event(match kind {
        Some("exception") => Event { name: exception.or(Some(ERROR)), data: payload },
        Some("error") => Event { name: Some(ERROR), data: code.unwrap_or_default().as_bytes() },
        _ => Event { name: event, data: payload },
    }))
}

/// A header's name, its value where that is text, and what comes after it.
fn header(headers: &[u8]) -> Option<(&[u8], Option<&str>, &[u8])> {
    let (length, rest) = headers.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (kind, rest) = rest.split_first()?;
    let long =
        || rest.split_first_chunk::<2>().map(|(length, _)| 2 + usize::from(u16::from_be_bytes(*length)));
    let length = match *kind {
        0 | 1 => 0,          // true, false
        2 => 1,              // a byte
        3 => 2,              // a short
        4 => 4,              // an integer
        5 | 8 => 8,          // a long, a time
        6 | TEXT => long()?, // bytes, text
        9 => 16,             // a UUID
        _ => return None,
    };
    let (value, after) = rest.split_at_checked(length)?;
    let text = value.get(2..).filter(|_| *kind == TEXT).and_then(|text| std::str::from_utf8(text).ok());
    Some((name, text, after))
}

const TEXT: u8 = 7; // the type of a header's value

/// The number of four bytes that stands here.
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_be_bytes(*four)).ok()
}

fn checksum(bytes: &[u8]) -> usize {
    usize::try_from(sum(bytes)).unwrap_or(usize::MAX)
}

fn sum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Writes the checksum of what was written from a place on.
fn seal(begin: usize, out: &mut Vec<u8>) {
    let sum = sum(out.get(begin..).unwrap_or_default());
    out.extend_from_slice(&sum.to_be_bytes());
}

/// Writes a message with headers of text.
pub fn write(headers: &[(&str, &str)], payload: &[u8], out: &mut Vec<u8>) {
    let mut written = Vec::new();
    for (name, value) in headers {
        written.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        written.extend_from_slice(name.as_bytes());
        written.push(TEXT);
        written.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        written.extend_from_slice(value.as_bytes());
    }
    let begin = out.len();
    for length in [FRAME + written.len() + payload.len(), written.len()] {
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
    seal(begin, out);
    out.extend_from_slice(&written);
    out.extend_from_slice(payload);
    seal(begin, out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Vec<String> {
        let mut seen = Vec::new();
        let mut emit = |framed: Framed<'_>| {
            seen.push(match framed {
                Framed::TooLarge => "too large".to_owned(),
                Framed::Broken => "broken".to_owned(),
                Framed::Event(Event { name, data }) => {
                    format!("{}={}", name.unwrap_or("-"), String::from_utf8_lossy(data))
                }
            });
        };
        let mut stream = EventStream::default();
        for chunk in chunks {
            stream.push(chunk, &mut emit);
        }
        stream.finish(&mut emit);
        seen
    }

    /// Checks what a stream holds: whole, at every split into two, and bytewise.
    fn check(bytes: &[u8], want: &[&str]) {
        assert_eq!(decode([bytes]), want, "whole");
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(decode([head, tail]), want, "split at {at}");
        }
        assert_eq!(decode(bytes.chunks(1)), want, "bytewise");
    }

    fn event(name: &str, payload: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let headers =
            [(":event-type", name), (":content-type", "application/json"), (":message-type", "event")];
        write(&headers, payload.as_bytes(), &mut out);
        out
    }

    fn message(headers: &[(&str, &str)], payload: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write(headers, payload.as_bytes(), &mut out);
        out
    }

    #[test]
    fn a_message_of_the_formats_own_description() {
        // No header, no payload: the checksums stand in the format's test vectors.
        let bytes = [0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff];
        check(&bytes, &["-="]);
        assert_eq!(message(&[], ""), bytes);
    }

    #[test]
    fn events_exceptions_and_errors_have_their_names() {
        check(&[event("messageStart", "{}"), event("x", "日本")].concat(), &["messageStart={}", "x=日本"]);
        let exception = [(":exception-type", "throttlingException"), (":message-type", "exception")];
        check(&message(&exception, "{}"), &["throttlingException={}"]);
        let error = [(":message-type", "error"), (":error-code", "InternalError"), (":error-message", "no")];
        check(&message(&error, ""), &["error=InternalError"]);
        check(&message(&[(":message-type", "exception")], "{}"), &["error={}"]);
    }

    #[test]
    fn headers_of_every_type_are_passed_over() {
        let mut headers = Vec::new();
        for (kind, length) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (8, 8), (9, 16)] {
            headers.extend_from_slice(&[1, b'h', kind]);
            headers.extend(std::iter::repeat_n(0xAA, length));
        }
        headers.extend_from_slice(&[1, b'b', 6, 0, 2, 1, 2]);
        headers.extend_from_slice(b"\x0b:event-type\x07\x00\x01e");
        check(&sealed(&headers, b"data"), &["e=data"]);
        check(&sealed(&[1, b'h', 10, 0], b"data"), &["broken"]);
        check(&sealed(&[9, b'h'], b"data"), &["broken"]);
        check(&sealed(&[1, b'h', 7, 0, 9, b'x'], b"data"), &["broken"]);
    }

    fn sealed(headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for length in [FRAME + headers.len() + payload.len(), headers.len()] {
            out.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        }
        out.extend_from_slice(&sum(&out).to_be_bytes());
        out.extend_from_slice(headers);
        out.extend_from_slice(payload);
        out.extend_from_slice(&sum(&out).to_be_bytes());
        out
    }

    #[test]
    fn a_broken_message_is_counted_and_the_next_one_read() {
        let mut broken = event("a", "{\"text\":\"a\"}");
        let at = broken.len() - 6;
        broken[at] ^= 1;
        check(&[broken, event("b", "{}")].concat(), &["broken", "b={}"]);
    }

    #[test]
    fn after_a_broken_prelude_nothing_is_read() {
        for at in 0..PRELUDE {
            let mut broken = event("a", "{}");
            broken[at] ^= 1;
            check(&[event("0", "{}"), broken, event("b", "{}")].concat(), &["0={}", "broken"]);
        }
        let mut short = Vec::new();
        short.extend_from_slice(&[0, 0, 0, 15, 0, 0, 0, 0]);
        short.extend_from_slice(&sum(&short).to_be_bytes());
        check(&short, &["broken"]);
    }

    #[test]
    fn a_message_that_has_not_ended_is_broken() {
        let whole = event("a", "{}");
        for length in 1..whole.len() {
            check(&whole[..length], &["broken"]);
        }
        check(b"", &[]);
    }

    #[test]
    fn a_message_beyond_the_limit_is_skipped_and_the_next_one_read() {
        let long = "x".repeat(EVENT_LIMIT + 1);
        for payload in [long.clone(), long.repeat(3)] {
            let stream = [event("a", &payload), event("b", "{}")].concat();
            for size in [1 << 16, 1000, 16, stream.len()] {
                let mut held = 0;
                let mut decoder = EventStream::default();
                let mut seen = Vec::new();
                for chunk in stream.chunks(size) {
                    decoder.push(chunk, &mut |framed| seen.push(matches!(framed, Framed::TooLarge)));
                    held = held.max(decoder.held.capacity());
                }
                assert_eq!(seen, [true, false], "in chunks of {size}");
                assert!(held <= 2 * MESSAGE_LIMIT, "{held} bytes held");
                assert!(decoder.held.capacity() <= KEPT_CAPACITY);
            }
        }
        let mut fits = String::new();
        fits.extend(std::iter::repeat_n('x', EVENT_LIMIT));
        assert_eq!(decode([event("a", &fits).as_slice()]).len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_survived_and_mean_the_same(
            noise in proptest::collection::vec(any::<u8>(), 0..64),
            payload in "\\PC{0,40}",
            flip in 0..200_usize,
            size in 1..50_usize,
        ) {
            let mut stream = [event("a", &payload), event("b", "{}"), noise].concat();
            if let Some(byte) = stream.get_mut(flip) {
                *byte ^= 0x10;
            }
            prop_assert_eq!(decode(stream.chunks(size)), decode([stream.as_slice()]));
        }
    }
}
