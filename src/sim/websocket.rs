//! Sessions over WebSocket: the handshake, frames, and responses one after the other. Messages are compressed where the
//! client offers it. Absent: several responses at once; what asks for one waits for its turn.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compress, Compression, FlushCompress};
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Sim;
use super::api::{Api, Refusal};
use super::fault::Fault;
use super::rate_limit;
use super::realtime::{self, Realtime};
use super::responses::Responses;
use super::script::Script;
use super::settings::Overrides;
use super::stats::Ticket;
use super::stream::{Answering, Stream};
use crate::wire::Budget;
use crate::wire::websocket::{Extensions, Message, WebSocket};

const READ: usize = 16 << 10; // bytes read at once
const MEMORY: usize = 4 << 20; // what a session's messages may take until they are whole
const WAITING: usize = 64; // requests for responses that may wait for their turn
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455, section 4.2.2
const DEFLATE: &str = "permessage-deflate";

/// What a session speaks: the API of its responses, and whether it remembers what was said.
#[derive(Clone, Copy)]
struct Speech {
    api: &'static dyn Api,
    remembers: bool,
}

fn speech(path: &str) -> Option<Speech> {
    let all = [Speech { api: &Realtime, remembers: true }, Speech { api: &Responses, remembers: false }];
    all.into_iter().find(|speech| path.ends_with(speech.api.path()))
}

/// Takes a request that leaves HTTP for a session; none where it is no such request.
pub(super) fn accept(sim: &Arc<Sim>, request: &mut Request<Incoming>) -> Option<Response<Answering>> {
    let asks = |name: &HeaderName, word: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.to_ascii_lowercase().contains(word))
    };
    if !asks(&UPGRADE, "websocket") || !asks(&CONNECTION, "upgrade") {
        return None;
    }
    let speech = speech(request.uri().path())?;
    let deflates = asks(&SEC_WEBSOCKET_EXTENSIONS, DEFLATE);
    let key = request.headers().get(SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let digest = sha1_smol::Sha1::from([key, MAGIC].concat()).digest().bytes();
    let accepted = HeaderValue::from_str(&STANDARD.encode(digest)).ok()?;
    let mut reply = Response::new(Answering::full(""));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    if deflates {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(DEFLATE));
    }
    let upgrade = hyper::upgrade::on(&mut *request);
    let talk = Talk::new(Arc::clone(sim), speech, request, deflates);
    // It ends with its connection, or with the process.
    sim.sessions.spawn(async move {
        if let Ok(io) = upgrade.await {
            talk.run(TokioIo::new(io)).await;
        }
    });
    Some(reply)
}

/// A session.
struct Talk {
    sim: Arc<Sim>,
    speech: Speech,
    headers: HeaderMap,
    model: Option<String>,
    incoming: WebSocket,
    deflate: Option<Compress>,
    waiting: VecDeque<Asked>,
    /// The response that is being made.
    running: Option<Running>,
    /// Tokens of what was said in this session.
    context: u32,
}

/// A request for a response.
struct Asked {
    body: Vec<u8>,
    envelope: Envelope,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    event_id: Option<String>,
    stream_id: Option<String>,
}

struct Running {
    answering: Answering,
    script: Script,
    lane: Option<String>,
}

/// What is to be done.
enum Out {
    Say(Vec<u8>),
    Goodbye,
    /// The connection is to break.
    Break,
}

/// What a message wants of the session.
enum Wanted {
    Said(Vec<u8>),
    Pong(Vec<u8>),
    Close,
}

impl Talk {
    fn new(sim: Arc<Sim>, speech: Speech, request: &Request<Incoming>, deflates: bool) -> Self {
        let pairs = request.uri().query().unwrap_or_default().split('&');
        let model = pairs.filter_map(|pair| pair.strip_prefix("model=")).next().map(str::to_owned);
        let agreed = Extensions::of(deflates.then_some(DEFLATE)).unwrap_or_default();
        Self {
            sim,
            speech,
            headers: request.headers().clone(),
            model,
            incoming: WebSocket::of_client(agreed, &Arc::new(Budget::new(MEMORY))),
            deflate: deflates.then(|| Compress::new(Compression::fast(), false)),
            waiting: VecDeque::new(),
            running: None,
            context: 0,
        }
    }

