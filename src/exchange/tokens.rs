//! Token counts, and where each came from.

/// Where a count came from; the values of the label `source` (`missing` is the absence of a [`Count`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The upstream said so.
    Reported,
}

impl Source {
    /// The value of the label `source`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reported => "reported",
        }
    }
}

/// A number of tokens that is known, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// How many tokens; an explicit 0 is a 0.
    pub value: u64,
    /// Where the number came from.
    pub source: Source,
}

impl Count {
    /// A count that the upstream reported.
    pub const fn reported(value: u64) -> Self {
        Self { value, source: Source::Reported }
    }
}

/// What an upstream reported of an exchange's tokens. Absent is unknown, never 0. Details are subsets of
/// `input` and `output`, never to be added to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens, cached ones included.
    pub input: Option<u64>,
    /// Of those, read from a prompt cache.
    pub cache_read: Option<u64>,
    /// Of those, written to a prompt cache.
    pub cache_write: Option<u64>,
    /// Output tokens, reasoning included.
    pub output: Option<u64>,
    /// Of those, reasoning.
    pub reasoning: Option<u64>,
}

impl Usage {
    /// Takes every field that `later` has: within one answer the last report of a number wins, and reports
    /// are never added up.
    pub fn update(&mut self, later: Usage) {
        let Usage { input, cache_read, cache_write, output, reasoning } = later;
        self.input = input.or(self.input);
        self.cache_read = cache_read.or(self.cache_read);
        self.cache_write = cache_write.or(self.cache_write);
        self.output = output.or(self.output);
        self.reasoning = reasoning.or(self.reasoning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_report_of_each_field_wins_and_nothing_is_added_up() {
        let mut usage = Usage { input: Some(30), output: Some(1), ..Usage::default() };
        usage.update(Usage { output: Some(24), ..Usage::default() });
        usage.update(Usage { reasoning: Some(0), ..Usage::default() });
        assert_eq!(
            usage,
            Usage { input: Some(30), output: Some(24), reasoning: Some(0), ..Usage::default() }
        );
    }
}
