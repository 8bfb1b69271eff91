//! `streamgauge dashboards`: what Grafana needs to show it.
#![expect(clippy::print_stderr, reason = "a command answers its user")]

use std::path::PathBuf;

use anyhow::Context;

use crate::ops::dashboards::{Settings, write};

/// Write the Grafana dashboards, one file each
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "See --help for examples.")]
pub(super) struct Args {
    /// The folder to write to; made where it is missing, files of the same names are written anew
    #[arg(long, value_name = "DIR", default_value = "dashboards")]
    out: PathBuf,

    /// Where the runbooks are; each dashboard gets a link there
    #[arg(long, value_name = "URL")]
    runbooks: Option<String>,
}

const EXAMPLES: &str = "\
EXAMPLES:
  streamgauge dashboards --out /var/lib/grafana/dashboards/streamgauge

  Grafana reads that folder with this file in its provisioning/dashboards:
    apiVersion: 1
    providers:
      - {name: streamgauge, folder: Streamgauge, options: {path: /var/lib/grafana/dashboards/streamgauge}}

Or import the files by hand: Dashboards, New, Import. Grafana 10.4 or later; the data source is chosen at the top.";

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Args { out, runbooks } = args;
    std::fs::create_dir_all(out).with_context(|| format!("could not make the folder {}", out.display()))?;
    for (name, text) in write(&Settings { runbooks: runbooks.clone() })? {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
        eprintln!("streamgauge: wrote {}", path.display());
    }
    Ok(())
}
