//! What a token of a model is worth, learned from traffic whose tokens are known: for exchanges whose tokens are not,
//! and for streams that still run.

use hashbrown::HashMap;

use super::tokenize::BYTES_A_TOKEN;
use crate::exchange::{Count, Exchange, Name};
use crate::observe::Text;

/// How many models are remembered, and how many at an upstream. When all places are taken a further one is estimated by
/// the default, or by its bytes alone.
const MODELS: usize = 1024;

/// After so many further tokens, what was learned before counts half: traffic changes its language.
const HALF_LIFE: f64 = 20_000.0;

/// The fewest tokens that tell more than the default.
const ENOUGH: f64 = 50.0;

/// How far an estimate can be off where nothing has been learned: texts of one language differ so much.
const SPREAD_UNLEARNED: f64 = 0.125;

/// How far a learned estimate is taken to be off, at least and at most.
const SPREADS: (f64, f64) = (0.005, 0.05);

/// How many tokens more than bytes a prompt can be: what a chat format adds to few words. What is reported beyond it is
/// no text, a picture as a rule, and says nothing of the next one.
const FORMAT: u64 = 256;

/// An event is taken for so many tokens as those were whose tokens are known, unless the events of its upstream hold so
/// many times as much text, or as little: then that one cuts them elsewhere.
const UNUSUAL: f64 = 1.6;

/// What was learned.
#[derive(Debug, Default)]
pub struct Learned {
    /// By the model's label.
    models: HashMap<Name, Model>,
    /// How much text an event holds, by the model's label and the upstream.
    events: HashMap<(Name, Name), Events>,
}

/// Of the streams of one model at one upstream, their tokens known or not: older ones weigh less.
#[derive(Debug, Clone, Copy, Default)]
struct Events {
    bytes: f64,
    events: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Model {
    input: Ratio,
    output: Ratio,
    /// Of streams: token events and the tokens in them. Most servers send an event for each token, which tells more
    /// than its bytes; where they don't, these differ from stream to stream.
    events: Ratio,
}

/// Units (bytes of text, or events) and the tokens that they were, older ones weighing less.
#[derive(Debug, Clone, Copy, Default)]
struct Ratio {
    units: f64,
    tokens: f64,
    /// How many tokens what was learned before would have been wrong by, and of how many.
    off: f64,
    judged: f64,
}

/// A number of tokens that is not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    tokens: f64,
    /// How far off, in parts of it, estimates of this model have been on average.
    spread: f64,
}

impl Estimate {
    /// The likeliest number; of some text at least one.
    pub fn likely(self) -> u64 {
        if self.tokens > 0.0 { (self.tokens.round() as u64).max(1) } else { 0 }
    }

    /// A number that is hardly ever too high.
    pub fn low(self) -> u64 {
        (self.tokens * (1.0 - 2.0 * self.spread)) as u64
    }
}

impl Learned {
    /// Input tokens that so much text is.
    pub fn input(&self, model: Option<&Name>, bytes: u64) -> Estimate {
        self.find(model).input.estimate(bytes)
    }

    /// Output tokens that so much text from this upstream is; none where nobody knows how much there is.
    pub fn output(&self, model: Option<&Name>, upstream: &Name, text: Text) -> Option<Estimate> {
        let bytes = text.output?;
        let Model { output, events, .. } = self.find(model);
        let by_events = text.events.filter(|n| {
            let key = model.map(|model| (model.clone(), upstream.clone()));
            let mut here = key.and_then(|key| self.events.get(&key)).copied().unwrap_or_default();
            here.add(bytes, *n);
            let times = here.bytes / here.events * events.per_token() / output.per_token();
            events.spread() < output.spread() && (UNUSUAL.recip()..UNUSUAL).contains(&times)
        });
        Some(by_events.map_or_else(|| output.estimate(bytes), |n| events.estimate(n)))
    }

    fn find(&self, model: Option<&Name>) -> Model {
        model.and_then(|name| self.models.get(name)).copied().unwrap_or_default()
    }

    /// Learns from an exchange what its tokens were, where they are known, and how its upstream streams.
    pub fn learn(&mut self, exchange: &Exchange, text: Text) {
        let Some(name) = exchange.model.label(exchange.accepted()) else { return };
        if let Some((bytes, events)) = pair(text.output, text.events) {
            let key = (name.clone(), exchange.upstream.clone());
            if self.events.len() < MODELS || self.events.contains_key(&key) {
                self.events.entry(key).or_default().add(bytes, events);
            }
        }
        let known = |count: Option<Count>| count.and_then(Count::exact);
        // A token is a byte at least.
        let fits = |more: u64| move |(bytes, tokens): &(u64, u64)| *tokens <= bytes.saturating_add(more);
        let input = pair(text.input, known(exchange.input)).filter(fits(FORMAT));
        let visible = known(exchange.output).zip(text.hidden_tokens);
        let visible = visible.map(|(tokens, hidden)| tokens.saturating_sub(hidden));
        let output = pair(text.output, visible).filter(fits(1));
        let events = output.and_then(|(_, tokens)| pair(text.events, Some(tokens)));
        let learns = input.is_some() || output.is_some();
        if !learns || self.models.len() >= MODELS && !self.models.contains_key(name) {
            return;
        }
        let model = self.models.entry_ref(name).or_default();
        let told = [(&mut model.input, input), (&mut model.output, output), (&mut model.events, events)];
        for (ratio, told) in told {
            if let Some((units, tokens)) = told {
                ratio.add(units, tokens);
            }
        }
    }
}

