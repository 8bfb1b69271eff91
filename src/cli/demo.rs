//! `streamgauge demo`: everything in one process, to see it work.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Builder;

use super::{Interrupts, Planes, start_logging};
use crate::demo::{Demo, Plan};

/// See it work: simulated models, clients and the sidecar in one process
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Where clients connect; port 0 takes a free one [default: 127.0.0.1:8080, or a free port if that is taken]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,

    /// Where /metrics is [default: 127.0.0.1:9464, or a free port if that is taken]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,

    /// End by itself after so long
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,

    /// Send so many times the usual traffic: 0.1 to 20
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = pace)]
    pace: f64,
}

const EXAMPLES: &str = "\
EXAMPLES:
  streamgauge demo
  streamgauge demo --duration 2m
  streamgauge demo --listen 127.0.0.1:0 --admin 127.0.0.1:0 --pace 5

It tells a story of two minutes, again and again: all is well, the 70B model slows down, a request
hangs, all is well again. Let a Prometheus scrape the printed address to see it in graphs.
Ctrl-C or SIGTERM ends it.";

const WORLD_THREADS: usize = 2; // what is simulated has its own, so that the sidecar is felt as in earnest

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let Args { listen, admin, duration, pace } = args;
    let set_log_level = start_logging("warn")?;
    let planes = Planes::start()?;
    let world = Builder::new_multi_thread()
        .worker_threads(WORLD_THREADS)
        .thread_name("world")
        .enable_all()
        .build()?;
    let runtimes = planes.handles();
    let result = world.block_on(async move {
        let demo = Demo::start(Plan { listen, admin, duration, pace }, &runtimes, set_log_level).await?;
        let mut interrupts = Interrupts::listen()?;
        demo.run(async move { interrupts.next().await }, print)
            .await
            .or_else(nobody_reads)
            .context("could not write to standard output")
    });
    planes.end();
    world.shutdown_background();
    result
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Who looks at the first lines only, as `head` does, has seen enough.
fn nobody_reads(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn pace(text: &str) -> Result<f64, String> {
    let pace = text.parse().ok().filter(|pace| (0.1..=20.0).contains(pace));
    pace.ok_or_else(|| format!("`{text}` is no pace; allowed: 0.1 to 20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_that_is_wrong_is_said_with_what_would_be_right() {
        assert_eq!(pace("0.5"), Ok(0.5));
        for text in ["0", "21", "fast", "NaN"] {
            assert!(pace(text).unwrap_err().contains("0.1 to 20"), "{text}");
        }
    }
}
