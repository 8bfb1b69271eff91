//! `docs/metrics.md`, made from the catalogue. A test keeps the file equal to it.

use std::fmt::Write as _;

use super::catalog::{Kind, PREFIX, Row, Section, TABLE};
use super::labels::Label;

const HEAD: &str = "\
<!-- Generated from src/sinks/metrics/catalog: `UPDATE=1 cargo test docs_metrics` writes it anew. -->

# Metrics

Served on the admin port at `/metrics`: Prometheus text 0.0.4, or OpenMetrics 1.0 with exemplars where the
scraper's `Accept` header names it (Prometheus does); gzip where asked for.

- All times are seconds, all counters end in `_total`. Aggregate before you divide: `rate()` first, then `sum by`.
- Instances add up: `sum` over them, for gauges too; `max` for ages, times, prices, budgets, what is 0 or 1, and a model's size.
- **Unknown is absent, never 0.** A counter of tokens lacks what nobody reported; `token_counts_total` says how much that is.
- What a client may choose (`tenant`, `model`) is bounded: beyond the limit names share the value `other`, `label_overflow_total` counts them, and sums stay exact.
- Series of a tenant or model are dropped when nothing has changed them for `metrics.idle_series` (6 h); a counter stays while an exchange of its tenant or model is in flight.
- Bounds of buckets can be replaced: `metrics.buckets: {time_to_first_token_seconds: [0.1, 0.3, 1]}`; a restart is needed. In OpenMetrics they are written as floats (`le=\"1.0\"`), in text without (`le=\"1\"`); Prometheus 3 makes one of the two.
- Exemplars carry `trace_id` (where the request had a `traceparent`) and `request_id`, the one in the request log.
";

/// The whole file.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    for (section, title) in [
        (Section::Traffic, "Traffic"),
        (Section::Latency, "Latency"),
        (Section::Tokens, "Tokens"),
        (Section::Cost, "Cost"),
        (Section::Slo, "Service level objectives"),
        (Section::Models, "Models and hardware"),
        (Section::Sidecar, "The sidecar itself"),
    ] {
        let _ = write!(page, "\n## {title}\n"); // writing to a String cannot fail
        TABLE.iter().filter(|row| row.section == section).for_each(|row| metric(&mut page, row));
    }
    page.push_str("\nAnd the standard metrics of the process (`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`, …), on Linux.\n");
    page.push_str("\n## Label values\n\n| label | values |\n|---|---|\n");
    for label in Label::ALL {
        let _ = writeln!(page, "| `{}` | {} |", label.as_str(), values(label));
    }
    page
}

fn metric(page: &mut String, row: &Row) {
    let _ = write!(page, "\n### `{PREFIX}{}`\n\n{}\n\n- {}", row.name, row.help, row.kind.as_str());
    if row.exemplars {
        page.push_str(", with exemplars");
    }
    if row.from_start {
        page.push_str(
            "; there at 0 from the start for configured models × known tenants and the default one",
        );
    }
    page.push('\n');
    if !row.labels.is_empty() {
        let labels: Vec<String> = row.labels.iter().map(|label| format!("`{}`", label.as_str())).collect();
        let more =
            if row.can_have_tenant() { "; and `tenant` with `metrics.tenant_on_histograms`" } else { "" };
        let _ = writeln!(page, "- labels: {}{more}", labels.join(", "));
    }
    if let Kind::Histogram(buckets) = row.kind {
        let bounds: Vec<String> = buckets.bounds().iter().map(f64::to_string).collect();
        let _ = writeln!(page, "- buckets: {}", bounds.join(" "));
    }
}

