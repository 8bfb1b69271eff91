//! The runbooks: whoever opens one at night can paste each of its queries, and finds each of its parts.
//!
//! Absent: whether Prometheus accepts the queries; `tests/real/test_runbooks.py` asks it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use streamgauge::sinks::metrics::catalog::{Kind, TABLE};
use streamgauge::sinks::metrics::docs;

const PARTS: [&str; 6] =
    ["How bad", "First three queries", "Likely causes", "What to do", "Over when", "Make it rarer"];

const LINES: usize = 80; // what can be read before the second coffee

/// What Prometheus adds to every series of ours, and what Kubernetes' discovery is usually set to add.
const OF_TARGETS: [&str; 5] = ["instance", "job", "pod", "namespace", "le"];

/// What Prometheus and every process have, as it begins in a query.
const FOREIGN: [&str; 3] = ["up{", "process_", "scrape_"];

/// Labels whose values are a closed list in docs/metrics.md.
const CLOSED: [&str; 12] = [
    "outcome",
    "source",
    "phase",
    "direction",
    "action",
    "stage",
    "reason",
    "state",
    "label",
    "input_band",
    "kind",
    "period",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks")
}

/// Every runbook's name and text; the index is not one of them.
fn pages() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let pages = files.filter(|path| path.file_name().is_some_and(|name| name != "README.md"));
    let named = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    pages.map(|path| (named(&path), std::fs::read_to_string(&path).unwrap())).collect()
}

/// The text between each pair of fences of this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fences = page.split("\n```").enumerate().filter(|(place, _)| place % 2 == 1);
    fences.filter_map(|(_, block)| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Everything between `open`, which `text` begins with, and its counterpart; quoted text opens and closes nothing.
fn enclosed(text: &str, open: char, close: char) -> Option<&str> {
    let mut depth = 0;
    let mut is_quoted = false;
    for (place, c) in text.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            _ if c == open => depth += 1,
            _ if c == close && depth == 1 => return text.get(1..place),
            _ if c == close => depth -= 1,
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// A name in a query, and the labels that its braces ask for with the values that they name.
type Selector<'a> = (&'a str, Vec<(&'a str, Vec<&'a str>)>);

/// Each of our metrics in a text, with what its braces ask for.
fn selectors(text: &str) -> Vec<Selector<'_>> {
    let starts = text.match_indices("streamgauge_").map(|(place, _)| text.split_at(place).1);
    starts
        .map(|rest| {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            (name, enclosed(after, '{', '}').map(matchers).unwrap_or_default())
        })
        .collect()
}

/// `a="x|y", b!="z"`: each label with its values.
fn matchers(braces: &str) -> Vec<(&str, Vec<&str>)> {
    let mut quotes = braces.split('"');
    let mut found = Vec::new();
    while let (Some(before), values) = (quotes.next(), quotes.next()) {
        for label in before.split(|c| !is_word(c)).filter(|word| !word.is_empty()) {
            found.push((label, values.map(|values| values.split('|').collect()).unwrap_or_default()));
        }
    }
    found
}

/// The labels that a metric's series have, by the name that stands in a query; None where there is no such metric.
fn labels_of(name: &str) -> Option<Vec<&'static str>> {
    TABLE.iter().find_map(|row| {
        let rest = name.strip_prefix(row.full_name().as_str())?;
        let is_it = match row.kind {
            Kind::Histogram(_) => ["_bucket", "_sum", "_count"].contains(&rest),
            _ => rest.is_empty(),
        };
        is_it.then(|| row.labels.iter().map(|label| label.as_str()).collect())
    })
}

/// What is wrong with the selectors of a text.
fn wrong_selectors(text: &str) -> Vec<String> {
    let values_page = docs::markdown();
    let mut wrong = Vec::new();
    for (name, asked) in selectors(text) {
        let Some(labels) = labels_of(name) else {
            wrong.push(format!("no metric is called {name}, or it is a histogram without its suffix"));
            continue;
        };
        for (label, values) in asked {
            let is_known = labels.contains(&label) || OF_TARGETS.contains(&label);
            if !is_known {
                wrong.push(format!("{name} has no label {label}"));
            }
            let row = values_page.lines().find(|line| line.starts_with(&format!("| `{label}` |")));
            for value in values.iter().filter(|_| CLOSED.contains(&label)) {
                if !row.unwrap().contains(&format!("`{value}`")) {
                    wrong.push(format!("{name}: {label} is never {value:?}"));
                }
            }
        }
    }
    wrong
}

