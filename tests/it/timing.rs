//! When what is measured, to the millisecond of paused time.

use std::time::Duration;

use serde_json::Value;

use super::harness::{
    LAST_CHUNK, LAST_EVENTS, ONE_UPSTREAM, STREAM_HEAD, STREAM_REQUEST, Sidecar, Stream, asked, chunk, post,
    token,
};

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

const ROLE: &str = "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";

#[tokio::test(start_paused = true)]
async fn each_clock_stops_at_its_own_event() {
    let (sidecar, _upstream, mut client, mut server) = asked(ONE_UPSTREAM).await;
    pause(100).await;
    server.write(STREAM_HEAD).await;
    pause(50).await;
    server.write(chunk(ROLE)).await;
    pause(300).await;
    server.write(chunk(&token("a"))).await;
    pause(40).await;
    server.write(chunk(&token("b"))).await;
    pause(60).await;
    server.write(chunk(&token("c"))).await;
    pause(500).await;
    server.write(chunk(LAST_EVENTS)).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    let line = sidecar.exchange().await;
    assert_eq!(line["ttfb_seconds"], 0.15);
    assert_eq!(line["ttft_seconds"], 0.45);
    assert_eq!(line["first_answer_seconds"], 0.45);
    assert_eq!(line["last_token_seconds"], 0.55);
    assert_eq!(line["longest_gap_seconds"], 0.06);
    assert_eq!(line["tpot_seconds"], 0.05);
    assert_eq!(line["duration_seconds"], 1.05);
    assert_eq!(line["outcome"], "completed");
    assert_eq!(
        (&line["input_tokens"], &line["output_tokens"], &line["chunks"]),
        (&5.into(), &3.into(), &3.into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_chunk_passes_at_the_moment_it_came() {
    let (sidecar, _upstream, mut client, mut server) = asked(ONE_UPSTREAM).await;
    let start = tokio::time::Instant::now();
    let writing = sidecar.beside(async move {
        pause(100).await;
        server.write(STREAM_HEAD).await;
        for n in 0..5 {
            pause(100).await;
            server.write(chunk(&token(&n.to_string()))).await;
        }
        server
    });
    client.read_head().await;
    assert_eq!(start.elapsed().as_millis(), 100, "the head is not held back for the first chunk");
    for n in 0..5 {
        client.read_to(&chunk(&token(&n.to_string()))).await;
        assert_eq!(start.elapsed().as_millis(), 200 + 100 * n);
    }
    drop(writing.await);
}

#[tokio::test(start_paused = true)]
async fn a_first_token_is_in_its_histogram_while_the_stream_runs() {
    let (sidecar, _upstream, mut client, mut server) = asked(ONE_UPSTREAM).await;
    pause(9_400).await;
    assert_eq!(sidecar.sample("streamgauge_requests_awaiting_first_token{upstream=\"default\"}"), Some(1.0));
    assert_eq!(
        sidecar.sample("streamgauge_oldest_awaiting_first_token_seconds{upstream=\"default\"}"),
        Some(9.4)
    );
    server.write(STREAM_HEAD).await;
    server.write(chunk(&token("a"))).await;
    pause(300).await;
    let ttft = "{model=\"m\",upstream=\"default\",dialect=\"openai_chat\",input_band=\"le_1k\"}";
    assert_eq!(sidecar.sample(&format!("streamgauge_time_to_first_token_seconds_sum{ttft}")), Some(9.4));
    assert_eq!(sidecar.sample("streamgauge_requests_awaiting_first_token{upstream=\"default\"}"), Some(0.0));
    assert_eq!(sidecar.sample("streamgauge_requests_in_flight{upstream=\"default\"}"), Some(1.0));
    assert_eq!(sidecar.sample("streamgauge_output_chunks_total{upstream=\"default\"}"), Some(1.0));
    client.read_to(&chunk(&token("a"))).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_makes_no_gap_of_the_upstreams() {
    let (sidecar, _upstream, mut client, mut server) = asked(ONE_UPSTREAM).await;
    server.write(STREAM_HEAD).await;
    // More than all buffers on the way hold, at once; the client reads a minute later.
    let filler = token(&"x".repeat(200_000));
    let writing = sidecar.beside(async move {
        for _ in 0..10 {
            server.write(chunk(&filler)).await;
        }
        server.write(chunk(LAST_EVENTS)).await;
        server.write(LAST_CHUNK).await;
        server
    });
    pause(60_000).await;
    client.read_to(LAST_CHUNK).await;
    drop(writing.await);
    let line = sidecar.exchange().await;
    // What the sidecar had already read waited for the client, not for the upstream: its time is the read's.
    assert_eq!(line["ttft_seconds"], 0.0);
    assert_eq!(line["chunks"], 10);
}

#[tokio::test(start_paused = true)]
async fn an_unset_timeout_is_none_and_a_set_one_cuts_with_its_own_outcome() {
    let config = "upstreams: [{name: v, url: 'http://v:1', first_byte_timeout: 2s, idle_timeout: 1s}]";
    // Before the head: 504.
    let (sidecar, mut upstream) = Sidecar::start(config);
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    let _server = upstream.accept().await;
    let head = client.read_head().await;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    assert!(head.contains("proxy-status: streamgauge; error=http_response_timeout\r\n"), "{head}");
    let line = sidecar.exchange().await;
    assert_eq!(
        (&line["outcome"], &line["code"], &line["duration_seconds"]),
        (&"timed_out".into(), &504.into(), &2.0.into())
    );
    // After it: the answer is cut and its code stays.
    let (sidecar, _upstream, mut client, mut server) = asked(config).await;
    server.write(STREAM_HEAD).await;
    pause(1_500).await;
    server.write(chunk(&token("a"))).await;
    pause(900).await;
    server.write(chunk(&token("b"))).await;
    let rest = client.read_to_close().await;
    assert!(rest.ends_with(&chunk(&token("b"))), "no last chunk, so that the client knows: {rest}");
    let line = sidecar.exchange().await;
    assert_eq!(
        (&line["outcome"], &line["code"], &line["duration_seconds"]),
        (&"timed_out".into(), &200.into(), &3.4.into())
    );
    assert!(server.closes_within(Duration::from_millis(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_pauses_is_none_of_the_first_byte() {
    let (sidecar, _upstream, mut client, mut server) =
        asked("upstreams: [{name: v, url: 'http://v:1', idle_timeout: 1s}]").await;
    pause(60_000).await;
    server.write(STREAM_HEAD).await;
    pause(60_000).await;
    server.write(chunk(&token("a"))).await;
    client.read_to(&chunk(&token("a"))).await;
    client.read_to_close().await;
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["duration_seconds"]), (&"timed_out".into(), &121.0.into()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_is_not_waited_for() {
    // An encoding that nobody knows, and one that the answer is not in.
    for encoding in ["exi", "gzip"] {
        let (sidecar, _upstream, mut client, mut server) = asked(ONE_UPSTREAM).await;
        let awaiting = "streamgauge_requests_awaiting_first_token{upstream=\"default\"}";
        pause(10).await;
        assert_eq!(sidecar.sample(awaiting), Some(1.0));
        let head = format!("\r\nContent-Encoding: {encoding}\r\n\r\n");
        server.write(STREAM_HEAD.replace("\r\n\r\n", &head)).await;
        server.write(chunk("not really gzip")).await;
        pause(10).await;
        assert_eq!(sidecar.sample(awaiting), Some(0.0), "{encoding}");
        assert_eq!(sidecar.sample("streamgauge_requests_in_flight{upstream=\"default\"}"), Some(1.0));
        server.write(LAST_CHUNK).await;
        client.read_to(LAST_CHUNK).await;
        let line = sidecar.exchange().await;
        assert_eq!(line["outcome"], "completed", "{encoding}: it is judged by the transport");
        let undecoded = sidecar.sample("streamgauge_observation_failures_total{reason=\"decompression\"}");
        assert_eq!(undecoded, Some(f64::from(u8::from(encoding == "gzip"))));
        assert_eq!(line["unobserved"], if encoding == "gzip" { Value::Null } else { "encoding".into() });
    }
}

#[tokio::test(start_paused = true)]
async fn the_clients_own_slowness_is_not_the_upstreams() {
    let (sidecar, mut upstream) =
        Sidecar::start("upstreams: [{name: v, url: 'http://v:1', first_byte_timeout: 2s}]");
    let mut client = sidecar.connect();
    client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n").await;
    let mut server = upstream.accept().await;
    server.read_head().await;
    for _ in 0..4 {
        pause(5_000).await;
        client.write("x").await;
    }
    server.read_to("xxxx").await;
    pause(1_900).await;
    assert_eq!(sidecar.sample("streamgauge_requests_in_flight{upstream=\"v\"}"), Some(1.0));
    assert!(client.read_head().await.starts_with("HTTP/1.1 504 "));
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["duration_seconds"]), (&"timed_out".into(), &22.0.into()));
    assert_eq!(line["error_class"], "http_response_timeout");
}

#[tokio::test(start_paused = true)]
async fn a_token_in_an_event_that_only_the_end_completes_is_in_every_metric() {
    let (sidecar, _upstream, mut client, mut server) = asked(ONE_UPSTREAM).await;
    server.write(STREAM_HEAD).await;
    pause(100).await;
    server.write(chunk(token("a").trim_end())).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    assert_eq!(sidecar.exchange().await["ttft_seconds"], 0.1);
    let ttft = "{model=\"m\",upstream=\"default\",dialect=\"openai_chat\",input_band=\"le_1k\"}";
    assert_eq!(sidecar.sample(&format!("streamgauge_time_to_first_token_seconds_count{ttft}")), Some(1.0));
    assert_eq!(sidecar.sample("streamgauge_output_chunks_total{upstream=\"default\"}"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn the_upstreams_limits_are_told_as_they_stood_at_its_head() {
    let (sidecar, _upstream, mut client, mut server) = asked(ONE_UPSTREAM).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let head = STREAM_HEAD.replacen(
        "\r\n",
        "\r\nanthropic-ratelimit-tokens-limit: 40000\r\nanthropic-ratelimit-tokens-reset: 2027-01-15T08:01:00Z\r\n\
         x-ratelimit-remaining-requests: 7\r\n",
        1,
    );
    server.write(&head).await;
    client.read_head().await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut stream = Stream { client, server };
    stream.send(&token("word")).await;
    stream.end().await;
    let line = sidecar.exchange().await;
    let tokens = serde_json::json!({"limit": 40000, "reset_seconds": 40.0});
    assert_eq!(line["ratelimit"], serde_json::json!({"requests": {"remaining": 7}, "tokens": tokens}));
    let labels = "upstream=\"default\",model=\"m\",kind=\"tokens\"";
    let left = sidecar.value("upstream_ratelimit_reset_seconds", labels);
    assert!((24.9..=25.0).contains(&left), "{left} s, 15 s later");
}