    /// Talks until one side has had enough, or a fault breaks the connection.
    async fn run(mut self, io: impl AsyncRead + AsyncWrite + Unpin) {
        let (mut reader, mut writer) = tokio::io::split(io);
        if self.speech.remembers {
            let model = self.model.as_deref().unwrap_or("sim");
            let session = json!({"type": "realtime", "object": "realtime.session", "id": "sess_sim", "model": model,
                "output_modalities": ["text"]});
            let created = json!({"type": "session.created", "event_id": "event_sim", "session": session});
            if writer.write_all(&self.frame(&created.to_string(), None)).await.is_err() {
                return;
            }
        }
        let mut buffer = vec![0; READ];
        loop {
            let out = tokio::select! {
                read = reader.read(&mut buffer) => match read {
                    Ok(read @ 1..) => {
                        let bytes = buffer.get(..read).unwrap_or_default();
                        self.hear(bytes).await.map_or(Out::Goodbye, Out::Say)
                    }
                    Ok(0) | Err(_) => return,
                },
                events = next(&mut self.running) => self.tell(events).await,
            };
            let (bytes, goes_on) = match out {
                Out::Say(bytes) => (bytes, true),
                Out::Goodbye => (vec![0x88, 0], false),
                Out::Break => return,
            };
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() || !goes_on {
                // Who has said goodbye waits for nobody.
                let _: std::io::Result<()> = writer.shutdown().await;
                return;
            }
        }
    }

    /// What is to be said to these bytes; none where it is goodbye.
    async fn hear(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut wanted = Vec::new();
        let read = self.incoming.push(bytes, &mut |message| {
            wanted.push(match message {
                Message::Data(message) => Wanted::Said(message.to_vec()),
                Message::Ping(text) => Wanted::Pong(text.to_vec()),
                Message::TooLarge | Message::Close => Wanted::Close,
            });
        });
        read.ok()?;
        let mut out = Vec::new();
        for wanted in wanted {
            match wanted {
                Wanted::Close => return None,
                Wanted::Pong(text) => {
                    out.extend([0x8A, u8::try_from(text.len()).unwrap_or_default()]);
                    out.extend(text);
                }
                Wanted::Said(body) => out.extend(self.said(body).await),
            }
        }
        Some(out)
    }

