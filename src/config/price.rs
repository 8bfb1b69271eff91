//! What the file, or a list beside it, says of prices.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::error::{Error, Place};
use super::value::{Text, Texts, scalar};
use crate::account::model::{Glob, Listed};
use crate::account::price::{ByLength, Price, Rate, Rates};
use crate::exchange::Name;

/// The version of prices that stand in the configuration itself.
const OWN: &str = "config";

/// `prices: {file: PATH}`, or several.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PricesEntry {
    file: PathBuf,
}

/// A list of prices: a file of its own.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// Goes into the request log with each cost.
    version: Text,
    models: Vec<ListEntry>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ListEntry {
    #[serde(rename = "match")]
    patterns: Texts,
    price: Few<PriceEntry>,
}

/// One, or a list of them.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct Few<T>(pub(super) Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Few<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrMore<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMore<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys, or a list of such")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Few<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| Few(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Few<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = elements.next_element()? {
                    all.push(one);
                }
                Ok(Few(all))
            }
        }
        from.deserialize_any(OneOrMore(std::marker::PhantomData))
    }
}

/// A struct whose keys are those of [`Rates`] and these; `flatten` would lose an error its line.
macro_rules! with_rates {
    ($(#[$about:meta])* $vis:vis struct $name:ident { $($(#[$attribute:meta])* $key:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        $vis struct $name {
            $($(#[$attribute])* $key: $kind,)*
            input: Million,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            cache_read: Option<Million>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            cache_write: Option<Million>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            cache_write_1h: Option<Million>,
            output: Million,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            reasoning: Option<Million>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            audio_input: Option<Million>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            audio_output: Option<Million>,
        }

        impl $name {
            fn rates(&self) -> Rates {
                let rate = |million: &Option<Million>| million.as_ref().map(|Million(rate)| *rate);
                Rates::new(self.input.0, self.output.0)
                    .cached(rate(&self.cache_read), rate(&self.cache_write), rate(&self.cache_write_1h))
                    .with(rate(&self.reasoning), rate(&self.audio_input), rate(&self.audio_output))
            }
        }
    };
}

with_rates! {
    /// What a million tokens cost, for some time.
    pub(super) struct PriceEntry {
        currency: Currency,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Date>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Date>,
        /// Of requests with longer input.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        above: Vec<AboveEntry>,
        /// In other service tiers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tiers: Vec<TierEntry>,
    }
}

with_rates! {
    struct AboveEntry {
        input_tokens: u64,
    }
}

with_rates! {
    struct TierEntry {
        tier: Text,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        above: Vec<AboveEntry>,
    }
}

/// A price for a million tokens.
#[derive(Debug, Clone, Copy)]
struct Million(Rate);

impl<'de> Deserialize<'de> for Million {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let rate = Rate::of_million(text).map(Self);
            rate.ok_or_else(|| {
                format!(
                    "`{text}` is no price of a million tokens; write it like 0.15, with up to six decimals"
                )
            })
        })
    }
}

impl Serialize for Million {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// Three capital letters.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Currency(pub(super) String);

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
            let wrong = || format!("`{text}` is no currency; write three letters, like USD or EUR");
            is_code.then(|| Self(text.to_owned())).ok_or_else(wrong)
        })
    }
}

/// A day, or an instant, in UTC.
#[derive(Debug, Clone, Copy)]
struct Date(SystemTime);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let midnight = humantime::parse_rfc3339(&format!("{text}T00:00:00Z"));
            let instant = midnight.or_else(|_| humantime::parse_rfc3339(text));
            instant.map(Self).map_err(|_| {
                format!("`{text}` is no date; write it like 2026-01-31 or 2026-01-31T12:00:00Z, in UTC")
            })
        })
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339(self.0))
    }
}

impl PriceEntry {
    fn resolve(&self, version: &Name) -> Price {
        Price {
            version: version.clone(),
            currency: Name::from(self.currency.0.as_str()),
            from: self.from.map(|date| date.0),
            until: self.until.map(|date| date.0),
            ordinary: by_length(self.rates(), &self.above),
            tiers: self
                .tiers
                .iter()
                .map(|entry| (entry.tier.name(), by_length(entry.rates(), &entry.above)))
                .collect(),
        }
    }

    /// What stands twice of what may stand once.
    fn doubled(&self) -> Option<String> {
        let lengths = [&self.above].into_iter().chain(self.tiers.iter().map(|tier| &tier.above));
        let mut lengths = lengths.filter_map(|above| doubled(above.iter().map(|entry| entry.input_tokens)));
        let tier = doubled(self.tiers.iter().map(|entry| entry.tier.0.as_str()));
        let length = lengths.next().map(|length| format!("`above` has the input_tokens {length} twice"));
        length.or_else(|| tier.map(|tier| format!("`tiers` has the tier `{tier}` twice")))
    }
}

fn doubled<T: Ord + Copy>(all: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = BTreeSet::new();
    all.into_iter().find(|one| !seen.insert(*one))
}

fn by_length(rates: Rates, above: &[AboveEntry]) -> ByLength {
    let mut above: Vec<_> = above.iter().map(|entry| (entry.input_tokens, entry.rates())).collect();
    above.sort_by_key(|(tokens, _)| std::cmp::Reverse(*tokens));
    ByLength { rates, above }
}

/// The prices that stand at `at`, of which no two may hold at the same time.
pub(super) fn resolve(
    entries: &Few<PriceEntry>,
    version: Option<&Name>,
    at: &Place,
) -> Result<Vec<Price>, Error> {
    let own = Name::from(OWN);
    let prices: Vec<_> = entries.0.iter().map(|entry| entry.resolve(version.unwrap_or(&own))).collect();
    for (index, price) in prices.iter().enumerate() {
        let at = || if prices.len() == 1 { at.clone() } else { at.clone().index(index) };
        if price.from.zip(price.until).is_some_and(|(from, until)| from >= until) {
            return Err(Error::at(at(), "`until` must be later than `from`"));
        }
        if let Some(text) = entries.0.get(index).and_then(PriceEntry::doubled) {
            return Err(Error::at(at(), text));
        }
        if prices.iter().take(index).any(|earlier| earlier.overlaps(price)) {
            return Err(Error::at(at(), "holds at the same time as one before it; give `from` and `until`"));
        }
    }
    Ok(prices)
}

impl PricesEntry {
    /// Reads a list.
    pub(super) fn read(&self, at: &Place) -> Result<Vec<Listed>, Error> {
        let path = self.file.display();
        let wrong = |text: String| Error::at(at.clone().key("file"), text);
        let text = std::fs::read_to_string(&self.file)
            .map_err(|error| wrong(format!("could not read {path}: {error}")))?;
        read(&text).map_err(|error| wrong(format!("{path}: {error}")))
    }
}

fn read(text: &str) -> Result<Vec<Listed>, Error> {
    let list: List = serde_yaml::from_str(text).map_err(|error| Error::of_yaml(&error))?;
    let version = list.version.name();
    let entry = |(entry, index): (&ListEntry, usize)| {
        let at = Place::new().key("models").index(index).key("price");
        let patterns = entry.patterns.0.iter().map(|text| Glob::new(&text.0)).collect();
        let prices = resolve(&entry.price, Some(&version), &at).map_err(|error| error.located(text))?;
        Ok(Listed { patterns, prices })
    };
    list.models.iter().zip(0..).map(entry).collect()
}
