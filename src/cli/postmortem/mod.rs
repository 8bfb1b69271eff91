//! `streamgauge postmortem`: what went wrong, told from Prometheus and the request log.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command answers its user")]

mod gather;
mod lines;
mod when;

use std::path::PathBuf;

use anyhow::{Context, bail};
use http::Uri;

use self::gather::Gather;
use self::when::When;
use super::prometheus::Prometheus;
use crate::clock::Clock;
use crate::ops::postmortem::{Span, document, html, markdown};

/// Write a report of an incident: what was breached, when, who was hit, and what explains it
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "See --help for examples.")]
pub(super) struct Args {
    /// The Prometheus that scrapes the sidecars; http:// only
    #[arg(long, value_name = "URL", value_parser = super::Guarded(super::url))]
    prometheus: Uri,

    /// Where to look from: 2026-11-24T06:00:00Z, Unix seconds, or -2h for two hours ago
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    from: When,

    /// Where to look to: the same, or now
    #[arg(long, value_name = "T", default_value = "now", allow_hyphen_values = true)]
    to: When,

    /// The sidecars' scrape job, where Prometheus scrapes others, too, or to look at some alone
    #[arg(long, value_name = "JOB")]
    job: Option<String>,

    /// A request log of the sidecars', for the slowest requests; - is standard input (repeatable)
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,

    /// Where the report goes: FILE.html or FILE.md (repeatable) [default: Markdown, to standard output]
    #[arg(long = "out", value_name = "FILE", value_parser = out)]
    outs: Vec<Out>,
}

const EXAMPLES: &str = "\
EXAMPLES:
  The last two hours, as a page to send around and a text to edit:
    streamgauge postmortem --prometheus http://127.0.0.1:9090 --from -2h \\
      --out report.html --out report.md

  A night, with the request logs of two replicas:
    streamgauge postmortem --prometheus http://127.0.0.1:9090 \\
      --from 2026-11-24T01:00:00Z --to 2026-11-24T05:00:00Z \\
      --log replica-0.jsonl --log replica-1.jsonl --out report.html

  Logs that are compressed:
    zcat requests.*.gz | streamgauge postmortem --prometheus http://127.0.0.1:9090 \\
      --from -1d --log - --out report.html

Ask for some quiet time before the incident, too: it is what the incident is compared with. The hour
before --from, or as long as the time itself where that is shorter, is looked at in any case.
Where nothing was breached the report says so, and the exit code is 0.";

/// A file to write, by its name's end.
#[derive(Debug, Clone)]
struct Out {
    path: PathBuf,
    is_html: bool,
}

fn out(text: &str) -> Result<Out, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|end| end.to_str()) {
        Some("html") => Ok(Out { path, is_html: true }),
        Some("md") => Ok(Out { path, is_html: false }),
        _ => Err(format!("`{text}` says no format by its end; write it like report.html or report.md")),
    }
}

const LONGEST: f64 = 31.0 * 86_400.0; // a month: over longer times an incident is a dot
const SHORTEST: f64 = 10.0;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let clock = Clock::start();
    let now = when::unix(clock.wall(clock.now()));
    let asked = span(args.from, args.to, now)?;
    for path in args.logs.iter().filter(|path| path.as_os_str() != "-") {
        // Before Prometheus is asked for a minute.
        std::fs::File::open(path).with_context(|| format!("--log {}: could not open it", path.display()))?;
    }
    let gather = Gather::new(Prometheus::at(&args.prometheus)?, args.job);
    let mut findings = gather.findings(asked, now)?;
    if let (Some(main), false) = (&findings.main, args.logs.is_empty()) {
        findings.log = Some(lines::read(&args.logs, main)?);
    }
    let report = document::of(&findings);
    for Out { path, is_html } in &args.outs {
        let page = if *is_html { html::page(&report) } else { markdown::page(&report) };
        std::fs::write(path, page)
            .with_context(|| format!("--out {}: could not write it", path.display()))?;
        eprintln!("streamgauge: wrote {}", path.display());
    }
    if args.outs.is_empty() {
        print!("{}", markdown::page(&report));
    }
    match &findings.main {
        Some(main) => {
            eprintln!(
                "streamgauge: {}; {}; cause class: {}",
                report.title,
                report.when,
                main.judgement.class.label()
            );
        }
        None => eprintln!("streamgauge: nothing was breached from {}", report.when),
    }
    Ok(())
}

fn span(from: When, to: When, now: f64) -> anyhow::Result<Span> {
    let span = Span { begin: from.at(now), end: to.at(now) };
    let length = span.end - span.begin;
    if length <= 0.0 {
        bail!("--from is not before --to; write them like --from -2h --to -1h");
    }
    if span.begin >= now {
        bail!("--from is in the future; write it like --from -2h or --from 2026-11-24T06:00:00Z");
    }
    if length > LONGEST {
        bail!(
            "--from and --to are {:.0} days apart; at most {:.0} are looked at",
            length / 86_400.0,
            LONGEST / 86_400.0
        );
    }
    if length < SHORTEST {
        bail!("--from and --to are {length:.0} s apart; at least {SHORTEST:.0} s are needed, better an hour");
    }
    Ok(Span { end: span.end.min(now), ..span })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_that_cannot_be_is_told() {
        let now = 1_795_500_000.0;
        let of = |from: &str, to: &str| span(from.parse().unwrap(), to.parse().unwrap(), now);
        assert_eq!(of("-2h", "-1h").unwrap(), Span { begin: now - 7200.0, end: now - 3600.0 });
        assert_eq!(of("-1h", "1795500060").unwrap().end, now, "what is to come has no samples");
        for (from, to, part) in [
            ("-1h", "-2h", "not before"),
            ("now", "now", "not before"),
            ("1795600000", "1795700000", "in the future"),
            ("-40d", "now", "at most 31"),
            ("-1h", "2999-01-01T00:00:00Z", "at most 31"),
            ("-5s", "now", "at least 10 s"),
        ] {
            let problem = of(from, to).unwrap_err().to_string();
            assert!(problem.contains(part), "{from} {to}: {problem}");
        }
    }

    #[test]
    fn a_files_end_says_its_format() {
        assert!(out("a/b.html").unwrap().is_html && !out("b.md").unwrap().is_html);
        assert!(out("report.pdf").unwrap_err().contains("report.html or report.md"));
    }
}
