//! One exchange: a request and its answer, as the accounts plane tells it. Plain data; only
//! [`crate::account::settle`] makes one.

mod limited;
pub mod limits;
pub mod outcome;
mod slo;
pub mod timing;
pub mod tokens;

use std::borrow::Borrow;
use std::fmt;
use std::time::{Duration, SystemTime};

use smol_str::SmolStr;

use crate::clock::Moment;

pub use limited::{HitAction, Limited};
pub use limits::{LimitKind, Reset, ToldLimits, UpstreamLimit, UpstreamLimits};
pub use outcome::{Blame, Ending, FinishReason, FinishReasons, Outcome};
pub use slo::{Goal, Goals, Verdict};
pub use timing::{Clocks, Timing};
pub use tokens::{Count, Source, Usage};

/// A name that is copied, compared and never changed: of a tenant, a model, an upstream. Most are short and have no
/// memory of their own, so that threads which copy one do not take it from each other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmolStr);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// A text's first bytes, at most so many, cut between characters.
    pub fn bounded(text: &str, limit: usize) -> Self {
        Self::from(text.get(..text.floor_char_boundary(limit)).unwrap_or_default())
    }

    /// At most so many bytes of it, cut between characters.
    #[must_use]
    pub fn cut(&self, limit: usize) -> Self {
        if self.as_str().len() > limit { Self::bounded(self.as_str(), limit) } else { self.clone() }
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(SmolStr::new(text))
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Which API an exchange spoke, by the name that the label `dialect` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialectId(pub &'static str);

impl DialectId {
    /// What is passed through without being understood.
    pub const UNKNOWN: DialectId = DialectId("unknown");

    /// Whether its answers are generated tokens; embeddings and scores are none.
    pub fn generates(self) -> bool {
        !["openai_embeddings", "rerank", Self::UNKNOWN.0].contains(&self.0)
    }
}

/// Why an exchange was passed through without its tokens being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unobserved {
    /// A path that no dialect knows.
    UnknownPath,
    /// A path of a known API that generates nothing: `/v1/models`, `/tokenize`, a health check.
    NotGeneration,
    /// An upgraded connection.
    Upgrade,
    /// A content encoding that is not read.
    Encoding,
}

impl Unobserved {
    /// The value of the label `reason`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownPath => "unknown_path",
            Self::NotGeneration => "not_generation",
            Self::Upgrade => "upgrade",
            Self::Encoding => "encoding",
        }
    }
}

/// The names under which an exchange's model is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelNames {
    /// The configured name that the requested or the served one matches.
    pub configured: Option<Name>,
    /// What the client asked for.
    pub requested: Option<Name>,
    /// What the upstream says it served.
    pub served: Option<Name>,
}

impl ModelNames {
    /// The name that labels this exchange's series: the configured one where one matches; else, once the
    /// upstream has accepted the request, the served or the requested one; else none.
    pub fn label(&self, accepted: bool) -> Option<&Name> {
        let unconfigured = || self.served.as_ref().or(self.requested.as_ref()).filter(|_| accepted);
        self.configured.as_ref().or_else(unconfigured)
    }
}

/// How large the prompt was, in bands of about a thousand tokens; known when the request was sent, from the
/// bytes of its text (four a token), so that it needs no tokenizer and never changes afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InputBand {
    /// Up to 1,024 tokens.
    Le1k,
    /// Up to 8,192 tokens.
    Le8k,
    /// Up to 32,768 tokens.
    Le32k,
    /// Up to 131,072 tokens.
    Le128k,
    /// More than that.
    Gt128k,
}

impl InputBand {
    /// The band of a prompt with this many bytes of text.
    pub const fn of_text_bytes(bytes: u64) -> Self {
        match bytes / 4 {
            0..=1_024 => Self::Le1k,
            1_025..=8_192 => Self::Le8k,
            8_193..=32_768 => Self::Le32k,
            32_769..=131_072 => Self::Le128k,
            _ => Self::Gt128k,
        }
    }

    /// The value of the label `input_band`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Le1k => "le_1k",
            Self::Le8k => "le_8k",
            Self::Le32k => "le_32k",
            Self::Le128k => "le_128k",
            Self::Gt128k => "gt_128k",
        }
    }
}

/// What an exchange cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Millionths of a millionth of the currency's unit.
    pub pico: u128,
    /// As ISO 4217 writes it.
    pub currency: Name,
    /// The price list.
    pub version: Name,
}

/// Why nobody knows what an accepted request cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpriced {
    /// Its model has no price, or had none then.
    Price,
    /// Its tokens are not known.
    Tokens,
}

impl Unpriced {
    /// Its name in the usage ledger.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Price => "price",
            Self::Tokens => "tokens",
        }
    }
}