    async fn said(&mut self, body: Vec<u8>) -> Vec<u8> {
        let envelope: Envelope = serde_json::from_slice(&body).unwrap_or_default();
        match envelope.kind.as_str() {
            "response.create" if self.waiting.len() < WAITING => {
                self.waiting.push_back(Asked { body, envelope });
                self.begin_next().await
            }
            "response.cancel" => {
                let Some(running) = self.running.take() else { return Vec::new() };
                let sent = running.answering.sent_tokens();
                let last = realtime::cancelled(&running.script.reply, sent);
                let mut out = self.frame(&last, running.lane.as_deref());
                out.extend(self.begin_next().await);
                out
            }
            _ if self.speech.remembers => {
                self.context = self.context.saturating_add(realtime::tokens_of_item(&body));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Begins the response whose turn it is; gives what is to be said of those that are refused.
    async fn begin_next(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.running.is_none() {
            let Some(asked) = self.waiting.pop_front() else { break };
            match self.begin(&asked).await {
                Ok(running) => self.running = Some(running),
                Err(refusal) => {
                    self.sim.counters.refused.fetch_add(1, Relaxed);
                    let status = refusal.status.as_u16();
                    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
                    let error = json!({"type": kind, "code": null, "message": refusal.message,
                        "param": refusal.param, "event_id": asked.envelope.event_id});
                    let event =
                        json!({"type": "error", "event_id": "event_sim", "status": status, "error": error});
                    out.extend(self.frame(&event.to_string(), asked.envelope.stream_id.as_deref()));
                }
            }
        }
        out
    }

    async fn begin(&self, asked: &Asked) -> Result<Running, Refusal> {
        let sim = &self.sim;
        sim.counters.requests.fetch_add(1, Relaxed);
        let sequence = sim.sequence.fetch_add(1, Relaxed);
        let overrides = Overrides::read(&self.headers)
            .map_err(|problem| Refusal::new(StatusCode::BAD_REQUEST, problem))?;
        let mut wish = self.speech.api.read(&asked.body)?;
        wish.stream = true;
        wish.prompt_tokens = wish.prompt_tokens.saturating_add(self.context);
        wish.model = wish.model.or_else(|| self.model.clone());
        let (settings, cost) = (sim.settings(), rate_limit::cost(&wish));
        let mut script = Script::draft(&settings, &overrides, wish, sequence, sim.unix_seconds())?;
        match script.fault {
            Some(Fault::Status(status)) => return Err(Refusal::new(status, format!("{status} (simulated)"))),
            Some(Fault::HangHead) => script.fault = Some(Fault::Hang), // there is no head
            _ => {}
        }
        let limit = settings.tokens_per_minute;
        let charge =
            limit.map(|limit| sim.limiter.charge(&self.headers, cost, limit, &sim.clock)).transpose();
        let charge =
            charge.map_err(|denial| Refusal::new(StatusCode::TOO_MANY_REQUESTS, denial.message()))?;
        let mut ticket = Ticket::open(Arc::clone(sim), &script, script.reply.id.clone(), charge);
        ticket.wait_for_slot().await;
        let stream = Stream::new(script.clone(), self.speech.api, sim.clock, ticket, Arc::default());
        let answering = Answering::Stream(Box::new(stream));
        Ok(Running { answering, script, lane: asked.envelope.stream_id.clone() })
    }

    /// The frames of some events. Of an event that was cut its frame is, too.
    async fn tell(&mut self, events: Events) -> Out {
        match events {
            Events::Some(text) => {
                let lane = self.running.as_ref().and_then(|running| running.lane.clone());
                let messages = text.lines().filter_map(|line| line.strip_prefix("data: "));
                let mut frames: Vec<u8> =
                    messages.flat_map(|message| self.frame(message, lane.as_deref())).collect();
                if !text.ends_with('\n') {
                    frames.pop();
                }
                Out::Say(frames)
            }
            Events::End => {
                let ended = self.running.take();
                if let Some(running) = ended.filter(|_| self.speech.remembers) {
                    self.context = self.context.saturating_add(running.script.reply.completion_tokens());
                }
                Out::Say(self.begin_next().await)
            }
            Events::Broken => Out::Break,
        }
    }

    /// A message in one frame; where the client named a lane, with that name in it.
    fn frame(&mut self, message: &str, lane: Option<&str>) -> Vec<u8> {
        let in_lane = lane
            .and_then(|lane| Some(format!("{{\"stream_id\":{},{}", json!(lane), message.strip_prefix('{')?)));
        let message = in_lane.as_deref().unwrap_or(message).as_bytes();
        let (first, payload) = match &mut self.deflate {
            None => (0x81, message.to_vec()),
            Some(deflate) => (0xC1, compressed(deflate, message)),
        };
        let mut frame = vec![first];
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(length @ ..=125), _) => frame.push(length),
            (_, Ok(length)) => {
                frame.push(126);
                frame.extend(length.to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }
}

/// A message as it stands in a frame: flushed, without the bytes that every flush ends with.
fn compressed(deflate: &mut Compress, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let before = deflate.total_in();
    loop {
        out.reserve(message.len() + 64);
        let read = usize::try_from(deflate.total_in() - before).unwrap_or_default();
        let rest = message.get(read..).unwrap_or_default();
        // What this compressor says besides is that it has no room, and it gets some.
        let _ = deflate.compress_vec(rest, &mut out, FlushCompress::Sync);
        if rest.is_empty() || out.len() < out.capacity() {
            break;
        }
    }
    out.truncate(out.len().saturating_sub(4));
    out
}

/// What a response goes on with.
enum Events {
    Some(String),
    End,
    Broken,
}

/// The next events of the response that is being made; never where there is none.
async fn next(running: &mut Option<Running>) -> Events {
    let Some(running) = running else { return std::future::pending().await };
    match poll_fn(|cx| Pin::new(&mut running.answering).poll_frame(cx)).await {
        Some(Ok(frame)) => {
            let data = frame.into_data().unwrap_or_default();
            Events::Some(String::from_utf8_lossy(&data).into_owned())
        }
        Some(Err(_)) => Events::Broken,
        None => Events::End,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test plays the world around the server")]

    use std::time::Duration;

    use serde_json::Value;
    use tokio::io::DuplexStream;

    use super::*;
    use crate::clock::Clock;
    use crate::sim::{Profile, Settings};

    /// A client of a session.
    struct Client {
        io: DuplexStream,
        socket: WebSocket,
        come: VecDeque<Value>,
        pongs: Vec<Vec<u8>>,
        closed: bool,
    }

    impl Client {
        async fn open(target: &str, more: &str, deflates: bool) -> Self {
            let settings = Settings::with_models([Profile { output_tokens: 3, ..Profile::new("m") }]);
            let sim = Sim::new(settings, Clock::start());
            let (mut io, server) = tokio::io::duplex(64 << 10);
            tokio::spawn(sim.serve_io(server));
            let extensions = if deflates {
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
            } else {
                ""
            };
            let ask = format!(
                "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n{more}\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extensions}\r\n"
            );
            io.write_all(ask.as_bytes()).await.unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                head.push(char::from(io.read_u8().await.unwrap()));
            }
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            // The standard's own example.
            assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
            assert_eq!(head.contains("sec-websocket-extensions: permessage-deflate\r\n"), deflates, "{head}");
            let agreed = Extensions::of(deflates.then_some(DEFLATE)).unwrap();
            let socket = WebSocket::of_server(agreed, &Arc::new(Budget::new(MEMORY)));
            Self { io, socket, come: VecDeque::new(), pongs: Vec::new(), closed: false }
        }

        async fn send(&mut self, first: u8, payload: &[u8]) {
            let key = [5, 6, 7, 8];
            let mut frame = vec![first, 0x80 | 126];
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            frame.extend(key);
            frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
            self.io.write_all(&frame).await.unwrap();
        }

        async fn say(&mut self, message: Value) {
            self.send(0x81, message.to_string().as_bytes()).await;
        }

        /// Reads on; gives whether there was anything.
        async fn read(&mut self) -> bool {
            let mut buffer = vec![0; 1000];
            let read = tokio::time::timeout(Duration::from_secs(100), self.io.read(&mut buffer)).await;
            let read = read.unwrap().unwrap_or(0);
            let (come, closed) = (&mut self.come, &mut self.closed);
            let result = self.socket.push(&buffer[..read], &mut |message| match message {
                Message::Data(message) => come.push_back(serde_json::from_slice(message).unwrap()),
                Message::Close => *closed = true,
                other => panic!("{other:?}"),
            });
            result.unwrap();
            read > 0
        }

        async fn next(&mut self) -> Value {
            while self.come.is_empty() {
                assert!(self.read().await, "it is over; pongs: {:?}", self.pongs);
            }
            self.come.pop_front().unwrap()
        }

        /// The kinds of what comes, up to and with an event of this kind, and that event.
        async fn until(&mut self, kind: &str) -> (Vec<String>, Value) {
            let mut kinds = Vec::new();
            loop {
                let event = self.next().await;
                kinds.push(event["type"].as_str().unwrap().to_owned());
                if event["type"] == kind {
                    return (kinds, event);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_remembers_what_was_said() {
        for deflates in [false, true] {
            let mut client = Client::open("/v1/realtime?model=m", "", deflates).await;
            assert_eq!(client.next().await["session"]["model"], "m");
            let content = json!([{"type": "input_text", "text": "twelve bytes"}]);
            let item = json!({"type": "message", "role": "user", "content": content});
            client.say(json!({"type": "conversation.item.create", "item": item})).await;
            for (input, most, status) in [(3, json!("inf"), "completed"), (6, json!(2), "incomplete")] {
                client.say(json!({"type": "response.create", "response": {"max_output_tokens": most}})).await;
                let (kinds, done) = client.until("response.done").await;
                assert_eq!(kinds[0], "response.created");
                assert_eq!(done["response"]["usage"]["input_tokens"], input);
                assert_eq!(done["response"]["status"], status);
                let deltas = kinds.iter().filter(|kind| *kind == "response.output_text.delta").count() as u64;
                assert_eq!(done["response"]["usage"]["output_tokens"], deltas);
            }
            client.send(0x88, b"\x03\xe8").await;
            while client.read().await {}
            assert!(client.closed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn responses_wait_for_their_turn_and_may_be_stopped() {
        let mut client = Client::open("/v1/realtime?model=m", "x-sim-tps: 1\r\n", true).await;
        for _ in 0..2 {
            client.say(json!({"type": "response.create"})).await;
        }
        client.until("response.output_text.delta").await;
        client.say(json!({"type": "response.cancel"})).await;
        let (_, done) = client.until("response.done").await;
        assert_eq!(
            (&done["response"]["status"], &done["response"]["usage"]["output_tokens"]),
            (&json!("cancelled"), &json!(1))
        );
        assert_eq!(client.until("response.done").await.1["response"]["status"], "completed");
    }

    #[tokio::test(start_paused = true)]
    async fn the_responses_api_says_whose_lane_it_is() {
        let mut client = Client::open("/v1/responses", "", true).await;
        client
            .say(json!({"type": "response.create", "stream_id": "l", "model": "m", "input": "12345678"}))
            .await;
        let (_, done) = client.until("response.completed").await;
        assert_eq!(
            (&done["stream_id"], &done["response"]["usage"]["output_tokens"]),
            (&json!("l"), &json!(3))
        );
        client.say(json!({"type": "response.create", "event_id": "e", "model": "m"})).await;
        let error = client.next().await;
        assert_eq!((&error["status"], &error["error"]["event_id"]), (&json!(400), &json!("e")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_wrong_goes_wrong() {
        for (fault, kind) in [("status=503", "error"), ("error-event@1", "response.done")] {
            let mut client =
                Client::open("/v1/realtime?model=m", &format!("x-sim-fault: {fault}\r\n"), false).await;
            client.say(json!({"type": "response.create"})).await;
            let (_, last) = client.until(kind).await;
            assert!(last["status"] == 503 || last["response"]["status"] == "failed", "{last}");
        }
        let mut client = Client::open("/v1/realtime?model=m", "x-sim-fault: cut@1\r\n", false).await;
        client.say(json!({"type": "response.create"})).await;
        while client.read().await {}
        assert!(!client.come.iter().any(|event| event["type"] == "response.done"));
    }
}
