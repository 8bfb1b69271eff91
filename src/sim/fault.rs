//! What can go wrong with an answer, and how it is written down: `cut@5`, `status=503`, `slow-tail=3s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::StatusCode;

/// One way to fail. `after` counts tokens of the first choice; where it is not given, half of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error answer with this status (`status=503`; 429 and 503 say `Retry-After: 1`).
    Status(StatusCode),
    /// A 200 that carries an error: an error event in a stream, an error object as a whole answer (`error-event@5`).
    ErrorEvent {
        /// Tokens before it.
        after: Option<u32>,
    },
    /// The connection closes in the middle of an event, or of a whole answer's body (`cut@5`).
    Cut {
        /// Tokens before it.
        after: Option<u32>,
    },
    /// The connection is reset: TCP RST on HTTP/1, RST_STREAM on HTTP/2 (`reset@5`).
    Reset {
        /// Tokens before it.
        after: Option<u32>,
    },
    /// The stream ends cleanly, without a finish reason, usage or terminal mark (`end@5`).
    End {
        /// Tokens before it.
        after: Option<u32>,
    },
    /// Everything comes but the terminal mark (`no-done`).
    NoDone,
    /// Not even the head comes (`hang-head`).
    HangHead,
    /// The head comes, then nothing. A whole answer has no head before its body: as `hang-head` (`hang`).
    Hang,
    /// Silence in the middle of a stream (`hang-mid@5`).
    HangMid {
        /// Tokens before it.
        after: Option<u32>,
    },
    /// A pause between the last token and what follows it (`slow-tail`, `slow-tail=3s`).
    SlowTail(Duration),
    /// A request for usage in a stream is refused with 400, as by servers that don't know the option (`refuse-usage`).
    RefuseUsage,
}

/// The pause of a `slow-tail` that doesn't say.
const SLOW_TAIL: Duration = Duration::from_secs(2);

/// What may be written for a fault.
pub const FAULT_FORMS: &str = "status=CODE, error-event[@N], cut[@N], reset[@N], end[@N], no-done, hang-head, hang, \
                               hang-mid[@N], slow-tail[=2s], refuse-usage";

impl Fault {
    /// After how many of `total` tokens it strikes; nothing where it is not a matter of tokens.
    pub fn strikes_at(&self, total: u32) -> Option<u32> {
        match *self {
            Self::ErrorEvent { after }
            | Self::Cut { after }
            | Self::Reset { after }
            | Self::End { after }
            | Self::HangMid { after } => Some(after.unwrap_or(total / 2).min(total)),
            Self::Status(_)
            | Self::NoDone
            | Self::HangHead
            | Self::Hang
            | Self::SlowTail(_)
            | Self::RefuseUsage => None,
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{text}` is no fault; allowed: {FAULT_FORMS}");
        if let Some((name, value)) = text.split_once('=') {
            return match name {
                "status" => value
                    .parse::<StatusCode>()
                    .ok()
                    .filter(|status| status.is_client_error() || status.is_server_error())
                    .map(Self::Status)
                    .ok_or_else(|| format!("`{value}` is no error status; allowed: 400 to 599")),
                "slow-tail" => humantime::parse_duration(value)
                    .map(Self::SlowTail)
                    .map_err(|_| format!("`{value}` is no duration; allowed: 300ms, 2s")),
                _ => Err(unknown()),
            };
        }
        let (name, after) = match text.split_once('@') {
            Some((name, count)) => {
                (name, Some(count.parse().map_err(|_| format!("`{count}` is no number of tokens"))?))
            }
            None => (text, None),
        };
        match (name, after) {
            ("error-event", after) => Ok(Self::ErrorEvent { after }),
            ("cut", after) => Ok(Self::Cut { after }),
            ("reset", after) => Ok(Self::Reset { after }),
            ("end", after) => Ok(Self::End { after }),
            ("hang-mid", after) => Ok(Self::HangMid { after }),
            ("no-done", None) => Ok(Self::NoDone),
            ("hang-head", None) => Ok(Self::HangHead),
            ("hang", None) => Ok(Self::Hang),
            ("slow-tail", None) => Ok(Self::SlowTail(SLOW_TAIL)),
            ("refuse-usage", None) => Ok(Self::RefuseUsage),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, after) = match *self {
            Self::Status(status) => return write!(f, "status={}", status.as_u16()),
            Self::SlowTail(pause) => return write!(f, "slow-tail={}", humantime::format_duration(pause)),
            Self::ErrorEvent { after } => ("error-event", after),
            Self::Cut { after } => ("cut", after),
            Self::Reset { after } => ("reset", after),
            Self::End { after } => ("end", after),
            Self::HangMid { after } => ("hang-mid", after),
            Self::NoDone => ("no-done", None),
            Self::HangHead => ("hang-head", None),
            Self::Hang => ("hang", None),
            Self::RefuseUsage => ("refuse-usage", None),
        };
        f.write_str(name)?;
        after.map_or(Ok(()), |after| write!(f, "@{after}"))
    }
}

/// A fault that strikes a share of the requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mishap {
    /// What happens.
    pub fault: Fault,
    /// To which share of the requests, 0 to 1.
    pub share: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_what_it_writes() {
        for text in [
            "status=503",
            "error-event",
            "error-event@3",
            "cut@5",
            "reset@0",
            "end@2",
            "no-done",
            "hang-head",
            "hang",
            "hang-mid@7",
            "slow-tail=300ms",
            "refuse-usage",
        ] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        assert_eq!("slow-tail".parse(), Ok(Fault::SlowTail(Duration::from_secs(2))));
    }

    #[test]
    fn what_is_no_fault_is_refused_with_what_would_be() {
        for text in
            ["", "cut@", "cut@x", "status=200", "status", "hang@5", "slow-tail=x", "nonsense=1", "Cut"]
        {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
        assert!("boom".parse::<Fault>().unwrap_err().contains("hang-mid"));
    }

    #[test]
    fn a_fault_without_a_place_strikes_in_the_middle() {
        assert_eq!(Fault::Cut { after: None }.strikes_at(10), Some(5));
        assert_eq!(Fault::Cut { after: Some(50) }.strikes_at(10), Some(10));
        assert_eq!(Fault::NoDone.strikes_at(10), None);
    }
}
