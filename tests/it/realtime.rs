//! Sessions over WebSocket: each response an exchange of its own, whatever becomes of the session.

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use serde_json::{Value, json};

use super::harness::{ONE_UPSTREAM, Sidecar, Upstream, Wire};

const STARTED: &str = "streamgauge_requests_started_total{upstream=\"default\"}";
const IN_FLIGHT: &str = "streamgauge_requests_in_flight{upstream=\"default\"}";
const UNOBSERVED: &str = "upstream=\"default\",reason=\"upgrade\"";
const DEFLATE: &str = "permessage-deflate; client_no_context_takeover";

/// A session: what each side says, and what the sidecar makes of it.
struct Session {
    sidecar: Sidecar,
    _upstream: Upstream,
    client: Wire,
    server: Wire,
    /// What each side compresses with; none where nothing is compressed.
    deflate: Option<[Compress; 2]>,
}

impl Session {
    async fn open(config: &str, target: &str, extensions: &str) -> Self {
        let (sidecar, mut upstream) = Sidecar::start(config);
        let mut client = sidecar.connect();
        let ask = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nX-Tenant-Id: t\r\n\
             X-Request-Id: r\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        );
        client.write(ask).await;
        let mut server = upstream.accept().await;
        server.read_head().await;
        let agreed = match extensions {
            "" => String::new(),
            agreed => format!("Sec-WebSocket-Extensions: {agreed}\r\n"),
        };
        let switch = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{agreed}\r\n"
        );
        server.write(switch).await;
        client.read_head().await;
        let compress = || Compress::new(Compression::fast(), false);
        let deflate = (extensions == DEFLATE).then(|| [compress(), compress()]);
        Self { sidecar, _upstream: upstream, client, server, deflate }
    }

    fn frame(&mut self, by_client: bool, message: &Value) -> Vec<u8> {
        let plain = message.to_string().into_bytes();
        let (mark, payload) = match &mut self.deflate {
            None => (0x81, plain),
            Some(deflate) => {
                let compress = &mut deflate[usize::from(by_client)];
                if by_client {
                    compress.reset();
                }
                let mut packed = Vec::with_capacity(plain.len() + 1024);
                compress.compress_vec(&plain, &mut packed, FlushCompress::Sync).unwrap();
                (0xC1, packed.strip_suffix(&[0, 0, 0xFF, 0xFF]).unwrap().to_vec())
            }
        };
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        if !by_client {
            return [&[mark, 126], length.as_slice(), &payload].concat();
        }
        let key = [9, 8, 7, 6];
        let masked: Vec<u8> = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        [&[mark, 0x80 | 126], length.as_slice(), &key, &masked].concat()
    }

    /// The client says this, and the server hears it as it was said.
    async fn ask(&mut self, message: &Value) {
        let frame = self.frame(true, message);
        self.client.write(&frame).await;
        assert_eq!(self.server.read_exactly(frame.len()).await, frame);
    }

    /// The server says this after so many milliseconds, and the client hears it as it was said.
    async fn tell(&mut self, after: u64, message: &Value) {
        tokio::time::sleep(Duration::from_millis(after)).await;
        let frame = self.frame(false, message);
        self.server.write(&frame).await;
        assert_eq!(self.client.read_exactly(frame.len()).await, frame);
    }

    /// A response of two tokens, so many milliseconds after it was asked for.
    async fn respond(&mut self, id: &str, after: u64) {
        self.begin(id, after).await;
        self.tell(20, &delta(id, "world")).await;
        self.tell(10, &done(id, "completed")).await;
    }

    async fn begin(&mut self, id: &str, after: u64) {
        self.ask(&json!({"type": "response.create"})).await;
        self.tell(1, &json!({"type": "response.created", "response": {"id": id, "status": "in_progress"}}))
            .await;
        self.tell(after - 1, &delta(id, "hello")).await;
    }

    /// Both sides say goodbye.
    async fn close(mut self) -> Vec<Value> {
        self.client.write([0x88, 0x80, 1, 2, 3, 4]).await;
        self.server.read_exactly(6).await;
        self.server.write([0x88, 0]).await;
        self.client.read_exactly(2).await;
        self.gone().await
    }

    /// Both connections are gone; gives the lines of what was in them, the tunnel's last.
    async fn gone(self) -> Vec<Value> {
        let Self { sidecar, client, server, .. } = self;
        drop((client, server));
        lines(&sidecar).await
    }
}

async fn lines(sidecar: &Sidecar) -> Vec<Value> {
    let mut lines = sidecar.exchanges().await;
    lines.sort_by_key(|line| line["code"] == 101);
    assert_eq!(sidecar.sample(STARTED), Some(lines.len() as f64));
    assert_eq!(sidecar.sample(IN_FLIGHT), Some(0.0));
    lines
}

