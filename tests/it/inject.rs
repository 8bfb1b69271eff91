//! `inject_usage`: the upstream is asked for usage, and the client gets what the upstream sent less exactly one event.

use std::time::Duration;

use streamgauge::config::Config;

use super::harness::{
    LAST_CHUNK, LAST_EVENTS, STREAM_HEAD, STREAM_REQUEST, Sidecar, Upstream, Wire, chunk, post, token,
};

pub(crate) const INJECTING: &str =
    "upstreams: [{name: default, url: 'http://upstream:8000', inject_usage: true}]";

/// [`STREAM_REQUEST`], made to ask.
pub(crate) const ASKING: &str = r#"{"stream_options":{"include_usage":true},"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

const FINISH: &str =
    "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

pub(crate) const NO_SUCH_OPTION: &str =
    r#"{"error":{"message":"Unknown parameter: 'stream_options'.","type":"invalid_request_error"}}"#;

/// A stream that the upstream was made to report: the edited request has reached it.
pub(crate) async fn asking(config: &str) -> (Sidecar, Upstream, Wire, Wire) {
    let (sidecar, mut upstream) = Sidecar::start(config);
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    let mut server = upstream.accept().await;
    server.read_to(ASKING).await;
    (sidecar, upstream, client, server)
}

pub(crate) fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// How often these things were done: asked, cut, refused, too large.
fn counts(sidecar: &Sidecar) -> [f64; 4] {
    ["asked", "cut", "refused", "too_large"].map(|action| {
        let sample =
            format!("streamgauge_usage_injections_total{{upstream=\"default\",action=\"{action}\"}}");
        sidecar.sample(&sample).unwrap()
    })
}

/// The bytes of a body in chunks, as far as they are whole.
fn dechunked(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some((data, rest)) = rest.split_at_checked(size) else { break };
        body.push_str(data);
        text = rest.strip_prefix("\r\n").unwrap_or(rest);
    }
    body
}

