//! OpenAI's responses in the shape that vLLM 0.32 gives them, but for `response.incomplete`, which is OpenAI's.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish, put};
use super::openai;
use super::prompt::{self, TextBytes};

/// `/v1/responses`.
pub(crate) struct Responses;

impl Api for Responses {
    fn path(&self) -> &'static str {
        "/v1/responses"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let input = request.input.as_ref().ok_or_else(|| prompt::missing("body.input"))?;
        let tokens = match input {
            Input::Text(text) => prompt::tokens_of(text.len()).saturating_add(3),
            Input::Items(items) => {
                let tokens = items.iter().map(|item| prompt::tokens_of(item.content.0).saturating_add(3));
                tokens.fold(0, u32::saturating_add)
            }
        };
        let instructions = request.instructions.map_or(0, |text| prompt::tokens_of(text.len()));
        Ok(Wish {
            prompt_tokens: tokens.saturating_add(instructions),
            model: request.model,
            stream: request.stream.unwrap_or_default(),
            max_tokens: request.max_output_tokens,
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
        for name in ["response.created", "response.in_progress"] {
            put_event(out, name, &json!({"response": response(reply, "in_progress", &[])}));
        }
    }

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        if piece.count > 0 {
            let channel = Channel::of(reply, piece.from);
            if piece.from == channel.start(reply) {
                if piece.from > 0 {
                    Channel::Reasoning.end(reply, out);
                }
                channel.begin(reply, out);
            }
            let words: String = reply.words(0, piece.from..piece.to()).collect();
            let (index, id) = (channel.index(reply), channel.item_id(reply));
            let logprobs = if channel == Channel::Text { r#","logprobs":[]"# } else { "" };
            let delta = channel.event();
            put(
                out,
                format_args!(
                    "event: response.{delta}.delta\ndata: {{\"content_index\":0,\"delta\":\"{words}\",\
                     \"item_id\":\"{id}\"{logprobs},\"output_index\":{index},\"sequence_number\":{},\
                     \"type\":\"response.{delta}.delta\"}}\n\n",
                    piece.from
                ),
            );
        }
        if piece.finish.is_some() && reply.tokens > 0 {
            Channel::of(reply, reply.tokens.saturating_sub(1)).end(reply, out);
        }
    }

    /// It stands in the response that is over.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, reply: &Reply, out: &mut BytesMut) {
        let status = status(reply.finish);
        let response = response(reply, status, &items(reply));
        put_event(out, &format!("response.{status}"), &json!({"response": response}));
    }

    fn comment(&self, out: &mut BytesMut) {
        out.put_slice(b":\n\n");
    }

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        let error = json!({"code": "server_error", "message": refusal.message, "param": refusal.param});
        put_event(out, "error", &error);
    }

    fn ends_failures(&self) -> bool {
        false
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        response(reply, status(reply.finish), &items(reply)).to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        openai::error_body(refusal)
    }
}

/// An item of the output: thoughts first, then text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Reasoning,
    Text,
}

impl Channel {
    /// Of a token.
    fn of(reply: &Reply, place: u32) -> Self {
        if place < reply.reasoning { Self::Reasoning } else { Self::Text }
    }

    fn places(self, reply: &Reply) -> std::ops::Range<u32> {
        match self {
            Self::Reasoning => 0..reply.reasoning,
            Self::Text => reply.reasoning..reply.tokens,
        }
    }

    fn start(self, reply: &Reply) -> u32 {
        self.places(reply).start
    }

    fn index(self, reply: &Reply) -> u32 {
        u32::from(self == Self::Text && reply.reasoning > 0)
    }

    fn item_id(self, reply: &Reply) -> String {
        let prefix = if self == Self::Reasoning { "rs" } else { "msg" };
        format!("{prefix}_{}", reply.id)
    }

    /// What its events are called.
    fn event(self) -> &'static str {
        match self {
            Self::Reasoning => "reasoning_text",
            Self::Text => "output_text",
        }
    }

    fn part(self, text: &str) -> Value {
        match self {
            Self::Reasoning => json!({"text": text, "type": self.event()}),
            Self::Text => json!({"annotations": [], "logprobs": [], "text": text, "type": self.event()}),
        }
    }

    fn item(self, reply: &Reply, status: &str, content: &[Value]) -> Value {
        let id = self.item_id(reply);
        match self {
            Self::Reasoning => {
                json!({"id": id, "summary": [], "type": "reasoning", "content": content, "status": status})
            }
            Self::Text => {
                json!({"id": id, "content": content, "role": "assistant", "status": status, "type": "message"})
            }
        }
    }

    fn text(self, reply: &Reply) -> String {
        reply.words(0, self.places(reply)).collect()
    }

    fn begin(self, reply: &Reply, out: &mut BytesMut) {
        let (index, item) = (self.index(reply), self.item(reply, "in_progress", &[]));
        put_event(out, "response.output_item.added", &json!({"item": item, "output_index": index}));
        let part = json!({"content_index": 0, "item_id": self.item_id(reply), "output_index": index,
            "part": self.part("")});
        put_event(out, "response.content_part.added", &part);
    }

    fn end(self, reply: &Reply, out: &mut BytesMut) {
        let (index, id, text) = (self.index(reply), self.item_id(reply), self.text(reply));
        let done = json!({"content_index": 0, "item_id": id, "output_index": index, "text": text});
        put_event(out, &format!("response.{}.done", self.event()), &done);
        let part = self.part(&text);
        let done = json!({"content_index": 0, "item_id": id, "output_index": index, "part": part});
        put_event(out, "response.content_part.done", &done);
        let item = self.item(reply, "completed", &[part]);
        put_event(out, "response.output_item.done", &json!({"item": item, "output_index": index}));
    }
}

fn items(reply: &Reply) -> Vec<Value> {
    let channels = [Channel::Reasoning, Channel::Text].into_iter();
    let said = channels.filter(|channel| !channel.places(reply).is_empty());
    said.map(|channel| channel.item(reply, "completed", &[channel.part(&channel.text(reply))])).collect()
}

/// The response as it is by now; an answer that is over has its usage.
fn response(reply: &Reply, status: &str, output: &[Value]) -> Value {
    let details = match status {
        "incomplete" => json!({"reason": "max_output_tokens"}),
        _ => Value::Null,
    };
    let (input, output_tokens) = (reply.prompt_tokens, reply.completion_tokens());
    let usage = match reply.usage.in_whole && status != "in_progress" {
        true => json!({
            "input_tokens": input, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": output_tokens, "output_tokens_details": {"reasoning_tokens": reply.reasoning},
            "total_tokens": input.saturating_add(output_tokens),
        }),
        false => Value::Null,
    };
    json!({
        "id": format!("resp_{}", reply.id), "created_at": reply.created, "incomplete_details": details,
        "instructions": null, "metadata": null, "model": reply.model, "object": "response", "output": output,
        "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "background": false, "service_tier": "auto", "status": status, "error": null, "usage": usage,
    })
}

fn status(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "completed",
        Finish::Length => "incomplete",
    }
}

/// Writes an event whose data has these members and its name. Where it stands among the others is left out.
fn put_event(out: &mut BytesMut, name: &str, members: &Value) {
    let mut members = members.clone();
    if let Value::Object(members) = &mut members {
        members.insert("sequence_number".to_owned(), json!(0));
        members.insert("type".to_owned(), json!(name));
    }
    put(out, format_args!("event: {name}\ndata: {members}\n\n"));
}

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    input: Option<Input>,
    instructions: Option<String>,
    stream: Option<bool>,
    max_output_tokens: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Item>),
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    content: TextBytes,
}
