//! What a token of a model is worth, learned from traffic whose tokens are known: for exchanges whose tokens are not,
//! and for streams that still run.
//!
//! What is reported is other people's word. A report that its text cannot be is no lesson, one exchange weighs no more
//! than [`LESSON`] tokens whatever it says, and old ones are forgotten: so that no single report spoils what others are
//! estimated at.

use hashbrown::HashMap;

use super::tokenize::BYTES_A_TOKEN;
use crate::exchange::{Count, Exchange, Name};
use crate::observe::Text;

/// How many models are remembered; a further one takes the place of the one that has told nothing for the longest.
const MODELS: usize = 1024;

/// How many upstreams of a model are remembered; streams of a further one are estimated by their bytes.
const UPSTREAMS: usize = 16;

/// After so many further tokens, what was learned before counts half: traffic changes its language.
const HALF_LIFE: f64 = 20_000.0;

/// The most tokens that one exchange counts for.
const LESSON: f64 = 2_000.0;

/// The fewest tokens that tell more than the default.
const ENOUGH: f64 = 50.0;

/// How far an estimate can be off where nothing has been learned: texts of one language differ so much.
const SPREAD_UNLEARNED: f64 = 0.125;

/// How far a learned estimate is taken to be off, at least and at most.
const SPREADS: (f64, f64) = (0.005, 0.05);

/// The most bytes that the tokens of a text have on average: of long words, or of a run of blanks.
const BYTES_AT_MOST: u64 = 16;

/// The fewest of a prompt's, in halves of a byte. Of a shorter one pictures or sound are a part, as a rule.
const HALVES_AT_LEAST: u64 = 3;

/// From so many bytes on a prompt tells what its tokens are worth; a shorter one, what the format adds to it.
const LONG_PROMPT: u64 = 1024;

/// The most tokens that a chat format adds to a prompt. What is reported beyond it is no text.
const FORMAT: f64 = 256.0;

/// How much of the mean of what the format adds one prompt is.
const FORMAT_SHARE: f64 = 0.05;

/// How many tokens an answer is expected to have where none was seen yet.
const ANSWER: f64 = 500.0;

/// How much of the mean length of answers one of them is.
const ANSWER_SHARE: f64 = 0.05;

/// An event is taken for so many tokens as those were whose tokens are known, unless the events of its upstream hold so
/// many times as much text, or as little: then that one cuts them elsewhere.
const UNUSUAL: f64 = 1.6;

/// What was learned, by the model's label.
#[derive(Debug, Default)]
pub struct Learned {
    models: HashMap<Name, Model>,
    lessons: u64,
    /// As many as have been published.
    published: u64,
}

/// What requests are expected to come to, by the model's label: what of [`Learned`] is told before there is an answer.
#[derive(Debug, Clone, Default)]
pub struct Expectations(HashMap<Name, Expected>);

#[derive(Debug, Clone, Copy, Default)]
struct Expected {
    input: Ratio,
    format: Option<f64>,
    answer: Option<f64>,
}

impl Expected {
    fn input(self, bytes: u64) -> Estimate {
        let text = self.input.estimate(bytes);
        Estimate { tokens: text.tokens + self.format.unwrap_or(0.0), ..text }
    }
}

impl Expectations {
    /// Input tokens that so much text is.
    pub fn input(&self, model: Option<&Name>, bytes: u64) -> u64 {
        self.of(model).input(bytes).likely()
    }

    /// How many tokens an answer has.
    pub fn answer(&self, model: Option<&Name>) -> u64 {
        self.of(model).answer.unwrap_or(ANSWER) as u64
    }

    fn of(&self, model: Option<&Name>) -> Expected {
        model.and_then(|model| self.0.get(model)).copied().unwrap_or_default()
    }
}

#[derive(Debug, Clone, Default)]
struct Model {
    /// Of long prompts.
    input: Ratio,
    /// Tokens that the format adds to a prompt: the mean of short ones, once there was one.
    format: Option<f64>,
    output: Ratio,
    /// The mean length of answers, in tokens, once there was one.
    answer: Option<f64>,
    /// Of streams: token events and the tokens in them. Most servers send an event for each token, which tells more
    /// than its bytes; where they don't, these differ from stream to stream.
    events: Ratio,
    /// How much text an event holds, by the upstream, whether or not its tokens are known.
    upstreams: Vec<(Name, Events)>,
    /// The number of the last lesson.
    last: u64,
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

/// Of the streams of one model at one upstream; older ones weigh less.
#[derive(Debug, Clone, Copy, Default)]
struct Events {
    bytes: f64,
    events: f64,
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
        self.find(model).map(Model::expected).unwrap_or_default().input(bytes)
    }

