//! What the file says of service level objectives.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{Error, Place};
use super::value::{Span, Text, scalar};
use crate::account::model::Glob;
use crate::account::slo::{Asks, Matching, SLOS, Slo, Slos};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SloEntry {
    name: Text,
    #[serde(default, rename = "match")]
    matching: MatchEntry,
    objective: Percent,
    #[serde(default = "month")]
    window: Span,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttft: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tpot: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duration: Option<Span>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    success: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MatchEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    dialect: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Text>,
}

fn month() -> Span {
    Span(Duration::from_secs(30 * 86_400))
}

/// A share as a percentage, in millionths.
#[derive(Debug, Clone, Copy)]
struct Percent(u32);

const WHOLE: u32 = 1_000_000;

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let number = text.strip_suffix('%').map(str::trim_end);
            let share = number.and_then(|number| {
                let (whole, rest) = number.split_once('.').unwrap_or((number, ""));
                let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
                let fits = (1..=2).contains(&whole.len()) && rest.len() <= 4;
                (fits && is_number(whole) && is_number(rest))
                    .then(|| format!("{whole}{rest:0<4}").parse().ok())?
            });
            let wrong = || {
                format!(
                    "`{text}` is no objective; write it like 99% or 99.9%: over 0, under 100, to four decimals"
                )
            };
            share.filter(|share| (1..WHOLE).contains(share)).map(Self).ok_or_else(wrong)
        })
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000);
        to.collect_str(&format_args!("{}%", text.trim_end_matches('0').trim_end_matches('.')))
    }
}

/// The objectives of a file.
pub(super) fn resolve(entries: &[SloEntry]) -> Result<Slos, Error> {
    let at = |index: usize| Place::new().key("slos").index(index);
    let mut slos: Vec<Slo> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let slo = entry.resolve(&at(index))?;
        if slos.iter().any(|other| other.name == slo.name) {
            return Err(Error::at(
                at(index).key("name"),
                format!("a second objective of the name `{}`", slo.name),
            ));
        }
        if index >= SLOS {
            return Err(Error::at(at(index), format!("there may be {SLOS} objectives")));
        }
        slos.push(slo);
    }
    Ok(Slos(slos))
}

impl SloEntry {
    fn resolve(&self, at: &Place) -> Result<Slo, Error> {
        let time = |span: Option<Span>, key: &str| match span {
            Some(Span(Duration::ZERO)) => Err(Error::at(at.clone().key(key), "must be longer than 0")),
            span => Ok(span.map(|Span(time)| time)),
        };
        let asks = Asks {
            ttft: time(self.ttft, "ttft")?,
            tpot: time(self.tpot, "tpot")?,
            duration: time(self.duration, "duration")?,
            success: self.success,
        };
        if asks == Asks::default() {
            let text = "asks for nothing; give `ttft`, `tpot`, `duration` or `success: true`, or several: all must hold";
            return Err(Error::at(at.clone(), text));
        }
        time(Some(self.window), "window")?;
        let glob = |text: &Option<Text>| text.as_ref().map(|Text(text)| Glob::new(text));
        let MatchEntry { dialect, tenant, model, upstream } = &self.matching;
        let matching = Matching {
            dialect: glob(dialect),
            tenant: glob(tenant),
            model: glob(model),
            upstream: glob(upstream),
        };
        let Percent(objective) = self.objective;
        Ok(Slo { name: self.name.name(), matching, objective, window: self.window.0, asks })
    }
}
