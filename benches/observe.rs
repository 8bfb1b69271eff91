//! What observing costs: nanoseconds and allocations of an event and of a whole exchange, with and without each
//! stage. `cargo bench --bench observe`
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark that cannot run has nothing to say")]

use std::hint::black_box;
use std::time::Duration;

use divan::{AllocProfiler, Bencher, counter::ItemsCount};
use streamgauge::clock::Moment;
use streamgauge::dialect::{self, Dialect, Signal};
use streamgauge::exchange::Ending;
use streamgauge::observe::{Head, Observer};
use streamgauge::wire::{Event, Framed, Skim, Sse, event_stream};

#[path = "../tests/it/encode.rs"]
mod encode;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// An ordinary event as vLLM sends it: 217 bytes.
const EVENT: &str = "data: {\"id\":\"chatcmpl-86092c3df5676360\",\"object\":\"chat.completion.chunk\",\"created\":1795498929,\"model\":\"llama-3.1-8b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n";

/// The same as llama.cpp sends it.
const LLAMACPP: &str = "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\" sentence\"}}],\"created\":1795497815,\"id\":\"chatcmpl-syemEwqv6gegLthQiNopmfoFMyFgByUQ\",\"model\":\"gemma-3-270m\",\"system_fingerprint\":\"b0-unknown\",\"object\":\"chat.completion.chunk\"}\n\n";

/// A token of TGI's own API.
const TGI: &str = "data:{\"index\":7,\"token\":{\"id\":315,\"text\":\" compass\",\"logprob\":-0.25,\"special\":false},\"generated_text\":null,\"details\":null}\n\n";

/// A text of Triton's.
const TRITON: &str = "data: {\"model_name\":\"llama\",\"model_version\":\"1\",\"sequence_end\":false,\"sequence_id\":0,\"sequence_start\":false,\"text_output\":\" word\"}\n\n";

const REQUEST: &str = r#"{"model":"llama-3.1-8b","stream":true,"messages":[{"role":"user","content":"Write one sentence about the sea."}]}"#;

/// What a delta of a response is, as vLLM sends it.
const RESPONSES: &str = "event: response.output_text.delta\ndata: {\"content_index\":0,\"delta\":\" word\",\"item_id\":\"msg_a3cf2e3234ddd5b3\",\"logprobs\":[],\"output_index\":0,\"sequence_number\":4,\"type\":\"response.output_text.delta\"}\n\n";

/// An event of Gemini's: it holds several tokens, and the usage so far.
const GEMINI: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\" several words of text\"}],\"role\":\"model\"},\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":9,\"candidatesTokenCount\":4,\"totalTokenCount\":13,\"promptTokensDetails\":[{\"modality\":\"TEXT\",\"tokenCount\":9}]},\"modelVersion\":\"m\",\"responseId\":\"r\"}\r\n\r\n";

const ANTHROPIC: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" word\"}}\n\n";

const COHERE: &str = "event: content-delta\ndata: {\"type\":\"content-delta\",\"index\":0,\"delta\":{\"message\":{\"content\":{\"text\":\" word\"}}}}\n\n";

const COMPLETIONS: &str = "data: {\"id\":\"cmpl-86092c3df5676360\",\"object\":\"text_completion\",\"created\":1795498929,\"model\":\"llama-3.1-8b\",\"choices\":[{\"index\":0,\"text\":\" word\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null,\"token_ids\":null}]}\n\n";

/// A token of llama.cpp's own API.
const COMPLETION: &str = "data: {\"index\":0,\"content\":\" word\",\"tokens\":[3658],\"stop\":false,\"id_slot\":-1,\"tokens_predicted\":3,\"tokens_evaluated\":9}\n\n";

/// A line of Ollama's.
const OLLAMA: &str = "{\"model\":\"llama3.1:8b\",\"created_at\":\"2026-11-24T10:00:00.123456789Z\",\"message\":{\"role\":\"assistant\",\"content\":\" word\"},\"done\":false}\n";

fn chat() -> &'static dyn Dialect {
    dialect::find("POST", "/v1/chat/completions").unwrap_or_else(|_| unreachable!())
}

fn streaming(server: Server) -> Observer {
    let mut observer = Observer::new(Ok(server.dialect()), Moment::default());
    observer.request_chunk(REQUEST.as_bytes());
    observer.request_end(Moment::default());
    let head = Head { status: 200, content_type: Some("text/event-stream"), ..Head::default() };
    observer.head(&head, Moment::default());
    observer.response_chunk(server.event().as_bytes(), Moment::default());
    observer
}

