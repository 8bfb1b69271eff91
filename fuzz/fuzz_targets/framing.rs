//! Whatever bytes come: every framing and encoding gives out the same for them in one piece and cut in two, and gives
//! out no more than it may. The first byte selects which, the second where it is cut.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use streamgauge::dialect::DIALECTS;
use streamgauge::wire::encoding::MEMORY_IN_ALL;
use streamgauge::wire::{Budget, Decoder, Encoding, Framed, Ndjson, Skim, Sse, Wanted};

fuzz_target!(|input: &[u8]| {
    let [which, place, bytes @ ..] = input else { return };
    let cut = bytes.len() * usize::from(*place) / 255;
    let pieces = [&bytes[..cut], &bytes[cut..]];
    match which % 8 {
        0 => assert_eq!(sse(&[bytes]), sse(&pieces)),
        1 => assert_eq!(ndjson(&[bytes]), ndjson(&pieces)),
        2 => decoded("gzip", bytes, &pieces),
        3 => decoded("deflate", bytes, &pieces),
        4 => decoded("br", bytes, &pieces),
        5 => decoded("zstd", bytes, &pieces),
        6 => DIALECTS.iter().for_each(|dialect| skimmed(dialect.request_members(), bytes, &pieces)),
        _ => DIALECTS.iter().for_each(|dialect| skimmed(dialect.body_members(), bytes, &pieces)),
    }
});

/// An event's name and data; nothing where one was too large.
type Event = Option<(Option<String>, Vec<u8>)>;

fn event(framed: &Framed<'_>) -> Event {
    match framed {
        Framed::Event(event) => Some((event.name.map(str::to_owned), event.data.to_vec())),
        Framed::TooLarge => None,
    }
}

fn sse(pieces: &[&[u8]]) -> Vec<Event> {
    let (mut framing, mut events) = (Sse::default(), Vec::new());
    pieces.iter().for_each(|piece| framing.push(piece, &mut |framed| events.push(event(&framed))));
    framing.finish(&mut |framed| events.push(event(&framed)));
    events
}

fn ndjson(pieces: &[&[u8]]) -> Vec<Event> {
    let (mut framing, mut events) = (Ndjson::default(), Vec::new());
    pieces.iter().for_each(|piece| framing.push(piece, &mut |framed| events.push(event(&framed))));
    framing.finish(&mut |framed| events.push(event(&framed)));
    events
}

/// What an encoding holds, and whether it could be read to the end. How far a bomb is read depends on the pieces.
fn decoded(name: &str, bytes: &[u8], pieces: &[&[u8]]) {
    let read = |pieces: &[&[u8]]| {
        let Ok(mut decoder) = Decoder::new(Encoding::of(name), &Arc::new(Budget::new(MEMORY_IN_ALL))) else {
            panic!("{name} cannot be read");
        };
        let mut plain = Vec::new();
        let fine = pieces.iter().all(|piece| decoder.push(piece, &mut |more| plain.extend_from_slice(more)).is_ok());
        (plain, fine)
    };
    let (whole, cut) = (read(&[bytes]), read(pieces));
    if whole.1 && cut.1 {
        assert_eq!(whole.0, cut.0);
    }
}

fn skimmed(wanted: &'static Wanted, bytes: &[u8], pieces: &[&[u8]]) {
    let read = |pieces: &[&[u8]]| {
        let mut skim = Skim::new(wanted);
        pieces.iter().for_each(|piece| skim.push(piece));
        format!("{:?}", skim.finish())
    };
    assert_eq!(read(&[bytes]), read(pieces));
}
