//! Accepts connections on the data port: HTTP/1.1 and HTTP/2 with prior knowledge, told apart by their first
//! bytes. Ends gracefully: first no new connections, then running streams to their end, then a cut.

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::connect::prepare_socket;
use super::opening::Opening;
use super::{HEAD_LIMIT, Proxy, handle};

/// How long a connection may stand without a request. It bounds an idle keep-alive connection too, so it lies
/// above what clients keep in their pools (90 s and less), or they would meet the close.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Streams on one HTTP/2 connection. One beyond it waits in the client's library, where no TTFT sees it.
const STREAMS: u32 = 10_000;

const AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(50); // out of descriptors: some will be closed soon

/// One of the data plane's runtimes, and a clone of the load for each of its connections.
struct Worker {
    runtime: Handle,
    load: Arc<()>,
}

/// Serves connections until `stop` is cancelled, then lets those that run come to their end. Each goes to the
/// runtime that has the fewest, and stays there.
pub async fn serve(proxy: Arc<Proxy>, listener: TcpListener, runtimes: Vec<Handle>, stop: CancellationToken) {
    let workers: Vec<_> =
        runtimes.into_iter().map(|runtime| Worker { runtime, load: Arc::default() }).collect();
    let graceful = GracefulShutdown::new();
    let mut failing = false;
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, _)) => {
                failing = false;
                prepare_socket(&socket);
                let Some(worker) = workers.iter().min_by_key(|worker| Arc::strong_count(&worker.load)) else {
                    return;
                };
                let serving = moved(Arc::clone(&proxy), socket, graceful.watcher(), Arc::clone(&worker.load));
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
    drop(listener);
    proxy.cut.run_until_cancelled(graceful.shutdown()).await;
}

/// Serves a connection on a runtime that did not accept it.
async fn moved(
    proxy: Arc<Proxy>,
    socket: TcpStream,
    graceful: hyper_util::server::graceful::Watcher,
    load: Arc<()>,
) {
    match socket.into_std().and_then(TcpStream::from_std) {
        Ok(socket) => connection(proxy, socket, graceful).await,
        Err(error) => tracing::warn!(%error, "could not serve a connection"),
    }
    drop(load);
}

/// Serves one connection over any transport.
pub async fn connection(
    proxy: Arc<Proxy>,
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    graceful: hyper_util::server::graceful::Watcher,
) {
    let cut = proxy.cut.clone();
    let service = service_fn(move |request| {
        let proxy = Arc::clone(&proxy);
        async move { Ok::<_, std::convert::Infallible>(handle(proxy, request).await) }
    });
    let server = server();
    let serving =
        server.serve_connection_with_upgrades(TokioIo::new(Opening::new(socket, HEAD_TIMEOUT)), service);
    tokio::select! {
        // How a connection ends its exchanges have recorded; what is left is the client's own doing.
        _ = graceful.watch(serving.into_owned()) => {}
        () = cut.cancelled() => {}
    }
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new()).preserve_header_case(true);
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .auto_date_header(false)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_LIMIT)
        .max_concurrent_streams(STREAMS)
        .auto_date_header(false);
    server
}
