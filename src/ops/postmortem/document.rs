//! The report as a document: titles, sentences, tables and charts, in the order in which they are read. Knows neither
//! HTML nor Markdown.

use super::Span;
use super::cause::{share, whom};
use super::chart::Lines;
use super::class::Class;
use super::detect::Objective;
use super::findings::{Findings, Main};
use super::sections;
use super::text::{clock, count, instant, name, percent, plural, seconds};

/// A report.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it is about, in a line.
    pub title: String,
    /// When, in a line.
    pub when: String,
    /// Whether something was breached.
    pub is_breach: bool,
    /// The numbers to know first.
    pub cards: Vec<Card>,
    /// What happened, in a few sentences.
    pub lead: String,
    /// All the rest.
    pub sections: Vec<Section>,
    /// What made it, and when.
    pub foot: String,
}

/// A number to know first.
#[derive(Debug, Clone)]
pub struct Card {
    /// What it is.
    pub label: &'static str,
    /// The number.
    pub value: String,
    /// What it is of.
    pub note: String,
}

/// A part of the report.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its title.
    pub title: &'static str,
    /// What stands in it.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug, Clone)]
pub enum Block {
    /// Sentences.
    Text(String),
    /// A smaller title.
    Heading(String),
    /// Short sentences, one a line.
    List(Vec<String>),
    /// Rows.
    Table(Table),
    /// Charts side by side; only where there is room for pictures.
    Charts(Vec<Lines>),
    /// Bars of one scale: their names, and parts by class and length.
    Bars {
        /// What they show.
        title: String,
        /// The bars.
        rows: Vec<(&'static str, Vec<(usize, f64)>)>,
        /// What the classes are called.
        legend: Vec<(usize, &'static str)>,
    },
    /// A class of causes.
    Candidate {
        /// Its name.
        name: &'static str,
        /// What share it accounts for, in words.
        share: String,
        /// The same, 0 to 1.
        part: f64,
        /// Whether it is the cause.
        is_cause: bool,
        /// What speaks for it.
        because: Vec<String>,
        /// What speaks against it.
        against: Vec<String>,
    },
    /// What people are to write.
    Blank(String),
}

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    /// The columns' titles; `>` before one: its cells are numbers, which stand at the right.
    pub head: Vec<&'static str>,
    /// The rows; what has a `true` is stressed.
    pub rows: Vec<(bool, Vec<String>)>,
    /// Whether cells are to be filled in.
    pub is_blank: bool,
}

impl Table {
    /// A table of these columns.
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new(), is_blank: false }
    }

    /// One row more.
    pub fn row(&mut self, is_stressed: bool, cells: Vec<String>) {
        self.rows.push((is_stressed, cells));
    }
}

/// Objectives' budgets are told for so long; the metrics do not say an objective's own window.
pub const BUDGET_DAYS: f64 = 30.0;

/// Puts findings into words.
pub fn of(findings: &Findings) -> Document {
    let Span { begin, end } = findings.asked;
    let asked = format!("{} to {} UTC", instant(begin), clock_or_instant(begin, end));
    let foot = format!(
        "Made by streamgauge {} at {} UTC from {} of samples, scraped every {} from {}. All times are UTC.",
        env!("CARGO_PKG_VERSION"),
        instant(findings.made),
        seconds(findings.data.seconds()),
        seconds(findings.interval),
        plural(findings.instances as f64, "sidecar"),
    );
    let Some(main) = &findings.main else {
        return Document {
            title: "Nothing was breached".to_owned(),
            when: asked,
            is_breach: false,
            cards: quiet_cards(findings),
            lead: quiet_lead(findings),
            sections: sections::quiet(findings),
            foot,
        };
    };
    Document {
        title: title(main),
        when: when(main),
        is_breach: true,
        cards: cards(main),
        lead: lead(main),
        sections: sections::all(findings, main),
        foot,
    }
}

/// What an objective is called in a sentence.
pub(super) fn called(objective: &Objective) -> String {
    if objective.name.is_empty() {
        return "that requests succeed (no objective is configured)".to_owned();
    }
    format!("objective {}", name(&objective.name))
}

/// What an objective promises, in words.
pub(super) fn promise(objective: &Objective) -> String {
    let mut asks = Vec::new();
    asks.extend(objective.ttft.map(|bound| format!("first token within {}", seconds(bound))));
    asks.extend(objective.tpot.map(|bound| format!("{} a token at most", seconds(bound))));
    asks.extend(objective.duration.map(|bound| format!("over within {}", seconds(bound))));
    if asks.is_empty() {
        asks.push("success".to_owned());
    }
    format!("{} of requests: {}", percent(objective.share), asks.join(", "))
}

