//! A token event allocates nothing (one with log probabilities does: the JSON library keeps the brackets of what it
//! passes over). A binary of its own: the counting allocator is the whole process's.

use std::time::Duration;

use streamgauge::clock::Moment;
use streamgauge::dialect;
use streamgauge::observe::{Head, Observer};
use streamgauge::wire::event_stream;

const CHAT: &[&str] = &[
    r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#,
    r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"a \"quoted\"\nline \u00e9"}}],"created":1,"id":"c","model":"m","system_fingerprint":"b0","object":"chat.completion.chunk"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"reasoning_content":"hm"}}],"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":null}}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}}]}"#,
];

const COMPLETIONS: &[&str] = &[
    r#"{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" compass","logprobs":null,"finish_reason":null,"token_ids":null}]}"#,
];

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

#[test]
fn a_token_event_allocates_nothing() {
    for (path, events) in
        [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETIONS), ("/v2/chat", COHERE)]
    {
        for event in events {
            let mut observer = Observer::new(dialect::find("POST", path), Moment::default());
            let head = Head { status: 200, content_type: Some("text/event-stream"), ..Head::default() };
            observer.head(&head, Moment::default());
            let bytes = format!("data: {event}\n\n");
            let (first, second) = bytes.as_bytes().split_at(bytes.len() / 2);
            let mut at = Moment::default();
            let mut stream = |times: u32| {
                let mut tokens = 0;
                for _ in 0..times {
                    at = at + Duration::from_millis(1);
                    tokens += observer.response_chunk(bytes.as_bytes(), at).token_events;
                    tokens += observer.response_chunk(first, at).token_events;
                    tokens += observer.response_chunk(second, at).token_events;
                }
                tokens
            };
            assert_eq!(stream(2), 4, "{event}");
            let mut tokens = 0;
            let counted = allocation_counter::measure(|| tokens = stream(100));
            assert_eq!((tokens, counted.count_total), (200, 0), "{event}");
        }
    }
    bedrocks_events_allocate_nothing();
    let counted = allocation_counter::measure(|| drop(Vec::<u8>::with_capacity(1)));
    assert_eq!(counted.count_total, 1, "the allocator counts");
    assert!(dialect::find("POST", "/v1/chat/completions").is_ok());
}

fn bedrocks_events_allocate_nothing() {
    for (operation, kind, payload) in BEDROCK {
        let path = format!("/model/m/{operation}");
        let mut observer = Observer::new(dialect::find("POST", &path), Moment::default()).on_path(&path);
        let content_type = Some("application/vnd.amazon.eventstream");
        observer.head(&Head { status: 200, content_type, ..Head::default() }, Moment::default());
        let mut bytes = Vec::new();
        let headers = [(":event-type", *kind), (":message-type", "event")];
        event_stream::write(&headers, payload.as_bytes(), &mut bytes);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let mut stream = |times: u32| -> u64 {
            let chunks = (0..times).flat_map(|_| [bytes.as_slice(), first, second]);
            chunks.map(|chunk| observer.response_chunk(chunk, Moment::default()).token_events).sum()
        };
        assert_eq!(stream(2), 4, "{payload}");
        let mut tokens = 0;
        let counted = allocation_counter::measure(|| tokens = stream(100));
        assert_eq!((tokens, counted.count_total), (200, 0), "{payload}");
    }
}
