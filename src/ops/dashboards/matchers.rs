//! The dashboards' variables, put into queries: of each series, matchers for the labels that it has.

use crate::sinks::metrics::catalog::{Kind, PREFIX, Row, TABLE};

/// A variable that chooses series by a label of the same name.
#[derive(Debug, PartialEq)]
pub(super) struct Variable {
    pub(super) label: &'static str,
    pub(super) title: &'static str,
    /// A metric that is there for all values that may be chosen.
    pub(super) metric: &'static str,
    pub(super) all: &'static str,
}

/// In the order in which they are shown. A series that lacks `job` or `instance` is not a scraped one.
pub(super) const VARIABLES: [Variable; 5] = [
    Variable { label: "job", title: "Job", metric: "streamgauge_build_info", all: ".+" },
    Variable { label: "instance", title: "Instance", metric: "streamgauge_build_info", all: ".+" },
    Variable {
        label: "upstream",
        title: "Upstream",
        metric: "streamgauge_requests_started_total",
        all: ".*",
    },
    Variable { label: "model", title: "Model", metric: "streamgauge_requests_total", all: ".*" },
    Variable { label: "tenant", title: "Tenant", metric: "streamgauge_requests_total", all: ".*" },
];

/// Limits are for models as they are written: `*` is for any that is chosen.
const OF_LIMITS: &str = "tpm_";

/// An expression with matchers in all of its series.
pub(super) fn matched(expr: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
    let mut text = String::new();
    let mut rest = expr;
    let mut in_string = false;
    while let Some(first) = rest.chars().next() {
        let end =
            if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (word, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        text.push_str(word);
        rest = after;
        if word == "\"" {
            in_string = !in_string;
        } else if let Some(matchers) = (!in_string).then(|| of(word)).flatten() {
            match rest.strip_prefix('{') {
                Some(own) => {
                    text.extend(["{", &matchers, ","]);
                    rest = own;
                }
                None => text.extend(["{", &matchers, "}"]),
            }
        }
    }
    text
}

/// The row of a series, by its full name.
pub(super) fn row(series: &str) -> Option<&'static Row> {
    let name = series.strip_prefix(PREFIX)?;
    let of = |name: &str| TABLE.iter().find(|row| row.name == name).copied();
    of(name).or_else(|| {
        let ends = ["_bucket", "_sum", "_count"].iter();
        let name = ends.filter_map(|end| name.strip_suffix(end)).next()?;
        of(name).filter(|row| matches!(row.kind, Kind::Histogram(_)))
    })
}

/// Matchers of a series; none of a word that is no series.
fn of(word: &str) -> Option<String> {
    let row = row(word);
    if row.is_none() && word != "up" && !word.starts_with("process_") {
        return None;
    }
    let has = |label: &str| {
        ["job", "instance"].contains(&label)
            || row.is_some_and(|row| row.labels.iter().any(|own| own.as_str() == label))
    };
    let matcher = |variable: &Variable| {
        let label = variable.label;
        let or = if label == "model" && row.is_some_and(|row| row.name.starts_with(OF_LIMITS)) {
            "|[*]"
        } else {
            ""
        };
        format!("{label}=~\"${label}{or}\"")
    };
    let matchers = VARIABLES.iter().filter(|variable| has(variable.label)).map(matcher);
    Some(matchers.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_series_gets_matchers_for_the_labels_that_it_has() {
        let both = "job=~\"$job\",instance=~\"$instance\"";
        for (expr, want) in [
            ("sum(up)", format!("sum(up{{{both}}})")),
            ("sum by (upstream) (x{y=\"up\"})", "sum by (upstream) (x{y=\"up\"})".to_owned()),
            ("streamgauge_series[5m]", format!("streamgauge_series{{{both}}}[5m]")),
            (
                "streamgauge_time_to_first_byte_seconds_bucket{le=\"1\"}",
                format!(
                    "streamgauge_time_to_first_byte_seconds_bucket{{{both},upstream=~\"$upstream\",model=~\"$model\",le=\"1\"}}"
                ),
            ),
            (
                "streamgauge_tpm_used",
                format!("streamgauge_tpm_used{{{both},model=~\"$model|[*]\",tenant=~\"$tenant\"}}"),
            ),
        ] {
            assert_eq!(matched(expr), want);
        }
    }
}
