//! What tokens cost. Money is counted in integers, millionths of a millionth of a currency's unit: a price for a million
//! tokens that is written with up to six decimals is a whole number of them for one token, so that nothing is ever
//! rounded.

use std::fmt;
use std::time::SystemTime;

use crate::exchange::{Cost, Name, Usage};

/// Millionths of a millionth in one unit of a currency.
pub const PICO: u128 = 1_000_000_000_000;

/// The price of a token, in millionths of a millionth of the currency's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

/// An amount of money in millionths of a millionth, as it is written: `99.95`.
pub fn amount(text: &str) -> Option<u128> {
    scaled(text, 12)
}

/// A decimal in units of so many decimals, of which it must not have more.
fn scaled(text: &str, decimals: usize) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > decimals {
        return None;
    }
    format!("{whole}{fraction:0<decimals$}").parse().ok()
}

/// Prices are below this for a million tokens.
const RATE_LIMIT: u64 = 1_000_000;

impl Rate {
    /// The price of a token by that of a million, as it is written: `0.15`.
    pub fn of_million(text: &str) -> Option<Self> {
        let millionths = u64::try_from(scaled(text, 6)?).ok()?;
        (millionths < RATE_LIMIT * 1_000_000).then_some(Self(millionths))
    }

    /// For a million tokens, in the currency's unit.
    pub fn per_million(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// What so many tokens cost, in millionths of a millionth.
    pub fn of(self, tokens: u64) -> u128 {
        u128::from(self.0) * u128::from(tokens)
    }
}

impl fmt::Display for Rate {
    /// As it is written for a million tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// What each kind of token costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Input that was neither read from a cache nor written to one.
    pub input: Rate,
    /// Input that was read from a prompt cache.
    pub cache_read: Rate,
    /// Input that was written to a prompt cache, for minutes.
    pub cache_write: Rate,
    /// The same, for an hour.
    pub cache_write_1h: Rate,
    /// Output that is none of the following.
    pub output: Rate,
    /// Thoughts.
    pub reasoning: Rate,
    /// Sound that was sent.
    pub audio_input: Rate,
    /// Sound that was generated.
    pub audio_output: Rate,
}

/// Rates by the names that they have in a configuration and on the page.
pub const KINDS: [&str; 8] = [
    "input",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
];

impl Rates {
    /// What input and output cost, whatever kind they are of.
    pub const fn new(input: Rate, output: Rate) -> Self {
        Self {
            input,
            cache_read: input,
            cache_write: input,
            cache_write_1h: input,
            output,
            reasoning: output,
            audio_input: input,
            audio_output: output,
        }
    }

    /// The same, with prices of what goes through a prompt cache; what is left out of them stays, but for an hour a
    /// write costs what it costs for minutes.
    #[must_use]
    pub fn cached(self, read: Option<Rate>, write: Option<Rate>, write_1h: Option<Rate>) -> Self {
        let cache_write = write.unwrap_or(self.cache_write);
        Self {
            cache_read: read.unwrap_or(self.cache_read),
            cache_write,
            cache_write_1h: write_1h.unwrap_or(cache_write),
            ..self
        }
    }

    /// The same, with prices of thoughts and sound; what is left out stays.
    #[must_use]
    pub fn with(
        self,
        reasoning: Option<Rate>,
        audio_input: Option<Rate>,
        audio_output: Option<Rate>,
    ) -> Self {
        Self {
            reasoning: reasoning.unwrap_or(self.reasoning),
            audio_input: audio_input.unwrap_or(self.audio_input),
            audio_output: audio_output.unwrap_or(self.audio_output),
            ..self
        }
    }

    /// Each rate, in the order of [`KINDS`].
    pub const fn each(&self) -> [Rate; KINDS.len()] {
        [
            self.input,
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
            self.output,
            self.reasoning,
            self.audio_input,
            self.audio_output,
        ]
    }

