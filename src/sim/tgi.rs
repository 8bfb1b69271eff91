//! TGI's own stream: an event for each token, the details with the last one.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish, put};
use super::prompt::{self, TextBytes};

/// `/generate_stream`.
pub(crate) struct Stream;

impl Api for Stream {
    fn path(&self) -> &'static str {
        "/generate_stream"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let inputs = request.inputs.as_ref().ok_or_else(|| prompt::missing("inputs"))?;
        let max_tokens = request.parameters.max_new_tokens;
        let prompt_tokens = prompt::tokens_of(inputs.0);
        Ok(Wish { stream: true, prompt_tokens, max_tokens, choices: 1, ..Wish::default() })
    }

    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, _: &Reply, _: u32, _: &mut BytesMut) {}

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        let last = piece.to().saturating_sub(1);
        for (place, word) in (piece.from..).zip(reply.words(piece.choice, piece.from..piece.to())) {
            let finish = piece.finish.filter(|_| place == last);
            event(reply, place.saturating_add(1), word, false, finish, out);
        }
        if piece.count == 0 {
            event(reply, piece.from.saturating_add(1), "</s>", true, piece.finish, out);
        }
    }

    /// It stands in the last event.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    /// The last event is the mark.
    fn done(&self, _: &Reply, _: &mut BytesMut) {}

    fn comment(&self, out: &mut BytesMut) {
        out.put_slice(b":\n\n");
    }

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        out.put_slice(b"data:");
        out.put_slice(&self.refusal(refusal));
        out.put_slice(b"\n\n");
    }

    fn ends_failures(&self) -> bool {
        false
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        json!({"generated_text": text(reply), "details": details(reply, reply.finish)})
            .to_string()
            .into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        let kind = match refusal.status.as_u16() {
            429 => "overloaded",
            400..500 => "validation",
            _ => "generation",
        };
        json!({"error": refusal.message, "error_type": kind}).to_string().into()
    }
}

fn event(reply: &Reply, index: u32, word: &str, special: bool, finish: Option<Finish>, out: &mut BytesMut) {
    let token = format_args!(
        r#"data:{{"index":{index},"token":{{"id":{},"text":"{word}","logprob":-0.5,"special":{special}}},"#,
        100 + index
    );
    put(out, token);
    match finish {
        Some(finish) => {
            let (text, details) = (Value::from(text(reply)), details(reply, finish));
            put(out, format_args!("\"generated_text\":{text},\"details\":{details}}}\n\n"));
        }
        None => out.put_slice(b"\"generated_text\":null,\"details\":null}\n\n"),
    }
}

fn text(reply: &Reply) -> String {
    reply.words(0, 0..reply.tokens).collect()
}

fn details(reply: &Reply, finish: Finish) -> Value {
    let reason = match finish {
        Finish::Stop => "eos_token",
        Finish::Length => "length",
    };
    let (tokens, input) = (reply.tokens, reply.prompt_tokens);
    json!({"finish_reason": reason, "generated_tokens": tokens, "seed": null, "input_length": input})
}

#[derive(Deserialize)]
struct Request {
    inputs: Option<TextBytes>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize, Default)]
struct Parameters {
    max_new_tokens: Option<u32>,
}
