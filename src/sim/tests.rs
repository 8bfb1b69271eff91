//! The server over in-memory pipes, in paused time.
#![expect(clippy::disallowed_methods, reason = "a test plays the world around the server")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Answer, Ending, Fault, Mishap, Profile, Settings, Sim, Stats};
use crate::clock::Clock;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const GEMINI: &str = r#"{"contents":[{"role":"user","parts":[{"text":"123456789012345678901234567890123456"}]}],"generationConfig":{"maxOutputTokens":16}}"#;

/// An answer as a client sees it.
#[derive(Debug)]
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    head_at: u128,
    /// Milliseconds since the request, and bytes, of each frame.
    frames: Vec<(u128, String)>,
    broken: bool,
}

impl Seen {
    fn body(&self) -> String {
        self.frames.iter().map(|(_, text)| text.as_str()).collect()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body()).unwrap()
    }

    /// The JSON of each event and when it came; `[DONE]` is a string.
    fn events(&self) -> Vec<(u128, Value)> {
        let event = |(at, text): &(u128, String)| {
            let data = text.strip_prefix("data: ")?.strip_suffix("\n\n")?;
            Some((*at, serde_json::from_str(data).unwrap_or_else(|_| json!(data))))
        };
        self.frames.iter().filter_map(event).collect()
    }

    /// When each event with text came, and the text.
    fn texts(&self) -> Vec<(u128, String)> {
        let text = |(at, event): (u128, Value)| {
            let choice = &event["choices"][0];
            let text = [&choice["delta"]["content"], &choice["delta"]["reasoning"], &choice["text"]]
                .into_iter()
                .find_map(|text| text.as_str())?;
            (!text.is_empty()).then(|| (at, text.to_owned()))
        };
        self.events().into_iter().filter_map(text).collect()
    }

    fn usage(&self) -> Option<Value> {
        self.events().into_iter().rev().find_map(|(_, event)| event.get("usage").cloned())
    }

    fn done(&self) -> bool {
        self.events().last().is_some_and(|(_, event)| event == "[DONE]")
    }
}

fn sim() -> Arc<Sim> {
    let model = Profile { ttft: Duration::from_millis(200), tokens_per_second: 50.0, ..Profile::new("sim") };
    Sim::new(Settings { remember: 10, ..Settings::with_models([model]) }, Clock::start())
}

fn request(path: &str, headers: &str, body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::post(path).header("host", "sim");
    for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
        request = request.header(name.trim(), value);
    }
    request.body(Full::from(body.to_owned())).unwrap()
}

async fn send(
    sim: &Arc<Sim>,
    request: Request<Full<Bytes>>,
) -> (hyper::Response<hyper::body::Incoming>, Instant) {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(Arc::clone(sim).serve_io(far));
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    let began = Instant::now();
    (client.send_request(request).await.unwrap(), began)
}

/// Reads an answer to its end, its break or the thousandth second.
async fn read(response: hyper::Response<hyper::body::Incoming>, began: Instant) -> Seen {
    let head_at = began.elapsed().as_millis();
    let (head, mut body) = response.into_parts();
    let mut seen =
        Seen { status: head.status, headers: head.headers, head_at, frames: Vec::new(), broken: false };
    while let Ok(Some(frame)) = tokio::time::timeout_at(began + Duration::from_secs(1000), body.frame()).await
    {
        match frame {
            Ok(frame) => {
                let bytes = frame.into_data().unwrap().to_vec();
                seen.frames.push((began.elapsed().as_millis(), String::from_utf8(bytes).unwrap()));
            }
            Err(_) => {
                seen.broken = true;
                break;
            }
        }
    }
    seen
}

async fn ask(sim: &Arc<Sim>, path: &str, headers: &str, body: &str) -> Seen {
    let (response, began) = send(sim, request(path, headers, body)).await;
    read(response, began).await
}

const STREAM: &str = r#"{"model":"sim","messages":[{"role":"user","content":"Write one sentence about the sea."}],
    "max_tokens":16,"stream":true,"stream_options":{"include_usage":true}}"#;
const PLAIN_STREAM: &str = r#"{"messages":[],"stream":true}"#;
const WHOLE: &str = r#"{"model":"sim","messages":[{"role":"user","content":"Write one sentence about the sea."}],
    "max_tokens":16}"#;