    /// What these tokens cost. Every token is priced once: what is told apart of the input is taken from it, and so of
    /// the output, and where more is told than there is, only what there is.
    fn of(&self, tokens: &Tokens) -> u128 {
        let mut all = 0;
        let mut priced = |left: &mut u64, tokens: u64, rate: Rate| {
            let tokens = tokens.min(*left);
            *left -= tokens;
            all += rate.of(tokens);
        };
        let Tokens { mut input, mut output, usage } = *tokens;
        let kind = |count: Option<u64>| count.unwrap_or(0);
        let written_1h = kind(usage.cache_write_1h);
        priced(&mut input, kind(usage.cache_read), self.cache_read);
        priced(&mut input, written_1h, self.cache_write_1h);
        priced(&mut input, kind(usage.cache_write).saturating_sub(written_1h), self.cache_write);
        priced(&mut input, kind(usage.audio_input), self.audio_input);
        priced(&mut output, kind(usage.reasoning), self.reasoning);
        priced(&mut output, kind(usage.audio_output), self.audio_output);
        let (rest_in, rest_out) = (input, output);
        priced(&mut input, rest_in, self.input);
        priced(&mut output, rest_out, self.output);
        all
    }
}

/// Tokens to be priced: input and output, and of what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens<'a> {
    /// Of the prompt, cached ones included.
    pub input: u64,
    /// Generated, thoughts included.
    pub output: u64,
    /// Which of them are of another kind.
    pub usage: &'a Usage,
}

/// The price of a model, for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// The list that it is from, for whoever reads a bill.
    pub version: Name,
    /// As ISO 4217 writes it.
    pub currency: Name,
    /// From when on it holds; none: ever since.
    pub from: Option<SystemTime>,
    /// Before when it holds; none: for good.
    pub until: Option<SystemTime>,
    /// What tokens cost in the ordinary service tier.
    pub ordinary: ByLength,
    /// What they cost in other tiers, by the names that answers give them.
    pub tiers: Vec<(Name, ByLength)>,
}

/// What tokens cost, by how long their request's input is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByLength {
    /// Those of an ordinary request.
    pub rates: Rates,
    /// All those of a request whose input is longer than this; the longest first.
    pub above: Vec<(u64, Rates)>,
}

impl ByLength {
    fn rates(&self, input: u64) -> &Rates {
        self.above.iter().find(|(length, _)| input > *length).map_or(&self.rates, |(_, rates)| rates)
    }
}

impl Price {
    /// Whether it holds at this time.
    pub fn holds(&self, at: SystemTime) -> bool {
        self.from.is_none_or(|from| from <= at) && self.until.is_none_or(|until| at < until)
    }

    /// Whether there is an instant at which both hold.
    pub fn overlaps(&self, other: &Self) -> bool {
        let begins_before_end = |one: &Self, other: &Self| match (one.from, other.until) {
            (Some(from), Some(until)) => from < until,
            _ => true,
        };
        begins_before_end(self, other) && begins_before_end(other, self)
    }