    /// Output tokens that so much text from this upstream is; none where nobody knows how much there is.
    pub fn output(&self, model: Option<&Name>, upstream: &Name, text: Text) -> Option<Estimate> {
        let bytes = text.output?;
        let Some(model) = self.find(model) else { return Some(Ratio::default().estimate(bytes)) };
        let by_events = text.events.filter(|n| model.has_usual_events(upstream, bytes, *n));
        Some(by_events.map_or_else(|| model.output.estimate(bytes), |n| model.events.estimate(n)))
    }

    /// What requests are expected to come to, where that has changed since it was last asked for.
    pub fn news(&mut self) -> Option<Expectations> {
        let is_new = std::mem::replace(&mut self.published, self.lessons) != self.lessons;
        let all = || self.models.iter().map(|(name, model)| (name.clone(), model.expected()));
        is_new.then(|| Expectations(all().collect()))
    }

    fn find(&self, model: Option<&Name>) -> Option<&Model> {
        self.models.get(model?)
    }

    /// Learns from an exchange what its tokens were, where they are known, and how its upstream streams.
    pub fn learn(&mut self, exchange: &Exchange, text: Text) {
        let Some(name) = exchange.model.label(exchange.accepted()) else { return };
        let known = |count: Option<Count>| count.and_then(Count::exact);
        let visible = known(exchange.output).zip(text.hidden_tokens);
        let visible = visible.map(|(tokens, hidden)| tokens.saturating_sub(hidden));
        let input = pair(text.input, known(exchange.input));
        let output = pair(text.output, visible).filter(|told| is_text(*told));
        let events = output.and_then(|(_, tokens)| pair(text.events, Some(tokens)));
        let shape = pair(text.output, text.events);
        let answer = known(exchange.output).filter(|_| exchange.dialect.generates());
        if input.is_none() && answer.is_none() && shape.is_none() {
            return;
        }
        self.lessons += 1;
        let model = self.model(name);
        if let Some(input) = input {
            model.learn_input(input);
        }
        for (ratio, told) in [(&mut model.output, output), (&mut model.events, events)] {
            if let Some(told) = told {
                ratio.add(told);
            }
        }
        if let Some(tokens) = answer {
            let mean = model.answer.unwrap_or(tokens as f64);
            model.answer = Some(mean + ANSWER_SHARE * (tokens as f64 - mean));
        }
        if let Some((bytes, events)) = shape {
            model.saw(&exchange.upstream, bytes, events);
        }
    }

    /// A model, in the place of another one where all are taken.
    fn model(&mut self, name: &Name) -> &mut Model {
        if self.models.len() >= MODELS && !self.models.contains_key(name) {
            let oldest = self.models.iter().min_by_key(|(_, model)| model.last).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| self.models.remove(&oldest));
        }
        let model = self.models.entry_ref(name).or_default();
        model.last = self.lessons;
        model
    }
}

/// Both, where both are known and there are some.
fn pair(units: Option<u64>, tokens: Option<u64>) -> Option<(u64, u64)> {
    units.zip(tokens).filter(|(units, tokens)| *units > 0 && *tokens > 0)
}

/// Whether generated text of so many bytes can be so many tokens: a token is a byte at least, but for the one that ends
/// the answer.
fn is_text((bytes, tokens): (u64, u64)) -> bool {
    tokens <= bytes.saturating_add(1) && bytes <= tokens.saturating_mul(BYTES_AT_MOST)
}

impl Model {
    fn expected(&self) -> Expected {
        Expected { input: self.input, format: self.format, answer: self.answer }
    }

    fn learn_input(&mut self, (bytes, tokens): (u64, u64)) {
        if bytes < LONG_PROMPT {
            let format = tokens as f64 - self.input.estimate(bytes).tokens;
            if (0.0..=FORMAT).contains(&format) {
                let mean = self.format.unwrap_or(format);
                self.format = Some(mean + FORMAT_SHARE * (format - mean));
            }
            return;
        }
        let text = tokens.saturating_sub(self.format.unwrap_or(0.0) as u64);
        if text.saturating_mul(HALVES_AT_LEAST) <= bytes.saturating_mul(2) && is_text((bytes, text)) {
            self.input.add((bytes, text));
        }
    }

