//! Burn rates: how fast an objective's error budget is spent, over two windows at once.
//!
//! The factors and windows are those of the SRE workbook (Beyer et al., O'Reilly 2018), chapter 5, "Alerting on SLOs",
//! method 6: the long window says that it matters, the short one that it still goes on.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::rule::{Alert, Board, Group, Record, Rule, Severity, literal, minutes, quoted};
use super::window::Window;
use crate::account::slo::{Slo, Slos};

/// Two windows over which the budget burns so many times as fast as it may. In a window of 30 days that is 2 % of the
/// budget in an hour, 5 % in six, 10 % in one day, 10 % in three.
#[derive(Debug, Clone, Copy)]
struct Burn {
    severity: Severity,
    /// In tenths.
    factor: u32,
    /// Minutes.
    long: u64,
    /// Minutes: a twelfth of the long one.
    short: u64,
}

const BURNS: [Burn; 4] = [
    Burn { severity: Severity::Page, factor: 144, long: 60, short: 5 },
    Burn { severity: Severity::Page, factor: 60, long: 360, short: 30 },
    Burn { severity: Severity::Ticket, factor: 30, long: 1_440, short: 120 },
    Burn { severity: Severity::Ticket, factor: 10, long: 4_320, short: 360 },
];

/// For windows from this many minutes on, the burns stand as they are. For shorter ones theirs shrink in proportion, or
/// three days of burning would be all of it.
const MONTH: u64 = 28 * 1_440;
/// What Prometheus needs to see a rate: four scrapes, at the usual 30 s.
const SHORTEST: u64 = 2;

/// No share is more than all: of an objective of 90 % no request can be 14.4 times as bad as it may. Where a factor
/// asks for more than this share, this share is enough.
const CEILING: u32 = 7 * WHOLE / 10;
/// One, in the unit of thresholds.
const WHOLE: u32 = 10_000_000;

/// Fewer requests in the long window tell no share: at 99 % and 14.4 times, 5 of 30 are bad.
const REQUESTS: u32 = 30;
/// Fewer bad ones wake nobody, however strict the objective: they may be one user's.
const BAD: u32 = 5;

/// What a level of series is summed by, and what its names begin with.
#[derive(Debug, Clone, Copy)]
struct Level {
    name: &'static str,
    labels: &'static str,
    /// The label `scope` of its alerts.
    scope: &'static str,
    of: &'static str,
}

/// Each tenant with each model: a small tenant's outage is not lost in a large one's traffic.
const PARTY: Level = Level {
    name: "slo_tenant_model",
    labels: "slo, tenant, model",
    scope: "tenant",
    of: "of tenant {{ $labels.tenant }} with model {{ $labels.model }}",
};
/// All together: many tenants that are each too quiet to tell a share of.
const ALL: Level = Level { name: "slo", labels: "slo", scope: "all", of: "of all tenants and models" };

/// A burn of one objective: what it fires at.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pair {
    severity: Severity,
    factor: u32,
    /// A share of bad requests, in ten-millionths.
    threshold: u32,
    long: Window,
    short: Window,
}

/// The rules of all objectives, and what is to be said of them.
pub(super) fn groups(slos: &Slos) -> (Vec<Group>, Vec<String>) {
    if slos.0.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let mut notes = Vec::new();
    let mut windows = BTreeMap::from([(QUIET, true)]);
    let mut alerts = Vec::new();
    for slo in &slos.0 {
        let pairs = pairs(slo, &mut notes);
        for pair in &pairs {
            windows.entry(pair.short).or_insert(false);
            windows.insert(pair.long, true);
        }
        alerts.push(Group {
            name: format!("streamgauge-slo-{}", slo.name),
            interval: None,
            rules: alerts_of(slo, &pairs),
        });
    }
    let records = windows.iter().flat_map(|(window, is_long)| records(*window, *is_long)).collect();
    let recorded = Group { name: "streamgauge-slo-windows".to_owned(), interval: None, rules: records };
    let groups = std::iter::once(recorded).chain(alerts).collect();
    (groups, notes)
}