/// Both, where both are known and there are some.
fn pair(units: Option<u64>, tokens: Option<u64>) -> Option<(u64, u64)> {
    units.zip(tokens).filter(|(units, tokens)| *units > 0 && *tokens > 0)
}

impl Events {
    fn add(&mut self, bytes: u64, events: u64) {
        let kept = 0.5_f64.powf(events as f64 / HALF_LIFE);
        self.bytes = self.bytes * kept + bytes as f64;
        self.events = self.events * kept + events as f64;
    }
}

impl Ratio {
    fn add(&mut self, units: u64, tokens: u64) {
        let kept = 0.5_f64.powf(tokens as f64 / HALF_LIFE);
        if self.is_enough() {
            let off = (tokens as f64 - units as f64 / self.per_token()).abs();
            self.off = self.off * kept + off;
            self.judged = self.judged * kept + tokens as f64;
        }
        self.units = self.units * kept + units as f64;
        self.tokens = self.tokens * kept + tokens as f64;
    }

    fn is_enough(&self) -> bool {
        self.tokens >= ENOUGH
    }

    fn per_token(&self) -> f64 {
        if self.is_enough() { self.units / self.tokens } else { BYTES_A_TOKEN as f64 }
    }

    fn spread(&self) -> f64 {
        let (least, most) = SPREADS;
        match self.is_enough() {
            true if self.judged >= ENOUGH => (self.off / self.judged).clamp(least, most),
            true => most,
            false => SPREAD_UNLEARNED,
        }
    }

    fn estimate(&self, units: u64) -> Estimate {
        Estimate { tokens: units as f64 / self.per_token(), spread: self.spread() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(told: &[(u64, u64)]) -> Ratio {
        let mut ratio = Ratio::default();
        told.iter().for_each(|&(units, tokens)| ratio.add(units, tokens));
        ratio
    }

    fn likely(ratio: &Ratio, units: u64) -> u64 {
        ratio.estimate(units).likely()
    }

    #[test]
    fn until_enough_is_known_four_bytes_are_a_token() {
        assert_eq!(likely(&ratio(&[]), 400), 100);
        assert_eq!(likely(&ratio(&[(30, 10)]), 400), 100);
        assert_eq!(likely(&ratio(&[(300, 100)]), 400), 133);
    }

    #[test]
    fn some_text_is_at_least_one_token_and_none_is_none() {
        assert_eq!((likely(&ratio(&[]), 1), likely(&ratio(&[]), 0)), (1, 0));
    }

    #[test]
    fn what_was_learned_long_ago_hardly_counts() {
        let mut told = vec![(500, 100); 1000];
        told.extend(vec![(200, 100); 1000]);
        // Five half-lives later: (5 / 32 + 2) / (1 + 1 / 32) bytes.
        assert_eq!(likely(&ratio(&told), 2_100), 1_004);
    }

    #[test]
    fn the_more_texts_differ_the_lower_the_low_estimate_is() {
        assert_eq!(ratio(&[]).estimate(4_000).low(), 750);
        assert_eq!(ratio(&[(400, 100)]).estimate(4_000).low(), 900, "from a single one nobody knows");
        assert_eq!(ratio(&[(400, 100); 9]).estimate(4_000).low(), 990);
        let texts: Vec<_> = [(388, 100), (412, 100)].into_iter().cycle().take(50).collect();
        let low = ratio(&texts).estimate(4_000).low();
        assert!((930..=940).contains(&low), "each is off by 3 %: {low}");
    }

    /// A model whose streams were so: bytes, events, tokens.
    fn model(streams: &[(u64, u64, u64)]) -> Learned {
        let mut model = Model::default();
        for &(bytes, events, tokens) in streams {
            model.output.add(bytes, tokens);
            model.events.add(events, tokens);
        }
        Learned { models: [(Name::from("m"), model)].into_iter().collect(), ..Learned::default() }
    }

    /// What so many bytes and events are estimated at that come from an upstream whose streams were so before.
    fn output(learned: &mut Learned, before: (u64, u64), bytes: u64, events: u64) -> u64 {
        let (model, upstream) = (Name::from("m"), Name::from("u"));
        let mut here = Events::default();
        here.add(before.0, before.1);
        learned.events.insert((model.clone(), upstream.clone()), here);
        let text = Text { output: Some(bytes), events: Some(events), ..Text::default() };
        learned.output(Some(&model), &upstream, text).unwrap().likely()
    }

    #[test]
    fn events_are_counted_where_they_have_told_more_than_bytes() {
        let mut steady = model(&[(300, 99, 100), (500, 99, 100), (320, 99, 100), (480, 99, 100)]);
        assert_eq!(output(&mut steady, (0, 0), 240, 80), 81);
        assert_eq!(
            output(&mut steady, (4_000, 1_000), 60, 8),
            8,
            "a text of long words, at a usual upstream"
        );
        assert_eq!(
            output(&mut steady, (40_000, 1_000), 240, 8),
            60,
            "this upstream sends ten tokens at once"
        );
        let mut batched = model(&[(400, 20, 100), (400, 90, 100), (402, 10, 100), (398, 50, 100)]);
        assert_eq!(output(&mut batched, (0, 0), 240, 25), 60);
    }
}
