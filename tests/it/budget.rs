//! What is spent of budgets: by whom, in which period, in which currency.

use std::time::Duration;

use streamgauge::config::Config;

use super::harness::{LAST_CHUNK, STREAM_HEAD, Sidecar, Upstream, Wire, chunk};

/// The harness's clock begins at 2027-01-15T08:00:00Z, a Friday. A million tokens of `m` cost a dollar, of `e` a euro.
const CONFIG: &str = "
upstream: http://upstream:8000
models:
  - {name: m, price: {currency: USD, input: 1, output: 1}}
  - {name: e, price: {currency: EUR, input: 1, output: 1}}
  - {name: free}
tenants: {known: [idle], limit: 1}
";

fn start(budgets: &str) -> (Sidecar, Upstream) {
    Sidecar::start(&format!("{CONFIG}budgets: [{budgets}]\n"))
}

/// A stream that runs.
async fn begin(sidecar: &Sidecar, upstream: &mut Upstream, tenant: &str, model: &str) -> (Wire, Wire) {
    let body = format!(r#"{{"model":"{model}","stream":true,"messages":[]}}"#);
    let length = body.len();
    let mut client = sidecar.connect();
    client
        .write(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nX-Tenant-Id: {tenant}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    let mut server = upstream.accept().await;
    server.read_to(&body).await;
    server.write(STREAM_HEAD).await;
    client.read_head().await;
    (client, server)
}

/// It ends, having taken so many tokens; then it is settled.
async fn end(sidecar: &Sidecar, (mut client, mut server): (Wire, Wire), tokens: u64) {
    let report = format!(r#""choices":[],"usage":{{"prompt_tokens":{tokens},"completion_tokens":0}}"#);
    server.write(chunk(&format!("data: {{{report}}}\n\ndata: [DONE]\n\n"))).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    sidecar.recorded().await;
}

async fn spend(sidecar: &Sidecar, upstream: &mut Upstream, tenant: &str, model: &str, tokens: u64) {
    let stream = begin(sidecar, upstream, tenant, model).await;
    end(sidecar, stream, tokens).await;
}

fn sample(sidecar: &Sidecar, name: &str, tenant: &str, currency: &str, period: &str) -> Option<f64> {
    let labels = format!("tenant=\"{tenant}\",currency=\"{currency}\",period=\"{period}\"");
    sidecar.sample(&format!("streamgauge_{name}{{{labels}}}"))
}

fn spent(sidecar: &Sidecar, tenant: &str, period: &str) -> Option<f64> {
    sample(sidecar, "budget_spent", tenant, "USD", period)
}

#[tokio::test(start_paused = true)]
async fn an_hour_ends_at_its_instant_and_an_exchange_counts_in_the_one_in_which_it_ends() {
    let (sidecar, mut upstream) = start(
        "{tenant: a, period: hour, amount: 1, currency: USD}, {tenant: a, period: day, amount: 2.50, currency: USD}",
    );
    let both = || ["hour", "day"].map(|period| spent(&sidecar, "a", period));
    let amounts = ["hour", "day"].map(|period| sample(&sidecar, "budget", "a", "USD", period));
    assert_eq!((amounts, both()), ([Some(1.0), Some(2.5)], [Some(0.0), Some(0.0)]), "from the start");
    spend(&sidecar, &mut upstream, "a", "m", 250_000).await;
    assert_eq!(both(), [Some(0.25), Some(0.25)]);
    let (begun, hour) = (tokio::time::Instant::now(), Duration::from_secs(3600));
    let over = begin(&sidecar, &mut upstream, "a", "m").await;
    // The hour ends a little before that: the first stream has taken some time.
    tokio::time::sleep_until(begun + hour - Duration::from_secs(60)).await;
    assert_eq!(both(), [Some(0.25), Some(0.25)], "a running stream is not spent yet");
    tokio::time::sleep_until(begun + hour).await;
    assert_eq!(both(), [Some(0.0), Some(0.25)]);
    end(&sidecar, over, 500_000).await;
    assert_eq!(both(), [Some(0.5), Some(0.75)]);
    tokio::time::sleep_until(begun + 16 * hour - Duration::from_secs(60)).await;
    assert_eq!(both(), [Some(0.0), Some(0.75)]);
    tokio::time::sleep_until(begun + 16 * hour).await; // midnight
    assert_eq!(both(), [Some(0.0), Some(0.0)]);
}

#[tokio::test(start_paused = true)]
async fn only_what_costs_money_of_the_budgets_currency_and_tenant_counts() {
    let (sidecar, mut upstream) = start("{tenant: a, period: month, amount: 1, currency: USD}");
    spend(&sidecar, &mut upstream, "a", "e", 1_000_000).await;
    spend(&sidecar, &mut upstream, "a", "free", 1_000_000).await;
    spend(&sidecar, &mut upstream, "b", "m", 1_000_000).await;
    assert_eq!(spent(&sidecar, "a", "month"), Some(0.0));
    for _ in 0..3 {
        spend(&sidecar, &mut upstream, "a", "m", 100_000).await;
    }
    // Ten cents three times, added up before they become a double.
    assert_eq!(spent(&sidecar, "a", "month"), Some(0.3));
    let cost = "tenant=\"a\",model=\"m\",upstream=\"default\",currency=\"USD\"";
    assert_eq!(sidecar.value("cost_total", cost), 0.3);
    assert_eq!(spent(&sidecar, "b", "month"), None);
    assert_eq!(sample(&sidecar, "budget_spent", "a", "EUR", "month"), None);
}

#[tokio::test(start_paused = true)]
async fn a_budget_for_each_tenant_is_each_ones_own_and_its_series_are_bounded() {
    let (sidecar, mut upstream) = start(
        "{period: month, amount: 5, currency: USD}, {tenant: a, period: month, amount: 1, currency: USD}",
    );
    for (tenant, tokens) in [("a", 1_000), ("b", 2_000), ("c", 3_000), ("idle", 4_000)] {
        spend(&sidecar, &mut upstream, tenant, "m", tokens).await;
    }
    let amount = |tenant| sample(&sidecar, "budget", tenant, "USD", "month");
    assert_eq!(["a", "anonymous", "idle"].map(amount), [Some(1.0), Some(5.0), Some(5.0)]);
    let of = |tenant| spent(&sidecar, tenant, "month");
    assert_eq!(["a", "anonymous", "idle"].map(of), [Some(0.001), Some(0.0), Some(0.004)]);
    // One of those that the configuration does not name has series: the one that has spent the most.
    assert_eq!((of("b"), of("c"), amount("b"), amount("c")), (None, Some(0.003), None, Some(5.0)));
    spend(&sidecar, &mut upstream, "b", "m", 1_001).await;
    assert_eq!((of("b"), of("c"), of("other")), (Some(0.003_001), None, None));
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_was_spent_of_a_budget_that_is_still_there() {
    let two = "{tenant: a, period: month, amount: 1, currency: USD}, {tenant: a, period: day, amount: 1, currency: USD}";
    let (sidecar, mut upstream) = start(two);
    let reload = |budgets: &str| {
        let config = Config::parse(&format!("{CONFIG}budgets: [{budgets}]\n"), &[]).unwrap();
        sidecar.budgets.apply(&config.budgets);
        sidecar.metrics.apply(&config);
    };
    spend(&sidecar, &mut upstream, "a", "m", 1_000).await;
    reload("{tenant: a, period: month, amount: 7, currency: USD}");
    spend(&sidecar, &mut upstream, "a", "m", 1_000).await;
    assert_eq!(sample(&sidecar, "budget", "a", "USD", "month"), Some(7.0));
    assert_eq!((spent(&sidecar, "a", "month"), spent(&sidecar, "a", "day")), (Some(0.002), None));
    reload(two);
    assert_eq!((spent(&sidecar, "a", "month"), spent(&sidecar, "a", "day")), (Some(0.002), Some(0.0)));
}