/// Of a quiet tenant, how long is looked back.
const QUIET: Window = Window::minutes(60);

/// The share of bad requests over one window, and how many requests there were where a guard asks for it. Where there
/// was none, there is no share: it is not 0 and not NaN.
fn records(window: Window, is_long: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for Level { name, labels, .. } in [PARTY, ALL] {
        let sum = |function: &str, metric: &str| {
            format!("sum by ({labels}) ({function}(streamgauge_{metric}[{window}]))")
        };
        let bad = sum("rate", "slo_bad_requests_total");
        let all = sum("rate", "slo_requests_total");
        rules.push((
            format!("{name}:streamgauge_slo_bad:ratio_rate{window}"),
            format!("{bad}\n/ ({all} > 0)"),
        ));
        if is_long {
            let all = sum("increase", "slo_requests_total");
            rules.push((format!("{name}:streamgauge_slo_requests:increase{window}"), all));
        }
    }
    rules.into_iter().map(|(name, expr)| Rule::Record(Record { name, expr, labels: Vec::new() })).collect()
}

/// What an objective's alerts fire at; a pair that could say nothing that the one before it did not is left out.
fn pairs(slo: &Slo, notes: &mut Vec<String>) -> Vec<Pair> {
    let budget = (1_000_000 - slo.objective) * 10;
    // Of a promise that is lower than that itself: half of what is left.
    let ceiling = if budget < CEILING { CEILING } else { budget + (WHOLE - budget) / 2 };
    let mut pairs: Vec<Pair> = Vec::new();
    for burn in BURNS {
        let wanted = u64::from(budget) * u64::from(burn.factor) / 10;
        let threshold = u32::try_from(wanted).unwrap_or(u32::MAX).min(ceiling);
        let (long, short) = burn.windows(slo.window);
        let (factor, share) = (tenths(burn.factor), percent(threshold));
        let whose = format!("objective `{}` of {}", slo.name, percent(WHOLE - budget));
        if pairs.last().is_some_and(|before| before.threshold <= threshold) {
            notes.push(format!(
                "{whose}: {factor} times over {long} is left out: the shorter windows fire at {share} already"
            ));
            continue;
        }
        if u64::from(threshold) < wanted {
            let why = if wanted >= u64::from(WHOLE) { "cannot be reached" } else { "is nearly all" };
            notes.push(format!(
                "{whose}: {factor} times as many bad requests as it allows {why}; over {long} its alert fires at {share}"
            ));
        }
        pairs.push(Pair { severity: burn.severity, factor: burn.factor, threshold, long, short });
    }
    pairs
}

impl Burn {
    fn windows(self, of: Duration) -> (Window, Window) {
        let minutes = of.as_secs() / 60;
        let scaled = |window: u64| {
            if minutes >= MONTH { window } else { (window * minutes / (30 * 1_440)).max(SHORTEST) }
        };
        (Window::minutes(scaled(self.long).max(2 * SHORTEST)), Window::minutes(scaled(self.short)))
    }
}

fn alerts_of(slo: &Slo, pairs: &[Pair]) -> Vec<Rule> {
    let mut alerts = Vec::new();
    for severity in [Severity::Page, Severity::Ticket] {
        let own: Vec<&Pair> = pairs.iter().filter(|pair| pair.severity == severity).collect();
        if !own.is_empty() {
            alerts.extend([PARTY, ALL].map(|level| burning(slo, severity, &own, level)));
        }
    }
    alerts.extend(pairs.first().map(|pair| quiet(slo, pair)));
    alerts.into_iter().map(Rule::Alert).collect()
}