/// An exchange, ended and settled: what every sink is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// Its number since the start of the process.
    pub number: u64,
    /// The client's `x-request-id`, else one of ours.
    pub request_id: Name,
    /// The upstream's own id of the answer.
    pub upstream_request_id: Option<Name>,
    /// The trace that the client's `traceparent` names.
    pub trace_id: Option<Name>,
    /// Wall-clock time of its end.
    pub ended_at: SystemTime,
    /// Who asked.
    pub tenant: Name,
    /// Which model, under all its names.
    pub model: ModelNames,
    /// The configured upstream's name; `none` where none matched.
    pub upstream: Name,
    /// Which API it spoke.
    pub dialect: DialectId,
    /// Why its tokens were not read, where they were not.
    pub unobserved: Option<Unobserved>,
    /// Whether the answer was an event stream; without a head, whether one was asked for.
    pub stream: bool,
    /// The status that the client got; none where it left before one.
    pub code: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// What kind of failure an upstream named (its `type` or `code`, never its message) or we met.
    pub error_class: Option<Name>,
    /// One for each choice that said why it ended.
    pub finish_reasons: FinishReasons,
    /// The measures of time.
    pub timing: Timing,
    /// When the request's last byte was handed to the upstream.
    pub sent: Option<Moment>,
    /// How long the prompt was, roughly.
    pub input_band: InputBand,
    /// Input tokens and the most that may be generated: what a quota that reserves would charge. None where no dialect
    /// read the request.
    pub reserved: Option<u64>,
    /// Input tokens, cached ones included; none where nobody knows.
    pub input: Option<Count>,
    /// Output tokens, reasoning included; none where nobody knows.
    pub output: Option<Count>,
    /// The details of what the upstream reported.
    pub usage: Usage,
    /// What it cost; none where no price is known, or not how many tokens.
    pub cost: Option<Cost>,
    /// Why it has no cost, where prices are configured.
    pub unpriced: Option<Unpriced>,
    /// What the same tokens would have cost at other models, by their names.
    pub alternatives: Vec<(Name, Cost)>,
    /// What the answer's head said of the upstream's rate limits.
    pub limits: Option<ToldLimits>,
    /// What our own limits did to it; none where nothing limits it.
    pub limited: Option<Box<Limited>>,
    /// What it was to each objective that it falls under: the objective's place, its name, the verdict.
    pub slos: Vec<(u8, Name, Verdict)>,
    /// Events that carried at least one token.
    pub chunks: u64,
    /// Events that its dialect could not read.
    pub undecodable: u64,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were handed to the client's connection.
    pub bytes_out: u64,
    /// Time spent in connecting, where a new connection was needed.
    pub connect: Option<Duration>,
    /// Exchanges open when this one began, at all upstreams.
    pub in_flight_at_start: u64,
    /// First half of the configuration's hash, as it was when the request came.
    pub config: Name,
}

impl Exchange {
    /// Whether the upstream accepted the request: a 2xx.
    pub fn accepted(&self) -> bool {
        self.code.is_some_and(|code| (200..300).contains(&code))
    }

    /// A chat that was completed, of which nothing else is known: what tests change.
    #[cfg(test)]
    pub(crate) fn completed() -> Self {
        Self {
            number: 0,
            request_id: Name::from("r-1"),
            upstream_request_id: None,
            trace_id: None,
            ended_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_500_000_125),
            tenant: Name::from("search"),
            model: ModelNames { requested: Some(Name::from("m")), ..ModelNames::default() },
            upstream: Name::from("default"),
            dialect: DialectId("openai_chat"),
            unobserved: None,
            stream: false,
            code: Some(200),
            outcome: Outcome::Completed,
            error_class: None,
            finish_reasons: FinishReasons::new(),
            timing: Timing::default(),
            sent: None,
            input_band: InputBand::Le1k,
            reserved: None,
            input: None,
            output: None,
            usage: Usage::default(),
            cost: None,
            unpriced: None,
            alternatives: Vec::new(),
            limits: None,
            limited: None,
            slos: Vec::new(),
            chunks: 0,
            undecodable: 0,
            bytes_in: 0,
            bytes_out: 0,
            connect: None,
            in_flight_at_start: 0,
            config: Name::from("abc"),
        }
    }

    /// Whether this was a generation that a dialect understood.
    pub fn is_generation(&self) -> bool {
        self.dialect != DialectId::UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_model_name_is_no_label_until_the_upstream_accepts_it() {
        let names = ModelNames { requested: Some(Name::from("made-up")), ..ModelNames::default() };
        assert_eq!(names.label(false), None);
        assert_eq!(names.label(true).map(Name::as_str), Some("made-up"));
    }

    #[test]
    fn the_configured_name_beats_the_served_and_the_served_the_requested_one() {
        let mut names = ModelNames {
            configured: None,
            requested: Some(Name::from("alias")),
            served: Some(Name::from("org/model")),
        };
        assert_eq!(names.label(true).map(Name::as_str), Some("org/model"));
        names.configured = Some(Name::from("model"));
        assert_eq!(names.label(false).map(Name::as_str), Some("model"));
    }

    #[test]
    fn a_prompts_band_includes_its_upper_bound() {
        assert_eq!(InputBand::of_text_bytes(0), InputBand::Le1k);
        assert_eq!(InputBand::of_text_bytes(4 * 1_024), InputBand::Le1k);
        assert_eq!(InputBand::of_text_bytes(4 * 1_025), InputBand::Le8k);
        assert_eq!(InputBand::of_text_bytes(u64::MAX), InputBand::Gt128k);
    }
}
