//! The whole program but its command line, on real ports: start, reload, drain, the admin port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use streamgauge::app::{App, Runtimes, Shell};
use streamgauge::clock::Clock;
use streamgauge::config::Config;
use streamgauge::sim::{Profile, Settings, Sim};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::harness::{LAST_CHUNK, LAST_EVENTS, STREAM_HEAD, chunk, token};

/// A sidecar before a simulated server.
struct World {
    app: App,
    text: Arc<Mutex<String>>,
    _sim_stop: DropGuard,
}

async fn world(more: &str) -> World {
    let profile =
        Profile { ttft: Duration::from_millis(5), tokens_per_second: 1000.0, ..Profile::new("sim") };
    let sim = Sim::new(Settings::with_models([profile]), Clock::start());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = config(listener.local_addr().unwrap(), more);
    let stop = CancellationToken::new();
    tokio::spawn(sim.serve(listener, stop.clone()));
    World { app: start(&text).await, text, _sim_stop: stop.drop_guard() }
}

/// A configuration as it stands in a file that changes.
fn config(upstream: SocketAddr, more: &str) -> Arc<Mutex<String>> {
    let text = format!(
        "upstream: http://{upstream}\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\nrequest_log: {{path: none}}\n{more}"
    );
    Arc::new(Mutex::new(text))
}

async fn start(text: &Arc<Mutex<String>>) -> App {
    let config = Config::parse(&text.lock(), &[]).unwrap();
    let read = Arc::clone(text);
    let shell = Shell {
        load: Box::new(move || Ok(Config::parse(&read.lock(), &[])?)),
        file: None,
        set_log_level: Box::new(|filter| {
            (filter == "info").then_some(()).ok_or_else(|| format!("`{filter}`?"))
        }),
    };
    let runtimes = Runtimes { data: vec![Handle::current()], accounts: Handle::current() };
    App::start(config, &runtimes, shell, None).await.unwrap()
}

