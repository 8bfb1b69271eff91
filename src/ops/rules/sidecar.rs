//! What goes wrong with the sidecar itself, and with what it counts.

use super::rule::Severity::{Page, Ticket};
use super::rule::{Board, Row};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "StreamgaugeDown",
        severity: Page,
        expr: "up{job=$job} == 0\nor absent(up{job=$job})",
        after: 2,
        keep: 0,
        labels: &[],
        summary: "Prometheus cannot scrape streamgauge {{ $labels.instance }}",
        description: "Traffic that goes through it may have ended; no other alert can tell. Without an instance: Prometheus \
                      has no target of this job at all.",
        board: Board::Sidecar,
    },
    Row {
        name: "StreamgaugeOverheadHigh",
        severity: Ticket,
        // It is some 100 µs; 10 ms are a core that others take. A hundred exchanges make a 99th percentile.
        expr: "histogram_quantile(0.99, sum by (instance, phase, le) (rate(streamgauge_proxy_overhead_seconds_bucket[10m]))) > 0.01\n\
               and sum by (instance, phase) (increase(streamgauge_proxy_overhead_seconds_count[10m])) >= 100",
        after: 10,
        keep: 10,
        labels: &[],
        summary: "Streamgauge {{ $labels.instance }} itself costs {{ $value | humanizeDuration }} ({{ $labels.phase }})",
        description: "The 99th percentile of the last ten minutes. It has too little CPU, or a limit that throttles it.",
        board: Board::Sidecar,
    },
    Row {
        name: "StreamgaugeReloadFailed",
        severity: Ticket,
        expr: "min by (instance) (streamgauge_config_last_reload_successful) == 0",
        after: 5,
        keep: 0,
        labels: &[],
        summary: "Streamgauge {{ $labels.instance }} refused its new configuration",
        description: "The one before is still in force. The log says file, line and column; `streamgauge check FILE` says the \
                      same.",
        board: Board::Sidecar,
    },
    Row {
        name: "StreamgaugeLabelOverflow",
        severity: Ticket,
        expr: "sum by (label) (increase(streamgauge_label_overflow_total[1h])) > 0",
        after: 0,
        keep: 0,
        labels: &[],
        summary: "There are more values of {{ $labels.label }} than have series of their own",
        description: "{{ $value | humanize }} exchanges in an hour were counted under `other`. Raise tenants.limit or \
                      metrics.model_limit, or name those that matter; or somebody makes names up.",
        board: Board::Sidecar,
    },
    Row {
        name: "StreamgaugeRecordsDropped",
        severity: Ticket,
        expr: "sum by (instance, stage) (increase(streamgauge_records_dropped_total[15m])) > 0",
        after: 0,
        keep: 0,
        labels: &[],
        summary: "Streamgauge {{ $labels.instance }} lost {{ $value | humanize }} records ({{ $labels.stage }})",
        description: "Traffic is unharmed. `channel`: no metric has these exchanges. `request_log`, `usage_ledger`: their lines \
                      are missing there, and bills with them. `budgets`: what was spent is shown too low.",
        board: Board::Sidecar,
    },
    Row {
        name: "StreamgaugeLimitStoreDown",
        severity: Ticket,
        expr: "min by (instance) (streamgauge_limit_store_up) == 0",
        after: 2,
        keep: 5,
        labels: &[],
        summary: "Streamgauge {{ $labels.instance }} does not reach its limit_store",
        description: "Traffic goes on. Each replica holds its tenants to its own share of their limits until the store is back.",
        board: Board::Sidecar,
    },
];