/// What a label may say.
fn values(label: Label) -> &'static str {
    match label {
        Label::Tenant => {
            "The tenant's name; the default one (`anonymous` unless configured) without a name; `other` beyond `tenants.limit`, and for names over 128 bytes."
        }
        Label::Model => {
            "The configured name where one matches; else the name that the upstream served, else the one requested, once the upstream has accepted it (2xx), at most 128 bytes; `unknown` before that; `other` beyond `metrics.model_limit`."
        }
        Label::Upstream => {
            "The configured name; `default` for a single one without a name; `none` where none was chosen."
        }
        Label::Dialect => {
            "The API spoken: `openai_chat`, `openai_completions`, `openai_responses`, `openai_embeddings`, `openai_realtime`, `anthropic_messages`, `gemini`, `bedrock`, `ollama`, `llamacpp`, `tgi`, `sglang`, `cohere`, `rerank`, `kserve`; `unknown` where it was not understood."
        }
        Label::Stream => {
            "`true` if the answer was an event stream, `false` if not; without an answer, what was asked for."
        }
        Label::Code => "The status that the client got; `none` where it left before one.",
        Label::Outcome => {
            "`completed`; `client_gone` (the client left first); `upstream_refused` (4xx); `upstream_failed` (5xx, or no answer); `stream_failed` (an error inside a 2xx); `truncated` (a 2xx that broke off); `timed_out` (a deadline of yours); `rejected` (a limit, or no upstream matches); `drained` (cut by our shutdown); `sidecar_failed` (our fault)."
        }
        Label::Reason => {
            "`finish_reasons_total`: `stop`, `length`, `tool_calls`, `content_filter`, `error`, `other`, `none`. `unobserved_requests_total`: `unknown_path`, `not_generation`, `upgrade`, `encoding`. `observation_failures_total`: `capture_overflow` (64 MiB of requests are being read ahead: a client of another that hangs up is noticed later), `decoder_memory` (256 MiB are held to decode answers: one more passed unread), `decompression` (not in the encoding that it declares, or a decompression bomb), `event_too_large`, `frames` (the rest of a session over WebSocket passed unread: it was no WebSocket, or more than 64 responses were open), `panic`."
        }
        Label::Phase => {
            "`client_disconnects_total`: `before_first_token`, `streaming`. `proxy_overhead_seconds`: `request`, `response`."
        }
        Label::InputBand => {
            "`le_1k`, `le_8k`, `le_32k`, `le_128k`, `gt_128k`: bytes of the prompt's text divided by four, in thousands of tokens (1,024)."
        }
        Label::Direction => "`input`, `output`.",
        Label::Source => {
            "`reported` by the upstream; `tokenized`: counted by the model's tokenizer; `estimated` from its bytes or events; `missing`: nobody knows."
        }
        Label::State => {
            "`live`: added while streams run, not yet settled; `owed`: added too much, to be taken from what comes next."
        }
        Label::Kind => {
            "`price_per_million_tokens`: `input`, `cache_read`, `cache_write`, `cache_write_1h`, `output`, `reasoning`, `audio_input`, `audio_output`. `upstream_ratelimit_*`: `requests`, `tokens`, `input_tokens`, `output_tokens`. `slo_threshold_seconds`: `ttft`, `tpot`, `duration`."
        }
        Label::Currency => "Three letters, as ISO 4217 writes them.",
        Label::Period => "`hour`, `day`, `week` (from Monday) or `month`, in UTC.",
        Label::Alternative => "The name of another configured model.",
        Label::Slo => "The name of a configured objective.",
        Label::Stage => {
            "`channel`: no full record anywhere, `requests_total` lacks it. `request_log`, `usage_ledger`: only the line there is lost. `budgets`: the cost is missing in `budget_spent`, for too many tenants spend."
        }
        Label::Action => {
            "`tpm_limit_hits_total`: `observed`, `delayed`, `rejected`. `usage_injections_total`: `asked`: a request was edited so that its stream reports usage. `cut`: the event that brought it was taken out of the answer. `refused`: the upstream named the option in a 400 or 422, and got the request once more as the client wrote it. `too_large`: longer than the 2 MiB that are read ahead, or all that is read ahead was taken; it went as it came. `too_slow`: not all there after 10 s; the same."
        }
        Label::Url => "As configured, without its query; at most 128 bytes.",
        Label::Label => "`tenant`, `model`.",
        Label::Version => "The program's version.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vitals::{DropStage, ObservationFailure, UsageInjection};

    #[test]
    fn what_the_sidecar_counts_about_itself_is_explained() {
        for reason in ObservationFailure::ALL {
            assert!(values(Label::Reason).contains(&format!("`{}`", reason.label())), "{reason:?}");
        }
        for stage in DropStage::ALL {
            assert!(values(Label::Stage).contains(&format!("`{}`", stage.label())), "{stage:?}");
        }
        for action in UsageInjection::ALL {
            assert!(values(Label::Action).contains(&format!("`{}`", action.label())), "{action:?}");
        }
    }

    #[test]
    fn no_label_is_without_a_metric() {
        for label in Label::ALL {
            assert!(TABLE.iter().any(|row| row.labels.contains(&label)), "{label:?}");
        }
    }
}
