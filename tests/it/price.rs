//! What exchanges cost: the price that held when they began.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use serde_json::value::RawValue;
use streamgauge::account::learned::Learned;
use streamgauge::account::price::KINDS;
use streamgauge::account::settle::{Counts, Finished, settle};
use streamgauge::account::slo::Slos;
use streamgauge::config::Config;
use streamgauge::exchange::{DialectId, Ending, ModelNames, Name, Usage};
use streamgauge::live::Origin;
use streamgauge::observe::Observation;
use streamgauge::sinks::request_log::Line;

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

/// What a stream costs that reports this, in millionths; a token of input costs one, of output ten.
async fn millionths(price: &str, report: &str) -> f64 {
    let price = format!("{{currency: USD, input: 1, output: 10{price}}}");
    let config = format!("upstream: http://upstream:8000\nmodels: [{{name: m, price: {price}}}]\n");
    let (sidecar, mut upstream) = Sidecar::start(&config);
    let line = stream(&sidecar, &mut upstream, report).await;
    (line["cost"].as_f64().unwrap() * 1e12).round() / 1e6
}

#[tokio::test(start_paused = true)]
async fn each_servers_way_to_report_is_priced_as_it_is_meant() {
    // xAI: thoughts beside the output; only the total has both.
    let usage = r#""usage":{"prompt_tokens":10120,"completion_tokens":1499,"total_tokens":14428,"completion_tokens_details":{"reasoning_tokens":2809}}"#;
    assert_eq!(millionths("", usage).await, 10_120.0 + 10.0 * 4_308.0);
    // OpenAI: thoughts in it.
    let usage = r#""usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"completion_tokens_details":{"reasoning_tokens":40}}"#;
    assert_eq!(millionths("", usage).await, 100.0 + 10.0 * 50.0);
    // LiteLLM before Anthropic: what was written to the cache.
    let usage = r#""usage":{"prompt_tokens":1000,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":0},"cache_creation_input_tokens":900,"cache_read_input_tokens":0}"#;
    assert_eq!(millionths(", cache_write: 2", usage).await, 100.0 + 2.0 * 900.0);
    // Moonshot.
    let usage = r#""usage":{"prompt_tokens":1000,"completion_tokens":0,"cached_tokens":900}"#;
    assert_eq!(millionths(", cache_read: 0.1", usage).await, 100.0 + 90.0);
    // llama.cpp without details in its usage: its timings tell.
    let usage = r#""usage":{"prompt_tokens":1000,"completion_tokens":0},"timings":{"cache_n":900,"prompt_n":100,"predicted_n":0}"#;
    assert_eq!(millionths(", cache_read: 0.1", usage).await, 100.0 + 90.0);
}

