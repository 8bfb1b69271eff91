//! `streamgauge run`: the sidecar.

use std::path::PathBuf;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::{Guarded, Interrupts, Planes, histograms, start_logging};
use crate::app::{App, Shell, reachable};
use crate::config::{Config, File, Listen, UpstreamUrl};

/// Run the sidecar
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The configuration, YAML; without it the flags are enough
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The inference server: http://, https://, h2c:// or unix:///path
    #[arg(long, value_name = "URL", value_parser = Guarded(str::parse::<UpstreamUrl>))]
    upstream: Option<UpstreamUrl>,

    /// Where clients connect; port 0 takes a free one [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<Listen>,

    /// Where /metrics is [default: 0.0.0.0:9464]
    #[arg(long, value_name = "ADDR")]
    admin: Option<Listen>,
}

const EXAMPLES: &str = "\
EXAMPLES:
  streamgauge run --upstream http://127.0.0.1:8000
  streamgauge run --upstream https://api.openai.com --listen 127.0.0.1:8080
  streamgauge run --config /etc/streamgauge/config.yaml

Then set your clients' base URL to http://HOST:8080 (with /v1 where they want it), and let
Prometheus scrape http://HOST:9464/metrics. The request log goes to standard output, everything
else to standard error.

SIGTERM, SIGINT: finish running streams (drain_timeout), then end. A second one: end at once. SIGHUP: reload.
STREAMGAUGE_LOG: what is logged, as info, debug or streamgauge::proxy=trace.";

impl Args {
    fn load(&self) -> anyhow::Result<Config> {
        let text = match &self.config {
            None => String::new(),
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?
            }
        };
        let located = |error| locate(self.config.as_deref(), error);
        let mut file = File::parse(&text).map_err(located)?;
        file.override_with(self.upstream.clone(), self.listen, self.admin);
        file.resolve(&histograms(), &text).map_err(located)
    }
}

/// An error with its file before it: `file:line:column: what`.
pub(super) fn locate(file: Option<&std::path::Path>, error: crate::config::Error) -> anyhow::Error {
    match file {
        None => anyhow::anyhow!("{error}"),
        Some(path) if error.position.is_some() => anyhow::anyhow!("{}:{error}", path.display()),
        Some(path) => anyhow::anyhow!("{}: {error}", path.display()),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let set_log_level = start_logging("info")?;
    let config = args.load()?;
    let planes = Planes::start()?;
    let runtimes = planes.handles();
    let result = planes.accounts.block_on(async move {
        let reader = args.clone();
        let shell = Shell { load: Box::new(move || reader.load()), file: args.config.clone(), set_log_level };
        let app = App::start(config, &runtimes, shell, None).await?;
        tracing::info!(
            "set your clients' base URL to http://{}; metrics at http://{}/metrics",
            reachable(app.data),
            reachable(app.admin)
        );
        serve_until_told(app).await
    });
    planes.end();
    result
}

async fn serve_until_told(app: App) -> anyhow::Result<()> {
    let mut interrupts = Interrupts::listen()?;
    let mut hangups = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            () = interrupts.next() => break,
            () = app.drain_asked() => break,
            _ = hangups.recv() => app.reload().await,
        }
    }
    tokio::select! {
        () = app.stop() => {}
        () = interrupts.next() => tracing::warn!("told twice, ending at once"),
    }
    Ok(())
}
