//! Asks a Prometheus through its HTTP API (prometheus.io/docs/prometheus/latest/querying/api). Knows the shape of its
//! answers and nothing of what the series mean. No TLS, no password: an error says so.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::{address, shown};

const PATIENCE: Duration = Duration::from_secs(60); // a query over a week of many series takes seconds
const ANSWER_LIMIT: usize = 64 << 20; // two million samples; what asks keeps well below

/// A Prometheus that can be asked, one query at a time.
#[derive(Debug)]
pub(super) struct Prometheus {
    url: Uri,
    address: String,
    runtime: Runtime,
}

/// A series of an answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub(super) struct Series {
    /// Its labels.
    pub(super) metric: BTreeMap<String, String>,
    /// Unix seconds and value, in order; a single one of an instant vector.
    pub(super) values: Vec<(f64, f64)>,
}

impl Prometheus {
    /// The server behind `--prometheus`. Nothing is sent yet.
    pub(super) fn at(url: &Uri) -> anyhow::Result<Self> {
        let address = address("--prometheus", url, "http://127.0.0.1:9090")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { url: url.clone(), address, runtime })
    }

    /// How an error begins.
    pub(super) fn name(&self) -> String {
        format!("--prometheus {}", shown(&self.url))
    }

    /// What a query is now, or was at a Unix second; of a range vector all its samples, as they were scraped.
    pub(super) fn query(&self, query: &str, at: Option<f64>) -> anyhow::Result<Vec<Series>> {
        let at = at.map(|at| format!("&time={at:.3}")).unwrap_or_default();
        self.ask(&format!("/api/v1/query?query={}{at}", escaped(query)))
    }

    /// What a query was from `start` to `end`, each `step` seconds.
    pub(super) fn query_range(
        &self,
        query: &str,
        (start, end): (f64, f64),
        step: f64,
    ) -> anyhow::Result<Vec<Series>> {
        let query = escaped(query);
        self.ask(&format!("/api/v1/query_range?query={query}&start={start:.3}&end={end:.3}&step={step:.3}"))
    }

    fn ask(&self, path: &str) -> anyhow::Result<Vec<Series>> {
        let name = self.name();
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.get(path)).await });
        let (status, body) =
            answer.with_context(|| format!("{name}: no answer within {} s", PATIENCE.as_secs()))??;
        read(&body).map_err(|problem| match status.is_success() {
            true => anyhow!("{name}: {problem}"),
            false => anyhow!("{name}: {status}: {problem}"),
        })
    }

    async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let (name, address) = (self.name(), &self.address);
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("{name}: could not connect to {address}"))?;
        let failed = || format!("{name}: could not ask it");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(failed)?;
        let request = request(&self.url, path)?;
        let exchange = async {
            let response = sender.send_request(request).await.with_context(failed)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            match body {
                Ok(body) => Ok((status, body.to_bytes())),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => bail!(
                    "{name}: an answer of over {} MiB, for there are too many series; ask for a shorter time",
                    ANSWER_LIMIT >> 20
                ),
                Err(error) => Err(anyhow!("{error}")).with_context(failed),
            }
        };
        // The connection moves the bytes; it may end before its last answer has been taken.
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    }
}

fn request(url: &Uri, path: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
    let target = format!("{}{path}", url.path().trim_end_matches('/'));
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
    result: Vec<Series>,
}

/// A series as it is written: with one sample, or with several.
#[derive(Debug, Deserialize)]
struct Written {
    metric: BTreeMap<String, String>,
    value: Option<Sample>,
    #[serde(default)]
    values: Vec<Sample>,
}

/// `[1700000000.1, "12"]`
#[derive(Debug, Deserialize)]
struct Sample(f64, String);

impl TryFrom<Written> for Series {
    type Error = std::num::ParseFloatError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let samples = written.value.into_iter().chain(written.values);
        let values = samples.map(|Sample(at, value)| Ok((at, value.parse()?))).collect::<Result<_, _>>()?;
        Ok(Self { metric: written.metric, values })
    }
}

fn read(body: &[u8]) -> Result<Vec<Series>, String> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| "the answer is none of Prometheus'; is it the URL of its web page?".to_owned())?;
    match (answer.data, answer.error) {
        (_, Some(error)) => Err(error),
        (data, None) => Ok(data.map(|data| data.result).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_url_stays_before_the_apis() {
        let request =
            request(&"http://h:9090/prometheus/".parse().unwrap(), "/api/v1/query?query=up").unwrap();
        assert_eq!(request.uri(), "/prometheus/api/v1/query?query=up");
        assert_eq!(request.headers()[HOST], "h:9090");
        assert_eq!(escaped("sum by (model) (x[7d])"), "sum%20by%20%28model%29%20%28x%5B7d%5D%29");
    }

    #[test]
    fn answers_are_read() {
        let vector = br#"{"status": "success", "data": {"resultType": "vector", "result": [
            {"metric": {"model": "a"}, "value": [1700000000.1, "1234.6"]}]}}"#;
        let matrix = br#"{"status": "success", "data": {"resultType": "matrix", "result": [
            {"metric": {}, "values": [[1, "0"], [2.5, "NaN"], [3, "+Inf"]]}]}}"#;
        let series = read(vector).unwrap();
        assert_eq!(
            (series[0].metric["model"].as_str(), &series[0].values[..]),
            ("a", &[(1_700_000_000.1, 1234.6)][..])
        );
        let values = &read(matrix).unwrap()[0].values;
        assert_eq!((values[0], values[2]), ((1.0, 0.0), (3.0, f64::INFINITY)));
        assert!(values[1].1.is_nan());
        let refused = br#"{"status": "error", "errorType": "bad_data", "error": "parse error"}"#;
        assert_eq!(read(refused).unwrap_err(), "parse error");
        for broken in ["<html>", r#"{"data": {"result": [{"metric": {}, "value": [1, "x"]}]}}"#] {
            assert!(read(broken.as_bytes()).unwrap_err().contains("is it the URL"), "{broken}");
        }
        let nothing = br#"{"status": "success", "data": {"resultType": "vector", "result": []}}"#;
        assert_eq!(read(nothing), Ok(vec![]));
    }
}