/// Gemini 3.5 Flash in the standard tier: 1.50 US dollars for a million tokens of input, 0.15 where they are cached, 9 of
/// output, thoughts in it (<https://ai.google.dev/gemini-api/docs/pricing>, read 2026-10-05).
#[tokio::test(start_paused = true)]
async fn gemini_is_priced_by_googles_list_with_cached_input_and_thoughts_once() {
    let config = "upstream: http://upstream:8000\nmodels: [{name: gemini-3.5-flash, \
                  price: {currency: USD, input: 1.50, cache_read: 0.15, output: 9}}]\n";
    let (sidecar, mut upstream) = Sidecar::start(config);
    let mut client = sidecar.connect();
    let body = r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#;
    let request =
        post(body).replace("/v1/chat/completions", "/v1beta/models/gemini-3.5-flash:streamGenerateContent");
    client.write(request).await;
    let mut server = upstream.accept().await;
    server.read_to(body).await;
    server.write(STREAM_HEAD.replace("text/event-stream", "application/json")).await;
    let usage = r#"{"promptTokenCount":100000,"cachedContentTokenCount":80000,"candidatesTokenCount":1000,"thoughtsTokenCount":3000,"totalTokenCount":104000}"#;
    let part = r#""content":{"parts":[{"text":"a"}]}"#;
    let element = format!(r#"[{{"candidates":[{{{part},"finishReason":"STOP"}}],"usageMetadata":{usage}}}]"#);
    server.write(chunk(&element)).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    let line = sidecar.exchanges().await.pop().unwrap();
    assert_eq!(cost(&line), (0.078, "USD", "config"));
}

/// Claude Sonnet 5 on Bedrock by its global profile: 2 US dollars for a million tokens of input, 0.20 where they are read
/// from the cache, 2.50 where they are written to it, 10 of output (<https://aws.amazon.com/bedrock/pricing/>, read
/// 2026-09-22). Bedrock counts cached input apart from the rest.
#[tokio::test(start_paused = true)]
async fn bedrock_is_priced_by_amazons_list_with_cached_input_once() {
    let config = "upstream: http://upstream:8000\nmodels: [{name: \"global.anthropic.claude-sonnet-5-v1:0\", \
                  price: {currency: USD, input: 2, cache_read: 0.20, cache_write: 2.50, output: 10}}]\n";
    let (sidecar, mut upstream) = Sidecar::start(config);
    let mut client = sidecar.connect();
    let body = r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}]}"#;
    let path = "/model/global.anthropic.claude-sonnet-5-v1%3A0/converse";
    client.write(post(body).replace("/v1/chat/completions", path)).await;
    let mut server = upstream.accept().await;
    server.read_to(body).await;
    server.write(STREAM_HEAD.replace("text/event-stream", "application/json")).await;
    let usage = r#"{"inputTokens":20000,"cacheReadInputTokens":70000,"cacheWriteInputTokens":10000,"outputTokens":2000,"totalTokens":102000}"#;
    let message = r#"{"role":"assistant","content":[{"text":"a"}]}"#;
    let answer = format!(r#"{{"output":{{"message":{message}}},"stopReason":"end_turn","usage":{usage}}}"#);
    server.write(chunk(&answer)).await;
    server.write(LAST_CHUNK).await;
    client.read_to(LAST_CHUNK).await;
    let line = sidecar.exchanges().await.pop().unwrap();
    assert_eq!(line["input_tokens"], 100_000);
    assert_eq!(cost(&line), (0.099, "USD", "config")); // 0.04 + 0.014 + 0.025 + 0.02
}

#[tokio::test(start_paused = true)]
async fn a_long_request_in_a_tier_has_that_tiers_price_of_long_ones() {
    let price = ", above: [{input_tokens: 100, input: 2, output: 15}], tiers: [{tier: priority, input: 3, output: 30, above: [{input_tokens: 100, input: 6, output: 45}]}]";
    let of = |tokens: u32| {
        format!(
            "\"service_tier\":\"priority\",\"usage\":{{\"prompt_tokens\":{tokens},\"completion_tokens\":0}}"
        )
    };
    assert_eq!(millionths(price, &of(100)).await, 300.0);
    assert_eq!(millionths(price, &of(101)).await, 606.0);
}

#[tokio::test(start_paused = true)]
async fn a_price_of_a_list_is_shown_and_used_for_alternatives_by_whichever_name_it_is_found() {
    let file = std::env::temp_dir().join(format!("streamgauge-prices-{}.yaml", std::process::id()));
    let list = "version: v\nmodels:\n  - {match: [m-*, m], price: {currency: USD, input: 1, output: 10}}\n  - {match: [big-*], price: {currency: USD, input: 2, output: 20}}\n";
    std::fs::write(&file, list).unwrap();
    let config = format!(
        "upstream: http://upstream:8000\nmodels: [{{match: ['m*'], name: four, alternatives: [big]}}, {{match: ['big-*'], name: big}}]\nprices: {{file: {}}}\n",
        file.display()
    );
    let (sidecar, mut upstream) = Sidecar::start(&config);
    let report = r#""usage":{"prompt_tokens":1000,"completion_tokens":0}"#;
    let line = stream(&sidecar, &mut upstream, report).await;
    assert_eq!(cost(&line), (0.001, "USD", "v"));
    let shown = |model: &str| {
        sidecar
            .value("price_per_million_tokens", &format!("model=\"{model}\",kind=\"input\",currency=\"USD\""))
    };
    assert_eq!((shown("four"), shown("big")), (1.0, 2.0));
    let of = "tenant=\"anonymous\",model=\"four\",alternative=\"big\",currency=\"USD\"";
    assert_eq!(sidecar.value("alternative_cost_total", of), 0.002);
    std::fs::remove_file(&file).unwrap();
}

