//! OpenAI Realtime, as far as text goes: the events of one response, and what a session remembers. Absent: sound.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish, put};
use super::openai;
use super::prompt::{self, TextBytes};

/// A response of `/v1/realtime`. Its events are messages of a session, and never an answer over HTTP.
pub(super) struct Realtime;

impl Api for Realtime {
    fn path(&self) -> &'static str {
        "/v1/realtime"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let Create { response } = prompt::parse(body)?;
        let response = response.unwrap_or_default();
        let text = response.instructions.map_or(0, |text| text.len());
        let items = response.input.into_iter().flatten().map(|item| item.content.0);
        let most = match response.max_output_tokens {
            None => None,
            Some(Value::String(inf)) if inf == "inf" => None,
            Some(most) => {
                let wrong = "response.max_output_tokens: expected an integer or \"inf\"";
                let number = most.as_u64().and_then(|most| u32::try_from(most).ok());
                Some(number.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, wrong))?)
            }
        };
        let prompt_tokens = prompt::tokens_of(items.fold(text, usize::saturating_add));
        Ok(Wish { stream: true, prompt_tokens, max_tokens: most, choices: 1, ..Wish::default() })
    }

    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, reply: &Reply, _: u32, out: &mut BytesMut) {
        put_event(out, reply, "response.created", &json!({"response": response(reply, "in_progress")}));
    }

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        if piece.count > 0 {
            if piece.from == 0 {
                let item = item(reply, "in_progress", None);
                put_event(out, reply, "response.output_item.added", &at(reply, &json!({"item": item})));
                let part = json!({"type": "text", "text": ""});
                put_event(out, reply, "response.content_part.added", &in_part(reply, &json!({"part": part})));
            }
            let words: String = reply.words(0, piece.from..piece.to()).collect();
            put_event(out, reply, "response.output_text.delta", &in_part(reply, &json!({"delta": words})));
        }
        if piece.finish.is_some() && reply.tokens > 0 {
            let text = text(reply);
            put_event(out, reply, "response.output_text.done", &in_part(reply, &json!({"text": text})));
            let part = json!({"type": "text", "text": text});
            put_event(out, reply, "response.content_part.done", &in_part(reply, &json!({"part": part})));
            let item = item(reply, "completed", Some(&text));
            put_event(out, reply, "response.output_item.done", &at(reply, &json!({"item": item})));
        }
    }

    /// It stands in the response that is over.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, reply: &Reply, out: &mut BytesMut) {
        let status = match reply.finish {
            Finish::Stop => "completed",
            Finish::Length => "incomplete",
        };
        put_event(out, reply, "response.done", &json!({"response": response(reply, status)}));
    }

    fn comment(&self, out: &mut BytesMut) {
        out.put_slice(b": nothing\n\n");
    }

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        let error = json!({"type": "server_error", "code": "server_error", "message": refusal.message});
        let details = json!({"type": "failed", "error": error});
        let response = json!({"object": "realtime.response", "status": "failed", "status_details": details});
        put(out, format_args!("data: {}\n\n", json!({"type": "response.done", "response": response})));
    }

    fn ends_failures(&self) -> bool {
        false
    }

    fn whole(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        openai::error_body(refusal)
    }
}

/// The last event of a response that was stopped after so many tokens.
pub(super) fn cancelled(reply: &Reply, tokens: u32) -> String {
    let stopped = Reply { tokens, ..reply.clone() };
    json!({"type": "response.done", "event_id": event_id(reply), "response": response(&stopped, "cancelled")})
        .to_string()
}

/// The tokens that an item adds to a session, by the event that brings it.
pub(super) fn tokens_of_item(message: &[u8]) -> u32 {
    #[derive(Deserialize)]
    struct Added {
        #[serde(rename = "type")]
        kind: String,
        item: Item,
    }
    let added = serde_json::from_slice::<Added>(message).ok();
    let added = added.filter(|added| added.kind == "conversation.item.create");
    added.map_or(0, |added| prompt::tokens_of(added.item.content.0))
}

fn event_id(reply: &Reply) -> String {
    format!("event_{}", reply.id)
}

fn text(reply: &Reply) -> String {
    reply.words(0, 0..reply.tokens).collect()
}

fn item(reply: &Reply, status: &str, text: Option<&str>) -> Value {
    let content: Vec<_> = text.map(|text| json!({"type": "output_text", "text": text})).into_iter().collect();
    json!({"id": format!("item_{}", reply.id), "object": "realtime.item", "type": "message", "status": status,
        "role": "assistant", "content": content})
}

/// Members of an event of the only item, besides its own.
fn at(reply: &Reply, own: &Value) -> Value {
    with(own, &json!({"response_id": response_id(reply), "output_index": 0}))
}

fn in_part(reply: &Reply, own: &Value) -> Value {
    let place = json!({"item_id": format!("item_{}", reply.id), "content_index": 0});
    at(reply, &with(own, &place))
}

fn with(own: &Value, more: &Value) -> Value {
    let members = own.as_object().into_iter().chain(more.as_object()).flatten();
    Value::Object(members.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn response_id(reply: &Reply) -> String {
    format!("resp_{}", reply.id)
}

/// The response as it is by now; one that is over has its usage.
fn response(reply: &Reply, status: &str) -> Value {
    let is_over = status != "in_progress";
    let reason = match status {
        "incomplete" => json!("max_output_tokens"),
        "cancelled" => json!("client_cancelled"),
        _ => Value::Null,
    };
    let (input, output) = (reply.prompt_tokens, reply.completion_tokens());
    let usage = json!({
        "total_tokens": input.saturating_add(output), "input_tokens": input, "output_tokens": output,
        "input_token_details": {"text_tokens": input, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 0,
            "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}},
        "output_token_details": {"text_tokens": output, "audio_tokens": 0},
    });
    let text = text(reply);
    let items =
        if is_over && reply.tokens > 0 { vec![item(reply, "completed", Some(&text))] } else { Vec::new() };
    json!({
        "object": "realtime.response", "id": response_id(reply), "status": status,
        "status_details": if is_over { json!({"type": status, "reason": reason}) } else { Value::Null },
        "output": items, "conversation_id": "conv_sim", "output_modalities": ["text"],
        "max_output_tokens": "inf", "usage": if is_over && reply.usage.in_whole { usage } else { Value::Null },
        "metadata": null,
    })
}

fn put_event(out: &mut BytesMut, reply: &Reply, kind: &str, own: &Value) {
    let event = with(own, &json!({"type": kind, "event_id": event_id(reply)}));
    put(out, format_args!("data: {event}\n\n"));
}

#[derive(Deserialize)]
struct Create {
    response: Option<Asked>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Asked {
    instructions: Option<String>,
    input: Option<Vec<Item>>,
    max_output_tokens: Option<Value>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    content: TextBytes,
}