fn burning(slo: &Slo, severity: Severity, pairs: &[&Pair], level: Level) -> Alert {
    let filter = format!("{{slo={}}}", quoted(slo.name.as_str()));
    let Level { name, scope, of, .. } = level;
    let mut exprs = Vec::new();
    let mut fires = Vec::new();
    for Pair { threshold, long, short, factor, .. } in pairs {
        let share = decimal(*threshold);
        let bad = format!("{name}:streamgauge_slo_bad:ratio_rate");
        let requests = format!("{name}:streamgauge_slo_requests:increase{long}{filter}");
        exprs.push(format!(
            "(\n  {bad}{long}{filter} > {share}\n  and {bad}{short}{filter} > {share}\n  and {requests} >= {REQUESTS}\n  \
             and {bad}{long}{filter} * {requests} >= {BAD}\n)"
        ));
        let budget = (1_000_000 - slo.objective) * 10;
        let is_whole = u64::from(*threshold) == u64::from(budget) * u64::from(*factor) / 10;
        let times = if is_whole { format!(" (factor {})", tenths(*factor)) } else { String::new() };
        fires.push(format!("{}{times} over both {long} and {short}", percent(*threshold)));
    }
    let (name, keep) = match severity {
        Severity::Page => ("StreamgaugeSLOBurnFast", minutes(5)),
        Severity::Ticket => ("StreamgaugeSLOBurnSlow", minutes(60)),
    };
    Alert {
        name,
        severity,
        expr: exprs.join("\nor\n"),
        after: Duration::ZERO,
        keep,
        labels: vec![("scope", scope.to_owned()), ("slo", literal(slo.name.as_str()))],
        summary: format!(
            "Objective {{{{ $labels.slo }}}}: {{{{ $value | humanizePercentage }}}} of the requests {of} miss it"
        ),
        description: format!(
            "{} It may be missed by {}. This fires from {}, and not below {REQUESTS} requests and {BAD} bad ones in the \
             longer window.",
            promise(slo),
            percent((1_000_000 - slo.objective) * 10),
            fires.join(", or ")
        ),
        board: Board::Slo,
    }
}

/// A tenant with too few requests to tell how fast a budget burns: what would have paged, had there been more of them.
fn quiet(slo: &Slo, pair: &Pair) -> Alert {
    let filter = format!("{{slo={}}}", quoted(slo.name.as_str()));
    let bad = format!("slo_tenant_model:streamgauge_slo_bad:ratio_rate{QUIET}{filter}");
    let requests = format!("slo_tenant_model:streamgauge_slo_requests:increase{QUIET}{filter}");
    let share = decimal(pair.threshold);
    Alert {
        name: "StreamgaugeSLOThreshold",
        severity: Severity::Page,
        expr: format!("{bad} > {share}\nand {requests} < {REQUESTS}\nand {bad} * {requests} >= {BAD}"),
        after: Duration::ZERO,
        keep: Duration::ZERO,
        labels: vec![("scope", "tenant".to_owned()), ("slo", literal(slo.name.as_str()))],
        summary:
            "Objective {{ $labels.slo }}: {{ $value | humanizePercentage }} of the few requests of tenant \
                  {{ $labels.tenant }} with model {{ $labels.model }} missed it"
                .to_owned(),
        description: format!(
            "{} Fewer than {REQUESTS} requests in {QUIET} tell no burn rate, so this fires at {BAD} bad ones, if they are \
             over {}. It ends when they are {QUIET} old.",
            promise(slo),
            percent(pair.threshold)
        ),
        board: Board::Slo,
    }
}

/// What is promised, in words.
fn promise(slo: &Slo) -> String {
    let mut asks: Vec<String> = Vec::new();
    for (kind, time) in slo.asks.thresholds() {
        let kind = if kind == "duration" { kind.to_owned() } else { kind.to_uppercase() };
        asks.push(format!("{kind} within {}", Window(time)));
    }
    if slo.asks.success {
        asks.push("an answer that is complete".to_owned());
    }
    let mut text = format!("Promised: {}", asks.join(", "));
    // Writing to a String cannot fail.
    let _ = write!(text, " for {} of the requests of {}.", percent(slo.objective * 10), Window(slo.window));
    text
}

