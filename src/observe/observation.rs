//! What an observer hands out at the end.

use crate::clock::Moment;
use crate::dialect::RequestFacts;
use crate::exchange::outcome::Closure;
use crate::exchange::{Clocks, Ending, FinishReasons, Name, Outcome, Unobserved, UpstreamLimits, Usage};
use crate::wire::Stop;

/// What was seen of one exchange, from its head to its end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// When what happened.
    pub clocks: Clocks,
    /// What the request's body told; none where no dialect read it.
    pub request: Option<RequestFacts>,
    /// Why its tokens were not read.
    pub unobserved: Option<Unobserved>,
    /// The answer was a stream: of events, or of lines of JSON.
    pub streamed: bool,
    /// What the answer said of being finished, the status with it.
    pub closure: Closure,
    /// The model that the answer names.
    pub served: Option<Name>,
    /// The upstream's own id of the answer.
    pub upstream_request_id: Option<Name>,
    /// The class of the error that the answer is or holds.
    pub error_class: Option<Name>,
    /// What the upstream reported of tokens.
    pub usage: Usage,
    /// What the answer's head said of the upstream's rate limits.
    pub limits: Option<Box<UpstreamLimits>>,
    /// The service tier that it says it answered in.
    pub tier: Option<Name>,
    /// Text came after the last report of output tokens: it says less than what was delivered.
    pub outran_usage: bool,
    /// Bytes of UTF-8 of the generated text; none where none of it was read, or some of it is no text.
    pub text_bytes: Option<u64>,
    /// The thoughts before the answer were among it.
    pub shows_reasoning: bool,
    /// One for each choice that said why it ended.
    pub finish_reasons: FinishReasons,
    /// Choices that were asked for, or seen if there were more.
    pub choices: u32,
    /// Events that carried at least one token.
    pub chunks: u64,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Events that could not be read.
    pub undecodable: u64,
    /// Events that were too long to be read.
    pub too_large: u64,
    /// Why the content encoding of the request or of the answer was not read to its end, where it is one that can be read.
    pub undecoded: Option<Stop>,
}

impl Observation {
    /// What is known of an exchange whose observer is lost.
    pub fn of_transport(started: Moment, code: Option<u16>, ended: Moment) -> Self {
        Self {
            clocks: Clocks { started, ended, ..Clocks::default() },
            closure: Closure { code, ..Closure::default() },
            ..Self::default()
        }
    }

    /// How much text there was, as far as it was read.
    pub fn text(&self) -> Text {
        let reasoning = self.usage.reasoning.unwrap_or(0);
        Text {
            input: self.request.as_ref().and_then(|facts| facts.prompt_text_bytes),
            output: self.text_bytes,
            events: self.streamed.then_some(self.chunks),
            hidden_tokens: match (reasoning, self.streamed) {
                _ if self.choices > 1 => None, // some servers report one choice of all
                (0, _) => Some(0),
                (_, true) => Some(if self.shows_reasoning { 0 } else { reasoning }),
                (_, false) => None,
            },
        }
    }

    /// How the exchange ended.
    pub fn outcome(&self, ending: Ending) -> Outcome {
        Outcome::of(ending, self.closure)
    }
}

/// How much text an exchange was, in bytes of UTF-8, where that is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Text {
    /// Of its prompt.
    pub input: Option<u64>,
    /// Of what was generated.
    pub output: Option<u64>,
    /// The events that it came in, where it came in a stream.
    pub events: Option<u64>,
    /// Reported tokens that it is not: thoughts that were not shown. None where what is reported may be of other text.
    pub hidden_tokens: Option<u64>,
}
