//! What the file says of the usage ledger.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::UsageLedger;
use super::value::{Span, Text, scalar};

/// `{path: FOLDER, rotate: 100MB, sync: 1s}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LedgerEntry {
    path: Text,
    #[serde(default = "rotate")]
    rotate: Size,
    #[serde(default = "sync")]
    sync: Span,
}

/// Some two hundred thousand lines: read into a table within a second.
const fn rotate() -> Size {
    Size(100_000_000)
}

const fn sync() -> Span {
    Span(Duration::from_secs(1))
}

impl LedgerEntry {
    pub(super) fn resolve(&self) -> UsageLedger {
        UsageLedger { path: PathBuf::from(&self.path.0), rotate: self.rotate.0, sync: self.sync.0 }
    }
}

/// How large a file may become, as `100MB` or `64KiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

const SMALLEST: u64 = 4 << 10; // some lines: a folder should not have as many files as lines

/// The largest first, so that a size is written in as few digits as it can be.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl Size {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size; write it like 100MB or 64KiB");
        let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
        let (number, bytes) = unit.ok_or_else(wrong)?;
        let size = number.trim_end().parse::<u64>().ok().and_then(|number| number.checked_mul(*bytes));
        let size = size.ok_or_else(wrong)?;
        if size < SMALLEST {
            return Err(format!("`{text}` is too small; the least is {}", Self(SMALLEST)));
        }
        Ok(Self(size))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = UNITS.iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes));
        let (unit, bytes) = unit.copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, Self::parse)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_reads_what_it_writes() {
        for (text, bytes, written) in [
            ("100MB", 100_000_000, "100MB"),
            ("64KiB", 65_536, "64KiB"),
            ("2 GB", 2_000_000_000, "2GB"),
            ("1GiB", 1 << 30, "1GiB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("5001B", 5_001, "5001B"),
            ("12KB", 12_000, "12KB"),
        ] {
            let size = Size::parse(text).unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, written), "{text}");
            assert_eq!(Size::parse(&size.to_string()), Ok(size));
        }
        for wrong in ["100", "MB", "-1MB", "1.5GB", "100mb", "100M", "", "99999999999999GB"] {
            assert!(Size::parse(wrong).unwrap_err().ends_with("write it like 100MB or 64KiB"), "{wrong}");
        }
        assert_eq!(Size::parse("4095B").unwrap_err(), "`4095B` is too small; the least is 4KiB");
    }
}
