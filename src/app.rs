//! Binds everything: two runtimes, two ports, reload, the order of ending. No domain logic.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Control};
use crate::admission::Admission;
use crate::budgets::Budgets;
use crate::clock::{Clock, Moment};
use crate::config::{self, Config};
use crate::counting::Tokenizers;
use crate::jwks::Keyring;
use crate::live::LiveTable;
use crate::pipeline::Pipeline;
use crate::proxy::{Dial, Proxy, Routes, listener};
use crate::sinks::Sink;
use crate::sinks::ledger::UsageLedger;
use crate::sinks::metrics::Metrics;
use crate::sinks::notices::Notices;
use crate::sinks::recent::Recent;
use crate::sinks::request_log::RequestLog;
use crate::status::Sources;
use crate::vitals::Vitals;

/// Where the two planes run. In tests all are the same.
#[derive(Debug, Clone)]
pub struct Runtimes {
    /// Forward and stamp times; a connection stays on one.
    pub data: Vec<Handle>,
    /// Does everything that is costly or can fail.
    pub accounts: Handle,
}

/// Sets what is logged, or says why it cannot.
pub type SetLogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the shell around the app provides.
pub struct Shell {
    /// Reads the configuration again.
    pub load: Box<dyn Fn() -> anyhow::Result<Config> + Send + Sync>,
    /// The file that is watched for changes.
    pub file: Option<PathBuf>,
    /// Sets what is logged.
    pub set_log_level: SetLogLevel,
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A sidecar that runs.
#[derive(Debug)]
pub struct App {
    /// Where clients connect.
    pub data: SocketAddr,
    /// Where Prometheus and operators connect.
    pub admin: SocketAddr,
    core: Arc<Core>,
    admin_port: Arc<Admin>,
    request_log: Option<Arc<RequestLog>>,
    usage_ledger: Option<Arc<UsageLedger>>,
    /// Told to each task in turn when it is to end.
    listener_stop: CancellationToken,
    listener: JoinHandle<()>,
    pipeline_stop: CancellationToken,
    pipeline: JoinHandle<()>,
    budgets_stop: CancellationToken,
    budgets: JoinHandle<()>,
    admin_stop: CancellationToken,
    admin_task: JoinHandle<()>,
}

/// What a reload changes.
#[derive(Debug)]
struct Core {
    proxy: Arc<Proxy>,
    metrics: Arc<Metrics>,
    budgets: Arc<Budgets>,
    tokenizers: Arc<Tokenizers>,
    keyring: Keyring,
    shell: Shell,
    drain: CancellationToken,
    /// The file's text at the last reload, right or wrong. Held while one runs: two at once could end in the
    /// older one.
    seen: Mutex<Option<Vec<u8>>>,
}

const LOOK_AT_FILE_EVERY: Duration = Duration::from_secs(5); // a mounted ConfigMap takes a minute to arrive anyway
const AFTER_CUT: Duration = Duration::from_secs(2); // for tasks that were cut to record their exchanges

impl App {
    /// Starts a sidecar; both ports are bound when this returns. `extra` is told all facts too.
    ///
    /// # Errors
    /// An address cannot be bound, a file cannot be opened, TLS settings cannot be used.
    pub async fn start(
        config: Config,
        runtimes: &Runtimes,
        shell: Shell,
        extra: Option<Arc<dyn Sink>>,
    ) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let vitals = Arc::new(Vitals::default());
        let live = Arc::new(LiveTable::default());
        let accounts = Accounts::new(&config, &vitals, &live, clock)?;
        let request_log = RequestLog::open(&config.request_log, Arc::clone(&vitals))
            .context("could not open the request log")?
            .map(Arc::new);
        let usage_ledger = open_ledger(&config, &vitals, clock)?;
        let data_port = bind(config.listen, "listen").await?;
        let admin_port = bind(config.admin, "admin").await?;
        let (data, admin) = (data_port.local_addr()?, admin_port.local_addr()?);

