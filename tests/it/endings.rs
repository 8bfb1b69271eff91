//! Every way an exchange can end, and that it is recorded once.

use std::time::Duration;

use super::harness::{
    LAST_CHUNK, LAST_EVENTS, ONE_UPSTREAM, STREAM_HEAD, STREAM_REQUEST, Sidecar, Upstream, Wire, asked,
    chunk, post, token,
};

/// A stream that has delivered two tokens.
async fn streaming() -> (Sidecar, Upstream, Wire, Wire) {
    let (sidecar, upstream, mut client, mut server) = asked(ONE_UPSTREAM).await;
    server.write(STREAM_HEAD).await;
    server.write(chunk(&token("a"))).await;
    server.write(chunk(&token("b"))).await;
    client.read_to(&chunk(&token("b"))).await;
    (sidecar, upstream, client, server)
}

async fn check(sidecar: &Sidecar, outcome: &str, code: Option<u16>) -> serde_json::Value {
    let line = sidecar.exchange().await;
    assert_eq!(line["outcome"], outcome, "{line}");
    assert_eq!(line.get("code").and_then(serde_json::Value::as_u64), code.map(u64::from), "{line}");
    for (name, want) in [("started_total", 1.0), ("ended_total", 1.0), ("in_flight", 0.0)] {
        assert_eq!(
            sidecar.sample(&format!(
                "streamgauge_requests_{name}{{upstream=\"{}\"}}",
                line["upstream"].as_str().unwrap()
            )),
            Some(want),
            "{name}"
        );
    }
    line
}

