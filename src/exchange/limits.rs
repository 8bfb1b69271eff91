//! What an upstream says of its own rate limits: in headers, with each answer.

use std::time::{Duration, SystemTime};

use crate::clock::Moment;

/// What a limit is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitKind {
    /// Requests.
    Requests,
    /// Tokens of both directions.
    Tokens,
    /// Tokens of prompts.
    InputTokens,
    /// Generated tokens.
    OutputTokens,
}

impl LimitKind {
    /// All of them, in the order of [`UpstreamLimits`].
    pub const ALL: [Self; 4] = [Self::Requests, Self::Tokens, Self::InputTokens, Self::OutputTokens];

    /// The value of the label `kind`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
        }
    }
}

/// One limit. What is not said is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpstreamLimit {
    /// How many in its window.
    pub limit: Option<u64>,
    /// How many are left of it.
    pub remaining: Option<u64>,
    /// When it is whole again.
    pub reset: Option<Reset>,
}

/// When a limit is whole again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// So long after the answer's head.
    After(Duration),
    /// Then.
    At(SystemTime),
}

impl Reset {
    /// How long after an answer's head, which came when the wall clock showed `head`.
    pub fn after(self, head: SystemTime) -> Duration {
        match self {
            Self::After(after) => after,
            Self::At(then) => then.duration_since(head).unwrap_or_default(),
        }
    }
}

/// The limits that an answer told of, in the order of [`LimitKind::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpstreamLimits([UpstreamLimit; LimitKind::ALL.len()]);

/// What an answer's head told, and when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldLimits {
    /// When the head came.
    pub at: Moment,
    /// What the wall clock showed then.
    pub wall: SystemTime,
    /// The limits.
    pub limits: Box<UpstreamLimits>,
}

/// A number in a header is a count up to this.
const COUNT_LIMIT: u64 = 1 << 53;

/// A window is no longer than a month.
const WINDOW_LIMIT: Duration = Duration::from_secs(31 * 24 * 3600);

impl UpstreamLimits {
    /// Takes a header, where it tells of a limit: `x-ratelimit-remaining-tokens` (OpenAI, Azure, Groq, Mistral and
    /// others), `anthropic-ratelimit-input-tokens-reset`. `name` is in lower case.
    pub fn take(&mut self, name: &str, value: &str) {
        let told = if let Some(rest) = name.strip_prefix("x-ratelimit-") {
            rest.split_once('-').and_then(|(what, kind)| Some((kind_of(kind)?, what)))
        } else if let Some(rest) = name.strip_prefix("anthropic-ratelimit-") {
            rest.rsplit_once('-').and_then(|(kind, what)| Some((kind_of(kind)?, what)))
        } else {
            None
        };
        let Some((kind, what)) = told else { return };
        let Some(limit) = self.0.get_mut(kind as usize) else { return };
        let count = || value.parse().ok().filter(|n| *n <= COUNT_LIMIT);
        match what {
            "limit" => limit.limit = count(),
            "remaining" => limit.remaining = count(),
            "reset" => limit.reset = reset(value),
            _ => {}
        }
    }

    /// Each limit that was told of.
    pub fn each(&self) -> impl Iterator<Item = (LimitKind, UpstreamLimit)> {
        let all = LimitKind::ALL.into_iter().zip(self.0);
        all.filter(|(_, limit)| *limit != UpstreamLimit::default())
    }

    /// Whether none was told of.
    pub fn is_empty(&self) -> bool {
        self.each().next().is_none()
    }
}

fn kind_of(name: &str) -> Option<LimitKind> {
    LimitKind::ALL.into_iter().find(|kind| kind.label().bytes().map(dashed).eq(name.bytes()))
}

fn dashed(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// A duration as Go writes it (`6m0s`, `12ms`, `1h2m3.5s`), seconds, or a time of RFC 3339.
fn reset(text: &str) -> Option<Reset> {
    if let Ok(at) = humantime::parse_rfc3339(text) {
        return Some(Reset::At(at));
    }
    let mut all = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at_checked(digits)?;
        let letters = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, more) = unit.split_at_checked(letters)?;
        all += number.parse::<f64>().ok()? * seconds(unit)?;
        rest = more;
    }
    let after = Duration::try_from_secs_f64(all).ok().filter(|after| *after <= WINDOW_LIMIT);
    after.filter(|_| !text.is_empty()).map(Reset::After)
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "ns" => 1e-9,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&str, &str)]) -> Vec<(LimitKind, UpstreamLimit)> {
        let mut limits = UpstreamLimits::default();
        headers.iter().for_each(|(name, value)| limits.take(name, value));
        limits.each().collect()
    }

    #[test]
    fn openais_headers() {
        let told = of(&[
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-tokens", "159976"),
            ("x-ratelimit-reset-tokens", "9ms"),
            ("x-ratelimit-remaining-tokens_usage_based", "1"),
            ("x-ratelimit-reset-requests", "soon"),
            ("x-request-id", "7"),
        ]);
        let requests = UpstreamLimit { limit: Some(5_000), ..UpstreamLimit::default() };
        let reset = Some(Reset::After(Duration::from_millis(9)));
        let tokens = UpstreamLimit { remaining: Some(159_976), reset, ..UpstreamLimit::default() };
        assert_eq!(told, [(LimitKind::Requests, requests), (LimitKind::Tokens, tokens)]);
    }

    #[test]
    fn anthropics_headers() {
        let told = of(&[
            ("anthropic-ratelimit-input-tokens-limit", "40000"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-01-31T12:00:00Z"),
            ("anthropic-ratelimit-output-tokens-remaining", "18446744073709551615"),
            ("anthropic-ratelimit-unified-status", "allowed"),
        ]);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800);
        let input = UpstreamLimit { limit: Some(40_000), remaining: None, reset: Some(Reset::At(at)) };
        assert_eq!(told, [(LimitKind::InputTokens, input)]);
    }

    #[test]
    fn durations_as_they_are_written() {
        let after = |text| match reset(text) {
            Some(Reset::After(after)) => Some(after.as_millis()),
            _ => None,
        };
        for (text, millis) in [
            ("6m0s", 360_000),
            ("1h2m3.5s", 3_723_500),
            ("12ms", 12),
            ("8.64s", 8_640),
            ("59", 59_000),
            ("0", 0),
        ] {
            assert_eq!(after(text), Some(millis), "{text}");
        }
        for wrong in ["", "s", "-1", "1d", "1e9", "99999h", "1.2.3s", "NaN"] {
            assert_eq!(after(wrong), None, "{wrong}");
        }
    }
}
