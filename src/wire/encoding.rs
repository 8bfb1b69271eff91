//! Takes a copy of an answer's body out of its `Content-Encoding`, as the bytes come: what they hold is given
//! out at once, so that an event is seen when it is complete on the wire. Checks no checksum of gzip; the client
//! does. Knows nothing of what the body says, and never holds more of it than a decoder's own window.

use std::sync::Arc;

#[cfg(feature = "brotli")]
use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
#[cfg(feature = "zstd")]
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::budget::{Budget, Share};
use super::inflate::{Gzip, Inflate};

/// What all decoders together may hold: 5,000 streams of gzip, or 800 of zstd.
pub const MEMORY_IN_ALL: usize = 256 << 20;

/// What the bytes of one chunk may become: some 10 ms of work, for which others on the same thread wait.
const CHUNK_LIMIT: usize = 8 << 20;

/// What an encoding may become in all, where it grows more than [`RATIO_LIMIT`] times: 15,000 events that are
/// all the same shrink to nothing.
const FREE: u64 = 4 << 20;

/// How much an encoding may grow beyond [`FREE`]: events of a stream that are all alike and flushed one by one
/// grow 30 times, JSON ten times, a bomb of gzip a thousand times.
const RATIO_LIMIT: u64 = 128;

const SCRATCH: usize = 8 << 10; // on the stack; an event fits

const INFLATE_MEMORY: usize = 48 << 10; // its window of 32 KiB, and tables
#[cfg(feature = "brotli")]
const BROTLI_MEMORY: usize = 128 << 10; // tables, without its window
#[cfg(feature = "zstd")]
const ZSTD_MEMORY: usize = 256 << 10; // its state and a block, without its window
#[cfg(feature = "zstd")]
const ZSTD_WINDOW_LOG: u32 = 23; // 8 MiB, the most that this encoding may have over HTTP (RFC 9659)

/// Why a decoder stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The bytes are not in this encoding, or they grow beyond all measure.
    Undecodable,
    /// All decoders together hold as much as they may.
    NoMemory,
}

fn hold(share: &mut Share, bytes: usize) -> Result<(), Stop> {
    if share.grow_to(bytes) { Ok(()) } else { Err(Stop::NoMemory) }
}

/// What a `Content-Encoding` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// None.
    Identity,
    /// gzip (RFC 1952), of any number of members.
    Gzip,
    /// zlib (RFC 1950), or bare deflate (RFC 1951) as some servers understand it.
    Deflate,
    /// Brotli (RFC 7932).
    #[cfg(feature = "brotli")]
    Brotli,
    /// Zstandard (RFC 8878), of any number of frames.
    #[cfg(feature = "zstd")]
    Zstd,
    /// One that is not known, or several.
    Unread,
}

impl Encoding {
    /// Reads a header's value.
    pub fn of(header: &str) -> Self {
        let mut codings = header
            .split(',')
            .map(str::trim)
            .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
        let (Some(coding), rest) = (codings.next(), codings.next()) else { return Self::Identity };
        let is = |name: &str| coding.eq_ignore_ascii_case(name);
        match rest {
            Some(_) => Self::Unread,
            None if is("gzip") || is("x-gzip") => Self::Gzip,
            None if is("deflate") => Self::Deflate,
            #[cfg(feature = "brotli")]
            None if is("br") => Self::Brotli,
            #[cfg(feature = "zstd")]
            None if is("zstd") => Self::Zstd,
            None => Self::Unread,
        }
    }
}

/// A decoder for one body.
#[derive(Debug)]
pub struct Decoder {
    coding: Coding,
    share: Share,
    read: u64,
    written: u64,
    /// The body has ended: what follows is not read, whatever it is.
    ended: bool,
}

impl Decoder {
    /// A decoder, where the encoding is one that can be read and there is memory for it.
    pub fn new(encoding: Encoding, budget: &Arc<Budget>) -> Result<Self, Stop> {
        let mut share = Share::of(Arc::clone(budget));
        let coding = match encoding {
            Encoding::Identity | Encoding::Unread => return Err(Stop::Undecodable),
            Encoding::Gzip => Coding::Gzip(Gzip::default()),
            Encoding::Deflate => Coding::Deflate(Inflate::Unknown),
            #[cfg(feature = "brotli")]
            Encoding::Brotli => Coding::Brotli(Brotli::new()),
            #[cfg(feature = "zstd")]
            Encoding::Zstd => Coding::Zstd(Zstd::new()?),
        };
        hold(&mut share, coding.memory(0))?;
        Ok(Self { coding, share, read: 0, written: 0, ended: false })
    }

