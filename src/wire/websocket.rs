//! Cuts one direction of a WebSocket (RFC 6455) into messages, from a copy of its bytes: masks, fragments, control frames
//! between them, and the compression of RFC 7692. Text and binary are the same here, and nobody asks whether a text is
//! UTF-8. Absent: other extensions, what pongs carry, and the reasons of a close.

use std::sync::Arc;

use super::budget::{Budget, Share};
use super::encoding::{Decoder, Stop};
use super::sse::{EVENT_LIMIT, KEPT_CAPACITY};

/// The longest head of a frame: two bytes, a length of eight, a mask of four.
const HEAD_LIMIT: usize = 14;
const CONTROL_LIMIT: usize = 125; // what a control frame may carry
const SCRATCH: usize = 4 << 10; // on the stack: bytes without their mask; whole masks
/// What every sender leaves out at the end of a compressed message.
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// What a direction gives out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A whole message, as it was before it was compressed.
    Data(&'a [u8]),
    /// A message that was longer than is held; its bytes are gone, the next one is read as usual.
    TooLarge,
    /// This side wants this to be repeated by the other one.
    Ping(&'a [u8]),
    /// This side closes: nothing follows.
    Close,
}

/// Why a direction cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// These are no frames.
    Frames,
    /// A compressed message cannot be read, or there is no memory for it.
    Encoding(Stop),
}

impl From<Stop> for Broken {
    fn from(stop: Stop) -> Self {
        Self::Encoding(stop)
    }
}

/// What the two ends have agreed on, by the answer's `Sec-WebSocket-Extensions`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Messages may be compressed.
    deflate: bool,
    /// Each message of the client is compressed for itself.
    client_afresh: bool,
    /// Each message of the server is.
    server_afresh: bool,
}

impl Extensions {
    /// Reads the header's values; none where something was agreed on that is not known here. The sizes of windows need
    /// not be known: the largest one reads them all.
    pub fn of<'h>(values: impl IntoIterator<Item = &'h str>) -> Option<Self> {
        let mut agreed = Self::default();
        let extensions = values.into_iter().flat_map(|value| value.split(',')).map(str::trim);
        for extension in extensions.filter(|extension| !extension.is_empty()) {
            let mut parts = extension.split(';').map(str::trim);
            let is_known = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate"));
            if !is_known || agreed.deflate {
                return None;
            }
            agreed.deflate = true;
            for part in parts {
                let (name, _) = part.split_once('=').unwrap_or((part, ""));
                match name.trim_ascii_end() {
                    "client_no_context_takeover" => agreed.client_afresh = true,
                    "server_no_context_takeover" => agreed.server_afresh = true,
                    "client_max_window_bits" | "server_max_window_bits" => {}
                    _ => return None,
                }
            }
        }
        Some(agreed)
    }
}

/// A decoder for one direction.
#[derive(Debug)]
pub struct WebSocket {
    deflate: Option<Deflate>,
    budget: Arc<Budget>,
    head: [u8; HEAD_LIMIT],
    /// How many bytes of a frame's head have come.
    head_bytes: usize,
    frame: Option<Frame>,
    /// A message has begun and not ended; whether it is compressed.
    message: Option<bool>,
    held: Held,
    /// What the ping carries that has begun: never much.
    ping: Vec<u8>,
    closed: bool,
}

/// How messages are compressed.
#[derive(Debug)]
struct Deflate {
    afresh: bool,
    /// None before the first compressed message.
    decoder: Option<Decoder>,
}

/// A frame whose head has come.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    is_last: bool,
    /// Bytes of it that are to come.
    left: u64,
    mask: Option<[u8; 4]>,
    /// How far the mask has been used, modulo its length.
    phase: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

/// The message that has begun.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    too_large: bool,
    share: Share,
    /// There was no memory for it.
    refused: bool,
}

impl Held {
    fn append(&mut self, bytes: &[u8]) {
        if self.too_large || self.bytes.len() + bytes.len() > EVENT_LIMIT {
            self.drop_bytes();
            self.too_large = true;
        } else {
            self.bytes.extend_from_slice(bytes);
            self.refused |= !self.share.grow_to(self.bytes.capacity());
        }
    }

