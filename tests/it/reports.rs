//! Reports and requests that no text can be, or that tell of other text: they spoil no counter and no estimate.

use std::time::Duration;

use super::harness::{STREAM_REQUEST, Sidecar, Stream, Upstream, post, token};

const CONFIG: &str = "upstream: http://upstream:8000\nmodels: [{name: m}]\n";

/// Streams of so many words, each of which reports this.
async fn reported(sidecar: &Sidecar, upstream: &mut Upstream, streams: u32, words: u32, report: (u64, u64)) {
    for _ in 0..streams {
        let mut stream = Stream::begin(sidecar, upstream).await;
        stream.words(words, Duration::ZERO).await;
        stream.report(report.0, report.1).await;
        stream.end().await;
    }
    sidecar.exchanges().await;
}

/// What is settled of a stream whose client leaves after so many words: input and output.
async fn left(sidecar: &Sidecar, upstream: &mut Upstream, request: &str, words: u32) -> (u64, u64) {
    let mut stream = Stream::of(sidecar, upstream, request).await;
    stream.words(words, Duration::ZERO).await;
    drop(stream);
    let line = sidecar.exchanges().await.pop().unwrap();
    (line["input_tokens"].as_u64().unwrap(), line["output_tokens"].as_u64().unwrap())
}

fn request_of(words: usize) -> String {
    STREAM_REQUEST.replace("\"hi\"", &format!("\"{}\"", "word ".repeat(words)))
}

#[tokio::test(start_paused = true)]
async fn no_counter_falls_whatever_is_reported_or_asked_for() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let mut before = [0.0; 2];
    for most in ["1000", "18446744073709550000", "4294967296", "18446744073709550000"] {
        let request = STREAM_REQUEST.replacen("\"stream\"", &format!("\"max_tokens\":{most},\"stream\""), 1);
        let mut stream = Stream::of(&sidecar, &mut upstream, &request).await;
        stream.words(100, Duration::ZERO).await;
        stream.report(1, most.parse().unwrap()).await;
        stream.end().await;
        sidecar.exchanges().await;
        let labels = "tenant=\"anonymous\",model=\"m\"";
        let after = [
            sidecar.value("output_tokens_total", &format!("{labels},upstream=\"default\"")),
            sidecar.value("reserved_tokens_total", labels),
        ];
        assert!(after[0] > before[0] && after[1] > before[1], "{after:?} after {before:?}");
        assert!(after.iter().all(|value| *value < 1e11), "{after:?}");
        before = after;
    }
}

#[tokio::test(start_paused = true)]
async fn reports_that_no_text_can_be_teach_nothing() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    reported(&sidecar, &mut upstream, 3, 8, (1_000, 30_000)).await; // of "hi" and of forty bytes
    assert_eq!(left(&sidecar, &mut upstream, STREAM_REQUEST, 8).await, (1, 10));
}

#[tokio::test(start_paused = true)]
async fn thoughts_that_are_billed_and_told_nowhere_spoil_no_bill_of_a_client_that_leaves() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    reported(&sidecar, &mut upstream, 50, 100, (1, 100)).await;
    reported(&sidecar, &mut upstream, 1, 20, (1, 30_000)).await;
    assert_eq!(left(&sidecar, &mut upstream, STREAM_REQUEST, 400).await.1, 400);
}

#[tokio::test(start_paused = true)]
async fn short_prompts_teach_nothing_of_long_ones() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    // Llama 3.1's template makes 36 tokens of "hi".
    reported(&sidecar, &mut upstream, 20, 10, (36, 10)).await;
    assert_eq!(left(&sidecar, &mut upstream, STREAM_REQUEST, 10).await.0, 36);
    let mut stream = Stream::of(&sidecar, &mut upstream, &request_of(8_000)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let counted = sidecar.value("unsettled_tokens", "direction=\"input\",state=\"live\"");
    assert!((7_000.0..8_035.0).contains(&counted), "{counted}");
    stream.report(8_035, 10).await;
    stream.end().await;
    let (input, _) = left(&sidecar, &mut upstream, &request_of(8_000), 1).await;
    assert!((8_000..=8_040).contains(&input), "{input}");
}

#[tokio::test(start_paused = true)]
async fn a_report_of_one_of_several_choices_teaches_nothing() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let request = STREAM_REQUEST.replacen("\"stream\"", "\"n\":4,\"stream\"", 1);
    for _ in 0..5 {
        let mut stream = Stream::of(&sidecar, &mut upstream, &request).await;
        for n in 0..400 {
            stream.send(&token("word").replace("\"index\":0", &format!("\"index\":{}", n % 4))).await;
        }
        stream.report(1, 100).await; // llama.cpp tells of the last one
        stream.end().await;
    }
    assert_eq!(left(&sidecar, &mut upstream, STREAM_REQUEST, 100).await.1, 125, "a token for four bytes");
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_reserves_what_it_asked_for_once() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let request = STREAM_REQUEST.replacen("\"stream\"", "\"max_tokens\":700,\"n\":2,\"stream\"", 1);
    let mut client = sidecar.connect();
    client.write(post(&request)).await;
    let mut server = upstream.accept().await;
    server.read_to(&request).await;
    server.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    client.read_head().await;
    sidecar.exchange().await;
    assert_eq!(sidecar.value("reserved_tokens_total", "tenant=\"anonymous\",model=\"m\""), 1.0 + 1_400.0);
}
