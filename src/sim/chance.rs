//! Chance that can be repeated: the same seed gives the same run. Not for secrets.

use std::time::Duration;

/// A stream of numbers that looks random (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The stream of the `index`th thing under `seed`: neighbours have nothing in common.
    pub(crate) fn of(seed: u64, index: u64) -> Self {
        Self(mix(seed ^ mix(index)))
    }

    /// Any number.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number from 0 up to 1, 1 excluded.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a fraction holds")]
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True in `share` of the calls.
    pub(crate) fn happens(&mut self, share: f64) -> bool {
        self.fraction() < share
    }

    /// A whole number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u32, high: u32) -> u32 {
        let width = u64::from(high.saturating_sub(low)) + 1;
        low.saturating_add(u32::try_from(self.bits() % width).unwrap_or(0))
    }

    /// `mean`, spread evenly by up to `jitter` of itself (at most all of it) to both sides.
    pub(crate) fn around(&mut self, mean: Duration, jitter: f64) -> Duration {
        let jitter = if jitter > 0.0 { jitter.min(1.0) } else { return mean };
        mean.mul_f64(1.0 + jitter * (2.0 * self.fraction() - 1.0))
    }

    /// The wait until the next of events that come at random, `mean` apart on average (exponential).
    pub(crate) fn wait(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.fraction()).ln())
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The word that stands at a place of a text. A word is a token; it begins with a space, but for the first.
/// None needs escaping in JSON.
pub(crate) fn word(seed: u64, choice: u32, position: u32) -> &'static str {
    let place = (u64::from(choice) << 32) | u64::from(position);
    let words = u64::try_from(WORDS.len()).unwrap_or(1);
    let index = usize::try_from(mix(seed ^ mix(place.wrapping_add(STEP))) % words).unwrap_or(0);
    let word = WORDS.get(index).copied().unwrap_or(" water");
    if position == 0 { word.trim_start() } else { word }
}

const WORDS: [&str; 64] = [
    " water",
    " river",
    " the",
    " a",
    " of",
    " and",
    " stream",
    " flows",
    " under",
    " bridge",
    " slowly",
    " gauge",
    " level",
    " rises",
    " falls",
    " rain",
    " on",
    " stone",
    " bank",
    " near",
    " an",
    " old",
    " mill",
    " where",
    " it",
    " turns",
    " light",
    " over",
    " deep",
    " pool",
    " to",
    " sea",
    " is",
    " wide",
    " cold",
    " clear",
    " in",
    " spring",
    " snow",
    " melts",
    " from",
    " hills",
    " by",
    " night",
    " café",
    " naïve",
    " Flüsse",
    " вода",
    " 水",
    " 川",
    " 🌊",
    " measure",
    " depth",
    " speed",
    " at",
    " each",
    " hour",
    " with",
    " care",
    " then",
    " write",
    " down",
    " what",
    " passes",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut one, mut other) = (Chance::of(7, 3), Chance::of(7, 3));
        assert!((0..100).all(|_| one.bits() == other.bits()));
        assert_ne!(Chance::of(7, 3).bits(), Chance::of(7, 4).bits());
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut chance = Chance::of(1, 0);
        for _ in 0..10_000 {
            assert!((0.0..1.0).contains(&chance.fraction()));
            assert!((3..=9).contains(&chance.between(3, 9)));
            let spread = chance.around(Duration::from_millis(100), 0.2).as_millis();
            assert!((80..=120).contains(&spread));
        }
        assert_eq!(chance.between(5, 5), 5);
    }

    #[test]
    fn waits_have_their_mean() {
        let mut chance = Chance::of(2, 0);
        let sum: Duration = (0..20_000).map(|_| chance.wait(Duration::from_millis(50))).sum();
        assert!((950..1050).contains(&sum.as_secs()), "{sum:?}");
    }

    #[test]
    fn no_word_needs_escaping() {
        for word in WORDS {
            assert_eq!(serde_json::to_string(word).unwrap(), format!("\"{word}\""));
            assert!(word.starts_with(' '));
        }
        assert!(!word(1, 0, 0).starts_with(' '));
    }
}
