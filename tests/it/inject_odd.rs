//! `inject_usage` beside slow clients, deadlines, servers that close, and bodies in odd pieces.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::harness::{
    LAST_CHUNK, LAST_EVENTS, STREAM_HEAD, STREAM_REQUEST, Sidecar, Wire, chunk, post, token,
};
use super::inject::{ASKING, INJECTING, NO_SUCH_OPTION, answer, asking};

const IN_TWO_SECONDS: &str =
    "upstreams: [{name: default, url: 'http://upstream:8000', inject_usage: true, first_byte_timeout: 2s}]";
async fn sleep(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// A head, and after a pause the rest of a stream; gives how the exchange is recorded.
async fn late_stream(sidecar: &Sidecar, mut client: Wire, mut server: Wire, pause: u64) -> Value {
    server.write(STREAM_HEAD).await;
    client.read_head().await;
    sleep(pause).await;
    let rest = chunk(&(token("a") + LAST_EVENTS)) + LAST_CHUNK;
    server.0.write_all(rest.as_bytes()).await.unwrap();
    client.read_to(LAST_CHUNK).await;
    sidecar.exchange().await
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_first_byte_has_its_full_time() {
    let (sidecar, mut upstream, client, mut server) = asking(IN_TWO_SECONDS).await;
    sleep(1_900).await;
    server.write(answer("400 Bad Request", NO_SUCH_OPTION)).await;
    let mut second = upstream.accept().await;
    second.read_to(STREAM_REQUEST).await;
    assert_eq!(late_stream(&sidecar, client, second, 1_900).await["outcome"], "completed");
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_takes_nothing_from_the_time_for_the_first_byte() {
    for config in [IN_TWO_SECONDS.to_owned(), IN_TWO_SECONDS.replace("true", "false")] {
        let (sidecar, mut upstream) = Sidecar::start(&config);
        let mut client = sidecar.connect();
        let request = post(STREAM_REQUEST);
        let (first, last) = request.split_at(request.len() - 5);
        client.write(first).await;
        sleep(1_900).await;
        client.write(last).await;
        let mut server = upstream.accept().await;
        server.read_to(r#"[{"role":"user","content":"hi"}]}"#).await;
        assert_eq!(late_stream(&sidecar, client, server, 1_900).await["outcome"], "completed", "{config}");
    }
}

#[tokio::test(start_paused = true)]
async fn between_head_and_first_byte_the_time_is_up_all_the_same() {
    let (sidecar, _upstream, mut client, mut server) = asking(IN_TWO_SECONDS).await;
    server.write(STREAM_HEAD).await;
    client.read_to_close().await;
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["duration_seconds"]), (&"timed_out".into(), &2.0.into()));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_came_in_time_is_not_timed_out_while_its_body_is_looked_at() {
    let (sidecar, _upstream, mut client, mut server) = asking(IN_TWO_SECONDS).await;
    sleep(1_900).await;
    server.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 20\r\n\r\n{\"err").await;
    sleep(300).await;
    server.write("or\":\"too long\"}").await;
    let head = client.read_head().await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    client.read_to("too long\"}").await;
    sidecar.exchange().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_behind_its_refusal_fails_no_traffic() {
    for pause in [0, 1] {
        let (_sidecar, mut upstream, mut client, mut server) = asking(INJECTING).await;
        server.write(answer("400 Bad Request", NO_SUCH_OPTION)).await;
        sleep(pause).await; // it did not say that it would
        drop(server);
        let mut second = upstream.accept().await;
        second.read_to(STREAM_REQUEST).await;
        second.write(answer("200 OK", "{}")).await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{pause}: {head}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_send_all_within_ten_seconds_is_passed_on_as_it_comes() {
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let mut client = sidecar.connect();
    let request = post(STREAM_REQUEST);
    let (first, last) = request.split_at(request.len() - 5);
    client.write(first).await;
    sleep(9_900).await;
    assert!(!upstream.has_more());
    sleep(200).await;
    let mut server = upstream.accept().await;
    server.read_to(STREAM_REQUEST.get(..STREAM_REQUEST.len() - 5).unwrap()).await;
    client.write(last).await;
    server.read_to(last).await;
    server.write(answer("200 OK", "{}")).await;
    client.read_to("{}").await;
    assert_eq!(sidecar.value("usage_injections_total", "upstream=\"default\",action=\"too_slow\""), 1.0);
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// By itself each piece would hold a hundred bytes and the buffer that it was read into.
#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn a_request_in_tiny_pieces_holds_no_more_than_it_is() {
    for config in [INJECTING.replace("true", "false"), INJECTING.to_owned()] {
        let (sidecar, _upstream) = Sidecar::start(&config);
        let mut client = sidecar.connect();
        let before = resident();
        client
            .write("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        let pieces = "1\r\n \r\n".repeat(1 << 16);
        let sending = sidecar.beside(async move {
            for _ in 0..16 {
                if client.0.write_all(pieces.as_bytes()).await.is_err() {
                    break;
                }
            }
            client
        });
        sleep(5_000).await;
        let grown = resident().saturating_sub(before) >> 20;
        assert!(grown < 32, "{grown} MiB for a body of 1 MiB: {config}");
        sending.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_400_in_chunks_passes_with_its_trailers() {
    for trailers in ["", "X-Cost: 9\r\n"] {
        let (sidecar, mut upstream) = Sidecar::start(INJECTING);
        let mut client = sidecar.connect();
        client.write(post(STREAM_REQUEST).replace("Host: api", "Host: api\r\nTE: trailers")).await;
        let mut server = upstream.accept().await;
        server.read_to(ASKING).await;
        let other = r#"{"error":{"message":"max_tokens is too large"}}"#;
        let (first, second) = other.split_at(10);
        let head = "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\nTrailer: X-Cost\r\n\r\n";
        server.write(format!("{head}{}{}0\r\n{trailers}\r\n", chunk(first), chunk(second))).await;
        client.read_head().await;
        let body = client.read_to(&format!("0\r\n{}\r\n", trailers.to_ascii_lowercase())).await;
        assert!(body.contains("too large"), "{body}");
        assert_eq!(sidecar.exchange().await["bytes_out"], other.len());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_sealed_is_left_alone() {
    let (sidecar, _upstream, mut client, mut server) = asking(INJECTING).await;
    let events = token("a") + LAST_EVENTS;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Digest: sha-256=:x:\r\n";
    server.write(format!("{head}Content-Length: {}\r\n\r\n{events}", events.len())).await;
    let head = client.read_head().await.to_ascii_lowercase();
    assert!(head.contains("content-digest") && head.contains("content-length"), "{head}");
    client.read_to(&events).await;
    sidecar.exchange().await;
}

/// Of an upstream that answers before it has read the request, and keeps its connection.
#[tokio::test(start_paused = true)]
async fn what_an_early_answer_left_unread_is_given_back() {
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let body = format!(r#"{{"stream":true,"x":"{}"}}"#, "x".repeat((2 << 20) - 100));
    let mut open = Vec::new();
    for _ in 0..40 {
        let mut client = sidecar.connect();
        let sending = post(&body);
        let writing = sidecar.beside(async move {
            let _ = client.0.write_all(sending.as_bytes()).await;
            client
        });
        let mut server = upstream.accept().await;
        server.read_head().await;
        server.write(answer("413 Too Large", "{}")).await;
        writing.await.unwrap().read_to("{}").await;
        open.push(server);
    }
    assert_eq!(sidecar.exchanges().await.len(), 40);
    assert_eq!(sidecar.value("usage_injections_total", "upstream=\"default\",action=\"too_large\""), 0.0);
}
