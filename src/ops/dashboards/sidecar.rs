//! Is it the sidecar itself?

use super::panel::Kind::{Lines, Stat, Table};
use super::panel::{NONE_OF_IT, Page, Panel, Row, or_zero, quantile, query, rate};
use crate::ops::board::Board;

pub(super) const PAGE: Page = Page {
    board: Board::Sidecar,
    title: "Sidecar",
    description: "Is it the sidecar itself: up, configured, fast, and are its numbers whole?",
    from: "now-1h",
    rows: &[
        Row { title: "Now", height: 5, panels: NOW },
        Row { title: "What it costs", height: 8, panels: COSTS },
        Row { title: "What is running", height: 8, panels: RUNNING },
    ],
};

const NOW: &[Panel] = &[
    Panel::new(Stat, "Up", "short", "Sidecars that Prometheus scrapes: up.", &[query("sum(up)", "up")])
        .nothing("Prometheus has no such target"),
    Panel::new(
        Stat,
        "Reloads refused",
        "short",
        "Sidecars whose last reload was refused; the one before is in force: streamgauge_config_last_reload_successful.",
        &[query("sum(1 - streamgauge_config_last_reload_successful)", "refused")],
    )
    .steps(NONE_OF_IT)
    .nothing("no sidecar is scraped"),
    Panel::new(
        Stat,
        "Records lost",
        "short",
        "In this time range; traffic is unharmed, numbers lack them: streamgauge_records_dropped_total.",
        &[query("sum(increase(streamgauge_records_dropped_total[$__range]))", "records")],
    )
    .steps(NONE_OF_IT)
    .decimals(0)
    .nothing("no sidecar is scraped"),
    Panel::new(
        Stat,
        "Observation failures",
        "short",
        "Requests of this time range that were passed on but not understood to their end: \
         streamgauge_observation_failures_total.",
        &[query("sum(increase(streamgauge_observation_failures_total[$__range]))", "requests")],
    )
    .steps(NONE_OF_IT)
    .decimals(0)
    .nothing("no sidecar is scraped"),
    Panel::new(
        Stat,
        "Folded into other",
        "short",
        "Requests of this time range whose tenant or model has no series of its own: streamgauge_label_overflow_total.",
        &[query("sum(increase(streamgauge_label_overflow_total[$__range]))", "requests")],
    )
    .steps(NONE_OF_IT)
    .decimals(0)
    .nothing("no sidecar is scraped"),
    Panel::new(
        Stat,
        "Not observed",
        "short",
        "Requests of this time range that passed without their tokens being read: streamgauge_unobserved_requests_total.",
        &[query(or_zero!("sum(increase(streamgauge_unobserved_requests_total[$__range]))"), "requests")],
    )
    .decimals(0)
    .nothing("no sidecar is scraped"),
];

const COSTS: &[Panel] = &[
    Panel::new(
        Lines,
        "Own work, p99",
        "s",
        "What the sidecar adds to a request, and what looking at its answer takes: streamgauge_proxy_overhead_seconds.",
        &[query(quantile!("0.99", "phase, ", "streamgauge_proxy_overhead_seconds"), "{{phase}}")],
    )
    .nothing("no requests"),
    Panel::new(
        Lines,
        "CPU",
        "none",
        "Cores: process_cpu_seconds_total.",
        &[query(rate!("instance", "process_cpu_seconds_total"), "{{instance}}")],
    ),
    Panel::new(
        Lines,
        "Memory",
        "bytes",
        "process_resident_memory_bytes.",
        &[query("sum by (instance) (process_resident_memory_bytes)", "{{instance}}")],
    ),
];

const RUNNING: &[Panel] = &[
    Panel::new(
        Table,
        "Versions",
        "short",
        "Sidecars by version: streamgauge_build_info.",
        &[query("count by (version) (streamgauge_build_info)", "sidecars")],
    ),
    Panel::new(
        Lines,
        "Series",
        "short",
        "What a scrape costs Prometheus: streamgauge_series.",
        &[query("sum by (instance) (streamgauge_series)", "{{instance}}")],
    ),
    Panel::new(
        Lines,
        "Connecting to upstreams, p99",
        "s",
        "New connections, TLS included: streamgauge_upstream_connect_seconds.",
        &[query(quantile!("0.99", "upstream, ", "streamgauge_upstream_connect_seconds"), "{{upstream}}")],
    )
    .nothing("no new connections"),
];
