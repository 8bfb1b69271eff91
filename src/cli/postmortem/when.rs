//! An instant as somebody types it.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// An instant, or how long before now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum When {
    /// Unix seconds.
    At(f64),
    /// Seconds before now.
    Ago(f64),
}

impl When {
    /// In Unix seconds.
    pub(super) fn at(self, now: f64) -> f64 {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now - ago,
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no instant; write it like 2026-11-24T06:00:00Z, 1795500000, -2h or now");
        if text == "now" {
            return Ok(Self::Ago(0.0));
        }
        if let Some(ago) = text.strip_prefix('-') {
            let ago = humantime::parse_duration(ago).map_err(|_| wrong())?;
            return Ok(Self::Ago(ago.as_secs_f64()));
        }
        let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..1e11).contains(seconds));
        seconds.or_else(|| rfc3339(text)).map(Self::At).ok_or_else(wrong)
    }
}

/// RFC 3339 with `Z` or an offset.
fn rfc3339(text: &str) -> Option<f64> {
    let (local, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0.0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let sign = match offset.chars().next()? {
                '+' => 1.0,
                '-' => -1.0,
                _ => return None,
            };
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let number = |text: &str| {
                let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
                is_number.then(|| text.parse::<f64>().ok()).flatten()
            };
            (local, sign * (number(hours)? * 3600.0 + number(minutes)? * 60.0))
        }
    };
    let utc = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    Some(unix(utc) - offset)
}

/// In Unix seconds.
pub(super) fn unix(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read() {
        for (text, at) in [
            ("2026-11-24T06:00:00Z", When::At(1_795_500_000.0)),
            ("2026-11-24T07:30:00.5+01:30", When::At(1_795_500_000.5)),
            ("2026-11-23T22:00:00-08:00", When::At(1_795_500_000.0)),
            ("1795500000.25", When::At(1_795_500_000.25)),
            ("-2h", When::Ago(7200.0)),
            ("-1h 30m", When::Ago(5400.0)),
            ("now", When::Ago(0.0)),
        ] {
            assert_eq!(text.parse(), Ok(at), "{text}");
        }
    }

    #[test]
    fn what_is_no_instant_is_told() {
        for text in [
            "",
            "soon",
            "-",
            "-2",
            "2h",
            "NaN",
            "2026-11-24",
            "2026-11-24T06:00:00",
            "2026-11-24T06:00:00+1:00",
            "é+01:00",
            "-inf",
        ] {
            assert!(text.parse::<When>().unwrap_err().contains("write it like"), "{text}");
        }
    }
}
