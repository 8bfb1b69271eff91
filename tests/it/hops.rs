//! What goes over the wire on either side, HTTP/1: nothing added, nothing taken, hop-by-hop headers aside.

use super::harness::{ONE_UPSTREAM, STREAM_REQUEST, Sidecar, chunk, post, token};

/// Sends a head and body as they stand; gives what the upstream got, up to `end`.
async fn forwarded(sent: &str, end: &str) -> String {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write(sent).await;
    upstream.accept().await.read_to(end).await
}

/// Lets the upstream answer a GET with these bytes and close; gives what the client got until it closed.
async fn answered(request: &str, answer: &str) -> String {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write(request).await;
    let mut server = upstream.accept().await;
    server.read_head().await;
    server.write(answer).await;
    drop(server);
    client.read_to_close().await
}

const GET_AND_CLOSE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_request_passes_as_it_is_written() {
    let request = "POST /v1/chat/completions?a=%20&b=/?:@!$&'()*+,;= HTTP/1.1\r\nHost: Api.Example:8080\r\nX-DUP: 1\r\nauthorization: Bearer s\r\nX-Dup: 2\r\nx-dup: 3\r\nAccept-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}";
    let got = forwarded(request, "{}").await;
    let mut lines: Vec<_> = got.split("\r\n").collect();
    let mut want: Vec<_> = request.split("\r\n").collect();
    assert_eq!(lines[0], want[0]);
    let dups = |lines: &[&str]| -> Vec<String> {
        lines
            .iter()
            .filter(|line| line.to_ascii_lowercase().starts_with("x-dup"))
            .map(|line| (*line).to_owned())
            .collect()
    };
    assert_eq!(dups(&lines), ["X-DUP: 1", "X-Dup: 2", "x-dup: 3"], "order and case within a name");
    lines.sort_unstable();
    want.sort_unstable();
    assert_eq!(lines, want, "nothing added, nothing taken");
}

#[tokio::test(start_paused = true)]
async fn every_character_that_a_path_may_have() {
    for target in
        ["/a-._~b!$&'()*+,;=:@/%2F%2f%00/..//x/./", "/?", "/?a?b", "/%C3%A9", "/a;v=1,2/[x]", "/a|b\"c"]
    {
        let got = forwarded(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), "\r\n\r\n").await;
        assert_eq!(got.split(' ').nth(1), Some(target));
    }
}

#[tokio::test(start_paused = true)]
async fn other_forms_of_target() {
    let got =
        forwarded("GET http://other.example/v1/models?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n").await;
    assert!(got.starts_with("GET /v1/models?x=1 HTTP/1.1\r\n"), "{got}");
    assert!(got.contains("Host: other.example\r\n"), "the target's host counts: {got}");
    let got = forwarded("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n").await;
    assert!(got.starts_with("OPTIONS * HTTP/1.1\r\n"), "{got}");
}

#[tokio::test(start_paused = true)]
async fn of_a_length_and_chunks_only_the_chunks_go_on() {
    let sent = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let got = forwarded(sent, "0\r\n\r\n").await.to_ascii_lowercase();
    assert!(got.contains("transfer-encoding: chunked\r\n") && !got.contains("content-length"), "{got}");
    assert!(got.ends_with("2\r\nab\r\n0\r\n\r\n"), "{got}");
}

#[tokio::test(start_paused = true)]
async fn trailers_pass_both_ways() {
    let sent = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 7\r\n\r\n";
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write(sent).await;
    let mut server = upstream.accept().await;
    let got = server.read_to("7\r\n\r\n").await;
    assert!(got.to_ascii_lowercase().contains("\r\nte: trailers\r\n"), "{got}");
    assert!(got.to_ascii_lowercase().ends_with("0\r\nx-sum: 7\r\n\r\n"), "{got}");
    server.write("HTTP/1.1 200 OK\r\nTrailer: X-Cost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nz\r\n0\r\nX-Cost: 9\r\n\r\n").await;
    let got = client.read_to("9\r\n\r\n").await;
    assert!(got.to_ascii_lowercase().ends_with("0\r\nx-cost: 9\r\n\r\n"), "{got}");
    assert_eq!(sidecar.exchange().await["outcome"], "completed");
}

