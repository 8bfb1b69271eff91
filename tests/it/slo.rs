//! Objectives: when a verdict is told, what it is, and under which names.

use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{STREAM_REQUEST, Sidecar, Stream, Upstream, Wire, post, token};

const CONFIG: &str = "
upstream: http://upstream:8000
tenants: {known: [anonymous]}
models: [{name: m}]
slos:
  - {name: chat, match: {dialect: openai_chat}, objective: 99%, ttft: 300ms}
  - {name: whole, objective: 99.9%, window: 7d, ttft: 300ms, duration: 10s, success: true}
  - {name: other, match: {tenant: gold}, objective: 90%, success: true}
";

const MILLI: Duration = Duration::from_millis(1);

/// Judged and bad, of `chat` and `whole`.
fn counts(sidecar: &Sidecar, model: &str) -> [f64; 4] {
    let count =
        |name, slo| sidecar.value(name, &format!("slo=\"{slo}\",tenant=\"anonymous\",model=\"{model}\""));
    [
        count("slo_requests_total", "chat"),
        count("slo_bad_requests_total", "chat"),
        count("slo_requests_total", "whole"),
        count("slo_bad_requests_total", "whole"),
    ]
}

async fn ask(sidecar: &Sidecar, upstream: &mut Upstream) -> (Wire, Wire) {
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    let mut server = upstream.accept().await;
    server.read_to(STREAM_REQUEST).await;
    (client, server)
}

/// The verdicts in the log, in the order in which the exchanges ended.
async fn verdicts(sidecar: &Sidecar) -> Vec<Value> {
    sidecar.exchanges().await.into_iter().map(|mut line| line["slo"].take()).collect()
}

#[tokio::test(start_paused = true)]
async fn objectives_are_there_from_the_start() {
    let (sidecar, _upstream) = Sidecar::start(CONFIG);
    let sample = |text: &str| sidecar.sample(text);
    for name in ["slo_requests_total", "slo_bad_requests_total"] {
        for slo in ["chat", "whole"] {
            let series = format!("streamgauge_{name}{{slo=\"{slo}\",tenant=\"anonymous\",model=\"m\"}}");
            assert_eq!(sample(&series), Some(0.0), "{series}");
        }
    }
    assert_eq!(sample("streamgauge_slo_objective_ratio{slo=\"whole\"}"), Some(0.999));
    assert_eq!(sample("streamgauge_slo_threshold_seconds{slo=\"whole\",kind=\"duration\"}"), Some(10.0));
    assert_eq!(sample("streamgauge_slo_threshold_seconds{slo=\"chat\",kind=\"ttft\"}"), Some(0.3));
    assert_eq!(sample("streamgauge_slo_threshold_seconds{slo=\"chat\",kind=\"duration\"}"), None);
}

#[tokio::test(start_paused = true)]
async fn a_hung_request_is_bad_the_moment_its_time_is_over() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let (_client, _server) = ask(&sidecar, &mut upstream).await;
    tokio::time::sleep(MILLI * 299).await;
    assert_eq!(counts(&sidecar, "m"), [0.0; 4]);
    tokio::time::sleep(MILLI * 270).await; // and until it is looked at
    assert_eq!(counts(&sidecar, "m"), [1.0; 4]);
    sidecar.cut();
    assert_eq!(verdicts(&sidecar).await, [json!({"chat": "bad", "whole": "bad"})]);
    assert_eq!(counts(&sidecar, "m"), [1.0; 4], "once");
}