#[tokio::test(start_paused = true)]
async fn a_stream_comes_in_time_and_says_how_long_it_was() {
    let sim = sim();
    let seen = ask(&sim, CHAT, "x-request-id: r1", STREAM).await;
    assert_eq!((seen.status, seen.head_at), (StatusCode::OK, 0));
    assert_eq!(seen.headers["content-type"], "text/event-stream; charset=utf-8");
    let events = seen.events();
    assert_eq!(events.len(), 1 + 16 + 1 + 1);
    assert_eq!(events[0].1["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let times: Vec<u128> = seen.texts().iter().map(|(at, _)| *at).collect();
    let expected: Vec<u128> = (0..16).map(|token| 200 + 20 * token).collect();
    assert_eq!(times, expected);
    let usage = json!({"prompt_tokens": 9 + 3, "total_tokens": 28, "completion_tokens": 16});
    assert_eq!(seen.usage(), Some(usage));
    assert!(seen.done() && !seen.broken);
    let expected = Answer {
        request_id: "r1".to_owned(),
        model: "sim".to_owned(),
        stream: true,
        prompt_tokens: 12,
        completion_tokens: 16,
        sent_tokens: 16,
        ending: Ending::Completed,
    };
    assert_eq!(sim.answers(), [expected]);
    assert_eq!(
        sim.stats(),
        Stats { requests: 1, completed: 1, tokens: 16, connections: 1, ..Stats::default() }
    );
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_takes_as_long_as_its_stream_and_says_the_same() {
    let seen = ask(&sim(), CHAT, "", WHOLE).await;
    assert_eq!(seen.head_at, 200 + 15 * 20);
    assert_eq!(seen.headers["content-length"], seen.body().len().to_string().as_str());
    let answer = seen.json();
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let streamed: String =
        ask(&sim(), CHAT, "", STREAM).await.texts().into_iter().map(|(_, text)| text).collect();
    assert_eq!(answer["choices"][0]["message"]["content"], streamed);
}

#[tokio::test(start_paused = true)]
async fn headers_change_one_request() {
    let sim = sim();
    let headers =
        "x-sim-ttft: 1s\nx-sim-tps: 10\nx-sim-tokens: 10\nx-sim-tokens-per-chunk: 4\nx-sim-usage: continuous";
    let seen = ask(&sim, CHAT, headers, PLAIN_STREAM).await;
    let times: Vec<u128> = seen.texts().iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [1000, 1400, 1600]);
    let running: Vec<_> =
        seen.events().iter().filter_map(|(_, e)| e["usage"]["completion_tokens"].as_u64()).collect();
    assert_eq!(running, [0, 4, 8, 10, 10, 10], "role, three pieces, the stop and the end");
    let seen = ask(&sim, CHAT, "x-sim-tokens: 3", PLAIN_STREAM).await;
    assert_eq!(seen.texts().len(), 3);
    assert_eq!(seen.usage(), None);
    let seen = ask(&sim, CHAT, "x-sim-usage: off\nx-sim-tokens: 0", STREAM).await;
    assert_eq!((seen.texts().len(), seen.events().len(), seen.usage()), (0, 3, None), "role, stop, [DONE]");
    let seen = ask(&sim, CHAT, "x-sim-ttft: soon", STREAM).await;
    assert_eq!(seen.status, StatusCode::BAD_REQUEST);
    assert_eq!(seen.json()["error"]["message"], "x-sim-ttft: `soon` is no duration");
}

#[tokio::test(start_paused = true)]
async fn the_role_the_reasoning_and_comments_come_before_the_answer() {
    let headers = "x-sim-role-delay: 300ms\nx-sim-reasoning: 2\nx-sim-tokens: 5\nx-sim-tokens-per-chunk: 4\nx-sim-comments: 90ms";
    let seen = ask(&sim(), CHAT, headers, STREAM).await;
    let comments: Vec<u128> =
        seen.frames.iter().filter(|(_, text)| text == ":\n\n").map(|(at, _)| *at).collect();
    assert_eq!(comments, [90, 180, 270, 360, 450]);
    let events = seen.events();
    assert_eq!(events[0].0, 200);
    assert_eq!(events[1].0, 500);
    assert!(events[1].1["choices"][0]["delta"]["reasoning"].is_string());
    assert_eq!(events[2].0, 560, "three tokens later, never in one event with reasoning");
    assert!(events[2].1["choices"][0]["delta"]["content"].is_string());
    assert_eq!(seen.usage().unwrap()["completion_tokens_details"], json!({"reasoning_tokens": 2}));
}

#[tokio::test(start_paused = true)]
async fn choices_take_turns_and_count_together() {
    let body = r#"{"prompt":"The sea is","n":2,"max_tokens":3,"stream":true,"stream_options":{"include_usage":true}}"#;
    let seen = ask(&sim(), COMPLETIONS, "", body).await;
    let order: Vec<_> =
        seen.events().iter().filter_map(|(at, e)| Some((*at, e["choices"][0]["index"].as_u64()?))).collect();
    assert_eq!(order, [(200, 0), (200, 1), (220, 0), (220, 1), (240, 0), (240, 1)]);
    assert_eq!(seen.usage().unwrap(), json!({"prompt_tokens": 3, "total_tokens": 9, "completion_tokens": 6}));
}

/// The keys of an event in order, down to the leaves; numbers, texts and names aside.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut quoted = text.split('"');
    while let Some(outside) = quoted.next() {
        shape.extend(outside.chars().filter(|c| !c.is_ascii_digit()));
        let Some(inside) = quoted.next() else { break };
        let rest = quoted.clone().next().unwrap_or_default();
        shape.push_str(if rest.starts_with(':') { inside } else { "_" });
    }
    shape
}

/// What vLLM 0.32 answered.
fn recorded(name: &str) -> String {
    let path = format!("{}/tests/recordings/vllm/{name}.response.http", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test(start_paused = true)]
async fn events_have_the_shape_of_vllms() {
    let usage = r#","stream_options":{"include_usage":true}"#;
    let chat = |rest: &str| format!(r#"{{"messages":[],"max_tokens":16,"stream":true{rest}}}"#);
    let text = |rest: &str| format!(r#"{{"prompt":"The sea is","max_tokens":12,"stream":true{rest}}}"#);
    for (name, path, headers, body) in [
        ("chat_stream", CHAT, "", chat("")),
        ("chat_stream_usage", CHAT, "", chat(usage)),
        ("chat_stream_continuous_usage", CHAT, "x-sim-usage: continuous", chat(usage)),
        ("completions_stream", COMPLETIONS, "", text("")),
    ] {
        let recorded = recorded(name);
        let recorded: Vec<String> =
            recorded.lines().filter(|line| line.starts_with("data: ")).map(shape).collect();
        let seen = ask(&sim(), path, headers, &body).await;
        let simulated: Vec<String> = seen.frames.iter().map(|(_, text)| shape(text.trim_end())).collect();
        assert_eq!(simulated, recorded, "{name}");
    }
}

/// The keys of an answer down to the leaves.
fn keys(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), keys(value))).collect(),
        Value::Array(items) => items.iter().map(keys).collect(),
        Value::Null => Value::Null,
        _ => json!("some"),
    }
}

