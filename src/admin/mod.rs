//! The admin port: what Prometheus, Kubernetes and operators ask. Served by the accounts plane; a page is
//! rendered on the blocking pool, one at a time, so that a scrape is felt by no stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::proxy::opening::Opening;
use crate::sinks::metrics::{Format, accepts_gzip, gzip};
use crate::status::{Sources, Status, page};

/// What the admin port can ask of the rest.
pub trait Control: Send + Sync + 'static {
    /// The configuration as YAML, every default filled in, nothing secret.
    fn config(&self) -> String;

    /// Reads the configuration again; says what is wrong with it, if anything.
    fn reload(&self) -> Result<(), String>;

    /// Begins to shut down.
    fn drain(&self);

    /// Sets what is logged: a filter like `info` or `streamgauge=debug`.
    fn set_log_level(&self, filter: &str) -> Result<(), String>;
}

/// The admin port.
pub struct Admin {
    sources: Arc<Sources>,
    control: Arc<dyn Control>,
    ready: AtomicBool,
    /// Every exchange is settled: a scrape from now on is the last that is needed.
    settled: AtomicBool,
    scraped: Notify,
    rendering: Semaphore,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("ready", &self.ready).finish_non_exhaustive()
    }
}

const BODY_LIMIT: usize = 4096; // a log filter
const CONNECTIONS: usize = 256; // a few Prometheus servers, a kubelet and a person need ten
const HEAD_TIMEOUT: Duration = Duration::from_secs(120); // above the pause between two scrapes
const OPENING: Duration = Duration::from_secs(10); // who connects here has something to ask
const AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(50); // out of descriptors: some will be closed soon

impl Admin {
    /// An admin port that answers `/ready` with yes.
    pub fn new(sources: Arc<Sources>, control: Arc<dyn Control>) -> Self {
        Self {
            sources,
            control,
            ready: AtomicBool::new(true),
            settled: AtomicBool::new(false),
            scraped: Notify::new(),
            rendering: Semaphore::new(1),
            tasks: TaskTracker::new(),
        }
    }

    /// From now on `/ready` says no.
    pub fn set_draining(&self) {
        self.ready.store(false, Ordering::SeqCst);
    }

    /// Every exchange is settled. Ready when a scrape that began afterwards has been answered.
    pub async fn final_scrape(&self) {
        let scraped = self.scraped.notified();
        self.settled.store(true, Ordering::SeqCst);
        scraped.await;
    }

