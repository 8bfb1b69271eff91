//! The status: who hangs, how far each exchange has come, and that nothing of it is secret or markup.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use streamgauge::clock::Moment;
use streamgauge::exchange::{DialectId, Name};
use streamgauge::live::{Live, Origin, Stage};
use streamgauge::status::{NAMES_SHOWN, OPEN_SHOWN, Status, page};

use super::harness::{
    LAST_CHUNK, LAST_EVENTS, ONE_UPSTREAM, STREAM_HEAD, STREAM_REQUEST, Sidecar, Stream, Upstream, Wire,
    chunk, post, token,
};

const SECOND: Duration = Duration::from_secs(1);

const CONFIG: &str = "\
upstream: http://upstream:8000
models: [{name: small, match: [m]}]
slos: [{name: chat, objective: 99%, ttft: 300ms}]
limits: [{tenant: search, tokens_per_minute: 1000, action: observe}]
budgets: [{tenant: search, period: day, amount: 5, currency: USD}]
";

fn as_json(status: &Status) -> Value {
    serde_json::to_value(status).unwrap()
}

/// A request with more headers.
fn post_with(headers: &str, body: &str) -> String {
    post(body).replacen("\r\n", &format!("\r\n{headers}"), 1)
}

/// A request that has reached its upstream.
async fn ask(sidecar: &Sidecar, upstream: &mut Upstream, request: &str) -> (Wire, Wire) {
    let mut client = sidecar.connect();
    client.write(request).await;
    let mut server = upstream.accept().await;
    server.read_to("\"}]}").await;
    (client, server)
}

