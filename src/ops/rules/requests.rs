//! What goes wrong with requests, whatever is promised of them.
//!
//! Shares have a guard: ten failures in their window. One of three at night is no share. Counters by outcome are there only from their first exchange on, so the first of a
//! tenant's or a model's failures is not in any rate: guards must not be lower than a few.

use super::rule::Severity::{Page, Ticket};
use super::rule::{Board, Row};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "StreamgaugeHung",
        severity: Page,
        // A long prompt in a long queue may take half a minute; nobody waits for a whole one.
        expr: "max by (instance, upstream) (streamgauge_oldest_awaiting_first_token_seconds) > 60",
        after: 1,
        keep: 5,
        labels: &[],
        summary: "A request to {{ $labels.upstream }} has waited for its first token for {{ $value | humanizeDuration }}",
        description: "Seen by {{ $labels.instance }} while it waits; histograms show it only when it is over. The upstream \
                      hangs, or its queue is longer than a minute.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeQueueGrowing",
        severity: Ticket,
        // Ten that wait are no queue of one server; half as many again in a quarter of an hour is growth, no wave.
        expr: "sum by (upstream) (avg_over_time(streamgauge_requests_awaiting_first_token[5m])) >= 10\n\
               and sum by (upstream) (avg_over_time(streamgauge_requests_awaiting_first_token[5m]))\n  \
               > 1.5 * sum by (upstream) (avg_over_time(streamgauge_requests_awaiting_first_token[5m] offset 15m))",
        after: 10,
        keep: 10,
        labels: &[],
        summary: "{{ $value | humanize }} requests wait for {{ $labels.upstream }}'s first token, and their number grows",
        description: "It is over one and a half times what it was a quarter of an hour ago: more comes than the upstream \
                      serves.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeDecodeSlow",
        severity: Ticket,
        // Twice yesterday's median: batches of another size explain less. Thirty streams make a median.
        expr: "histogram_quantile(0.5, sum by (model, upstream, le) (rate(streamgauge_time_per_output_token_seconds_bucket[10m])))\n  \
               > 2 * histogram_quantile(0.5, sum by (model, upstream, le) \
               (rate(streamgauge_time_per_output_token_seconds_bucket[1d] offset 1h)))\n\
               and sum by (model, upstream) (increase(streamgauge_time_per_output_token_seconds_count[10m])) >= 30",
        after: 10,
        keep: 10,
        labels: &[],
        summary: "{{ $labels.model }} on {{ $labels.upstream }} takes {{ $value | humanizeDuration }} a token: twice as long \
                  as in the day before",
        description: "The median TPOT of the last ten minutes beside that of the day that ended an hour ago.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeStalls",
        severity: Ticket,
        // Five seconds without a word look broken to a reader; one stream in ten is no accident.
        expr: "histogram_quantile(0.9, sum by (model, upstream, le) (rate(streamgauge_longest_token_gap_seconds_bucket[10m]))) > 5\n\
               and sum by (model, upstream) (increase(streamgauge_longest_token_gap_seconds_count[10m])) >= 30",
        after: 5,
        keep: 10,
        labels: &[],
        summary: "One stream in ten of {{ $labels.model }} on {{ $labels.upstream }} stands still for \
                  {{ $value | humanizeDuration }} or longer",
        description: "The longest gap between two tokens, over the last ten minutes. Preemption, a full KV cache, or prompts \
                      that are read while others decode.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeUpstreamErrors",
        severity: Page,
        expr: "sum by (upstream) (rate(streamgauge_requests_total{outcome=~\"upstream_failed|stream_failed|timed_out\"}[10m]))\n  \
               / sum by (upstream) (rate(streamgauge_requests_total{outcome!=\"rejected\"}[10m])) > 0.05\n\
               and sum by (upstream) (increase(streamgauge_requests_total{outcome=~\"upstream_failed|stream_failed|timed_out\"}[10m])) >= 10",
        after: 2,
        keep: 5,
        labels: &[],
        summary: "{{ $value | humanizePercentage }} of the requests to {{ $labels.upstream }} fail",
        description: "5xx, no connection, an error inside a stream or a deadline, over the last ten minutes. Clients' own \
                      errors and limits are not among them. The request log has error_class.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeUpstreamRateLimited",
        severity: Ticket,
        expr: "sum by (upstream) (rate(streamgauge_requests_total{code=\"429\",outcome=\"upstream_refused\"}[10m]))\n  \
               / sum by (upstream) (rate(streamgauge_requests_total{outcome!=\"rejected\"}[10m])) > 0.05\n\
               and sum by (upstream) (increase(streamgauge_requests_total{code=\"429\",outcome=\"upstream_refused\"}[10m])) >= 10",
        after: 5,
        keep: 10,
        labels: &[],
        summary: "{{ $labels.upstream }} refuses {{ $value | humanizePercentage }} of the requests with 429",
        description: "The upstream's own limit, not one of ours. streamgauge_upstream_ratelimit_remaining says what it tells \
                      of it.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeClientsLeaveEarly",
        severity: Ticket,
        // By tenant: the model of a request that was never accepted may not be known.
        expr: "sum by (tenant) (rate(streamgauge_client_disconnects_total{phase=\"before_first_token\"}[15m]))\n  \
               / sum by (tenant) (rate(streamgauge_requests_total[15m])) > 0.1\n\
               and sum by (tenant) (increase(streamgauge_client_disconnects_total{phase=\"before_first_token\"}[15m])) >= 10",
        after: 5,
        keep: 10,
        labels: &[],
        summary: "{{ $value | humanizePercentage }} of {{ $labels.tenant }}'s clients leave before the first token",
        description: "They gave up waiting, or their own deadline is shorter than the upstream's TTFT.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeTruncatedStreams",
        severity: Page,
        // Each is an answer that broke off before a reader's eyes, and a client may take the half for the whole.
        expr: "sum by (model, upstream) (rate(streamgauge_requests_total{outcome=\"truncated\"}[10m]))\n  \
               / sum by (model, upstream) (rate(streamgauge_requests_total[10m])) > 0.05\n\
               and sum by (model, upstream) (increase(streamgauge_requests_total{outcome=\"truncated\"}[10m])) >= 10",
        after: 2,
        keep: 5,
        labels: &[],
        summary: "{{ $value | humanizePercentage }} of the answers of {{ $labels.model }} on {{ $labels.upstream }} break off",
        description: "A 2xx that ended without its end: the server was killed or restarted, or something between it and the \
                      sidecar has a time limit.",
        board: Board::Overview,
    },
    Row {
        name: "StreamgaugeTrafficAbsent",
        severity: Page,
        // One a minute for six hours is traffic. Where none came at this time of yesterday, or of this day a week ago,
        // none is expected now.
        expr: "sum by (upstream) (increase(streamgauge_requests_started_total{upstream!=\"none\"}[15m])) == 0\n\
               and sum by (upstream) (increase(streamgauge_requests_started_total{upstream!=\"none\"}[6h] offset 15m)) >= 360\n\
               unless sum by (upstream) (increase(streamgauge_requests_started_total{upstream!=\"none\"}[15m] offset 1d)) == 0\n\
               unless sum by (upstream) (increase(streamgauge_requests_started_total{upstream!=\"none\"}[15m] offset 7d)) == 0",
        after: 5,
        keep: 0,
        labels: &[],
        summary: "No request has come for {{ $labels.upstream }} for a quarter of an hour",
        description: "There were 360 or more in the six hours before. Clients do not reach the sidecar, or they go past it.",
        board: Board::Overview,
    },
];