        let mut sinks = accounts.sinks();
        sinks.extend(request_log.iter().map(|log| Arc::clone(log) as Arc<dyn Sink>));
        sinks.extend(usage_ledger.iter().map(|ledger| Arc::clone(ledger) as Arc<dyn Sink>));
        sinks.extend(extra);
        let tokenizers = Arc::new(Tokenizers::default());
        warn_of(&config);
        tokenizers.load(&config.models)?;
        let Accounts { metrics, admission, budgets, recent } = accounts.clone();
        let sweep = move |now| accounts.sweep(now);
        let (windows, expectations) = (Arc::clone(&admission), Arc::clone(&admission.expectations));
        let (places, pipeline) =
            Pipeline::new(Arc::clone(&live), clock, Arc::clone(&tokenizers), expectations, sinks, sweep)
                .context("could not start the thread that counts tokens")?;
        let keyring = Keyring::new(Dial::Network, clock, Arc::clone(&vitals), runtimes.accounts.clone());
        let keys = keyring.prepare(&config.tenants)?;
        let routes = Routes::new(config, &vitals, clock, Dial::Network)?;
        keyring.apply(keys);
        let proxy =
            Arc::new(Proxy::new(routes, clock, vitals, live, places, admission, Arc::clone(&tokenizers)));
        let core = Arc::new(Core {
            proxy: Arc::clone(&proxy),
            metrics,
            budgets,
            tokenizers,
            keyring,
            seen: Mutex::new(shell.file.as_ref().and_then(|path| std::fs::read(path).ok())),
            shell,
            drain: CancellationToken::new(),
        });
        let sources = Sources { proxy: Arc::clone(&proxy), metrics: Arc::clone(&core.metrics), recent };
        let admin_page = Arc::new(Admin::new(Arc::new(sources), Arc::clone(&core) as _));

        let [listener_stop, pipeline_stop, budgets_stop, admin_stop] =
            [(); 4].map(|()| CancellationToken::new());
        let first = runtimes.data.first().context("the data plane has no runtime")?;
        let listening = listener::serve(proxy, data_port, runtimes.data.clone(), listener_stop.clone());
        let app = Self {
            data,
            admin,
            request_log,
            usage_ledger,
            listener: first.spawn(listening),
            listener_stop,
            pipeline: runtimes.accounts.spawn(pipeline.run(pipeline_stop.clone())),
            pipeline_stop,
            budgets: runtimes.accounts.spawn(keep_budgets(Arc::clone(&core.budgets), budgets_stop.clone())),
            budgets_stop,
            admin_task: runtimes
                .accounts
                .spawn(Arc::clone(&admin_page).serve(admin_port, admin_stop.clone())),
            admin_port: admin_page,
            admin_stop,
            core,
        };
        let stop = app.pipeline_stop.clone();
        runtimes.accounts.spawn(async move { windows.keep_in_touch(stop).await });
        app.watch_file(runtimes);
        Ok(app)
    }

    /// Reads the configuration again. What is wrong with it is logged and counted; nothing has changed then.
    pub async fn reload(&self) {
        reload(&self.core).await;
    }

    /// Ready when somebody asked over the admin port for an end.
    pub async fn drain_asked(&self) {
        self.core.drain.cancelled().await;
    }