fn delta(id: &str, text: &str) -> Value {
    json!({"type": "response.output_text.delta", "response_id": id, "item_id": "i", "delta": text})
}

fn done(id: &str, status: &str) -> Value {
    let usage = json!({"total_tokens": 42, "input_tokens": 40, "output_tokens": 2,
        "input_token_details": {"cached_tokens": 8}});
    json!({"type": "response.done", "response": {"id": id, "status": status, "output": [], "usage": usage}})
}

fn outcomes(lines: &[Value]) -> Vec<(&str, u64)> {
    lines.iter().map(|line| (line["outcome"].as_str().unwrap(), line["code"].as_u64().unwrap_or(0))).collect()
}

const REALTIME: &str = "/v1/realtime?model=gpt-realtime";

#[tokio::test(start_paused = true)]
async fn each_response_is_an_exchange_of_its_own_compressed_or_not() {
    for extensions in ["", "permessage-deflate", DEFLATE] {
        let mut session = Session::open(ONE_UPSTREAM, REALTIME, extensions).await;
        session.tell(0, &json!({"type": "session.created", "session": {"model": "gpt-realtime-2"}})).await;
        session.ask(&json!({"type": "conversation.item.create", "item": {"type": "message"}})).await;
        session.respond("resp_1", 50).await;
        assert_eq!(session.sidecar.sample(STARTED), Some(2.0));
        assert_eq!(session.sidecar.sample(IN_FLIGHT), Some(1.0));
        tokio::time::sleep(Duration::from_secs(60)).await;
        session.respond("resp_2", 70).await;
        let sample = |name| session.sidecar.value(name, UNOBSERVED);
        assert_eq!(sample("unobserved_requests_total"), 0.0);
        let lines = session.close().await;
        assert_eq!(
            outcomes(&lines),
            [("completed", 200), ("completed", 200), ("completed", 101)],
            "{extensions}"
        );
        for (line, ttft) in lines.iter().zip([0.05, 0.07]) {
            let got = [
                "ttft_seconds",
                "duration_seconds",
                "input_tokens",
                "cache_read_input_tokens",
                "output_tokens",
            ];
            let want = [json!(ttft), json!(ttft + 0.03), json!(40), json!(8), json!(2)];
            for (name, want) in got.iter().zip(&want) {
                let (got, want) = (line[name].as_f64().unwrap(), want.as_f64().unwrap());
                assert!((got - want).abs() < 1e-6, "{name}: {got}, not {want}");
            }
            assert_eq!((&line["dialect"], &line["stream"]), (&json!("openai_realtime"), &json!(true)));
            assert_eq!((&line["model"], &line["tenant"]), (&json!("gpt-realtime-2"), &json!("t")));
            assert_eq!((&line["model_requested"], &line["chunks"]), (&json!("gpt-realtime"), &json!(2)));
            assert!(line["request_id"].as_str().unwrap().starts_with("r-"), "{line}");
        }
        assert_eq!((&lines[2]["unobserved"], &lines[2]["dialect"]), (&Value::Null, &json!("unknown")));
    }
}

#[tokio::test(start_paused = true)]
async fn responses_of_the_responses_api_too() {
    let mut session = Session::open(ONE_UPSTREAM, "/v1/responses", DEFLATE).await;
    let ask = |lane: &str| json!({"type": "response.create", "stream_id": lane, "model": "m", "input": "hello", "max_output_tokens": 7});
    let of = |kind: &str, lane: &str, response: Value| json!({"type": format!("response.{kind}"), "stream_id": lane, "response": response});
    let usage =
        json!({"input_tokens": 9, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}});
    session.ask(&ask("a")).await;
    session.ask(&ask("b")).await;
    session.tell(5, &of("created", "b", json!({"id": "rb", "model": "m"}))).await;
    session.tell(5, &of("created", "a", json!({"id": "ra", "model": "m"}))).await;
    session.tell(5, &json!({"type": "response.output_text.delta", "stream_id": "a", "delta": "x"})).await;
    session.tell(5, &of("completed", "a", json!({"id": "ra", "status": "completed", "usage": usage}))).await;
    let error = json!({"type": "invalid_request_error", "code": "c", "message": "m"});
    session.tell(5, &json!({"type": "error", "stream_id": "b", "error": error})).await;
    session.ask(&ask("b")).await;
    session
        .tell(5, &json!({"type": "error", "stream_id": "b", "status": 429, "error": {"type": "tokens"}}))
        .await;
    let lines = session.close().await;
    let want = [("completed", 200), ("stream_failed", 200), ("upstream_refused", 429), ("completed", 101)];
    assert_eq!(outcomes(&lines), want);
    let got = [
        "dialect",
        "model",
        "input_tokens",
        "output_tokens",
        "reasoning_output_tokens",
        "upstream_request_id",
    ]
    .map(|name| lines[0][name].clone());
    assert_eq!(got, [json!("openai_responses"), json!("m"), json!(9), json!(3), json!(1), json!("ra")]);
    assert_eq!(lines[1]["error_class"], "invalid_request_error");
}