#[tokio::test(start_paused = true)]
async fn the_client_gets_what_the_upstream_sent_less_the_usage_event() {
    assert_eq!(LAST_EVENTS, [FINISH, USAGE, DONE].concat());
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    assert_eq!(counts(&sidecar), [0.0; 4], "there from the start");
    let mut client = sidecar.connect();
    client
        .write(post(STREAM_REQUEST).replace("Host: api", "Host: api\r\nACCEPT-Encoding: gzip\r\nX-Two: 1"))
        .await;
    let mut server = upstream.accept().await;
    let request = server.read_to(ASKING).await;
    let head = request.strip_suffix(ASKING).unwrap();
    let mut lines: Vec<_> = head.trim_end().split("\r\n").skip(1).collect();
    lines.sort_unstable();
    let length = format!("Content-Length: {}", ASKING.len());
    assert_eq!(
        lines,
        [
            "ACCEPT-Encoding: identity",
            length.as_str(),
            "Content-Type: application/json",
            "Host: api",
            "X-Two: 1"
        ]
    );
    server.write(STREAM_HEAD).await;
    let head = client.read_head().await.to_ascii_lowercase();
    for data in [token("a"), token("b") + &token("c"), FINISH.to_owned()] {
        server.write(chunk(&data)).await;
        assert_eq!(client.read_to(&chunk(&data)).await, chunk(&data), "as it came, and at once");
    }
    server.write(chunk(USAGE)).await;
    server.write(chunk(DONE)).await;
    server.write(LAST_CHUNK).await;
    assert_eq!(client.read_to(LAST_CHUNK).await, chunk(DONE) + LAST_CHUNK);
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["code"]), (&"completed".into(), &200.into()));
    assert_eq!((&line["output_tokens"], &line["output_source"]), (&3.into(), &"reported".into()));
    assert_eq!((&line["input_tokens"], &line["input_source"]), (&5.into(), &"reported".into()));
    assert_eq!(line["bytes_in"], STREAM_REQUEST.len(), "what the client sent");
    let out = [token("a"), token("b"), token("c"), FINISH.to_owned(), DONE.to_owned()].concat();
    assert_eq!(line["bytes_out"], out.len(), "what the client got");
    assert_eq!(counts(&sidecar), [1.0, 1.0, 0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn the_answers_framing_may_be_any() {
    let events = token("a") + LAST_EVENTS;
    let without = events.replace(USAGE, "");
    // By length, by chunks in the middle of events, until it closes; with trailers.
    let length = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nContent-Length: {}\r\n\r\n{events}",
        events.len()
    );
    let pieces: String =
        events.as_bytes().chunks(7).map(|piece| chunk(std::str::from_utf8(piece).unwrap())).collect();
    let closing = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{events}");
    let head = STREAM_HEAD.trim_end();
    let trailers = format!("{head}\r\nTrailer: X-Cost\r\n\r\n{}0\r\nX-Cost: 9\r\n\r\n", chunk(&events));
    for (sent, closes) in [
        (length, false),
        (format!("{STREAM_HEAD}{pieces}{LAST_CHUNK}"), false),
        (closing, true),
        (trailers, false),
    ] {
        let (sidecar, mut upstream) = Sidecar::start(INJECTING);
        let mut client = sidecar.connect();
        client.write(post(STREAM_REQUEST).replace("Host: api", "Host: api\r\nTE: trailers")).await;
        let mut server = upstream.accept().await;
        server.read_to(ASKING).await;
        server.write(&sent).await;
        if closes {
            drop(server);
        }
        let head = client.read_head().await.to_ascii_lowercase();
        assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
        let has_trailers = sent.ends_with("X-Cost: 9\r\n\r\n");
        let body = client.read_to(if has_trailers { "0\r\nx-cost: 9\r\n\r\n" } else { LAST_CHUNK }).await;
        assert_eq!(dechunked(&body.replace("x-cost: 9\r\n", "")), without, "{sent}");
        let line = sidecar.exchange().await;
        assert_eq!(
            (&line["outcome"], &line["bytes_out"]),
            (&"completed".into(), &without.len().into()),
            "{sent}"
        );
        assert_eq!((&line["output_tokens"], counts(&sidecar)), (&3.into(), [1.0, 1.0, 0.0, 0.0]), "{sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_again_after_an_answer_that_was_cut() {
    let (sidecar, mut upstream, mut client, mut server) = asking(INJECTING).await;
    for _ in 0..3 {
        server.write(format!("{STREAM_HEAD}{}{LAST_CHUNK}", chunk(LAST_EVENTS))).await;
        client.read_to(LAST_CHUNK).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.write(post(STREAM_REQUEST)).await;
        server.read_to(ASKING).await;
    }
    assert!(!upstream.has_more());
    drop((client, server));
    assert_eq!(sidecar.exchanges().await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_byte_at_a_time_a_token_waits_for_nothing() {
    let (sidecar, _upstream, mut client, mut server) = asking(INJECTING).await;
    server.write(STREAM_HEAD).await;
    client.read_head().await;
    let first = token("a");
    let mut come = String::new();
    for byte in first.as_bytes() {
        server.write(chunk(std::str::from_utf8(&[*byte]).unwrap())).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut buffer = [0; 1024];
        if let Ok(read) =
            tokio::time::timeout(Duration::ZERO, tokio::io::AsyncReadExt::read(&mut client.0, &mut buffer))
                .await
        {
            come.push_str(std::str::from_utf8(&buffer[..read.unwrap()]).unwrap());
        }
        let sent = dechunked(&come).len();
        let told = first.find("[{").unwrap() + 2;
        let so_far = come.is_empty() || sent >= told;
        assert!(so_far, "held until it cannot be the usage event any more, then not at all: {come:?}");
    }
    assert_eq!(dechunked(&come), first);
    for byte in LAST_EVENTS.as_bytes() {
        server.write(chunk(std::str::from_utf8(&[*byte]).unwrap())).await;
    }
    server.write(LAST_CHUNK).await;
    let rest = client.read_to(LAST_CHUNK).await;
    assert_eq!(dechunked(&rest), [FINISH, DONE].concat());
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["output_tokens"]), (&"completed".into(), &3.into()));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_does_as_it_likes_is_passed_on() {
    let in_the_last = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\n";
    let head = STREAM_HEAD.to_owned();
    let gzip = STREAM_HEAD.replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n");
    let json = STREAM_HEAD.replace("text/event-stream", "application/json");
    for (head, body, source) in [
        (&head, token("a") + FINISH + DONE, "estimated"), // the option is ignored
        (&head, token("a") + in_the_last + DONE, "reported"),
        (&gzip, "not really gzip".to_owned(), "missing"),
        (&json, r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}"#.to_owned(), "reported"),
    ] {
        let (sidecar, _upstream, mut client, mut server) = asking(INJECTING).await;
        server.write(format!("{head}{}{LAST_CHUNK}", chunk(&body))).await;
        client.read_head().await;
        assert_eq!(client.read_to(LAST_CHUNK).await, chunk(&body) + LAST_CHUNK, "{body}");
        let line = sidecar.exchange().await;
        assert_eq!(line["outcome"], "completed", "{body}");
        assert_eq!(line["output_source"].as_str().unwrap_or("missing"), source, "{body}");
        assert_eq!(line["bytes_out"], body.len());
        assert_eq!(counts(&sidecar), [1.0, 0.0, 0.0, 0.0]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_refuses_the_option_gets_the_request_as_it_was_and_is_not_asked_again() {
    for (status, headers) in
        [("400 Bad Request", ""), ("422 Unprocessable Entity", "Content-Encoding: identity\r\n")]
    {
        let (sidecar, mut upstream, mut client, mut server) = asking(INJECTING).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.write(answer(status, NO_SUCH_OPTION).replace("\r\n\r\n", &format!("\r\n{headers}\r\n"))).await;
        assert!(server.closes_within(Duration::from_millis(1)).await, "a server may close behind its error");
        let mut server = upstream.accept().await;
        assert!(server.read_to(STREAM_REQUEST).await.ends_with(post(STREAM_REQUEST).split_at(40).1));
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.write(format!("{STREAM_HEAD}{}{LAST_CHUNK}", chunk(&(token("a") + FINISH + DONE)))).await;
        assert!(client.read_head().await.starts_with("HTTP/1.1 200 "));
        assert_eq!(client.read_to(LAST_CHUNK).await, chunk(&(token("a") + FINISH + DONE)) + LAST_CHUNK);
        let line = sidecar.exchange().await;
        assert_eq!((&line["outcome"], &line["code"]), (&"completed".into(), &200.into()));
        assert_eq!((&line["ttft_seconds"], &line["bytes_in"]), (&0.15.into(), &STREAM_REQUEST.len().into()));
        assert_eq!(counts(&sidecar), [1.0, 0.0, 1.0, 0.0]);

        tokio::time::sleep(Duration::from_millis(100)).await;
        client.write(post(STREAM_REQUEST)).await;
        assert!(
            server.read_to(STREAM_REQUEST).await.ends_with(post(STREAM_REQUEST).split_at(40).1),
            "as the client wrote it"
        );
        server.write(answer("200 OK", "{}")).await;
        client.read_to("{}").await;
        // A reload forgets it, though nothing has changed.
        let routes = sidecar.proxy.routes.load_full();
        let config = Config::parse(INJECTING, &[]).unwrap();
        let again = routes.changed_to(config, &sidecar.proxy.vitals, sidecar.proxy.clock).unwrap();
        sidecar.proxy.routes.store(again.into());
        client.write(post(STREAM_REQUEST)).await;
        server.read_to(ASKING).await;
        assert!(!upstream.has_more());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_does_not_wait_for_the_end_of_the_request_loses_none_of_it() {
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let mut client = sidecar.connect();
    let body = format!(r#"{{"model":"m","stream":true,"x":"{}"}}"#, "x".repeat(1 << 20));
    let writing = {
        let request = post(&body);
        sidecar.beside(async move {
            client.write(request).await;
            client
        })
    };
    let mut first = upstream.accept().await;
    first.read_head().await;
    first.read_exactly(1000).await;
    first.write(answer("400 Bad Request", NO_SUCH_OPTION)).await;
    let mut second = upstream.accept().await;
    second.read_head().await;
    assert!(second.read_exactly(body.len()).await == body.as_bytes());
    second.write(answer("200 OK", "{}")).await;
    writing.await.unwrap().read_to("{}").await;
    let line = sidecar.exchange().await;
    assert_eq!((&line["code"], &line["bytes_in"]), (&200.into(), &body.len().into()));
    assert_eq!(counts(&sidecar), [1.0, 0.0, 1.0, 0.0]);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_something_else_passes_as_it_is() {
    let other = r#"{"error":{"message":"max_tokens is too large","type":"BadRequestError"}}"#;
    let long = format!("{{\"detail\":\"{}stream_options\"}}", "x".repeat(70_000));
    for (status, body) in [
        ("400 Bad Request", other),
        ("422 Unprocessable Entity", other),
        ("400 Bad Request", &long),
        ("401 No", NO_SUCH_OPTION),
        ("500 No", NO_SUCH_OPTION),
    ] {
        let (sidecar, mut upstream, mut client, mut server) = asking(INJECTING).await;
        server.write(answer(status, body)).await;
        let head = client.read_head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert_eq!(client.read_exactly(body.len()).await, body.as_bytes());
        let line = sidecar.exchange().await;
        assert_eq!((&line["bytes_out"], counts(&sidecar)), (&body.len().into(), [1.0, 0.0, 0.0, 0.0]));
        // It is asked on.
        client.write(post(STREAM_REQUEST)).await;
        server.read_to(ASKING).await;
        assert!(!upstream.has_more());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_repeats_what_it_was_sent_is_none_of_the_option() {
    let (sidecar, mut upstream, mut client, mut server) = asking(INJECTING).await;
    let echo = |body: &str| {
        answer(
            "422 Unprocessable Entity",
            &format!(r#"{{"detail":[{{"msg":"Field required","input":{body}}}]}}"#),
        )
    };
    server.write(echo(ASKING)).await;
    let mut server = upstream.accept().await;
    server.read_to(STREAM_REQUEST).await;
    server.write(echo(STREAM_REQUEST)).await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 422 "));
    let body = client.read_to("}]}").await;
    assert!(!body.contains("stream_options"), "nothing of the edit: {body}");
    assert_eq!(sidecar.exchange().await["outcome"], "upstream_refused");
    client.write(post(STREAM_REQUEST)).await;
    server.read_to(ASKING).await;
    assert_eq!(counts(&sidecar), [2.0, 0.0, 1.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_whose_body_does_not_come_is_passed_on_after_a_second() {
    let (sidecar, _upstream, mut client, mut server) = asking(INJECTING).await;
    server.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{\"err").await;
    let begun = tokio::time::Instant::now();
    assert!(client.read_head().await.starts_with("HTTP/1.1 400 "));
    client.read_to("{\"err").await;
    assert_eq!(begun.elapsed().as_secs(), 1);
    drop(server);
    assert_eq!(client.read_to_close().await, "");
    assert_eq!(sidecar.exchange().await["outcome"], "upstream_refused");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_edited_goes_as_it_came() {
    let long = format!(r#"{{"stream":true,"x":"{}"}}"#, "x".repeat(2 << 20));
    let plain = |body: &str| post(body);
    let with = |header: &str| post(STREAM_REQUEST).replace("Host: api", &format!("Host: api\r\n{header}"));
    let chunked = |body: &str, trailers: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n{trailers}\r\n",
            body.as_bytes()
                .chunks(50_000)
                .map(|piece| chunk(std::str::from_utf8(piece).unwrap()))
                .collect::<String>()
        )
    };
    for (request, too_large) in [
        (plain(r#"{"stream":false}"#), 0.0),
        (plain(ASKING), 0.0),
        (plain("no JSON"), 0.0),
        (plain(&long), 1.0),
        (chunked(&long, ""), 1.0),
        (chunked(STREAM_REQUEST, "X-Sum: 7\r\n").replace("Host: api", "Host: api\r\nTrailer: X-Sum"), 0.0),
        (with("Content-Encoding: gzip"), 0.0),
        (with("Content-Digest: sha-256=:x:"), 0.0),
        (with("Signature: a=:x:"), 0.0),
        (with("X-Amz-Content-Sha256: x"), 0.0),
        (with("Authorization: AWS4-HMAC-SHA256 Credential=x"), 0.0),
        (post(STREAM_REQUEST).replace("/v1/chat/completions", "/v1/messages"), 0.0),
    ] {
        let (sidecar, mut upstream) = Sidecar::start(INJECTING);
        let mut client = sidecar.connect();
        let body = request.split_once("\r\n\r\n").unwrap().1.to_owned();
        let length = if request.contains("Transfer-Encoding") { None } else { Some(body.len()) };
        let writing = sidecar.beside(async move {
            client.write(&request).await;
            client
        });
        let mut server = upstream.accept().await;
        server.read_head().await;
        match length {
            Some(length) => assert!(server.read_exactly(length).await == body.as_bytes()),
            None => {
                let got = server
                    .read_to(if body.contains("X-Sum") { "x-sum: 7\r\n\r\n" } else { "\r\n0\r\n\r\n" })
                    .await;
                assert!(
                    dechunked(got.trim_end_matches("x-sum: 7\r\n\r\n"))
                        == dechunked(body.trim_end_matches("X-Sum: 7\r\n\r\n"))
                );
            }
        }
        server.write(answer("200 OK", "{}")).await;
        writing.await.unwrap().read_to("{}").await;
        sidecar.exchange().await;
        assert_eq!(counts(&sidecar), [0.0, 0.0, 0.0, too_large]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_chunks_stays_in_chunks_and_one_that_waits_to_be_let_in_is() {
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let mut client = sidecar.connect();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write(head).await;
    assert_eq!(client.read_head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(!upstream.has_more(), "it is not asked for anything before the body is here");
    let body = r#"{"stream": true, "prompt": "hi"}"#;
    let (first, last) = body.split_at(10);
    client.write(chunk(first)).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.write(chunk(last) + LAST_CHUNK).await;
    let mut server = upstream.accept().await;
    let got = server.read_to(LAST_CHUNK).await;
    let (head, sent) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(
        dechunked(sent),
        r#"{"stream_options":{"include_usage":true},"stream": true, "prompt": "hi"}"#
    );
    server.write(answer("200 OK", "{}")).await;
    client.read_to("{}").await;
    let line = sidecar.exchange().await;
    assert_eq!((&line["bytes_in"], &line["dialect"]), (&body.len().into(), &"openai_completions".into()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_noticed_wherever_it_does() {
    // While it sends its request.
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST).split_at(150).0).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(client);
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], upstream.has_more()), (&"client_gone".into(), false));
    // Before the head; while a refusal is read; once it was sent again.
    for step in 0..3 {
        let (sidecar, mut upstream, client, mut server) = asking(INJECTING).await;
        if step == 1 {
            server.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{\"err").await;
        } else if step == 2 {
            server.write(answer("400 Bad Request", NO_SUCH_OPTION)).await;
            server = upstream.accept().await;
            server.read_to(STREAM_REQUEST).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(client);
        assert!(server.closes_within(Duration::from_millis(100)).await, "{step}");
        let line = sidecar.exchange().await;
        assert_eq!((&line["outcome"], line.get("code")), (&"client_gone".into(), None), "{step}");
    }
    // While a part of an event is held.
    let (sidecar, _upstream, mut client, mut server) = asking(INJECTING).await;
    server.write(STREAM_HEAD).await;
    server.write(chunk(&(token("a") + "data: {\"choices\":"))).await;
    client.read_to(&chunk(&token("a"))).await;
    drop(client);
    assert!(server.closes_within(Duration::from_millis(100)).await);
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["bytes_out"]), (&"client_gone".into(), &token("a").len().into()));
}

#[tokio::test(start_paused = true)]
async fn what_is_held_when_an_answer_breaks_off_goes_on_before_the_break() {
    let held = "data: {\"choices\":[],\"usage\":{}";
    for ends in ["closed", "drained", "timed_out"] {
        let (sidecar, _upstream, mut client, mut server) =
            asking(&INJECTING.replace("inject_usage", "idle_timeout: 2s, inject_usage")).await;
        server.write(STREAM_HEAD).await;
        server.write(chunk(&(token("a") + held))).await;
        client.read_to(&chunk(&token("a"))).await;
        let outcome = match ends {
            "closed" => {
                drop(server);
                "truncated"
            }
            "drained" => {
                sidecar.cut();
                "drained"
            }
            _ => "timed_out",
        };
        let rest = client.read_to_close().await;
        assert_eq!(rest, if ends == "drained" { String::new() } else { chunk(held) }, "{ends}");
        let line = sidecar.exchange().await;
        let out = token("a").len() + dechunked(&rest).len();
        assert_eq!((&line["outcome"], &line["bytes_out"]), (&outcome.into(), &out.into()), "{ends}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_upstream_owes_nothing_before_it_was_asked() {
    let config = INJECTING.replace("inject_usage", "first_byte_timeout: 2s, inject_usage");
    let (sidecar, mut upstream) = Sidecar::start(&config);
    let mut client = sidecar.connect();
    let request = post(STREAM_REQUEST);
    let (first, last) = request.split_at(request.len() - 5);
    client.write(first).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    client.write(last).await;
    let mut server = upstream.accept().await;
    server.read_to(ASKING).await;
    tokio::time::sleep(Duration::from_millis(1_900)).await;
    server.write(answer("400 Bad Request", NO_SUCH_OPTION)).await;
    let mut server = upstream.accept().await;
    server.read_to(STREAM_REQUEST).await;
    tokio::time::sleep(Duration::from_millis(1_900)).await;
    assert_eq!(sidecar.sample("streamgauge_requests_in_flight{upstream=\"default\"}"), Some(1.0));
    assert!(client.read_head().await.starts_with("HTTP/1.1 504 "));
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["duration_seconds"]), (&"timed_out".into(), &12.9.into()));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_not_there_is_told_as_ever() {
    let (sidecar, upstream) = Sidecar::start(INJECTING);
    drop(upstream);
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    let head = client.read_head().await;
    assert!(head.starts_with("HTTP/1.1 502 ") && head.contains("error=connection_refused"), "{head}");
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["model_requested"]), (&"upstream_failed".into(), &"m".into()));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_body_has_none() {
    for (length, want) in [("", ""), ("Content-Length: 0\r\n", "Content-Length: 0\r\n")] {
        let (sidecar, mut upstream) = Sidecar::start(INJECTING);
        let mut client = sidecar.connect();
        client.write(format!("POST /v1/completions HTTP/1.1\r\nHost: a\r\n{length}\r\n")).await;
        let mut server = upstream.accept().await;
        let head = server.read_head().await;
        assert_eq!(head, format!("POST /v1/completions HTTP/1.1\r\nHost: a\r\n{want}\r\n"));
        server.write(answer("200 OK", "{}")).await;
        client.read_to("{}").await;
        assert_eq!(sidecar.exchange().await["bytes_in"], 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_length_that_is_told_twice_is_right_once() {
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let mut client = sidecar.connect();
    let length = format!("Content-Length: {}", STREAM_REQUEST.len());
    client.write(post(STREAM_REQUEST).replace(&length, &format!("{length}\r\n{length}"))).await;
    let mut server = upstream.accept().await;
    let head = server.read_to(ASKING).await;
    assert_eq!(head.matches("Content-Length").count(), 1, "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", ASKING.len())), "{head}");
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_0_gets_its_answer_to_the_close() {
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST).replace("HTTP/1.1", "HTTP/1.0")).await;
    let mut server = upstream.accept().await;
    server.read_to(ASKING).await;
    let events = token("a") + LAST_EVENTS;
    server
        .write(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n{events}",
            events.len()
        ))
        .await;
    let got = client.read_to_close().await;
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_ascii_lowercase().contains("content-length"), "{head}");
    assert_eq!(body, events.replace(USAGE, ""));
    assert_eq!(sidecar.exchange().await["outcome"], "completed");
}

#[tokio::test(start_paused = true)]
async fn while_too_much_is_held_of_all_requests_one_more_goes_as_it_came() {
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let length = 2 << 20;
    let mut waiting = Vec::new();
    // So many fill it but for a few bytes; the last one has more than what is read of each in any case.
    for sends in [[length - 1; 32].as_slice(), &[20_000]].concat() {
        let mut client = sidecar.connect();
        client
            .write(format!("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"))
            .await;
        client.write(" ".repeat(sends)).await;
        waiting.push(client);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut server = upstream.accept().await;
    server.read_head().await;
    server.read_exactly(20_000).await;
    assert_eq!(counts(&sidecar), [0.0, 0.0, 0.0, 1.0]);
    assert!(!upstream.has_more(), "the others are still read");
    let mut short = sidecar.connect();
    short.write(post(STREAM_REQUEST)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(counts(&sidecar), [1.0, 0.0, 0.0, 1.0], "it is read in any case");
    upstream.accept().await.read_to(ASKING).await;
    drop(short);
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(waiting);
    assert!(server.closes_within(Duration::from_millis(100)).await);
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    upstream.accept().await.read_to(ASKING).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_given_back_with_every_answer() {
    let (sidecar, mut upstream) = Sidecar::start(INJECTING);
    let mut client = sidecar.connect();
    let filler = "x".repeat((2 << 20) - 100);
    let bodies =
        [format!(r#"{{"stream":true,"x":"{filler}"}}"#), format!(r#"{{"stream":false,"x":"{filler}"}}"#)];
    let mut server = None;
    for (n, body) in bodies.iter().cycle().take(80).enumerate() {
        let sending = client.write(post(body));
        let serving = async {
            if server.is_none() {
                server = Some(upstream.accept().await);
            }
            let server = server.as_mut().unwrap();
            server.read_head().await;
            let option = r#""stream_options":{"include_usage":true},"#;
            let length = body.len() + if n % 2 == 0 { option.len() } else { 0 };
            server.read_exactly(length).await;
            server.write(answer("200 OK", "{}")).await;
        };
        tokio::join!(sending, serving);
        client.read_to("{}").await;
    }
    assert_eq!(counts(&sidecar), [40.0, 0.0, 0.0, 0.0]);
}