#[tokio::test(start_paused = true)]
async fn a_first_token_in_time_is_good_at_once_where_nothing_else_is_asked() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    stream.words(1, MILLI * 200).await;
    tokio::time::sleep(MILLI * 300).await;
    assert_eq!(counts(&sidecar, "m"), [1.0, 0.0, 0.0, 0.0]);
    stream.words(1, MILLI * 9_000).await;
    assert_eq!(counts(&sidecar, "m"), [1.0, 0.0, 0.0, 0.0]);
    stream.end().await;
    assert_eq!(verdicts(&sidecar).await, [json!({"chat": "good", "whole": "good"})]);
    assert_eq!(counts(&sidecar, "m"), [1.0, 0.0, 1.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_too_long_is_bad_while_it_runs() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    stream.words(2, MILLI * 100).await;
    tokio::time::sleep(MILLI * 10_100).await;
    assert_eq!(counts(&sidecar, "m"), [1.0, 0.0, 1.0, 1.0]);
    stream.end().await;
    assert_eq!(verdicts(&sidecar).await, [json!({"chat": "good", "whole": "bad"})]);
    assert_eq!(counts(&sidecar, "m"), [1.0, 0.0, 1.0, 1.0]);
}

#[tokio::test(start_paused = true)]
async fn a_late_first_token_is_bad_though_nobody_looked_in_between() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    tokio::time::sleep(MILLI * 1_003).await; // just behind a look
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    stream.words(1, MILLI * 301).await;
    stream.end().await;
    assert_eq!(verdicts(&sidecar).await, [json!({"chat": "bad", "whole": "bad"})]);
    assert_eq!(counts(&sidecar, "m"), [1.0; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_clients_error_and_a_client_that_leaves_in_time_are_no_requests_of_an_objective() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let (mut client, mut server) = ask(&sidecar, &mut upstream).await;
    server.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    client.read_head().await;
    let (client, _server) = ask(&sidecar, &mut upstream).await;
    tokio::time::sleep(MILLI * 100).await;
    drop(client);
    let stays_out = json!({"chat": "not_eligible", "whole": "not_eligible"});
    assert_eq!(verdicts(&sidecar).await, [stays_out.clone(), stays_out]);
    assert_eq!(counts(&sidecar, "m"), [0.0; 4]);

    let (mut client, mut server) = ask(&sidecar, &mut upstream).await;
    server.write("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    client.read_head().await;
    assert_eq!(verdicts(&sidecar).await[2], json!({"chat": "bad", "whole": "bad"}));
    assert_eq!(counts(&sidecar, "m"), [1.0; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_nobody_configured_is_unknown_until_it_has_been_accepted_once() {
    let config = CONFIG.replace("models: [{name: m}]", "models: []");
    let (sidecar, mut upstream) = Sidecar::start(&config);
    let (client, server) = ask(&sidecar, &mut upstream).await;
    tokio::time::sleep(MILLI * 600).await;
    assert_eq!((counts(&sidecar, "unknown"), counts(&sidecar, "m")), ([1.0; 4], [0.0; 4]));
    drop((client, server));
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    stream.send(&token("hi")).await;
    stream.end().await;
    sidecar.exchanges().await;
    let (_client, _server) = ask(&sidecar, &mut upstream).await;
    tokio::time::sleep(MILLI * 600).await;
    assert_eq!((counts(&sidecar, "unknown"), counts(&sidecar, "m")), ([1.0; 4], [2.0, 1.0, 2.0, 1.0]));
}

#[tokio::test(start_paused = true)]
async fn thresholds_are_bounds_of_their_histograms() {
    let config = CONFIG.replace("300ms", "333ms").replace("10s", "11s");
    let (sidecar, mut upstream) = Sidecar::start(&config);
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    stream.words(1, MILLI * 333).await;
    stream.end().await;
    sidecar.exchanges().await;
    let bucket = |name: &str, bound: &str| {
        let labels = "upstream=\"default\",dialect=\"openai_chat\"";
        let labels = match name {
            "time_to_first_token_seconds" => format!("model=\"m\",{labels},input_band=\"le_1k\""),
            _ => format!("model=\"m\",{labels},stream=\"true\",outcome=\"completed\""),
        };
        sidecar.sample(&format!("streamgauge_{name}_bucket{{{labels},le=\"{bound}\"}}"))
    };
    assert_eq!(bucket("time_to_first_token_seconds", "0.333"), Some(1.0));
    assert_eq!(bucket("time_to_first_token_seconds", "0.3"), Some(0.0));
    assert!(bucket("request_duration_seconds", "11").is_some());
}