/// The lists that are shipped can be used together, and each holds prices that hold now.
#[test]
fn every_shipped_list_is_right() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("prices");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let lists: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    assert_eq!(lists.len(), 7);
    let named: Vec<_> = lists.iter().map(|path| format!("{{file: {}}}", path.display())).collect();
    let config = format!("upstream: http://u:1\nprices: [{}]\n", named.join(", "));
    let models = Config::parse(&config, &[]).unwrap().models;
    let day = put_together();
    for (model, input) in [("gpt-4o-2024-08-06", 2.5), ("gpt-4o-mini", 0.15), ("claude-opus-4-1", 15.0)] {
        let names = ModelNames { served: Some(Name::from(model)), ..ModelNames::default() };
        let price = models.price(&names, day).map(|price| price.ordinary.rates.input.per_million());
        assert_eq!(price, Some(input), "{model}");
    }
}

/// 2026-11-26, when the lists were put together.
fn put_together() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_651_200)
}

/// Numbers that look random and are the same in each run: xorshift.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A price in millionths for a million tokens, as it stands in a configuration.
fn written(millionths: u64) -> String {
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

/// A number of the log, which has up to twelve decimals, in units of the last of them.
fn read(decimal: &str) -> u128 {
    let (whole, decimals) = decimal.split_once('.').unwrap_or((decimal, ""));
    format!("{whole}{decimals:0<12}").parse().unwrap()
}

/// The log's sum against one that is made here from the prices as they are written.
#[test]
fn a_million_costs_of_the_log_add_up_to_the_last_digit() {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let rates = KINDS.map(|_| numbers.below(80_000_000));
    let price: Vec<_> =
        KINDS.iter().zip(rates).map(|(kind, rate)| format!("{kind}: {}", written(rate))).collect();
    let price = price.join(", ");
    let config = format!("upstream: http://u:1\nmodels: [{{name: m, price: {{currency: USD, {price}}}}}]\n");
    let models = Config::parse(&config, &[]).unwrap().models;
    let (mut logged, mut by_hand) = (0_u128, 0_u128);
    for number in 0..1_000_000 {
        let parts = [100_000, 50_000, 2_000, 1_000, 20_000, 9_000, 300, 200].map(|end| numbers.below(end));
        let exchange = settle(
            completed(number, parts),
            Counts::default(),
            &models,
            &Slos::default(),
            &Learned::default(),
            Name::from("config"),
            SystemTime::UNIX_EPOCH,
        );
        logged += cost_of_line(&serde_json::to_string(&Line::of(&exchange)).unwrap());
        let costs = parts.iter().zip(rates).map(|(tokens, rate)| u128::from(*tokens) * u128::from(rate));
        by_hand += costs.sum::<u128>();
    }
    assert_eq!(logged, by_hand);
}

/// A completed exchange with so many tokens, each of one of the [`KINDS`].
fn completed(number: u64, parts: [u64; KINDS.len()]) -> Finished {
    let [fresh, cached, minutes, hour, answer, thought, heard, spoken] = parts;
    let usage = Usage {
        input: Some(fresh + cached + minutes + hour + heard),
        cache_read: Some(cached),
        cache_write: Some(minutes + hour),
        cache_write_1h: Some(hour),
        audio_input: Some(heard),
        output: Some(answer + thought + spoken),
        reasoning: Some(thought),
        audio_output: Some(spoken),
        ..Usage::default()
    };
    let mut observation = Observation { usage, served: Some(Name::from("m")), ..Observation::default() };
    observation.closure.code = Some(200);
    let origin = Origin {
        number,
        request_id: Name::from("r"),
        trace_id: None,
        tenant: Name::from("t"),
        upstream: Name::from("u"),
        dialect: DialectId("openai_chat"),
        started: Default::default(),
    };
    Finished {
        origin,
        observation: Box::new(observation),
        ending: Ending::Clean,
        connect: None,
        overhead_request: None,
        overhead_response: Duration::ZERO,
        limited: None,
        in_flight_at_start: 0,
    }
}

fn cost_of_line(line: &str) -> u128 {
    #[derive(serde::Deserialize)]
    struct Costs<'a> {
        #[serde(borrow)]
        cost: &'a RawValue,
    }
    read(serde_json::from_str::<Costs<'_>>(line).unwrap().cost.get())
}
