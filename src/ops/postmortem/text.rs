//! Numbers as people read them. One place, so that a number looks the same in a sentence, a table and a chart.

use std::time::{Duration, UNIX_EPOCH};

/// A time span: `212 ms`, `1.4 s`, `2 min 5 s`.
pub(super) fn seconds(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "–".to_owned(),
        0.0 => "0 s".to_owned(),
        _ if size < 1e-3 => format!("{} µs", digits(value * 1e6)),
        _ if size < 1.0 => format!("{} ms", digits(value * 1e3)),
        _ if size < 120.0 => format!("{} s", digits(value)),
        _ => {
            let whole = value.round() as i64;
            let (hours, minutes, seconds) = (whole / 3600, whole % 3600 / 60, whole % 60);
            match (hours, minutes, seconds) {
                (0, _, 0) => format!("{minutes} min"),
                (0, ..) => format!("{minutes} min {seconds} s"),
                (_, 0, _) => format!("{hours} h"),
                _ => format!("{hours} h {minutes} min"),
            }
        }
    }
}

/// A number with three digits that mean something.
pub(super) fn digits(value: f64) -> String {
    let size = value.abs();
    let places = match size {
        _ if !value.is_finite() => return "–".to_owned(),
        _ if size >= 99.95 => return count(value),
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ if size >= 0.099_95 => 3,
        _ if size >= 0.009_995 => 4,
        _ if size >= 0.000_999_5 => 5,
        _ => 6,
    };
    let text = format!("{value:.places$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// A whole number with its thousands apart: `1,234,567`.
pub(super) fn count(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let whole = format!("{:.0}", value.abs().round());
    let mut text = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value <= -0.5 { format!("-{text}") } else { text }
}

/// A share: `12.3 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{} %", digits(share * 100.0))
}

/// Money, without its currency.
pub(super) fn money(value: f64) -> String {
    if value.abs() >= 1.0 { format!("{value:.2}") } else { digits(value) }
}

/// What may be unknown.
pub(super) fn maybe(value: Option<f64>, text: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), text)
}

/// An instant in UTC: `2026-11-24 06:00:05`.
pub(super) fn instant(at: f64) -> String {
    let text = rfc3339(at);
    text.trim_end_matches('Z').replace('T', " ")
}

/// An instant as RFC 3339 has it.
pub(super) fn rfc3339(at: f64) -> String {
    let since = Duration::try_from_secs_f64(at.floor()).unwrap_or_default().min(Duration::from_secs(LAST));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

const LAST: u64 = 253_402_300_799; // the end of the year 9999, beyond which nothing is written

/// The time of day: `06:00:05`.
pub(super) fn clock(at: f64) -> String {
    instant(at).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// A name that somebody else chose, short enough for a line, without what no screen shows.
pub(super) fn name(text: &str) -> String {
    let shown: String = text.chars().map(visible).collect();
    match shown.char_indices().nth(NAME) {
        Some((end, _)) => format!("{}…", shown.get(..end).unwrap_or_default()),
        None if shown.is_empty() => "(none)".to_owned(),
        None => shown,
    }
}

const NAME: usize = 60;

/// A character that a screen shows where it stands; others could turn a line around, or end it.
pub(super) fn visible(character: char) -> char {
    let turns = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    if character.is_control() || turns { '\u{fffd}' } else { character }
}

/// The plural, where there is not one.
pub(super) fn plural(number: f64, one: &str) -> String {
    let ends = if (number - 1.0).abs() < 0.5 { "" } else { "s" };
    format!("{} {one}{ends}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_their_unit() {
        for (value, expected) in [
            (0.000_012, "12 µs"),
            (0.2123, "212 ms"),
            (1.4, "1.4 s"),
            (65.04, "65 s"),
            (125.0, "2 min 5 s"),
            (7200.0, "2 h"),
            (0.0, "0 s"),
        ] {
            assert_eq!(seconds(value), expected);
        }
        assert_eq!(
            [count(0.0), count(999.6), count(1_234_567.0), count(-1500.0)],
            ["0", "1,000", "1,234,567", "-1,500"]
        );
        assert_eq!([percent(0.1234), percent(1.0), percent(0.0002)], ["12.3 %", "100 %", "0.02 %"]);
        assert_eq!([money(0.0123), money(12.5)], ["0.0123", "12.50"]);
    }

    #[test]
    fn instants_are_utc() {
        assert_eq!(rfc3339(1_795_500_000.4), "2026-11-24T06:00:00Z");
        assert_eq!((instant(1_795_500_000.6), clock(0.0)), ("2026-11-24 06:00:00".into(), "00:00:00".into()));
        assert_eq!(rfc3339(f64::MAX), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn names_are_bounded_and_show_what_they_hide() {
        assert_eq!(name("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(name(&"x".repeat(100)).chars().count(), NAME + 1);
        assert_eq!(name(""), "(none)");
    }
}
