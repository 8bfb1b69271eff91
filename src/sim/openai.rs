//! OpenAI's chat and completions in the shape that vLLM 0.32 gives them: events to the byte, whole answers by their keys.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Finish, Piece, Refusal, Reply, Wish, put};
use super::prompt::{self, TextBytes};

/// `/v1/chat/completions`.
pub(crate) struct Chat;

/// `/v1/completions`.
pub(crate) struct Completions;

const FINGERPRINT: &str = "streamgauge-sim";
const STREAM_TYPE: &str = "text/event-stream; charset=utf-8";
const CHOICES_LIMIT: u32 = 16; // bounds a whole answer; nobody asks for more

impl Api for Chat {
    fn path(&self) -> &'static str {
        "/v1/chat/completions"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request = prompt::parse::<Request>(body)?;
        let messages = request.messages.as_ref().ok_or_else(|| prompt::missing("body.messages"))?;
        let prompt = messages.iter().map(|message| prompt::tokens_of(message.content.0).saturating_add(3));
        let prompt_tokens = prompt.fold(0, u32::saturating_add);
        request.wish(prompt_tokens, 1)
    }

    fn stream_type(&self) -> &'static str {
        STREAM_TYPE
    }

    fn lead(&self, reply: &Reply) -> Vec<u8> {
        lead("chatcmpl", "chat.completion.chunk", reply)
    }

    fn open(&self, reply: &Reply, choice: u32, out: &mut BytesMut) {
        out.put_slice(&reply.lead);
        let delta = r#","delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#;
        put(out, format_args!(r#"[{{"index":{choice}{delta}"#));
        running_usage(reply, 0, out);
        out.put_slice(b",\"prompt_token_ids\":null,\"prompt_text\":null}\n\n");
    }

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        let channel = if piece.from < reply.reasoning { "reasoning" } else { "content" };
        out.put_slice(&reply.lead);
        put(out, format_args!(r#"[{{"index":{},"delta":{{"{channel}":""#, piece.choice));
        reply.words(piece.choice, piece.from..piece.to()).for_each(|word| out.put_slice(word.as_bytes()));
        out.put_slice(b"\"},\"logprobs\":null");
        match piece.finish {
            None => out.put_slice(b",\"finish_reason\":null,\"token_ids\":null}]"),
            Some(finish) => put(
                out,
                format_args!(
                    r#","finish_reason":"{}","stop_reason":null,"token_ids":null}}]"#,
                    reason(finish)
                ),
            ),
        }
        end_piece(reply, piece, out);
    }

    fn usage(&self, reply: &Reply, out: &mut BytesMut) {
        final_usage(reply, out);
    }

    fn done(&self, _: &Reply, out: &mut BytesMut) {
        out.put_slice(DONE);
    }

    fn comment(&self, out: &mut BytesMut) {
        out.put_slice(COMMENT);
    }

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        failure(refusal, out);
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let choice = |index| {
            let thought: String = reply.words(index, 0..reply.reasoning).collect();
            let reasoning = if thought.is_empty() { Value::Null } else { Value::String(thought) };
            let content: String = reply.words(index, reply.reasoning..reply.tokens).collect();
            json!({
                "index": index,
                "message": {"role": "assistant", "content": content, "refusal": null, "annotations": null,
                    "audio": null, "function_call": null, "reasoning": reasoning},
                "logprobs": null, "finish_reason": reason(reply.finish), "stop_reason": null, "token_ids": null,
                "routed_experts": null,
            })
        };
        let mut answer = json!({
            "id": format!("chatcmpl-{}", reply.id), "object": "chat.completion", "created": reply.created,
            "model": reply.model, "choices": (0..reply.choices).map(choice).collect::<Vec<_>>(),
            "service_tier": null, "system_fingerprint": FINGERPRINT, "prompt_logprobs": null,
            "prompt_token_ids": null, "prompt_text": null, "kv_transfer_params": null, "ec_transfer_params": null,
            "metrics": null,
        });
        add_usage(reply, &mut answer);
        answer.to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        error_body(refusal)
    }
}

impl Api for Completions {
    fn path(&self) -> &'static str {
        "/v1/completions"
    }

    fn read(&self, body: &[u8]) -> Result<Wish, Refusal> {
        let request = prompt::parse::<Request>(body)?;
        let weighed = request.prompt.as_ref().and_then(prompt::weigh);
        let (tokens, prompts) = weighed.ok_or_else(|| prompt::missing("body.prompt"))?;
        request.wish(tokens, prompts)
    }

    fn stream_type(&self) -> &'static str {
        STREAM_TYPE
    }

    fn lead(&self, reply: &Reply) -> Vec<u8> {
        lead("cmpl", "text_completion", reply)
    }

    fn open(&self, _: &Reply, _: u32, _: &mut BytesMut) {}

    fn piece(&self, reply: &Reply, piece: &Piece, out: &mut BytesMut) {
        out.put_slice(&reply.lead);
        put(out, format_args!(r#"[{{"index":{},"text":""#, piece.choice));
        reply.words(piece.choice, piece.from..piece.to()).for_each(|word| out.put_slice(word.as_bytes()));
        out.put_slice(b"\",\"logprobs\":null,\"finish_reason\":");
        match piece.finish {
            None => out.put_slice(b"null"),
            Some(finish) => put(out, format_args!(r#""{}""#, reason(finish))),
        }
        out.put_slice(b",\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null}]");
        end_piece(reply, piece, out);
    }

    fn usage(&self, reply: &Reply, out: &mut BytesMut) {
        final_usage(reply, out);
    }

    fn done(&self, _: &Reply, out: &mut BytesMut) {
        out.put_slice(DONE);
    }

    fn comment(&self, out: &mut BytesMut) {
        out.put_slice(COMMENT);
    }

    fn failure(&self, refusal: &Refusal, out: &mut BytesMut) {
        failure(refusal, out);
    }

    fn whole(&self, reply: &Reply) -> Vec<u8> {
        let choice = |index| {
            json!({
                "index": index, "text": reply.words(index, 0..reply.tokens).collect::<String>(), "logprobs": null,
                "finish_reason": reason(reply.finish), "stop_reason": null, "token_ids": null,
                "prompt_logprobs": null, "prompt_token_ids": null, "routed_experts": null,
            })
        };
        let mut answer = json!({
            "id": format!("cmpl-{}", reply.id), "object": "text_completion", "created": reply.created,
            "model": reply.model, "choices": (0..reply.choices).map(choice).collect::<Vec<_>>(),
            "service_tier": null, "system_fingerprint": FINGERPRINT, "kv_transfer_params": null,
            "ec_transfer_params": null, "metrics": null,
        });
        add_usage(reply, &mut answer);
        answer.to_string().into_bytes()
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        error_body(refusal)
    }
}

const DONE: &[u8] = b"data: [DONE]\n\n";
const COMMENT: &[u8] = b":\n\n";

fn lead(prefix: &str, object: &str, reply: &Reply) -> Vec<u8> {
    let model = Value::from(reply.model.as_str());
    let (id, created) = (&reply.id, reply.created);
    format!(
        r#"data: {{"id":"{prefix}-{id}","object":"{object}","created":{created},"model":{model},"choices":"#
    )
    .into_bytes()
}

fn end_piece(reply: &Reply, piece: &Piece, out: &mut BytesMut) {
    running_usage(reply, piece.to(), out);
    if piece.finish.is_some() && !reply.usage.at_end {
        put(out, format_args!(r#","system_fingerprint":"{FINGERPRINT}""#));
    }
    out.put_slice(b"}\n\n");
}

/// The usage so far of one choice, in streams where each event has it.
fn running_usage(reply: &Reply, tokens: u32, out: &mut BytesMut) {
    if reply.usage.in_each {
        put_usage(reply, tokens, out);
        match tokens.min(reply.reasoning) {
            0 => out.put_slice(b",\"completion_tokens_details\":null}"),
            thought => {
                put(out, format_args!(r#","completion_tokens_details":{{"reasoning_tokens":{thought}}}}}"#))
            }
        }
    }
}

fn final_usage(reply: &Reply, out: &mut BytesMut) {
    out.put_slice(&reply.lead);
    out.put_slice(b"[]");
    put_usage(reply, reply.completion_tokens(), out);
    if reply.reasoning > 0 {
        let thought = reply.reasoning.saturating_mul(reply.choices);
        put(out, format_args!(r#","completion_tokens_details":{{"reasoning_tokens":{thought}}}"#));
    }
    put(out, format_args!("}},\"system_fingerprint\":\"{FINGERPRINT}\"}}\n\n"));
}

fn put_usage(reply: &Reply, completion: u32, out: &mut BytesMut) {
    let prompt = reply.prompt_tokens;
    let total = prompt.saturating_add(completion);
    put(
        out,
        format_args!(
            r#","usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion}"#
        ),
    );
}

fn add_usage(reply: &Reply, answer: &mut Value) {
    let (prompt, completion) = (reply.prompt_tokens, reply.completion_tokens());
    let thought = reply.reasoning.saturating_mul(reply.choices);
    let details = if thought > 0 { json!({"reasoning_tokens": thought}) } else { Value::Null };
    if let (true, Value::Object(members)) = (reply.usage.in_whole, answer) {
        let usage = json!({
            "prompt_tokens": prompt, "total_tokens": prompt.saturating_add(completion),
            "completion_tokens": completion, "prompt_tokens_details": null, "completion_tokens_details": details,
        });
        members.insert("usage".to_owned(), usage);
    }
}

fn failure(refusal: &Refusal, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(&error_body(refusal));
    out.put_slice(b"\n\n");
}

/// An error in OpenAI's shape with vLLM's names for the types.
pub(crate) fn error_body(refusal: &Refusal) -> Bytes {
    let kind = match refusal.status {
        StatusCode::NOT_FOUND => "NotFoundError",
        StatusCode::TOO_MANY_REQUESTS => "RateLimitError",
        status if status.is_server_error() => "InternalServerError",
        _ => "BadRequestError",
    };
    let (message, code) = (&refusal.message, refusal.status.as_u16());
    json!({"error": {"message": message, "type": kind, "param": refusal.param, "code": code}})
        .to_string()
        .into()
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    prompt: Option<Value>,
    stream: Option<bool>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    n: Option<u32>,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: TextBytes,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

impl Request {
    fn wish(self, prompt_tokens: u32, prompts: u32) -> Result<Wish, Refusal> {
        let choices = self.n.unwrap_or(1).saturating_mul(prompts);
        if !(1..=CHOICES_LIMIT).contains(&choices) {
            let message = format!("n times prompts must be 1 to {CHOICES_LIMIT}, not {choices}");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message).about("n"));
        }
        let asked = |option: fn(&StreamOptions) -> Option<bool>| {
            self.stream_options.as_ref().and_then(option).unwrap_or_default()
        };
        Ok(Wish {
            include_usage: asked(|options| options.include_usage),
            continuous_usage: asked(|options| options.continuous_usage_stats),
            model: self.model,
            stream: self.stream.unwrap_or_default(),
            prompt_tokens,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            choices,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(body: &str) -> Result<Wish, Refusal> {
        Chat.read(body.as_bytes())
    }

    #[test]
    fn prompt_tokens_are_bytes_over_four_and_three_a_message() {
        let parts = r#"[{"type":"text","text":"12345"},{"type":"image_url","image_url":{"url":"data:…"}}]"#;
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":"1234"}},{{"content":{parts}}},{{"content":null}}]}}"#
        );
        assert_eq!(chat(&body).unwrap().prompt_tokens, (1 + 3) + (2 + 3) + 3);
        let prompt = |json: &str| Completions.read(format!(r#"{{"prompt":{json}}}"#).as_bytes()).unwrap();
        assert_eq!(prompt(r#""The sea is""#).prompt_tokens, 3);
        assert_eq!(prompt("[1,2,3,4,5]").prompt_tokens, 5);
        let two = prompt(r#"["The sea is","A dog is"]"#);
        assert_eq!((two.prompt_tokens, two.choices), (5, 2));
    }

    #[test]
    fn a_request_says_what_it_wants() {
        let body = r#"{"model":"m","messages":[],"max_tokens":9,"n":2,"stream":true,"temperature":0.5,
                       "stream_options":{"include_usage":true}}"#;
        let expected = Wish {
            model: Some("m".to_owned()),
            stream: true,
            max_tokens: Some(9),
            choices: 2,
            include_usage: true,
            ..Wish::default()
        };
        assert_eq!(chat(body).unwrap(), expected);
        assert_eq!(
            chat(r#"{"messages":[],"max_tokens":9,"max_completion_tokens":4}"#).unwrap().max_tokens,
            Some(4)
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (body, param) in [
            ("{", "body"),
            ("{}", "body.messages"),
            (r#"{"messages":1}"#, "body"),
            (r#"{"messages":[],"n":0}"#, "n"),
        ] {
            let refusal = chat(body).unwrap_err();
            assert_eq!((refusal.status, refusal.param), (StatusCode::BAD_REQUEST, Some(param)), "{body}");
        }
    }
}
