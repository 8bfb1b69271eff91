//! Connections, paths and whole answers.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SERVER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Sim;
use super::api::{self, Api, Refusal};
use super::fault::Fault;
use super::openai;
use super::rate_limit::{self, Denial};
use super::script::Script;
use super::settings::Overrides;
use super::stats::{Ending, Ticket};
use super::stream::{Answering, Stream, engine_failure};
use super::websocket;
use crate::clock::Moment;

const REQUEST_LIMIT: usize = 64 << 20; // the longest prompts, and images in them
const STREAMS_LIMIT: u32 = 16_384; // of one HTTP/2 connection: a load test needs no second one
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1); // then open streams are dropped: nobody pays for them
const ACCEPT_PAUSE: Duration = Duration::from_millis(50); // after a failure to accept, such as too many open files

type Reply = Response<Answering>;

impl Sim {
    /// Accepts connections until `shutdown`; then gives those that are open a second.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Only a connection that is gone already refuses this; reading it will tell.
            let _: io::Result<()> = stream.set_nodelay(true);
            let reset = Arc::new(AtomicBool::new(false));
            let line = Line { stream, reset: Arc::clone(&reset) };
            connections.spawn(Arc::clone(&self).converse(line, reset, shutdown.clone()));
        }
        connections.close();
        connections.wait().await;
    }

    /// Serves one connection to its end. A reset looks like a cut here: a pipe knows no other.
    pub async fn serve_io<IO>(self: Arc<Self>, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.converse(io, Arc::default(), CancellationToken::new()).await;
    }

    async fn converse<IO>(self: Arc<Self>, io: IO, reset: Arc<AtomicBool>, shutdown: CancellationToken)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.counters.connections.fetch_add(1, Relaxed);
        let service = service_fn(move |request| {
            let (sim, reset) = (Arc::clone(&self), Arc::clone(&reset));
            async move { Ok::<_, Infallible>(sim.answer(request, reset).await) }
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http2().max_concurrent_streams(STREAMS_LIMIT);
        let mut connection = pin!(server.serve_connection_with_upgrades(TokioIo::new(io), service));
        // How a connection ends is the client's affair, or a fault's; the answers' endings are counted.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _: Result<_, tokio::time::error::Elapsed> =
                    tokio::time::timeout(SHUTDOWN_GRACE, connection).await;
            }
        }
    }

    async fn answer(self: Arc<Self>, mut request: Request<Incoming>, reset: Arc<AtomicBool>) -> Reply {
        if let Some(reply) = websocket::accept(&self, &mut request) {
            return reply;
        }
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        let Some(api) = api::find(path, query) else { return self.other(request.method(), path) };
        if request.method() != Method::POST {
            return wrong_method("POST");
        }
        self.counters.requests.fetch_add(1, Relaxed);
        self.generate(request, api, reset).await.unwrap_or_else(|refusal| {
            self.counters.refused.fetch_add(1, Relaxed);
            refuse(api.refusal(&refusal), refusal.status)
        })
    }

    /// The paths that generate nothing.
    fn other(&self, method: &Method, path: &str) -> Reply {
        let body = match path {
            "/health" => None,
            "/v1/models" => Some(self.models()),
            _ => {
                let refusal = Refusal::new(StatusCode::NOT_FOUND, "Not Found");
                return refuse(openai::error_body(&refusal), refusal.status);
            }
        };
        if method != Method::GET {
            return wrong_method("GET");
        }
        match body {
            Some(body) => json_reply(StatusCode::OK, Answering::full(body.to_string())),
            None => Response::new(Answering::full("")),
        }
    }

    fn models(&self) -> serde_json::Value {
        let created = self.unix_seconds();
        let model = |name: &str| json!({"id": name, "object": "model", "created": created, "owned_by": "streamgauge"});
        let models: Vec<_> = self.settings.load().models.iter().map(|profile| model(&profile.name)).collect();
        json!({"object": "list", "data": models})
    }

    async fn generate(
        self: &Arc<Self>,
        request: Request<Incoming>,
        api: &'static dyn Api,
        reset: Arc<AtomicBool>,
    ) -> Result<Reply, Refusal> {
        let sequence = self.sequence.fetch_add(1, Relaxed);
        let (head, body) = request.into_parts();
        let overrides = Overrides::read(&head.headers)
            .map_err(|problem| Refusal::new(StatusCode::BAD_REQUEST, problem))?;
        let body = Limited::new(body, REQUEST_LIMIT).collect().await.map_err(|_| {
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is broken or over {REQUEST_LIMIT} bytes"),
            )
        })?;
        let mut wish = api.read(&body.to_bytes())?;
        if let Some(model) = api.model(head.uri.path()) {
            wish.model = Some(model.to_owned());
        }
        let (settings, cost) = (self.settings(), rate_limit::cost(&wish));
        let script = Script::draft(&settings, &overrides, wish, sequence, self.unix_seconds())?;
        if let Some(Fault::Status(status)) = script.fault {
            return Err(Refusal::new(status, format!("{status} (simulated)")));
        }
        let limit = settings.tokens_per_minute;
        let charge =
            limit.map(|limit| self.limiter.charge(&head.headers, cost, limit, &self.clock)).transpose();
        let charge = match charge {
            Ok(charge) => charge,
            Err(denial) => return Ok(self.deny(&denial, api)),
        };
        let request_id = request_id(&head.headers, &script.reply.id);
        let mut ticket = Ticket::open(Arc::clone(self), &script, request_id.clone(), charge);
        ticket.wait_for_slot().await;
        let began = self.clock.now();
        // A reset of the connection is HTTP/1's; HTTP/2 resets the stream by itself.
        let reset = if head.version < http::Version::HTTP_2 { reset } else { Arc::default() };
        let mut reply = if script.fault == Some(Fault::HangHead) {
            std::future::pending().await
        } else if script.stream {
            let stream = Stream::new(script, api, self.clock, ticket, reset);
            let mut reply = Response::new(Answering::Stream(Box::new(stream)));
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(api.stream_type()));
            reply
        } else {
            self.whole(script, api, &mut ticket, began, &reset).await
        };
        reply.headers_mut().insert(SERVER, HeaderValue::from_static("streamgauge-sim"));
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            reply.headers_mut().insert("x-request-id", id);
        }
        if let (Some(charge), Some(limit)) = (charge, limit) {
            let standing = self.limiter.standing(charge, limit, &self.clock);
            api.limits(&standing, reply.headers_mut(), &self.clock);
        }
        Ok(reply)
    }

    /// The answer to a request that would exceed the limit. `Retry-After` is in whole seconds, not too early; absent
    /// where no waiting helps.
    fn deny(&self, denial: &Denial, api: &'static dyn Api) -> Reply {
        self.counters.refused.fetch_add(1, Relaxed);
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, denial.message());
        let mut reply = json_reply(refusal.status, Answering::full(api.refusal(&refusal)));
        if let Some(wait) = denial.wait {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        api.limits(&denial.standing, reply.headers_mut(), &self.clock);
        reply
    }

    /// Waits as long as the stream would take, then answers at once.
    async fn whole(
        &self,
        mut script: Script,
        api: &'static dyn Api,
        ticket: &mut Ticket,
        began: Moment,
        reset: &AtomicBool,
    ) -> Reply {
        let tokens = script.reply.tokens;
        let after_first = tokens.saturating_sub(script.pace.tokens_per_chunk);
        let tail = if let Some(Fault::SlowTail(pause)) = script.fault { pause } else { Duration::ZERO };
        let time = script.pace.first + script.pace.role_delay + script.pace.decode(after_first) + tail;
        // A timer is due a millisecond late: one of no time would bound the answers that a connection gets in a second.
        if !time.is_zero() {
            tokio::time::sleep_until(self.clock.instant(began + time)).await;
        }
        match script.fault {
            Some(Fault::Hang | Fault::HangMid { .. }) => std::future::pending().await,
            Some(Fault::ErrorEvent { .. }) => {
                ticket.end(Ending::Broken);
                json_reply(StatusCode::OK, Answering::full(api.refusal(&engine_failure())))
            }
            Some(fault @ (Fault::Cut { .. } | Fault::Reset { .. } | Fault::End { .. })) => {
                ticket.end(Ending::Broken);
                reset.store(matches!(fault, Fault::Reset { .. }), Relaxed);
                let body = api.whole(&script.reply);
                let length = HeaderValue::from(body.len());
                let mut reply = json_reply(StatusCode::OK, Answering::half(body));
                reply.headers_mut().insert(CONTENT_LENGTH, length);
                reply
            }
            _ => {
                ticket.sent(script.reply.completion_tokens());
                ticket.end(Ending::Completed);
                json_reply(StatusCode::OK, Answering::full(api.whole(&script.reply)))
            }
        }
    }

    pub(super) fn unix_seconds(&self) -> u64 {
        let wall = self.clock.wall(self.clock.now());
        wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

fn request_id(headers: &HeaderMap, own: &str) -> String {
    headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or(own).to_owned()
}

fn json_reply(status: StatusCode, body: Answering) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

fn refuse(body: bytes::Bytes, status: StatusCode) -> Reply {
    let mut reply = json_reply(status, Answering::full(body));
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}

fn wrong_method(allowed: &'static str) -> Reply {
    let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let mut reply = refuse(openai::error_body(&refusal), refusal.status);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

/// A socket that can be told to end with a reset.
struct Line {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.reset.load(Relaxed) {
            // A socket that is gone already needs no reset.
            let _: io::Result<()> = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