    /// Whether this upstream's events hold about as much text as those whose tokens are known, and these have told more
    /// than bytes did.
    fn has_usual_events(&self, upstream: &Name, bytes: u64, events: u64) -> bool {
        let known = self.upstreams.iter().find(|(name, _)| name == upstream);
        let mut here = known.map(|(_, events)| *events).unwrap_or_default();
        here.add(bytes, events);
        let times = here.bytes / here.events * self.events.per_token() / self.output.per_token();
        self.events.spread() < self.output.spread() && (UNUSUAL.recip()..UNUSUAL).contains(&times)
    }

    fn saw(&mut self, upstream: &Name, bytes: u64, events: u64) {
        if let Some((_, here)) = self.upstreams.iter_mut().find(|(name, _)| name == upstream) {
            return here.add(bytes, events);
        }
        if self.upstreams.len() < UPSTREAMS {
            let mut here = Events::default();
            here.add(bytes, events);
            self.upstreams.push((upstream.clone(), here));
        }
    }
}

impl Events {
    fn add(&mut self, bytes: u64, events: u64) {
        let kept = 0.5_f64.powf(events as f64 / HALF_LIFE);
        self.bytes = self.bytes * kept + bytes as f64;
        self.events = self.events * kept + events as f64;
    }
}

impl Ratio {
    fn add(&mut self, (units, tokens): (u64, u64)) {
        let part = (LESSON / tokens as f64).min(1.0);
        let (units, tokens) = (units as f64 * part, tokens as f64 * part);
        let kept = 0.5_f64.powf(tokens / HALF_LIFE);
        if self.is_enough() {
            let off = (tokens - units / self.per_token()).abs();
            self.off = self.off * kept + off;
            self.judged = self.judged * kept + tokens;
        }
        self.units = self.units * kept + units;
        self.tokens = self.tokens * kept + tokens;
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
        told.iter().for_each(|&told| ratio.add(told));
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

    #[test]
    fn one_report_weighs_little_whatever_it_says() {
        let mut told = vec![(400, 100); 1_000];
        told.push((1_000_000, 1_000_000));
        assert!((100..=110).contains(&likely(&ratio(&told), 400)), "{}", likely(&ratio(&told), 400));
    }

    /// A model whose streams were so: bytes, events, tokens.
    fn model(streams: &[(u64, u64, u64)]) -> Learned {
        let mut model = Model::default();
        for &(bytes, events, tokens) in streams {
            model.output.add((bytes, tokens));
            model.events.add((events, tokens));
        }
        Learned { models: [(Name::from("m"), model)].into_iter().collect(), lessons: 0, published: 0 }
    }

    /// What so many bytes and events are estimated at that come from an upstream whose streams were so before.
    fn output(learned: &mut Learned, before: (u64, u64), bytes: u64, events: u64) -> u64 {
        let (name, upstream) = (Name::from("m"), Name::from("u"));
        let model = learned.model(&name);
        model.upstreams.clear();
        model.saw(&upstream, before.0, before.1);
        let text = Text { output: Some(bytes), events: Some(events), ..Text::default() };
        learned.output(Some(&name), &upstream, text).unwrap().likely()
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

    #[test]
    fn what_the_format_adds_is_learned_from_short_prompts_and_the_rest_from_long_ones() {
        let mut model = Model::default();
        for _ in 0..100 {
            model.learn_input((2, 36));
            model.learn_input((20, 765)); // a picture
        }
        model.learn_input((5_000, 1_035));
        let mut learned = Learned::default();
        *learned.model(&Name::from("m")) = model;
        let tokens = |bytes| learned.input(Some(&Name::from("m")), bytes).likely();
        assert_eq!((tokens(2), tokens(40_000)), (36, 8_036));
    }

    #[test]
    fn the_model_that_has_told_nothing_for_the_longest_gives_its_place() {
        let mut learned = Learned::default();
        for n in 0..MODELS + 5 {
            learned.lessons += 1;
            learned.model(&Name::from(format!("m{n}").as_str()));
        }
        let has = |n: usize| learned.models.contains_key(&Name::from(format!("m{n}").as_str()));
        assert!(learned.models.len() == MODELS && !has(4) && has(5) && has(MODELS + 4));
    }
}