    /// Serves until `stop` is cancelled; answers that are on their way are finished.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let mut failing = false;
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, peer)) => {
                    failing = false;
                    // One beyond the limit is closed at once: nobody scrapes so often.
                    if self.tasks.len() < CONNECTIONS {
                        self.tasks.spawn(Arc::clone(&self).connection(socket, peer, stop.clone()));
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "could not accept a connection on the admin port");
                    }
                    tokio::time::sleep(AFTER_ACCEPT_ERROR).await;
                }
            }
        }
        drop(listener);
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn connection(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, stop: CancellationToken) {
        let service = service_fn(move |request| {
            let admin = Arc::clone(&self);
            async move { Ok::<_, std::convert::Infallible>(admin.answer(request, peer).await) }
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        server.http2().timer(TokioTimer::new());
        let opening = stop.run_until_cancelled(Opening::read(socket, OPENING)).await;
        let Some(Ok(opening)) = opening else { return };
        let serving = server.serve_connection(TokioIo::new(opening), service);
        tokio::pin!(serving);
        tokio::select! {
            // A client that breaks off has its own reasons.
            _ = serving.as_mut() => {}
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let reading = matches!(*request.method(), Method::GET | Method::HEAD);
        match (path.as_str(), reading) {
            ("/", true) if wants_page(&request) => self.status_page().await,
            ("/", true) => text(StatusCode::OK, INDEX),
            ("/api/v1/status", true) => self.status_json().await,
            ("/live", true) => text(StatusCode::OK, "live\n"),
            ("/ready", true) if self.ready.load(Ordering::SeqCst) => text(StatusCode::OK, "ready\n"),
            ("/ready", true) => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            ("/metrics", true) => self.metrics_page(request).await,
            ("/config", true) => typed(StatusCode::OK, "application/yaml", self.control.config().into()),
            ("/reload" | "/drain" | "/log-level", false) => self.order(&path, request, peer).await,
            ("/reload" | "/drain", true) => text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n"),
            ("/log-level", true) => text(StatusCode::METHOD_NOT_ALLOWED, "use PUT with a filter as body\n"),
            _ if reading => text(StatusCode::NOT_FOUND, INDEX),
            _ => text(StatusCode::METHOD_NOT_ALLOWED, INDEX),
        }
    }

    /// Does what changes something; only for who is on this machine.
    async fn order(&self, path: &str, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        if !peer.ip().to_canonical().is_loopback() {
            return text(StatusCode::FORBIDDEN, "only from loopback\n");
        }
        let done = match (path, request.method()) {
            ("/reload", &Method::POST) => {
                let control = Arc::clone(&self.control);
                let reloading = tokio::task::spawn_blocking(move || control.reload());
                reloading.await.unwrap_or_else(|_| Err("could not reload; the log says why".to_owned()))
            }
            ("/drain", &Method::POST) => {
                self.control.drain();
                Ok(())
            }
            ("/log-level", &Method::PUT) => {
                match Limited::new(request.into_body(), BODY_LIMIT).collect().await {
                    Ok(body) => self.control.set_log_level(String::from_utf8_lossy(&body.to_bytes()).trim()),
                    Err(_) => Err("could not read the body".to_owned()),
                }
            }
            ("/log-level", _) => {
                return text(StatusCode::METHOD_NOT_ALLOWED, "use PUT with a filter as body\n");
            }
            _ => return text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n"),
        };
        match done {
            Ok(()) => text(StatusCode::OK, "done\n"),
            Err(error) => text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        }
    }

    async fn metrics_page(self: &Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let begun_settled = self.settled.load(Ordering::SeqCst);
        let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let format = Format::negotiate(header(ACCEPT));
        let compressed = accepts_gzip(header(ACCEPT_ENCODING));
        // Closed never: the semaphore lives as long as this.
        let _alone = self.rendering.acquire().await;
        let sources = Arc::clone(&self.sources);
        let rendered = tokio::task::spawn_blocking(move || {
            yield_to_traffic();
            let page = sources.metrics.render(format);
            match compressed.then(|| gzip(&page)) {
                Some(Ok(smaller)) => (smaller, true),
                _ => (page, false),
            }
        });
        let Ok((page, is_gzip)) = rendered.await else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "could not render the page; the log says why\n");
        };
        let mut response = typed(StatusCode::OK, format.content_type(), page.into());
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
        if is_gzip {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if begun_settled {
            self.scraped.notify_waiters();
        }
        response
    }

    async fn status_json(self: &Arc<Self>) -> Response<Full<Bytes>> {
        let json = |status: &Status| {
            let mut json = serde_json::to_vec_pretty(status).unwrap_or_default();
            json.push(b'\n');
            json
        };
        self.status("application/json", json).await
    }

    async fn status_page(self: &Arc<Self>) -> Response<Full<Bytes>> {
        let mut response =
            self.status("text/html; charset=utf-8", |status| page::html(status).into_bytes()).await;
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
        headers.insert(VARY, HeaderValue::from_static("accept"));
        response
    }

    /// The status, written so. One at a time, as pages of metrics are.
    async fn status(
        self: &Arc<Self>,
        kind: &'static str,
        write: fn(&Status) -> Vec<u8>,
    ) -> Response<Full<Bytes>> {
        let ready = self.ready.load(Ordering::SeqCst);
        let _alone = self.rendering.acquire().await;
        let sources = Arc::clone(&self.sources);
        let written = tokio::task::spawn_blocking(move || {
            yield_to_traffic();
            write(&sources.look(ready))
        });
        let Ok(written) = written.await else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "could not tell the status; the log says why\n");
        };
        let mut response = typed(StatusCode::OK, kind, written.into());
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }
}

/// Whether a browser asks.
fn wants_page(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

/// Lets every other thread go first where the cores are busy: a page of 20,000 series takes one for 7 ms. It is for
/// good, as a priority cannot be raised again; the thread waits for the next page or ends.
fn yield_to_traffic() {
    #[cfg(target_os = "linux")] // elsewhere it would be the whole process's
    // Where it is refused, pages are rendered as before.
    let _ = rustix::process::setpriority_process(None, 10);
}

const INDEX: &str = "\
streamgauge, admin port

GET  /                 this, and in a browser the status: who hangs, what is wrong, how near limits are
GET  /api/v1/status    the status as JSON
GET  /metrics          Prometheus text 0.0.4, or OpenMetrics 1.0 with exemplars, by Accept
GET  /live             200 while the process runs
GET  /ready            200 while it takes requests, 503 while it drains
GET  /config           the configuration, every default filled in
POST /reload           read the configuration again           (from loopback only)
POST /drain            finish running streams and end         (from loopback only)
PUT  /log-level        body: a filter, as info or streamgauge=debug   (from loopback only)
";

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(body.as_bytes()))
}

fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
