//! The sidecar itself.

use super::super::id::Id;
use super::super::labels::Label;
use super::super::row::{Kind, Row, Section};
use Kind::{Counter, Gauge};
use Section::Sidecar;

pub(super) static ROWS: &[Row] = &[
    Row::new(
        Id::BuildInfo,
        "build_info",
        Gauge,
        Sidecar,
        &[Label::Version],
        "Always 1; the labels say what is running.",
    ),
    Row::new(
        Id::ReloadSuccessful,
        "config_last_reload_successful",
        Gauge,
        Sidecar,
        &[],
        "1 if the configuration on disk is the one in force, 0 if the last reload was refused: the log says why.",
    ),
    Row::new(
        Id::ReloadSuccessTime,
        "config_last_reload_success_timestamp_seconds",
        Gauge,
        Sidecar,
        &[],
        "When the configuration in force was loaded, as Unix time.",
    ),
    Row::new(
        Id::UndecodableEvents,
        "undecodable_events_total",
        Counter,
        Sidecar,
        &[Label::Dialect],
        "Events of answers that could not be read as what their dialect says. They went through unchanged; tokens in them are unseen.",
    ),
    Row::new(
        Id::ObservationFailures,
        "observation_failures_total",
        Counter,
        Sidecar,
        &[Label::Reason],
        "Exchanges on which observation gave up while their traffic went on.",
    ),
    Row::new(
        Id::RecordsDropped,
        "records_dropped_total",
        Counter,
        Sidecar,
        &[Label::Stage],
        "Records of exchanges that were lost because a queue was full. Traffic is unharmed; numbers lack these exchanges.",
    ),
    Row::new(
        Id::LabelOverflow,
        "label_overflow_total",
        Counter,
        Sidecar,
        &[Label::Label],
        "Exchanges whose tenant or model had no series of its own left and went to \"other\". Sums are exact; raise the limit or list the names as known.",
    ),
    Row::new(
        Id::JwksLastFetch,
        "jwks_last_fetch_success_timestamp_seconds",
        Gauge,
        Sidecar,
        &[Label::Url],
        "When an issuer's keys (tenants' jwt_claim with a URL) were fetched last, as Unix time; 0: never, so that no token names its tenant. Fetched every 5 minutes, or as the issuer's Cache-Control says, a day at most.",
    ),
    Row::new(
        Id::JwksFetchFailures,
        "jwks_fetch_failures_total",
        Counter,
        Sidecar,
        &[Label::Url],
        "Fetches that brought no usable keys. Those that were here stay in use; the log says why.",
    ),
    Row::new(
        Id::Series,
        "series",
        Gauge,
        Sidecar,
        &[],
        "Time series on this page, histogram buckets and this one included: what one scrape of this instance costs Prometheus.",
    ),
];
