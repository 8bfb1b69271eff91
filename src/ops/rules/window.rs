//! Durations as Prometheus writes them, and the ones in an expression made shorter.

use std::fmt;
use std::time::Duration;

/// A duration of PromQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Window(pub(super) Duration);

/// Units from the largest; Prometheus takes them in this order only. `w` and `y` are never written.
const UNITS: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Window {
    pub(super) const fn minutes(minutes: u64) -> Self {
        Self(Duration::from_secs(minutes * 60))
    }

    /// What `text` says, if it is a duration in whole units, as `5m` or `1h30m`.
    fn parse(text: &str) -> Option<Self> {
        let mut millis = 0u128;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, after) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?;
            let end = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
            let (unit, after) = after.split_at_checked(end)?;
            let (_, size) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
            millis += number.parse::<u128>().ok()? * size;
            rest = after;
        }
        (millis > 0).then_some(Self(Duration::from_millis(millis.try_into().ok()?)))
    }

    /// A part of it, in whole milliseconds.
    pub(super) fn divided(self, by: u32) -> Self {
        let millis = self.0.as_millis() / u128::from(by);
        Self(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in UNITS {
            if millis >= size {
                write!(f, "{}{unit}", millis / size)?;
                millis %= size;
            }
        }
        Ok(())
    }
}

/// An expression with every range and every offset in it divided. Names of recorded series keep theirs: whoever reads
/// them need not know of a rehearsal.
pub(super) fn divided(expr: &str, by: u32) -> String {
    if by == 1 {
        return expr.to_owned();
    }
    let shorter = |text: &str| Window::parse(text).map(|window| window.divided(by).to_string());
    let mut text = String::new();
    for (index, piece) in expr.split('[').enumerate() {
        match piece.split_once(']').and_then(|(range, after)| Some((shorter(range)?, after))) {
            Some((range, after)) if index > 0 => text.extend(["[", &range, "]", after]),
            _ => text.extend([if index > 0 { "[" } else { "" }, piece]),
        }
    }
    let mut pieces = text.split(OFFSET);
    let mut whole = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(piece.len());
        let (offset, after) = piece.split_at_checked(end).unwrap_or((piece, ""));
        let shorter = shorter(offset).unwrap_or_else(|| offset.to_owned());
        whole.extend([OFFSET, &shorter, after]);
    }
    whole
}

const OFFSET: &str = " offset ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_prometheus_reads_them() {
        for (seconds, want) in
            [(300, "5m"), (5_040, "1h24m"), (86_400, "1d"), (90, "1m30s"), (2_592_000, "30d"), (0, "0s")]
        {
            assert_eq!(Window(Duration::from_secs(seconds)).to_string(), want);
        }
        assert_eq!(Window::minutes(5).divided(7).to_string(), "42s857ms");
        for wrong in ["", "5", "m", "5x", "5m3", "slo", "0m"] {
            assert_eq!(Window::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Window::parse("1h24m"), Some(Window::minutes(84)));
    }

    #[test]
    fn ranges_and_offsets_are_divided_and_nothing_else_is() {
        let expr = "a:b:rate5m{x=\"[a]\"} > 60 and max_over_time(m[7d] offset 1h) >= 5 and n offset 1d";
        let want = "a:b:rate5m{x=\"[a]\"} > 60 and max_over_time(m[2h48m] offset 1m) >= 5 and n offset 24m";
        assert_eq!(divided(expr, 60), want);
        assert_eq!(divided(expr, 1), expr);
    }
}
