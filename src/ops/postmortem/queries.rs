//! What is to be asked of Prometheus: tables of questions, and the PromQL that they become. Every metric in them is in
//! the catalogue; a test holds them to that.

use super::Span;

/// What tells that a sidecar was scraped.
pub const PRESENCE: &str = "streamgauge_build_info";
/// What is judged by objectives.
pub const JUDGED: &str = "streamgauge_slo_requests_total";
/// What missed them.
pub const BAD: &str = "streamgauge_slo_bad_requests_total";
/// What ended, and how.
pub const REQUESTS: &str = "streamgauge_requests_total";
/// The times that objectives ask for.
pub const THRESHOLDS: &str = "streamgauge_slo_threshold_seconds";
/// The shares that are to keep them.
pub const SHARES: &str = "streamgauge_slo_objective_ratio";
/// When configurations came into force.
pub const RELOADS: &str = "streamgauge_config_last_reload_success_timestamp_seconds";
/// Alerts of the rules that `streamgauge rules` writes.
pub const ALERTS: &str = r#"ALERTS{alertname=~"Streamgauge.+",alertstate="firing"}"#;
/// Outcomes that are the upstream's failures.
pub const FAILED: [&str; 4] = ["upstream_failed", "stream_failed", "truncated", "timed_out"];

/// What a question is restricted to.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The scrape job; any where nothing.
    pub job: Option<String>,
    /// The models that were hit; all where there is none.
    pub models: Vec<String>,
}

/// Models in one query: its text is part of a URL.
pub const MODELS: usize = 20;
/// How far back a value from before a span is looked for, as Prometheus itself does.
const LOOK_BACK: &str = "5m";

/// How much of the traffic a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The models that were hit.
    Models,
    /// All.
    All,
}

/// How samples become a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A counter's growth.
    Grown,
    /// A gauge's mean, summed over instances.
    Mean,
    /// The highest that the sum over instances came to.
    Most,
    /// The highest of any instance.
    Highest,
    /// How many series there were.
    Count,
}

/// A question about a span of time.
#[derive(Debug)]
pub struct Ask {
    /// What it is called here.
    pub name: &'static str,
    metric: &'static str,
    filter: &'static str,
    by: &'static str,
    of: Of,
    how: How,
}

const fn grown(name: &'static str, metric: &'static str, by: &'static str, of: Of) -> Ask {
    Ask { name, metric, filter: "", by, of, how: How::Grown }
}

const fn gauge(name: &'static str, metric: &'static str, how: How) -> Ask {
    Ask { name, metric, filter: "", by: "", of: Of::All, how }
}

const COMPLETED: &str = r#"outcome="completed",stream="true""#;

