//! A token event allocates nothing. A binary of its own: the counting allocator is the whole process's.

use std::time::Duration;

use streamgauge::clock::Moment;
use streamgauge::dialect;
use streamgauge::observe::{Head, Observer};
use streamgauge::wire::event_stream;

const CHAT: &[&str] = &[
    r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":" word"},"logprobs":{"content":[{"token":" word","logprob":-0.1,"bytes":[32,119],"top_logprobs":[{"token":" word","logprob":-0.1,"bytes":null}]}],"refusal":null}}]}"#,
    r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"a \"quoted\"\nline \u00e9"}}],"created":1,"id":"c","model":"m","system_fingerprint":"b0","object":"chat.completion.chunk"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"reasoning_content":"hm"}}],"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":null}}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}}]}"#,
];

const COMPLETIONS: &[&str] = &[
    r#"{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" compass","logprobs":null,"finish_reason":null,"token_ids":null}]}"#,
];

const ANTHROPIC: &[&str] = &[
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a \"quoted\"\nline"}}"#,
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\""}}"#,
];

const OLLAMA_CHAT: &[&str] = &[
    r#"{"model":"m","created_at":"2026-11-24T10:00:00.1Z","message":{"role":"assistant","content":" word"},"done":false}"#,
    r#"{"model":"m","created_at":"2026-11-24T10:00:00.1Z","message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
];

const OLLAMA: &[&str] =
    &[r#"{"model":"m","created_at":"2026-11-24T10:00:00.1Z","response":" word","done":false}"#];

const LLAMACPP: &[&str] = &[
    r#"{"index":0,"content":" word","tokens":[4],"stop":false,"id_slot":-1,"tokens_predicted":3,"tokens_evaluated":9}"#,
];

const TGI: &[&str] = &[
    r#"{"index":7,"token":{"id":315,"text":" compass","logprob":-0.25,"special":false},"generated_text":null,"details":null}"#,
];

const TRITON: &[&str] = &[
    r#"{"model_name":"m","model_version":"1","sequence_end":false,"sequence_id":0,"sequence_start":false,"text_output":" compass"}"#,
];

const RESPONSES: &[&str] = &[
    r#"{"content_index":0,"delta":" word","item_id":"msg_1","logprobs":[],"output_index":0,"sequence_number":4,"type":"response.output_text.delta"}"#,
    r#"{"content_index":0,"delta":"hm","item_id":"rs_1","output_index":0,"sequence_number":4,"type":"response.reasoning_text.delta"}"#,
    r#"{"type":"response.function_call_arguments.delta","item_id":"fc_1","output_index":0,"delta":"{\"a\"","obfuscation":"xyz"}"#,
];

const GEMINI: &[&str] = &[
    r#"{"candidates":[{"content":{"parts":[{"text":"a \"quoted\"\nline"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":4,"totalTokenCount":13,"promptTokensDetails":[{"modality":"TEXT","tokenCount":9}]},"modelVersion":"m","responseId":"r"}"#,
    r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true}],"role":"model"},"index":0}],"modelVersion":"m"}"#,
];

const REALTIME: &[&str] = &[
    r#"{"type":"response.output_text.delta","event_id":"e","response_id":"resp_1","item_id":"i","output_index":0,"content_index":0,"delta":" word"}"#,
    r#"{"type":"response.output_audio.delta","event_id":"e","response_id":"resp_1","item_id":"i","output_index":0,"content_index":0,"delta":"AAECAwQFBgcICQ=="}"#,
    r#"{"type":"input_audio_buffer.committed","event_id":"e","item_id":"i"}"#,
];

#[cfg(test)]
mod session {
    use std::sync::Arc;

    use flate2::{Compress, Compression, FlushCompress};
    use streamgauge::clock::Moment;
    use streamgauge::dialect::conversation;
    use streamgauge::exchange::Ending;
    use streamgauge::observe::{Head, Observer, Session, Side, Start, Turn};
    use streamgauge::wire::Budget;
    use streamgauge::wire::websocket::Extensions;

    /// A response of a session; counts nothing.
    struct Response(Observer);

    impl Turn for Response {
        fn asked(&mut self, _: Option<&[u8]>, at: Moment) {
            self.0.request_end(at);
        }

