//! OpenAI's embeddings in the shape that llama.cpp gives them, and Ollama's. They are whole answers only.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Piece, Refusal, Reply, Wish};
use super::chance::Chance;
use super::openai;
use super::prompt;

/// `/v1/embeddings`.
pub(crate) struct Embeddings;

const DIMENSIONS: u64 = 640; // of a small model
const INPUTS_LIMIT: u32 = 2048; // OpenAI's own; bounds an answer to some 16 MB

impl Api for Embeddings {
    fn path(&self) -> &'static str {
        "/v1/embeddings"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        read(body)
    }

    fn stream_type(&self) -> &'static str {
        "application/json"
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, _: &Reply, _: u32, _: &mut BytesMut) {}

    fn piece(&self, _: &Reply, _: &Piece, _: &mut BytesMut) {}

    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, _: &Reply, _: &mut BytesMut) {}

    fn comment(&self, _: &mut BytesMut) {}

    fn failure(&self, _: &Refusal, _: &mut BytesMut) {}

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let data: Vec<Value> = (0..reply.choices)
            .map(|index| json!({"embedding": vector(reply.seed, index), "index": index, "object": "embedding"}))
            .collect();
        let mut answer = json!({"model": reply.model, "object": "list", "data": data});
        if let (true, Value::Object(members)) = (reply.usage.in_whole, &mut answer) {
            let tokens = reply.prompt_tokens;
            members.insert("usage".to_owned(), json!({"prompt_tokens": tokens, "total_tokens": tokens}));
        }
        answer.to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        openai::error_body(refusal)
    }
}

/// Ollama's `/api/embed`.
pub(crate) struct OllamaEmbed;

impl Api for OllamaEmbed {
    fn path(&self) -> &'static str {
        "/api/embed"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        read(body)
    }

    fn stream_type(&self) -> &'static str {
        "application/json; charset=utf-8"
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, _: &Reply, _: u32, _: &mut BytesMut) {}

    fn piece(&self, _: &Reply, _: &Piece, _: &mut BytesMut) {}

    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, _: &Reply, _: &mut BytesMut) {}

    fn comment(&self, _: &mut BytesMut) {}

    fn failure(&self, _: &Refusal, _: &mut BytesMut) {}

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let vectors: Vec<_> = (0..reply.choices).map(|index| vector(reply.seed, index)).collect();
        let mut answer = json!({"model": reply.model, "embeddings": vectors, "total_duration": 1_000_000});
        if let (true, Value::Object(members)) = (reply.usage.in_whole, &mut answer) {
            members.insert("prompt_eval_count".to_owned(), reply.prompt_tokens.into());
        }
        answer.to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        json!({"error": refusal.message}).to_string().into()
    }
}

fn read(body: &[u8]) -> Result<Wish, Refusal> {
    let request: Request = prompt::parse(body)?;
    let input = request.input.as_ref().ok_or_else(|| prompt::missing("input"))?;
    let (prompt_tokens, inputs) = prompt::weigh(input).ok_or_else(|| prompt::missing("input"))?;
    if !(1..=INPUTS_LIMIT).contains(&inputs) {
        let message = format!("there must be 1 to {INPUTS_LIMIT} inputs, not {inputs}");
        return Err(Refusal::new(http::StatusCode::BAD_REQUEST, message).about("input"));
    }
    // No token is generated: the answer comes when the prompt has been read.
    let (choices, max_tokens) = (inputs, Some(0));
    Ok(Wish { model: request.model, prompt_tokens, max_tokens, choices, ..Wish::default() })
}

/// Numbers between -0.5 and 0.5.
fn vector(seed: u64, index: u32) -> Vec<f64> {
    let mut chance = Chance::of(seed, u64::from(index));
    (0..DIMENSIONS).map(|_| chance.fraction() - 0.5).collect()
}

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    input: Option<Value>,
}
