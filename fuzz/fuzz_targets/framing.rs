//! Whatever bytes come: every framing and encoding gives out the same for them in one piece and cut in two, and gives
//! out no more than it may. The first byte selects which, the second where it is cut. `STREAMGAUGE_FUZZ_ONLY` takes
//! nothing but what selects the one of that name.

#![no_main]

#[path = "../only.rs"]
mod only;

use std::sync::Arc;

use libfuzzer_sys::{Corpus, fuzz_target};
use streamgauge::dialect::DIALECTS;
use streamgauge::dialect::conversation::{self, CONVERSATIONS};
use streamgauge::wire::encoding::MEMORY_IN_ALL;
use streamgauge::wire::websocket::{Extensions, Message};
use streamgauge::wire::{
    Budget, Decoder, Encoding, EventStream, Framed, JsonArray, Ndjson, Skim, Sse, Wanted, WebSocket, event_stream, json,
};

/// Reads bytes in one piece and in two; the byte that cuts them.
type Check = fn(&[u8], &[&[u8]], u8);

/// By name, in the order in which the first byte selects them: `scripts/fuzz` reads this.
const FRAMINGS: &[(&str, Check)] = &[
    ("sse", |bytes, pieces, _| framed::<Sse>(bytes, pieces)),
    ("ndjson", |bytes, pieces, _| framed::<Ndjson>(bytes, pieces)),
    ("json_array", |bytes, pieces, _| framed::<JsonArray>(bytes, pieces)),
    ("event_stream", |bytes, pieces, _| framed::<EventStream>(bytes, pieces)),
    ("event_stream_sealed", |bytes, _, place| sealed(bytes, place)),
    ("gzip", |bytes, pieces, _| decoded("gzip", bytes, pieces)),
    ("deflate", |bytes, pieces, _| decoded("deflate", bytes, pieces)),
    ("br", |bytes, pieces, _| decoded("br", bytes, pieces)),
    ("zstd", |bytes, pieces, _| decoded("zstd", bytes, pieces)),
    ("request", |bytes, pieces, _| {
        DIALECTS.iter().for_each(|dialect| skimmed(dialect.request_members(), bytes, pieces));
    }),
    ("answer", |bytes, pieces, _| {
        DIALECTS.iter().for_each(|dialect| skimmed(dialect.body_members(), bytes, pieces));
    }),
    ("websocket", |bytes, pieces, _| assert_eq!(messages("", &[bytes]), messages("", pieces))),
    ("websocket_deflate", |bytes, pieces, _| messages_of_bombs(bytes, pieces)),
    ("conversation", |bytes, _, _| told(bytes)),
    ("json", |bytes, _, _| is_object_to_others_too(bytes)),
];

fuzz_target!(|input: &[u8]| -> Corpus {
    let [which, place, bytes @ ..] = input else { return Corpus::Reject };
    let (name, check) = FRAMINGS[usize::from(*which) % FRAMINGS.len()];
    if !only::is_wanted(name) {
        return Corpus::Reject;
    }
    let cut = bytes.len() * usize::from(*place) / 255;
    check(bytes, &[&bytes[..cut], &bytes[cut..]], *place);
    Corpus::Keep
});

/// An event's name and data; a word for what is none.
type Event = Result<(Option<String>, Vec<u8>), &'static str>;

fn event(framed: &Framed<'_>) -> Event {
    match framed {
        Framed::Event(event) => Ok((event.name.map(str::to_owned), event.data.to_vec())),
        Framed::TooLarge => Err("too large"),
        Framed::Broken => Err("broken"),
    }
}

