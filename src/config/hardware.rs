//! What the file says of what a model is made of and what it runs on.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{Error, Place};
use super::price::Currency;
use super::value::scalar;
use crate::account::hardware::{self, Architecture, Attention, Device, Dtype, Fleet, Known, Rent};
use crate::account::price::Rate;
use crate::exchange::Name;

/// `{model: NAME}`, `{file: CONFIG_JSON}` or the figures themselves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ArchitectureEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<KnownEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Parameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_parameters: Option<Parameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dtype: Option<DtypeEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<AtLeastOne>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heads: Option<AtLeastOne>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_heads: Option<AtLeastOne>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_dim: Option<AtLeastOne>,
}

/// Which devices, and how many.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HardwareEntry {
    device: DeviceEntry,
    #[serde(default = "one")]
    count: AtLeastOne,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    price_per_hour: Option<Hourly>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
}

const USUAL_CURRENCY: &str = "USD"; // what devices are rented in

const fn one() -> AtLeastOne {
    AtLeastOne(1)
}

/// A model that is known by name.
#[derive(Debug, Clone, Copy)]
struct KnownEntry(&'static Known);

impl<'de> Deserialize<'de> for KnownEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |name| {
            let unknown = || format!("no model `{name}` is known; these are: {}", Known::names());
            Known::named(name).map(Self).ok_or_else(unknown)
        })
    }
}

impl Serialize for KnownEntry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.name)
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Parameters(u64);

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let wrong = || format!("`{text}` is no number of parameters; write it like 8b or 8.03e9");
            hardware::count(text).map(Self).ok_or_else(wrong)
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct DtypeEntry(Dtype);

impl<'de> Deserialize<'de> for DtypeEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |name| {
            let unknown = || format!("`{name}` is no dtype; these are: {}", Dtype::names());
            Dtype::named(name).map(Self).ok_or_else(unknown)
        })
    }
}

impl Serialize for DtypeEntry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.name())
    }
}

#[derive(Debug, Clone, Copy)]
struct DeviceEntry(&'static Device);

impl<'de> Deserialize<'de> for DeviceEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |name| {
            let unknown = || format!("no device `{name}` is known; these are: {}", Device::names());
            Device::named(name).map(Self).ok_or_else(unknown)
        })
    }
}

impl Serialize for DeviceEntry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.name)
    }
}

/// The price of a device for an hour.
#[derive(Debug, Clone, Copy)]
struct Hourly(Rate);

impl<'de> Deserialize<'de> for Hourly {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let wrong =
                || format!("`{text}` is no price of an hour; write it like 1.80, with up to six decimals");
            Rate::of_million(text).map(Self).ok_or_else(wrong) // as many decimals as prices of tokens have
        })
    }
}

impl Serialize for Hourly {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl Hourly {
    /// In millionths of a millionth of the currency's unit.
    fn pico(self) -> u128 {
        self.0.of(1_000_000) // a rate is that of a token, and as it is written that of a million
    }
}

/// A number from 1.
#[derive(Debug, Clone, Copy, Serialize)]
struct AtLeastOne(u32);

impl<'de> Deserialize<'de> for AtLeastOne {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let number = text.parse().ok().filter(|number| *number > 0).map(Self);
            number.ok_or_else(|| format!("`{text}` is no such number; write one from 1, as 32"))
        })
    }
}

impl ArchitectureEntry {
    /// What it is made of, and what its weights are kept in.
    pub(super) fn resolve(&self, at: &Place) -> Result<(Architecture, Dtype), Error> {
        let figures = [self.layers, self.heads, self.kv_heads, self.head_dim];
        let has_figures = self.active_parameters.is_some() || figures.iter().any(Option::is_some);
        let (architecture, published) = match (&self.model, &self.file, self.parameters) {
            (Some(KnownEntry(known)), None, None) if !has_figures => (known.architecture, Some(known.dtype)),
            (None, Some(file), None) if !has_figures => {
                let wrong = |text: String| Error::at(at.clone().key("file"), format!("could not {text}"));
                let path = file.display();
                let json = std::fs::read(file).map_err(|error| wrong(format!("read {path}: {error}")))?;
                hardware::read(&json).map_err(|error| wrong(format!("{error} ({path})")))?
            }
            (None, None, Some(parameters)) => (self.of_figures(parameters, at)?, None),
            _ => {
                let text = "give one of the three: `model` (a name that is known), `file` (a config.json), or \
                            `parameters` and what else is known; `dtype` goes with each";
                return Err(Error::at(at.clone(), text));
            }
        };
        Ok((architecture, self.dtype.map(|entry| entry.0).or(published).unwrap_or(Dtype::Bf16)))
    }

    fn of_figures(&self, Parameters(parameters): Parameters, at: &Place) -> Result<Architecture, Error> {
        let active = self.active_parameters.map_or(parameters, |Parameters(active)| active);
        if active > parameters {
            let text = "a token cannot meet more parameters than there are";
            return Err(Error::at(at.clone().key("active_parameters"), text));
        }
        let attention = match (self.layers, self.heads, self.kv_heads, self.head_dim) {
            (None, None, None, None) => None,
            (Some(layers), None, Some(kv_heads), Some(head_dim)) => {
                Some(Attention::of_kv_heads(layers.0, kv_heads.0, head_dim.0))
            }
            (Some(layers), Some(heads), Some(kv_heads), Some(head_dim)) => {
                Some(Attention::grouped(layers.0, heads.0, kv_heads.0, head_dim.0))
            }
            _ => {
                let text = "`layers`, `kv_heads` and `head_dim` go together, and `heads` with them";
                return Err(Error::at(at.clone(), text));
            }
        };
        Ok(Architecture { active_parameters: active, ..Architecture::dense(parameters, attention) })
    }
}

impl HardwareEntry {
    /// Which devices, and how many.
    pub(super) fn fleet(&self) -> Fleet {
        Fleet { device: self.device.0, count: u64::from(self.count.0) }
    }

    /// What all devices cost by the hour.
    pub(super) fn rent(&self, at: &Place) -> Result<Option<Rent>, Error> {
        match (self.price_per_hour, &self.currency) {
            (None, Some(_)) => Err(Error::at(at.clone().key("currency"), "goes with `price_per_hour`")),
            (None, None) => Ok(None),
            (Some(price), currency) => {
                let currency = currency.as_ref().map_or(USUAL_CURRENCY, |Currency(code)| code);
                Ok(Some(Rent {
                    pico: price.pico() * u128::from(self.count.0),
                    currency: Name::from(currency),
                }))
            }
        }
    }
}