    /// For how long the client that has waited longest for a first token has been waiting.
    pub fn oldest_awaiting(&self) -> Option<Duration> {
        let proxy = &self.core.proxy;
        proxy.live.oldest_awaiting().map(|since| proxy.clock.now().since(since))
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.core.proxy.routes.load().config)
    }

    fn watch_file(&self, runtimes: &Runtimes) {
        let Some(path) = self.core.shell.file.clone() else { return };
        let core = Arc::clone(&self.core);
        let stop = self.listener_stop.clone();
        runtimes.accounts.spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(LOOK_AT_FILE_EVERY)).await.is_some() {
                let now = read(&path).await;
                // A file that is gone for a moment is being replaced.
                if now.is_some() && now != *core.seen.lock() {
                    reload(&core).await;
                }
            }
        });
    }

    /// Ends in order: not ready, no new connections, running streams to their end or, after the configured
    /// time, cut; all records settled; one more scrape if it is waited for; logs flushed.
    pub async fn stop(self) {
        let config = self.config();
        let proxy = &self.core.proxy;
        self.admin_port.set_draining();
        self.listener_stop.cancel();
        proxy.tasks.close();
        let running = proxy.live.len();
        tracing::info!(running, timeout = ?config.drain_timeout, "draining");
        let drained = tokio::time::timeout(config.drain_timeout, async {
            tokio::select! {
                () = proxy.tasks.wait() => {}
                () = nothing_open(&proxy.live) => {}
            }
        });
        if drained.await.is_err() {
            tracing::warn!(streams = proxy.live.len(), "drain_timeout is over, cutting what still runs");
        }
        // Without an open exchange what is cut is a connection that has sent half a head at most.
        proxy.cut();
        // Its own error would be a panic, which the hook has told.
        let _ = self.listener.await;
        if tokio::time::timeout(AFTER_CUT, proxy.tasks.wait()).await.is_err() {
            tracing::error!("some connections did not end when they were cut");
        }
        self.pipeline_stop.cancel();
        if tokio::time::timeout(AFTER_CUT, self.pipeline).await.is_err() {
            tracing::error!("some exchanges could not be settled");
        }
        self.budgets_stop.cancel();
        // What it could not tell it has logged.
        let _ = tokio::time::timeout(AFTER_CUT, self.budgets).await;
        if let Some(ledger) = self.usage_ledger {
            let closed = tokio::task::spawn_blocking(move || ledger.close());
            if tokio::time::timeout(AFTER_CUT, closed).await.is_err() {
                tracing::error!("the usage ledger's disk is stuck, lines are lost");
            }
        }
        if !config.final_scrape_wait.is_zero() {
            let scraped =
                tokio::time::timeout(config.final_scrape_wait, self.admin_port.final_scrape()).await;
            tracing::info!(scraped = scraped.is_ok(), "all exchanges are settled");
        }
        self.admin_stop.cancel();
        // A scraper that holds its connection does not hold us.
        let _ = tokio::time::timeout(AFTER_CUT, self.admin_task).await;
        if let Some(log) = self.request_log {
            let closing = Arc::clone(&log);
            let closed = tokio::task::spawn_blocking(move || closing.close());
            if tokio::time::timeout(AFTER_CUT, closed).await.is_err() {
                tracing::error!(lines = log.waiting(), "the request log's reader is stuck, lines are lost");
            }
        }
    }
}

/// What keeps numbers of exchanges.
#[derive(Debug, Clone)]
struct Accounts {
    metrics: Arc<Metrics>,
    admission: Arc<Admission>,
    budgets: Arc<Budgets>,
    recent: Arc<Recent>,
}

impl Accounts {
    fn new(
        config: &Config,
        vitals: &Arc<Vitals>,
        live: &Arc<LiveTable>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let admission = Arc::new(Admission::new(clock, &config.limit_store)?);
        let budgets = Budgets::new(&config.budgets, admission.shared(), Arc::clone(vitals), clock);
        let budgets = Arc::new(budgets);
        let metrics = Metrics::new(config, Arc::clone(vitals), Arc::clone(live), clock);
        let metrics = metrics.context("could not make the metrics")?.with_windows(Arc::clone(&admission));
        let metrics = Arc::new(metrics.with_budgets(Arc::clone(&budgets)));
        Ok(Self { metrics, admission, budgets, recent: Arc::new(Recent::new(clock)) })
    }

    fn sinks(&self) -> Vec<Arc<dyn Sink>> {
        let Self { metrics, admission, budgets, recent } = self.clone();
        vec![metrics as _, admission as _, budgets as _, recent as _, Arc::new(Notices::default())]
    }

    /// Drops what idles.
    fn sweep(&self, now: Moment) {
        self.metrics.sweep_idle(now);
        self.admission.sweep();
        self.budgets.sweep();
    }
}

async fn keep_budgets(budgets: Arc<Budgets>, stop: CancellationToken) {
    budgets.keep_in_touch(stop).await;
}

fn open_ledger(
    config: &Config,
    vitals: &Arc<Vitals>,
    clock: Clock,
) -> anyhow::Result<Option<Arc<UsageLedger>>> {
    let open = |settings: &config::UsageLedger| {
        UsageLedger::open(settings, Arc::clone(vitals), clock).map(Arc::new).with_context(|| {
            format!("could not open the usage ledger in {} (`usage_ledger.path`)", settings.path.display())
        })
    };
    config.usage_ledger.as_ref().map(open).transpose()
}

