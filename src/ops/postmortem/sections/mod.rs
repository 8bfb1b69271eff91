//! The report's sections, from what was breached to what people are to fill in.

mod comparison;
mod people;
mod requests;

use std::collections::BTreeMap;

use super::anatomy::{Part, TTFT};
use super::cause::{CAUSE, TOLD, share};
use super::detect::Objective;
use super::document::{BUDGET_DAYS, Block, Section, Table, budget_spent, called, promise};
use super::findings::{Findings, Main};
use super::text::{count, digits, instant, maybe, money, name, percent, plural, seconds};

/// Rows of a table of names; more are told as a number.
const ROWS: usize = 12;

/// Of an incident.
pub(super) fn all(findings: &Findings, main: &Main) -> Vec<Section> {
    let section = |title, blocks| Section { title, blocks };
    vec![
        section("What was breached", breached(findings, main)),
        section("When it began and ended", spans(findings, main)),
        section("Who was hit", hit(main)),
        section("What it looked like", vec![Block::Charts(findings.charts.clone())]),
        section("Where the time went", anatomy(main)),
        section("Cause", cause(main)),
        section("What changed", comparison::changed(findings, main)),
        section("Slowest requests", requests::slowest(findings, main)),
        section("Timeline", vec![timeline(findings, Some(main))]),
        section("To be written by people", people::blanks()),
        section("How to read this", reading(findings)),
    ]
}

/// Of a time in which nothing was breached.
pub(super) fn quiet(findings: &Findings) -> Vec<Section> {
    let section = |title, blocks| Section { title, blocks };
    let mut sections = vec![
        section("Objectives", vec![objectives(findings)]),
        section("What it looked like", vec![Block::Charts(findings.charts.clone())]),
        section("Alerts", alerts(findings)),
        section("Timeline", vec![timeline(findings, None)]),
        section("How to read this", reading(findings)),
    ];
    sections.retain(|section| !section.blocks.is_empty());
    sections
}

/// Objectives of which more was bad than they allow, though in no burst.
pub(super) fn slow_burns(findings: &Findings) -> Vec<(&Objective, f64)> {
    let shares = findings.objectives.iter().filter(|objective| !objective.name.is_empty()).map(|objective| {
        let (judged, bad) = total(findings, &objective.name);
        (objective, if bad >= super::detect::BAD { bad / judged.max(1.0) } else { 0.0 })
    });
    shares.filter(|(objective, share)| *share > objective.budget()).collect()
}

fn total(findings: &Findings, slo: &str) -> (f64, f64) {
    let own = findings.totals.iter().filter(|(party, _)| party.slo == slo);
    own.fold((0.0, 0.0), |sum, (_, (judged, bad))| (sum.0 + judged, sum.1 + bad))
}

fn objectives(findings: &Findings) -> Block {
    let mut table = Table::new(&["objective", "promised", ">judged", ">missed it", ">share"]);
    for objective in &findings.objectives {
        let (judged, bad) = total(findings, &objective.name);
        let own =
            if objective.name.is_empty() { "(none configured)".to_owned() } else { name(&objective.name) };
        let share = if judged > 0.0 { percent(bad / judged) } else { "–".to_owned() };
        table.row(false, vec![own, promise(objective), count(judged), count(bad), share]);
    }
    Block::Table(table)
}

fn breached(findings: &Findings, main: &Main) -> Vec<Block> {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for hit in &main.incident.parties {
        let sum = sums.entry(hit.party.slo.as_str()).or_default();
        *sum = (sum.0 + hit.judged, sum.1 + hit.bad);
    }
    let mut table =
        Table::new(&["objective", "promised", ">judged", ">missed it", ">share", ">times what is allowed"]);
    for (slo, (judged, bad)) in sums {
        let Some(objective) = findings.objectives.iter().find(|objective| objective.name == slo) else {
            continue;
        };
        let share = bad / judged.max(1.0);
        let own = if slo.is_empty() { "(none configured)".to_owned() } else { name(slo) };
        let times =
            if objective.budget() > 0.0 { digits(share / objective.budget()) } else { "–".to_owned() };
        let cells = vec![own, promise(objective), count(judged), count(bad), percent(share), times];
        table.row(slo == main.objective.name && bad > 0.0, cells);
    }
    let mut blocks = vec![Block::Table(table)];
    if let Some(spent) = budget_spent(main) {
        blocks.push(Block::Text(format!(
            "In {BUDGET_DAYS} days, at the {} requests a second that were judged before, {} allows {} bad ones. This spent {} of \
             them. If the objective's window is not {BUDGET_DAYS} days, the share is another one.",
            digits(main.usual),
            called(&main.objective),
            count(main.usual * BUDGET_DAYS * 86_400.0 * main.objective.budget()),
            percent(spent)
        )));
    }
    blocks.extend(alerts(findings));
    blocks
}