fn title(main: &Main) -> String {
    let what = match main.objective.name.as_str() {
        "" => "Requests failed".to_owned(),
        slo => format!("Objective {} was missed", name(slo)),
    };
    format!("{what}: {}", whom(&main.incident))
}

fn when(main: &Main) -> String {
    let incident = &main.incident;
    let begin = if incident.began_before { "before " } else { "" };
    let end = match incident.goes_on {
        true => "and goes on".to_owned(),
        false => format!("to {} UTC", clock_or_instant(incident.span.begin, incident.span.end)),
    };
    format!("{begin}{} {end}", instant(incident.span.begin))
}

/// The time of day alone, where the day is that of another instant.
fn clock_or_instant(beside: f64, at: f64) -> String {
    let day = |at: f64| instant(at).split(' ').next().map(str::to_owned);
    if day(beside) == day(at) { clock(at) } else { instant(at) }
}

/// The share of the budget that an incident spent.
pub(super) fn budget_spent(main: &Main) -> Option<f64> {
    let (_, bad) = main.judged();
    let allowed = main.usual * BUDGET_DAYS * 86_400.0 * main.objective.budget();
    (allowed > 0.0 && !main.objective.name.is_empty()).then(|| bad / allowed)
}

fn cards(main: &Main) -> Vec<Card> {
    let incident = &main.incident;
    let (judged, bad) = main.judged();
    let more = if incident.goes_on || incident.began_before { "at least " } else { "" };
    let mut cards = vec![
        Card {
            label: "Duration",
            value: format!("{more}{}", seconds(incident.span.seconds())),
            note: format!(
                "± {}: one scrape at either end",
                seconds(incident.first_seen - incident.span.begin)
            ),
        },
        Card {
            label: "Requests that missed it",
            value: count(bad),
            note: format!("of {} judged: {}", count(judged), percent(bad / judged.max(1.0))),
        },
    ];
    cards.extend(budget_spent(main).map(|spent| Card {
        label: "Error budget spent",
        value: percent(spent),
        note: format!("of {BUDGET_DAYS} days, at the traffic of before"),
    }));
    cards.push(Card {
        label: "Cause class",
        value: main.judgement.class.label().to_owned(),
        note: match (main.judgement.class, main.judgement.candidates.first()) {
            (Class::Unknown, _) | (_, None) => "see what was looked at".to_owned(),
            (_, Some(first)) => format!("accounts for {} of the bad requests", share(first.share)),
        },
    });
    cards
}

fn lead(main: &Main) -> String {
    let incident = &main.incident;
    let (judged, bad) = main.judged();
    let began = match incident.began_before {
        true => format!("Before {} (where the data begin)", instant(incident.span.begin)),
        false => format!("At {} UTC", instant(incident.first_seen)),
    };
    let ended = match incident.goes_on {
        true => "and they still did when the data ended".to_owned(),
        false => format!("and did so until {}", clock_or_instant(incident.first_seen, incident.span.end)),
    };
    format!(
        "{began} requests of {} began to miss {} ({}), {ended}. {} of {} missed it. {}",
        whom(incident),
        called(&main.objective),
        promise(&main.objective),
        count(bad),
        plural(judged, "request"),
        main.judgement.class.meaning(),
    )
}

fn quiet_cards(findings: &Findings) -> Vec<Card> {
    let judged: f64 = findings.totals.values().map(|(judged, _)| judged).sum();
    let bad: f64 = findings.totals.values().map(|(_, bad)| bad).sum();
    vec![
        Card {
            label: "Requests judged",
            value: count(judged),
            note: "once for each objective that they fall under".to_owned(),
        },
        Card {
            label: "Missed their objective",
            value: count(bad),
            note: if judged > 0.0 { percent(bad / judged) } else { "there were no requests".to_owned() },
        },
        Card {
            label: "Alerts that fired",
            value: count(findings.alerts.len() as f64),
            note: "of the rules that streamgauge writes".to_owned(),
        },
    ]
}

fn quiet_lead(findings: &Findings) -> String {
    let asked = findings.asked;
    let mut lead = format!(
        "From {} to {} UTC no objective was breached: nobody's bad requests came to {} or more and to six times what the objective \
         allows.",
        instant(asked.begin),
        clock_or_instant(asked.begin, asked.end),
        count(super::detect::BAD),
    );
    let slow: Vec<String> = sections::slow_burns(findings)
        .into_iter()
        .map(|(objective, share)| format!("{} ({})", name(&objective.name), percent(share)))
        .collect();
    if !slow.is_empty() {
        lead.push_str(&format!(
            " But over the whole time more was bad than is allowed: {}. That burns the budget slowly.",
            slow.join(", ")
        ));
    }
    lead
}