#[tokio::test(start_paused = true)]
async fn what_is_open_ends_with_its_session() {
    // The client leaves.
    let mut session = Session::open(ONE_UPSTREAM, REALTIME, DEFLATE).await;
    session.respond("a", 50).await;
    session.begin("b", 50).await;
    session.ask(&json!({"type": "response.create"})).await;
    assert_eq!((session.sidecar.sample(STARTED), session.sidecar.sample(IN_FLIGHT)), (Some(4.0), Some(3.0)));
    let Session { sidecar, client, mut server, .. } = session;
    drop(client);
    assert!(server.closes_within(Duration::from_secs(1)).await);
    drop(server);
    let want = [("completed", 200), ("client_gone", 200), ("client_gone", 0), ("completed", 101)];
    assert_eq!(outcomes(&lines(&sidecar).await), want);

    // The server does.
    let mut session = Session::open(ONE_UPSTREAM, REALTIME, "").await;
    session.begin("b", 50).await;
    session.ask(&json!({"type": "response.create"})).await;
    let Session { sidecar, mut client, server, .. } = session;
    drop(server);
    assert!(client.closes_within(Duration::from_secs(1)).await);
    drop(client);
    assert_eq!(outcomes(&lines(&sidecar).await)[..2], [("truncated", 200), ("upstream_failed", 0)]);

    // The server says goodbye, and the client stays.
    let mut session = Session::open(ONE_UPSTREAM, REALTIME, "").await;
    session.begin("b", 50).await;
    session.server.write([0x88, 0]).await;
    session.client.read_exactly(2).await;
    assert_eq!((session.sidecar.sample(STARTED), session.sidecar.sample(IN_FLIGHT)), (Some(2.0), Some(1.0)));
    assert_eq!(outcomes(&session.gone().await)[0], ("truncated", 200));

    // We are shut down.
    let mut session = Session::open(ONE_UPSTREAM, REALTIME, DEFLATE).await;
    session.respond("a", 50).await;
    session.begin("b", 50).await;
    session.ask(&json!({"type": "response.create"})).await;
    session.sidecar.cut();
    assert!(session.client.closes_within(Duration::from_secs(1)).await);
    let want = [("completed", 200), ("drained", 200), ("drained", 0), ("drained", 101)];
    assert_eq!(outcomes(&session.gone().await), want);
}