    /// A decoder for bare deflate (RFC 1951) in pieces that a framing tells apart, where there is memory for it.
    pub(super) fn bare_deflate(budget: &Arc<Budget>) -> Result<Self, Stop> {
        let mut share = Share::of(Arc::clone(budget));
        hold(&mut share, INFLATE_MEMORY)?;
        Ok(Self { coding: Coding::Deflate(Inflate::bare()), share, read: 0, written: 0, ended: false })
    }

    /// A piece of bare deflate has ended. `afresh`: the next one does not refer to it.
    pub(super) fn restart(&mut self, afresh: bool) {
        if let Coding::Deflate(inflate) = &mut self.coding {
            inflate.restart(afresh);
            self.ended = false;
        }
    }

    /// Reads more of the body; `emit` gets all that these bytes complete, in pieces. After an error there is no
    /// more to be had; what was given out before it stands.
    pub fn push(&mut self, chunk: &[u8], emit: &mut dyn FnMut(&[u8])) -> Result<(), Stop> {
        let mut scratch = [0; SCRATCH];
        self.read += chunk.len() as u64;
        let most = FREE.saturating_add(self.read.saturating_mul(RATIO_LIMIT));
        let most = most.min(self.written.saturating_add(CHUNK_LIMIT as u64));
        let mut rest = chunk;
        while !self.ended {
            let step = self.coding.step(rest, &mut scratch)?;
            rest = rest.get(step.read..).unwrap_or_default();
            self.written += step.written as u64;
            if self.written > most {
                return Err(Stop::Undecodable);
            }
            if step.written > 0 {
                hold(&mut self.share, self.coding.memory(self.written))?;
                emit(scratch.get(..step.written).unwrap_or_default());
            }
            // It may hold more though there was room: a window that is full is written out first.
            self.ended = step.ended;
            if rest.is_empty() && step.written == 0 {
                return Ok(());
            }
            if step.read == 0 && step.written == 0 && !step.ended {
                return Err(Stop::Undecodable);
            }
        }
        Ok(())
    }
}

/// What a decoder did with a piece of input.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) read: usize,
    pub(super) written: usize,
    /// The body has ended. What follows is not read, as clients have it.
    pub(super) ended: bool,
}

enum Coding {
    Gzip(Gzip),
    Deflate(Inflate),
    #[cfg(feature = "brotli")]
    Brotli(Brotli),
    #[cfg(feature = "zstd")]
    Zstd(Zstd),
}

impl std::fmt::Debug for Coding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "gzip",
            Self::Deflate(_) => "deflate",
            #[cfg(feature = "brotli")]
            Self::Brotli(_) => "br",
            #[cfg(feature = "zstd")]
            Self::Zstd(_) => "zstd",
        })
    }
}

impl Coding {
    /// Reads of `input` and writes into `output` what it can.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Stop> {
        match self {
            Self::Gzip(gzip) => gzip.step(input, output),
            Self::Deflate(inflate) => inflate.step(input, output),
            #[cfg(feature = "brotli")]
            Self::Brotli(brotli) => brotli.step(input, output),
            #[cfg(feature = "zstd")]
            Self::Zstd(zstd) => zstd.step(input, output),
        }
    }

    /// How much it holds once it has written so much.
    fn memory(&self, written: u64) -> usize {
        match (self, written) {
            (Self::Gzip(_) | Self::Deflate(_), _) => INFLATE_MEMORY,
            #[cfg(feature = "brotli")]
            (Self::Brotli(brotli), _) => BROTLI_MEMORY + brotli.window(),
            // Its window is reserved at once, but takes no memory until it is written to.
            #[cfg(feature = "zstd")]
            (Self::Zstd(_), written) => {
                ZSTD_MEMORY
                    + usize::try_from(written).map_or(1 << ZSTD_WINDOW_LOG, |n| n.min(1 << ZSTD_WINDOW_LOG))
            }
        }
    }
}

#[cfg(feature = "brotli")]
struct Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>);