#[tokio::test(start_paused = true)]
async fn whole_answers_have_the_keys_of_vllms() {
    for (name, path, body) in [
        ("chat_nonstream", CHAT, WHOLE),
        ("completions_nonstream", COMPLETIONS, r#"{"prompt":"The sea is","max_tokens":12}"#),
        ("messages_nonstream", MESSAGES, WHOLE),
    ] {
        let recorded: Value = serde_json::from_str(recorded(name).split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(keys(&ask(&sim(), path, "", body).await.json()), keys(&recorded), "{name}");
    }
}

const MESSAGES: &str = "/v1/messages";
const MESSAGES_STREAM: &str = r#"{"model":"sim","max_tokens":16,"stream":true,
    "messages":[{"role":"user","content":"Write one sentence about the sea."}]}"#;

#[tokio::test(start_paused = true)]
async fn messages_have_the_shape_of_vllms() {
    let recorded = recorded("messages_stream");
    let is_event = |line: &&str| line.starts_with("event: ") || line.starts_with("data: ");
    let recorded: Vec<String> = recorded.lines().filter(is_event).map(shape).collect();
    let seen = ask(&sim(), MESSAGES, "", MESSAGES_STREAM).await;
    let body = seen.body();
    let simulated: Vec<String> = body.lines().filter(is_event).map(shape).collect();
    assert_eq!(simulated, recorded);
    assert!(body.contains(r#""stop_reason":"max_tokens","stop_sequence":null},"usage":{"input_tokens":12,"#));
    let times: Vec<u128> =
        seen.frames.iter().filter(|(_, text)| text.contains("text_delta")).map(|(at, _)| *at).collect();
    let expected: Vec<u128> = (0..16).map(|token| 200 + 20 * token).collect();
    assert_eq!(times, expected);
}

#[tokio::test(start_paused = true)]
async fn messages_think_ping_and_fail_as_anthropics_do() {
    let kinds = async |headers: &str| {
        let body = ask(&sim(), MESSAGES, headers, MESSAGES_STREAM).await.body();
        let events = body.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok());
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let kind = |event: Value| word(&event["delta"]["type"]).or_else(|| word(&event["type"]));
        events.filter_map(kind).collect::<Vec<_>>()
    };
    assert_eq!(
        kinds("x-sim-reasoning: 1\nx-sim-tokens: 2\nx-sim-comments: 150ms").await,
        [
            "ping",
            "message_start",
            "content_block_start",
            "thinking_delta",
            "signature_delta",
            "content_block_stop",
            "content_block_start",
            "text_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let failed = kinds("x-sim-tokens: 2\nx-sim-fault: error-event@1").await;
    assert_eq!(failed, ["message_start", "content_block_start", "text_delta", "error"]);
    assert_eq!(kinds("x-sim-tokens: 0").await, ["message_start", "message_delta", "message_stop"]);
    let refused = ask(&sim(), MESSAGES, "", r#"{"messages":[]}"#).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["type"]),
        (StatusCode::BAD_REQUEST, &json!("invalid_request_error"))
    );
}

#[tokio::test(start_paused = true)]
async fn ollama_answers_in_lines_of_json_unless_told_otherwise() {
    for (path, ask_for, text) in [
        ("/api/chat", r#""messages":[{"role":"user","content":"hi"}]"#, "/message/content"),
        ("/api/generate", r#""prompt":"hi""#, "/response"),
    ] {
        let headers = "x-sim-tokens: 3\nx-sim-reasoning: 1";
        let seen = ask(&sim(), path, headers, &format!(r#"{{"model":"sim",{ask_for}}}"#)).await;
        assert_eq!(seen.headers["content-type"], "application/x-ndjson");
        let lines: Vec<Value> = seen.body().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4, "{path}");
        assert_eq!(lines[0].pointer(text), Some(&json!("")), "the first token is a thought");
        assert!(lines[..3].iter().all(|line| line["done"] == false));
        assert_eq!((&lines[3]["done_reason"], &lines[3]["eval_count"]), (&json!("stop"), &json!(3)));
        let whole = format!(r#"{{"model":"sim","stream":false,{ask_for}}}"#);
        let whole = ask(&sim(), path, headers, &whole).await.json();
        let streamed: String = lines.iter().filter_map(|line| line.pointer(text)?.as_str()).collect();
        assert_eq!(whole.pointer(text), Some(&json!(streamed)), "{path}");
        assert_eq!((&whole["done"], &whole["eval_count"]), (&json!(true), &json!(3)));
    }
    let body = r#"{"messages":[],"options":{"num_predict":2}}"#;
    let limited = ask(&sim(), "/api/chat", "", body).await.body();
    assert!(limited.lines().last().unwrap().contains(r#""done_reason":"length""#));
    let failed = ask(&sim(), "/api/chat", "x-sim-fault: error-event@1", r#"{"messages":[]}"#).await.body();
    assert!(failed.lines().last().unwrap().starts_with(r#"{"error":""#));
}

#[tokio::test(start_paused = true)]
async fn responses_come_in_items_with_thoughts_first() {
    let body = r#"{"input":"hi","stream":true}"#;
    let kinds = async |headers| -> Vec<String> {
        let body = ask(&sim(), "/v1/responses", headers, body).await.body();
        let names = body.lines().filter_map(|line| line.strip_prefix("event: "));
        names.map(|name| name.trim_start_matches("response.").to_owned()).collect()
    };
    let item = |text: &str| {
        let middle = ["output_item.added", "content_part.added"].map(str::to_owned).into_iter();
        let text = ["delta", "done"].map(|end| format!("{text}.{end}"));
        let end = ["content_part.done", "output_item.done"].map(str::to_owned);
        middle.chain(text).chain(end).collect::<Vec<_>>()
    };
    let begun = ["created", "in_progress"].map(str::to_owned).to_vec();
    let want =
        [begun.clone(), item("reasoning_text"), item("output_text"), vec!["completed".to_owned()]].concat();
    assert_eq!(kinds("x-sim-tokens: 2\nx-sim-reasoning: 1").await, want);
    let failed = kinds("x-sim-fault: error-event@0").await;
    assert_eq!(failed, [begun, vec!["error".to_owned()]].concat());
    let limited = r#"{"input":[{"role":"user","content":"hi"}],"max_output_tokens":2}"#;
    let whole = ask(&sim(), "/v1/responses", "", limited).await.json();
    assert_eq!((&whole["status"], &whole["usage"]["output_tokens"]), (&json!("incomplete"), &json!(2)));
}

#[tokio::test(start_paused = true)]
async fn gemini_answers_whole_in_events_and_in_an_array() {
    let headers = "x-sim-tokens: 3\nx-sim-reasoning: 1";
    let path = "/v1beta/models/sim:streamGenerateContent";
    let array = ask(&sim(), path, headers, GEMINI).await;
    assert_eq!(array.headers["content-type"], "application/json; charset=UTF-8");
    let elements = array.json();
    let elements = elements.as_array().unwrap();
    assert_eq!(elements.len(), 5, "an empty one first, three tokens, the reason");
    let last = &elements[4];
    assert_eq!(last["candidates"][0]["finishReason"], "STOP");
    let usage = json!({"promptTokenCount": 12, "candidatesTokenCount": 2, "thoughtsTokenCount": 1, "totalTokenCount": 15});
    assert_eq!((&last["usageMetadata"], &last["modelVersion"]), (&usage, &json!("sim")));
    let events = ask(&sim(), &format!("{path}?alt=sse"), headers, GEMINI).await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    assert_eq!(events.body().matches("data: ").count(), 4);
    let whole = ask(&sim(), "/v1beta/models/sim:generateContent", headers, GEMINI).await.json();
    assert_eq!(
        (&whole["usageMetadata"], &whole["candidates"][0]["content"]["parts"][0]["thought"]),
        (&usage, &json!(true))
    );
    let failed = ask(&sim(), path, "x-sim-fault: error-event@0", GEMINI).await.json();
    assert_eq!(failed[1]["error"]["status"], "INTERNAL");
    let refused = ask(&sim(), path, "x-sim-fault: status=429", GEMINI).await.json();
    assert_eq!(refused[0]["error"]["status"], "RESOURCE_EXHAUSTED");
}

#[tokio::test(start_paused = true)]
async fn embeddings_have_the_keys_of_llamacpps() {
    let recorded = include_str!("../../tests/recordings/llamacpp/embeddings.response.http");
    let recorded: Value = serde_json::from_str(recorded.split_once("\r\n\r\n").unwrap().1).unwrap();
    let sim = sim();
    let seen = ask(&sim, "/v1/embeddings", "", r#"{"model":"sim","input":["hello world","the sea"]}"#).await;
    assert_eq!(seen.head_at, 200, "as long as the prompt takes");
    let answer = seen.json();
    assert_eq!(keys(&answer), keys(&recorded));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 5, "total_tokens": 5}));
    let stats = sim.stats();
    assert_eq!((stats.completed, stats.tokens), (1, 0));
    let refused = ask(&sim, "/v1/embeddings", "", r#"{"input":[]}"#).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn what_is_simulated_is_what_is_observed() {
    use crate::clock::Moment;
    use crate::observe::{Head, Observer};
    for (path, body) in [
        (CHAT, STREAM),
        (MESSAGES, MESSAGES_STREAM),
        (
            "/api/chat",
            r#"{"messages":[{"content":"123456789012345678901234567890123456"}],"options":{"num_predict":16}}"#,
        ),
        (
            "/v2/chat",
            r#"{"messages":[{"content":"123456789012345678901234567890123456"}],"max_tokens":16,"stream":true}"#,
        ),
        (
            "/api/generate",
            r#"{"prompt":"123456789012345678901234567890123456789012345678","options":{"num_predict":16}}"#,
        ),
        (
            "/v1/responses",
            r#"{"input":"123456789012345678901234567890123456","stream":true,"max_output_tokens":16}"#,
        ),
        ("/v1beta/models/sim:streamGenerateContent?alt=sse", GEMINI),
        ("/v1beta/models/sim:streamGenerateContent", GEMINI),
    ] {
        let seen = ask(&sim(), path, "x-sim-reasoning: 2", body).await;
        let at = |millis: u128| Moment::new(Duration::from_millis(u64::try_from(millis).unwrap()));
        let mut observer =
            Observer::new(crate::dialect::find("POST", path.split('?').next().unwrap()), at(0));
        observer.request_chunk(body.as_bytes());
        observer.request_end(at(0));
        let content_type = seen.headers["content-type"].to_str().ok();
        observer.head(&Head { status: 200, content_type, ..Head::default() }, at(seen.head_at));
        for (millis, text) in &seen.frames {
            observer.response_chunk(text.as_bytes(), at(*millis));
        }
        let got = observer.finish(crate::exchange::Ending::Clean, at(2000));
        let clocks = got.clocks;
        assert!(got.streamed && (got.closure.terminal || got.closure.finished), "{path}");
        assert_eq!((got.usage.input, got.usage.output), (Some(12), Some(16)), "{path}");
        assert_eq!((clocks.first_token, clocks.first_answer), (Some(at(200)), Some(at(240))), "{path}");
        assert_eq!(clocks.last_token, Some(at(500)), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_engines_own_apis_simulate_is_what_is_observed() {
    use crate::clock::Moment;
    use crate::observe::{Head, Observer};
    let text = "123456789012345678901234567890123456789012345678";
    for (path, ask_for, reported) in [
        ("/generate_stream", format!(r#""inputs":"{text}","parameters":{{"max_new_tokens":16}}"#), true),
        (
            "/generate",
            format!(r#""text":"{text}","stream":true,"sampling_params":{{"max_new_tokens":16}}"#),
            true,
        ),
        ("/v2/models/sim/generate_stream", format!(r#""text_input":"{text}","max_tokens":16"#), false),
        ("/generate_stream", format!(r#""inputs":"{text}""#), true),
        ("/generate", format!(r#""text":"{text}","stream":true"#), true),
    ] {
        let seen = ask(&sim(), path, "x-sim-tokens: 16", &format!("{{{ask_for}}}")).await;
        let at = |millis: u128| Moment::new(Duration::from_millis(u64::try_from(millis).unwrap()));
        let mut observer = Observer::new(crate::dialect::find("POST", path), at(0)).on_path(path);
        observer.request_chunk(format!("{{{ask_for}}}").as_bytes());
        assert!(observer.request_end(at(0)).unwrap().stream, "{path}");
        let content_type = seen.headers["content-type"].to_str().ok();
        observer.head(&Head { status: 200, content_type, ..Head::default() }, at(seen.head_at));
        for (millis, text) in &seen.frames {
            observer.response_chunk(text.as_bytes(), at(*millis));
        }
        let got = observer.finish(crate::exchange::Ending::Clean, at(2000));
        assert!(got.streamed && got.closure.terminal, "{path}");
        let usage = if reported { (Some(12), Some(16)) } else { (None, None) };
        assert_eq!((got.usage.input, got.usage.output), usage, "{path}");
        assert_eq!((got.chunks, got.undecodable), (16, 0), "{path}");
        assert_eq!((got.clocks.first_token, got.clocks.last_token), (Some(at(200)), Some(at(500))), "{path}");
    }
    for fault in ["error-event@2", "end@2"] {
        for (path, body) in [
            ("/generate_stream", r#"{"inputs":"a"}"#),
            ("/generate", r#"{"text":"a","stream":true}"#),
            ("/v2/models/sim/generate_stream", r#"{"text_input":"a"}"#),
        ] {
            let seen = ask(&sim(), path, &format!("x-sim-fault: {fault}"), body).await.body();
            assert_eq!(
                seen.contains(r#"data:{"error"#) || seen.contains(r#"data: {"error"#),
                fault != "end@2"
            );
            assert!(seen.contains("text"), "{path}");
        }
    }
}

/// Its frames are no text.
#[tokio::test(start_paused = true)]
async fn bedrocks_streams_are_what_the_sidecar_reads() {
    use crate::clock::Moment;
    use crate::observe::{Head, Observer};
    let text = "123456789012345678901234567890123456";
    for (operation, body) in [
        (
            "converse-stream",
            json!({"messages": [{"content": [{"text": text}]}], "inferenceConfig": {"maxTokens": 16}}),
        ),
        ("invoke-with-response-stream", json!({"messages": [{"content": text}], "max_tokens": 16})),
    ] {
        let (path, body) = (format!("/model/sim/{operation}"), body.to_string());
        let (response, began) = send(&sim(), request(&path, "x-sim-reasoning: 2", &body)).await;
        let now = || Moment::new(began.elapsed());
        let mut observer =
            Observer::new(crate::dialect::find("POST", &path), Moment::default()).on_path(&path);
        observer.request_chunk(body.as_bytes());
        observer.request_end(now());
        let content_type = response.headers()["content-type"].to_str().ok();
        observer.head(&Head { status: 200, content_type, ..Head::default() }, now());
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            observer.response_chunk(&frame.unwrap().into_data().unwrap(), now());
        }
        let got = observer.finish(crate::exchange::Ending::Clean, now());
        assert!(got.streamed && got.closure.terminal, "{path}");
        assert_eq!((got.usage.input, got.usage.output), (Some(12), Some(16)), "{path}");
        assert_eq!((got.chunks, got.undecodable, got.shows_reasoning), (16, 0, true), "{path}");
    }
}

fn limited(tokens_per_minute: u64) -> Arc<Sim> {
    let sim = sim();
    sim.update(|settings| settings.tokens_per_minute = Some(tokens_per_minute));
    sim
}

/// How the limit stands, as the sidecar reads it: limit, remaining, milliseconds until it is whole.
fn standing(seen: &Seen, clock: Clock) -> Option<(u64, u64, u128)> {
    use crate::exchange::{LimitKind, Reset, UpstreamLimits};
    let mut limits = UpstreamLimits::default();
    seen.headers.iter().for_each(|(name, value)| limits.take(name.as_str(), value.to_str().unwrap()));
    let (kind, told) = limits.each().next()?;
    assert_eq!((kind, limits.each().count()), (LimitKind::Tokens, 1));
    let reset = match told.reset? {
        Reset::After(after) => after,
        Reset::At(at) => at.duration_since(clock.wall(clock.now())).unwrap_or_default(),
    };
    Some((told.limit?, told.remaining?, reset.as_millis()))
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_charged_at_arrival_and_corrected_before_the_answer_ends() {
    let sim = limited(100);
    // 12 tokens of prompt and 16 of output, of which 4 are generated.
    let first = ask(&sim, CHAT, "x-sim-tokens: 4", STREAM).await;
    assert_eq!(standing(&first, sim.clock), Some((100, 100 - 28, 60_000)), "the head comes at arrival");
    assert_eq!(first.frames.last().unwrap().0, 260);
    let second = ask(&sim, CHAT, "x-sim-tokens: 4", WHOLE).await;
    assert_eq!(standing(&second, sim.clock), Some((100, 100 - 16 - 16, 60_000 - 260)), "and at the end");
    tokio::time::sleep(Duration::from_millis(60_000 - 2 * 260)).await;
    let third = ask(&sim, CHAT, "", STREAM).await;
    assert_eq!(standing(&third, sim.clock).unwrap().1, 100 - 16 - 28, "the first has left the window");
    assert_eq!(sim.stats().refused, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_left_or_a_fault_broke_costs_what_was_sent() {
    let sim = limited(100);
    for fault in ["cut@3", "end@3", "error-event@3", "reset@3"] {
        let broken = ask(&sim, CHAT, &format!("authorization: {fault}\nx-sim-fault: {fault}"), STREAM).await;
        assert_eq!(standing(&broken, sim.clock).unwrap().1, 72, "{fault}");
        let next = ask(&sim, CHAT, &format!("authorization: {fault}"), STREAM).await;
        assert_eq!(standing(&next, sim.clock).unwrap().1, 100 - 15 - 28, "{fault}");
    }
    let (response, _) = send(&sim, request(CHAT, "x-sim-fault: hang", STREAM)).await;
    drop(response);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let next = ask(&sim, CHAT, "", STREAM).await;
    assert_eq!(standing(&next, sim.clock).unwrap().1, 100 - 12 - 28, "hung up before the first token");
}

#[tokio::test(start_paused = true)]
async fn what_is_over_the_limit_is_refused_in_the_apis_shape_until_its_time() {
    let ollama =
        r#"{"messages":[{"content":"123456789012345678901234567890123456"}],"options":{"num_predict":16}}"#;
    for (path, body, kind) in [
        (CHAT, STREAM, "/error/type"),
        (CHAT, WHOLE, "/error/type"),
        (MESSAGES, MESSAGES_STREAM, "/error/type"),
        ("/api/chat", ollama, "/error"),
    ] {
        let sim = limited(40);
        let began = Instant::now();
        assert_eq!(ask(&sim, path, "", body).await.status, StatusCode::OK);
        let spent = began.elapsed().as_millis();
        assert_eq!(spent, 500);
        let denied = ask(&sim, path, "", body).await;
        assert_eq!((denied.status, denied.head_at), (StatusCode::TOO_MANY_REQUESTS, 0), "{path}");
        assert_eq!(denied.headers["retry-after"], "60", "59.5 s, rounded up");
        let (limit, remaining, reset) = standing(&denied, sim.clock).unwrap();
        assert_eq!((limit, remaining), (40, 12), "{path}");
        assert!((59_499..=60_500).contains(&reset), "{path}: {reset}");
        let error = denied.json().pointer(kind).and_then(Value::as_str).unwrap().to_lowercase();
        assert!(error.replace(['_', ' '], "").contains("ratelimit"), "{path}: {error}");
        assert!(denied.body().contains("Limit 40, Used 28, Requested 28. Please try again in 59.5s."));
        let other = ask(&sim, path, "x-api-key: another", body).await;
        assert_eq!(other.status, StatusCode::OK, "another's window is its own");
        tokio::time::sleep_until(began + Duration::from_millis(59_999)).await;
        assert_eq!(ask(&sim, path, "", body).await.status, StatusCode::TOO_MANY_REQUESTS);
        tokio::time::sleep_until(began + Duration::from_secs(60)).await;
        assert_eq!(ask(&sim, path, "", body).await.status, StatusCode::OK);
        let stats = sim.stats();
        assert_eq!((stats.requests, stats.refused, stats.completed, stats.open), (5, 2, 3, 0));
    }
    let alone = ask(&limited(20), CHAT, "", STREAM).await;
    assert_eq!((alone.status, alone.headers.get("retry-after")), (StatusCode::TOO_MANY_REQUESTS, None));
    assert!(alone.body().contains("Request too large"));
}

/// What a fault does to the stream of ten tokens: token events, whether it broke, whether it ended with
/// `[DONE]`, and when it was over.
async fn with_fault(fault: &str) -> (Seen, usize, bool, bool) {
    let headers = format!("x-sim-tokens: 10\nx-sim-fault: {fault}");
    let seen = ask(&sim(), CHAT, &headers, PLAIN_STREAM).await;
    let (tokens, broken, done) = (seen.texts().len(), seen.broken, seen.done());
    (seen, tokens, broken, done)
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    for (fault, tokens, broken, done) in [
        ("none", 10, false, true),
        ("cut@3", 3, true, false),
        ("cut@0", 0, true, false),
        ("cut@99", 10, true, false),
        ("cut", 5, true, false),
        ("reset@3", 3, true, false),
        ("end@3", 3, false, false),
        ("no-done", 10, false, false),
        ("hang", 0, false, false),
        ("hang-mid@3", 3, false, false),
        ("error-event@3", 3, false, true),
        ("slow-tail=7s", 10, false, true),
        ("refuse-usage", 10, false, true),
    ] {
        let (seen, got_tokens, got_broken, got_done) = with_fault(fault).await;
        assert_eq!((got_tokens, got_broken, got_done), (tokens, broken, done), "{fault}: {seen:#?}");
        assert_eq!((seen.status, seen.head_at), (StatusCode::OK, 0), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_in_the_middle_of_an_event() {
    let (seen, ..) = with_fault("cut@3").await;
    let last = &seen.frames.last().unwrap().1;
    assert!(last.starts_with("data: {") && !last.ends_with('\n'));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_an_event_and_a_slow_tail_comes_late() {
    let (seen, ..) = with_fault("error-event@3").await;
    assert_eq!(seen.events()[4].1["error"]["code"], 500);
    let (seen, ..) = with_fault("slow-tail=7s").await;
    assert_eq!(seen.texts().last().unwrap().0, 380);
    assert_eq!(seen.events().last().unwrap().0, 7380);
}

#[tokio::test(start_paused = true)]
async fn faults_of_whole_answers() {
    let sim = sim();
    for (fault, status) in [("status=503", 503), ("status=429", 429), ("error-event", 200), ("none", 200)] {
        let seen = ask(&sim, CHAT, &format!("x-sim-fault: {fault}"), WHOLE).await;
        assert_eq!(seen.status.as_u16(), status);
        assert_eq!(seen.json().get("error").is_some(), fault != "none", "{fault}");
        assert_eq!(seen.headers.contains_key("retry-after"), fault.starts_with("status"));
    }
    let seen = ask(&sim, CHAT, "x-sim-fault: cut", WHOLE).await;
    let declared: usize = seen.headers["content-length"].to_str().unwrap().parse().unwrap();
    assert_eq!((seen.body().len(), seen.broken), (declared / 2, true));
    assert_eq!(ask(&sim, CHAT, "x-sim-fault: refuse-usage", WHOLE).await.status, StatusCode::OK);
    assert_eq!(ask(&sim, CHAT, "x-sim-fault: refuse-usage", STREAM).await.status, StatusCode::BAD_REQUEST);
    for fault in ["hang", "hang-head"] {
        let request = request(CHAT, &format!("x-sim-fault: {fault}"), WHOLE);
        assert!(
            tokio::time::timeout(Duration::from_secs(999), send(&sim, request)).await.is_err(),
            "{fault}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_seen_and_counted() {
    let sim = sim();
    let (response, _) = send(&sim, request(CHAT, "", STREAM)).await;
    let mut body = response.into_body();
    for _ in 0..4 {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(sim.stats().open, 1);
    drop(body);
    let waiting =
        tokio::time::timeout(Duration::from_millis(100), send(&sim, request(CHAT, "", WHOLE))).await;
    assert!(waiting.is_err(), "a whole answer, left while it is waited for");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stats = sim.stats();
    assert_eq!((stats.open, stats.cancelled, stats.completed), (0, 2, 0));
    assert!(sim.answers().iter().all(|answer| answer.ending == Ending::Cancelled));
    assert!((3..6).contains(&sim.answers()[0].sent_tokens));
}

#[tokio::test(start_paused = true)]
async fn a_server_is_made_slow_and_healed_while_it_runs() {
    let sim = sim();
    sim.update(|settings| settings.model_mut("sim").unwrap().ttft = Duration::from_secs(3));
    assert_eq!(ask(&sim, CHAT, "", STREAM).await.texts()[0].0, 3000);
    sim.update(|settings| {
        settings.model_mut("sim").unwrap().ttft = Duration::from_millis(100);
        settings.mishap = Some(Mishap { fault: Fault::NoDone, share: 1.0 });
    });
    let seen = ask(&sim, CHAT, "", STREAM).await;
    assert_eq!((seen.texts()[0].0, seen.done()), (100, false));
}

#[tokio::test(start_paused = true)]
async fn other_paths_and_methods_and_broken_requests() {
    let sim = sim();
    for (path, body, status) in [
        (CHAT, "{", 400),
        (CHAT, "{}", 400),
        ("/v1/nothing", "{}", 404),
        ("/health", "", 405),
        ("/t/search/v1/chat/completions", WHOLE, 200),
    ] {
        assert_eq!(ask(&sim, path, "", body).await.status.as_u16(), status, "{path} {body}");
    }
    let get = |path: &str| Request::get(path).header("host", "sim").body(Full::default()).unwrap();
    for (path, status) in [(CHAT, 405), ("/health", 200), ("/v1/models", 200)] {
        let (response, began) = send(&sim, get(path)).await;
        let seen = read(response, began).await;
        assert_eq!(seen.status.as_u16(), status, "{path}");
        if path == "/v1/models" {
            assert_eq!(seen.json()["data"][0]["id"], "sim");
        }
    }
    let stats = sim.stats();
    assert_eq!((stats.requests, stats.refused, stats.completed, stats.open), (3, 2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn http_2_streams_share_a_connection_and_break_alone() {
    let sim = sim();
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(Arc::clone(&sim).serve_io(far));
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    let ask = async |headers: &str| {
        let mut request = request(CHAT, headers, STREAM);
        *request.uri_mut() = format!("http://sim{CHAT}").parse().unwrap();
        request.headers_mut().remove("host");
        let began = Instant::now();
        read(client.clone().send_request(request).await.unwrap(), began).await
    };
    let (whole, broken) = tokio::join!(ask(""), ask("x-sim-fault: reset@3"));
    assert_eq!((whole.texts().len(), whole.done()), (16, true));
    assert_eq!((broken.texts().len(), broken.broken), (3, true));
    assert_eq!(sim.stats().connections, 1);
}

#[tokio::test]
async fn a_reset_is_a_reset_on_a_socket() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let sim = sim();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(Arc::clone(&sim).serve(listener, stop.clone()));
    for (fault, reset) in [("reset@2", true), ("cut@2", false)] {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: sim\r\nx-sim-ttft: 1ms\r\nx-sim-fault: {fault}\r\ncontent-length: {}\r\n\r\n",
            STREAM.len()
        );
        socket.write_all((head + STREAM).as_bytes()).await.unwrap();
        let mut text = Vec::new();
        let read = socket.read_to_end(&mut text).await;
        assert_eq!(
            read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
            reset,
            "{fault}"
        );
        assert!(!text.is_empty());
    }
    stop.cancel();
    serving.await.unwrap();
    assert_eq!(sim.stats().broken, 2);
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_slots_wait_for_their_turn() {
    let model = Profile { ttft: Duration::from_millis(200), tokens_per_second: 50.0, ..Profile::new("sim") };
    let sim = Sim::new(Settings { slots: Some(1), ..Settings::with_models([model]) }, Clock::start());
    let body = r#"{"model": "sim", "stream": true, "max_tokens": 11, "messages": []}"#;
    let (first, second) = tokio::join!(ask(&sim, CHAT, "", body), ask(&sim, CHAT, "", body));
    let began = |seen: &Seen| seen.texts().first().unwrap().0;
    assert_eq!((began(&first), began(&second)), (200, 600), "the first is over after 400 ms");
    assert_eq!(sim.stats().completed, 2);
    let left = tokio::time::timeout(Duration::from_millis(300), async {
        tokio::join!(ask(&sim, CHAT, "", body), ask(&sim, CHAT, "", body))
    });
    assert!(left.await.is_err(), "both clients leave, one that waits and one that is served");
    assert_eq!(began(&ask(&sim, CHAT, "", body).await), 200, "the slot is free again");
}
