//! Framing: how bytes on the wire are cut into events and members. Knows nothing of any API, keeps no time.

mod budget;
pub mod encoding;
pub mod event_stream;
mod inflate;
pub mod json;
pub mod json_array;
mod lexeme;
mod members;
pub mod ndjson;
pub mod skim;
pub mod sse;
pub mod websocket;

pub use budget::{Budget, Share};
pub use encoding::{Decoder, Encoding, Stop};
pub use event_stream::EventStream;
pub use json_array::JsonArray;
pub use lexeme::{is_blank, text_bytes};
pub use members::{Measure, Members, Wanted};
pub use ndjson::Ndjson;
pub use skim::Skim;
pub use sse::Sse;
pub use websocket::WebSocket;

/// One event of a stream, as its framing gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's name, where the framing has one and it was given.
    pub name: Option<&'a str>,
    /// What it carries.
    pub data: &'a [u8],
}

/// What a framing decoder gives out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A whole event.
    Event(Event<'a>),
    /// An event that was longer than the decoder holds; its bytes are gone, the next one is read as usual.
    TooLarge,
    /// A piece of the stream that is not what its framing says; its bytes are gone.
    Broken,
}