fn alerts(findings: &Findings) -> Vec<Block> {
    if findings.alerts.is_empty() {
        return vec![Block::Text(
            "No alert of the rules that streamgauge writes fired in this time: either none was due, or the rules are not loaded \
             (`streamgauge rules`)."
                .to_owned(),
        )];
    }
    let mut table = Table::new(&["alert", "severity", "about", "first seen firing", ">for"]);
    for alert in findings.alerts.iter().take(ROWS) {
        let cells = vec![
            alert.name.clone(),
            alert.severity.clone(),
            alert.about.clone(),
            instant(alert.span.begin),
            seconds(alert.span.seconds()),
        ];
        table.row(alert.severity == "page", cells);
    }
    let mut blocks = vec![Block::Heading("Alerts that fired".to_owned()), Block::Table(table)];
    blocks.extend(rest(findings.alerts.len()));
    blocks
}

fn rest(all: usize) -> Option<Block> {
    (all > ROWS).then(|| Block::Text(format!("And {} more.", all - ROWS)))
}

fn spans(findings: &Findings, main: &Main) -> Vec<Block> {
    let incident = &main.incident;
    let mut table = Table::new(&["", "not before", "not after", "how it is known"]);
    if incident.began_before {
        table.row(
            false,
            vec![
                "begin".to_owned(),
                "–".to_owned(),
                instant(incident.span.begin),
                "it had begun before there is any data".to_owned(),
            ],
        );
    } else {
        table.row(
            false,
            vec![
                "begin".to_owned(),
                millis(incident.span.begin),
                millis(incident.first_seen),
                "the scrape without a bad request, and the next, which shows the first".to_owned(),
            ],
        );
    }
    let how = if incident.goes_on {
        "the last scrape there is: it went on"
    } else {
        "the last bad request was counted in between"
    };
    table.row(
        false,
        vec!["end".to_owned(), millis(incident.last_before), millis(incident.span.end), how.to_owned()],
    );
    let mut text = format!(
        "A bad request counts the moment its time is over, and is told by the next scrape, every {} here. ",
        seconds(findings.interval)
    );
    text.push_str(&match (main.objective.ttft, main.objective.tpot) {
        (Some(bound), _) => format!(
            "A first token is late after {}, so the first request that was hit came that much before the begin, and what held it \
             up is older still.",
            seconds(bound)
        ),
        (None, Some(_)) => "Slow tokens are judged when their answer ends, so tokens were slow before the begin by as long as an \
                            answer takes."
            .to_owned(),
        (None, None) => "Failures are judged when they happen.".to_owned(),
    });
    let mut blocks = vec![Block::Table(table), Block::Text(text)];
    if !findings.others.is_empty() {
        let mut table = Table::new(&["begin", "end", "mostly", ">missed their objective"]);
        for other in findings.others.iter().take(ROWS) {
            let cells = vec![
                instant(other.span.begin),
                if other.goes_on { "goes on".to_owned() } else { instant(other.span.end) },
                super::cause::whom(other),
                count(other.bad()),
            ];
            table.row(false, cells);
        }
        blocks.push(Block::Heading("Further incidents in this time, not looked into here".to_owned()));
        blocks.push(Block::Table(table));
        blocks.extend(rest(findings.others.len()));
    }
    blocks
}

/// To the millisecond: what scrapes are stamped with.
fn millis(at: f64) -> String {
    let whole = at.floor();
    format!("{}.{:03}", instant(whole), ((at - whole) * 1e3).floor())
}

fn hit(main: &Main) -> Vec<Block> {
    let of = |name: &str, tenant: &str, model: &str| {
        let own = |series: &super::Series| series.label("tenant") == tenant && series.label("model") == model;
        main.during.sum_where(name, own)
    };
    let cost = |tenant: &str, model: &str| {
        let own = main.during.series("cost").iter();
        let own = own.filter(|one| one.label("tenant") == tenant && one.label("model") == model);
        let amounts: Vec<_> = own
            .filter_map(|one| Some(format!("{} {}", money(one.value()?), name(one.label("currency")))))
            .collect();
        if amounts.is_empty() { "–".to_owned() } else { amounts.join(", ") }
    };
    let mut table = Table::new(&[
        "tenant",
        "model",
        "objective",
        ">judged",
        ">missed it",
        ">share",
        ">tokens in",
        ">tokens out",
        ">cost",
    ]);
    let bad: Vec<_> = main.incident.parties.iter().filter(|hit| hit.bad > 0.0).collect();
    for hit in bad.iter().take(ROWS) {
        let party = &hit.party;
        let cells = vec![
            name(&party.tenant),
            name(&party.model),
            if party.slo.is_empty() { "–".to_owned() } else { name(&party.slo) },
            count(hit.judged),
            count(hit.bad),
            percent(hit.bad / hit.judged.max(hit.bad).max(1.0)),
            count(of("input", &party.tenant, &party.model)),
            count(of("output", &party.tenant, &party.model)),
            cost(&party.tenant, &party.model),
        ];
        table.row(hit.is_hit, cells);
    }
    let spared = main.incident.parties.len() - bad.len();
    let mut blocks = vec![Block::Table(table)];
    blocks.extend(rest(bad.len()));
    let left = main.during.total("left").filter(|left| *left > 0.0);
    let mut text = "Tokens and cost are all that these tenants and models had in the incident, bad or not; no cost stands where no \
                    price is configured."
        .to_owned();
    if spared > 0 {
        text.push_str(&format!(" Of {spared} more that were judged in this time no request was bad."));
    }
    if let Some(left) = left {
        text.push_str(&format!(
            " {} left before their answer was complete; they are not counted as bad.",
            plural(left, "client")
        ));
    }
    blocks.push(Block::Text(text));
    blocks
}

