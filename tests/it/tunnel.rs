//! Connections that leave HTTP: WebSocket and the like.

use std::time::Duration;

use super::harness::{ONE_UPSTREAM, Sidecar, Upstream, Wire};

const ASK: &str = "GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";

async fn open() -> (Sidecar, Upstream, Wire, Wire) {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write(ASK).await;
    let mut server = upstream.accept().await;
    let head = server.read_head().await;
    assert!(head.contains("Upgrade: websocket\r\n") && head.contains("Sec-WebSocket-Key: x\r\n"), "{head}");
    server.write(SWITCH).await;
    let head = client.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("Sec-WebSocket-Accept: y\r\n"), "{head}");
    (sidecar, upstream, client, server)
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_both_ways_until_one_side_closes() {
    let (sidecar, _upstream, mut client, mut server) = open().await;
    client.write("ping").await;
    assert_eq!(server.read_exactly(4).await, b"ping");
    server.write("pong!").await;
    assert_eq!(client.read_exactly(5).await, b"pong!");
    assert_eq!(sidecar.sample("streamgauge_requests_in_flight{upstream=\"default\"}"), Some(1.0));
    drop(client);
    assert!(server.closes_within(Duration::from_millis(100)).await);
    drop(server);
    let line = sidecar.exchange().await;
    assert_eq!(
        (&line["outcome"], &line["code"], &line["unobserved"]),
        (&"completed".into(), &101.into(), &"upgrade".into())
    );
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&4.into(), &5.into()));
}

#[tokio::test(start_paused = true)]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write(ASK).await;
    let mut server = upstream.accept().await;
    server.read_head().await;
    server.write("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 426 "));
    assert_eq!(sidecar.exchange().await["outcome"], "upstream_refused");
}

#[tokio::test(start_paused = true)]
async fn our_shutdown_cuts_a_tunnel() {
    let (sidecar, _upstream, mut client, mut server) = open().await;
    sidecar.cut();
    assert!(client.closes_within(Duration::from_millis(100)).await);
    assert!(server.closes_within(Duration::from_millis(100)).await);
    assert_eq!(sidecar.exchange().await["outcome"], "drained");
}