    fn drop_bytes(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_CAPACITY);
        self.share.shrink_to(self.bytes.capacity());
    }

    fn give(&mut self, emit: &mut dyn FnMut(Message<'_>)) {
        let is_lost = std::mem::take(&mut self.too_large);
        emit(if is_lost { Message::TooLarge } else { Message::Data(&self.bytes) });
        self.drop_bytes();
    }
}

impl WebSocket {
    /// A decoder for what the client sends.
    pub fn of_client(agreed: Extensions, budget: &Arc<Budget>) -> Self {
        Self::new(agreed.deflate.then_some(agreed.client_afresh), budget)
    }

    /// A decoder for what the server sends.
    pub fn of_server(agreed: Extensions, budget: &Arc<Budget>) -> Self {
        Self::new(agreed.deflate.then_some(agreed.server_afresh), budget)
    }

    fn new(afresh: Option<bool>, budget: &Arc<Budget>) -> Self {
        let share = Share::of(Arc::clone(budget));
        Self {
            deflate: afresh.map(|afresh| Deflate { afresh, decoder: None }),
            budget: Arc::clone(budget),
            head: [0; HEAD_LIMIT],
            head_bytes: 0,
            frame: None,
            message: None,
            held: Held { bytes: Vec::new(), too_large: false, share, refused: false },
            ping: Vec::new(),
            closed: false,
        }
    }

    /// Reads more of the direction; `emit` gets each message that these bytes complete. After an error there is no more
    /// to be had; what was given out before it stands.
    pub fn push(&mut self, chunk: &[u8], emit: &mut dyn FnMut(Message<'_>)) -> Result<(), Broken> {
        let mut rest = chunk;
        while !self.closed {
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.read_head(&mut rest)? {
                    Some(frame) => frame,
                    None => break,
                },
            };
            let here = usize::try_from(frame.left).map_or(rest.len(), |left| left.min(rest.len()));
            let (payload, after) = rest.split_at(here);
            rest = after;
            let frame = Frame { left: frame.left - here as u64, ..frame };
            if !self.give_at_once(&frame, payload, emit) {
                self.take(&frame, payload)?;
                if frame.left > 0 {
                    self.frame = Some(Frame { phase: (frame.phase + here) % 4, ..frame });
                    break;
                }
                self.end_frame(&frame, emit)?;
            }
        }
        Ok(())
    }

    /// Reads the head of a frame; gives the frame when it is whole.
    fn read_head(&mut self, rest: &mut &[u8]) -> Result<Option<Frame>, Broken> {
        while self.head_bytes < self.head_length() {
            let Some((byte, after)) = rest.split_first() else { return Ok(None) };
            *rest = after;
            if let Some(place) = self.head.get_mut(self.head_bytes) {
                *place = *byte;
            }
            self.head_bytes += 1;
        }
        self.head_bytes = 0;
        self.begin_frame().map(Some)
    }

    /// How long the head is, as far as is known.
    fn head_length(&self) -> usize {
        if self.head_bytes < 2 {
            return 2;
        }
        let [_, second, ..] = self.head;
        let length = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & 0x80 == 0 { 0 } else { 4 }
    }

