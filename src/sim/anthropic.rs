//! Anthropic's messages in the shape that vLLM 0.32 gives them.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish, put};
use super::prompt::{self, TextBytes};
use super::rate_limit::Standing;
use crate::clock::Clock;

/// `/v1/messages`.
pub(crate) struct Messages;

impl Api for Messages {
    fn path(&self) -> &'static str {
        "/v1/messages"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let messages = request.messages.as_ref().ok_or_else(|| prompt::missing("body.messages"))?;
        let max_tokens = request.max_tokens.ok_or_else(|| prompt::missing("body.max_tokens"))?;
        let texts = messages.iter().map(|message| &message.content).chain(&request.system);
        let tokens = texts.map(|text| prompt::tokens_of(text.0).saturating_add(3));
        Ok(Wish {
            prompt_tokens: tokens.fold(0, u32::saturating_add),
            model: request.model,
            stream: request.stream.unwrap_or_default(),
            max_tokens: Some(max_tokens),
            choices: 1,
            ..Wish::default()
        })
    }

    fn stream_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, reply: &Reply, _: u32, out: &mut BytesMut) {
        let model = Value::from(reply.model.as_str());
        let usage = match reply.usage.in_whole {
            true => format!(r#","usage":{{"input_tokens":{},"output_tokens":0}}"#, reply.prompt_tokens),
            false => String::new(),
        };
        let nothing = r#""content":[],"model""#;
        let stops = r#","stop_reason":null,"stop_sequence":null"#;
        let message = format!(
            r#"{{"id":"msg_{}","type":"message","role":"assistant",{nothing}:{model}{stops}{usage}}}"#,
            reply.id
        );
        put_event(out, "message_start", format_args!(r#","message":{message}"#));
    }

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        let block = u8::from(reply.reasoning > 0 && piece.from >= reply.reasoning);
        if piece.count > 0 {
            let channel = if piece.from < reply.reasoning { "thinking" } else { "text" };
            if piece.from == reply.reasoning && block == 1 {
                end_thinking(reply, out);
            }
            if piece.from == 0 || piece.from == reply.reasoning {
                let start =
                    format_args!(r#","content_block":{{"type":"{channel}","{channel}":""}},"index":{block}"#);
                put_event(out, "content_block_start", start);
            }
            let words: String = reply.words(piece.choice, piece.from..piece.to()).collect();
            let delta = format_args!(
                r#","delta":{{"type":"{channel}_delta","{channel}":"{words}"}},"index":{block}"#
            );
            put_event(out, "content_block_delta", delta);
        }
        if let Some(finish) = piece.finish {
            if reply.tokens > 0 && reply.tokens == reply.reasoning {
                end_thinking(reply, out);
            } else if reply.tokens > 0 {
                put_event(out, "content_block_stop", format_args!(r#","index":{block}"#));
            }
            let stop = format!(r#","delta":{{"stop_reason":"{}","stop_sequence":null}}"#, reason(finish));
            let (input, output) = (reply.prompt_tokens, reply.completion_tokens());
            let usage = match reply.usage.in_whole {
                true => format!(r#","usage":{{"input_tokens":{input},"output_tokens":{output}}}"#),
                false => String::new(),
            };
            put_event(out, "message_delta", format_args!("{stop}{usage}"));
        }
    }

    /// It stands in `message_delta`.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, _: &Reply, out: &mut BytesMut) {
        put_event(out, "message_stop", format_args!(""));
    }

    fn comment(&self, out: &mut BytesMut) {
        put_event(out, "ping", format_args!(""));
    }

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        out.put_slice(b"event: error\ndata: ");
        out.put_slice(&self.refusal(refusal));
        out.put_slice(b"\n\n");
    }

    fn ends_failures(&self) -> bool {
        false
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let text: String = reply.words(0, reply.reasoning..reply.tokens).collect();
        let thought: String = reply.words(0, 0..reply.reasoning).collect();
        let mut content = Vec::new();
        if !thought.is_empty() {
            content.push(json!({"type": "thinking", "thinking": thought, "signature": reply.id}));
        }
        if !text.is_empty() {
            content.push(json!({"type": "text", "text": text}));
        }
        let mut answer = json!({
            "id": format!("msg_{}", reply.id), "type": "message", "role": "assistant", "content": content,
            "model": reply.model, "stop_reason": reason(reply.finish),
        });
        if let (true, Value::Object(members)) = (reply.usage.in_whole, &mut answer) {
            let usage =
                json!({"input_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens()});
            members.insert("usage".to_owned(), usage);
        }
        answer.to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        let kind = match refusal.status {
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": refusal.message}}).to_string().into()
    }

    fn limits(&self, standing: &Standing, headers: &mut HeaderMap, clock: &Clock) {
        standing.put_anthropic(headers, clock);
    }
}

fn end_thinking(reply: &Reply, out: &mut BytesMut) {
    let signature =
        format_args!(r#","delta":{{"type":"signature_delta","signature":"{}"}},"index":0"#, reply.id);
    put_event(out, "content_block_delta", signature);
    put_event(out, "content_block_stop", format_args!(r#","index":0"#));
}

fn put_event(out: &mut BytesMut, name: &str, members: std::fmt::Arguments<'_>) {
    put(out, format_args!("event: {name}\ndata: {{\"type\":\"{name}\"{members}}}\n\n"));
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
    }
}

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    system: Option<TextBytes>,
    stream: Option<bool>,
    max_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: TextBytes,
}
