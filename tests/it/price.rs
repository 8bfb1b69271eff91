//! What exchanges cost: the price that held when they began.

use std::time::Duration;

use serde_json::Value;

use super::harness::{LAST_CHUNK, STREAM_HEAD, STREAM_REQUEST, Sidecar, Upstream, chunk, post};

/// The harness's clock begins at 2027-01-15T08:00:00Z.
const CONFIG: &str = "
upstream: http://upstream:8000
models:
  - name: m
    price:
      - {currency: USD, until: 2027-01-15T08:00:10Z, input: 3, cache_read: 0.30, output: 15}
      - {currency: EUR, from: 2027-01-15T08:00:10Z, input: 0.15, output: 0.000001}
    alternatives: [large]
  - {name: large, price: {currency: USD, input: 10, output: 30, tiers: [{tier: priority, input: 20, output: 60}]}}
";

const USAGE: &str =
    r#""usage":{"prompt_tokens":1000,"completion_tokens":50,"prompt_tokens_details":{"cached_tokens":400}}"#;

/// A stream that reports this; gives its line of the log.
async fn stream(sidecar: &Sidecar, upstream: &mut Upstream, report: &str) -> Value {
    let mut client = sidecar.connect();
    client.write(post(STREAM_REQUEST)).await;
    let mut server = upstream.accept().await;
    server.read_to(STREAM_REQUEST).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.write(STREAM_HEAD).await;
    server
        .write(chunk(&format!("data: {{\"model\":\"m\",\"choices\":[],{report}}}\n\ndata: [DONE]\n\n")))
        .await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    sidecar.exchanges().await.pop().unwrap()
}

fn cost(line: &Value) -> (f64, &str, &str) {
    let text = |name: &str| line[name].as_str().unwrap();
    (line["cost"].as_f64().unwrap(), text("currency"), text("price_version"))
}

#[tokio::test(start_paused = true)]
async fn the_price_is_that_of_the_moment_at_which_the_request_came() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let price = |kind: &str, currency: &str| {
        let labels = format!("model=\"m\",kind=\"{kind}\",currency=\"{currency}\"");
        sidecar.sample(&format!("streamgauge_price_per_million_tokens{{{labels}}}"))
    };
    tokio::time::sleep(Duration::from_millis(9_900)).await;
    assert_eq!((price("cache_read", "USD"), price("input", "EUR")), (Some(0.3), None));
    // It ends a second after the price has changed.
    let line = stream(&sidecar, &mut upstream, USAGE).await;
    assert_eq!(cost(&line), (0.0018 + 0.00012 + 0.00075, "USD", "config"));
    let line = stream(&sidecar, &mut upstream, USAGE).await;
    assert_eq!(cost(&line), (0.00015000005, "EUR", "config"));
    assert_eq!((price("cache_read", "USD"), price("cache_read", "EUR")), (None, Some(0.15)));
    let sum = |name: &str, labels: &str| sidecar.sample(&format!("streamgauge_{name}{{{labels}}}"));
    let of = "tenant=\"anonymous\",model=\"m\",upstream=\"default\"";
    assert_eq!(sum("cost_total", &format!("{of},currency=\"USD\"")), Some(0.00267));
    assert_eq!(sum("cost_total", &format!("{of},currency=\"EUR\"")), Some(0.00015000005));
    let of = "tenant=\"anonymous\",model=\"m\",alternative=\"large\",currency=\"USD\"";
    assert_eq!(sum("alternative_cost_total", of), Some(2.0 * 0.0115));
    assert_eq!(sum("unpriced_requests_total", "model=\"m\""), None);
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_the_answer_names_has_its_own_price_and_no_price_is_not_0() {
    let config = CONFIG.replace("name: m\n", "name: other\n").replace("name: large", "match: m, name: large");
    let (sidecar, mut upstream) = Sidecar::start(&config);
    let line = stream(&sidecar, &mut upstream, &format!("\"service_tier\":\"priority\",{USAGE}")).await;
    assert_eq!(cost(&line), (0.02 + 0.003, "USD", "config"));
    let unknown = CONFIG.replace("name: m\n", "name: other\n");
    let (sidecar, mut upstream) = Sidecar::start(&unknown);
    let line = stream(&sidecar, &mut upstream, USAGE).await;
    assert_eq!((line.get("cost"), line.get("currency")), (None, None));
    assert_eq!(sidecar.sample("streamgauge_unpriced_requests_total{model=\"m\"}"), Some(1.0));
}
