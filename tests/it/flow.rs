//! Tokens are counted while they flow, and exactly once it is known how many there were.

use std::time::Duration;

use super::harness::{STREAM_HEAD, STREAM_REQUEST, Sidecar, Stream, Upstream, post};

const CONFIG: &str = "upstream: http://upstream:8000\nmodels: [{name: m}]\n";
const MINUTE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Two streams from which is learned what a token is worth; then time goes on to the next whole minute.
async fn teach(sidecar: &Sidecar, upstream: &mut Upstream) {
    for _ in 0..2 {
        let mut stream = Stream::begin(sidecar, upstream).await;
        stream.words(100, Duration::ZERO).await;
        stream.report(1, 100).await;
        stream.end().await;
    }
    sidecar.exchanges().await;
    let now = sidecar.proxy.clock.now().since(Default::default());
    tokio::time::sleep(MINUTE.saturating_sub(now)).await;
}

fn by_model(sidecar: &Sidecar, name: &str) -> f64 {
    sidecar.value(name, "tenant=\"anonymous\",model=\"m\"")
}

fn counter(sidecar: &Sidecar, name: &str) -> f64 {
    sidecar.value(name, "tenant=\"anonymous\",model=\"m\",upstream=\"default\"")
}

fn output(sidecar: &Sidecar) -> f64 {
    counter(sidecar, "output_tokens_total")
}

fn input(sidecar: &Sidecar) -> f64 {
    counter(sidecar, "input_tokens_total")
}

