//! A token event allocates nothing (one with log probabilities does: the JSON library keeps the brackets of what it
//! passes over). A binary of its own: the counting allocator is the whole process's.

use std::time::Duration;

use streamgauge::clock::Moment;
use streamgauge::dialect;
use streamgauge::observe::{Head, Observer};

const CHAT: &[&str] = &[
    r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#,
    r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"a \"quoted\"\nline \u00e9"}}],"created":1,"id":"c","model":"m","system_fingerprint":"b0","object":"chat.completion.chunk"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"reasoning_content":"hm"}}],"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":null}}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}}]}"#,
];

const COMPLETIONS: &[&str] = &[
    r#"{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" compass","logprobs":null,"finish_reason":null,"token_ids":null}]}"#,
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

#[test]
fn a_token_event_allocates_nothing() {
    for event in REALTIME {
        for deflates in [false, true] {
            assert_eq!(session::allocated(event, deflates), 0, "{event}");
        }
    }
    for (path, events) in [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", COMPLETIONS),
        ("/v1/responses", RESPONSES),
        ("/v1beta/models/m:streamGenerateContent", GEMINI),
    ] {
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
    let counted = allocation_counter::measure(|| drop(Vec::<u8>::with_capacity(1)));
    assert_eq!(counted.count_total, 1, "the allocator counts");
    assert!(dialect::find("POST", "/v1/chat/completions").is_ok());
}
