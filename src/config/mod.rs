//! The configuration, resolved: every value in it is right. [`mod@file`] says what the YAML may hold and turns it
//! into this, or into an error that names key, line and column.

mod budget;
mod error;
pub mod file;
mod hardware;
mod ledger;
mod limit;
mod model;
mod price;
mod slo;
mod tenant;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use error::Error;
pub use file::File;
pub use value::{Listen, SecretUrl, UpstreamUrl};

use crate::account::budget::BudgetList;
use crate::account::model::Models;
use crate::account::quota::Limits;
use crate::account::slo::Slos;
use crate::account::tenant::Tenants;
use crate::exchange::Name;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where Prometheus and operators connect.
    pub admin: SocketAddr,
    /// How long running streams may go on after a signal to end.
    pub drain_timeout: Duration,
    /// How long `/metrics` stays up for one scrape begun after the last exchange was settled.
    pub final_scrape_wait: Duration,
    /// The inference servers.
    pub upstreams: Vec<Upstream>,
    /// Who asks.
    pub tenants: Tenants,
    /// Which models are known by name.
    pub models: Arc<Models>,
    /// What is promised of exchanges.
    pub slos: Slos,
    /// How many tokens tenants may use.
    pub limits: Limits,
    /// Where replicas share what is used of them, and what is spent.
    pub limit_store: LimitStore,
    /// How much tenants are meant to spend.
    pub budgets: BudgetList,
    /// The exposition.
    pub metrics: Metrics,
    /// The log of exchanges.
    pub request_log: RequestLog,
    /// One line for every exchange, for bills; none unless set.
    pub usage_ledger: Option<UsageLedger>,
    /// 16 hex digits: tells which configuration an exchange met.
    pub hash: Name,
    /// The file that this is, with every default filled in.
    pub file: File,
}

/// The label `upstream` of requests that no upstream matches.
pub const NO_UPSTREAM: &str = "none";

impl Config {
    /// Reads a file's text. `histograms` are the names whose buckets may be set.
    ///
    /// # Errors
    /// What is wrong in it, with the key's path, line and column.
    pub fn parse(text: &str, histograms: &[&str]) -> Result<Self, Error> {
        File::parse(text)?.resolve(histograms, text)
    }

    /// The whole of it as YAML, every default filled in.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(&self.file).unwrap_or_default()
    }

    /// The same for whoever asks over the network: without the queries of URLs, which may have a key.
    pub fn to_shown_yaml(&self) -> String {
        let secret = self.tenants.to_fetch().filter(|keys| keys.url.query().is_some());
        secret.fold(self.to_yaml(), |yaml, keys| {
            yaml.replace(&keys.url.to_string(), &format!("{}?…", keys.label()))
        })
    }
}

/// Where limits' windows are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LimitStore {
    /// In this process.
    #[default]
    Memory,
    /// On a server that speaks Redis' protocol, for all replicas.
    Redis(SecretUrl),
}

/// The exposition's limits.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// How many models that are not configured get series of their own.
    pub model_limit: usize,
    /// Whether the histograms that have a model have the tenant too.
    pub tenant_on_histograms: bool,
    /// After how long without a change a series is dropped.
    pub idle_series: Duration,
    /// Whether OpenMetrics answers carry exemplars.
    pub exemplars: bool,
    /// Of exchanges whose tokens are reported and whose text can be counted: the share that is counted too.
    pub token_audit: f64,
    /// Bucket bounds that replace the built-in ones, by the histogram's name without prefix; ascending, finite.
    pub buckets: BTreeMap<String, Vec<f64>>,
}

/// One inference server.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name in labels.
    pub name: Name,
    /// Where it listens.
    pub target: Target,
    /// Which requests go to it.
    pub route: Route,
    /// Which `Host` it is sent.
    pub host: HostHeader,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long the answer's first body byte may take; no limit unless set.
    pub first_byte_timeout: Option<Duration>,
    /// How long the answer's body may stand still; no limit unless set.
    pub idle_timeout: Option<Duration>,
    /// How long a connection without a request is kept.
    pub pool_idle_timeout: Duration,
    /// Whether OpenAI-style streams that do not ask for usage are made to, and the event that brings it taken out.
    pub inject_usage: bool,
}

