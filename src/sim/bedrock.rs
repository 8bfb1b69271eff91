//! Bedrock's runtime: converse, and invoke with Claude's own format. Streams are frames of AWS's event stream. The
//! model in the path is not looked at: every one is answered.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish};
use super::prompt::{self, TextBytes};
use crate::wire::event_stream;

/// One of the four operations.
pub(crate) struct Operation {
    path: &'static str,
    converse: bool,
    stream: bool,
}

pub(crate) const CONVERSE: Operation = Operation { path: "/converse", converse: true, stream: false };
pub(crate) const CONVERSE_STREAM: Operation =
    Operation { path: "/converse-stream", converse: true, stream: true };
pub(crate) const INVOKE: Operation = Operation { path: "/invoke", converse: false, stream: false };
pub(crate) const INVOKE_STREAM: Operation =
    Operation { path: "/invoke-with-response-stream", converse: false, stream: true };

impl Api for Operation {
    fn path(&self) -> &'static str {
        self.path
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let messages = request.messages.as_ref().ok_or_else(|| prompt::missing("messages"))?;
        let texts = messages.iter().map(|message| &message.content).chain(&request.system);
        let tokens = texts.map(|text| prompt::tokens_of(text.0).saturating_add(3));
        Ok(Wish {
            prompt_tokens: tokens.fold(0, u32::saturating_add),
            stream: self.stream,
            max_tokens: request.inference_config.max_tokens.or(request.max_tokens),
            choices: 1,
            ..Wish::default()
        })
    }

    fn stream_type(&self) -> &'static str {
        "application/vnd.amazon.eventstream"
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, reply: &Reply, _: u32, out: &mut BytesMut) {
        if self.converse {
            return put_event("messageStart", &json!({"role": "assistant"}), out);
        }
        let message = json!({
            "id": format!("msg_bdrk_{}", reply.id), "type": "message", "role": "assistant", "content": [],
            "model": reply.model, "stop_reason": null,
            "usage": {"input_tokens": reply.prompt_tokens, "output_tokens": 1},
        });
        put_chunk(&json!({"type": "message_start", "message": message}), out);
    }

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        let thinks = piece.from < reply.reasoning;
        let block = u8::from(reply.reasoning > 0 && !thinks);
        if piece.count > 0 {
            let words: String = reply.words(piece.choice, piece.from..piece.to()).collect();
            match (self.converse, thinks) {
                (true, true) => {
                    let delta = json!({"reasoningContent": {"text": words}});
                    put_event("contentBlockDelta", &json!({"contentBlockIndex": block, "delta": delta}), out);
                }
                (true, false) => {
                    let delta = json!({"text": words});
                    put_event("contentBlockDelta", &json!({"contentBlockIndex": block, "delta": delta}), out);
                }
                (false, _) => {
                    let channel = if thinks { "thinking" } else { "text" };
                    let delta = json!({"type": format!("{channel}_delta"), channel: words});
                    put_chunk(&json!({"type": "content_block_delta", "index": block, "delta": delta}), out);
                }
            }
        }
        let Some(finish) = piece.finish else { return };
        if self.converse {
            put_event("contentBlockStop", &json!({"contentBlockIndex": block}), out);
            put_event("messageStop", &json!({"stopReason": reason(finish)}), out);
        } else {
            let usage = json!({"output_tokens": reply.completion_tokens()});
            let delta = json!({"stop_reason": reason(finish), "stop_sequence": null});
            put_chunk(&json!({"type": "message_delta", "delta": delta, "usage": usage}), out);
        }
    }

    /// It stands in the last event.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, reply: &Reply, out: &mut BytesMut) {
        if self.converse {
            return put_event("metadata", &json!({"usage": usage(reply), "metrics": {"latencyMs": 1}}), out);
        }
        let metrics = json!({
            "inputTokenCount": reply.prompt_tokens, "outputTokenCount": reply.completion_tokens(),
            "invocationLatency": 1, "firstByteLatency": 1,
        });
        put_chunk(&json!({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics}), out);
    }

    /// It has none.
    fn comment(&self, _: &mut BytesMut) {}

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        let kind = [(":message-type", "exception"), (":exception-type", "internalServerException")];
        put_frame(&kind, &json!({"message": refusal.message}), out);
    }

    fn ends_failures(&self) -> bool {
        false
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let text: String = reply.words(0, reply.reasoning..reply.tokens).collect();
        let thought: String = reply.words(0, 0..reply.reasoning).collect();
        let mut content = Vec::new();
        if self.converse {
            if !thought.is_empty() {
                content.push(json!({"reasoningContent": {"reasoningText": {"text": thought}}}));
            }
            content.push(json!({"text": text}));
            let message = json!({"role": "assistant", "content": content});
            let answer = json!({
                "output": {"message": message}, "stopReason": reason(reply.finish), "usage": usage(reply),
                "metrics": {"latencyMs": 1},
            });
            return answer.to_string().into_bytes();
        }
        if !thought.is_empty() {
            content.push(json!({"type": "thinking", "thinking": thought, "signature": reply.id}));
        }
        content.push(json!({"type": "text", "text": text}));
        let usage = json!({"input_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens()});
        let answer = json!({
            "id": format!("msg_bdrk_{}", reply.id), "type": "message", "role": "assistant", "content": content,
            "model": reply.model, "stop_reason": reason(reply.finish), "usage": usage,
        });
        answer.to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        let kind = match refusal.status {
            StatusCode::NOT_FOUND => "ResourceNotFoundException",
            StatusCode::TOO_MANY_REQUESTS => "ThrottlingException",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailableException",
            status if status.is_client_error() => "ValidationException",
            _ => "InternalServerException",
        };
        json!({"__type": kind, "message": refusal.message}).to_string().into()
    }
}

fn usage(reply: &Reply) -> Value {
    let (input, output) = (reply.prompt_tokens, reply.completion_tokens());
    json!({"inputTokens": input, "outputTokens": output, "totalTokens": input.saturating_add(output)})
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
    }
}

fn put_event(name: &str, payload: &Value, out: &mut BytesMut) {
    put_frame(&[(":message-type", "event"), (":event-type", name)], payload, out);
}

fn put_chunk(payload: &Value, out: &mut BytesMut) {
    put_event("chunk", &json!({"bytes": base64(payload.to_string().as_bytes())}), out);
}

fn put_frame(kind: &[(&str, &str)], payload: &Value, out: &mut BytesMut) {
    let mut frame = Vec::new();
    event_stream::write(kind, payload.to_string().as_bytes(), &mut frame);
    out.put_slice(&frame);
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | three.get(at).copied().map_or(0, usize::from));
        for at in 0..4 {
            let letter = LETTERS.get(bits >> (18 - 6 * at) & 63).copied().map_or('=', char::from);
            text.push(if at > three.len() { '=' } else { letter });
        }
    }
    text
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    messages: Option<Vec<Message>>,
    system: Option<TextBytes>,
    #[serde(default)]
    inference_config: InferenceConfig,
    #[serde(rename = "max_tokens")]
    max_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: TextBytes,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct InferenceConfig {
    max_tokens: Option<u32>,
}