/// Ten-millionths as a number.
pub(super) fn decimal(share: u32) -> f64 {
    f64::from(share) / f64::from(WHOLE)
}

/// Ten-millionths as a percentage.
pub(super) fn percent(share: u32) -> String {
    format!("{} %", f64::from(share) / f64::from(WHOLE / 100))
}

fn tenths(factor: u32) -> f64 {
    f64::from(factor) / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::slo::{Asks, Matching};
    use crate::exchange::Name;

    fn slo(objective: u32, days: u64) -> Slo {
        Slo {
            name: Name::from("chat"),
            matching: Matching::default(),
            objective,
            window: Duration::from_secs(days * 86_400),
            asks: Asks { ttft: Some(Duration::from_millis(300)), ..Asks::default() },
        }
    }

    fn thresholds(objective: u32) -> Vec<f64> {
        pairs(&slo(objective, 30), &mut Vec::new()).iter().map(|pair| decimal(pair.threshold)).collect()
    }

    #[test]
    fn factors_are_held_to_what_an_objective_can_reach() {
        for (objective, want) in [
            (999_000, vec![0.0144, 0.006, 0.003, 0.001]),
            (990_000, vec![0.144, 0.06, 0.03, 0.01]),
            (950_000, vec![0.7, 0.3, 0.15, 0.05]),
            (930_000, vec![0.7, 0.42, 0.21, 0.07]),
            (900_000, vec![0.7, 0.6, 0.3, 0.1]),
            (700_000, vec![0.7, 0.3]),
            (500_000, vec![0.7, 0.5]),
            (200_000, vec![0.9, 0.8]),
            (1, vec![0.9999995, 0.999999]),
        ] {
            assert_eq!(thresholds(objective), want, "{objective}");
        }
    }

    #[test]
    fn no_threshold_is_within_what_is_promised_or_beyond_what_can_be() {
        for objective in (1..1_000_000).step_by(997) {
            let budget = f64::from(1_000_000 - objective) / 1e6;
            let all = thresholds(objective);
            assert!(all.iter().all(|&share| share >= budget && share < 1.0), "{objective}: {all:?}");
            assert!(!all.is_empty() && all.is_sorted_by(|a, b| a > b), "{objective}: {all:?}");
        }
    }

    #[test]
    fn what_is_changed_or_left_out_is_said() {
        let notes = |objective| {
            let mut notes = Vec::new();
            pairs(&slo(objective, 30), &mut notes);
            notes
        };
        assert_eq!(notes(990_000), [""; 0]);
        assert_eq!(
            notes(900_000),
            [
                "objective `chat` of 90 %: 14.4 times as many bad requests as it allows cannot be reached; over 1h its \
              alert fires at 70 %"
            ]
        );
        assert_eq!(
            notes(950_000),
            [
                "objective `chat` of 95 %: 14.4 times as many bad requests as it allows is nearly all; over 1h its alert \
              fires at 70 %"
            ]
        );
        assert_eq!(
            notes(500_000)[1..],
            [
                "objective `chat` of 50 %: 6 times over 6h is left out: the shorter windows fire at 70 % already",
                "objective `chat` of 50 %: 3 times over 1d is left out: the shorter windows fire at 70 % already",
            ]
        );
    }

    #[test]
    fn a_short_window_has_short_burns() {
        let windows = |days| {
            let all = pairs(&slo(990_000, days), &mut Vec::new());
            all.iter().map(|pair| format!("{}/{}", pair.long, pair.short)).collect::<Vec<_>>()
        };
        assert_eq!(windows(30), ["1h/5m", "6h/30m", "1d/2h", "3d/6h"]);
        assert_eq!(windows(90), windows(30));
        assert_eq!(windows(28), windows(30));
        assert_eq!(windows(7), ["14m/2m", "1h24m/7m", "5h36m/28m", "16h48m/1h24m"]);
        assert_eq!(windows(1), ["4m/2m", "12m/2m", "48m/4m", "2h24m/12m"]);
    }
}
