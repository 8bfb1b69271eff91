//! How an exchange ended, and whose doing that was. One table of rules; docs/measurement.md has it in prose.

use smallvec::SmallVec;

/// What the transport saw of the end, before anyone asks what the bytes meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The answer's body (or the tunnel) ended cleanly, or there was none to come.
    Clean,
    /// The client left, or stopped uploading.
    ClientGone,
    /// The upstream could not be reached, or closed before a head.
    NoAnswer,
    /// The answer's body broke or was reset.
    UpstreamBroke,
    /// A deadline that the operator set, or connecting took too long.
    TimedOut,
    /// We said no.
    Rejected,
    /// Our shutdown cut it.
    Drained,
    /// Our own fault.
    SidecarFailed,
}

/// How an exchange ended; the values of the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// All that was to come came.
    Completed,
    /// The client left first.
    ClientGone,
    /// The upstream answered 4xx.
    UpstreamRefused,
    /// The upstream answered 5xx or not at all.
    UpstreamFailed,
    /// An error inside a 2xx.
    StreamFailed,
    /// A 2xx whose body ended too early.
    Truncated,
    /// A deadline passed.
    TimedOut,
    /// We refused it: a limit, or no upstream that matches.
    Rejected,
    /// Our shutdown cut it.
    Drained,
    /// Our own fault.
    SidecarFailed,
}

/// Whose doing an outcome was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client's.
    Downstream,
    /// The inference server's.
    Upstream,
    /// Ours.
    Sidecar,
}

/// What the answer itself said of being finished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closure {
    /// The status that the client got.
    pub code: Option<u16>,
    /// The answer was read by a dialect to its end, so what it lacks is missing indeed.
    pub observed: bool,
    /// The dialect's terminal mark came, or the whole JSON body did.
    pub terminal: bool,
    /// Every choice gave its finish reason.
    pub finished: bool,
    /// An error came inside the answer.
    pub failed: bool,
}

impl Outcome {
    /// The outcome of an exchange that ended so.
    pub fn of(ending: Ending, closure: Closure) -> Self {
        match (ending, closure.code) {
            (Ending::Rejected, _) => Self::Rejected,
            (Ending::SidecarFailed, _) => Self::SidecarFailed,
            (Ending::NoAnswer, _) => Self::UpstreamFailed,
            (Ending::TimedOut, Some(504)) => Self::TimedOut,
            (_, Some(400..=499)) => Self::UpstreamRefused,
            (_, Some(500..)) => Self::UpstreamFailed,
            (_, Some(200..=299)) if closure.failed => Self::StreamFailed,
            (_, Some(200..=299)) if closure.terminal => Self::Completed,
            (Ending::Clean, Some(200..=299)) if closure.observed && !closure.finished => Self::Truncated,
            (Ending::Clean, Some(_)) => Self::Completed,
            (Ending::UpstreamBroke, Some(_)) => Self::Truncated,
            (Ending::UpstreamBroke | Ending::Clean, None) => Self::UpstreamFailed,
            (Ending::ClientGone, _) => Self::ClientGone,
            (Ending::TimedOut, _) => Self::TimedOut,
            (Ending::Drained, _) => Self::Drained,
        }
    }

    /// The value of the label `outcome`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientGone => "client_gone",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamFailed => "upstream_failed",
            Self::StreamFailed => "stream_failed",
            Self::Truncated => "truncated",
            Self::TimedOut => "timed_out",
            Self::Rejected => "rejected",
            Self::Drained => "drained",
            Self::SidecarFailed => "sidecar_failed",
        }
    }

    /// Whose doing it was; nobody's where it completed. An upstream's 429 is its own, other 4xx the client's.
    pub fn blame(self, code: Option<u16>) -> Option<Blame> {
        match self {
            Self::Completed => None,
            Self::UpstreamRefused if code != Some(429) => Some(Blame::Downstream),
            Self::ClientGone => Some(Blame::Downstream),
            Self::UpstreamRefused
            | Self::UpstreamFailed
            | Self::StreamFailed
            | Self::Truncated
            | Self::TimedOut => Some(Blame::Upstream),
            Self::Rejected | Self::Drained | Self::SidecarFailed => Some(Blame::Sidecar),
        }
    }
}

impl Blame {
    /// The value in the request log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Sidecar => "sidecar",
        }
    }
}

/// One for each choice that said why it ended; a few need no memory of their own.
pub type FinishReasons = SmallVec<[FinishReason; 8]>;

/// Why a choice ended; the values of the label `reason` of `finish_reasons_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FinishReason {
    /// A natural end or a stop sequence.
    Stop,
    /// The token limit.
    Length,
    /// The model called a tool.
    ToolCalls,
    /// A safety stop or a refusal.
    ContentFilter,
    /// The upstream says that generation failed.
    Error,
    /// A reason that this version does not know.
    Other,
}

impl FinishReason {
    /// The value of the label `reason`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Error => "error",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Closure =
        Closure { code: Some(200), observed: true, terminal: false, finished: false, failed: false };

    #[test]
    fn a_stream_without_its_mark_is_complete_only_if_it_finished_and_closed_cleanly() {
        let finished = Closure { finished: true, ..OK };
        assert_eq!(Outcome::of(Ending::Clean, finished), Outcome::Completed);
        assert_eq!(Outcome::of(Ending::UpstreamBroke, finished), Outcome::Truncated);
        assert_eq!(Outcome::of(Ending::Clean, OK), Outcome::Truncated);
    }

    #[test]
    fn a_client_that_leaves_after_the_terminal_mark_has_completed() {
        assert_eq!(Outcome::of(Ending::ClientGone, Closure { terminal: true, ..OK }), Outcome::Completed);
        assert_eq!(Outcome::of(Ending::ClientGone, OK), Outcome::ClientGone);
        assert_eq!(Outcome::of(Ending::Drained, OK), Outcome::Drained);
    }

    #[test]
    fn an_error_inside_a_2xx_is_never_completed() {
        let failed = Closure { failed: true, terminal: true, finished: true, ..OK };
        for ending in [Ending::Clean, Ending::ClientGone, Ending::UpstreamBroke, Ending::Drained] {
            assert_eq!(Outcome::of(ending, failed), Outcome::StreamFailed);
        }
    }

    #[test]
    fn what_is_not_observed_is_judged_by_the_transport_alone() {
        let unobserved = Closure { observed: false, ..OK };
        assert_eq!(Outcome::of(Ending::Clean, unobserved), Outcome::Completed);
        assert_eq!(Outcome::of(Ending::UpstreamBroke, unobserved), Outcome::Truncated);
    }

    #[test]
    fn our_own_answers_are_told_from_the_upstreams() {
        let with = |code| Closure { code: Some(code), ..Closure::default() };
        assert_eq!(Outcome::of(Ending::Rejected, with(429)), Outcome::Rejected);
        assert_eq!(Outcome::of(Ending::Clean, with(429)), Outcome::UpstreamRefused);
        assert_eq!(Outcome::of(Ending::TimedOut, with(504)), Outcome::TimedOut);
        assert_eq!(Outcome::of(Ending::Clean, with(504)), Outcome::UpstreamFailed);
        assert_eq!(Outcome::of(Ending::NoAnswer, with(502)), Outcome::UpstreamFailed);
        assert_eq!(Outcome::UpstreamRefused.blame(Some(429)), Some(Blame::Upstream));
        assert_eq!(Outcome::UpstreamRefused.blame(Some(404)), Some(Blame::Downstream));
    }
}