    /// What an exchange's tokens cost, served in this tier.
    pub fn cost(&self, tokens: &Tokens<'_>, tier: Option<&Name>) -> Cost {
        let of_tier = self.tiers.iter().find(|(name, _)| Some(name) == tier).map(|(_, rates)| rates);
        let rates = of_tier.unwrap_or(&self.ordinary).rates(tokens.input);
        Cost { pico: rates.of(tokens), currency: self.currency.clone(), version: self.version.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::of_million(text).unwrap()
    }

    /// In the order of [`KINDS`].
    fn rates(kinds: [&str; 8]) -> Rates {
        let [input, read, write, hour, output, reasoning, audio_input, audio_output] =
            kinds.map(Rate::of_million);
        Rates::new(input.unwrap(), output.unwrap()).cached(read, write, hour).with(
            reasoning,
            audio_input,
            audio_output,
        )
    }

    fn price(rates: Rates) -> Price {
        let (version, currency) = (Name::from("v"), Name::from("USD"));
        let ordinary = ByLength { rates, above: Vec::new() };
        Price { version, currency, from: None, until: None, ordinary, tiers: Vec::new() }
    }

    fn pico(price: &Price, input: u64, output: u64, usage: Usage) -> u128 {
        price.cost(&Tokens { input, output, usage: &usage }, None).pico
    }

    #[test]
    fn a_price_is_read_as_it_is_written_and_shown_so() {
        for (text, shown) in
            [("0.15", "0.15"), ("3", "3"), ("0.000001", "0.000001"), (".5", "0.5"), ("10.0", "10")]
        {
            assert_eq!(rate(text).to_string(), shown);
        }
        for wrong in ["", ".", "-1", "1e-3", "0.0000001", "1,5", "NaN", "1000000", " 1"] {
            assert_eq!(Rate::of_million(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_amount_is_exact_to_the_last_decimal() {
        for (text, pico) in
            [("500", 500 * PICO), ("0.000000000001", 1), ("99.950", 9_995 * PICO / 100), (".5", PICO / 2)]
        {
            assert_eq!(amount(text), Some(pico), "{text}");
        }
        let wrong =
            ["", ".", "-5", "5e2", "0.0000000000001", "1,000", "340282366920938463463374607431768211456"];
        assert!(wrong.iter().all(|text| amount(text).is_none()));
    }

    #[test]
    fn what_is_left_out_costs_as_what_it_is_a_part_of() {
        let two = rates(["3", "", "", "", "15", "", "", ""]);
        let [input, cache_read, cache_write, hour, output, reasoning, audio_in, audio_out] = two.each();
        assert_eq!([cache_read, cache_write, hour, audio_in], [input; 4]);
        assert_eq!([reasoning, audio_out], [output; 2]);
        assert_eq!(rates(["3", "", "3.75", "", "15", "", "", ""]).cache_write_1h, rate("3.75"));
    }

    /// Sums that others have published: of gpt-4o-mini (1,204 tokens in, 1,024 of them cached, 12 out:
    /// stackoverflow.com/a/79451488), of Claude Opus 4.5 (a million in, a million written to the cache, ten read from it:
    /// docs.rs/crate/ccboard-core/0.8.0, `pricing::calculate_cost`).
    #[test]
    fn published_sums_come_out() {
        let mini = price(rates(["0.15", "0.075", "", "", "0.60", "", "", ""]));
        let usage = Usage { cache_read: Some(1_024), ..Usage::default() };
        assert_eq!(pico(&mini, 1_204, 12, usage), 111 * PICO / 1_000_000);
        let opus = price(rates(["5", "0.5", "6.25", "10", "25", "", "", ""]));
        let usage = Usage { cache_write: Some(1_000_000), cache_read: Some(10_000_000), ..Usage::default() };
        assert_eq!(pico(&opus, 12_000_000, 0, usage), 1_625 * PICO / 100);
    }

    /// At Anthropic's prices of Claude Sonnet (platform.claude.com/docs/en/about-claude/pricing): 100,000 tokens written to
    /// the cache or read from it, 50 of input besides, 500 of output.
    #[test]
    fn each_cached_token_is_priced_once() {
        let sonnet = price(rates(["3", "0.30", "3.75", "6", "15", "", "", ""]));
        let first = Usage { cache_write: Some(100_000), cache_read: Some(0), ..Usage::default() };
        let later = Usage { cache_write: Some(0), cache_read: Some(100_000), ..Usage::default() };
        let cents = |n: u128| n * PICO / 100_000; // thousandths of a cent
        assert_eq!(pico(&sonnet, 100_050, 500, first), cents(37_500 + 15 + 750));
        assert_eq!(pico(&sonnet, 100_050, 500, later), cents(3_000 + 15 + 750));
        let hour = Usage { cache_write_1h: Some(40_000), ..first };
        assert_eq!(pico(&sonnet, 100_050, 500, hour), cents(22_500 + 24_000 + 15 + 750));
    }

    /// At Bedrock's prices of Claude Sonnet 5 by its global profile (aws.amazon.com/bedrock/pricing/, read 2026-09-22):
    /// 9 tokens of input, 20 read from the cache and 5 written to it, counted apart; 3 of output.
    #[test]
    fn cached_tokens_that_are_counted_apart_are_priced_once() {
        let sonnet = price(rates(["2", "0.20", "2.50", "", "10", "", "", ""]));
        let told = Usage {
            input_uncached: Some(9),
            cache_read: Some(20),
            cache_write: Some(5),
            output: Some(3),
            ..Usage::default()
        };
        let mut usage = Usage::default();
        usage.update(told);
        usage.update(told); // Bedrock's metrics say it again
        let (input, output) = (usage.input.unwrap(), usage.output.unwrap());
        let millionths_of_a_dollar = |tenths: u128| tenths * PICO / 10_000_000;
        assert_eq!(pico(&sonnet, input, output, usage), millionths_of_a_dollar(180 + 40 + 125 + 300));
    }

    #[test]
    fn no_more_is_priced_than_there_is() {
        let price = price(rates(["2", "1", "", "", "8", "16", "", ""]));
        let usage = Usage { cache_read: Some(500), reasoning: Some(700), ..Usage::default() };
        assert_eq!(pico(&price, 100, 50, usage), 100 * 1_000_000 + 50 * 16_000_000);
    }

    #[test]
    fn a_long_prompt_or_another_tier_has_its_own_rates() {
        let mut price = price(rates(["1", "", "", "", "10", "", "", ""]));
        let of = |input, output| rates([input, "", "", "", output, "", "", ""]);
        price.ordinary.above = vec![(200_000, of("2", "15"))];
        let batch = ByLength { rates: of("0.5", "5"), above: vec![(200_000, of("1", "7.5"))] };
        price.tiers = vec![(Name::from("batch"), batch)];
        assert_eq!(pico(&price, 200_000, 1, Usage::default()), 200_000 * 1_000_000 + 10_000_000);
        assert_eq!(pico(&price, 200_001, 1, Usage::default()), 200_001 * 2_000_000 + 15_000_000);
        let tokens = Tokens { input: 10, output: 1, usage: &Usage::default() };
        assert_eq!(price.cost(&tokens, Some(&Name::from("batch"))).pico, 5_000_000 + 5_000_000);
        assert_eq!(price.cost(&tokens, Some(&Name::from("default"))).pico, 10_000_000 + 10_000_000);
        let long = Tokens { input: 300_000, output: 1, usage: &Usage::default() };
        assert_eq!(price.cost(&long, Some(&Name::from("batch"))).pico, 300_000 * 1_000_000 + 7_500_000);
    }

    #[test]
    fn a_price_holds_from_its_first_instant_to_before_its_last() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut price = price(rates(["1", "", "", "", "1", "", "", ""]));
        (price.from, price.until) = (Some(at(10)), Some(at(20)));
        let holds = [9, 10, 19, 20].map(|seconds| price.holds(at(seconds)));
        assert_eq!(holds, [false, true, true, false]);
    }

    proptest! {
        /// The same sum in decimals of a million tokens, by hand.
        #[test]
        fn nothing_is_rounded(
            millionths in prop::array::uniform8(0..100_000_000_u64),
            input in 0..1_000_000_u64, output in 0..100_000_u64,
            parts in prop::array::uniform4(0..1_000_u64),
        ) {
            let texts = millionths.map(|n| format!("{}.{:06}", n / 1_000_000, n % 1_000_000));
            let price = price(rates(texts.each_ref().map(String::as_str)));
            let [read, written, reasoning, sound] = parts;
            let usage = Usage {
                cache_read: Some(read), cache_write: Some(written), reasoning: Some(reasoning), audio_output: Some(sound),
                ..Usage::default()
            };
            let (input, output) = (input + read + written, output + reasoning + sound);
            let want = [
                (input - read - written, 0), (read, 1), (written, 2), (output - reasoning - sound, 4), (reasoning, 5), (sound, 7),
            ];
            let want: u128 = want.iter().map(|&(n, kind)| u128::from(n) * u128::from(millionths[kind])).sum();
            prop_assert_eq!(pico(&price, input, output, usage), want);
        }
    }
}