fn unsettled(sidecar: &Sidecar, direction: &str, state: &str) -> f64 {
    sidecar.value("unsettled_tokens", &format!("direction=\"{direction}\",state=\"{state}\""))
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_five_minutes_has_its_tokens_in_each_of_them() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    teach(&sidecar, &mut upstream).await;
    let (closed, told) = (by_model(&sidecar, "tokens_per_minute_count"), output(&sidecar));
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    for minute in 1..=5 {
        stream.words(1199, Duration::from_millis(50)).await;
        let tpm = by_model(&sidecar, "tokens_last_minute");
        assert!((1_150.0..=1_200.0).contains(&tpm), "{tpm} in minute {minute}");
        tokio::time::sleep(Duration::from_millis(if minute < 5 { 50 } else { 45 })).await;
    }
    stream.report(1, 5 * 1199).await;
    stream.end().await;
    sidecar.exchanges().await;
    let tpm = by_model(&sidecar, "tokens_last_minute");
    assert!((1_199.0..=1_260.0).contains(&tpm), "{tpm} after the end");
    tokio::time::sleep(MINUTE).await;
    assert_eq!(output(&sidecar) - told, 5.0 * 1199.0);
    let rest = ["live", "owed"].map(|state| unsettled(&sidecar, "output", state));
    assert_eq!(rest, [0.0, 0.0]);
    assert_eq!(by_model(&sidecar, "tokens_per_minute_count") - closed, 5.0);
    let below = |bound| {
        let labels = format!("tenant=\"anonymous\",model=\"m\",le=\"{bound}\"");
        sidecar.value("tokens_per_minute_bucket", &labels)
    };
    assert_eq!(below("2000") - below("1000"), 5.0, "each had about 1,200");
    assert_eq!(by_model(&sidecar, "tokens_last_minute"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn within_two_seconds_nine_tenths_are_counted_and_never_too_many() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    teach(&sidecar, &mut upstream).await;
    let told = output(&sidecar);
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    let mut before = 0;
    for _ in 0..10 {
        stream.words(200, PAUSE).await;
        let counted = output(&sidecar) - told;
        let flowed = f64::from(before + 200);
        assert!(counted <= flowed, "{counted} of {flowed}");
        assert!(counted >= 0.9 * f64::from(before), "{counted}, two seconds after {before}");
        before += 200;
    }
    assert!(unsettled(&sidecar, "output", "live") > 1_500.0);
    drop(stream);
    sidecar.exchanges().await;
    let counted = output(&sidecar) - told;
    assert!((1_990.0..=2_010.0).contains(&counted), "{counted}: estimated, for nobody reported");
    assert_eq!(unsettled(&sidecar, "output", "live"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_was_counted_too_much_is_owed_and_taken_from_the_next() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    teach(&sidecar, &mut upstream).await;
    let told = output(&sidecar);
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    stream.words(1_000, PAUSE).await;
    let counted = output(&sidecar) - told;
    assert!(counted > 850.0, "{counted}");
    stream.report(1, 500).await;
    stream.end().await;
    sidecar.exchanges().await;
    assert_eq!(output(&sidecar) - told, counted, "no counter falls");
    assert_eq!(unsettled(&sidecar, "output", "owed"), counted - 500.0);
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    stream.words(600, Duration::ZERO).await;
    stream.report(1, 600).await;
    stream.end().await;
    sidecar.exchanges().await;
    assert_eq!(output(&sidecar) - told, 1_100.0);
    assert_eq!(unsettled(&sidecar, "output", "owed"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_reported_all_along_is_what_is_counted() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    for n in 1..=200_u64 {
        tokio::time::sleep(PAUSE).await;
        // Long words, each a token, as vLLM's continuous usage tells.
        let delta = "{\"index\":0,\"delta\":{\"content\":\" responsibilities\"}}";
        let usage = format!("{{\"prompt_tokens\":5,\"completion_tokens\":{n}}}");
        stream.send(&format!("data: {{\"model\":\"m\",\"choices\":[{delta}],\"usage\":{usage}}}\n\n")).await;
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!((input(&sidecar), output(&sidecar)), (5.0, 200.0));
}

#[tokio::test(start_paused = true)]
async fn what_was_delivered_before_an_event_that_is_too_long_is_not_taken_back() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    stream.words(400, PAUSE).await;
    let counted = output(&sidecar);
    assert!(counted > 200.0, "{counted}");
    let long = super::harness::chunk(&super::harness::token(&"x".repeat((1 << 20) + 100)));
    let end = long.get(long.len() - 20..).unwrap();
    tokio::join!(stream.server.write(&long), stream.client.read_to(end));
    stream.end().await;
    let line = sidecar.exchange().await;
    assert_eq!(line.get("output_tokens"), None, "nobody knows how many there were");
    assert_eq!((unsettled(&sidecar, "output", "owed"), output(&sidecar)), (0.0, counted));
}

#[tokio::test(start_paused = true)]
async fn input_is_counted_from_the_head_on_in_the_second_in_which_it_was_sent() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    teach(&sidecar, &mut upstream).await;
    let prompt = "x".repeat(8_000);
    let request = STREAM_REQUEST.replace("\"hi\"", &format!("\"{prompt}\""));
    let request = request.replacen("\"stream\"", "\"max_tokens\":700,\"stream\"", 1);
    let (told, reserved) = (input(&sidecar), by_model(&sidecar, "reserved_tokens_total"));
    let mut client = sidecar.connect();
    client.write(post(&request)).await;
    let mut server = upstream.accept().await;
    server.read_to(&request).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(input(&sidecar), told, "nobody has accepted it yet");
    server.write(STREAM_HEAD).await;
    client.read_head().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let counted = input(&sidecar) - told;
    assert!((1_400.0..=1_600.0).contains(&counted), "{counted}: three quarters of 8,000 bytes / 4");
    assert_eq!(by_model(&sidecar, "tokens_last_minute"), counted);
    // Of "hi", the last two times, one token was not its text's but the format's: half of one, as 2 bytes are taken.
    assert_eq!(by_model(&sidecar, "reserved_tokens_total") - reserved, 2_001.0 + 700.0);
    tokio::time::sleep(Duration::from_secs(39)).await;
    assert_eq!(by_model(&sidecar, "tokens_last_minute"), 0.0, "61 s after it was sent");
    let mut stream = Stream { client, server };
    stream.report(1, 3).await;
    stream.end().await;
    sidecar.exchanges().await;
    assert_eq!(input(&sidecar), told + counted, "1 was reported");
    assert_eq!(by_model(&sidecar, "reserved_tokens_total") - reserved, 2_001.0 + 700.0, "once");
}

#[tokio::test(start_paused = true)]
async fn what_a_request_reserves_is_counted_where_the_answer_begins_before_its_end() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let request = STREAM_REQUEST.replacen("\"stream\"", "\"max_tokens\":700,\"stream\"", 1);
    let bytes = post(&request);
    let (first, last) = bytes.split_at(bytes.len() - 1);
    let mut client = sidecar.connect();
    client.write(first).await;
    let mut server = upstream.accept().await;
    server.read_to(request.trim_end_matches('}')).await;
    server.write(STREAM_HEAD).await;
    client.read_head().await;
    let mut stream = Stream { client, server };
    stream.words(200, PAUSE).await;
    stream.client.write(last).await;
    stream.server.read_to("}").await;
    stream.words(200, PAUSE).await;
    stream.end().await;
    sidecar.exchanges().await;
    assert_eq!(by_model(&sidecar, "reserved_tokens_total"), 701.0);
}
