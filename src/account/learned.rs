//! What a token of a model is worth in bytes, learned from traffic whose tokens were reported: for exchanges whose
//! tokens were not.

use hashbrown::HashMap;

use super::tokenize::BYTES_A_TOKEN;
use crate::exchange::{Count, Exchange, Name, Source};
use crate::observe::Text;

/// How many models are remembered. When all places are taken a further one is estimated by the default.
const MODELS: usize = 1024;

/// After so many further tokens, what was learned before counts half: traffic changes its language.
const HALF_LIFE: f64 = 20_000.0;

/// The fewest tokens that tell more than the default.
const ENOUGH: f64 = 50.0;

/// What was learned, by the model's label.
#[derive(Debug, Default)]
pub struct Learned(HashMap<Name, Model>);

#[derive(Debug, Default)]
struct Model {
    input: Ratio,
    output: Ratio,
}

/// Bytes of text and the tokens that they were, older ones weighing less.
#[derive(Debug, Clone, Copy, Default)]
struct Ratio {
    bytes: f64,
    tokens: f64,
}

impl Learned {
    /// Input tokens that so much text is.
    pub fn input(&self, model: Option<&Name>, bytes: u64) -> u64 {
        self.find(model).map(|model| model.input).unwrap_or_default().estimate(bytes)
    }

    /// Output tokens that so much text is.
    pub fn output(&self, model: Option<&Name>, bytes: u64) -> u64 {
        self.find(model).map(|model| model.output).unwrap_or_default().estimate(bytes)
    }

    fn find(&self, model: Option<&Name>) -> Option<&Model> {
        self.0.get(model?)
    }

    /// Learns from an exchange whose tokens were reported.
    pub fn learn(&mut self, exchange: &Exchange, text: Text) {
        let Some(name) = exchange.model.label(exchange.accepted()) else { return };
        let reported = |count: Option<Count>, bytes: Option<u64>| {
            let tokens = count.filter(|count| count.source == Source::Reported).map(|count| count.value);
            tokens.zip(bytes).filter(|(tokens, bytes)| *tokens > 0 && *bytes > 0)
        };
        let (input, output) = (reported(exchange.input, text.input), reported(exchange.output, text.output));
        if input.is_none() && output.is_none() || self.0.len() >= MODELS && !self.0.contains_key(name) {
            return;
        }
        let model = self.0.entry_ref(name).or_default();
        for (ratio, told) in [(&mut model.input, input), (&mut model.output, output)] {
            if let Some((tokens, bytes)) = told {
                ratio.add(bytes, tokens);
            }
        }
    }
}

impl Ratio {
    fn add(&mut self, bytes: u64, tokens: u64) {
        let kept = 0.5_f64.powf(tokens as f64 / HALF_LIFE);
        self.bytes = self.bytes * kept + bytes as f64;
        self.tokens = self.tokens * kept + tokens as f64;
    }

    fn estimate(self, bytes: u64) -> u64 {
        let ratio = if self.tokens >= ENOUGH { self.bytes / self.tokens } else { BYTES_A_TOKEN as f64 };
        let tokens = (bytes as f64 / ratio).round() as u64;
        tokens.max(u64::from(bytes > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(told: &[(u64, u64)]) -> Ratio {
        let mut ratio = Ratio::default();
        told.iter().for_each(|&(bytes, tokens)| ratio.add(bytes, tokens));
        ratio
    }

    #[test]
    fn until_enough_is_known_four_bytes_are_a_token() {
        assert_eq!(ratio(&[]).estimate(400), 100);
        assert_eq!(ratio(&[(30, 10)]).estimate(400), 100);
        assert_eq!(ratio(&[(300, 100)]).estimate(400), 133);
    }

    #[test]
    fn some_text_is_at_least_one_token_and_none_is_none() {
        assert_eq!((ratio(&[]).estimate(1), ratio(&[]).estimate(0)), (1, 0));
    }

    #[test]
    fn what_was_learned_long_ago_hardly_counts() {
        let mut told = vec![(500, 100); 1000];
        told.extend(vec![(200, 100); 1000]);
        // Five half-lives later: (5 / 32 + 2) / (1 + 1 / 32) bytes.
        assert_eq!(ratio(&told).estimate(2_100), 1_004);
    }
}