/// Ready when no exchange has been open for a second.
async fn nothing_open(live: &LiveTable) {
    let mut looks = 0;
    while looks < 10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        looks = if live.is_empty() { looks + 1 } else { 0 };
    }
}

impl Core {
    fn reload(&self) -> Result<(), String> {
        let mut seen = self.seen.lock();
        *seen = self.shell.file.as_ref().and_then(|path| std::fs::read(path).ok());
        let result = self.try_reload().map_err(|error| format!("{error:#}"));
        let now = self.proxy.clock.wall(self.proxy.clock.now());
        self.metrics.reload(result.is_ok(), now);
        match &result {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(error) => tracing::error!(%error, "could not reload the configuration; the old one stays"),
        }
        result
    }

    fn try_reload(&self) -> anyhow::Result<()> {
        let config = (self.shell.load)()?;
        let before = self.proxy.routes.load_full();
        let routes = before.changed_to(config, &self.proxy.vitals, self.proxy.clock)?;
        for key in needs_restart(&before.config, &routes.config) {
            tracing::warn!(key, "changed, but takes a restart");
        }
        warn_of(&routes.config);
        let keys = self.keyring.prepare(&routes.config.tenants)?;
        self.tokenizers.load(&routes.config.models)?;
        self.keyring.apply(keys);
        self.budgets.apply(&routes.config.budgets);
        self.metrics.apply(&routes.config);
        self.proxy.routes.store(Arc::new(routes));
        Ok(())
    }
}

/// What is allowed and may not be meant.
fn warn_of(config: &Config) {
    for budget in config.budgets.0.iter().filter(|it| !config.models.has_prices_in(&it.account.currency)) {
        let (tenant, currency) = (&budget.account.tenant, &budget.account.currency);
        tracing::warn!(%tenant, %currency, "a budget in a currency that no price is in: nothing will be spent of it");
    }
    if config.tenants.has_unchecked() {
        tracing::warn!(
            "tenants are told by tokens whose signatures are not checked: anybody can be any tenant"
        );
    }
    for keys in config.tenants.to_fetch().filter(|keys| keys.url.scheme_str() == Some("http")) {
        tracing::warn!(
            url = %keys.label(),
            "keys are fetched without TLS: whoever is on the way there can be any tenant"
        );
    }
}

/// The keys whose change a reload does not take.
fn needs_restart(before: &Config, after: &Config) -> Vec<&'static str> {
    [
        ("listen", before.listen != after.listen),
        ("admin", before.admin != after.admin),
        ("metrics.buckets", before.metrics.buckets != after.metrics.buckets),
        (
            "metrics.tenant_on_histograms",
            before.metrics.tenant_on_histograms != after.metrics.tenant_on_histograms,
        ),
        ("limit_store", before.limit_store != after.limit_store),
        ("request_log", before.request_log != after.request_log),
        ("usage_ledger", before.usage_ledger != after.usage_ledger),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

impl Control for Core {
    fn config(&self) -> String {
        self.proxy.routes.load().config.to_shown_yaml()
    }

    fn reload(&self) -> Result<(), String> {
        Core::reload(self)
    }

    fn drain(&self) {
        self.drain.cancel();
    }

    fn set_log_level(&self, filter: &str) -> Result<(), String> {
        (self.shell.set_log_level)(filter)
    }
}

/// The address by which somebody on this machine reaches a bound one.
pub(crate) fn reachable(bound: SocketAddr) -> SocketAddr {
    match bound {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        bound => bound,
    }
}

/// Reads the configuration again, off the runtime's threads: files may be slow.
async fn reload(core: &Arc<Core>) {
    let core = Arc::clone(core);
    // What is wrong has been logged and counted.
    let _ = tokio::task::spawn_blocking(move || core.reload()).await;
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("could not listen on {address} (`{key}`)"))
}

async fn read(path: &Path) -> Option<Vec<u8>> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || std::fs::read(path).ok()).await.ok().flatten()
}