/// Whose event: the APIs that stream server-sent events, each like the one before.
#[derive(Debug, Clone, Copy)]
enum Server {
    Vllm,
    Llamacpp,
    Completions,
    Completion,
    Responses,
    Anthropic,
    Gemini,
    Cohere,
    Tgi,
    Triton,
}

const SERVERS: [Server; 10] = [
    Server::Vllm,
    Server::Llamacpp,
    Server::Completions,
    Server::Completion,
    Server::Responses,
    Server::Anthropic,
    Server::Gemini,
    Server::Cohere,
    Server::Tgi,
    Server::Triton,
];

impl Server {
    fn event(self) -> &'static str {
        match self {
            Self::Vllm => EVENT,
            Self::Llamacpp => LLAMACPP,
            Self::Completions => COMPLETIONS,
            Self::Completion => COMPLETION,
            Self::Responses => RESPONSES,
            Self::Anthropic => ANTHROPIC,
            Self::Gemini => GEMINI,
            Self::Cohere => COHERE,
            Self::Tgi => TGI,
            Self::Triton => TRITON,
        }
    }

    fn dialect(self) -> &'static dyn Dialect {
        let path = match self {
            Self::Vllm | Self::Llamacpp => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Completion => "/completion",
            Self::Responses => "/v1/responses",
            Self::Anthropic => "/v1/messages",
            Self::Gemini => "/v1beta/models/m:streamGenerateContent",
            Self::Cohere => "/v2/chat",
            Self::Tgi => "/generate_stream",
            Self::Triton => "/v2/models/llama/generate_stream",
        };
        dialect::find("POST", path).unwrap_or_else(|_| unreachable!())
    }
}

#[divan::bench(args = SERVERS)]
fn event_framing_only(bencher: Bencher, server: Server) {
    let event = server.event();
    let mut sse = Sse::default();
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        sse.push(black_box(event.as_bytes()), &mut |framed| {
            black_box(matches!(framed, Framed::Event(_)));
        });
    });
}

#[divan::bench(args = SERVERS)]
fn event_dialect_only(bencher: Bencher, server: Server) {
    let (_, data) = server.event().split_once("data:").unwrap();
    let data = data.trim().as_bytes();
    let dialect = server.dialect();
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        let event = Event { name: None, data: black_box(data) };
        dialect.event(&event, &mut |signal| {
            black_box(matches!(signal, Signal::Delta { .. }));
        });
    });
}

#[divan::bench(args = SERVERS)]
fn event_observed(bencher: Bencher, server: Server) {
    again(bencher, streaming(server), server.event().as_bytes());
}

/// Eight tokens of SGLang's own API, each event with the text from its start, in a stream that has begun.
#[divan::bench]
fn eight_events_of_sglang_observed(bencher: Bencher) {
    let event = |n: usize| {
        let (text, ids) = (" word".repeat(n), "9581,".repeat(n));
        format!(
            "data: {{\"text\":\"{text}\",\"output_ids\":[{}],\"meta_info\":{{\"id\":\"5f0c1c2f5d7d4c0d9a0b\",\
             \"finish_reason\":null,\"prompt_tokens\":12,\"weight_version\":\"default\",\"completion_tokens\":{n},\
             \"cached_tokens\":0}}}}\n\n",
            ids.trim_end_matches(',')
        )
    };
    let events: Vec<_> = (5..13).map(event).collect();
    let begun = || {
        let mut observer = answering("/generate", "text/event-stream", None);
        assert_eq!(observer.response_chunk(event(4).as_bytes(), Moment::default()).token_events, 1);
        observer
    };
    bencher.counter(ItemsCount::new(events.len())).with_inputs(begun).bench_local_refs(|observer| {
        for event in &events {
            let looked = observer.response_chunk(black_box(event.as_bytes()), Moment::default());
            assert_eq!(looked.token_events, 1);
        }
    });
}

/// What a message of Bedrock's is: the operation, the event's type, its payload.
type Message = (&'static str, &'static str, &'static str);

const CONVERSE: Message = (
    "converse-stream",
    "contentBlockDelta",
    r#"{"contentBlockIndex":0,"delta":{"text":" word"},"p":"abcdefghijklmnopqrstuvwxyzABCDEF"}"#,
);

/// Claude's event in it: `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word"}}`.
const INVOKE: Message = (
    "invoke-with-response-stream",
    "chunk",
    r#"{"bytes":"eyJ0eXBlIjoiY29udGVudF9ibG9ja19kZWx0YSIsImluZGV4IjowLCJkZWx0YSI6eyJ0eXBlIjoidGV4dF9kZWx0YSIsInRleHQiOiJ3b3JkIn19","p":"abcdefghijklmnopqr"}"#,
);

/// Which of Bedrock's streams.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Converse,
    Invoke,
}

