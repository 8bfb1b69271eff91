//! What the file says of models.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{Error, Place};
use super::hardware::{ArchitectureEntry, HardwareEntry};
use super::price::{self, Few, PriceEntry};
use super::value::{Text, Texts, scalar};
use crate::account::model::{Glob, Model, TokenizerName};
use crate::account::tokenize::Encoding;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelEntry {
    #[serde(default, rename = "match")]
    patterns: Texts,
    name: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokenizer: Option<TokenizerEntry>,
    #[serde(default, skip_serializing_if = "Few::is_empty")]
    price: Few<PriceEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    architecture: Option<ArchitectureEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hardware: Option<HardwareEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    alternatives: Vec<Text>,
}

/// `{file: PATH}` or `{encoding: NAME}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TokenizerEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<EncodingEntry>,
}

#[derive(Debug, Clone, Copy)]
struct EncodingEntry(Encoding);

impl<'de> Deserialize<'de> for EncodingEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |name| {
            let names = || Encoding::ALL.map(Encoding::name).join(", ");
            let unknown = || format!("`{name}` is no encoding; these are: {}", names());
            Encoding::named(name).map(Self).ok_or_else(unknown)
        })
    }
}

impl Serialize for EncodingEntry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.name())
    }
}

impl ModelEntry {
    pub(super) fn resolve(&self, at: &Place) -> Result<Model, Error> {
        let own_name = std::slice::from_ref(&self.name);
        let Texts(patterns) = &self.patterns;
        let patterns = if patterns.is_empty() { own_name } else { patterns };
        let tokenizer = match &self.tokenizer {
            None => None,
            Some(TokenizerEntry { file: Some(path), encoding: None }) => {
                Some(TokenizerName::File(path.clone()))
            }
            Some(TokenizerEntry { file: None, encoding: Some(encoding) }) => {
                Some(TokenizerName::Encoding(encoding.0))
            }
            Some(_) => {
                let text = "give `file` (a tokenizer.json) or `encoding`, one of the two";
                return Err(Error::at(at.clone().key("tokenizer"), text));
            }
        };
        let patterns = patterns.iter().map(|text| Glob::new(&text.0)).collect();
        let prices = price::resolve(&self.price, None, &at.clone().key("price"))?;
        let alternatives = self.alternatives.iter().map(Text::name).collect();
        let architecture =
            self.architecture.as_ref().map(|entry| entry.resolve(&at.clone().key("architecture")));
        let at_hardware = at.clone().key("hardware");
        let rent = self.hardware.as_ref().map(|entry| entry.rent(&at_hardware)).transpose()?.flatten();
        let hardware = self.hardware.as_ref().map(HardwareEntry::fleet);
        Ok(Model {
            patterns,
            name: self.name.name(),
            tokenizer,
            prices,
            alternatives,
            architecture: architecture.transpose()?,
            hardware,
            rent,
        })
    }
}