#[tokio::test(start_paused = true)]
async fn an_answer_passes_as_it_is_written() {
    let got = answered(GET_AND_CLOSE, "HTTP/1.1 418 I am a Teapot\r\nX-Two: b\r\nx-two: a\r\nServer: me\r\nKeep-Alive: timeout=5\r\nContent-Length: 1\r\n\r\nz").await;
    assert!(got.starts_with("HTTP/1.1 418 I am a Teapot\r\n"), "{got}");
    assert!(got.find("X-Two: b").unwrap() < got.find("x-two: a").unwrap(), "{got}");
    let lower = got.to_ascii_lowercase();
    for added in ["date:", "via:", "keep-alive:", "x-forwarded"] {
        assert!(!lower.contains(added), "{added} in {got}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_bounds_of_http_1_0() {
    let got = answered(
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    )
    .await;
    assert!(
        got.starts_with("HTTP/1.0 200 OK\r\n") && got.ends_with("\r\n\r\nab"),
        "no chunks for 1.0: {got}"
    );
    let got =
        answered(GET_AND_CLOSE, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil it closes").await;
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
    assert!(got.contains("until it closes") && got.ends_with("0\r\n\r\n"), "its end is told: {got}");
}

#[tokio::test(start_paused = true)]
async fn a_head_of_64_kib_and_one_of_95_headers_pass() {
    let big = "x".repeat(64 << 10);
    let got =
        forwarded(&format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {big}\r\n\r\n"), "\r\n\r\n").await;
    assert!(got.contains(&big));
    let many: String = (0..95).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let got = forwarded(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "\r\n\r\n").await;
    assert!(got.contains("X-94: 94\r\n"));
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut server = upstream.accept().await;
    for n in 1..=2 {
        assert!(server.read_head().await.starts_with(&format!("GET /{n} ")));
        server.write(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}")).await;
    }
    client.read_to("\r\n\r\n1").await;
    client.read_to("\r\n\r\n2").await;
    assert_eq!(sidecar.exchanges().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    let mut server = upstream.accept().await;
    assert_eq!(client.read_head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write("ab").await;
    server.read_to("\r\n\r\nab").await;
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    client.read_head().await;
}

#[tokio::test(start_paused = true)]
async fn the_host_that_the_upstream_sees_is_chosen() {
    for (host, want) in [("preserve", "Host: client.example"), ("upstream", "Host: upstream:8000")] {
        let config = format!("upstreams: [{{name: u, url: 'http://upstream:8000', host: {host}}}]");
        let (sidecar, mut upstream) = Sidecar::start(&config);
        let mut client = sidecar.connect();
        client.write("GET / HTTP/1.1\r\nHost: client.example\r\n\r\n").await;
        let got = upstream.accept().await.read_head().await;
        assert!(got.contains(want), "{host}: {got}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_and_prompts_stay_out_of_what_is_recorded() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    let body = STREAM_REQUEST.replace("hi", "my-secret-prompt");
    client
        .write(
            post(&body)
                .replace("Host: api", "Host: api\r\nAuthorization: Bearer sk-secret\r\nx-api-key: sk-other"),
        )
        .await;
    let mut server = upstream.accept().await;
    server.read_to(&body).await;
    server.write(super::harness::STREAM_HEAD).await;
    server.write(chunk(&token("my-secret-answer"))).await;
    client.read_to("my-secret-answer\"}}]}\n\n\r\n").await;
    drop(client);
    let line = sidecar.exchange().await.to_string();
    let page = String::from_utf8(sidecar.metrics.render(streamgauge::sinks::metrics::Format::OpenMetrics100))
        .unwrap();
    for secret in ["secret", "sk-"] {
        assert!(!line.contains(secret) && !page.contains(secret), "{secret}: {line}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_a_length_and_chunks_goes_by_its_chunks() {
    let answer =
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let got = answered(GET_AND_CLOSE, answer).await;
    assert!(got.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{got}");
    assert!(!got.to_ascii_lowercase().contains("content-length"), "{got}");
    let got = answered("GET / HTTP/1.0\r\nHost: a\r\n\r\n", answer).await;
    assert!(got.ends_with("\r\n\r\nhello"), "{got}");
}

#[tokio::test(start_paused = true)]
async fn a_request_must_say_once_whom_it_addresses() {
    for hosts in ["", "Host: a\r\nHost: b\r\n"] {
        let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
        let mut client = sidecar.connect();
        client.write(format!("GET / HTTP/1.1\r\n{hosts}\r\n")).await;
        assert!(client.read_head().await.starts_with("HTTP/1.1 400 "), "{hosts:?}");
        let line = sidecar.exchange().await;
        assert_eq!(
            (&line["outcome"], &line["error_class"]),
            (&"rejected".into(), &"http_request_error".into())
        );
        assert!(!upstream.has_more());
    }
    let got = forwarded("GET http://user:pw@other.example/ HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n").await;
    assert!(got.contains("Host: other.example\r\n"), "{got}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_after_each_stream_loses_no_request() {
    // As llama.cpp does, though it says that it keeps the connection.
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    for n in 0..3 {
        client.write(post(STREAM_REQUEST)).await;
        let mut server = upstream.accept().await;
        server.read_to(STREAM_REQUEST).await;
        server.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        server.write(chunk(&token("a"))).await;
        server.write("0\r\n\r\n").await;
        client.read_to("0\r\n\r\n").await;
        // The close is on its way while the next request comes.
        sidecar.beside(async move {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            drop(server);
        });
        tokio::time::sleep(std::time::Duration::from_millis(n)).await;
    }
    assert_eq!(sidecar.exchanges().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_rested_is_used_again() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    let stream = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nz\r\n0\r\n\r\n";
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0\r\n\r\n";
    client.write(post("{}")).await;
    let mut server = upstream.accept().await;
    for (answer, pause) in [(stream, 100), (whole, 0), (whole, 0)] {
        server.read_to("{}").await;
        server.write(answer).await;
        client.read_to("0\r\n\r\n").await;
        tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        client.write(post("{}")).await;
    }
    server.read_to("{}").await;
    assert!(!upstream.has_more(), "one connection is enough");
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_steady_use_leaves_no_task_behind_for_each_answer() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    let mut server = None;
    let mut tasks = Vec::new();
    for _ in 0..20 {
        client.write("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").await;
        if server.is_none() {
            server = Some(upstream.accept().await);
        }
        let server = server.as_mut().unwrap();
        server.read_head().await;
        server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]").await;
        client.read_to("[]").await;
        tasks.push(tokio::runtime::Handle::current().metrics().num_alive_tasks());
    }
    assert_eq!(tasks[1], tasks[19], "{tasks:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_101_that_nobody_asked_for_is_the_upstreams_fault() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut server = upstream.accept().await;
    server.read_head().await;
    server.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 502 "));
    assert_eq!(sidecar.exchange().await["outcome"], "upstream_failed");
}