/// Where an upstream listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The way to it.
    pub transport: Transport,
    /// What its own URL has as authority (`host:port`); `localhost` for a unix socket.
    pub authority: http::uri::Authority,
    /// TLS, where the URL is https.
    pub tls: Option<UpstreamTls>,
    /// HTTP/2 without asking (h2c, or HTTP/2 over a unix socket).
    pub http2: bool,
}

/// The way to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A TCP connection to this host and port; the host is resolved at each connection.
    Tcp {
        /// A name or an address (without brackets).
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// TLS towards an upstream. What is not set: the system's roots, no client certificate, the URL's host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file of the roots to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of our own certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// The name that the upstream's certificate must have.
    pub server_name: Option<String>,
}

/// Which requests go to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Requests whose path begins so, at a segment's border; the longest prefix of all upstreams wins.
    pub path_prefix: String,
    /// And whose host is this (without port, lower case).
    pub host: Option<String>,
}

/// Which `Host` an upstream is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's.
    Preserve,
    /// The upstream's own.
    Upstream,
}

/// The log of exchanges.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestLog {
    /// Where it goes; none: nowhere.
    pub path: Option<LogPath>,
    /// The share of exchanges that are written, 0 to 1.
    pub sample: f64,
}

/// Where the request log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPath {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// The usage ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageLedger {
    /// The folder of its files.
    pub path: PathBuf,
    /// After how many bytes the next file is begun.
    pub rotate: u64,
    /// For how long a line may be written and not on disk; zero: no line waits.
    pub sync: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::tenant::Identify;

    const UPSTREAM: &str = "upstream: http://127.0.0.1:8000\n";

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(text, &["time_to_first_token_seconds"])
    }

    fn check_error(text: &str, want: &str) {
        let got = parse(text).map(|_| ()).unwrap_err().to_string();
        assert!(got.starts_with(want), "{text}\n got: {got}\nwant: {want}");
    }

    #[test]
    fn an_upstream_is_all_that_must_be_given() {
        let config = parse(UPSTREAM).unwrap();
        assert_eq!(config.upstreams[0].name.as_str(), "default");
        assert_eq!(config.listen, SocketAddr::from(([0, 0, 0, 0], 8080)));
        assert!(matches!(&config.tenants.identify[..], [Identify::Header(name)] if name == "x-tenant-id"));
        assert_eq!(config.upstreams[0].host, HostHeader::Preserve);
        assert!(!config.upstreams[0].inject_usage);
        check_error("", "no upstream is given");
        check_error("# nothing\n", "no upstream is given");
    }

    #[test]
    fn upstream_urls() {
        let target = |url: &str| parse(&format!("upstream: {url}")).map(|config| config.upstreams[0].clone());
        let tcp = |host: &str, port| Transport::Tcp { host: host.to_owned(), port };
        assert_eq!(target("http://vllm").unwrap().target.transport, tcp("vllm", 80));
        assert_eq!(target("http://[::1]:8000/").unwrap().target.transport, tcp("::1", 8000));
        let api = target("https://api.openai.com").unwrap();
        assert_eq!(
            (api.target.transport.clone(), api.host),
            (tcp("api.openai.com", 443), HostHeader::Upstream)
        );
        assert!(target("h2c://127.0.0.1:8001").unwrap().target.http2);
        assert_eq!(
            target("unix:///run/v.sock").unwrap().target.transport,
            Transport::Unix("/run/v.sock".into())
        );
        check_error("upstream: http://h:1/v1", "1:11: upstream: `http://h:1/v1` has a path");
        check_error("upstream: http://h:80000", "1:11: upstream: `http://h:80000` has no such port");
        let error = parse("upstream: http://sk-secret:pw@h:1/v1").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("cannot have a user") && !error.contains("secret"), "{error}");
        check_error("upstream: ftp://h", "1:11: upstream: `ftp://h` is no upstream");
        check_error("upstream: 8000", "1:11: upstream: ");
    }

    #[test]
    fn an_error_says_where_what_and_what_would_be_right() {
        check_error(
            &format!("{UPSTREAM}tenants:\n  limit: five\n"),
            "3:10: tenants.limit: `five` is no number",
        );
        check_error(&format!("{UPSTREAM}tenant:\n  limit: 5\n"), "2:1: unknown field `tenant`");
        check_error(&format!("{UPSTREAM}drain_timeout: 25\n"), "2:16: drain_timeout: `25` is no time");
        check_error(&format!("{UPSTREAM}listen: 8080\n"), "2:9: listen: `8080` is no address to listen on");
        check_error(
            &format!("{UPSTREAM}tenants:\n  limit: 5\n  limit: 6\n"),
            "3:3: tenants: duplicate field `limit`",
        );
        check_error(
            &format!("{UPSTREAM}metrics:\n  buckets:\n    ttft: [1, 2]\n"),
            "4:11: metrics.buckets.ttft: `ttft` is no histogram; these are: time_to_first_token_seconds",
        );
        check_error(
            &format!("{UPSTREAM}metrics: {{buckets: {{time_to_first_token_seconds: [2, 1]}}}}\n"),
            "2:50: metrics.buckets.time_to_first_token_seconds: bucket bounds must ascend",
        );
        check_error(
            &format!("{UPSTREAM}models:\n  - name: m\n    tokenizer: {{encoding: o200k}}\n"),
            "4:27: models[0].tokenizer.encoding: `o200k` is no encoding; these are: o200k_base, cl100k_base",
        );
        check_error(
            &format!("{UPSTREAM}models:\n  - {{name: m, tokenizer: {{}}}}\n"),
            "3:26: models[0].tokenizer: give `file` (a tokenizer.json) or `encoding`, one of the two",
        );
        check_error(
            "upstreams:\n  - {name: a, url: http://h:1}\n  - {name: a, url: http://h:2, match: {path_prefix: /b}}\n",
            "3:12: upstreams[1].name: a second upstream of the name `a`",
        );
        check_error(
            "upstreams:\n  - {name: a, url: http://h:1}\n  - {name: b, url: http://h:2}\n",
            "3:5: upstreams[1]: matches the same requests as the upstream `a`",
        );
        check_error(
            "upstreams:\n  - name: none\n    url: http://h:1\n",
            "2:11: upstreams[0].name: `none` is the label",
        );
        check_error(
            "upstreams:\n  - {name: a, url: http://h:1, inject_usage: maybe}\n",
            "2:46: upstreams[0].inject_usage: invalid type",
        );
        check_error(
            &format!("{UPSTREAM}upstreams:\n  - {{name: a, url: http://h:1}}\n"),
            "1:11: upstream: give `upstream` or",
        );
    }

    #[test]
    fn a_way_to_tenants_that_is_wrong_is_said_with_what_would_be_right() {
        let way = |entry: &str| format!("{UPSTREAM}tenants:\n  identify: [{entry}]\n");
        check_error(
            &way("{}"),
            "3:14: tenants.identify[0]: give `header`, `api_key`, `jwt_claim` or `path_prefix`",
        );
        check_error(
            &way("{header: x-t, strip: true}"),
            "3:14: tenants.identify[0]: give `header`, `api_key`",
        );
        check_error(
            &way("{path_prefix: /t/}"),
            "3:28: tenants.identify[0].path_prefix: `/t/` is no prefix with a tenant; write it like /t/{tenant}/",
        );
        check_error(
            &way("{jwt_claim: {claim: org}}"),
            "3:26: tenants.identify[0].jwt_claim: give `jwks` (a file with the issuer's keys, or their URL), or",
        );
        let jwks = |rest: &str| way(&format!("{{jwt_claim: {{claim: org, jwks: {rest}}}}}"));
        for (wrong, want) in [
            (
                "'ftp://h/k'",
                "3:45: tenants.identify[0].jwt_claim.jwks: keys are fetched over HTTP only; expected a file, or",
            ),
            (
                "'https:///k'",
                "3:45: tenants.identify[0].jwt_claim.jwks: this is no URL; expected a file, or https://HOST",
            ),
            ("'https://h/ k'", "3:45: tenants.identify[0].jwt_claim.jwks: this is no URL"),
            ("'https://h:99999/k'", "3:45: tenants.identify[0].jwt_claim.jwks: the URL has no such port"),
            (
                "'http://h/k', ca: ca.pem",
                "3:63: tenants.identify[0].jwt_claim.ca: goes with `jwks: https://…`",
            ),
            ("k.json, ca: ca.pem", "3:57: tenants.identify[0].jwt_claim.ca: goes with `jwks: https://…`"),
            ("'https://h/k', verify: false", "3:26: tenants.identify[0].jwt_claim: give `jwks`"),
        ] {
            check_error(&jwks(wrong), want);
        }
        let error = parse(&jwks("'https://sk-secret:pw@h/k?x=1'")).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("cannot have a user") && !error.contains("secret"), "{error}");
        let text = jwks("'https://id.example/keys', ca: /etc/ca.pem");
        let config = parse(&text).unwrap();
        assert_eq!(parse(&config.to_yaml()).unwrap().to_yaml(), config.to_yaml());
        assert!(config.to_yaml().contains("jwks: https://id.example/keys"), "{}", config.to_yaml());
        check_error(
            &way("{api_key: {names: /no/where.yaml}}"),
            "3:32: tenants.identify[0].api_key.names: could not read /no/where.yaml: ",
        );
    }

    #[test]
    fn an_objective_that_is_wrong_is_said_with_what_would_be_right() {
        let slos = |entries: &str| format!("{UPSTREAM}slos: [{entries}]\n");
        for wrong in ["0%", "100%", "99", "99.99999%", "-1%", "1.%5", "many"] {
            check_error(
                &slos(&format!("{{name: a, objective: {wrong}, ttft: 1s}}")),
                &format!("2:29: slos[0].objective: `{wrong}` is no objective; write it like 99% or 99.9%"),
            );
        }
        check_error(
            &slos("{name: a, objective: 99%}"),
            "2:8: slos[0]: asks for nothing; give `ttft`, `tpot`, `duration` or `success: true`",
        );
        check_error(
            &slos("{name: a, objective: 99%, ttft: 0s}"),
            "2:40: slos[0].ttft: must be longer than 0",
        );
        check_error(
            &slos("{name: a, objective: 99%, success: true}, {name: a, objective: 9%, success: true}"),
            "2:57: slos[1].name: a second objective of the name `a`",
        );
        let shown = |objective: &str| {
            parse(&slos(&format!("{{name: a, objective: {objective}, ttft: 1s}}"))).unwrap().to_yaml()
        };
        for objective in ["99.95%", "5%", "0.0001%", "99.9999%"] {
            assert!(shown(objective).contains(&format!("objective: {objective}")), "{}", shown(objective));
        }
        assert!(shown("99.50 %").contains("objective: 99.5%"));
    }

    #[test]
    fn a_limit_that_is_wrong_is_said_with_what_would_be_right() {
        let limits = |entries: &str| format!("{UPSTREAM}models: [{{name: m}}]\nlimits: [{entries}]\n");
        check_error(
            &limits("{model: n, tokens_per_minute: 5}"),
            "3:18: limits[0].model: `n` is the name of no configured model; write one under `models`, or \"*\"",
        );
        check_error(&limits("{}"), "3:10: limits[0]: missing field `tokens_per_minute`");
        check_error(
            &limits("{tokens_per_minute: 0}"),
            "3:30: limits[0].tokens_per_minute: must be at least 1",
        );
        check_error(
            &limits("{tokens_per_minute: 5, max_delay: 3s}"),
            "3:44: limits[0].max_delay: goes with `action: delay`",
        );
        check_error(
            &limits("{tokens_per_minute: 5, action: refuse}"),
            "3:41: limits[0].action: unknown variant `refuse`, expected one of `observe`, `delay`, `reject`",
        );
        check_error(
            &limits("{model: m, tokens_per_minute: 5}, {model: m, tokens_per_minute: 6}"),
            "3:44: limits[1]: a second limit for `*` and `m` that does the same",
        );
        check_error(
            &limits("{tokens_per_minute: 5}, {tokens_per_minute: 6, action: delay, max_delay: 0}"),
            "3:83: limits[1].max_delay: is no time to wait; where nothing may wait write `action: reject`",
        );
    }

    #[test]
    fn a_password_in_the_limit_stores_url_is_shown_nowhere() {
        let store = |url: &str| format!("{UPSTREAM}limit_store: {url}\n");
        let config = parse(&store("rediss://me:hush@redis:6380/2")).unwrap();
        let shown = format!("{config:?}{}", config.to_yaml());
        assert!(shown.contains("rediss://***@redis:6380/2") && !shown.contains("hush"), "{shown}");
        for wrong in ["http://u:hush@redis", "redis://", "redis://:hush@", "u:hush@redis", "redis"] {
            let error = parse(&store(wrong)).map(|_| ()).unwrap_err().to_string();
            let want = "2:14: limit_store: is no place where limits can be kept; write `memory`, or a URL like redis://";
            assert!(error.starts_with(want) && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_price_that_is_wrong_is_said_with_what_would_be_right() {
        let model = |entry: &str| format!("{UPSTREAM}models:\n  - {{name: m, {entry}}}\n");
        check_error(
            &model("price: {currency: USD, input: 1e-3, output: 1}"),
            "3:45: models[0].price.input: `1e-3` is no price of a million tokens; write it like 0.15",
        );
        check_error(
            &model("price: {currency: dollar, input: 1, output: 1}"),
            "3:33: models[0].price.currency: `dollar` is no currency; write three letters",
        );
        check_error(
            &model("price: {currency: USD, input: 1}"),
            "3:22: models[0].price: missing field `output`",
        );
        check_error(
            &model(
                "price: [{currency: USD, from: 2026-01-31, input: 1, output: 1}, {currency: USD, input: 2, output: 2}]",
            ),
            "3:79: models[0].price[1]: holds at the same time as one before it",
        );
        check_error(
            &model("price: {currency: USD, from: 31.1.2026, input: 1, output: 1}"),
            "3:44: models[0].price.from: `31.1.2026` is no date; write it like 2026-01-31",
        );
        check_error(
            &model("alternatives: [n]"),
            "3:29: models[0].alternatives: `n` is the name of no configured",
        );
        check_error(
            &format!("{UPSTREAM}models: [{{name: m, alternatives: [n]}}, {{name: n}}]\n"),
            "2:34: models[0].alternatives: `n` has no price, neither of its own nor in a list",
        );
        check_error(
            &format!("{UPSTREAM}models: [{{name: m}}, {{name: m, match: x}}]\n"),
            "2:28: models[1].name: a second model of the name `m`; give its patterns to the first",
        );
        check_error(
            &model(
                "price: {currency: USD, input: 1, output: 1, tiers: [{tier: b, input: 1, output: 1}, {tier: b, input: 1, output: 1}]}",
            ),
            "3:22: models[0].price: `tiers` has the tier `b` twice",
        );
        check_error(
            &format!("{UPSTREAM}prices: {{file: /no/where.yaml}}\n"),
            "2:16: prices.file: could not read /no/where",
        );
    }

    #[test]
    fn a_usage_ledger_needs_a_folder_and_sizes_have_units() {
        let ledger = |of: &str| format!("{UPSTREAM}usage_ledger: {of}\n");
        assert_eq!(parse(UPSTREAM).unwrap().usage_ledger, None);
        let path = PathBuf::from("/var/usage");
        let usual = parse(&ledger("{path: /var/usage}")).unwrap();
        let want = UsageLedger { path, rotate: 100_000_000, sync: Duration::from_secs(1) };
        assert_eq!(usual.usage_ledger.as_ref(), Some(&want));
        assert!(usual.to_yaml().contains("rotate: 100MB\n"), "{}", usual.to_yaml());
        assert_eq!(parse(&usual.to_yaml()).unwrap().usage_ledger, Some(want));
        check_error(&ledger("{rotate: 1GB}"), "2:15: usage_ledger: missing field `path`");
        check_error(
            &ledger("{path: /u, rotate: 100}"),
            "2:34: usage_ledger.rotate: `100` is no size; write it like 100MB or 64KiB",
        );
        check_error(&ledger("{path: /u, sync: soon}"), "2:32: usage_ledger.sync: `soon` is no time");
    }

    #[test]
    fn what_is_wrong_of_models_and_hardware_is_said_too() {
        let model = |of: &str| format!("{UPSTREAM}models:\n  - name: m\n    {of}\n");
        for (of, want) in [
            (
                "hardware: {device: a100}",
                "4:24: models[0].hardware.device: no device `a100` is known; these are: a100-40gb, a100-80gb",
            ),
            (
                "hardware: {device: l4, price_per_hour: $2}",
                "4:44: models[0].hardware.price_per_hour: `$2` is no price",
            ),
            (
                "hardware: {device: l4, currency: EUR}",
                "4:38: models[0].hardware.currency: goes with `price_per",
            ),
            ("hardware: {count: 2}", "4:15: models[0].hardware: missing field `device`"),
            ("hardware: {device: l4, count: 0}", "4:35: models[0].hardware.count: `0` is no such number"),
            ("architecture: {}", "4:19: models[0].architecture: give one of the three: `model`"),
            (
                "architecture: {model: phi-4, layers: 3}",
                "4:19: models[0].architecture: give one of the three",
            ),
            ("architecture: {model: phi-9}", "4:27: models[0].architecture.model: no model `phi-9` is known"),
            (
                "architecture: {file: /no/config.json}",
                "4:26: models[0].architecture.file: could not read /no",
            ),
            (
                "architecture: {parameters: lots}",
                "4:32: models[0].architecture.parameters: `lots` is no number",
            ),
            (
                "architecture: {parameters: 8b, dtype: f16}",
                "4:43: models[0].architecture.dtype: `f16` is no dtype",
            ),
            (
                "architecture: {parameters: 8b, layers: 32}",
                "4:19: models[0].architecture: `layers`, `kv_heads`",
            ),
            (
                "architecture: {parameters: 8b, active_parameters: 9b}",
                "4:55: models[0].architecture.active_parameters: a token cannot meet more",
            ),
        ] {
            check_error(&model(of), want);
        }
    }

    #[test]
    fn an_architecture_is_told_by_name_or_by_its_figures() {
        let resolved = |of: &str| {
            let config =
                parse(&format!("{UPSTREAM}models: [{{name: m, architecture: {{{of}}}}}]\n")).unwrap();
            let model = config.models.iter().next().unwrap().architecture;
            model.unwrap()
        };
        let by_name = resolved("model: meta-llama/Meta-Llama-3-8B-Instruct");
        let figures = "layers: 32, heads: 32, kv_heads: 8, head_dim: 128";
        assert_eq!(by_name, resolved(&format!("parameters: 8030261248, dtype: bf16, {figures}")));
        let (mixture, dtype) = resolved("parameters: 46.7e9, active_parameters: 12.9e9, dtype: int4");
        assert_eq!(
            (mixture.weights_bytes(dtype), mixture.active_parameters),
            (23_350_000_000, 12_900_000_000)
        );
    }

    #[test]
    fn what_is_printed_is_read_again_as_the_same() {
        let text = format!(
            "{UPSTREAM}models:\n  - match: ['llama*']\n    name: llama\n    architecture: {{model: llama-3-8b, dtype: int4}}\n    \
             hardware: {{device: h100-sxm, price_per_hour: 1.80}}\ntenants: {{known: [search]}}\n"
        );
        let config = parse(&text).unwrap();
        let again = parse(&config.to_yaml()).unwrap();
        assert_eq!(config.hash, again.hash);
        assert_eq!(config.to_yaml(), again.to_yaml());
        assert_ne!(config.hash, parse(UPSTREAM).unwrap().hash);
    }
}