/// A page, while there is somebody to ask.
async fn try_ask(address: SocketAddr, path: &str) -> Option<String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
    let request = Request::get(format!("http://{address}{path}")).body(Full::default()).unwrap();
    let body = client.request(request).await.ok()?.into_body().collect().await.ok()?;
    Some(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
    let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.request(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    (status, String::from_utf8_lossy(&body).into_owned())
}

async fn chat(address: SocketAddr, headers: &[(&str, &str)]) -> (u16, String) {
    let body = r#"{"model":"sim","stream":true,"max_tokens":5,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#;
    ask(address, "POST", "/v1/chat/completions", headers, body).await
}

fn sample(page: &str, sample: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
}

async fn page(world: &World) -> String {
    try_ask(world.app.admin, "/metrics").await.unwrap_or_default()
}

/// Asks until a sample has the value.
async fn wait_for(world: &World, name: &str, value: f64) {
    let reached = async {
        while sample(&page(world).await, name) != Some(value) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), reached).await.is_err() {
        panic!("{name} is not {value}:\n{}", page(world).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_counted_from_the_first_request_on() {
    let world = world("models: [{name: sim}]\ntenants: {known: [search]}\n").await;
    let tokens = "streamgauge_output_tokens_total{tenant=\"search\",model=\"sim\",upstream=\"default\"}";
    assert_eq!(sample(&page(&world).await, tokens), Some(0.0), "there at 0 from the start");
    let (status, body) = chat(world.app.data, &[("x-tenant-id", "search")]).await;
    assert_eq!(status, 200);
    assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
    wait_for(&world, tokens, 5.0).await;
    wait_for(&world, "streamgauge_requests_in_flight{upstream=\"default\"}", 0.0).await;
    let open_metrics = ask(
        world.app.admin,
        "GET",
        "/metrics",
        &[("accept", "application/openmetrics-text; version=1.0.0")],
        "",
    )
    .await
    .1;
    assert!(open_metrics.ends_with("# EOF\n"), "{open_metrics}");
    assert!(open_metrics.contains("# {request_id=\""), "an exemplar");
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_port_says_what_it_can() {
    let world = world("").await;
    let admin = world.app.admin;
    assert_eq!(ask(admin, "GET", "/live", &[], "").await.0, 200);
    assert_eq!(ask(admin, "GET", "/ready", &[], "").await.0, 200);
    assert_eq!(ask(admin, "GET", "/nothing", &[], "").await.0, 404);
    assert_eq!(ask(admin, "GET", "/reload", &[], "").await.0, 405);
    let index = ask(admin, "GET", "/", &[], "").await.1;
    assert!(index.starts_with("streamgauge, admin port\n") && index.contains("/api/v1/status"), "{index}");
    let (status, json) = ask(admin, "GET", "/api/v1/status", &[], "").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(status == 200 && json["ready"] == true, "{json}");
    let (status, page) = ask(admin, "GET", "/", &[("accept", "text/html,*/*;q=0.8")], "").await;
    assert!(status == 200 && page.starts_with("<!doctype html>") && page.ends_with("</html>\n"), "{page}");
    assert_eq!(ask(admin, "PUT", "/log-level", &[], "info").await.0, 200);
    assert_eq!(ask(admin, "PUT", "/log-level", &[], "loud").await, (400, "`loud`?\n".to_owned()));
    let (status, config) = ask(admin, "GET", "/config", &[], "").await;
    assert!(status == 200 && config.contains("drain_timeout: 25s"), "{config}");
    let page = ask(admin, "GET", "/metrics", &[("accept-encoding", "gzip")], "").await.1;
    assert!(!page.contains("# TYPE"), "compressed when asked");
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_what_is_right_and_leaves_the_old_for_what_is_not() {
    let world = world("").await;
    let admin = world.app.admin;
    let old = world.text.lock().clone();
    *world.text.lock() = format!("{old}tenants: {{default: nobody}}\n");
    assert_eq!(ask(admin, "POST", "/reload", &[], "").await.0, 200);
    assert_eq!(chat(world.app.data, &[]).await.0, 200);
    let ended = |tenant: &str| {
        format!(
            "streamgauge_requests_total{{tenant=\"{tenant}\",model=\"sim\",upstream=\"default\",dialect=\"openai_chat\",stream=\"true\",code=\"200\",outcome=\"completed\"}}"
        )
    };
    wait_for(&world, &ended("nobody"), 1.0).await;
    *world.text.lock() = format!("{old}tenant: {{}}\n");
    let (status, said) = ask(admin, "POST", "/reload", &[], "").await;
    assert_eq!(status, 400);
    assert!(said.contains("unknown field `tenant`"), "{said}");
    assert_eq!(sample(&page(&world).await, "streamgauge_config_last_reload_successful"), Some(0.0));
    assert_eq!(chat(world.app.data, &[]).await.0, 200);
    wait_for(&world, &ended("nobody"), 2.0).await;
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_a_stream_end_and_waits_for_one_more_scrape() {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app =
        start(&config(upstream.local_addr().unwrap(), "drain_timeout: 60s\nfinal_scrape_wait: 60s\n")).await;
    let (data, admin) = (app.data, app.admin);
    let streaming = tokio::spawn(async move { chat(data, &[]).await });
    let (mut server, _) = upstream.accept().await.unwrap();
    let mut request = [0; 4096];
    while !request.windows(2).any(|two| two == b"}]") {
        assert!(server.read(&mut request).await.unwrap() > 0);
    }
    server.write_all(STREAM_HEAD.as_bytes()).await.unwrap();
    server.write_all(chunk(&token("a")).as_bytes()).await.unwrap();
    let stopping = tokio::spawn(app.stop());
    while ask(admin, "GET", "/ready", &[], "").await.0 != 503 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.write_all(chunk(LAST_EVENTS).as_bytes()).await.unwrap();
    server.write_all(LAST_CHUNK.as_bytes()).await.unwrap();
    let (status, body) = streaming.await.unwrap();
    assert!(status == 200 && body.ends_with("data: [DONE]\n\n"), "{body}");
    // It stays until a scrape that began after all was settled; that one has everything.
    let page = scrape_until_ended(admin, stopping).await;
    assert_eq!(sample(&page, "streamgauge_request_output_tokens_count{model=\"m\"}"), Some(1.0), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_cuts_what_does_not_end_in_time() {
    let world = world("drain_timeout: 200ms\nfinal_scrape_wait: 30s\n").await;
    let (data, admin) = (world.app.data, world.app.admin);
    let streaming = tokio::spawn(async move { chat(data, &[("x-sim-fault", "hang")]).await });
    wait_for(&world, "streamgauge_requests_awaiting_first_token{upstream=\"default\"}", 1.0).await;
    let stopping = tokio::spawn(world.app.stop());
    drop(streaming.await);
    let page = scrape_until_ended(admin, stopping).await;
    assert!(page.contains("outcome=\"drained\"} 1"), "{page}");
    assert_eq!(sample(&page, "streamgauge_requests_in_flight{upstream=\"default\"}"), Some(0.0));
}

/// Scrapes until a sidecar that waits for its last scrape has ended; gives the last page.
async fn scrape_until_ended(admin: SocketAddr, stopping: tokio::task::JoinHandle<()>) -> String {
    let mut last = String::new();
    while !stopping.is_finished() {
        last = try_ask(admin, "/metrics").await.unwrap_or(last);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_does_not_hold_a_drain_up() {
    let upstream = SocketAddr::from(([127, 0, 0, 1], 9));
    let app = start(&config(upstream, "drain_timeout: 1h\n")).await;
    let mut half = tokio::net::TcpStream::connect(app.data).await.unwrap();
    half.write_all(b"GET / HT").await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), app.stop())
        .await
        .expect("it waits for the rest of the head");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_keep_the_admin_port_from_answering() {
    let world = world("").await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(world.app.admin).await.unwrap());
    }
    drop(silent.drain(..100));
    wait_for(&world, "streamgauge_config_last_reload_successful", 1.0).await;
}

/// The lines of a usage ledger, in their order.
fn ledger(folder: &std::path::Path) -> Vec<serde_json::Value> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_usage_ledger_says_what_the_metrics_say() {
    let folder = std::env::temp_dir().join(format!("streamgauge-usage-{}", std::process::id()));
    let more = format!(
        "models: [{{name: sim, price: {{currency: USD, input: 0.15, output: 0.6}}}}]\n\
         usage_ledger: {{path: {}, rotate: 4KiB}}\n",
        folder.join("a/b").display()
    );
    let world = world(&more).await;
    for turn in 0..20 {
        let tenant = ["search", "support"][turn % 2];
        assert_eq!(chat(world.app.data, &[("x-tenant-id", tenant)]).await.0, 200);
    }
    assert_eq!(ask(world.app.data, "GET", "/v1/models", &[], "").await.0, 200);
    assert_eq!(ask(world.app.data, "POST", "/v1/chat/completions", &[], "{").await.0, 400);
    wait_for(&world, "streamgauge_requests_ended_total{upstream=\"default\"}", 22.0).await;
    wait_for(&world, "streamgauge_unsettled_tokens{direction=\"output\",state=\"live\"}", 0.0).await;
    let page = page(&world).await;
    world.app.stop().await;
    let lines = ledger(&folder.join("a/b"));
    let numbers: Vec<_> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=22).collect::<Vec<_>>());
    for tenant in ["search", "support"] {
        let of: Vec<_> = lines.iter().filter(|line| line["tenant"] == tenant).collect();
        assert_eq!(of.len(), 10);
        let labels = format!("tenant=\"{tenant}\",model=\"sim\",upstream=\"default\"");
        for (name, member) in [
            ("input_tokens_total", "input_tokens"),
            ("output_tokens_total", "output_tokens"),
            ("cost_total", "cost"),
        ] {
            let sum: f64 = of.iter().map(|line| line[member].as_f64().unwrap()).sum();
            let currency = if member == "cost" { ",currency=\"USD\"" } else { "" };
            let counted = sample(&page, &format!("streamgauge_{name}{{{labels}{currency}}}")).unwrap();
            assert!(sum > 0.0 && (sum - counted).abs() < 1e-12, "{name} of {tenant}: {sum} and {counted}");
        }
    }
    let rest: Vec<_> = lines.iter().filter(|line| line["tenant"] == "anonymous").collect();
    let outcomes: Vec<_> =
        rest.iter().map(|line| (&line["code"], line["outcome"].as_str().unwrap())).collect();
    assert_eq!(outcomes, [(&200.into(), "completed"), (&400.into(), "upstream_refused")]);
    assert!(rest.iter().all(|line| line.get("input_tokens").is_none() && line.get("cost").is_none()));
    std::fs::remove_dir_all(folder).unwrap();
}
