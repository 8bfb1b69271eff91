//! Limits on tokens per minute: who is held, who is refused, what clients and numbers are told of it.

use std::time::Duration;

use serde_json::{Value, json};

use super::encode::encode;
use super::harness::{Sidecar, Upstream, Wire};

const UPSTREAM: &str = "upstream: http://upstream:8000\n";
const SECOND: Duration = Duration::from_secs(1);

fn start(limits: &str) -> (Sidecar, Upstream) {
    Sidecar::start(&format!("{UPSTREAM}models: [{{name: m}}, {{name: n}}]\nlimits: [{limits}]\n"))
}

/// A request that needs `tokens`: a prompt of one, and the rest for the answer.
fn request(tenant: &str, model: &str, tokens: u64) -> String {
    let most = tokens - 1;
    let messages = r#"[{"role":"user","content":"hey"}]"#;
    of_body(tenant, &format!(r#"{{"model":"{model}","max_tokens":{most},"messages":{messages}}}"#))
}

fn of_body(tenant: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nX-Tenant-Id: {tenant}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn send(sidecar: &Sidecar, request: &str) -> Wire {
    let mut client = sidecar.connect();
    client.write(request).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    client
}

/// The upstream takes a request.
async fn accept(upstream: &mut Upstream) -> Wire {
    let mut server = upstream.accept().await;
    server.read_to("}]}").await;
    server
}

/// The upstream answers, having used so many tokens.
async fn answer(server: &mut Wire, client: &mut Wire, tokens: u64) {
    let usage = json!({"prompt_tokens": 1, "completion_tokens": tokens - 1});
    let choice = json!({"index": 0, "message": {"content": "word"}, "finish_reason": "stop"});
    let body = json!({"model": "m", "choices": [choice], "usage": usage}).to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    server.write(head + &body).await;
    client.read_to(&body).await;
    tokio::time::sleep(Duration::from_millis(300)).await; // until it is settled
}

/// An answer of our own: its head, and its body.
async fn refused(client: &mut Wire) -> (String, Value) {
    let head = client.read_head().await.to_ascii_lowercase();
    let length =
        head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    (head, serde_json::from_slice(&client.read_exactly(length).await).unwrap())
}

fn used(sidecar: &Sidecar, tenant: &str, model: &str) -> (f64, f64) {
    let labels = format!("tenant=\"{tenant}\",model=\"{model}\"");
    (sidecar.value("tpm_used", &labels), sidecar.value("tpm_limit", &labels))
}

fn hits(sidecar: &Sidecar, tenant: &str, model: &str) -> [f64; 3] {
    ["observed", "delayed", "rejected"].map(|action| {
        let labels = format!("tenant=\"{tenant}\",model=\"{model}\",action=\"{action}\"");
        sidecar.value("tpm_limit_hits_total", &labels)
    })
}

#[tokio::test(start_paused = true)]
async fn what_a_minute_has_no_room_for_is_refused_in_the_clients_own_words() {
    let (sidecar, mut upstream) = start("{tenant: a, tokens_per_minute: 100, action: reject}");
    assert_eq!(used(&sidecar, "a", "*"), (0.0, 100.0), "from the start");
    assert!(
        sidecar
            .sample("streamgauge_tpm_limit_hits_total{tenant=\"a\",model=\"*\",action=\"rejected\"}")
            .is_some()
    );
    let mut first = send(&sidecar, &request("a", "m", 70)).await;
    let mut server = accept(&mut upstream).await;
    assert_eq!(used(&sidecar, "a", "*").0, 70.0, "while it runs");
    tokio::time::sleep(10 * SECOND).await;
    let mut second = send(&sidecar, &request("a", "n", 31)).await;
    let (head, body) = refused(&mut second).await;
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    for header in [
        "retry-after: 52",
        "x-ratelimit-limit-tokens: 100",
        "x-ratelimit-remaining-tokens: 30",
        "x-ratelimit-reset-tokens: 51.2",
        "proxy-status: streamgauge; error=http_request_denied",
    ] {
        assert!(head.contains(&format!("\r\n{header}")), "{header}: {head}");
    }
    assert!(!head.contains("x-should-retry"), "{head}");
    assert_eq!(body["error"]["type"], "rate_limit_exceeded");
    assert_eq!(
        body["error"]["message"],
        "streamgauge: this request needs 31 tokens; of the limit of 100 tokens per minute 70 are taken"
    );
    assert!(!upstream.has_more(), "it was not sent");
    let mut other = send(&sidecar, &request("b", "m", 5_000)).await;
    answer(&mut accept(&mut upstream).await, &mut other, 5_000).await;
    answer(&mut server, &mut first, 40).await;
    assert_eq!(used(&sidecar, "a", "*").0, 40.0, "what was not used is given back");
    let mut third = send(&sidecar, &request("a", "m", 60)).await;
    answer(&mut accept(&mut upstream).await, &mut third, 60).await;
    assert_eq!((used(&sidecar, "a", "*").0, hits(&sidecar, "a", "*")), (100.0, [0.0, 0.0, 1.0]));

    let lines = sidecar.exchanges().await;
    let line = lines.iter().find(|line| line["code"] == 429).unwrap();
    let want = json!({"action": "rejected", "model": "*", "reserved": 31});
    assert_eq!(
        (&line["limit"], &line["outcome"], &line["blame"]),
        (&want, &"rejected".into(), &"sidecar".into())
    );
    assert!(lines.iter().filter(|line| line["code"] == 200).all(|line| line["limit"].is_null()));
    assert_eq!(sidecar.value("tpm_delay_seconds_count", "tenant=\"a\",model=\"*\""), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_minute_has_room_for_is_not_to_be_tried_again() {
    for action in ["reject", "delay"] {
        let (sidecar, _upstream) = start(&format!("{{tenant: a, tokens_per_minute: 100, action: {action}}}"));
        let mut client = send(&sidecar, &request("a", "m", 101)).await;
        let (head, body) = refused(&mut client).await;
        assert!(
            head.starts_with("http/1.1 429 ") && head.contains("\r\nx-should-retry: false\r\n"),
            "{head}"
        );
        assert!(!head.contains("retry-after"), "{head}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("needs 101 tokens, more than the limit of 100"), "{message}");
        assert_eq!(sidecar.exchange().await["limit"]["action"], "rejected");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_wait_in_their_order_until_there_is_room() {
    let (sidecar, mut upstream) =
        start("{tenant: '*', tokens_per_minute: 100, action: delay, max_delay: 3m}");
    let mut first = send(&sidecar, &request("a", "m", 90)).await;
    let mut server = accept(&mut upstream).await;
    // The second needs more than the third, and stays before it.
    let mut second = send(&sidecar, &request("a", "m", 50)).await;
    let mut third = send(&sidecar, &request("a", "n", 5)).await;
    let mut other = send(&sidecar, &request("b", "m", 100)).await;
    answer(&mut accept(&mut upstream).await, &mut other, 100).await;
    tokio::time::sleep(20 * SECOND).await;
    assert!(!upstream.has_more());
    answer(&mut server, &mut first, 60).await;
    tokio::time::sleep(10 * SECOND).await;
    assert!(!upstream.has_more(), "60 are taken, 50 are needed, 5 have to wait behind them");
    let mut server = accept(&mut upstream).await; // the first one's second is over
    answer(&mut server, &mut second, 50).await;
    let mut server = accept(&mut upstream).await;
    answer(&mut server, &mut third, 5).await;
    assert_eq!(used(&sidecar, "a", "*").0, 55.0);
    assert_eq!(hits(&sidecar, "a", "*"), [0.0, 2.0, 0.0]);
    assert_eq!(hits(&sidecar, "b", "*"), [0.0; 3]);
    assert_eq!(sidecar.value("tpm_delay_seconds_count", "tenant=\"a\",model=\"*\""), 2.0);
    let delays: Vec<f64> =
        sidecar.exchanges().await.iter().filter_map(|line| line["limit"]["delay_seconds"].as_f64()).collect();
    assert!(
        matches!(&delays[..], [one, two] if (60.0..62.0).contains(one) && (60.0..62.0).contains(two)),
        "{delays:?}"
    );
    let overhead = sidecar.sample("streamgauge_proxy_overhead_seconds_sum{phase=\"request\"}").unwrap();
    assert!(overhead < 0.1, "waiting for room is no overhead: {overhead}");
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_as_long_as_he_may_is_refused_and_the_next_one_has_his_turn() {
    let (sidecar, mut upstream) = start("{tenant: a, tokens_per_minute: 100, action: delay, max_delay: 20s}");
    let mut first = send(&sidecar, &request("a", "m", 100)).await;
    let mut server = accept(&mut upstream).await;
    let mut second = send(&sidecar, &request("a", "m", 100)).await;
    tokio::time::sleep(5 * SECOND).await;
    let mut third = send(&sidecar, &request("a", "m", 10)).await;
    let (head, body) = refused(&mut second).await;
    assert!(head.starts_with("http/1.1 429 ") && head.contains("\r\nretry-after: 42\r\n"), "{head}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("has waited for them as long as it may"), "{message}");
    answer(&mut server, &mut first, 50).await;
    let mut server = accept(&mut upstream).await;
    answer(&mut server, &mut third, 10).await;
    assert_eq!(hits(&sidecar, "a", "*"), [0.0, 2.0, 1.0]);
    let lines = sidecar.exchanges().await;
    let line = lines.iter().find(|line| line["code"] == 429).unwrap();
    assert_eq!(
        (&line["limit"]["action"], &line["limit"]["delay_seconds"]),
        (&"rejected".into(), &20.0.into())
    );
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_while_he_waits_frees_his_place() {
    let (sidecar, mut upstream) = start("{tenant: a, tokens_per_minute: 100, action: delay, max_delay: 3m}");
    let mut first = send(&sidecar, &request("a", "m", 60)).await;
    let mut server = accept(&mut upstream).await;
    let second = send(&sidecar, &request("a", "m", 80)).await;
    let mut third = send(&sidecar, &request("a", "m", 40)).await;
    tokio::time::sleep(SECOND).await;
    assert!(!upstream.has_more());
    drop(second);
    answer(&mut accept(&mut upstream).await, &mut third, 40).await;
    answer(&mut server, &mut first, 60).await;
    let lines = sidecar.exchanges().await;
    let gone = lines.iter().find(|line| line["outcome"] == "client_gone").unwrap();
    assert!(gone["code"].is_null() && gone["duration_seconds"].as_f64().unwrap() < 1.1, "{gone}");
}

#[tokio::test(start_paused = true)]
async fn an_observed_limit_counts_and_touches_nothing() {
    let (sidecar, mut upstream) = start("{tenant: a, tokens_per_minute: 100}");
    for (tokens, observed) in [(100, 0.0), (1_000, 1.0), (10, 2.0)] {
        let mut client = send(&sidecar, &request("a", "m", tokens)).await;
        answer(&mut accept(&mut upstream).await, &mut client, tokens).await;
        assert_eq!(hits(&sidecar, "a", "*"), [observed, 0.0, 0.0]);
    }
    assert_eq!(used(&sidecar, "a", "*"), (1_110.0, 100.0));
    tokio::time::sleep(62 * SECOND).await;
    assert_eq!(used(&sidecar, "a", "*"), (0.0, 100.0), "nobody owes anything");
    let lines = sidecar.exchanges().await;
    assert_eq!(lines[1]["limit"], json!({"action": "observed", "model": "*", "reserved": 1_000}));
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_a_model_holds_for_that_model() {
    let (sidecar, mut upstream) = start(
        "{tenant: '*', model: m, tokens_per_minute: 100, action: reject}, {tenant: a, tokens_per_minute: 150, action: reject}",
    );
    let mut first = send(&sidecar, &request("a", "m", 100)).await;
    answer(&mut accept(&mut upstream).await, &mut first, 100).await;
    assert_eq!(refused(&mut send(&sidecar, &request("a", "m", 10)).await).await.1["error"]["code"], 429);
    let mut other = send(&sidecar, &request("a", "n", 50)).await;
    answer(&mut accept(&mut upstream).await, &mut other, 50).await;
    let (head, _) = refused(&mut send(&sidecar, &request("a", "n", 10)).await).await;
    assert!(head.contains("x-ratelimit-limit-tokens: 150\r\n"), "{head}");
    let mut free = send(&sidecar, &request("b", "n", 9_000)).await;
    answer(&mut accept(&mut upstream).await, &mut free, 9_000).await;
    assert_eq!([used(&sidecar, "a", "m"), used(&sidecar, "a", "*")], [(100.0, 100.0), (150.0, 150.0)]);
    assert_eq!((hits(&sidecar, "a", "m"), hits(&sidecar, "a", "*")), ([0.0, 0.0, 1.0], [0.0, 0.0, 1.0]));
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_own_refusal_is_not_ours_and_costs_nothing() {
    let (sidecar, mut upstream) = start("{tenant: a, tokens_per_minute: 100, action: reject}");
    let mut client = send(&sidecar, &request("a", "m", 100)).await;
    let body = r#"{"error":{"message":"Slow down","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    accept(&mut upstream).await.write(format!("{head}{body}")).await;
    client.read_to(body).await;
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["limit"]), (&"upstream_refused".into(), &Value::Null));
    assert_eq!((used(&sidecar, "a", "*").0, hits(&sidecar, "a", "*")), (0.0, [0.0; 3]));
}

#[tokio::test(start_paused = true)]
async fn a_prompt_is_counted_where_there_is_a_tokenizer_and_the_longest_answer_guessed_where_none_is_given() {
    let model = "models: [{name: gpt, tokenizer: {encoding: o200k_base}}]";
    let limits = "limits: [{tenant: a, tokens_per_minute: 100000, action: reject}]";
    let (sidecar, mut upstream) = Sidecar::start(&format!("{UPSTREAM}{model}\n{limits}\n"));
    let content = "word ".repeat(600);
    let body =
        json!({"model": "gpt", "messages": [{"role": "user", "content": content.trim_end()}]}).to_string();
    let request = of_body("a", &body);
    let mut client = sidecar.connect();
    client.write(&request).await;
    let mut server = upstream.accept().await;
    server.read_to(&body).await;
    // 600 of the text, 3 of the message, 1 of its role, 3 that begin the answer; 500 of one that nobody knows yet.
    assert_eq!(used(&sidecar, "a", "*").0, 607.0 + 500.0);
    answer(&mut server, &mut client, 900).await;
    tokio::time::sleep(SECOND).await;
    client.write(&request).await;
    upstream.accept().await.read_to(&body).await;
    assert_eq!(used(&sidecar, "a", "*").0, 900.0 + 607.0 + 899.0, "as long as the last one's");
}

#[tokio::test(start_paused = true)]
async fn a_long_request_is_charged_what_is_known_of_it_and_passes() {
    let (sidecar, mut upstream) = start("{tenant: a, model: m, tokens_per_minute: 1000000, action: reject}");
    let picture = "A".repeat(3 << 20);
    let url = format!(r#"{{"url":"data:image/png;base64,{picture}"}}"#);
    let content = format!(r#"[{{"type":"image_url","image_url":{url}}}]"#);
    let body =
        format!(r#"{{"model":"m","max_tokens":77,"messages":[{{"role":"user","content":{content}}}]}}"#);
    let request = of_body("a", &body);
    let mut client = sidecar.connect();
    sidecar.beside(async move {
        client.write(request).await;
        std::future::pending::<()>().await;
    });
    let mut server = upstream.accept().await;
    server.read_to(r#""}}]}]}"#).await;
    assert_eq!(used(&sidecar, "a", "m").0, 77.0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_asks_for_an_upgrade_is_held_to_the_limit_all_the_same() {
    let (sidecar, mut upstream) = start("{tenant: a, tokens_per_minute: 100, action: reject}");
    let asks = |tokens| {
        request("a", "m", tokens).replacen("Host: api", "Host: api\r\nConnection: Upgrade\r\nUpgrade: h2c", 1)
    };
    let mut first = send(&sidecar, &asks(70)).await;
    let mut server = accept(&mut upstream).await;
    assert_eq!(used(&sidecar, "a", "*").0, 70.0);
    let (head, _) = refused(&mut send(&sidecar, &asks(31)).await).await;
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    answer(&mut server, &mut first, 40).await;
    assert_eq!(used(&sidecar, "a", "*").0, 40.0);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_written_in_another_way_is_held_to_the_limit_all_the_same() {
    let (sidecar, _upstream) = start("{tenant: a, tokens_per_minute: 100, action: reject}");
    for path in [
        "/v1/chat/completion%73",
        "/v1/chat%2fcompletions",
        "//v1/chat/completions",
        "/v1/ch%61t/completions/",
    ] {
        let request = request("a", "m", 101).replacen("/v1/chat/completions", path, 1);
        let (head, _) = refused(&mut send(&sidecar, &request).await).await;
        assert!(head.starts_with("http/1.1 429 "), "{path}: {head}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_minute_has_room_for_does_not_wait_for_its_turn() {
    let (sidecar, mut upstream) = start("{tenant: a, tokens_per_minute: 100, action: delay, max_delay: 3m}");
    let _first = send(&sidecar, &request("a", "m", 100)).await;
    let _server = accept(&mut upstream).await;
    let _second = send(&sidecar, &request("a", "m", 100)).await;
    let mut third = send(&sidecar, &request("a", "m", 101)).await;
    let (head, _) = tokio::time::timeout(SECOND, refused(&mut third)).await.unwrap();
    assert!(head.contains("\r\nx-should-retry: false\r\n"), "{head}");
}

#[tokio::test(start_paused = true)]
async fn who_waited_behind_another_one_is_told_what_is_taken() {
    let (sidecar, mut upstream) = start(
        "{tenant: a, model: m, tokens_per_minute: 100, action: delay, max_delay: 3m}, \
         {tenant: a, model: n, tokens_per_minute: 100, action: delay, max_delay: 20s}",
    );
    let _first = send(&sidecar, &request("a", "m", 100)).await;
    let _server = accept(&mut upstream).await;
    let _second = send(&sidecar, &request("a", "m", 60)).await;
    let (head, body) = refused(&mut send(&sidecar, &request("a", "n", 10)).await).await;
    assert!(head.contains("\r\nx-ratelimit-remaining-tokens: 100\r\n"), "{head}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("of the limit of 100 tokens per minute 0 are taken"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_only_observed_limits_match_asks_nobody() {
    let (sidecar, mut upstream) = Sidecar::start(&format!(
        "{UPSTREAM}models: [{{name: m}}, {{name: n}}]\nlimit_store: redis://127.0.0.1:1\nlimits: [{{tokens_per_minute: 100}}, \
         {{model: m, tokens_per_minute: 100, action: reject}}]\n"
    ));
    for (model, asked) in [("n", 0.0), ("m", 1.0), ("n", 1.0)] {
        let mut client = send(&sidecar, &request("a", model, 60)).await;
        answer(&mut accept(&mut upstream).await, &mut client, 60).await;
        assert_eq!(sidecar.sample("streamgauge_limit_store_fallbacks_total"), Some(asked), "{model}");
    }
    assert_eq!((used(&sidecar, "a", "*").0, hits(&sidecar, "a", "*")[0]), (180.0, 2.0));
}

#[tokio::test(start_paused = true)]
async fn members_that_are_given_twice_or_escaped_count_as_upstreams_read_them() {
    let (sidecar, mut upstream) = start("{tenant: a, tokens_per_minute: 100000, action: reject}");
    let mut open = Vec::new();
    for members in [
        r#""max_tokens":1,"max_tokens":999"#,
        r#""max_tokens":1,"max\u005ftokens":999"#,
        r#""max_tokens":null,"max_completion_tokens":999"#,
        r#""max_tokens":333,"n":3"#,
        r#""max_tokens":999,"n":0"#,
        r#""max_tokens":999.0"#,
    ] {
        let body = format!(r#"{{"model":"m",{members},"messages":[{{"role":"user","content":"hey"}}]}}"#);
        open.push((send(&sidecar, &of_body("a", &body)).await, accept(&mut upstream).await));
        assert_eq!(used(&sidecar, "a", "*").0, 1_000.0 * open.len() as f64, "{members}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_model_nobody_can_read_is_held_to_the_limits_of_all_models() {
    let (sidecar, mut upstream) = start("{tenant: a, model: m, tokens_per_minute: 600, action: reject}");
    let request = "POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nX-Tenant-Id: a\r\nContent-Encoding: gzip\r\n\
                   Content-Length: 4\r\n\r\n";
    for is_first in [true, false] {
        let mut client = send(&sidecar, request).await;
        client.write([0x1f, 0x8b, 8, 0]).await;
        if is_first {
            let mut server = upstream.accept().await;
            server.read_head().await;
            assert_eq!(used(&sidecar, "a", "m").0, 500.0, "an answer of a model that nobody knows");
            sidecar.beside(async move {
                let _open = (server, client);
                std::future::pending::<()>().await;
            });
        } else {
            assert!(client.read_head().await.starts_with("HTTP/1.1 429 "));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_an_encoding_is_charged_what_it_asks_for_and_goes_up_as_it_came() {
    let (sidecar, mut upstream) = start("{tenant: a, model: m, tokens_per_minute: 600, action: reject}");
    let plain = r#"{"model":"m","max_tokens":399,"messages":[{"role":"user","content":"hey"}]}"#;
    let encoded = encode("gzip", &[(Duration::ZERO, plain.as_bytes())], true);
    let body: Vec<u8> = encoded.into_iter().flat_map(|(_, piece)| piece).collect();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nX-Tenant-Id: a\r\nContent-Encoding: gzip\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut client = send(&sidecar, &head).await;
    client.write(&body).await;
    let mut server = upstream.accept().await;
    assert!(server.read_head().await.to_ascii_lowercase().contains("content-encoding: gzip"));
    assert_eq!(server.read_exactly(body.len()).await, body);
    assert_eq!(used(&sidecar, "a", "m").0, 400.0);
    let mut other = send(&sidecar, &head).await;
    other.write(&body).await;
    assert!(other.read_head().await.starts_with("HTTP/1.1 429 "));
}
