//! What the YAML may hold, key by key, and how it becomes a [`Config`]. Unknown and doubled keys are errors;
//! values are parsed where they are read, so that each error has its line and column.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budget::{self, BudgetEntry};
use super::error::{Error, Place};
use super::ledger::LedgerEntry;
use super::limit::{self, LimitEntry, StoreEntry};
use super::model::ModelEntry;
use super::price::{Few, PricesEntry};
use super::slo::{self, SloEntry};
use super::tenant::TenantsEntry;
use super::value::{BucketLists, HowMany, Limit, Listen, PathPrefix, Share, Span, Text, UpstreamUrl};
use super::{
    Config, HostHeader, LogPath, Metrics, NO_UPSTREAM, RequestLog, Route, Target, Upstream, UpstreamTls,
};
use crate::account::model::{Model, Models};
use crate::exchange::Name;

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    listen: Listen,
    admin: Listen,
    drain_timeout: Span,
    final_scrape_wait: Span,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<UpstreamUrl>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    upstreams: Vec<UpstreamEntry>,
    tenants: TenantsEntry,
    models: Vec<ModelEntry>,
    #[serde(skip_serializing_if = "Few::is_empty")]
    prices: Few<PricesEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slos: Vec<SloEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limits: Vec<LimitEntry>,
    limit_store: StoreEntry,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    budgets: Vec<BudgetEntry>,
    metrics: MetricsEntry,
    request_log: RequestLogEntry,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_ledger: Option<LedgerEntry>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            listen: Listen(([0, 0, 0, 0], 8080).into()),
            admin: Listen(([0, 0, 0, 0], 9464).into()),
            drain_timeout: Span(Duration::from_secs(25)), // within Kubernetes' default grace of 30 s
            final_scrape_wait: Span(Duration::ZERO),
            upstream: None,
            upstreams: Vec::new(),
            tenants: TenantsEntry::default(),
            models: Vec::new(),
            prices: Few::default(),
            slos: Vec::new(),
            limits: Vec::new(),
            limit_store: StoreEntry::default(),
            budgets: Vec::new(),
            metrics: MetricsEntry::default(),
            request_log: RequestLogEntry::default(),
            usage_ledger: None,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamEntry {
    name: Text,
    url: UpstreamUrl,
    #[serde(default)]
    http2: Http2,
    #[serde(default, rename = "match")]
    route: RouteEntry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<HostEntry>,
    #[serde(default = "connect_timeout")]
    connect_timeout: Span,
    #[serde(default)]
    first_byte_timeout: Limit,
    #[serde(default)]
    idle_timeout: Limit,
    #[serde(default = "pool_idle_timeout")]
    pool_idle_timeout: Span,
    #[serde(default)]
    inject_usage: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<TlsEntry>,
}

fn connect_timeout() -> Span {
    Span(Duration::from_secs(5))
}

