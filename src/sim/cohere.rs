//! Cohere's chat, and its reranking with the usage that Jina and vLLM tell.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish, put};
use super::chance::Chance;
use super::prompt::{self, TextBytes};

/// `/v2/chat`.
pub(crate) struct Chat;

/// `…/rerank`.
pub(crate) struct Rerank;

const DOCUMENTS_LIMIT: u32 = 10_000; // Cohere's own

impl Api for Chat {
    fn path(&self) -> &'static str {
        "/v2/chat"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let messages = request.messages.as_ref().ok_or_else(|| prompt::missing("messages"))?;
        let tokens = messages.iter().map(|message| prompt::tokens_of(message.content.0).saturating_add(3));
        Ok(Wish {
            prompt_tokens: tokens.fold(0, u32::saturating_add),
            model: request.model,
            stream: request.stream.unwrap_or_default(),
            max_tokens: request.max_tokens,
            choices: 1,
            ..Wish::default()
        })
    }

    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, reply: &Reply, _: u32, out: &mut BytesMut) {
        let message =
            json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []});
        put_event("message-start", json!({"id": reply.id, "delta": {"message": message}}), out);
    }

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        if piece.count == 0 {
            return;
        }
        let thinks = piece.from < reply.reasoning;
        let index = u8::from(reply.reasoning > 0 && !thinks);
        let channel = if thinks { "thinking" } else { "text" };
        let mut put = |kind, content: Value| {
            put_event(kind, json!({"index": index, "delta": {"message": {"content": content}}}), out);
        };
        if piece.from == 0 || piece.from == reply.reasoning {
            put("content-start", json!({"type": channel, channel: ""}));
        }
        let words: String = reply.words(piece.choice, piece.from..piece.to()).collect();
        put("content-delta", json!({channel: words}));
    }

    /// It stands in the last event.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, reply: &Reply, out: &mut BytesMut) {
        let delta = json!({"finish_reason": reason(reply.finish), "usage": usage(reply)});
        put_event("message-end", json!({"id": reply.id, "delta": delta}), out);
    }

    /// It has none.
    fn comment(&self, _: &mut BytesMut) {}

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        let delta = json!({"finish_reason": "ERROR", "error": refusal.message});
        put_event("message-end", json!({"delta": delta}), out);
    }

    fn ends_failures(&self) -> bool {
        false
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let text: String = reply.words(0, reply.reasoning..reply.tokens).collect();
        let thought: String = reply.words(0, 0..reply.reasoning).collect();
        let mut content = Vec::new();
        if !thought.is_empty() {
            content.push(json!({"type": "thinking", "thinking": thought}));
        }
        content.push(json!({"type": "text", "text": text}));
        let answer = json!({
            "id": reply.id, "message": {"role": "assistant", "content": content},
            "finish_reason": reason(reply.finish), "usage": usage(reply),
        });
        answer.to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        error_body(refusal)
    }
}

impl Api for Rerank {
    fn path(&self) -> &'static str {
        "/rerank"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: RerankRequest = prompt::parse(body)?;
        let documents = request.documents.ok_or_else(|| prompt::missing("documents"))?;
        let count = u32::try_from(documents.len()).unwrap_or(u32::MAX);
        if !(1..=DOCUMENTS_LIMIT).contains(&count) {
            let message = format!("there must be 1 to {DOCUMENTS_LIMIT} documents, not {count}");
            return Err(Refusal::new(http::StatusCode::BAD_REQUEST, message).about("documents"));
        }
        let tokens = documents.iter().map(|text| prompt::tokens_of(text.0));
        let prompt_tokens = tokens.fold(prompt::tokens_of(request.query.0), u32::saturating_add);
        Ok(Wish {
            model: request.model,
            prompt_tokens,
            max_tokens: Some(0),
            choices: count,
            ..Wish::default()
        })
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
        let mut results: Vec<(u32, f64)> = (0..reply.choices)
            .map(|index| (index, Chance::of(reply.seed, u64::from(index)).fraction()))
            .collect();
        results.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let results: Vec<Value> = results
            .into_iter()
            .map(|(index, score)| json!({"index": index, "relevance_score": score}))
            .collect();
        let tokens = json!({"input_tokens": reply.prompt_tokens});
        let answer = json!({
            "id": reply.id, "model": reply.model, "results": results,
            "usage": {"prompt_tokens": reply.prompt_tokens, "total_tokens": reply.prompt_tokens},
            "meta": {"api_version": {"version": "2"}, "tokens": tokens, "billed_units": {"search_units": 1}},
        });
        answer.to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        error_body(refusal)
    }
}

fn error_body(refusal: &Refusal) -> Bytes {
    json!({"message": refusal.message}).to_string().into()
}

fn usage(reply: &Reply) -> Value {
    let counts = json!({"input_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens()});
    json!({"billed_units": counts, "tokens": counts})
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "COMPLETE",
        Finish::Length => "MAX_TOKENS",
    }
}

fn put_event(kind: &str, mut event: Value, out: &mut BytesMut) {
    if let Some(members) = event.as_object_mut() {
        members.insert("type".to_owned(), kind.into());
    }
    put(out, format_args!("event: {kind}\ndata: {event}\n"));
    out.put_u8(b'\n');
}

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    stream: Option<bool>,
    max_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: TextBytes,
}

#[derive(Deserialize)]
struct RerankRequest {
    model: Option<String>,
    #[serde(default)]
    query: TextBytes,
    documents: Option<Vec<TextBytes>>,
}
