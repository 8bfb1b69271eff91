//! Which series and labels there are, to hold queries to: the catalogue's and Prometheus' own. For tests only.

use std::collections::{BTreeMap, BTreeSet};

use crate::sinks::metrics::catalog::{Kind, TABLE};

/// The words of an expression, strings aside; `{`, `}`, `(`, `)`, `[`, `]` and `,` stand for themselves.
fn words(expr: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut in_string = false;
    let mut escaped = false;
    for c in expr.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c == '"' {
            in_string = true;
        } else if c.is_ascii_alphanumeric() || "_:.$".contains(c) {
            words.last_mut().unwrap().push(c);
        } else {
            words.push(String::new());
            if "{}()[],".contains(c) {
                words.push(c.to_string());
                words.push(String::new());
            }
        }
    }
    assert!(!in_string, "{expr}");
    words.retain(|word| !word.is_empty());
    words
}

/// What Prometheus and the process' library add, of which something is asked.
const OF_OTHERS: [&str; 4] =
    ["up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"];

/// What each series has as labels: the catalogue's, Prometheus' own, and those that are recorded.
pub(super) struct Known(pub(super) BTreeMap<String, BTreeSet<String>>);

impl Known {
    pub(super) fn new() -> Self {
        let mut known = BTreeMap::new();
        for row in TABLE.iter() {
            let mut labels: BTreeSet<String> =
                row.labels.iter().map(|label| label.as_str().to_owned()).collect();
            labels.extend(["instance".to_owned(), "job".to_owned()]);
            if row.can_have_tenant() {
                labels.insert("tenant".to_owned()); // with metrics.tenant_on_histograms
            }
            if matches!(row.kind, Kind::Histogram(_)) {
                for end in ["_count", "_sum"] {
                    known.insert(row.full_name() + end, labels.clone());
                }
                labels.insert("le".to_owned());
                known.insert(row.full_name() + "_bucket", labels);
            } else {
                known.insert(row.full_name(), labels);
            }
        }
        for name in OF_OTHERS {
            known.insert(name.to_owned(), ["instance", "job"].map(str::to_owned).into());
        }
        Self(known)
    }

    fn labels(&self, name: &str) -> &BTreeSet<String> {
        self.0.get(name).unwrap_or_else(|| panic!("there is no series {name}"))
    }

    /// Checks an expression; the labels of what it gives.
    pub(super) fn check(&self, expr: &str) -> BTreeSet<String> {
        let words = words(expr);
        let is_series = |word: &&String| {
            word.contains(':') || word.contains("streamgauge_") || OF_OTHERS.contains(&word.as_str())
        };
        let mut given = None;
        for (at, word) in words.iter().enumerate() {
            let list = |from: usize, end: &str| -> BTreeSet<String> {
                let list = words[from..].iter().take_while(|word| *word != end);
                list.filter(|word| *word != ",").cloned().collect()
            };
            if ["by", "on"].contains(&word.as_str()) {
                let labels = list(at + 2, ")");
                let series = words[at..].iter().find(is_series).unwrap();
                assert!(labels.is_subset(self.labels(series)), "{labels:?} of {series} in {expr}");
                given.get_or_insert(labels);
            } else if is_series(&word) {
                let labels = self.labels(word);
                if words.get(at + 1).is_some_and(|word| word == "{") {
                    let own = list(at + 2, "}");
                    assert!(own.is_subset(labels), "{own:?} of {word} in {expr}");
                }
                given.get_or_insert_with(|| labels.clone());
            }
        }
        given.unwrap()
    }
}
