//! What traffic there was, as Prometheus has it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::HOST;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::cli::{address, shown};

/// A model's tokens of the last days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traffic {
    /// The label.
    pub(super) model: String,
    pub(super) input: u64,
    pub(super) output: u64,
}

impl Traffic {
    /// Input and output.
    pub(super) const fn tokens(&self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

pub(super) const DAYS: u32 = 7;
const INPUT: &str = "streamgauge_input_tokens_total";
const OUTPUT: &str = "streamgauge_output_tokens_total";
const ANSWER_LIMIT: usize = 4 << 20; // some thousand models
const PATIENCE: Duration = Duration::from_secs(30); // a query over a week of many series takes seconds

/// Asks a Prometheus; the model with the most tokens first.
pub(super) fn ask(url: &Uri) -> anyhow::Result<Vec<Traffic>> {
    let address = address("--prometheus", url, "http://127.0.0.1:9090")?;
    let shown = shown(url);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let both = async {
        let input = query(url, &address, INPUT).await?;
        let output = query(url, &address, OUTPUT).await?;
        anyhow::Ok((input, output))
    };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, both).await });
    let (input, output) = answer
        .with_context(|| format!("--prometheus {shown}: no answer within {} s", PATIENCE.as_secs()))??;
    let traffic = together(input, output);
    if traffic.is_empty() {
        bail!(
            "--prometheus {shown}: it has no {INPUT} and no {OUTPUT} of the last {DAYS} days; \
             does it scrape a sidecar?"
        );
    }
    Ok(traffic)
}

/// What a counter grew by, for each model.
async fn query(url: &Uri, address: &str, counter: &str) -> anyhow::Result<Vec<(String, u64)>> {
    let shown = shown(url);
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("--prometheus {shown}: could not connect to {address}"))?;
    let failed = || format!("--prometheus {shown}: could not ask it");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(failed)?;
    let request = request(url, counter)?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?;
        anyhow::Ok((status, body.to_bytes()))
    };
    // The connection moves the bytes; it may end before its last answer has been taken.
    let mut exchange = std::pin::pin!(exchange);
    let answer = tokio::select! {
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    };
    let (status, body) = answer.with_context(failed)?;
    read(&body).map_err(|problem| match status.is_success() {
        true => anyhow::anyhow!("--prometheus {shown}: {problem}"),
        false => anyhow::anyhow!("--prometheus {shown}: {status}: {problem}"),
    })
}

/// An instant query of Prometheus' HTTP API (prometheus.io/docs/prometheus/latest/querying/api).
fn request(url: &Uri, counter: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
    let query = format!("sum by (model) (increase({counter}[{DAYS}d]))");
    let target = format!("{}/api/v1/query?query={}", url.path().trim_end_matches('/'), escaped(&query));
    let host = url.authority().map_or("", |authority| authority.as_str());
    Ok(Request::get(target).header(HOST, host).body(Empty::new())?)
}

/// As a query's value must be written.
fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if is_plain(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

#[derive(Debug, Deserialize)]
struct Answer {
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Data {
    result: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

/// Tokens by model, out of an answer. `increase` extrapolates, so they are rounded.
fn read(body: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| "the answer is none of Prometheus'; is it the URL of its web page?".to_owned())?;
    if let Some(error) = answer.error {
        return Err(error);
    }
    let samples = answer.data.map(|data| data.result).unwrap_or_default();
    let tokens = |sample: Sample| {
        let grown = sample.value.1.parse::<f64>().ok().filter(|grown| *grown >= 0.5)?;
        let model = sample.metric.get("model").cloned().unwrap_or_else(|| "unknown".to_owned());
        Some((model, grown.round() as u64))
    };
    Ok(samples.into_iter().filter_map(tokens).collect())
}

fn together(input: Vec<(String, u64)>, output: Vec<(String, u64)>) -> Vec<Traffic> {
    let mut models: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (model, tokens) in input {
        models.entry(model).or_default().0 += tokens;
    }
    for (model, tokens) in output {
        models.entry(model).or_default().1 += tokens;
    }
    let mut traffic: Vec<_> =
        models.into_iter().map(|(model, (input, output))| Traffic { model, input, output }).collect();
    traffic.sort_by_key(|traffic| std::cmp::Reverse(traffic.tokens()));
    traffic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_an_instant_query() {
        let request = request(&"http://h:9090/prometheus/".parse().unwrap(), INPUT).unwrap();
        assert_eq!(
            request.uri(),
            "/prometheus/api/v1/query?query=sum%20by%20%28model%29%20%28increase%28streamgauge_input_tokens_total%5B7d%5D%29%29"
        );
        assert_eq!(request.headers()[HOST], "h:9090");
    }

    #[test]
    fn answers_are_read() {
        let answer = br#"{"status": "success", "data": {"resultType": "vector", "result": [
            {"metric": {"model": "a"}, "value": [1700000000.1, "1234.6"]},
            {"metric": {}, "value": [1700000000, "7"]},
            {"metric": {"model": "idle"}, "value": [1700000000, "0"]},
            {"metric": {"model": "odd"}, "value": [1700000000, "NaN"]}]}}"#;
        assert_eq!(read(answer).unwrap(), [("a".to_owned(), 1235), ("unknown".to_owned(), 7)]);
        let refused = br#"{"status": "error", "errorType": "bad_data", "error": "parse error"}"#;
        assert_eq!(read(refused).unwrap_err(), "parse error");
        assert!(read(b"<html>").unwrap_err().contains("is it the URL"));
        assert_eq!(
            read(br#"{"status": "success", "data": {"resultType": "vector", "result": []}}"#),
            Ok(vec![])
        );
    }

    #[test]
    fn the_busiest_model_comes_first() {
        let of = |model: &str, tokens| (model.to_owned(), tokens);
        let traffic = together(vec![of("a", 1), of("b", 5)], vec![of("c", 9), of("b", 5)]);
        let models: Vec<_> = traffic.iter().map(|it| (it.model.as_str(), it.input, it.output)).collect();
        assert_eq!(models, [("b", 5, 5), ("c", 0, 9), ("a", 1, 0)]);
    }
}