fn anatomy(main: &Main) -> Vec<Block> {
    let parts = &main.anatomy.parts;
    let mut table = Table::new(&["part", ">before", ">in the incident", "how it is known"]);
    for part in parts {
        let is_sum = part.name == TTFT;
        let cells = vec![
            part.name.to_owned(),
            maybe(part.before, seconds),
            maybe(part.during, seconds),
            part.how.to_owned(),
        ];
        table.row(is_sum, cells);
    }
    let of_ttft = || parts.iter().take_while(|part| part.name != TTFT).enumerate();
    let side = |side: fn(&Part) -> Option<f64>| {
        of_ttft().filter_map(|(class, part)| Some((class, side(part)?))).collect::<Vec<_>>()
    };
    let mut rows = vec![("before", side(|part| part.before)), ("in the incident", side(|part| part.during))];
    rows.retain(|(_, parts)| !parts.is_empty());
    let legend = of_ttft().map(|(class, part)| (class, part.name)).collect();
    let text = "Means over all requests of the models that were hit, of streams that got a first token. The sidecar does not see into \
                the upstream: what prompts of the same lengths took before is called prefill, though it has the network and any usual \
                queue in it; what came on top of that is the queue or a slower upstream.";
    vec![
        Block::Bars { title: "Mean time to first token, by what it was spent on".to_owned(), rows, legend },
        Block::Table(table),
        Block::Text(text.to_owned()),
    ]
}

fn cause(main: &Main) -> Vec<Block> {
    let judgement = &main.judgement;
    let mut blocks = vec![Block::Text(format!(
        "{} The runbook goes on from here: docs/runbooks/{}.md.",
        judgement.class.meaning(),
        judgement.class.runbook()
    ))];
    let (told, others): (Vec<_>, Vec<_>) = judgement.candidates.iter().partition(|one| one.share >= TOLD);
    for candidate in told {
        blocks.push(Block::Candidate {
            name: candidate.class.label(),
            share: format!("{} of the bad requests", share(candidate.share)),
            part: candidate.share,
            is_cause: candidate.class == judgement.class && candidate.share >= CAUSE,
            because: candidate.because.clone(),
            against: candidate.against.clone(),
        });
    }
    let mut table = Table::new(&["also looked at", ">share of the bad requests", "what speaks against it"]);
    for candidate in others {
        let against = candidate.against.join("; ");
        table.row(false, vec![candidate.class.label().to_owned(), share(candidate.share), against]);
    }
    blocks.push(Block::Table(table));
    blocks
}

fn timeline(findings: &Findings, main: Option<&Main>) -> Block {
    let mut events: Vec<(f64, bool, String)> =
        findings.events.iter().map(|event| (event.at, false, event.what.clone())).collect();
    for alert in &findings.alerts {
        let about = if alert.about.is_empty() { String::new() } else { format!(" ({})", alert.about) };
        let what = format!("{}{about}", alert.name);
        events.push((alert.span.begin, alert.severity == "page", format!("alert fires: {what}")));
        events.push((alert.span.end, false, format!("alert was last firing: {what}")));
    }
    if let Some(main) = main {
        let incident = &main.incident;
        if !incident.began_before {
            events.push((
                incident.first_seen,
                true,
                "the first bad request is counted: the incident begins".to_owned(),
            ));
        }
        if !incident.goes_on {
            events.push((
                incident.span.end,
                true,
                "the last bad request has been counted: the incident ends".to_owned(),
            ));
        }
    }
    events.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut table = Table::new(&["time (UTC)", "what"]);
    for (at, is_stressed, what) in events.iter().take(TIMELINE) {
        table.row(*is_stressed, vec![instant(*at), what.clone()]);
    }
    if events.is_empty() {
        return Block::Text("No alert, version, reload or restart was seen.".to_owned());
    }
    Block::Table(table)
}

const TIMELINE: usize = 60; // rows; more are an alert that flaps

fn reading(findings: &Findings) -> Vec<Block> {
    let mut items = vec![
        "Requests, tokens and cost are differences of counters between scrapes, not extrapolated; across a restart they are \
         Prometheus' increase(), which is."
            .to_owned(),
        "Quantiles are interpolated in the buckets of histograms; means are exact.".to_owned(),
        "Before: the time up to the begin, back to the end of the incident before or to where the data begin.".to_owned(),
        "A class of causes is named when it accounts for half of the bad requests or more. It says where to look, not why."
            .to_owned(),
        "More in docs/postmortem.md.".to_owned(),
    ];
    items.extend(findings.notes.iter().cloned());
    vec![Block::List(items)]
}
