//! Triton's generate extension: texts as they come, without usage and without a mark of the end.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Piece, Refusal, Reply, Wish};
use super::prompt::{self, TextBytes};

/// `/v2/models/MODEL/generate`, and `/generate_stream` where `stream`.
pub(crate) struct Generate {
    pub(crate) stream: bool,
}

impl Api for Generate {
    fn path(&self) -> &'static str {
        if self.stream { "/generate_stream" } else { "/generate" }
    }

    fn answers(&self, path: &str) -> bool {
        path.contains("/v2/models/") && path.ends_with(self.path())
    }

    fn model<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.rsplit_once("/v2/models/")?.1.split('/').next()
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let text = request.text_input.as_ref().ok_or_else(|| prompt::missing("text_input"))?;
        let max_tokens = request.max_tokens.or(request.parameters.max_tokens);
        let prompt_tokens = prompt::tokens_of(text.0);
        Ok(Wish { stream: self.stream, prompt_tokens, max_tokens, choices: 1, ..Wish::default() })
    }

    fn stream_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, _: &Reply, _: u32, _: &mut BytesMut) {}

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        if piece.count > 0 {
            event(&answer(reply, piece.from..piece.to()), out);
        }
    }

    /// It has none.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    /// The end of the body is the mark.
    fn done(&self, _: &Reply, _: &mut BytesMut) {}

    /// It has none.
    fn comment(&self, _: &mut BytesMut) {}

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        event(&json!({"error": refusal.message}), out);
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        answer(reply, 0..reply.tokens).to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        json!({"error": refusal.message}).to_string().into()
    }
}

fn event(json: &Value, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(json.to_string().as_bytes());
    out.put_slice(b"\n\n");
}

fn answer(reply: &Reply, places: std::ops::Range<u32>) -> Value {
    let text: String = reply.words(0, places).collect();
    json!({"model_name": reply.model, "model_version": "1", "text_output": text})
}

#[derive(Deserialize)]
struct Request {
    text_input: Option<TextBytes>,
    max_tokens: Option<u32>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize, Default)]
struct Parameters {
    max_tokens: Option<u32>,
}