#[divan::bench(args = [Operation::Converse, Operation::Invoke])]
fn bedrock_event_observed(bencher: Bencher, operation: Operation) {
    let (operation, kind, payload) = match operation {
        Operation::Converse => CONVERSE,
        Operation::Invoke => INVOKE,
    };
    let mut event = Vec::new();
    event_stream::write(
        &[(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")],
        payload.as_bytes(),
        &mut event,
    );
    let path = format!("/model/m/{operation}");
    observed(bencher, &path, "application/vnd.amazon.eventstream", &event);
}

#[divan::bench]
fn line_of_ollama_observed(bencher: Bencher) {
    observed(bencher, "/api/chat", "application/x-ndjson", OLLAMA.as_bytes());
}

/// Gemini's without `alt=sse`.
#[divan::bench]
fn element_of_gemini_observed(bencher: Bencher) {
    let (_, element) = GEMINI.split_once("data:").unwrap();
    let element = format!("{},", element.trim());
    let path = "/v1beta/models/m:streamGenerateContent";
    let mut observer = answering(path, "application/json", None);
    observer.response_chunk(b"[", Moment::default());
    again(bencher, observer, element.as_bytes());
}

/// Events that are flushed one by one in an encoding, in a stream that has begun.
#[divan::bench(args = encode::ENCODINGS)]
fn sixty_four_events_in_an_encoding_observed(bencher: Bencher, encoding: &str) {
    let events: Vec<_> = (0..65).map(|n| EVENT.replace(" word", &format!(" word{n}"))).collect();
    let pieces: Vec<_> = events.iter().map(|event| (Duration::ZERO, event.as_bytes())).collect();
    let encoded = encode::encode(encoding, &pieces, false);
    let (first, others) = encoded.split_first().unwrap();
    let begun = || {
        let mut observer = answering("/v1/chat/completions", "text/event-stream", Some(encoding));
        assert_eq!(observer.response_chunk(&first.1, Moment::default()).token_events, 1);
        observer
    };
    bencher.counter(ItemsCount::new(others.len())).with_inputs(begun).bench_local_refs(|observer| {
        for (_, piece) in others {
            assert_eq!(observer.response_chunk(black_box(piece), Moment::default()).token_events, 1);
        }
    });
}

fn observed(bencher: Bencher, path: &str, content_type: &str, event: &[u8]) {
    again(bencher, answering(path, content_type, None), event);
}

/// An observer that has the answer's head.
fn answering(path: &str, content_type: &str, content_encoding: Option<&str>) -> Observer {
    let mut observer = Observer::new(dialect::find("POST", path), Moment::default());
    let head = Head { status: 200, content_type: Some(content_type), content_encoding, ..Head::default() };
    observer.head(&head, Moment::default());
    observer
}

fn again(bencher: Bencher, mut observer: Observer, event: &[u8]) {
    assert_eq!(observer.response_chunk(event, Moment::default()).token_events, 1);
    let mut at = Moment::default();
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        at = at + Duration::from_millis(1);
        black_box(observer.response_chunk(black_box(event), at));
    });
}

#[divan::bench]
fn request_skimmed(bencher: Bencher) {
    bencher.bench_local(|| {
        let mut skim = Skim::new(chat().request_members());
        skim.push(black_box(REQUEST.as_bytes()));
        black_box(chat().request(&skim.finish()));
    });
}

#[divan::bench]
fn request_of_a_megabyte_skimmed(bencher: Bencher) {
    let prompt = "The quick brown fox. ".repeat(50_000);
    let body = REQUEST.replace("Write one sentence about the sea.", &prompt);
    bencher.bench_local(|| {
        let mut skim = Skim::new(chat().request_members());
        for chunk in body.as_bytes().chunks(16 << 10) {
            skim.push(black_box(chunk));
        }
        black_box(chat().request(&skim.finish()));
    });
}

#[divan::bench(args = [1, 101])]
fn whole_exchange_of_so_many_events(bencher: Bencher, events: u32) {
    bencher.bench_local(|| {
        let mut observer = streaming(Server::Vllm);
        for _ in 1..events {
            observer.response_chunk(black_box(EVENT.as_bytes()), Moment::default());
        }
        black_box(observer.finish(Ending::Clean, Moment::default()));
    });
}
