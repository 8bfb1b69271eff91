//! Single requests of an incident, out of the request log.

use super::super::document::{Block, Table, called};
use super::super::findings::{Findings, Main};
use super::super::log::Log;
use super::super::text::{count, maybe, name, plural, seconds};
use super::{ROWS, millis, rest};

/// The slowest requests, and what failed, by the request log.
pub(super) fn slowest(findings: &Findings, main: &Main) -> Vec<Block> {
    let Some(log) = &findings.log else {
        return vec![Block::Text(
            "No request log was given. With `--log FILE` the slowest requests stand here, with the ids by which the upstream's log \
             and traces have them."
                .to_owned(),
        )];
    };
    let mut table = Table::new(&[
        "sent",
        "request id",
        "tenant",
        "model",
        ">first token",
        ">a token",
        ">in all",
        ">tokens in",
        ">out",
        "outcome",
        "other ids",
    ]);
    for request in &log.slowest {
        let others = [("upstream", &request.upstream_id), ("trace", &request.trace_id)];
        let others: Vec<_> = others
            .into_iter()
            .filter_map(|(whose, id)| Some(format!("{whose} {}", name(id.as_ref()?))))
            .collect();
        let tokens = |tokens: Option<u64>| maybe(tokens.map(|tokens| tokens as f64), count);
        let cells = vec![
            millis(request.sent),
            name(&request.id),
            name(&request.tenant),
            name(&request.model),
            maybe(request.ttft, seconds),
            maybe(request.tpot, seconds),
            seconds(request.duration),
            tokens(request.input),
            tokens(request.output),
            name(&request.outcome),
            others.join(", "),
        ];
        table.row(false, cells);
    }
    let text = told(log, main);
    let mut blocks = vec![Block::Table(table), Block::Text(text)];
    let mut errors: Vec<_> = log.errors.iter().collect();
    errors.sort_by(|one, other| other.1.cmp(one.1));
    if !errors.is_empty() {
        let mut table = Table::new(&["error class or outcome", ">requests"]);
        for (class, times) in errors.iter().take(ROWS) {
            table.row(false, vec![name(class), count(**times as f64)]);
        }
        blocks.extend([Block::Heading("Errors in the log".to_owned()), Block::Table(table)]);
        blocks.extend(rest(errors.len()));
    }
    blocks
}

/// What the log had, and how that compares with the counters.
fn told(log: &Log, main: &Main) -> String {
    let (_, bad) = main.judged();
    let mut text = format!(
        "Of {} in the log {} were of the time of the incident",
        plural(log.lines as f64, "line"),
        count(log.within as f64)
    );
    if !main.objective.name.is_empty() {
        text.push_str(&format!(
            ", {} of them bad by {}; the counters have {}. A log of some instances only, a sample, or requests that ended later \
             make the two differ",
            count(log.bad as f64),
            called(&main.objective),
            count(bad)
        ));
    }
    text.push('.');
    if log.broken > 0 {
        text.push_str(&format!(
            " {} could not be read as the request log's and {} left out.",
            plural(log.broken as f64, "line"),
            if log.broken == 1 { "was" } else { "were" }
        ));
    }
    text
}