    /// The frame whose head is there.
    fn begin_frame(&mut self) -> Result<Frame, Broken> {
        let [first, second, long @ ..] = self.head;
        let (left, mask) = match (second & 0x7F, long) {
            (126, [a, b, mask @ ..]) => (u64::from(u16::from_be_bytes([a, b])), first_four(&mask)),
            (127, [a, b, c, d, e, f, g, h, mask @ ..]) => {
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), first_four(&mask))
            }
            (short, mask) => (u64::from(short), first_four(&mask)),
        };
        let (is_last, marks, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0F);
        let is_compressed = marks == 0x40;
        let is_fine = match opcode {
            0 => self.message.is_some() && marks == 0,
            1 | 2 => self.message.is_none() && (marks == 0 || (is_compressed && self.deflate.is_some())),
            8..=10 => is_last && marks == 0 && left <= CONTROL_LIMIT as u64,
            _ => false,
        };
        if !is_fine || left > u64::MAX / 2 {
            return Err(Broken::Frames);
        }
        if matches!(opcode, 1 | 2) {
            self.message = Some(is_compressed);
        }
        if opcode < 8 && self.message == Some(false) && left > EVENT_LIMIT as u64 {
            self.held.too_large = true; // no byte of it need be held to know
        }
        let kind = match opcode {
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            _ => Kind::Data,
        };
        let mask = mask.filter(|_| second & 0x80 != 0);
        Ok(Frame { kind, is_last, left, mask, phase: 0 })
    }

    /// Gives out a message that is one frame, all in one piece, as most of a server's are: not copied.
    fn give_at_once(&mut self, frame: &Frame, payload: &[u8], emit: &mut dyn FnMut(Message<'_>)) -> bool {
        let is_whole = frame.kind == Kind::Data && frame.is_last && frame.left == 0;
        let is_plain = frame.mask.is_none() && self.message == Some(false);
        let is_alone = frame.phase == 0 && self.held.bytes.is_empty() && !self.held.too_large;
        let at_once = is_whole && is_plain && is_alone && !payload.is_empty();
        if at_once {
            self.message = None;
            emit(Message::Data(payload));
        }
        at_once
    }

    /// Takes a part of a frame: out of its mask, out of the compression.
    fn take(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), Broken> {
        if matches!(frame.kind, Kind::Close | Kind::Pong) {
            return Ok(());
        }
        let Some(mut key) = frame.mask else { return self.unmasked(frame.kind, payload) };
        if frame.kind == Kind::Data && self.held.too_large && self.message == Some(false) {
            return Ok(());
        }
        key.rotate_left(frame.phase);
        let mut scratch = [0; SCRATCH];
        for piece in payload.chunks(SCRATCH) {
            for (plain, masked) in scratch.chunks_mut(key.len()).zip(piece.chunks(key.len())) {
                for ((plain, masked), key) in plain.iter_mut().zip(masked).zip(key) {
                    *plain = masked ^ key;
                }
            }
            self.unmasked(frame.kind, scratch.get(..piece.len()).unwrap_or_default())?;
        }
        Ok(())
    }

    fn unmasked(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Broken> {
        if kind != Kind::Data {
            self.ping.extend_from_slice(payload);
            return Ok(());
        }
        let held = &mut self.held;
        match self.deflate.as_mut().filter(|_| self.message == Some(true)) {
            None => held.append(payload),
            Some(deflate) => {
                let decoder = match &mut deflate.decoder {
                    Some(decoder) => decoder,
                    none => none.insert(Decoder::bare_deflate(&self.budget)?),
                };
                decoder.push(payload, &mut |plain| held.append(plain))?;
            }
        }
        if held.refused { Err(Stop::NoMemory.into()) } else { Ok(()) }
    }

    fn end_frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Message<'_>)) -> Result<(), Broken> {
        match frame.kind {
            Kind::Pong => {}
            Kind::Ping => {
                emit(Message::Ping(&self.ping));
                self.ping.clear();
            }
            Kind::Close => {
                self.closed = true;
                emit(Message::Close);
            }
            Kind::Data if frame.is_last => {
                if self.message == Some(true) {
                    self.unmasked(Kind::Data, &TAIL)?;
                    if let Some(Deflate { afresh, decoder: Some(decoder) }) = &mut self.deflate {
                        decoder.restart(*afresh);
                    }
                }
                self.message = None;
                self.held.give(emit);
            }
            Kind::Data => {}
        }
        Ok(())
    }
}