/// Below the 5 s after which uvicorn (vLLM, SGLang, KServe) closes an idle connection: a request that meets
/// the close is lost, and a POST may not be sent twice.
fn pool_idle_timeout() -> Span {
    Span(Duration::from_secs(4))
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Http2 {
    /// As TLS agrees; HTTP/1.1 without TLS.
    #[default]
    Negotiated,
    PriorKnowledge,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RouteEntry {
    path_prefix: PathPrefix,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Text>,
}

impl Default for RouteEntry {
    fn default() -> Self {
        Self { path_prefix: PathPrefix("/".to_owned()), host: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HostEntry {
    Preserve,
    Upstream,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TlsEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MetricsEntry {
    model_limit: HowMany,
    tenant_on_histograms: bool,
    idle_series: Span,
    exemplars: bool,
    token_audit: Share,
    buckets: BucketLists,
}

impl Default for MetricsEntry {
    fn default() -> Self {
        Self {
            model_limit: HowMany(200),
            tenant_on_histograms: false,
            idle_series: Span(Duration::from_secs(6 * 3600)),
            exemplars: true,
            token_audit: Share(0.01),
            buckets: BucketLists::default(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RequestLogEntry {
    /// `stdout`, `none` or a file.
    path: Text,
    format: LogFormat,
    sample: Share,
}

impl Default for RequestLogEntry {
    fn default() -> Self {
        Self { path: Text("stdout".to_owned()), format: LogFormat::Json, sample: Share(1.0) }
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LogFormat {
    Json,
}

impl File {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first thing in it that is wrong, with line and column.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        serde_yaml::from_str(text).map_err(|error| Error::of_yaml(&error))
    }

    /// The file without its request log, for when standard output belongs to somebody else.
    #[must_use]
    pub fn without_request_log(mut self) -> Self {
        self.request_log.path = Text("none".to_owned());
        self
    }

    /// Takes what the command line says over what the file says.
    pub fn override_with(
        &mut self,
        upstream: Option<UpstreamUrl>,
        listen: Option<Listen>,
        admin: Option<Listen>,
    ) {
        self.upstream = upstream.or_else(|| self.upstream.take());
        self.listen = listen.unwrap_or(self.listen);
        self.admin = admin.unwrap_or(self.admin);
    }

    /// What the file means. `histograms` are the names whose buckets may be set, `text` is where it was read
    /// from.
    ///
    /// # Errors
    /// Values that do not go together.
    pub fn resolve(&self, histograms: &[&str], text: &str) -> Result<Config, Error> {
        self.put_together(histograms).map_err(|error| error.located(text))
    }

    fn put_together(&self, histograms: &[&str]) -> Result<Config, Error> {
        let upstreams = self.resolve_upstreams()?;
        let unknown = |name: &&String| !histograms.contains(&name.as_str());
        if let Some(name) = self.metrics.buckets.0.keys().find(unknown) {
            return Err(Error::at(
                Place::new().key("metrics").key("buckets").key(name),
                format!("`{name}` is no histogram; these are: {}", histograms.join(", ")),
            ));
        }
        let models = self.resolve_models()?;
        Ok(Config {
            listen: self.listen.0,
            admin: self.admin.0,
            drain_timeout: self.drain_timeout.0,
            final_scrape_wait: self.final_scrape_wait.0,
            upstreams,
            tenants: self.tenants.resolve(&Place::new().key("tenants"))?,
            slos: slo::resolve(&self.slos)?,
            limits: limit::resolve(&self.limits, &models)?,
            limit_store: self.limit_store.0.clone(),
            budgets: budget::resolve(&self.budgets)?,
            models: Arc::new(models),
            metrics: Metrics {
                model_limit: self.metrics.model_limit.0,
                tenant_on_histograms: self.metrics.tenant_on_histograms,
                idle_series: self.metrics.idle_series.0,
                exemplars: self.metrics.exemplars,
                token_audit: self.metrics.token_audit.0,
                buckets: self.metrics.buckets.0.clone(),
            },
            request_log: self.request_log.resolve(),
            usage_ledger: self.usage_ledger.as_ref().map(LedgerEntry::resolve),
            hash: self.hash(),
            file: self.clone(),
        })
    }

    /// 16 hex digits that tell one configuration from another.
    fn hash(&self) -> Name {
        let mut hash = DefaultHasher::new();
        serde_yaml::to_string(self).unwrap_or_default().hash(&mut hash);
        Name::from(format!("{:016x}", hash.finish()).as_str())
    }

    fn resolve_upstreams(&self) -> Result<Vec<Upstream>, Error> {
        let at = |index: usize| Place::new().key("upstreams").index(index);
        let mut resolved: Vec<Upstream> = Vec::new();
        match (&self.upstream, self.upstreams.is_empty()) {
            (None, true) => {
                return Err(Error::at(
                    Place::new(),
                    "no upstream is given; say `upstream: http://127.0.0.1:8000` or --upstream URL",
                ));
            }
            (Some(_), false) => {
                return Err(Error::at(
                    Place::new().key("upstream"),
                    "give `upstream` or `upstreams`, not both",
                ));
            }
            (Some(url), true) => resolved.push(UpstreamEntry::alone(url.clone()).resolve(&at(0))?),
            (None, false) => {}
        }
        for (index, entry) in self.upstreams.iter().enumerate() {
            let upstream = entry.resolve(&at(index))?;
            if resolved.iter().any(|other| other.name == upstream.name) {
                let text = format!("a second upstream of the name `{}`", upstream.name);
                return Err(Error::at(at(index).key("name"), text));
            }
            if let Some(other) = resolved.iter().find(|other| other.route == upstream.route) {
                let text = format!("matches the same requests as the upstream `{}`", other.name);
                return Err(Error::at(at(index), text));
            }
            resolved.push(upstream);
        }
        Ok(resolved)
    }

    fn resolve_models(&self) -> Result<Models, Error> {
        let at = |index| Place::new().key("models").index(index);
        let models = self.models.iter().zip(0..).map(|(model, index)| model.resolve(&at(index)));
        let models: Vec<Model> = models.collect::<Result<_, _>>()?;
        for (index, model) in models.iter().enumerate() {
            if models.iter().take(index).any(|earlier| earlier.name == model.name) {
                let text =
                    format!("a second model of the name `{}`; give its patterns to the first", model.name);
                return Err(Error::at(at(index).key("name"), text));
            }
            let is_known = |name: &&Name| !models.iter().any(|model| model.name == **name);
            if let Some(name) = model.alternatives.iter().find(is_known) {
                let text = format!("`{name}` is the name of no configured model");
                return Err(Error::at(at(index).key("alternatives"), text));
            }
        }
        let prices = Place::new().key("prices");
        let is_list = self.prices.0.len() > 1;
        let at = |index| if is_list { prices.clone().index(index) } else { prices.clone() };
        let lists = self.prices.0.iter().zip(0..).map(|(list, index)| list.read(&at(index)));
        let lists: Vec<_> = lists.collect::<Result<_, _>>()?;
        let models = Models::new(models, lists.concat());
        for (index, model) in models.iter().enumerate() {
            if let Some(name) = model.alternatives.iter().find(|name| !models.can_have_price(name)) {
                let text = format!("`{name}` has no price, neither of its own nor in a list");
                return Err(Error::at(Place::new().key("models").index(index).key("alternatives"), text));
            }
        }
        Ok(models)
    }
}

impl UpstreamEntry {
    /// The entry for `upstream: URL`.
    fn alone(url: UpstreamUrl) -> Self {
        Self {
            name: Text("default".to_owned()),
            url,
            http2: Http2::default(),
            route: RouteEntry::default(),
            host: None,
            connect_timeout: connect_timeout(),
            first_byte_timeout: Limit::default(),
            idle_timeout: Limit::default(),
            pool_idle_timeout: pool_idle_timeout(),
            inject_usage: false,
            tls: None,
        }
    }

    fn resolve(&self, at: &Place) -> Result<Upstream, Error> {
        if self.name.0 == NO_UPSTREAM {
            let text = format!(
                "`{NO_UPSTREAM}` is the label of requests that no upstream matches; choose another name"
            );
            return Err(Error::at(at.clone().key("name"), text));
        }
        let UpstreamUrl { secure, http2, transport, authority, .. } = self.url.clone();
        if self.tls.is_some() && !secure {
            return Err(Error::at(at.clone().key("tls"), "is for https:// upstreams"));
        }
        let tls = self.tls.clone().unwrap_or_default();
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err(Error::at(at.clone().key("tls"), "`certificate` and `key` go together"));
        }
        let tls = UpstreamTls {
            ca: tls.ca,
            certificate: tls.certificate,
            key: tls.key,
            server_name: tls.server_name,
        };
        let by_scheme = if secure { HostHeader::Upstream } else { HostHeader::Preserve };
        Ok(Upstream {
            name: self.name.name(),
            target: Target {
                transport,
                authority,
                tls: secure.then_some(tls),
                http2: http2 || self.http2 == Http2::PriorKnowledge,
            },
            route: Route {
                path_prefix: self.route.path_prefix.0.clone(),
                host: self.route.host.as_ref().map(|host| host.0.to_ascii_lowercase()),
            },
            host: match self.host {
                None => by_scheme,
                Some(HostEntry::Preserve) => HostHeader::Preserve,
                Some(HostEntry::Upstream) => HostHeader::Upstream,
            },
            connect_timeout: self.connect_timeout.0,
            first_byte_timeout: self.first_byte_timeout.0,
            idle_timeout: self.idle_timeout.0,
            pool_idle_timeout: self.pool_idle_timeout.0,
            inject_usage: self.inject_usage,
        })
    }
}

impl RequestLogEntry {
    fn resolve(&self) -> RequestLog {
        let path = match self.path.0.as_str() {
            "none" => None,
            "stdout" => Some(LogPath::Stdout),
            path => Some(LogPath::File(PathBuf::from(path))),
        };
        RequestLog { path, sample: self.sample.0 }
    }
}
