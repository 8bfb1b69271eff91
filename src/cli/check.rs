//! `streamgauge check`: is a configuration right, and what does it mean?
#![expect(clippy::print_stdout, reason = "a command answers its user")]

use std::path::PathBuf;

use anyhow::Context;

use super::{histograms, run::locate};
use crate::clock::Clock;
use crate::config::Config;
use crate::counting::Tokenizers;
use crate::jwks::Ready;
use crate::proxy::{Dial, Routes};
use crate::vitals::Vitals;

/// Check a configuration and print it with every default filled in
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The configuration, YAML
    file: PathBuf,
}

const EXAMPLES: &str = "\
EXAMPLES:
  streamgauge check /etc/streamgauge/config.yaml
  streamgauge check config.yaml > resolved.yaml

Exit code 1 and one line where it is not right:
  config.yaml:3:10: tenants.limit: what is wrong and what would be right";

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let path = &args.file;
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let config = Config::parse(&text, &histograms()).map_err(|error| locate(Some(path), error))?;
    let resolved = config.to_yaml();
    // The files that it names must be usable too.
    Tokenizers::default().load(&config.models)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        Ready::new(&config.tenants, &Dial::Network, Clock::start())?;
        Routes::new(config, &Vitals::default(), Clock::start(), Dial::Network)?;
        anyhow::Ok(())
    })?;
    print!("{resolved}");
    Ok(())
}
