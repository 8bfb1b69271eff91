//! What may be the cause of an incident, in words. How it is told is in [`super::cause`].

/// A class of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Requests waited in the upstream for their turn.
    Queue,
    /// Prompts were longer.
    LongPrompts,
    /// Tokens came more slowly.
    SlowDecode,
    /// Answers were longer.
    LongAnswers,
    /// The upstream failed.
    UpstreamErrors,
    /// The upstream's own limit.
    RateLimited,
    /// A limit of ours held requests.
    OurLimit,
    /// Making connections took long.
    Network,
    /// The sidecar itself.
    Sidecar,
    /// The upstream took requests and said nothing.
    Hung,
    /// None of them.
    Unknown,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Queue,
        Self::LongPrompts,
        Self::SlowDecode,
        Self::LongAnswers,
        Self::UpstreamErrors,
        Self::RateLimited,
        Self::OurLimit,
        Self::Network,
        Self::Sidecar,
        Self::Hung,
        Self::Unknown,
    ];

    /// What it is called.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::LongPrompts => "long prompts",
            Self::SlowDecode => "slow decode",
            Self::LongAnswers => "long answers",
            Self::UpstreamErrors => "upstream errors",
            Self::RateLimited => "rate limited by the upstream",
            Self::OurLimit => "held by a limit of ours",
            Self::Network => "network",
            Self::Sidecar => "sidecar",
            Self::Hung => "upstream hangs",
            Self::Unknown => "none found",
        }
    }

    /// What that means, in a sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Queue => "More came than the upstream works on at once, so requests waited for their turn.",
            Self::LongPrompts => {
                "Prompts were longer than before, and reading them took the upstream longer."
            }
            Self::SlowDecode => "The upstream made tokens more slowly than before.",
            Self::LongAnswers => "Answers had more tokens than before, so they took longer.",
            Self::UpstreamErrors => {
                "The upstream failed: errors, answers that broke off, or deadlines that passed."
            }
            Self::RateLimited => "The upstream refused requests with 429.",
            Self::OurLimit => "A limit of the sidecar's own configuration held requests until it had room.",
            Self::Network => "Making connections to the upstream took longer than before.",
            Self::Sidecar => "The sidecar itself took longer than before, or failed.",
            Self::Hung => "The upstream took requests and sent no token.",
            Self::Unknown => "No class of causes accounts for half of the bad requests.",
        }
    }

    /// The runbook that goes on from here.
    pub const fn runbook(self) -> &'static str {
        match self {
            Self::Queue => "StreamgaugeQueueGrowing",
            Self::LongPrompts | Self::LongAnswers | Self::Network | Self::Unknown => "StreamgaugeSLOBurnFast",
            Self::SlowDecode => "StreamgaugeDecodeSlow",
            Self::UpstreamErrors => "StreamgaugeUpstreamErrors",
            Self::RateLimited => "StreamgaugeUpstreamRateLimited",
            Self::OurLimit => "StreamgaugeLimitNearExhaustion",
            Self::Sidecar => "StreamgaugeOverheadHigh",
            Self::Hung => "StreamgaugeHung",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_runbook_to_go_on_with() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
        for class in Class::ALL {
            assert!(folder.join(format!("{}.md", class.runbook())).is_file(), "{}", class.label());
        }
    }

    #[test]
    fn every_class_is_in_the_documentation() {
        let docs = include_str!("../../../docs/postmortem.md");
        for class in Class::ALL {
            assert!(docs.contains(&format!("| {} |", class.label())), "{}", class.label());
        }
    }
}
