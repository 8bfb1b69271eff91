//! Gemini's answers in the shape of Google's documentation: whole, as events and as a JSON array.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish, put};
use super::prompt::{self, TextBytes};

/// `…/models/MODEL:generateContent` and `…/models/MODEL:streamGenerateContent`, in one of its forms.
pub(crate) enum Gemini {
    /// One answer.
    Whole,
    /// A stream of events, which `alt=sse` asks for.
    Events,
    /// A stream that is a JSON array.
    Array,
}

impl Gemini {
    /// Writes an event, or an element that is not the first.
    fn put(&self, out: &mut BytesMut, answer: &Value) {
        match self {
            Self::Array => put(out, format_args!(",\r\n{answer:#}\n")),
            Self::Whole | Self::Events => put(out, format_args!("data: {answer}\r\n\r\n")),
        }
    }
}

impl Api for Gemini {
    fn path(&self) -> &'static str {
        match self {
            Self::Whole => ":generateContent",
            Self::Events | Self::Array => ":streamGenerateContent",
        }
    }

    fn answers_query(&self, query: &str) -> bool {
        let events = query.split('&').any(|pair| pair == "alt=sse");
        matches!(self, Self::Whole) || matches!(self, Self::Events) == events
    }

    fn model<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_suffix(self.path())?.rsplit('/').next()
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request: Request = prompt::parse(body)?;
        let contents = request.contents.as_ref().ok_or_else(|| prompt::missing("contents"))?;
        let messages = contents.iter().chain(&request.system_instruction);
        let tokens = messages.map(|message| prompt::tokens_of(message.parts.0).saturating_add(3));
        let config = request.generation_config.unwrap_or_default();
        Ok(Wish {
            prompt_tokens: tokens.fold(0, u32::saturating_add),
            stream: !matches!(self, Self::Whole),
            max_tokens: config.max_output_tokens,
            choices: config.candidate_count.unwrap_or(1),
            ..Wish::default()
        })
    }

    fn stream_type(&self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Whole | Self::Array => "application/json; charset=UTF-8",
        }
    }

    fn lead(&self, _: &Reply) -> Vec<u8> {
        Vec::new()
    }

    /// An array begins with an element that has no text: every other one has a comma before it.
    fn open(&self, reply: &Reply, choice: u32, out: &mut BytesMut) {
        if matches!(self, Self::Array) && choice == 0 {
            put(out, format_args!("[{:#}\n", answer(reply, &[candidate(0, &[part("", false)], None)], None)));
        }
    }

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        let words: String = reply.words(piece.choice, piece.from..piece.to()).collect();
        let part = part(&words, piece.count > 0 && piece.from < reply.reasoning);
        let candidate = candidate(piece.choice, &[part], piece.finish);
        self.put(out, &answer(reply, &[candidate], Some(piece.to())));
    }

    /// It stands in each event.
    fn usage(&self, _: &Reply, _: &mut BytesMut) {}

    /// Events have no mark.
    fn done(&self, _: &Reply, out: &mut BytesMut) {
        if matches!(self, Self::Array) {
            out.put_slice(b"]");
        }
    }

    /// Neither form has any.
    fn comment(&self, _: &mut BytesMut) {}

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        self.put(out, &error(refusal));
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let candidates: Vec<Value> = (0..reply.choices)
            .map(|choice| {
                let thought: String = reply.words(choice, 0..reply.reasoning).collect();
                let text: String = reply.words(choice, reply.reasoning..reply.tokens).collect();
                let thought = (!thought.is_empty()).then(|| part(&thought, true));
                let parts: Vec<Value> = thought.into_iter().chain([part(&text, false)]).collect();
                candidate(choice, &parts, Some(reply.finish))
            })
            .collect();
        format!("{:#}\n", answer(reply, &candidates, Some(reply.tokens))).into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        match self {
            Self::Array => json!([error(refusal)]).to_string().into(),
            Self::Whole | Self::Events => error(refusal).to_string().into(),
        }
    }
}

fn part(text: &str, thought: bool) -> Value {
    if thought { json!({"text": text, "thought": true}) } else { json!({"text": text}) }
}

fn candidate(choice: u32, parts: &[Value], finish: Option<Finish>) -> Value {
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": choice});
    if let (Some(finish), Value::Object(members)) = (finish, &mut candidate) {
        let reason = match finish {
            Finish::Stop => "STOP",
            Finish::Length => "MAX_TOKENS",
        };
        members.insert("finishReason".to_owned(), json!(reason));
    }
    candidate
}

/// `tokens`: of each choice so far; none before there is any.
fn answer(reply: &Reply, candidates: &[Value], tokens: Option<u32>) -> Value {
    let mut answer = json!({"candidates": candidates, "modelVersion": reply.model, "responseId": format!("gen_{}", reply.id)});
    if let (true, Value::Object(members)) = (reply.usage.in_whole, &mut answer) {
        let tokens = tokens.unwrap_or(0);
        let thoughts = tokens.min(reply.reasoning).saturating_mul(reply.choices);
        let said = tokens.saturating_mul(reply.choices).saturating_sub(thoughts);
        let total = reply.prompt_tokens.saturating_add(said).saturating_add(thoughts);
        let mut usage = json!({"promptTokenCount": reply.prompt_tokens, "totalTokenCount": total});
        if let Value::Object(usage) = &mut usage {
            // What is 0 is left out.
            for (name, count) in [("candidatesTokenCount", said), ("thoughtsTokenCount", thoughts)] {
                if count > 0 {
                    usage.insert(name.to_owned(), json!(count));
                }
            }
        }
        members.insert("usageMetadata".to_owned(), usage);
    }
    answer
}

fn error(refusal: &Refusal) -> Value {
    let word = match refusal.status {
        StatusCode::UNAUTHORIZED => "UNAUTHENTICATED",
        StatusCode::FORBIDDEN => "PERMISSION_DENIED",
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::TOO_MANY_REQUESTS => "RESOURCE_EXHAUSTED",
        StatusCode::SERVICE_UNAVAILABLE => "UNAVAILABLE",
        status if status.is_server_error() => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    };
    json!({"error": {"code": refusal.status.as_u16(), "message": refusal.message, "status": word}})
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    contents: Option<Vec<Content>>,
    system_instruction: Option<Content>,
    generation_config: Option<Config>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    parts: TextBytes,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Config {
    max_output_tokens: Option<u32>,
    candidate_count: Option<u32>,
}