/// What is wrong with `by (…)`, `on (…)` and their like: a label that no metric there has gives one silent group.
fn wrong_groups(query: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for word in ["by", "on", "group_left", "group_right"] {
        for (place, _) in query.match_indices(&format!(" {word} (")) {
            let rest = query.split_at(place + word.len() + 2).1;
            let list = enclosed(rest, '(', ')').unwrap();
            // What is summed stands in the next parentheses; what is joined, anywhere in the query.
            let after = rest.split_at(list.len() + 2).1.trim_start();
            let scope = if word == "by" { enclosed(after, '(', ')').unwrap() } else { query };
            let known: Vec<_> =
                selectors(scope).iter().filter_map(|(name, _)| labels_of(name)).flatten().collect();
            for label in list.split(',').map(str::trim).filter(|label| !label.is_empty()) {
                let is_known = match label {
                    "le" => scope.contains("_bucket"),
                    _ => known.contains(&label) || OF_TARGETS.contains(&label),
                };
                if !is_known {
                    wrong.push(format!("{word} ({list}): nothing there has the label {label}"));
                }
            }
        }
    }
    wrong
}

#[test]
fn every_query_names_metrics_and_labels_that_there_are() {
    let mut wrong = Vec::new();
    for (name, page) in pages() {
        wrong.extend(wrong_selectors(&page).into_iter().map(|text| format!("{name}: {text}")));
        let queries = blocks(&page, "promql");
        let in_sentences =
            page.split('`').filter(|code| code.contains("streamgauge_") && !code.contains("\n\n"));
        for query in queries.iter().copied().chain(in_sentences) {
            wrong.extend(wrong_groups(query).into_iter().map(|text| format!("{name}: {text}")));
        }
        for query in queries {
            let has_metric =
                query.contains("streamgauge_") || FOREIGN.iter().any(|foreign| query.contains(foreign));
            assert!(has_metric, "{name}: a query of nothing: {query}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_wrong_with_a_query_is_seen() {
    let asked = wrong_selectors("rate(streamgauge_requests_total{outcome=\"complete\", phase!=\"x\"}[5m])");
    assert_eq!(asked.len(), 3, "{asked:?}"); // an outcome that is none, a label that it lacks, and that one's value
    assert_eq!(wrong_selectors("streamgauge_time_to_first_token_seconds").len(), 1);
    assert_eq!(wrong_selectors("streamgauge_series_bucket").len(), 1);
    assert_eq!(wrong_groups("sum by (tenant, le) (streamgauge_proxy_overhead_seconds_bucket)").len(), 1);
    assert_eq!(wrong_groups("sum by (le) (streamgauge_proxy_overhead_seconds_count)").len(), 1);
    assert_eq!(wrong_groups("streamgauge_tpm_used / on (slo) streamgauge_tpm_limit").len(), 1);
    let right = "sum by (phase, le) (rate(streamgauge_proxy_overhead_seconds_bucket{phase=~\"request|response\"}[5m]))";
    assert_eq!((wrong_selectors(right), wrong_groups(right)), (Vec::new(), Vec::new()));
}

#[test]
fn every_page_has_its_parts_in_order_and_is_short() {
    for (name, page) in pages() {
        assert!(page.starts_with(&format!("# {name}\n\n")), "{name}: its first line is another");
        let parts: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(parts, PARTS, "{name}");
        let queries = page.split("\n## First three queries\n").nth(1).unwrap();
        let queries = queries.split("\n## ").next().unwrap();
        assert_eq!(blocks(queries, "promql").len(), 3, "{name}");
        let lines = page.lines().count();
        assert!(lines <= LINES, "{name} has {lines} lines");
    }
}

#[test]
fn the_index_has_every_page_and_says_the_same_of_it() {
    let index = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let rows: BTreeMap<_, _> = index
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| [")?.split_once("](")?;
            let [file, _, severity, _, _] = rest.split('|').collect::<Vec<_>>()[..] else {
                panic!("a row has four columns: {line}")
            };
            assert_eq!(file.trim(), format!("{name}.md)"));
            Some((name.to_owned(), severity.trim().to_owned()))
        })
        .collect();
    let severity = |page: &str| ["page", "ticket"].into_iter().find(|of| page.contains(&format!("**{of}**")));
    let found: BTreeMap<_, _> = pages()
        .into_iter()
        .map(|(name, page)| (name, severity(&page).unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(rows, found);
}

/// What a link to a heading ends in.
fn anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix("## ")?.to_lowercase();
    Some(title.replace(' ', "-").replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', ""))
}

#[test]
fn every_link_leads_somewhere() {
    let index = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for (name, page) in pages().into_iter().chain([("README".to_owned(), index)]) {
        for link in page.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            let (target, part) = link.split_once('#').unwrap_or((link, ""));
            if target.starts_with("https://") {
                continue;
            }
            let text = std::fs::read_to_string(folder().join(target)).unwrap_or_default();
            let has_part = text.lines().any(|line| part.is_empty() || anchor(line).as_deref() == Some(part));
            assert!(has_part, "{name}: {link} is not there");
        }
    }
}