/// What cuts bytes into events.
trait Framing: Default {
    fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Framed<'_>));
    fn finish(self, emit: &mut dyn FnMut(Framed<'_>));
}

macro_rules! framings {
    ($($framing:ident),*) => {
        $(impl Framing for $framing {
            fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Framed<'_>)) {
                $framing::push(self, bytes, emit);
            }
            fn finish(self, emit: &mut dyn FnMut(Framed<'_>)) {
                $framing::finish(self, emit);
            }
        })*
    };
}

framings!(Sse, Ndjson, JsonArray, EventStream);

fn events<F: Framing>(pieces: &[&[u8]]) -> Vec<Event> {
    let (mut framing, mut events) = (F::default(), Vec::new());
    pieces.iter().for_each(|piece| framing.push(piece, &mut |framed| events.push(event(&framed))));
    framing.finish(&mut |framed| events.push(event(&framed)));
    events
}

fn framed<F: Framing>(bytes: &[u8], pieces: &[&[u8]]) {
    assert_eq!(events::<F>(&[bytes]), events::<F>(pieces));
}

/// Messages of AWS's event stream whose checksums are right: lines, each an event's type up to a blank, and its payload.
fn sealed(lines: &[u8], place: u8) {
    let (mut stream, mut meant) = (Vec::new(), Vec::new());
    for line in lines.split(|byte| *byte == b'\n') {
        let blank = line.iter().position(|byte| *byte == b' ').unwrap_or(0);
        let Ok(kind) = std::str::from_utf8(&line[..blank]) else { return };
        event_stream::write(&[(":event-type", kind)], &line[blank..], &mut stream);
        meant.push(Ok((Some(kind.to_owned()), line[blank..].to_vec())));
    }
    let cut = stream.len() * usize::from(place) / 255;
    assert_eq!(events::<EventStream>(&[&stream[..cut], &stream[cut..]]), meant);
}

/// What an encoding holds, and whether it could be read to the end. How far a bomb is read depends on the pieces.
fn decoded(name: &str, bytes: &[u8], pieces: &[&[u8]]) {
    let read = |pieces: &[&[u8]]| {
        let Ok(mut decoder) = Decoder::new(Encoding::of(name), &Arc::new(Budget::new(MEMORY_IN_ALL))) else {
            panic!("{name} cannot be read");
        };
        let mut plain = Vec::new();
        let fine =
            pieces.iter().all(|piece| decoder.push(piece, &mut |more| plain.extend_from_slice(more)).is_ok());
        (plain, fine)
    };
    let (whole, cut) = (read(&[bytes]), read(pieces));
    if whole.1 && cut.1 {
        assert_eq!(whole.0, cut.0);
    }
}

/// The messages of one direction of a WebSocket, and whether it could be read to the end.
fn messages(extensions: &str, pieces: &[&[u8]]) -> (Vec<Option<Vec<u8>>>, bool) {
    let agreed = Extensions::of([extensions]).unwrap_or_default();
    let mut socket = WebSocket::of_client(agreed, &Arc::new(Budget::new(MEMORY_IN_ALL)));
    let mut messages = Vec::new();
    let mut take = |message: Message<'_>| {
        messages.push(match message {
            Message::Data(data) | Message::Ping(data) => Some(data.to_vec()),
            Message::TooLarge | Message::Close => None,
        });
    };
    let fine = pieces.iter().all(|piece| socket.push(piece, &mut take).is_ok());
    (messages, fine)
}

/// Compressed ones. How far a bomb is read depends on the pieces.
fn messages_of_bombs(bytes: &[u8], pieces: &[&[u8]]) {
    let read = |pieces: &[&[u8]]| messages("permessage-deflate", pieces);
    let (whole, cut) = (read(&[bytes]), read(pieces));
    if whole.1 && cut.1 {
        assert_eq!(whole.0, cut.0);
    }
}

/// What a message is to its session, and what it tells.
fn told(bytes: &[u8]) {
    let (_, _) = (conversation::asking(bytes), conversation::told(bytes));
    let event = streamgauge::wire::Event { name: None, data: bytes };
    CONVERSATIONS.iter().for_each(|conversation| conversation.dialect.event(&event, &mut |_| {}));
}

/// What is read as an object is valid JSON, and an object that another reader takes is read.
fn is_object_to_others_too(text: &[u8]) {
    let is_read = json::read_bytes::<()>(text).is_some();
    let is_valid = serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok();
    assert!(is_valid || !is_read);
    let is_shallow = text.iter().filter(|byte| b"{[".contains(byte)).count() <= 120;
    let is_object = || serde_json::from_slice::<serde_json::Value>(text).is_ok_and(|value| value.is_object());
    assert!(is_read || !is_shallow || !is_object());
}

fn skimmed(wanted: &'static Wanted, bytes: &[u8], pieces: &[&[u8]]) {
    let read = |pieces: &[&[u8]]| {
        let mut skim = Skim::new(wanted);
        pieces.iter().for_each(|piece| skim.push(piece));
        format!("{:?}", skim.finish())
    };
    assert_eq!(read(&[bytes]), read(pieces));
}
