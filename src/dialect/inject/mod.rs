//! Usage that nobody asked for: how a request for an OpenAI-style stream is made to ask for it ([`ask()`]), how the one
//! event that this causes is taken out of the answer again ([`Cutter`]), and how a server says that it does not know
//! the option ([`refuses()`]). Bytes in, bytes out; who sends them is the data plane's.
//!
//! Format: <https://platform.openai.com/docs/api-reference/chat/create>, `stream_options`.

mod ask;
mod cut;

pub use ask::{Edit, ask};
pub use cut::Cutter;

/// Whether the body of a client error names what was put into the request.
pub fn refuses(body: &[u8]) -> bool {
    ["stream_options", "include_usage"]
        .iter()
        .any(|name| memchr::memmem::find(body, name.as_bytes()).is_some())
}