/// What is asked about the time before an incident, and about the incident.
pub const ASKS: &[Ask] = &[
    grown("started", "streamgauge_requests_started_total", "", Of::All),
    grown("requests", REQUESTS, "tenant, model, upstream, code, outcome", Of::All),
    grown("ttft", "streamgauge_time_to_first_token_seconds_bucket", "input_band, le", Of::Models),
    grown("ttft_sum", "streamgauge_time_to_first_token_seconds_sum", "input_band", Of::Models),
    grown("ttfb_sum", "streamgauge_time_to_first_byte_seconds_sum", "", Of::Models),
    grown("ttfb_count", "streamgauge_time_to_first_byte_seconds_count", "", Of::Models),
    grown("tpot", "streamgauge_time_per_output_token_seconds_bucket", "le", Of::Models),
    grown("tpot_sum", "streamgauge_time_per_output_token_seconds_sum", "", Of::Models),
    Ask {
        filter: COMPLETED,
        ..grown("duration_sum", "streamgauge_request_duration_seconds_sum", "", Of::Models)
    },
    Ask {
        filter: COMPLETED,
        ..grown("duration_count", "streamgauge_request_duration_seconds_count", "", Of::Models)
    },
    grown("prompt_sum", "streamgauge_request_input_tokens_sum", "", Of::Models),
    grown("prompt_count", "streamgauge_request_input_tokens_count", "", Of::Models),
    grown("answer_sum", "streamgauge_request_output_tokens_sum", "", Of::Models),
    grown("answer_count", "streamgauge_request_output_tokens_count", "", Of::Models),
    grown("overhead_sum", "streamgauge_proxy_overhead_seconds_sum", "phase", Of::All),
    grown("overhead_count", "streamgauge_proxy_overhead_seconds_count", "phase", Of::All),
    grown("connect_sum", "streamgauge_upstream_connect_seconds_sum", "", Of::All),
    grown("connect_count", "streamgauge_upstream_connect_seconds_count", "", Of::All),
    grown("held_sum", "streamgauge_tpm_delay_seconds_sum", "", Of::All),
    grown("held_count", "streamgauge_tpm_delay_seconds_count", "", Of::All),
    grown("input", "streamgauge_input_tokens_total", "tenant, model", Of::All),
    grown("output", "streamgauge_output_tokens_total", "tenant, model", Of::All),
    grown("cost", "streamgauge_cost_total", "tenant, model, currency", Of::All),
    grown("left", "streamgauge_client_disconnects_total", "phase", Of::All),
    gauge("awaiting", "streamgauge_requests_awaiting_first_token", How::Mean),
    gauge("awaiting_most", "streamgauge_requests_awaiting_first_token", How::Most),
    gauge("in_flight", "streamgauge_requests_in_flight", How::Mean),
    gauge("in_flight_most", "streamgauge_requests_in_flight", How::Most),
    gauge("oldest", "streamgauge_oldest_awaiting_first_token_seconds", How::Highest),
    gauge("reload_refused", "streamgauge_config_last_reload_successful", How::Mean),
    Ask { by: "version", ..gauge("versions", PRESENCE, How::Count) },
];

impl Ask {
    /// The query for a span; it is to be asked at the span's end.
    pub fn promql(&self, scope: &Scope, span: Span, interval: f64) -> String {
        let series = select(self.metric, scope, self.of, self.filter);
        let by = if self.by.is_empty() { String::new() } else { format!(" by ({})", self.by) };
        let window = duration(span.seconds());
        match self.how {
            How::Grown => {
                format!(
                    "sum{by} ({})",
                    growth(&series, &select(PRESENCE, scope, Of::All, ""), scope, span, interval)
                )
            }
            How::Mean => format!("sum{by} (avg_over_time({series}[{window}]))"),
            How::Most => {
                let step = duration(interval.max(span.seconds() / SUBQUERY_POINTS).max(1.0).ceil());
                format!("max_over_time(sum{by} ({series})[{window}:{step}])")
            }
            How::Highest => format!("max{by} (max_over_time({series}[{window}]))"),
            How::Count => format!("count{by} (last_over_time({series}[{window}]))"),
        }
    }
}

const SUBQUERY_POINTS: f64 = 1_000.0;

/// What counters grew by: the difference between what had been scraped at the span's end and at its begin, whole and not
/// extrapolated. A series that is new has grown from 0 where its instance was scraped before, or has begun since. What
/// fell in between is told by `increase`, which knows restarts and extrapolates.
fn growth(series: &str, presence: &str, scope: &Scope, span: Span, interval: f64) -> String {
    let window = duration(span.seconds());
    // The sample from which a fall is told may lie before the window.
    let longer = duration(span.seconds() + 2.0 * interval);
    let began = select("process_start_time_seconds", scope, Of::All, "");
    let last = format!("last_over_time({series}[{window}])");
    format!(
        "((({last} - last_over_time({series}[{LOOK_BACK}] offset {window})) >= 0\n  \
         or ({last} and on (job, instance) last_over_time({presence}[{LOOK_BACK}] offset {window}))\n  \
         or ({last} and on (job, instance) ({began} > {begin:.3})))\n  \
         unless (resets({series}[{longer}]) > 0))\n  or increase({series}[{window}])",
        begin = span.begin
    )
}

