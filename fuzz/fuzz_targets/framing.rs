//! Whatever bytes come: every framing and encoding gives out the same for them in one piece and cut in two, and gives
//! out no more than it may. The first byte selects which, the second where it is cut.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use streamgauge::dialect::DIALECTS;
use streamgauge::dialect::conversation::{self, CONVERSATIONS};
use streamgauge::wire::encoding::MEMORY_IN_ALL;
use streamgauge::wire::websocket::{Extensions, Message};
use streamgauge::wire::{
    Budget, Decoder, Encoding, EventStream, Framed, JsonArray, Ndjson, Skim, Sse, Wanted, WebSocket, event_stream,
};

fuzz_target!(|input: &[u8]| {
    let [which, place, bytes @ ..] = input else { return };
    let cut = bytes.len() * usize::from(*place) / 255;
    let pieces = [&bytes[..cut], &bytes[cut..]];
    match which % 14 {
        0 => framed::<Sse>(bytes, &pieces),
        1 => framed::<Ndjson>(bytes, &pieces),
        2 => decoded("gzip", bytes, &pieces),
        3 => decoded("deflate", bytes, &pieces),
        4 => decoded("br", bytes, &pieces),
        5 => decoded("zstd", bytes, &pieces),
        6 => DIALECTS.iter().for_each(|dialect| skimmed(dialect.request_members(), bytes, &pieces)),
        7 => DIALECTS.iter().for_each(|dialect| skimmed(dialect.body_members(), bytes, &pieces)),
        8 => framed::<JsonArray>(bytes, &pieces),
        9 => framed::<EventStream>(bytes, &pieces),
        10 => sealed(bytes, *place),
        11 => assert_eq!(messages("", &[bytes]), messages("", &pieces)),
        12 => messages_of_bombs(bytes, &pieces),
        _ => told(bytes),
    }
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

fn skimmed(wanted: &'static Wanted, bytes: &[u8], pieces: &[&[u8]]) {
    let read = |pieces: &[&[u8]]| {
        let mut skim = Skim::new(wanted);
        pieces.iter().for_each(|piece| skim.push(piece));
        format!("{:?}", skim.finish())
    };
    assert_eq!(read(&[bytes]), read(pieces));
}
