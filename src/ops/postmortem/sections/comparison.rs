//! What was otherwise in an incident than in the time before it.

use std::collections::BTreeMap;

use super::super::Series;
use super::super::changes::Event;
use super::super::document::{Block, Table};
use super::super::findings::{Findings, Main};
use super::super::measures::Measures;
use super::super::text::{digits, instant, maybe, name, percent, seconds};
use super::ROWS;

/// What was otherwise than in the time before.
pub(super) fn changed(findings: &Findings, main: &Main) -> Vec<Block> {
    let (before, during) = (main.before.as_ref(), &main.during);
    let mut blocks = Vec::new();
    let Some(before) = before else {
        blocks.push(Block::Text(
            "There is no time before the incident to compare it with: ask for a longer one.".to_owned(),
        ));
        return blocks;
    };
    let mut table = Table::new(&["", ">before", ">in the incident", ">change"]);
    let mut compare = |what: &str, of: &dyn Fn(&Measures) -> Option<f64>, text: fn(f64) -> String| {
        let (was, is) = (of(before), of(during));
        let change = was.zip(is).filter(|(was, _)| *was > 0.0).map(|(was, is)| is / was);
        let stressed = change.is_some_and(|times| !(0.67..=1.5).contains(&times));
        let times = maybe(change, |times| format!("×{}", digits(times)));
        table.row(stressed, vec![what.to_owned(), maybe(was, text), maybe(is, text), times]);
    };
    compare("requests begun a second", &|of| of.rate("started"), digits);
    compare("requests ended a second", &|of| of.rate("requests"), digits);
    compare("time to first token, p50", &|of| of.ttft().quantile(0.5), seconds);
    compare("time to first token, p95", &|of| of.ttft().quantile(0.95), seconds);
    compare("time of an output token, mean", &Measures::tpot_mean, seconds);
    compare("tokens of a prompt, mean", &|of| of.mean("prompt_sum", "prompt_count"), digits);
    compare("tokens of an answer, mean", &|of| of.mean("answer_sum", "answer_count"), digits);
    compare("requests in flight, mean", &|of| of.total("in_flight"), digits);
    compare("waiting for a first token, mean", &|of| of.total("awaiting"), digits);
    blocks.push(Block::Table(table));
    blocks.push(Block::Heading("Who asked for what".to_owned()));
    blocks.push(mix(before, during));
    let bands = bands(before, during);
    blocks.push(Block::Heading("Prompts by length".to_owned()));
    blocks.push(bands);
    let known = |of: &Measures| {
        let versions: Vec<_> =
            of.by("versions", "version").into_iter().map(|(version, _)| name(&version)).collect();
        versions.join(", ")
    };
    let mut facts =
        vec![format!("versions of the sidecar: {} before, {} in the incident", known(before), known(during))];
    let earlier: Vec<&Event> =
        findings.events.iter().filter(|event| event.at <= main.incident.span.end).collect();
    facts.extend(earlier.iter().map(|event| format!("{} {}", instant(event.at), event.what)));
    if earlier.is_empty() {
        facts.push("no new version, reload or restart of a sidecar was seen before its end".to_owned());
    }
    if during.total("reload_refused").is_some_and(|mean| mean + 0.5 < findings.instances as f64) {
        facts.push(
            "a configuration that was refused lay on disk (streamgauge_config_last_reload_successful is 0)"
                .to_owned(),
        );
    }
    blocks.push(Block::Heading("Sidecars".to_owned()));
    blocks.push(Block::List(facts));
    blocks
}

/// Requests a second of each tenant with each model.
fn mix(before: &Measures, during: &Measures) -> Block {
    let rates = |of: &Measures| {
        let mut rates: BTreeMap<(String, String), f64> = BTreeMap::new();
        for series in of.series("requests") {
            let who = (series.label("tenant").to_owned(), series.label("model").to_owned());
            *rates.entry(who).or_default() +=
                series.value().unwrap_or_default() / of.span.seconds().max(1e-9);
        }
        rates
    };
    let (was, is) = (rates(before), rates(during));
    let mut who: Vec<_> = was.keys().chain(is.keys()).collect();
    who.sort();
    who.dedup();
    let of = |rates: &BTreeMap<_, f64>, key: &(String, String)| rates.get(key).copied().unwrap_or_default();
    who.sort_by(|one, other| (of(&is, other) + of(&was, other)).total_cmp(&(of(&is, one) + of(&was, one))));
    let mut table =
        Table::new(&["tenant", "model", ">requests a second before", ">in the incident", ">change"]);
    for key in who.iter().take(ROWS) {
        let (was, is) = (of(&was, key), of(&is, key));
        let change = match was {
            _ if was > 0.0 && is > 0.0 => format!("×{}", digits(is / was)),
            _ if was > 0.0 => "gone".to_owned(),
            _ => "new".to_owned(),
        };
        let stressed = !(was > 0.0 && (0.67..=1.5).contains(&(is / was)));
        table.row(stressed, vec![name(&key.0), name(&key.1), digits(was), digits(is), change]);
    }
    Block::Table(table)
}

/// Bands of the label `input_band`, from short to long.
const BANDS: [&str; 5] = ["le_1k", "le_8k", "le_32k", "le_128k", "gt_128k"];

/// First tokens by the prompt's length: which share, and how long they took.
fn bands(before: &Measures, during: &Measures) -> Block {
    let mut table = Table::new(&[
        "band",
        ">share before",
        ">share in the incident",
        ">mean TTFT before",
        ">in the incident",
    ]);
    let of = |measures: &Measures, band: &str| {
        let own = |series: &Series| series.label("input_band") == band;
        let count = measures.histogram("ttft", own).count();
        let all = measures.ttft().count();
        let share = (all > 0.0).then(|| count / all);
        (share, (count > 0.0).then(|| measures.sum_where("ttft_sum", own) / count))
    };
    for band in BANDS {
        let ((was, took), (is, takes)) = (of(before, band), of(during, band));
        if was.unwrap_or_default() + is.unwrap_or_default() > 0.0 {
            let cells = vec![
                band.to_owned(),
                maybe(was, percent),
                maybe(is, percent),
                maybe(took, seconds),
                maybe(takes, seconds),
            ];
            table.row(is.unwrap_or_default() > 1.5 * was.unwrap_or_default(), cells);
        }
    }
    Block::Table(table)
}