#[cfg(feature = "brotli")]
impl Brotli {
    fn new() -> Self {
        let alloc = StandardAlloc::default;
        // Strict: no windows beyond 16 MiB, which the encoding over HTTP does not have.
        Self(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())))
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Stop> {
        let (mut left, mut room) = (input.len(), output.len());
        let (mut read, mut written, mut total) = (0, 0, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            input,
            &mut room,
            &mut written,
            output,
            &mut total,
            &mut self.0,
        );
        match result {
            BrotliResult::ResultFailure => Err(Stop::Undecodable),
            result => Ok(Step { read, written, ended: matches!(result, BrotliResult::ResultSuccess) }),
        }
    }

    fn window(&self) -> usize {
        usize::try_from(self.0.ringbuffer_size).unwrap_or_default()
    }
}

#[cfg(feature = "zstd")]
struct Zstd {
    context: DCtx<'static>,
    /// A frame has ended, and none has begun since.
    between: bool,
}

#[cfg(feature = "zstd")]
impl Zstd {
    fn new() -> Result<Self, Stop> {
        let mut context = DCtx::try_create().ok_or(Stop::NoMemory)?;
        context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).map_err(|_| Stop::NoMemory)?;
        Ok(Self { context, between: false })
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Stop> {
        // A frame begins with 28 (little-endian magic), one to be skipped with 50 to 5F.
        if self.between && input.first().is_some_and(|first| !matches!(first, 0x28 | 0x50..=0x5F)) {
            return Ok(Step { ended: true, ..Step::default() });
        }
        let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
        let hint = self.context.decompress_stream(&mut to, &mut from).map_err(|_| Stop::Undecodable)?;
        self.between = hint == 0 || (self.between && input.is_empty());
        Ok(Step { read: from.pos(), written: to.pos(), ended: false })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;
    use std::rc::Rc;

    use super::*;

    const ALL: &[&str] = &[
        "gzip",
        "deflate",
        #[cfg(feature = "brotli")]
        "br",
        #[cfg(feature = "zstd")]
        "zstd",
    ];

    /// What an encoder has written.
    #[derive(Clone, Default)]
    struct Encoded(Rc<RefCell<Vec<u8>>>);

    impl Write for Encoded {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// An encoder that finishes when it is dropped.
    fn encoder(name: &str, to: Encoded) -> Box<dyn Write> {
        let level = flate2::Compression::fast();
        match name {
            "gzip" => Box::new(flate2::write::GzEncoder::new(to, level)),
            "deflate" => Box::new(flate2::write::ZlibEncoder::new(to, level)),
            "raw" => Box::new(flate2::write::DeflateEncoder::new(to, level)),
            "br" => Box::new(brotli::CompressorWriter::new(to, 4096, 2, 22)),
            "zstd" => Box::new(zstd::stream::write::Encoder::new(to, 3).unwrap().auto_finish()),
            other => panic!("no encoder for {other}"),
        }
    }

    /// Each piece encoded and flushed; the encoding's end comes with the last one.
    fn encode(name: &str, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let to = Encoded::default();
        let mut encoder = Some(encoder(name, to.clone()));
        let mut encoded = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            let writer = encoder.as_mut().unwrap();
            writer.write_all(piece).unwrap();
            writer.flush().unwrap();
            if n + 1 == pieces.len() {
                drop(encoder.take());
            }
            encoded.push(std::mem::take(&mut *to.0.borrow_mut()));
        }
        encoded
    }

    fn decoder(name: &str) -> Decoder {
        Decoder::new(Encoding::of(name), &Arc::new(Budget::new(MEMORY_IN_ALL))).unwrap()
    }

    /// What chunks hold, and how decoding them ended.
    fn decode<'c>(name: &str, chunks: impl IntoIterator<Item = &'c [u8]>) -> (Vec<u8>, Result<(), Stop>) {
        let mut decoder = decoder(name);
        let mut plain = Vec::new();
        let result = chunks
            .into_iter()
            .try_for_each(|chunk| decoder.push(chunk, &mut |piece| plain.extend_from_slice(piece)));
        (plain, result)
    }

    /// Checks what bytes hold: whole, at every split into two, and bytewise.
    fn check(name: &str, encoded: &[u8], want: &[u8]) {
        assert_eq!(decode(name, [encoded]), (want.to_vec(), Ok(())), "{name}, whole");
        assert_eq!(decode(name, encoded.chunks(1)), (want.to_vec(), Ok(())), "{name}, bytewise");
        for at in 0..=encoded.len() {
            let (head, tail) = encoded.split_at(at);
            assert_eq!(decode(name, [head, tail]), (want.to_vec(), Ok(())), "{name}, split at {at}");
        }
    }

