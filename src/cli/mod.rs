//! The command line: one command a file. The only place that prints.

mod check;
mod dashboards;
mod demo;
mod explain;
mod health;
mod postmortem;
mod prometheus;
mod recorded;
mod replay;
mod rules;
mod run;
mod simulate;
mod size;
mod tokens;

use std::ffi::OsStr;
use std::process::ExitCode;
use std::time::Duration;
use std::{io, panic};

use anyhow::{anyhow, bail};
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Parser};
use http::Uri;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::app::{Runtimes, SetLogLevel};
use crate::sinks::metrics::catalog::{Kind, TABLE};

/// Measures the token stream of LLM inference servers without touching it.
#[derive(Debug, Parser)]
#[command(name = "streamgauge", version, about, long_about = LONG_ABOUT, arg_required_else_help = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "\
Measures the token stream of LLM inference servers without touching it.

A transparent reverse proxy that stands before vLLM, SGLang, llama.cpp or an API, lets every byte through \
unchanged, and exports TTFT, tokens per second, tokens and outcomes per tenant and model to Prometheus.";

/// A command and its arguments.
#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(run::Args),
    Demo(demo::Args),
    Check(check::Args),
    Health(health::Args),
    Rules(rules::Args),
    Postmortem(postmortem::Args),
    Dashboards(dashboards::Args),
    Simulate(simulate::Args),
    Explain(explain::Args),
    Replay(replay::Args),
    Tokens(tokens::Args),
    Size(size::Args),
}

/// Reads the arguments and does what they say.
pub fn main() -> ExitCode {
    install_panic_hook();
    let Line { command } = Line::parse();
    match dispatch(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Check(args) => check::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Rules(args) => rules::run(args),
        Command::Postmortem(args) => postmortem::run(args),
        Command::Dashboards(args) => dashboards::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Explain(args) => explain::run(args),
        Command::Replay(args) => replay::run(&args),
        Command::Tokens(args) => tokens::run(&args),
        Command::Size(args) => size::run(&args),
    }
}

#[expect(clippy::print_stderr, reason = "the last word to the user")]
fn complain(error: &anyhow::Error) {
    eprintln!("streamgauge: {error:#}");
}

/// Tells where a panic was, never what it says: the text may hold a piece of a prompt.
fn install_panic_hook() {
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(%location, "panicked; the text is withheld, for it may hold traffic");
    }));
}

/// Logs to standard error from now on; standard output is the request log's.
fn start_logging(default: &str) -> anyhow::Result<SetLogLevel> {
    let filter = std::env::var("STREAMGAUGE_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = log_filter(&filter).map_err(|error| {
        anyhow!("STREAMGAUGE_LOG: `{filter}` is no filter ({error}); write it like info or streamgauge=debug")
    })?;
    let (filter, handle): (_, reload::Handle<EnvFilter, Registry>) = reload::Layer::new(filter);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal).with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(Box::new(move |filter| {
        let parsed = log_filter(filter).map_err(|error| format!("`{filter}` is no filter: {error}"))?;
        handle.reload(parsed).map_err(|error| error.to_string())
    }))
}

/// What is logged. The HTTP/2 library repeats in its debug log what a server says when it closes a connection, which may
/// be a piece of a request: it speaks only where it is named.
fn log_filter(text: &str) -> Result<EnvFilter, ParseError> {
    if text.contains("h2") {
        return EnvFilter::try_new(text);
    }
    EnvFilter::try_new(format!("{text},h2=info"))
}

/// The two planes' runtimes. Dropping them ends what still runs.
#[derive(Debug)]
struct Planes {
    /// One thread each.
    data: Vec<Handle>,
    /// Cancelled when they are dropped.
    data_stop: DropGuard,
    accounts: Runtime,
}

const DATA_THREADS: usize = 16; // each passes on more than an inference server says; a machine may have 200 cores
const ACCOUNTS_THREADS: usize = 2;

impl Planes {
    fn start() -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(DATA_THREADS);
        let data = (0..threads).map(|_| data_thread(stop.clone())).collect::<io::Result<_>>()?;
        let accounts = Builder::new_multi_thread()
            .worker_threads(ACCOUNTS_THREADS)
            .thread_name("accounts")
            .enable_all()
            .build()?;
        Ok(Self { data, data_stop: stop.drop_guard(), accounts })
    }

    fn handles(&self) -> Runtimes {
        Runtimes { data: self.data.clone(), accounts: self.accounts.handle().clone() }
    }

    /// Ends what still runs, and does not wait for it.
    fn end(self) {
        drop(self.data_stop);
        self.accounts.shutdown_background();
    }
}

/// A timer that is due before all others of its thread, which are timeouts of minutes: setting one that is due before
/// all others takes tokio a write to wake the driver, and each exchange sets one.
const TICK: Duration = Duration::from_secs(1);

/// A thread of the data plane. Each has a runtime of its own: where threads share one, they wake each other for
/// every chunk.
fn data_thread(stop: CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let run = move || {
        runtime.block_on(async { while stop.run_until_cancelled(sleep(TICK)).await.is_some() {} });
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("data".to_owned()).spawn(run)?;
    Ok(handle)
}

/// Reads an argument that may hold a secret. The library's own reader repeats what it could not read.
#[derive(Clone)]
struct Guarded<T>(fn(&str) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Guarded<T> {
    type Value = T;

    fn parse_ref(&self, command: &clap::Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let text = value.to_str().ok_or_else(|| "this is no UTF-8".to_owned());
        text.and_then(self.0).map_err(|error| {
            let flag = arg.map(|arg| format!("{arg}: ")).unwrap_or_default();
            clap::Error::raw(ErrorKind::ValueValidation, format!("{flag}{error}\n")).with_cmd(command)
        })
    }
}

/// A URL, as an argument.
fn url(text: &str) -> Result<Uri, String> {
    text.parse().map_err(|error| format!("this is no URL: {error}"))
}

/// A URL as it may stand in an error: a query may have a key.
fn shown(url: &Uri) -> String {
    match url.to_string().split_once('?') {
        Some((before, _)) => format!("{before}?…"),
        None => url.to_string(),
    }
}

/// Host and port of a server that is spoken to in the clear. `like` is a URL that `flag` would take.
fn address(flag: &str, url: &Uri, like: &str) -> anyhow::Result<String> {
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        // It is not repeated: what stands before the @ is a password.
        bail!("{flag}: a URL cannot have a user here; write it like {like}");
    }
    if url.scheme_str() != Some("http") {
        bail!("{flag} {}: only http:// is spoken; write it like {like}", shown(url));
    }
    let host = url.host().ok_or_else(|| anyhow!("{flag} {}: there is no host in it", shown(url)))?;
    Ok(format!("{host}:{}", url.port_u16().unwrap_or(80)))
}

/// The histograms whose buckets a configuration may set.
fn histograms() -> Vec<&'static str> {
    TABLE.iter().filter(|row| matches!(row.kind, Kind::Histogram(_))).map(|row| row.name).collect()
}

/// SIGTERM and SIGINT, from the moment it is made: one that comes while nobody waits is kept.
#[derive(Debug)]
struct Interrupts {
    terminate: Signal,
    interrupt: Signal,
}

impl Interrupts {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Ready with the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
