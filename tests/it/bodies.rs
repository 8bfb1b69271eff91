//! Bodies are passed on as they come, and no faster than the other side takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::harness::{ONE_UPSTREAM, Sidecar, post};

const MIB: usize = 1 << 20;

/// What all buffers between the two ends may hold: pipes of 64 KiB and hyper's own of up to 400 KiB, each side.
const BUFFERS: usize = 2 * MIB;

#[tokio::test(start_paused = true)]
async fn a_request_of_10_mib_passes_and_a_slow_server_slows_the_client() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    let size = 10 * MIB;
    let written = Arc::new(AtomicUsize::new(0));
    let progress = Arc::clone(&written);
    client.write(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await;
    let writing = sidecar.beside(async move {
        for n in 0..size / 1024 {
            client.write([n as u8; 1024]).await;
            progress.fetch_add(1024, Ordering::SeqCst);
        }
        client
    });
    let mut server = upstream.accept().await;
    server.read_head().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let ahead = written.load(Ordering::SeqCst);
    assert!(ahead < BUFFERS, "{ahead} bytes were taken though the server reads nothing");
    for n in 0..size / 1024 {
        assert_eq!(server.read_exactly(1024).await, [n as u8; 1024]);
    }
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    writing.await.unwrap().read_head().await;
    assert_eq!(sidecar.exchange().await["bytes_in"], size);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_slows_the_server() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut server = upstream.accept().await;
    server.read_head().await;
    let size = 10 * MIB;
    server.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")).await;
    let written = Arc::new(AtomicUsize::new(0));
    let progress = Arc::clone(&written);
    let writing = sidecar.beside(async move {
        for n in 0..size / 1024 {
            server.write([n as u8; 1024]).await;
            progress.fetch_add(1024, Ordering::SeqCst);
        }
        server
    });
    client.read_head().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let ahead = written.load(Ordering::SeqCst);
    assert!(ahead < BUFFERS, "{ahead} bytes were taken though the client reads nothing");
    for n in 0..size / 1024 {
        assert_eq!(client.read_exactly(1024).await, [n as u8; 1024]);
    }
    drop(writing.await);
    assert_eq!(sidecar.exchange().await["bytes_out"], size);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_which_the_answer_does_not_wait() {
    // An upstream may answer before it has read the request, as one that refuses does.
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client
        .write("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{\"model\":")
        .await;
    let mut server = upstream.accept().await;
    server.read_to("{\"model\":").await;
    server.write("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 413 "));
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["code"]), (&"upstream_refused".into(), &413.into()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_while_we_connect_is_noticed() {
    // Nobody accepts: the connection to the upstream is a pipe whose other end is never read.
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    let big = "x".repeat(100_000);
    client.write(post(&format!("{{\"model\":\"m\",\"stream\":true,\"x\":\"{big}\"}}"))).await;
    let _server = upstream.accept().await;
    drop(client);
    let line = sidecar.exchange().await;
    assert_eq!(line["outcome"], "client_gone");
    assert!(line["duration_seconds"].as_f64().unwrap() < 0.1, "{line}");
}