#[tokio::test(start_paused = true)]
async fn who_hangs_is_named_with_model_id_and_age() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let request = post_with(
        "x-tenant-id: search\r\nx-request-id: r-1\r\nauthorization: Bearer sk-key\r\n",
        STREAM_REQUEST,
    );
    let (_client, _server) = ask(&sidecar, &mut upstream, &request).await;
    tokio::time::sleep(34 * SECOND).await;
    let status = sidecar.status();
    let json = as_json(&status);
    let mut open = json["open"][0].clone();
    let age = open.as_object_mut().unwrap().remove("age_seconds").unwrap().as_f64().unwrap();
    assert!((34.0..34.1).contains(&age), "{age}");
    let want = json!({
        "request_id": "r-1", "tenant": "search", "model": "small", "model_requested": "m", "upstream": "default",
        "dialect": "openai_chat", "stream": true, "state": "awaiting_first_token", "chunks": 0,
    });
    assert_eq!(open, want);
    let upstream = &json["upstreams"][0];
    assert_eq!(
        (&upstream["url"], &upstream["awaiting_first_token"]),
        (&json!("http://upstream:8000"), &json!(1))
    );
    assert!(upstream.get("last").is_none(), "nothing has ended");
    let trouble = &json["troubles"][0];
    assert_eq!(
        (&trouble["gravity"], &trouble["runbook"], &trouble["text"]),
        (
            &json!("bad"),
            &json!("StreamgaugeHung"),
            &json!("default: a client has waited 34 s for its first token (search, small)")
        )
    );
    assert_eq!(json["slos"][0]["bad_since_start"], 1, "it is late already");
    let page = page::html(&status);
    assert!(page.contains("<title>default: a client has waited 34 s"), "{page}");
    for text in [json.to_string(), page] {
        assert!(!text.contains("sk-key") && !text.contains("\"hi\""), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_how_long_it_has_stood_still_and_none_is_left_after_the_end() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let mut stream = Stream::begin(&sidecar, &mut upstream).await;
    let state = |sidecar: &Sidecar| {
        let open = as_json(&sidecar.status())["open"][0].clone();
        (open["state"].clone(), open["code"].clone())
    };
    assert_eq!(state(&sidecar), (json!("awaiting_first_token"), json!(200)), "its head has come");
    stream.words(3, SECOND).await;
    tokio::time::sleep(12 * SECOND).await;
    let json = as_json(&sidecar.status());
    let open = &json["open"][0];
    assert_eq!((&open["state"], &open["chunks"]), (&json!("streaming"), &json!(3)));
    let since = open["since_last_token_seconds"].as_f64().unwrap();
    assert!((11.7..=12.1).contains(&since), "up to a look too small: {since}");
    assert!((1.0..1.1).contains(&open["ttft_seconds"].as_f64().unwrap()));
    assert_eq!(json["troubles"][0]["runbook"], "StreamgaugeStalls");
    stream.report(5, 3).await;
    stream.end().await;
    sidecar.exchanges().await;
    let json = as_json(&sidecar.status());
    assert_eq!((&json["open"], &json["in_flight"]), (&json!([]), &json!(0)));
    assert!(json.get("oldest_awaiting_first_token_seconds").is_none(), "unknown is absent");
    let model = &json["models"][0];
    assert_eq!(
        (&model["model"], &model["requests"], &model["failed"]),
        (&json!("small"), &json!(1), &json!(0))
    );
    assert!((1.0..1.1).contains(&model["ttft_p50_seconds"].as_f64().unwrap()));
    assert_eq!(model["tokens_last_minute"], 8);
    assert_eq!(json["upstreams"][0]["last"]["outcome"], "completed");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_still_being_sent_has_its_model() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = sidecar.connect();
    client.write(post(&format!("{STREAM_REQUEST}{}", " ".repeat(1000))).trim_end()).await;
    let mut server = upstream.accept().await;
    server.read_to(STREAM_REQUEST).await;
    tokio::time::sleep(SECOND).await;
    let open = as_json(&sidecar.status())["open"][0].clone();
    assert_eq!((&open["state"], &open["model_requested"]), (&json!("sending"), &json!("m")));
    assert!(open.get("stream").is_none() && open.get("code").is_none(), "not known yet: {open}");
}

#[tokio::test]
async fn ten_thousand_open_exchanges_make_no_longer_an_answer() {
    let (sidecar, _upstream) = Sidecar::start(CONFIG);
    for number in 0..10_000 {
        let origin = Origin {
            number,
            request_id: Name::from(format!("sg-{number:016x}").as_str()),
            trace_id: None,
            tenant: Name::from(format!("tenant-{}", number % 300).as_str()),
            upstream: Name::from("default"),
            dialect: DialectId("openai_chat"),
            started: Moment::default(),
        };
        let live = Live::new(origin, true);
        live.reach(Stage::Sent);
        live.set_awaits_token(true);
        sidecar.proxy.live.insert(Arc::new(live));
    }
    let status = sidecar.status();
    assert_eq!((status.open.len(), status.left_out.open), (OPEN_SHOWN, 10_000 - OPEN_SHOWN));
    assert_eq!((status.tenants.len(), status.load.awaiting_first_token), (NAMES_SHOWN, 10_000));
    let (json, page) = (serde_json::to_vec_pretty(&status).unwrap(), page::html(&status));
    assert!(json.len() < 64 << 10 && page.len() < 64 << 10, "{} and {} bytes", json.len(), page.len());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_limit_holds_says_so() {
    let (sidecar, mut upstream) = Sidecar::start(
        "upstream: http://u:1\nlimits: [{tenant: '*', tokens_per_minute: 60, action: delay, max_delay: 60s}]\n",
    );
    let body = STREAM_REQUEST.replacen('{', "{\"max_tokens\":50,", 1);
    let (_client, _server) = ask(&sidecar, &mut upstream, &post(&body)).await;
    let mut held = sidecar.connect();
    held.write(post(&body)).await;
    tokio::time::sleep(SECOND).await;
    let json = as_json(&sidecar.status());
    let held = json["open"].as_array().unwrap().iter().find(|open| open["state"] == "held").cloned();
    assert_eq!(held.expect("none is held")["model_requested"], "m");
    assert!(json["tenants"][0]["limits"][0]["used"].as_u64().unwrap() >= 50, "{json}");
}

#[tokio::test(start_paused = true)]
async fn names_that_clients_choose_are_no_markup_and_bounded() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let long = "t".repeat(300);
    let hostile = STREAM_REQUEST.replacen("\"m\"", r#""<script>alert(1)</script>\u202e""#, 1);
    let headers = format!("x-tenant-id: <img src=x>{long}\r\nx-request-id: \"><b>\r\n");
    let (_client, _server) = ask(&sidecar, &mut upstream, &post_with(&headers, &hostile)).await;
    tokio::time::sleep(20 * SECOND).await;
    let status = sidecar.status();
    let html = page::html(&status);
    for markup in ["<script>alert", "<img", "\"><b>", "\u{202E}"] {
        assert!(!html.contains(markup), "{markup}");
    }
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;\u{FFFD}"), "{html}");
    let tenant = as_json(&status)["open"][0]["tenant"].as_str().unwrap().to_owned();
    assert!(tenant.ends_with("t…") && tenant.chars().count() == 129, "{tenant}");
}

#[tokio::test(start_paused = true)]
async fn of_many_the_oldest_are_shown_and_the_rest_counted() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut kept = Vec::new();
    let mut streaming = Stream::begin(&sidecar, &mut upstream).await;
    streaming.send(&token("a")).await;
    for n in 0..OPEN_SHOWN + 10 {
        let headers = format!("x-tenant-id: t{n}\r\nx-request-id: r{n}\r\n");
        kept.push(ask(&sidecar, &mut upstream, &post_with(&headers, STREAM_REQUEST)).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let json = as_json(&sidecar.status());
    let open = json["open"].as_array().unwrap();
    let ids: Vec<_> = open.iter().map(|open| open["request_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (0..OPEN_SHOWN).map(|n| format!("r{n}")).collect::<Vec<_>>(), "who waits comes first");
    assert_eq!(json["left_out"]["open"], 11);
    assert_eq!(json["tenants"].as_array().unwrap().len(), NAMES_SHOWN);
    assert_eq!((&json["in_flight"], &json["awaiting_first_token"]), (&json!(61), &json!(60)));
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_told_with_its_share() {
    let (sidecar, mut upstream) = Sidecar::start(CONFIG);
    let (mut client, mut server) = ask(&sidecar, &mut upstream, &post(STREAM_REQUEST)).await;
    server.write(STREAM_HEAD).await;
    server.write(chunk(&token("a"))).await;
    drop(server);
    client.read_to("\"a\"").await;
    let (mut client, mut server) = ask(&sidecar, &mut upstream, &post(STREAM_REQUEST)).await;
    server.write(STREAM_HEAD).await;
    server.write(chunk(&token("a"))).await;
    server.write(chunk(LAST_EVENTS)).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    sidecar.exchanges().await;
    let json = as_json(&sidecar.status());
    assert_eq!(json["troubles"][0]["text"], "small: 1 of 2 requests failed in the last minute");
    assert_eq!(json["models"][0]["outcomes"], json!({"completed": 1, "truncated": 1}));
}