        fn head(&mut self, head: &Head<'_>, at: Moment) {
            self.0.head(head, at);
        }

        fn message(&mut self, message: &[u8], at: Moment) {
            self.0.response_chunk(message, at);
        }

        fn skipped(&mut self, _: Moment) {}

        fn lost(&mut self) {}

        fn finish(self, _: Ending, _: Moment) {}
    }

    /// What so many messages of a session allocate, each like the one before; how much they are compressed may differ.
    pub(super) fn allocated(event: &str, deflates: bool) -> u64 {
        let conversation = conversation::find("/v1/realtime").unwrap();
        let agreed = Extensions::of(deflates.then_some("permessage-deflate")).unwrap();
        let budget = Arc::new(Budget::new(1 << 20));
        let mut session = Session::new(conversation, conversation.asked(None), agreed, &budget);
        let mut compress = Compress::new(Compression::fast(), false);
        let mut frame = |text: &str| {
            let mut payload = text.as_bytes().to_vec();
            if deflates {
                payload = Vec::with_capacity(4096);
                compress.compress_vec(text.as_bytes(), &mut payload, FlushCompress::Sync).unwrap();
                payload.truncate(payload.len() - 4);
            }
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            [&[if deflates { 0xC1 } else { 0x81 }, 126], length.as_slice(), &payload].concat()
        };
        let created = frame(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
        let frames: Vec<_> = (0..102).map(|_| frame(event)).collect();
        let mut push = |bytes: &[u8]| {
            let dialect = Ok(conversation.dialect);
            let begin = &mut |_: Start<'_>| Response(Observer::new(dialect, Moment::default()));
            session.push(Side::Server, bytes, Moment::default(), begin).unwrap();
        };
        push(&created);
        let mut in_halves = |frame: &Vec<u8>| {
            let (first, second) = frame.split_at(frame.len() / 2);
            push(first);
            push(second);
        };
        let (warm, measured) = frames.split_at(2);
        warm.iter().for_each(&mut in_halves);
        allocation_counter::measure(|| measured.iter().for_each(&mut in_halves)).count_total
    }
}

const COHERE: &[&str] = &[
    r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":" compass"}}}}"#,
    r#"{"index":1,"delta":{"message":{"content":{"thinking":"h\"m"}}},"type":"content-delta"}"#,
];

/// Messages of Bedrock's streams: the operation, the event's type, its payload.
const BEDROCK: &[(&str, &str, &str)] = &[
    (
        "converse-stream",
        "contentBlockDelta",
        r#"{"contentBlockIndex":0,"delta":{"text":" compass"},"p":"abcdefghijklmnopqrstuvwxyz"}"#,
    ),
    (
        "invoke-with-response-stream",
        "chunk",
        // {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word"}}
        r#"{"bytes":"eyJ0eXBlIjoiY29udGVudF9ibG9ja19kZWx0YSIsImluZGV4IjowLCJkZWx0YSI6eyJ0eXBlIjoidGV4dF9kZWx0YSIsInRleHQiOiJ3b3JkIn19","p":"abcdefg"}"#,
    ),
];

/// Streams of text, with what stands before and behind each event; all of them carry on for ever.
const STREAMS: &[(&str, &str, [&str; 2], &[&str])] = &[
    ("/v1/chat/completions", EVENTS, SSE, CHAT),
    ("/v1/completions", EVENTS, SSE, COMPLETIONS),
    ("/v1/messages", EVENTS, SSE, ANTHROPIC),
    ("/completion", EVENTS, SSE, LLAMACPP),
    ("/api/chat", LINES, ["", "\n"], OLLAMA_CHAT),
    ("/api/generate", LINES, ["", "\n"], OLLAMA),
    ("/generate_stream", EVENTS, SSE, TGI),
    ("/v2/models/m/generate_stream", EVENTS, SSE, TRITON),
    ("/v1/responses", EVENTS, SSE, RESPONSES),
    ("/v2/chat", EVENTS, SSE, COHERE),
    ("/v1beta/models/m:streamGenerateContent", EVENTS, SSE, GEMINI),
    ("/v1beta/models/m:streamGenerateContent", "application/json", [" ", ","], GEMINI),
];

const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";
const MESSAGES: &str = "application/vnd.amazon.eventstream";
const SSE: [&str; 2] = ["data: ", "\n\n"];
const SGLANG: &str = "/generate";

#[test]
fn a_token_event_allocates_nothing() {
    for event in REALTIME {
        for deflates in [false, true] {
            assert_eq!(session::allocated(event, deflates), 0, "{event}");
        }
    }
    for (path, content_type, [before, behind], events) in STREAMS {
        for event in *events {
            allocates_nothing(path, content_type, format!("{before}{event}{behind}").as_bytes());
        }
    }
    for (operation, kind, payload) in BEDROCK {
        let mut message = Vec::new();
        let headers = [(":event-type", *kind), (":message-type", "event")];
        event_stream::write(&headers, payload.as_bytes(), &mut message);
        allocates_nothing(&format!("/model/m/{operation}"), MESSAGES, &message);
    }
    events_that_say_the_text_again_allocate_nothing();
    every_stream_is_here();
    let counted = allocation_counter::measure(|| drop(Vec::<u8>::with_capacity(1)));
    assert_eq!(counted.count_total, 1, "the allocator counts");
}

fn allocates_nothing(path: &str, content_type: &str, event: &[u8]) {
    let told = String::from_utf8_lossy(event);
    let mut observer = Observer::new(dialect::find("POST", path), Moment::default()).on_path(path);
    let head = Head { status: 200, content_type: Some(content_type), ..Head::default() };
    observer.head(&head, Moment::default());
    if content_type == "application/json" {
        observer.response_chunk(b"[", Moment::default());
    }
    let (first, second) = event.split_at(event.len() / 2);
    let mut at = Moment::default();
    let mut stream = |times: u32| {
        let mut tokens = 0;
        for _ in 0..times {
            at = at + Duration::from_millis(1);
            tokens += observer.response_chunk(event, at).token_events;
            tokens += observer.response_chunk(first, at).token_events;
            tokens += observer.response_chunk(second, at).token_events;
        }
        tokens
    };
    assert_eq!(stream(2), 4, "{path}: {told}");
    let mut tokens = 0;
    let counted = allocation_counter::measure(|| tokens = stream(100));
    assert_eq!((tokens, counted.count_total), (200, 0), "{path}: {told}");
}

fn every_stream_is_here() {
    let paths = STREAMS.iter().map(|(path, ..)| *path).chain(["/model/m/converse-stream", SGLANG]);
    let here: Vec<_> = paths.filter_map(|path| Some(dialect::find("POST", path).ok()?.id())).collect();
    let streams = dialect::DIALECTS.iter().filter(|dialect| dialect.describe().stream.is_some());
    let missing: Vec<_> = streams.map(|dialect| dialect.id()).filter(|id| !here.contains(id)).collect();
    assert!(missing.is_empty(), "no event of {missing:?}");
}

/// SGLang's. In the same test, for the counter is the thread's and the process has one allocator.
fn events_that_say_the_text_again_allocate_nothing() {
    let mut observer = Observer::new(dialect::find("POST", SGLANG), Moment::default());
    let head = Head { status: 200, content_type: Some(EVENTS), ..Head::default() };
    observer.head(&head, Moment::default());
    let event = |words: usize| {
        let (text, ids) = (" word".repeat(words), vec!["7"; words].join(","));
        format!(
            r#"data: {{"text":"{text}","output_ids":[{ids}],"meta_info":{{"id":"a","finish_reason":null,"prompt_tokens":4,"completion_tokens":{words},"cached_tokens":0}}}}"#
        ) + "\n\n"
    };
    let events: Vec<String> = (1..=102).map(event).collect();
    let (first, rest) = events.split_at(2);
    let mut stream = |events: &[String]| -> u64 {
        events
            .iter()
            .map(|event| observer.response_chunk(event.as_bytes(), Moment::default()).token_events)
            .sum()
    };
    assert_eq!(stream(first), 2);
    let mut tokens = 0;
    let counted = allocation_counter::measure(|| tokens = stream(rest));
    assert_eq!((tokens, counted.count_total), (100, 0));
}
