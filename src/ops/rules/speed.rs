//! Agreements on speed by slices of time: of all five minutes with traffic, the share whose median TPS kept its target.
//!
//! A request's TPS is the inverse of its TPOT, and an objective's TPOT is a bound of its histogram. So the median is over
//! the target exactly where half of the requests are at or below that bound: nothing is interpolated.

use std::time::Duration;

use super::rule::{Alert, Board, Group, Record, Rule, Severity, literal, quoted};
use super::slo::{decimal, percent};
use super::window::Window;
use crate::account::model::Glob;
use crate::account::slo::{Slo, Slos};

/// How long a slice is: the group's interval and the range of its rates.
const SLICE: Duration = Duration::from_secs(300);
/// Of fewer slices than a day has no share is told; of a short window, than half of it has.
const SLICES: u64 = 288;
/// It fires while there was a slow slice in so long: the share itself recovers only when slices leave the window.
const RECENT: Window = Window::minutes(1_440);
const KEPT: &str = "slo_tenant_model_upstream:streamgauge_speed_kept:slice5m";

/// The rules of all objectives that ask for a TPOT, and what is to be said of them.
pub(super) fn group(slos: &Slos, tenant_on_histograms: bool) -> (Option<Group>, Vec<String>) {
    let mut notes = Vec::new();
    let mut rules = Vec::new();
    for slo in &slos.0 {
        let Some(tpot) = slo.asks.tpot else { continue };
        if slo.matching.tenant.as_ref().is_some_and(|tenant| tenant.text() != "*") && !tenant_on_histograms {
            notes.push(format!(
                "objective `{}`: no StreamgaugeSpeedSLA, for it is of some tenants only, and TPOT is not known by tenant; \
                 set metrics.tenant_on_histograms: true",
                slo.name
            ));
            continue;
        }
        if slo.matching.dialect.is_some() {
            notes.push(format!(
                "objective `{}`: StreamgaugeSpeedSLA looks at streams of all dialects, for TPOT is not known by dialect",
                slo.name
            ));
        }
        rules.push(Rule::Record(slices(slo, tpot, tenant_on_histograms)));
        rules.push(Rule::Alert(missed(slo, tpot)));
    }
    let name = "streamgauge-speed".to_owned();
    let group = (!rules.is_empty()).then_some(Group { name, interval: Some(SLICE), rules });
    (group, notes)
}

/// 1 for a slice that kept it, 0 for one that did not, nothing for one without traffic.
fn slices(slo: &Slo, tpot: Duration, tenant_on_histograms: bool) -> Record {
    let seconds = tpot.as_secs_f64();
    // OpenMetrics writes a whole number as 1.0, text as 1.
    let bound = if tpot.subsec_nanos() == 0 {
        format!("le=~\"{seconds}|{seconds}[.]0\"")
    } else {
        format!("le=\"{seconds}\"")
    };
    let tenant = slo.matching.tenant.as_ref().filter(|_| tenant_on_histograms);
    let globs = [
        ("model", slo.matching.model.as_ref()),
        ("upstream", slo.matching.upstream.as_ref()),
        ("tenant", tenant),
    ];
    let globs =
        globs.into_iter().filter_map(|(label, glob)| Some((label, glob.filter(|glob| glob.text() != "*")?)));
    let matchers: Vec<String> =
        globs.map(|(label, glob)| format!("{label}=~{}", quoted(&regex(glob)))).collect();
    let filter = |first: &[String]| match [first, &matchers].concat().join(",") {
        text if text.is_empty() => text,
        text => format!("{{{text}}}"),
    };
    let labels = if tenant_on_histograms { "tenant, model, upstream" } else { "model, upstream" };
    let slice = Window(SLICE);
    let metric = "streamgauge_time_per_output_token_seconds";
    let kept = format!("sum by ({labels}) (rate({metric}_bucket{}[{slice}]))", filter(&[bound]));
    let all = format!("sum by ({labels}) (rate({metric}_count{}[{slice}]))", filter(&[]));
    Record {
        name: KEPT.to_owned(),
        expr: format!("{kept}\n/ ({all} > 0)\n>= bool 0.5"),
        labels: vec![("slo", slo.name.to_string())],
    }
}

fn missed(slo: &Slo, tpot: Duration) -> Alert {
    let series = format!("{KEPT}{{slo={}}}", quoted(slo.name.as_str()));
    let objective = slo.objective * 10;
    let window = Window(slo.window);
    let fewest = SLICES.min(slo.window.as_secs() / SLICE.as_secs() / 2).max(1);
    let expr = format!(
        "avg_over_time({series}[{window}]) < {}\nand count_over_time({series}[{window}]) >= {fewest}\nand \
         min_over_time({series}[{RECENT}]) == 0",
        decimal(objective)
    );
    Alert {
        name: "StreamgaugeSpeedSLA",
        severity: Severity::Ticket,
        expr,
        after: Duration::ZERO,
        keep: Duration::ZERO,
        labels: vec![("slo", literal(slo.name.as_str()))],
        summary: "Objective {{ $labels.slo }}: model {{ $labels.model }} on {{ $labels.upstream }} kept its speed in only \
                  {{ $value | humanizePercentage }} of the time"
            .to_owned(),
        description: format!(
            "Of the five minutes with traffic in the last {window}, {} are to have a median of at least {} tokens a \
             second for each stream (a TPOT of {}). Fires from {fewest} such slices on, until a day after the last slow \
             one.",
            percent(objective),
            (10.0 / tpot.as_secs_f64()).round() / 10.0,
            Window(tpot)
        ),
        board: Board::Slo,
    }
}

/// A glob as a regular expression; Prometheus holds it to the whole value.
fn regex(glob: &Glob) -> String {
    let mut regex = String::new();
    for c in glob.text().chars() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            c if c.is_ascii_punctuation() && !"-_/:,".contains(c) => regex.extend(['\\', c]),
            c => regex.push(c),
        }
    }
    regex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_is_the_same_as_a_regular_expression() {
        for (glob, want) in [
            ("llama*", "llama.*"),
            ("llama-3.1-8?", "llama-3\\.1-8."),
            ("meta-llama/(a)|b", "meta-llama/\\(a\\)\\|b"),
        ] {
            assert_eq!(regex(&Glob::new(glob)), want);
        }
    }
}
