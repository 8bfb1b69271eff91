//! `streamgauge rules`: what Prometheus needs to wake somebody.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command answers its user")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;

use super::{histograms, run::locate};
use crate::config::Config;
use crate::ops::rules::{Format, Promises, Rules, Settings, write};

/// Print Prometheus' recording and alert rules for the configured objectives
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "See --help for examples.")]
pub(super) struct Args {
    /// The configuration, YAML; without it the general alerts alone
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// What is to read them: Prometheus itself, or its operator in Kubernetes
    #[arg(long, value_enum, default_value_t = FormatArg::Prometheus)]
    format: FormatArg,

    /// The scrape job of the sidecars, for StreamgaugeDown
    #[arg(long, default_value = "streamgauge")]
    job: String,

    /// Where the runbooks are: each alert's is URL/NAME.md. The default is no real place; docs/runbooks has the files
    #[arg(long, value_name = "URL", default_value = "https://streamgauge.example/docs/runbooks")]
    runbooks: String,

    /// Where the dashboards are: each alert's is URL/streamgauge-WHICH. The default is no real place; give Grafana's
    /// https://HOST/d
    #[arg(long, value_name = "URL", default_value = "https://grafana.example/d")]
    dashboards: String,

    /// Divide every window and waiting time by N, for a fire drill or a test in minutes; scrape every second then
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rehearsal: u32,

    /// The PrometheusRule's name
    #[arg(long, value_name = "NAME", default_value = "streamgauge")]
    name: String,

    /// The PrometheusRule's namespace
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// A label of the PrometheusRule, as release=prometheus (repeatable)
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

const EXAMPLES: &str = "\
EXAMPLES:
  streamgauge rules --config config.yaml > rules.yaml && promtool check rules rules.yaml

  For Prometheus Operator, with the label that its ruleSelector asks for:
    streamgauge rules --config config.yaml --format prometheusrule --namespace llm \\
      --label release=kube-prometheus-stack | kubectl apply -f -

  A fire drill, in which an hour is a minute:
    streamgauge rules --config config.yaml --rehearsal 60 > drill.yaml

Generate them anew when objectives change. What an objective cannot have (14.4 times the bad requests that
90 % allow is more than all) is told on standard error and at the head of the file.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Prometheus,
    #[value(name = "prometheusrule")]
    PrometheusRule,
}

fn label(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let parts = parts.map(|(name, value)| (name.to_owned(), value.to_owned()));
    parts.ok_or_else(|| "this is no label; write it like release=prometheus".to_owned())
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let promises = match &args.config {
        None => Promises::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("could not read {}", path.display()))?;
            let config = Config::parse(&text, &histograms());
            Promises::from(config.map_err(|error| locate(Some(path.as_path()), error))?)
        }
    };
    let settings = Settings {
        job: args.job,
        runbooks: args.runbooks,
        dashboards: args.dashboards,
        rehearsal: args.rehearsal,
    };
    let format = match args.format {
        FormatArg::Prometheus => Format::Prometheus,
        FormatArg::PrometheusRule => Format::PrometheusRule {
            name: args.name,
            namespace: args.namespace,
            labels: args.labels.into_iter().collect::<BTreeMap<_, _>>(),
        },
    };
    let rules = Rules::new(&promises, &settings);
    print!("{}", write(&rules, &settings, &format)?);
    if promises.slos.0.is_empty() {
        eprintln!("streamgauge: no objective is configured (`slos`), so these are the general alerts alone");
    }
    for note in &rules.notes {
        eprintln!("streamgauge: {note}");
    }
    Ok(())
}
