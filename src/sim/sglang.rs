//! SGLang's own API: each event has a choice's text from its start and its counts so far.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish};
use super::prompt;

/// `/generate`.
pub(crate) struct Generate;

impl Api for Generate {
    fn path(&self) -> &'static str {
        "/generate"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let weighed = request.text.as_ref().or(request.input_ids.as_ref()).and_then(prompt::weigh);
        let (prompt_tokens, prompts) = weighed.ok_or_else(|| prompt::missing("text"))?;
        let Sampling { max_new_tokens, n } = request.sampling_params;
        Ok(Wish {
            stream: request.stream,
            prompt_tokens,
            max_tokens: max_new_tokens,
            choices: prompts.saturating_mul(n.unwrap_or(1)).max(1),
            ..Wish::default()
        })
    }

    fn stream_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, _: &Reply, _: u32, _: &mut BytesMut) {}

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        let mut answer = answer(reply, piece.choice, piece.to(), piece.finish);
        if let (true, Value::Object(members)) = (reply.choices > 1, &mut answer) {
            members.insert("index".to_owned(), piece.choice.into());
        }
        event(&answer, out);
    }

    /// It stands in each event.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    fn done(&self, _: &Reply, out: &mut BytesMut) {
        out.put_slice(b"data: [DONE]\n\n");
    }

    /// It has none.
    fn comment(&self, _: &mut BytesMut) {}

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        event(&error(refusal), out);
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let of = |choice| answer(reply, choice, reply.tokens, Some(reply.finish));
        let whole = match reply.choices {
            1 => of(0),
            choices => (0..choices).map(of).collect(),
        };
        whole.to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        error(refusal).to_string().into()
    }
}

fn event(json: &Value, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(json.to_string().as_bytes());
    out.put_slice(b"\n\n");
}

/// What a choice has come to with so many tokens. All choices have the prompt that the first one has.
fn answer(reply: &Reply, choice: u32, tokens: u32, finish: Option<Finish>) -> Value {
    let text: String = reply.words(choice, 0..tokens).collect();
    let reason = finish.map(|finish| match finish {
        Finish::Stop => json!({"type": "stop", "matched": 2}),
        Finish::Length => json!({"type": "length", "length": tokens}),
    });
    json!({
        "text": text,
        "meta_info": {
            "id": reply.id,
            "finish_reason": reason,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": tokens,
            "cached_tokens": 0,
        },
    })
}

fn error(refusal: &Refusal) -> Value {
    json!({"error": {"message": refusal.message}})
}

#[derive(Deserialize)]
struct Request {
    text: Option<Value>,
    input_ids: Option<Value>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    sampling_params: Sampling,
}

#[derive(Deserialize, Default)]
struct Sampling {
    max_new_tokens: Option<u32>,
    n: Option<u32>,
}
