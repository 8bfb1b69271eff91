//! The catalogue: every metric is a row of [`TABLE`]. The page, `docs/metrics.md`, the dashboards, the alert
//! rules and the tests read it. A new metric is one row, its name in [`Id`], and the line that records it.
//!
//! The standard `process_*` metrics are not here; their library has them.

mod cost;
mod latency;
mod models;
mod sidecar;
mod slo;
mod tokens;
mod traffic;

use std::sync::LazyLock;

pub(super) use super::id::Id;
pub use super::row::{Kind, PREFIX, Row, Section};

/// Every metric, in the order of the page.
pub static TABLE: LazyLock<Vec<&'static Row>> = LazyLock::new(|| {
    let sections =
        [traffic::ROWS, latency::ROWS, tokens::ROWS, cost::ROWS, slo::ROWS, models::ROWS, sidecar::ROWS];
    sections.into_iter().flatten().collect()
});

#[cfg(test)]
mod tests {
    use super::Kind::{Counter, Histogram};
    use super::*;

    #[test]
    fn every_row_stands_where_its_id_says() {
        for (place, row) in TABLE.iter().enumerate() {
            assert_eq!(row.id as usize, place, "{}", row.name);
        }
        assert_eq!(Id::Series as usize, TABLE.len() - 1);
    }

    #[test]
    fn names_follow_the_conventions() {
        for row in TABLE.iter() {
            assert_eq!(row.name.ends_with("_total"), row.kind == Counter, "{}", row.name);
            assert!(
                row.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{}",
                row.name
            );
            assert!(!row.help.contains('\n') && row.help.ends_with('.'), "{}", row.name);
            assert!(!row.exemplars || matches!(row.kind, Histogram(_)), "{}", row.name);
            let twin = |other: &&&Row| other.name == row.name;
            assert_eq!(TABLE.iter().filter(twin).count(), 1, "{}", row.name);
        }
    }
}
