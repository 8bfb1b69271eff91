//! Tokens are counted while they flow, and exactly once it is known how many there were.

use std::time::Duration;

use super::harness::{LAST_CHUNK, STREAM_HEAD, STREAM_REQUEST, Sidecar, Upstream, Wire, chunk, post, token};

const CONFIG: &str = "upstream: http://upstream:8000\nmodels: [{name: m}]\n";
const MINUTE: Duration = Duration::from_secs(60);

/// A stream has begun.
async fn begin(sidecar: &Sidecar, upstream: &mut Upstream) -> (Wire, Wire) {
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    let mut server = upstream.accept().await;
    server.read_to(STREAM_REQUEST).await;
    server.write(STREAM_HEAD).await;
    client.read_head().await;
    (client, server)
}

/// So many tokens, an event each.
async fn write(client: &mut Wire, server: &mut Wire, tokens: u32, pause: Duration) {
    let event = chunk(&token("word "));
    for _ in 0..tokens {
        tokio::time::sleep(pause).await;
        server.write(&event).await;
        client.read_to(&event).await;
    }
}

/// The end, with a report of so many output tokens where one is given.
async fn end(client: &mut Wire, server: &mut Wire, reported: Option<u64>) {
    if let Some(tokens) = reported {
        report(server, 1, tokens).await;
    }
    server.write(chunk("data: [DONE]\n\n")).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
}

async fn report(server: &mut Wire, input: u64, output: u64) {
    let usage = format!(
        "data: {{\"model\":\"m\",\"choices\":[],\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output}}}}}\n\n"
    );
    server.write(chunk(&usage)).await;
}

/// Two streams from which is learned what a token is worth; then time goes on to the next whole minute.
async fn teach(sidecar: &Sidecar, upstream: &mut Upstream) {
    for _ in 0..2 {
        let (mut client, mut server) = begin(sidecar, upstream).await;
        write(&mut client, &mut server, 100, Duration::ZERO).await;
        end(&mut client, &mut server, Some(100)).await;
    }
    sidecar.exchanges().await;
    let now = sidecar.proxy.clock.now().since(Default::default());
    tokio::time::sleep(MINUTE.saturating_sub(now)).await;
}

fn labelled(sidecar: &Sidecar, name: &str, labels: &str) -> f64 {
    sidecar.sample(&format!("streamgauge_{name}{{{labels}}}")).unwrap_or(0.0)
}

fn by_model(sidecar: &Sidecar, name: &str) -> f64 {
    labelled(sidecar, name, "tenant=\"anonymous\",model=\"m\"")
}

fn output(sidecar: &Sidecar) -> f64 {
    labelled(sidecar, "output_tokens_total", "tenant=\"anonymous\",model=\"m\",upstream=\"default\"")
}