fn first_four(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    const CONTINUED: u8 = 0;
    const TEXT: u8 = 1;
    const BINARY: u8 = 2;
    const CLOSE: u8 = 8;
    const PING: u8 = 9;
    const PONG: u8 = 10;
    const LAST: u8 = 0x80;
    const COMPRESSED: u8 = 0x40;

    /// A frame; its length written in the shortest form.
    fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let marked = if mask.is_some() { 0x80 } else { 0 };
        let mut bytes = match payload.len() {
            short @ ..126 => vec![first, marked | short as u8],
            middle @ ..65_536 => [&[first, marked | 126], (middle as u16).to_be_bytes().as_slice()].concat(),
            long => [&[first, marked | 127], (long as u64).to_be_bytes().as_slice()].concat(),
        };
        bytes.extend(mask.into_iter().flatten());
        let key = mask.unwrap_or_default().into_iter().cycle();
        bytes.extend(payload.iter().zip(key).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// Compresses messages as one end does.
    struct Compressor {
        compress: Compress,
        afresh: bool,
    }

    impl Compressor {
        fn new(afresh: bool) -> Self {
            Self { compress: Compress::new(Compression::default(), false), afresh }
        }

        fn message(&mut self, plain: &[u8]) -> Vec<u8> {
            if self.afresh {
                self.compress.reset();
            }
            let mut out = Vec::with_capacity(plain.len() + 1024);
            self.compress.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
            out.strip_suffix(&TAIL).unwrap().to_vec()
        }
    }

    fn budget() -> Arc<Budget> {
        Arc::new(Budget::new(16 << 20))
    }

    fn agreed(header: &str) -> Extensions {
        Extensions::of([header]).unwrap()
    }

    fn read<'c>(
        header: &str,
        pieces: impl IntoIterator<Item = &'c [u8]>,
    ) -> (Vec<String>, Result<(), Broken>) {
        let mut socket = WebSocket::of_server(agreed(header), &budget());
        let mut seen = Vec::new();
        let result = pieces.into_iter().try_for_each(|piece| {
            socket.push(piece, &mut |message| {
                seen.push(match message {
                    Message::Data(data) => String::from_utf8_lossy(data).into_owned(),
                    Message::TooLarge => "(too large)".to_owned(),
                    Message::Ping(text) => format!("(ping {})", String::from_utf8_lossy(text)),
                    Message::Close => "(close)".to_owned(),
                });
            })
        });
        (seen, result)
    }

    /// Checks what a direction holds: whole, at every split into two, and bytewise.
    fn check_as(header: &str, bytes: &[u8], want: &[&str], ends: Result<(), Broken>) {
        let want: (Vec<String>, _) = (want.iter().map(|text| (*text).to_owned()).collect(), ends);
        assert_eq!(read(header, [bytes]), want, "whole");
        assert_eq!(read(header, bytes.chunks(1)), want, "bytewise");
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(read(header, [head, tail]), want, "split at {at}");
        }
    }

    fn check(bytes: &[u8], want: &[&str]) {
        check_as("", bytes, want, Ok(()));
    }

    const MASK: Option<[u8; 4]> = Some([0x37, 0xFA, 0x21, 0x3D]);

    #[test]
    fn a_message_is_one_frame_or_several_with_or_without_a_mask() {
        for mask in [None, MASK, Some([0; 4])] {
            check(&frame(LAST | TEXT, mask, b"Hello"), &["Hello"]);
            check(&frame(LAST | BINARY, mask, b"{}"), &["{}"]);
            check(&frame(LAST | TEXT, mask, b""), &[""]);
            let parts = [
                frame(TEXT, mask, b"Hel"),
                frame(CONTINUED, mask, b""),
                frame(CONTINUED, mask, b"lo"),
                frame(LAST | CONTINUED, mask, b""),
                frame(LAST | TEXT, mask, b"again"),
            ];
            check(&parts.concat(), &["Hello", "again"]);
        }
        // The standard's own example (RFC 6455, section 5.7).
        check(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &["Hello"]);
    }

    #[test]
    fn lengths_of_one_two_and_eight_bytes() {
        for length in [125, 126, 127, 300, 65_535, 65_536, 70_000] {
            let text = "x".repeat(length);
            for mask in [None, MASK] {
                let bytes =
                    [frame(LAST | TEXT, mask, text.as_bytes()), frame(LAST | TEXT, mask, b"b")].concat();
                for size in [1, 7, 1000, bytes.len()] {
                    assert_eq!(read("", bytes.chunks(size)).0, [text.as_str(), "b"], "{length} in {size}s");
                }
            }
        }
        // A length may be written longer than it need be.
        check(b"\x81\x7e\x00\x02ok\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x01!", &["ok", "!"]);
    }

    #[test]
    fn control_frames_stand_between_fragments_and_nothing_follows_a_close() {
        let bytes = [
            frame(LAST | PING, MASK, b"are you there"),
            frame(TEXT, MASK, b"a"),
            frame(LAST | PONG, MASK, b""),
            frame(CONTINUED, MASK, b"b"),
            frame(LAST | PING, MASK, b"?"),
            frame(LAST | CONTINUED, MASK, b"c"),
            frame(LAST | CLOSE, MASK, b"\x03\xe8bye"),
            frame(LAST | TEXT, MASK, b"nobody reads this"),
            b"\xFF\xFF".to_vec(),
        ];
        check(&bytes.concat(), &["(ping are you there)", "(ping ?)", "abc", "(close)"]);
    }

    #[test]
    fn compressed_messages_with_what_came_before_and_without() {
        let texts = ["{\"type\":\"a\"}", "{\"type\":\"a\"}", "", "{\"type\":\"b\"}"];
        for (header, afresh) in [
            ("permessage-deflate", false),
            ("permessage-deflate; client_max_window_bits=12; server_max_window_bits=10", false),
            ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", true),
        ] {
            for mask in [None, MASK] {
                let mut compressor = Compressor::new(afresh);
                let mut bytes = Vec::new();
                for text in texts {
                    let packed = compressor.message(text.as_bytes());
                    let (one, two) = packed.split_at(packed.len() / 2);
                    bytes.extend(frame(TEXT | COMPRESSED, mask, one));
                    bytes.extend(frame(LAST | PING, mask, b"!"));
                    bytes.extend(frame(LAST | CONTINUED, mask, two));
                    bytes.extend(frame(LAST | TEXT, mask, b"as it is"));
                }
                let want: Vec<&str> = texts.iter().flat_map(|text| ["(ping !)", *text, "as it is"]).collect();
                check_as(header, &bytes, &want, Ok(()));
            }
        }
    }

    #[test]
    fn the_standards_own_compressed_messages() {
        // RFC 7692, section 7.2.3: a block, the same with what came before, one that is stored, one that says it is the
        // last, and two blocks.
        let messages: [&[u8]; 5] = [
            b"\xf2\x48\xcd\xc9\xc9\x07\x00",
            b"\xf2\x00\x11\x00\x00",
            b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        ];
        let bytes: Vec<u8> =
            messages.iter().flat_map(|packed| frame(LAST | TEXT | COMPRESSED, None, packed)).collect();
        check_as("permessage-deflate", &bytes, &["Hello"; 5], Ok(()));
    }

    #[test]
    fn what_is_no_frame_stops_the_reading_and_what_came_before_stands() {
        let good = frame(LAST | TEXT, None, b"good");
        for (what, bad) in [
            ("a mark that nobody agreed on", frame(LAST | TEXT | COMPRESSED, None, b"x")),
            ("another mark", frame(LAST | TEXT | 0x20, None, b"x")),
            ("an opcode that is not there", frame(LAST | 3, None, b"x")),
            ("a control opcode that is not there", frame(LAST | 11, None, b"")),
            ("a continuation of nothing", frame(LAST | CONTINUED, None, b"x")),
            ("a message in a message", [frame(TEXT, None, b"x"), frame(TEXT, None, b"y")].concat()),
            ("a ping in pieces", frame(PING, None, b"x")),
            ("a long ping", frame(LAST | PING, None, &[0; 126])),
            ("a length beyond all measure", b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
            ("HTTP", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ] {
            let bytes = [good.as_slice(), &bad].concat();
            let (seen, result) = read("", [bytes.as_slice()]);
            assert_eq!((seen, result), (vec!["good".to_owned()], Err(Broken::Frames)), "{what}");
            check_as("", &bytes, &["good"], Err(Broken::Frames));
        }
        let not_deflate = frame(LAST | TEXT | COMPRESSED, None, &[0xFF; 9]);
        let bytes = [good.as_slice(), &not_deflate].concat();
        check_as("permessage-deflate", &bytes, &["good"], Err(Broken::Encoding(Stop::Undecodable)));
    }

    #[test]
    fn a_message_beyond_the_limit_is_dropped_and_the_next_one_read() {
        let long = "x".repeat(EVENT_LIMIT + 1);
        let (head, tail) = long.split_at(EVENT_LIMIT / 2);
        let mut compressor = Compressor::new(false);
        let packed = frame(LAST | TEXT | COMPRESSED, MASK, &compressor.message(long.as_bytes()));
        let after = frame(LAST | TEXT | COMPRESSED, MASK, &compressor.message(b"xxx"));
        for long in [
            frame(LAST | TEXT, None, long.as_bytes()),
            frame(LAST | TEXT, MASK, long.as_bytes()),
            [frame(TEXT, MASK, head.as_bytes()), frame(LAST | CONTINUED, MASK, tail.as_bytes())].concat(),
            packed,
        ] {
            let bytes = [frame(LAST | TEXT, None, b"a"), long, frame(LAST | TEXT, None, b"b")].concat();
            for size in [1000, 1 << 16, bytes.len()] {
                let (seen, result) = read("permessage-deflate", bytes.chunks(size));
                assert_eq!((seen, result), (vec!["a".into(), "(too large)".into(), "b".into()], Ok(())));
            }
        }
        let most = "x".repeat(EVENT_LIMIT);
        assert_eq!(read("", [frame(LAST | TEXT, MASK, most.as_bytes()).as_slice()]).0, [most]);
        let again =
            [frame(LAST | TEXT | COMPRESSED, MASK, &Compressor::new(false).message(long.as_bytes())), after];
        let (seen, result) = read("permessage-deflate", again.iter().map(Vec::as_slice));
        assert_eq!((seen[1].as_str(), result), ("xxx", Ok(())), "what it held is still referred to");
    }

    #[test]
    fn memory_is_bounded_counted_and_given_back() {
        let budget = Arc::new(Budget::new(600 << 10));
        let mut socket = WebSocket::of_client(Extensions::default(), &budget);
        let mut push = |bytes: &[u8]| socket.push(bytes, &mut |_| {});
        let half = vec![b'x'; 200 << 10];
        push(&frame(LAST | TEXT, MASK, &half)).unwrap();
        assert!(budget.held() <= KEPT_CAPACITY, "{}", budget.held());
        let whole = frame(LAST | TEXT, MASK, &vec![b'x'; EVENT_LIMIT]);
        let results: Result<(), _> = whole.chunks(4096).try_for_each(push);
        assert_eq!(results, Err(Broken::Encoding(Stop::NoMemory)));
        drop(socket);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_bomb_is_put_out() {
        let mut compressor = Compressor::new(false);
        let bomb = compressor.message(&vec![0; 64 << 20]);
        for size in [1000, usize::MAX] {
            let bytes = frame(LAST | TEXT | COMPRESSED, None, &bomb);
            let (seen, result) = read("permessage-deflate", bytes.chunks(size.min(bytes.len())));
            assert_eq!((seen.len(), result), (0, Err(Broken::Encoding(Stop::Undecodable))));
        }
    }

    #[test]
    fn what_was_agreed_on_is_understood_or_nothing_is_read() {
        let both = Extensions { deflate: true, client_afresh: true, server_afresh: true };
        for (values, want) in [
            (&[][..], Some(Extensions::default())),
            (&["", " , "], Some(Extensions::default())),
            (&["Permessage-Deflate"], Some(Extensions { deflate: true, ..Extensions::default() })),
            (
                &["permessage-deflate;server_no_context_takeover ; client_max_window_bits = \"10\""],
                Some(Extensions { deflate: true, server_afresh: true, ..Extensions::default() }),
            ),
            (&["permessage-deflate; client_no_context_takeover; server_no_context_takeover"], Some(both)),
            (&["permessage-deflate; level=9"], None),
            (&["permessage-deflate, permessage-deflate"], None),
            (&["permessage-deflate", "x-other"], None),
            (&["x-webkit-deflate-frame"], None),
        ] {
            assert_eq!(Extensions::of(values.iter().copied()), want, "{values:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn any_bytes_in_any_pieces_give_the_same(bytes: Vec<u8>, size in 1usize..64, deflate: bool) {
            let header = if deflate { "permessage-deflate" } else { "" };
            let whole = read(header, [bytes.as_slice()]);
            assert_eq!(read(header, bytes.chunks(size)), whole);
        }

        #[test]
        fn damage_is_an_error_or_other_messages(at in 0usize..80, damage: Vec<u8>, size in 1usize..64) {
            let mut compressor = Compressor::new(false);
            let mut bytes = frame(LAST | TEXT, MASK, b"{\"type\":\"response.create\"}");
            bytes.extend(frame(LAST | TEXT | COMPRESSED, MASK, &compressor.message(b"{\"type\":\"x\"}")));
            let at = at.min(bytes.len());
            let end = (at + damage.len()).min(bytes.len());
            bytes.splice(at..end, damage);
            let whole = read("permessage-deflate", [bytes.as_slice()]);
            assert_eq!(read("permessage-deflate", bytes.chunks(size)), whole);
        }
    }
}
