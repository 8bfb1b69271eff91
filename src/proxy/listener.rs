//! Accepts connections on the data port: HTTP/1.1 and HTTP/2 with prior knowledge, told apart by their first
//! bytes. Ends gracefully: first no new connections, then running streams to their end, then a cut.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::connect::prepare_socket;
use super::opening::Opening;
use super::until::until;
use super::{HEAD_LIMIT, Proxy, handle};

/// How long a connection may stand without a request. It bounds an idle keep-alive connection too, so it lies
/// above what clients keep in their pools (90 s and less), or they would meet the close.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Streams on one HTTP/2 connection. One beyond it waits in the client's library, where no TTFT sees it.
const STREAMS: u32 = 10_000;

const AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(50); // out of descriptors: some will be closed soon

/// One of the data plane's runtimes.
struct Worker {
    runtime: Handle,
    /// A clone for each connection.
    load: Arc<()>,
}

/// Accepts connections until `stop` is cancelled; those that run come to their end then, as tasks of the proxy. Each
/// goes to the runtime that has the fewest, and stays there.
pub async fn serve(proxy: Arc<Proxy>, listener: TcpListener, runtimes: Vec<Handle>, stop: CancellationToken) {
    let worker = |runtime| Worker { runtime, load: Arc::default() };
    let workers: Vec<_> = runtimes.into_iter().map(worker).collect();
    let mut failing = false;
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, _)) => {
                failing = false;
                prepare_socket(&socket);
                let Some(worker) = workers.iter().min_by_key(|worker| Arc::strong_count(&worker.load)) else {
                    return;
                };
                let serving = moved(Arc::clone(&proxy), socket, stop.clone(), Arc::clone(&worker.load));
                proxy.tasks.spawn_on(serving, &worker.runtime);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "could not accept a connection");
                }
                tokio::time::sleep(AFTER_ACCEPT_ERROR).await;
            }
        }
    }
}

/// Serves a connection on a runtime that did not accept it.
async fn moved(proxy: Arc<Proxy>, socket: TcpStream, stop: CancellationToken, load: Arc<()>) {
    match socket.into_std().and_then(TcpStream::from_std) {
        Ok(socket) => connection(proxy, socket, stop).await,
        Err(error) => tracing::warn!(%error, "could not serve a connection"),
    }
    drop(load);
}

/// Serves one connection over any transport. When `stop` is cancelled it ends with the exchanges that it has, and
/// with the cut after that at once. How it ends its exchanges have recorded; what is left is the client's own doing.
pub async fn connection(
    proxy: Arc<Proxy>,
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    stop: CancellationToken,
) {
    // Boxed, so that the room which it takes is not the connection's for as long as that is open.
    let opened = Box::pin(until(&stop, Opening::read(socket, HEAD_TIMEOUT))).await;
    let Some(Ok(opening)) = opened else { return };
    let cut = proxy.cut.clone();
    let is_http2 = opening.is_http2;
    let socket = TokioIo::new(opening);
    let service = service_fn(move |request| handle(Arc::clone(&proxy), request));
    if is_http2 {
        let mut serving = Box::pin(http2().serve_connection(socket, service));
        if until(&stop, serving.as_mut()).await.is_none() {
            serving.as_mut().graceful_shutdown();
            until(&cut, serving).await;
        }
    } else {
        let mut serving = pin!(http1().serve_connection(socket, service).with_upgrades());
        if until(&stop, serving.as_mut()).await.is_none() {
            serving.as_mut().graceful_shutdown();
            until(&cut, serving).await;
        }
    }
}

fn http1() -> conn::http1::Builder {
    let mut server = conn::http1::Builder::new();
    server
        .preserve_header_case(true)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .auto_date_header(false);
    server
}

fn http2() -> conn::http2::Builder<TokioExecutor> {
    let mut server = conn::http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_LIMIT)
        .max_concurrent_streams(STREAMS)
        .auto_date_header(false);
    server
}
