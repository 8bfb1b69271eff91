//! Token counts, and where each came from.

/// Where a count came from; the values of the label `source` (`missing` is the absence of a [`Count`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The upstream said so.
    Reported,
    /// We counted, with the model's own tokenizer.
    Tokenized,
    /// Bytes of text, divided by what a token of that model is worth.
    Estimated,
}

impl Source {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Reported, Self::Tokenized, Self::Estimated];

    /// The value of the label `source`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Tokenized => "tokenized",
            Self::Estimated => "estimated",
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

    /// A count that is made of bytes.
    pub const fn estimated(value: u64) -> Self {
        Self { value, source: Source::Estimated }
    }

    /// The count, where it was counted and not estimated.
    pub fn exact(self) -> Option<u64> {
        (self.source != Source::Estimated).then_some(self.value)
    }
}

/// What an upstream reported of an exchange's tokens. Absent is unknown, never 0. Details are subsets of
/// `input` and `output`, never to be added to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens, cached ones included.
    pub input: Option<u64>,
    /// Of those, neither read from nor written to a prompt cache. Told where an API reports cached input apart:
    /// `input` is then made of the three.
    pub input_uncached: Option<u64>,
    /// Of those, read from a prompt cache.
    pub cache_read: Option<u64>,
    /// Of those, written to a prompt cache.
    pub cache_write: Option<u64>,
    /// Of these, for an hour and not for minutes.
    pub cache_write_1h: Option<u64>,
    /// Of the input, sound.
    pub audio_input: Option<u64>,
    /// Output tokens, reasoning included.
    pub output: Option<u64>,
    /// Of those, reasoning.
    pub reasoning: Option<u64>,
    /// Of those, sound.
    pub audio_output: Option<u64>,
}

impl Usage {
    /// Whether nothing was reported.
    #[inline(never)] // a comparison that is put into a long function becomes vector code that takes longer than all else there
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes every field that `later` has: within one answer the last report of a number wins, and reports
    /// are never added up.
    pub fn update(&mut self, later: Usage) {
        let Usage { input, input_uncached, cache_read, cache_write, output, reasoning, .. } = later;
        self.input = input.or(self.input);
        self.cache_write_1h = later.cache_write_1h.or(self.cache_write_1h);
        self.audio_input = later.audio_input.or(self.audio_input);
        self.audio_output = later.audio_output.or(self.audio_output);
        self.cache_read = cache_read.or(self.cache_read);
        self.cache_write = cache_write.or(self.cache_write);
        self.input_uncached = input_uncached.or(self.input_uncached);
        if let Some(apart) = self.input_uncached {
            let cached = [self.cache_read, self.cache_write].into_iter().flatten();
            self.input = Some(cached.fold(apart, u64::saturating_add));
        }
        self.output = output.or(self.output);
        self.reasoning = reasoning.or(self.reasoning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_input_that_is_reported_apart_is_added_whichever_report_had_it() {
        let mut usage = Usage::default();
        usage.update(Usage { input_uncached: Some(5), cache_read: Some(25), ..Usage::default() });
        assert_eq!(usage.input, Some(30));
        usage.update(Usage { input_uncached: Some(6), output: Some(16), ..Usage::default() });
        assert_eq!(usage.input, Some(31), "a report that leaves the cache out takes nothing back");
        usage.update(Usage { cache_read: Some(0), cache_write: Some(25), ..Usage::default() });
        assert_eq!(usage.input, Some(31));
    }

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