fn unsettled(sidecar: &Sidecar, state: &str) -> f64 {
    labelled(sidecar, "unsettled_tokens", &format!("direction=\"output\",state=\"{state}\""))
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_five_minutes_has_its_tokens_in_each_of_them() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    teach(&sidecar, &mut upstream).await;
    let (closed, told) = (by_model(&sidecar, "tokens_per_minute_count"), output(&sidecar));
    let (mut client, mut server) = begin(&sidecar, &mut upstream).await;
    for minute in 1..=5 {
        write(&mut client, &mut server, 1199, Duration::from_millis(50)).await;
        let tpm = by_model(&sidecar, "tokens_last_minute");
        assert!((1_150.0..=1_200.0).contains(&tpm), "{tpm} in minute {minute}");
        tokio::time::sleep(Duration::from_millis(45)).await;
        if minute == 5 {
            end(&mut client, &mut server, Some(5 * 1199)).await;
            sidecar.exchanges().await;
            let tpm = by_model(&sidecar, "tokens_last_minute");
            assert!((1_199.0..=1_260.0).contains(&tpm), "{tpm} after the end");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(MINUTE).await;
    assert_eq!(output(&sidecar) - told, 5.0 * 1199.0);
    assert_eq!((unsettled(&sidecar, "live"), unsettled(&sidecar, "owed")), (0.0, 0.0));
    assert_eq!(by_model(&sidecar, "tokens_per_minute_count") - closed, 5.0);
    let labels = |bound: &str| format!("tenant=\"anonymous\",model=\"m\",le=\"{bound}\"");
    let in_bucket = |bound| labelled(&sidecar, "tokens_per_minute_bucket", &labels(bound));
    assert_eq!(in_bucket("2000") - in_bucket("1000"), 5.0, "each had about 1,200");
    assert_eq!(by_model(&sidecar, "tokens_last_minute"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn within_two_seconds_nine_tenths_are_counted_and_never_too_many() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    teach(&sidecar, &mut upstream).await;
    let told = output(&sidecar);
    let (mut client, mut server) = begin(&sidecar, &mut upstream).await;
    let mut before = 0;
    for _ in 0..10 {
        write(&mut client, &mut server, 200, Duration::from_millis(10)).await;
        let counted = output(&sidecar) - told;
        let flowed = f64::from(before + 200);
        assert!(counted <= flowed, "{counted} of {flowed}");
        assert!(counted >= 0.9 * f64::from(before), "{counted}, two seconds after {before}");
        before += 200;
    }
    assert!(unsettled(&sidecar, "live") > 1_500.0);
    drop(client);
    sidecar.exchanges().await;
    let counted = output(&sidecar) - told;
    assert!((1_990.0..=2_010.0).contains(&counted), "{counted}: estimated, for nobody reported");
    assert_eq!(unsettled(&sidecar, "live"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_was_counted_too_much_is_owed_and_taken_from_the_next() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    teach(&sidecar, &mut upstream).await;
    let told = output(&sidecar);
    let (mut client, mut server) = begin(&sidecar, &mut upstream).await;
    write(&mut client, &mut server, 1_000, Duration::from_millis(10)).await;
    let counted = output(&sidecar) - told;
    assert!(counted > 850.0, "{counted}");
    end(&mut client, &mut server, Some(500)).await;
    sidecar.exchanges().await;
    assert_eq!(output(&sidecar) - told, counted, "no counter falls");
    assert_eq!(unsettled(&sidecar, "owed"), counted - 500.0);
    let (mut client, mut server) = begin(&sidecar, &mut upstream).await;
    write(&mut client, &mut server, 600, Duration::ZERO).await;
    end(&mut client, &mut server, Some(600)).await;
    sidecar.exchanges().await;
    assert_eq!(output(&sidecar) - told, 1_100.0);
    assert_eq!(unsettled(&sidecar, "owed"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn input_is_counted_from_the_head_on_in_the_second_in_which_it_was_sent() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    teach(&sidecar, &mut upstream).await;
    let prompt = "x".repeat(8_000);
    let request = STREAM_REQUEST.replace("\"hi\"", &format!("\"{prompt}\""));
    let request = request.replacen("\"stream\"", "\"max_tokens\":700,\"stream\"", 1);
    let input = |sidecar: &Sidecar| {
        labelled(sidecar, "input_tokens_total", "tenant=\"anonymous\",model=\"m\",upstream=\"default\"")
    };
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
    assert_eq!(by_model(&sidecar, "reserved_tokens_total") - reserved, 2_000.0 + 700.0);
    tokio::time::sleep(Duration::from_secs(39)).await;
    assert_eq!(by_model(&sidecar, "tokens_last_minute"), 0.0, "61 s after it was sent");
    end(&mut client, &mut server, Some(3)).await;
    sidecar.exchanges().await;
    assert_eq!(input(&sidecar), told + counted, "1 was reported");
    assert_eq!(by_model(&sidecar, "reserved_tokens_total") - reserved, 2_000.0 + 700.0, "once");
}

#[tokio::test(start_paused = true)]
async fn reports_that_no_text_can_be_teach_nothing() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    for _ in 0..3 {
        let (mut client, mut server) = begin(&sidecar, &mut upstream).await;
        write(&mut client, &mut server, 8, Duration::ZERO).await;
        report(&mut server, 1_000, u64::MAX).await; // of "hi" and of forty bytes
        end(&mut client, &mut server, None).await;
    }
    let (mut client, mut server) = begin(&sidecar, &mut upstream).await;
    write(&mut client, &mut server, 8, Duration::ZERO).await;
    drop(client);
    let line = sidecar.exchanges().await.pop().unwrap();
    assert_eq!((&line["input_tokens"], &line["output_tokens"]), (&1.into(), &10.into()), "{line}");
}