#[tokio::test(start_paused = true)]
async fn the_client_may_stop_a_response_and_go_on() {
    let mut session = Session::open(ONE_UPSTREAM, REALTIME, "").await;
    session.begin("a", 50).await;
    session.ask(&json!({"type": "response.cancel"})).await;
    session.tell(5, &done("a", "cancelled")).await;
    session.respond("b", 50).await;
    session.begin("c", 50).await;
    let failed =
        json!({"id": "c", "status": "failed", "status_details": {"error": {"type": "server_error"}}});
    session.tell(5, &json!({"type": "response.done", "response": failed})).await;
    let lines = session.close().await;
    let want = [("client_gone", 200), ("completed", 200), ("stream_failed", 200), ("completed", 101)];
    assert_eq!(outcomes(&lines), want);
    assert_eq!((&lines[0]["output_tokens"], &lines[2]["error_class"]), (&json!(2), &json!("server_error")));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_websocket_passes_and_is_counted() {
    let mut session = Session::open(ONE_UPSTREAM, REALTIME, "").await;
    session.begin("a", 50).await;
    session.server.write(b"HTTP/1.1 200 OK").await;
    session.client.read_exactly(15).await;
    assert_eq!(session.sidecar.value("observation_failures_total", "reason=\"frames\""), 1.0);
    assert_eq!(session.sidecar.sample(IN_FLIGHT), Some(1.0));
    session.client.write("any bytes").await;
    assert_eq!(session.server.read_exactly(9).await, b"any bytes");
    session.server.write("any others").await;
    assert_eq!(session.client.read_exactly(10).await, b"any others");
    let lines = session.gone().await;
    assert_eq!(outcomes(&lines), [("completed", 200), ("completed", 101)]);
    assert_eq!((&lines[0]["unobserved"], &lines[0]["output_tokens"]), (&json!("upgrade"), &Value::Null));
    assert_eq!(lines[1]["unobserved"], "upgrade");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_passes_as_ever() {
    for (target, extensions) in
        [(REALTIME, "x-secret"), (REALTIME, "permessage-deflate; level=9"), ("/v1/elsewhere", "")]
    {
        let mut session = Session::open(ONE_UPSTREAM, target, extensions).await;
        session.respond("a", 50).await;
        let lines = session.close().await;
        assert_eq!(outcomes(&lines), [("completed", 101)], "{target} {extensions}");
        assert_eq!(lines[0]["unobserved"], "upgrade");
    }
    let session = Session::open(ONE_UPSTREAM, REALTIME, "").await;
    assert_eq!(session.close().await[0]["unobserved"], "upgrade", "nothing was read in it");
}

#[tokio::test(start_paused = true)]
async fn what_was_compressed_wrongly_passes_and_is_counted() {
    let mut session = Session::open(ONE_UPSTREAM, REALTIME, "permessage-deflate").await;
    session.begin("a", 50).await;
    let frame = [&[0xC1, 9], [0xFF; 9].as_slice()].concat();
    session.server.write(&frame).await;
    assert_eq!(session.client.read_exactly(11).await, frame);
    assert_eq!(session.sidecar.value("observation_failures_total", "reason=\"decompression\""), 1.0);
    assert_eq!(outcomes(&session.gone().await), [("completed", 200), ("completed", 101)]);
}

#[tokio::test(start_paused = true)]
async fn a_response_is_charged_to_its_tenant_and_held_by_no_limit() {
    let config = format!("{ONE_UPSTREAM}limits: [{{tenant: t, tokens_per_minute: 50, action: reject}}]\n");
    let mut session = Session::open(&config, REALTIME, "").await;
    session.respond("a", 50).await;
    session.respond("b", 50).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(session.sidecar.value("tpm_used", "tenant=\"t\",model=\"*\""), 84.0);
    let lines = session.close().await;
    assert_eq!(outcomes(&lines), [("completed", 200), ("completed", 200), ("completed", 101)]);
}

#[tokio::test(start_paused = true)]
async fn an_objective_judges_each_response() {
    let config = format!(
        "{ONE_UPSTREAM}slos: [{{name: voice, match: {{dialect: openai_realtime}}, objective: 99%, ttft: 60ms}}]\n"
    );
    let mut session = Session::open(&config, REALTIME, "").await;
    session.respond("a", 50).await;
    session.respond("b", 70).await;
    let lines = session.close().await;
    let verdicts: Vec<_> = lines.iter().map(|line| line["slo"]["voice"].clone()).collect();
    assert_eq!(verdicts, [json!("good"), json!("bad"), Value::Null]);
}

/// Numbers that look random and are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_in_a_session_what_began_ends_once() {
    let created = |id: &str| json!({"type": "response.created", "response": {"id": id}});
    for seed in 0..150 {
        let mut chance = Chance(seed);
        let target = ["/v1/realtime?model=m", "/v1/responses"][chance.below(2) as usize];
        let extensions = ["", "permessage-deflate", DEFLATE][chance.below(3) as usize];
        let mut session = Session::open(ONE_UPSTREAM, target, extensions).await;
        for _ in 0..chance.below(40) {
            let id = ["a", "b", "c"][chance.below(3) as usize];
            let status = ["completed", "incomplete", "failed", "cancelled"][chance.below(4) as usize];
            match chance.below(9) {
                0 | 1 => session.ask(&json!({"type": "response.create", "event_id": id, "model": "m"})).await,
                2 | 3 => session.tell(1, &created(id)).await,
                4 => session.tell(1, &delta(id, "x")).await,
                5 => session.tell(1, &done(id, status)).await,
                6 => {
                    session
                        .tell(1, &json!({"type": format!("response.{status}"), "response": {"id": id}}))
                        .await
                }
                7 => session.tell(1, &json!({"type": "error", "error": {"type": "x", "event_id": id}})).await,
                _ => session.tell(1, &json!({"type": "input_audio_buffer.speech_stopped"})).await,
            }
            let sample = |name| session.sidecar.sample(name).unwrap();
            assert!(sample(STARTED) - sample(IN_FLIGHT) >= 0.0 && sample(IN_FLIGHT) >= 1.0);
        }
        let end = chance.below(4);
        if end == 0 {
            session.server.write(b"\xFFno frame").await;
            session.client.read_exactly(9).await;
        }
        if end == 1 {
            session.sidecar.cut();
        }
        // Each is settled once: their lines are as many as have started.
        let lines = if end == 2 { session.close().await } else { session.gone().await };
        let ids: std::collections::BTreeSet<_> =
            lines.iter().map(|line| line["request_id"].to_string()).collect();
        assert_eq!(ids.len(), lines.len(), "seed {seed}");
    }
}
