//! What nobody reports is counted, where there is a tokenizer for it.

use std::time::Duration;

use serde_json::Value;

use super::harness::{
    LAST_CHUNK, LAST_EVENTS, STREAM_HEAD, STREAM_REQUEST, Sidecar, Stream, asked, chunk, token,
};

const COUNTED: &str =
    "upstream: http://upstream:8000\nmodels: [{name: m, tokenizer: {encoding: cl100k_base}}]\n";

fn count(line: &Value, direction: &str) -> (Option<u64>, Option<String>) {
    let member = |name: &str| line.get(format!("{direction}_{name}")).cloned();
    (member("tokens").and_then(|n| n.as_u64()), member("source").and_then(|s| s.as_str().map(str::to_owned)))
}

#[tokio::test(start_paused = true)]
async fn of_a_client_that_leaves_what_was_delivered_is_counted_and_its_prompt() {
    let (sidecar, _upstream, mut client, mut server) = asked(COUNTED).await;
    server.write(STREAM_HEAD).await;
    for piece in ["Learning A", "I is f", "un!"] {
        server.write(chunk(&token(piece))).await;
        client.read_to(&chunk(&token(piece))).await;
    }
    drop(client);
    let line = sidecar.exchange().await;
    assert_eq!(line["outcome"], "client_gone");
    assert_eq!(count(&line, "output"), (Some(5), Some("tokenized".to_owned())));
    // "user" and "hi", three for the message, three for the answer's beginning.
    assert_eq!(count(&line, "input"), (Some(8), Some("tokenized".to_owned())));
    let sample = |direction| {
        let labels =
            format!("tenant=\"anonymous\",model=\"m\",direction=\"{direction}\",source=\"tokenized\"");
        sidecar.sample(&format!("streamgauge_unreported_tokens_total{{{labels}}}"))
    };
    assert_eq!((sample("output"), sample("input")), (Some(5.0), Some(8.0)));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_only_the_answer_names_is_counted_too() {
    let config = COUNTED.replace("name: m,", "match: served-m, name: counted,");
    let (sidecar, _upstream, mut client, mut server) = asked(&config).await;
    server.write(STREAM_HEAD).await;
    let served = token("Learning AI is fun!").replace("\"model\":\"m\"", "\"model\":\"served-m\"");
    server.write(chunk(&served)).await;
    client.read_to(&chunk(&served)).await;
    drop(client);
    let line = sidecar.exchange().await;
    assert_eq!(count(&line, "output"), (Some(5), Some("tokenized".to_owned())));
    // Its prompt was not kept: the name that was asked for has no tokenizer.
    assert_eq!(count(&line, "input"), (Some(1), Some("estimated".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn what_is_reported_is_not_counted_again() {
    let (sidecar, _upstream, mut client, mut server) = asked(COUNTED).await;
    server.write(STREAM_HEAD).await;
    server.write(chunk(&token("Learning AI is fun!"))).await;
    server.write(chunk(LAST_EVENTS)).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    let line = sidecar.exchange().await;
    assert_eq!(count(&line, "output"), (Some(3), Some("reported".to_owned())));
    assert_eq!(count(&line, "input"), (Some(5), Some("reported".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn without_a_tokenizer_four_bytes_are_a_token() {
    let (sidecar, _upstream, mut client, mut server) = asked("upstream: http://upstream:8000\n").await;
    server.write(STREAM_HEAD).await;
    server.write(chunk(&token("Learning AI is fun!\\n"))).await;
    client.read_to("fun!").await;
    drop(client);
    let line = sidecar.exchange().await;
    assert_eq!(count(&line, "output"), (Some(5), Some("estimated".to_owned())));
    assert_eq!(count(&line, "input"), (Some(1), Some("estimated".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn speed_is_over_the_tokens_after_those_of_the_first_event() {
    let (sidecar, _upstream, mut client, mut server) = asked(COUNTED).await;
    server.write(STREAM_HEAD).await;
    for (pause, piece) in [(0, "Learning AI"), (1_000, " is fun"), (1_000, "!")] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.write(chunk(&token(piece))).await;
        client.read_to(&chunk(&token(piece))).await;
    }
    server.write(chunk("data: [DONE]\n\n")).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    let line = sidecar.exchange().await;
    assert_eq!(count(&line, "output"), (Some(5), Some("tokenized".to_owned())));
    // Two of the five came first, three in the two seconds after them: 1.5 a second.
    let (name, labels) = ("streamgauge_output_tokens_per_second_sum", "model=\"m\",upstream=\"default\"");
    assert_eq!(sidecar.sample(&format!("{name}{{{labels}}}")), Some(1.5));
}

#[tokio::test(start_paused = true)]
async fn a_share_of_what_is_reported_is_counted_all_the_same_and_compared() {
    let config = format!("{COUNTED}metrics: {{token_audit: 1.0}}\n");
    let (sidecar, _upstream, mut client, mut server) = asked(&config).await;
    server.write(STREAM_HEAD).await;
    server.write(chunk(&token("Learning AI is fun!"))).await;
    server.write(chunk(LAST_EVENTS)).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    let ratio = |direction: &str| {
        let labels = format!("model=\"m\",direction=\"{direction}\"");
        sidecar.sample(&format!("streamgauge_token_audit_ratio_sum{{{labels}}}"))
    };
    sidecar.audited(1).await;
    // Three tokens and five were reported, five and eight are counted.
    assert_eq!((ratio("output"), ratio("input")), (Some(5.0 / 3.0), Some(8.0 / 5.0)));
    assert_eq!(count(&sidecar.exchange().await, "output"), (Some(3), Some("reported".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn the_first_event_of_a_stream_that_reports_is_counted_too() {
    let (sidecar, _upstream, mut client, mut server) = asked(COUNTED).await;
    server.write(STREAM_HEAD).await;
    for piece in ["Learning AI", " is fun!"] {
        server.write(chunk(&token(piece))).await;
        client.read_to(&chunk(&token(piece))).await;
        tokio::time::sleep(Duration::from_millis(1_000)).await;
    }
    server.write(chunk(LAST_EVENTS)).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    sidecar.exchange().await;
    let (name, labels) = ("streamgauge_output_tokens_per_second_sum", "model=\"m\",upstream=\"default\"");
    assert_eq!(sidecar.sample(&format!("{name}{{{labels}}}")), Some(1.0), "three reported, two came first");
}

#[tokio::test(start_paused = true)]
async fn the_first_event_is_counted_with_the_encoding_that_a_models_name_says() {
    let (sidecar, mut upstream) =
        Sidecar::start("upstream: http://upstream:8000\nmetrics: {token_audit: 0}\n");
    for n in 1..=2 {
        let request = STREAM_REQUEST.replace("\"m\"", "\"gpt-4o\"");
        let mut stream = Stream::of(&sidecar, &mut upstream, &request).await;
        for piece in ["Learning AI", " is fun!"] {
            stream.send(&token(piece).replace("\"m\"", "\"gpt-4o\"")).await;
            tokio::time::sleep(Duration::from_millis(1_000)).await;
        }
        stream.report(5, 5).await;
        stream.end().await;
        while sidecar.exchanges().await.len() < n {
            sidecar.recorded().await;
        }
        let sum = sidecar.value("output_tokens_per_second_sum", "model=\"gpt-4o\",upstream=\"default\"");
        assert_eq!(sum, 3.0 * n as f64, "five reported, two came first");
    }
}

#[tokio::test(start_paused = true)]
async fn the_share_that_is_counted_for_comparison_is_of_exchanges_that_can_be() {
    let config = format!("{COUNTED}metrics: {{token_audit: 0.5}}\n");
    let (sidecar, mut upstream) = Sidecar::start(&config);
    for _ in 0..4 {
        let mut stream = Stream::begin(&sidecar, &mut upstream).await;
        stream.words(3, Duration::ZERO).await;
        stream.report(8, 3).await;
        stream.end().await;
        // Between any two of them something that cannot be.
        drop(Stream::begin(&sidecar, &mut upstream).await);
    }
    sidecar.audited(2).await;
    assert_eq!(sidecar.value("token_audit_ratio_count", "model=\"m\",direction=\"output\""), 2.0);
}