#[tokio::test(start_paused = true)]
async fn completed() {
    let (sidecar, _upstream, mut client, mut server) = streaming().await;
    server.write(chunk(LAST_EVENTS)).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    check(&sidecar, "completed", Some(200)).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_in_mid_stream_releases_the_upstream_at_once() {
    let (sidecar, _upstream, client, mut server) = streaming().await;
    drop(client);
    assert!(server.closes_within(Duration::from_millis(100)).await);
    let line = check(&sidecar, "client_gone", Some(200)).await;
    assert_eq!((&line["chunks"], &line["blame"]), (&2.into(), &"downstream".into()));
    assert_eq!(
        sidecar.sample(
            "streamgauge_client_disconnects_total{tenant=\"anonymous\",model=\"m\",phase=\"streaming\"}"
        ),
        Some(1.0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_the_head_releases_the_upstream_at_once() {
    let (sidecar, _upstream, client, mut server) = asked(ONE_UPSTREAM).await;
    drop(client);
    assert!(server.closes_within(Duration::from_millis(100)).await);
    let line = check(&sidecar, "client_gone", None).await;
    assert_eq!(line["stream"], true, "what was asked for, without a head");
    assert_eq!(sidecar.sample("streamgauge_client_disconnects_total{tenant=\"anonymous\",model=\"unknown\",phase=\"before_first_token\"}"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_after_the_terminal_mark_has_completed() {
    let (sidecar, _upstream, mut client, mut server) = streaming().await;
    server.write(chunk(LAST_EVENTS)).await;
    client.read_to(&chunk(LAST_EVENTS)).await;
    drop(client);
    assert!(server.closes_within(Duration::from_millis(100)).await);
    check(&sidecar, "completed", Some(200)).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_uploading_is_gone() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client
        .write("POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nContent-Length: 1000\r\n\r\n{\"model\"")
        .await;
    let mut server = upstream.accept().await;
    server.read_to("{\"model\"").await;
    drop(client);
    assert!(server.closes_within(Duration::from_millis(100)).await);
    check(&sidecar, "client_gone", None).await;
}

#[tokio::test(start_paused = true)]
async fn truncated() {
    let (sidecar, _upstream, mut client, server) = streaming().await;
    drop(server);
    let rest = client.read_to_close().await;
    assert!(!rest.contains(LAST_CHUNK), "the client must see the cut: {rest:?}");
    check(&sidecar, "truncated", Some(200)).await;
}

/// An upstream that writes and dies at once: both are there when the sidecar looks.
#[tokio::test(start_paused = true)]
async fn what_came_before_a_break_reaches_the_client() {
    let events = [chunk(&token("a")), chunk(&token("b"))].concat();
    let injecting = "upstreams: [{name: default, url: 'http://upstream:8000', inject_usage: true}]";
    for config in [ONE_UPSTREAM, injecting] {
        for body in ["", events.as_str()] {
            let (sidecar, mut upstream) = Sidecar::start(config);
            let mut client = sidecar.connect();
            client.write(post(STREAM_REQUEST)).await;
            let mut server = upstream.accept().await;
            server.read_to("\"hi\"}]}").await;
            server.write(format!("{STREAM_HEAD}{body}")).await;
            drop(server);
            let came = client.read_to_close().await;
            assert!(
                came.starts_with("HTTP/1.1 200 ") && came.ends_with(&format!("\r\n\r\n{body}")),
                "{came:?}"
            );
            let line = check(&sidecar, "truncated", Some(200)).await;
            let sent = if body.is_empty() { 0 } else { token("a").len() + token("b").len() };
            assert_eq!(line["bytes_out"], sent, "{config}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn truncated_though_it_closed_cleanly() {
    let (sidecar, _upstream, mut client, mut server) = streaming().await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    check(&sidecar, "truncated", Some(200)).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_event_inside_a_200() {
    let (sidecar, _upstream, mut client, mut server) = streaming().await;
    server
        .write(chunk(
            "data: {\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\"}}\n\ndata: [DONE]\n\n",
        ))
        .await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    let line = check(&sidecar, "stream_failed", Some(200)).await;
    assert_eq!(line["error_class"], "server_error");
}

#[tokio::test(start_paused = true)]
async fn the_upstreams_own_errors() {
    for (code, outcome, blame) in [
        (429, "upstream_refused", "upstream"),
        (400, "upstream_refused", "downstream"),
        (503, "upstream_failed", "upstream"),
    ] {
        let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
        let mut client = sidecar.connect();
        client.write(post(STREAM_REQUEST)).await;
        let mut server = upstream.accept().await;
        server.read_to(STREAM_REQUEST).await;
        let body = "{\"error\":{\"type\":\"busy\"}}";
        server
            .write(format!(
                "HTTP/1.1 {code} No\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        client.read_to(body).await;
        let line = check(&sidecar, outcome, Some(code)).await;
        assert_eq!((&line["blame"], &line["error_class"]), (&blame.into(), &"busy".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_closes_before_a_head() {
    let (sidecar, mut upstream, mut client, server) = asked(ONE_UPSTREAM).await;
    drop(server);
    let head = client.read_head().await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert!(head.contains("error=connection_terminated"), "{head}");
    let line = check(&sidecar, "upstream_failed", Some(502)).await;
    assert_eq!((&line["stream"], &line["model_requested"]), (&true.into(), &"m".into()));
    assert!(!upstream.has_more(), "a POST of which a byte went out is not sent again");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_cannot_be_reached() {
    let (sidecar, upstream) = Sidecar::start(ONE_UPSTREAM);
    drop(upstream);
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    let head = client.read_head().await;
    assert!(head.starts_with("HTTP/1.1 502 ") && head.contains("error=connection_refused"), "{head}");
    let line = check(&sidecar, "upstream_failed", Some(502)).await;
    assert_eq!(line["stream"], true);
}

/// Clients write head and body apart, and our answer is there in between.
#[tokio::test(start_paused = true)]
async fn what_was_asked_for_is_known_though_it_comes_after_our_answer() {
    let elsewhere = "upstreams: [{name: v2, url: 'http://h:1', match: {path_prefix: /v2}}]";
    let declared = post(STREAM_REQUEST);
    let chunked = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n{}{LAST_CHUNK}",
        chunk(STREAM_REQUEST)
    );
    let two_hosts = declared.replace("Host: api\r\n", "Host: api\r\nHost: b\r\n");
    for (config, request, outcome, code) in [
        (ONE_UPSTREAM, &declared, "upstream_failed", 502),
        (ONE_UPSTREAM, &chunked, "upstream_failed", 502),
        (elsewhere, &declared, "rejected", 404),
        (ONE_UPSTREAM, &two_hosts, "rejected", 400),
    ] {
        let (sidecar, upstream) = Sidecar::start(config);
        drop(upstream);
        let mut client = sidecar.connect();
        let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
        let begun = tokio::time::Instant::now();
        client.write(head).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.write(body).await;
        assert!(client.read_head().await.starts_with(&format!("HTTP/1.1 {code} ")), "{request}");
        assert_eq!(begun.elapsed().as_millis(), 10, "no longer than the body takes");
        let line = check(&sidecar, outcome, Some(code)).await;
        assert_eq!((&line["stream"], &line["model_requested"]), (&true.into(), &"m".into()), "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_slow_to_ask_is_told_before_it_has() {
    let (sidecar, upstream) = Sidecar::start(ONE_UPSTREAM);
    drop(upstream);
    let mut client = sidecar.connect();
    let begun = tokio::time::Instant::now();
    client.write("POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nContent-Length: 9\r\n\r\n{").await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 502 "));
    assert!(begun.elapsed() <= Duration::from_millis(100));
    check(&sidecar, "upstream_failed", Some(502)).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_of_our_own_has_the_shape_of_the_api() {
    for (path, dialect, start, kind, stream) in [
        ("/v1/chat/completions", "openai_chat", "{\"error\":{", "/error/type", true),
        ("/v1/messages", "anthropic_messages", "{\"", "/error/type", true),
        ("/api/chat", "ollama", "{\"error\":\"", "/error", true),
        ("/completion", "llamacpp", "{\"error\":{", "/error/type", true),
        ("/v1/embeddings", "openai_embeddings", "{\"error\":{", "/error/type", false),
    ] {
        let (sidecar, upstream) = Sidecar::start(ONE_UPSTREAM);
        drop(upstream);
        let mut client = sidecar.connect();
        client.write(post(STREAM_REQUEST).replace("/v1/chat/completions", path)).await;
        assert!(client.read_head().await.starts_with("HTTP/1.1 502 "), "{path}");
        let body = client.read_to("}").await;
        assert!(body.starts_with(start), "{path}: {body}");
        let whole = if body.matches('{').count() > 1 { body + &client.read_to("}").await } else { body };
        let json: serde_json::Value = serde_json::from_str(&whole).unwrap();
        assert!(json.pointer(kind).is_some_and(serde_json::Value::is_string), "{path}: {whole}");
        let line = check(&sidecar, "upstream_failed", Some(502)).await;
        assert_eq!((&line["dialect"], &line["stream"]), (&dialect.into(), &stream.into()), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_upstream_matches_is_rejected() {
    let (sidecar, mut upstream) =
        Sidecar::start("upstreams: [{name: v1, url: 'http://h:1', match: {path_prefix: /v1}}]");
    let mut client = sidecar.connect();
    client.write("GET /v2/models HTTP/1.1\r\nHost: api\r\n\r\n").await;
    let head = client.read_head().await;
    assert!(head.starts_with("HTTP/1.1 404 ") && head.contains("error=destination_not_found"), "{head}");
    let line = check(&sidecar, "rejected", Some(404)).await;
    assert_eq!((&line["upstream"], &line["blame"]), (&"none".into(), &"sidecar".into()));
    assert!(!upstream.has_more());
}

#[tokio::test(start_paused = true)]
async fn what_our_shutdown_cuts_is_drained() {
    let (sidecar, _upstream, mut client, mut server) = streaming().await;
    sidecar.cut();
    client.read_to_close().await;
    assert!(server.closes_within(Duration::from_millis(100)).await);
    check(&sidecar, "drained", Some(200)).await;
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_never_polled_to_their_end() {
    for (request, answer) in [
        ("HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        ("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
        ("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
        let mut client = sidecar.connect();
        client.write(request).await;
        let mut server = upstream.accept().await;
        server.read_head().await;
        server.write(answer).await;
        client.read_head().await;
        let line = sidecar.exchange().await;
        assert_eq!(line["outcome"], "completed", "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_the_upstream_closed_loses_no_request() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    client.write(post("{}")).await;
    let mut server = upstream.accept().await;
    server.read_to("{}").await;
    server.write(answer).await;
    client.read_to("{}").await;
    drop(server);
    client.write(post("{}")).await;
    let mut server = upstream.accept().await;
    server.read_to("{}").await;
    server.write(answer).await;
    client.read_to("{}").await;
    assert_eq!(sidecar.exchanges().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_not_kept_as_long_as_uvicorn_keeps_it() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    for (pause, reused) in [(0, false), (3_000, true), (4_500, false)] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let before = upstream.has_more();
        assert!(!before);
        client.write(post("{}")).await;
        if reused {
            continue;
        }
        let mut server = upstream.accept().await;
        sidecar.beside(async move {
            loop {
                server.read_to("{}").await;
                server.write(answer).await;
            }
        });
        client.read_to("{}").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_its_upload_off_while_the_answer_streams_is_gone() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client
        .write(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        )
        .await;
    let mut server = upstream.accept().await;
    server.read_to("{}\r\n").await;
    server.write(STREAM_HEAD).await;
    server.write(chunk(&token("a"))).await;
    client.read_to(&chunk(&token("a"))).await;
    client.write("not a chunk size\r\n").await;
    assert!(server.closes_within(Duration::from_millis(100)).await);
    check(&sidecar, "client_gone", Some(200)).await;
}

#[tokio::test(start_paused = true)]
async fn why_nobody_answered_is_in_the_log() {
    let (sidecar, upstream) = Sidecar::start(ONE_UPSTREAM);
    drop(upstream);
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    client.read_head().await;
    assert_eq!(sidecar.exchange().await["error_class"], "connection_refused");
}