/// A duration of PromQL's.
pub fn duration(seconds: f64) -> String {
    format!("{}ms", (seconds * 1e3).round().max(1.0) as u64)
}

/// A selector of a metric's series.
pub fn select(metric: &str, scope: &Scope, of: Of, filter: &str) -> String {
    let mut matchers = Vec::new();
    matchers.extend(scope.job.as_ref().map(|job| format!("job={}", quoted(job))));
    if of == Of::Models && !scope.models.is_empty() && scope.models.len() <= MODELS {
        let names: Vec<_> = scope.models.iter().map(|name| literal(name)).collect();
        matchers.push(format!("model=~{}", quoted(&names.join("|"))));
    }
    matchers.extend(Some(filter).filter(|filter| !filter.is_empty()).map(str::to_owned));
    if matchers.is_empty() { metric.to_owned() } else { format!("{metric}{{{}}}", matchers.join(",")) }
}

/// A text as a string of PromQL.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// A text as a regular expression that matches it alone.
fn literal(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, character| {
        if "\\.+*?()|[]{}^$".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
        escaped
    })
}

/// A line, or several, of a chart.
#[derive(Debug)]
pub struct Curve {
    /// What the legend says; `$label` is replaced by that label's value.
    pub legend: &'static str,
    expr: &'static str,
}

/// A chart over time.
#[derive(Debug)]
pub struct Plot {
    /// Its title.
    pub title: &'static str,
    /// The unit of its values.
    pub unit: &'static str,
    /// What it shows and how, in words.
    pub caption: &'static str,
    /// What it means where there is nothing to show.
    pub empty: &'static str,
    /// Its lines.
    pub curves: &'static [Curve],
}

/// The charts. `$w` is the window of a rate, `$models` and `$all` stand for the matchers.
pub const PLOTS: &[Plot] = &[
    Plot {
        title: "Time to first token",
        unit: "s",
        caption: "Median and 95th percentile of first tokens that came, of the models that were hit; interpolated in buckets, over $w.",
        empty: "No first token came.",
        curves: &[
            Curve {
                legend: "p95",
                expr: "histogram_quantile(0.95, sum by (le) (rate(streamgauge_time_to_first_token_seconds_bucket{$models}[$w])))",
            },
            Curve {
                legend: "p50",
                expr: "histogram_quantile(0.5, sum by (le) (rate(streamgauge_time_to_first_token_seconds_bucket{$models}[$w])))",
            },
        ],
    },
    Plot {
        title: "Output speed of a stream",
        unit: "tokens/s",
        caption: "Median and slowest tenth of streams while they decode, of the models that were hit, over $w; told when a stream ends.",
        empty: "No stream of two tokens or more ended.",
        curves: &[
            Curve {
                legend: "p50",
                expr: "histogram_quantile(0.5, sum by (le) (rate(streamgauge_output_tokens_per_second_bucket{$models}[$w])))",
            },
            Curve {
                legend: "p10",
                expr: "histogram_quantile(0.1, sum by (le) (rate(streamgauge_output_tokens_per_second_bucket{$models}[$w])))",
            },
        ],
    },
    Plot {
        title: "Requests that ended badly",
        unit: "a second",
        caption: "By outcome, of all models; over $w; a client that left is not the upstream's failure.",
        empty: "Every request that ended was completed.",
        curves: &[Curve {
            legend: "$outcome",
            expr: "sum by (outcome) (rate(streamgauge_requests_total{outcome!=\"completed\",$all}[$w]))",
        }],
    },
    Plot {
        title: "Requests in flight",
        unit: "requests",
        caption: "Open at the scrape, and those of them that wait for their first token; the highest in $w.",
        empty: "No sidecar was scraped.",
        curves: &[
            Curve {
                legend: "in flight",
                expr: "sum(max_over_time(streamgauge_requests_in_flight{$all}[$w]))",
            },
            Curve {
                legend: "waiting",
                expr: "sum(max_over_time(streamgauge_requests_awaiting_first_token{$all}[$w]))",
            },
        ],
    },
    Plot {
        title: "Tokens per minute",
        unit: "tokens/min",
        caption: "Input and output, of the five tenants that had the most, over $w.",
        empty: "There were no tokens.",
        curves: &[Curve {
            legend: "$tenant",
            expr: "60 * (sum by (tenant) (rate(streamgauge_input_tokens_total{$all}[$w])) + \
                   sum by (tenant) (rate(streamgauge_output_tokens_total{$all}[$w])))",
        }],
    },
    Plot {
        title: "Requests begun",
        unit: "a second",
        caption: "By upstream, over $w.",
        empty: "No request came.",
        curves: &[Curve {
            legend: "$upstream",
            expr: "sum by (upstream) (rate(streamgauge_requests_started_total{$all}[$w]))",
        }],
    },
];