    const EVENTS: [&[u8]; 4] = [
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xC3\xBC\"}}]}\n\n",
        b": keep-alive\n\n",
        b"data: [DONE]\n\n",
    ];

    #[test]
    fn a_flushed_event_is_seen_at_once() {
        for name in ALL {
            let mut decoder = decoder(name);
            for (event, encoded) in EVENTS.iter().zip(encode(name, &EVENTS)) {
                let mut plain = Vec::new();
                decoder.push(&encoded, &mut |piece| plain.extend_from_slice(piece)).unwrap();
                assert_eq!(plain, *event, "{name}");
            }
        }
    }

    /// Where the window is full in the middle of what the last byte holds, too.
    #[test]
    fn nothing_is_held_back_of_a_body_that_is_not_over() {
        let body: Vec<u8> = (0..100_000_u32).map(|n| (n % 50) as u8).collect();
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&body).unwrap();
        let encoded = encoder.finish().unwrap();
        for end in 0..encoded.len() {
            let came = encoded.get(..end).unwrap();
            let (bytewise, whole) = (decode("deflate", came.chunks(1)), decode("deflate", [came]));
            assert_eq!((bytewise.0.len(), bytewise.1), (whole.0.len(), whole.1), "{end} bytes");
        }
    }

    #[test]
    fn any_split_gives_the_same() {
        for name in ALL {
            check(name, &encode(name, &EVENTS).concat(), &EVENTS.concat());
            check(name, &encode(name, &[&EVENTS.concat()]).concat(), &EVENTS.concat());
        }
        check("deflate", &encode("raw", &EVENTS).concat(), &EVENTS.concat());
        check("X-GZip", &encode("gzip", &[b""]).concat(), b"");
    }

    #[test]
    fn what_is_larger_than_a_piece_comes_whole() {
        let text: Vec<u8> =
            (0..100_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for name in ALL {
            let encoded = encode(name, &[&text]).concat();
            for size in [1000, usize::MAX] {
                let (plain, result) = decode(name, encoded.chunks(size.min(encoded.len())));
                assert!(plain == text && result.is_ok(), "{name}, {} bytes, {result:?}", plain.len());
            }
        }
    }

    #[test]
    fn several_members_and_frames_are_one_body() {
        let twice = |name| [encode(name, &[b"one, "]).concat(), encode(name, &[b"two"]).concat()].concat();
        check("gzip", &twice("gzip"), b"one, two");
        #[cfg(feature = "zstd")]
        check("zstd", &[twice("zstd"), b"\x50\x2A\x4D\x18\x02\0\0\0xx".to_vec()].concat(), b"one, two");
    }

    #[test]
    fn every_part_of_a_members_header_is_passed_over() {
        for flags in 0..32u8 {
            let mut header = vec![0x1F, 0x8B, 8, flags, 1, 2, 3, 4, 0, 3];
            let parts: [(u8, &[u8]); 4] =
                [(4, b"\x03\x00\x00\x01\x02"), (8, b"name\0"), (16, b"a comment\0"), (2, b"\xAA\xBB")];
            for (_, part) in parts.iter().filter(|(flag, _)| flags & flag != 0) {
                header.extend_from_slice(part);
            }
            header.extend(encode("raw", &[b"hello"]).concat());
            header.extend([0; 8]);
            check("gzip", &header, b"hello");
        }
        let no_extra = [b"\x1F\x8B\x08\x04\0\0\0\0\0\x03\0\0".as_slice(), &encode("raw", &[b"x"]).concat()];
        check("gzip", &no_extra.concat(), b"x");
    }

    #[test]
    fn what_follows_the_end_is_not_read() {
        for name in ALL {
            let encoded = encode(name, &EVENTS).concat();
            for follows in [b"\0\0and so on".as_slice(), &[b"\0", encoded.as_slice()].concat()] {
                check(name, &[encoded.as_slice(), follows].concat(), &EVENTS.concat());
            }
        }
    }

    #[test]
    fn of_a_body_that_breaks_off_what_came_is_there() {
        for name in ALL {
            let encoded = encode(name, &EVENTS);
            let cut = [encoded[0].as_slice(), &encoded[1], &encoded[2][..1]];
            let (plain, result) = decode(name, cut);
            assert_eq!((plain, result), (EVENTS[..2].concat(), Ok(())), "{name}");
        }
    }

    #[test]
    fn garbage_is_an_error_wherever_it_begins() {
        for (name, garbage) in [
            ("gzip", "not really gzip"),
            ("zstd", "not really zstd"),
            ("deflate", "\u{7}\u{7}"),
            ("br", "\u{11}\u{7F}"),
        ] {
            if !ALL.contains(&name) {
                continue;
            }
            let bytes = garbage.as_bytes();
            assert_eq!(decode(name, [bytes]).1, Err(Stop::Undecodable), "{name}");
            assert_eq!(decode(name, bytes.chunks(1)).1, Err(Stop::Undecodable), "{name}, bytewise");
        }
        for name in ALL {
            let mut encoded = encode(name, &EVENTS);
            encoded[1] = vec![0xFF; 64];
            let (plain, result) = decode(name, encoded.iter().map(Vec::as_slice));
            assert_eq!(result, Err(Stop::Undecodable), "{name}");
            assert!(plain.starts_with(EVENTS[0]), "{name}");
        }
    }

    #[test]
    fn a_bomb_is_put_out() {
        let zeros = vec![0; 1 << 20];
        for name in ALL {
            let encoded = encode(name, &[zeros.as_slice(); 12]);
            let whole = encoded.concat();
            let (plain, result) = decode(name, [whole.as_slice()]);
            assert_eq!(result, Err(Stop::Undecodable), "{name}");
            assert!(plain.len() <= CHUNK_LIMIT, "{name}: {}", plain.len());
            assert_eq!(decode(name, whole.chunks(100)).1, Err(Stop::Undecodable), "{name}, in small chunks");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn damage_is_an_error_or_nothing(at in 0usize..200, bytes: Vec<u8>, size in 1usize..64) {
            for name in ALL {
                let mut encoded = encode(name, &EVENTS).concat();
                let at = at.min(encoded.len());
                let end = (at + bytes.len()).min(encoded.len());
                encoded.splice(at..end, bytes.iter().copied());
                let (plain, _) = decode(name, encoded.chunks(size));
                assert!(plain.len() <= CHUNK_LIMIT);
            }
        }
    }

    #[test]
    fn decoders_hold_no_more_than_they_may_together() {
        let budget = Arc::new(Budget::new(2 * INFLATE_MEMORY));
        let begin = |encoding| Decoder::new(encoding, &budget);
        let (first, second) = (begin(Encoding::Gzip).unwrap(), begin(Encoding::Deflate).unwrap());
        assert_eq!(begin(Encoding::Gzip).unwrap_err(), Stop::NoMemory);
        drop(first);
        let third = begin(Encoding::Gzip).unwrap();
        drop((second, third));
        assert_eq!(budget.held(), 0);
    }

    #[cfg(all(feature = "brotli", feature = "zstd"))]
    #[test]
    fn a_window_counts_as_it_fills() {
        let text: Vec<u8> =
            (0..1_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for name in ["br", "zstd"] {
            let budget = Arc::new(Budget::new(1 << 20));
            let mut decoder = Decoder::new(Encoding::of(name), &budget).unwrap();
            let encoded = encode(name, &[&text]).concat();
            let mut plain = 0;
            let result = encoded
                .chunks(4096)
                .try_for_each(|chunk| decoder.push(chunk, &mut |piece| plain += piece.len()));
            assert_eq!(result, Err(Stop::NoMemory), "{name}");
            assert!(plain <= 1 << 20, "{name}: {plain}");
            drop(decoder);
            assert_eq!(budget.held(), 0, "{name}");
        }
    }

    #[test]
    fn at_most_one_coding_is_read() {
        for (header, want) in [
            ("", Encoding::Identity),
            ("identity", Encoding::Identity),
            (" GZIP ", Encoding::Gzip),
            ("x-gzip", Encoding::Gzip),
            ("identity, gzip", Encoding::Gzip),
            ("deflate,", Encoding::Deflate),
            ("gzip, br", Encoding::Unread),
            ("gzip, gzip", Encoding::Unread),
            ("compress", Encoding::Unread),
            ("exi", Encoding::Unread),
        ] {
            assert_eq!(Encoding::of(header), want, "{header:?}");
        }
    }
}
