//! Ollama's chat and generate: lines of JSON. Durations are left out.

use std::time::{Duration, SystemTime};

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish, put};
use super::prompt::{self, TextBytes};

/// `/api/chat`.
pub(crate) struct Chat;

/// `/api/generate`.
pub(crate) struct Generate;

const STREAM_TYPE: &str = "application/x-ndjson";

impl Api for Chat {
    fn path(&self) -> &'static str {
        "/api/chat"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let messages = request.messages.as_ref().ok_or_else(|| prompt::missing("messages"))?;
        let tokens = messages.iter().map(|message| prompt::tokens_of(message.content.0).saturating_add(3));
        let tokens = tokens.fold(0, u32::saturating_add);
        Ok(request.wish(tokens))
    }

    fn stream_type(&self) -> &'static str {
        STREAM_TYPE
    }

    fn lead(&self, reply: &Reply) -> Vec<u8> {
        lead(reply)
    }

    fn open(&self, _: &Reply, _: u32, _: &mut BytesMut) {}

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        if piece.count == 0 {
            return;
        }
        let words: String = reply.words(piece.choice, piece.from..piece.to()).collect();
        out.put_slice(&reply.lead);
        let message = match piece.from < reply.reasoning {
            true => format!(r#"{{"role":"assistant","content":"","thinking":"{words}"}}"#),
            false => format!(r#"{{"role":"assistant","content":"{words}"}}"#),
        };
        put(out, format_args!(",\"message\":{message},\"done\":false}}\n"));
    }

    /// It stands in the last line.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, reply: &Reply, out: &mut BytesMut) {
        out.put_slice(&reply.lead);
        out.put_slice(br#","message":{"role":"assistant","content":""}"#);
        end(reply, out);
    }

    /// It has none.
    fn comment(&self, _: &mut BytesMut) {}

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        failure(refusal, out);
    }

    fn ends_failures(&self) -> bool {
        false
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let (thought, text) = texts(reply);
        let mut message = json!({"role": "assistant", "content": text});
        if let (false, Value::Object(members)) = (thought.is_empty(), &mut message) {
            members.insert("thinking".to_owned(), thought.into());
        }
        whole(reply, format_args!(r#","message":{message}"#))
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        error_body(refusal)
    }
}

impl Api for Generate {
    fn path(&self) -> &'static str {
        "/api/generate"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let prompt = request.prompt.as_ref().ok_or_else(|| prompt::missing("prompt"))?;
        let tokens = prompt::tokens_of(prompt.0);
        Ok(request.wish(tokens))
    }

    fn stream_type(&self) -> &'static str {
        STREAM_TYPE
    }

    fn lead(&self, reply: &Reply) -> Vec<u8> {
        lead(reply)
    }

    fn open(&self, _: &Reply, _: u32, _: &mut BytesMut) {}

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        if piece.count == 0 {
            return;
        }
        let words: String = reply.words(piece.choice, piece.from..piece.to()).collect();
        out.put_slice(&reply.lead);
        match piece.from < reply.reasoning {
            true => put(out, format_args!(r#","response":"","thinking":"{words}""#)),
            false => put(out, format_args!(r#","response":"{words}""#)),
        }
        out.put_slice(b",\"done\":false}\n");
    }

    /// It stands in the last line.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, reply: &Reply, out: &mut BytesMut) {
        out.put_slice(&reply.lead);
        out.put_slice(br#","response":"""#);
        end(reply, out);
    }

    /// It has none.
    fn comment(&self, _: &mut BytesMut) {}

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        failure(refusal, out);
    }

    fn ends_failures(&self) -> bool {
        false
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let (thought, text) = texts(reply);
        let thinking = match thought.is_empty() {
            true => String::new(),
            false => format!(r#","thinking":"{thought}""#),
        };
        whole(reply, format_args!(r#","response":"{text}"{thinking}"#))
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        error_body(refusal)
    }
}

fn lead(reply: &Reply) -> Vec<u8> {
    let created = SystemTime::UNIX_EPOCH + Duration::from_secs(reply.created);
    let (model, created) = (Value::from(reply.model.as_str()), humantime::format_rfc3339_nanos(created));
    format!(r#"{{"model":{model},"created_at":"{created}""#).into_bytes()
}

/// Thinking and answer.
fn texts(reply: &Reply) -> (String, String) {
    (reply.words(0, 0..reply.reasoning).collect(), reply.words(0, reply.reasoning..reply.tokens).collect())
}

fn end(reply: &Reply, out: &mut BytesMut) {
    let reason = match reply.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    put(out, format_args!(r#","done":true,"done_reason":"{reason}""#));
    if reply.usage.in_whole {
        let (input, output) = (reply.prompt_tokens, reply.completion_tokens());
        put(out, format_args!(r#","prompt_eval_count":{input},"eval_count":{output}"#));
    }
    out.put_slice(b"}\n");
}

fn whole(reply: &Reply, members: std::fmt::Arguments<'_>) -> Vec<u8> {
    let mut out = BytesMut::from(lead(reply).as_slice());
    put(&mut out, members);
    end(reply, &mut out);
    out.to_vec()
}

fn failure(refusal: &Refusal, out: &mut BytesMut) {
    out.put_slice(&error_body(refusal));
    out.put_slice(b"\n");
}

fn error_body(refusal: &Refusal) -> Bytes {
    json!({"error": refusal.message}).to_string().into()
}

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    prompt: Option<TextBytes>,
    stream: Option<bool>,
    #[serde(default)]
    options: Options,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: TextBytes,
}

#[derive(Deserialize, Default)]
struct Options {
    /// Negative where there is no limit.
    num_predict: Option<i64>,
}

impl Request {
    fn wish(self, prompt_tokens: u32) -> Wish {
        Wish {
            model: self.model,
            stream: self.stream.unwrap_or(true),
            prompt_tokens,
            max_tokens: self.options.num_predict.and_then(|limit| u32::try_from(limit).ok()),
            choices: 1,
            ..Wish::default()
        }
    }
}