impl Curve {
    /// The query, with rates over `window` seconds.
    pub fn promql(&self, scope: &Scope, window: f64) -> String {
        let matchers = |of| {
            let selected = select("", scope, of, "");
            selected.trim_start_matches('{').trim_end_matches('}').to_owned()
        };
        self.expr
            .replace("$w", &duration(window))
            .replace("$models", &matchers(Of::Models))
            .replace("$all", &matchers(Of::All))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::metrics::catalog::TABLE;

    fn queries(scope: &Scope) -> Vec<String> {
        let span = Span { begin: 1000.0, end: 1060.0 };
        let asks = ASKS.iter().map(|ask| ask.promql(scope, span, 1.0));
        let curves = PLOTS.iter().flat_map(|plot| plot.curves).map(|curve| curve.promql(scope, 30.0));
        asks.chain(curves).chain([JUDGED, BAD, THRESHOLDS, SHARES, RELOADS].map(str::to_owned)).collect()
    }

    #[test]
    fn every_metric_and_label_is_in_the_catalogue() {
        for query in queries(&Scope::default()) {
            for (place, rest) in query.split("streamgauge_").skip(1).enumerate() {
                let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let row = TABLE.iter().find(|row| row.name == name || Some(row.name) == base);
                let row = row.unwrap_or_else(|| panic!("{name} is in no catalogue: {query}"));
                let by =
                    query.split("by (").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
                // Further ones only say whether there was an instance.
                for label in by.split(", ").filter(|label| place == 0 && !label.is_empty() && *label != "le")
                {
                    assert!(row.labels.iter().any(|own| own.as_str() == label), "{name} has no {label}");
                }
            }
        }
    }

    #[test]
    fn names_are_taken_as_they_are() {
        let scope = Scope {
            job: Some("a\"b".to_owned()),
            models: vec!["meta/llama.8b".to_owned(), "x|y\\".to_owned()],
        };
        let selected = select("m", &scope, Of::Models, "");
        assert_eq!(selected, r#"m{job="a\"b",model=~"meta/llama\\.8b|x\\|y\\\\"}"#);
        assert_eq!(select("m", &scope, Of::All, "x=\"1\""), r#"m{job="a\"b",x="1"}"#);
        let balanced = |query: &String| query.matches('(').count() == query.matches(')').count();
        assert!(queries(&Scope::default()).iter().all(balanced));
        assert!(!queries(&scope).iter().any(|query| query.contains('$')));
    }

    #[test]
    fn a_query_fits_into_a_url() {
        let models = (0..MODELS).map(|n| format!("meta-llama/Meta-Llama-3.1-70B-Instruct-{n}")).collect();
        let scope = Scope { job: Some("streamgauge".to_owned()), models };
        assert!(
            queries(&scope).iter().all(|query| query.len() < 12_000),
            "nothing in between takes longer ones"
        );
    }
}
