//! The encodings that are built in, and which models use them.

use tiktoken_rs::tokenizer::{Tokenizer as Known, get_tokenizer};
use tiktoken_rs::{
    CoreBPE, cl100k_base_singleton, o200k_base_singleton, p50k_base_singleton, r50k_base_singleton,
};

/// An encoding of OpenAI's. Its tables are loaded when it is first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// GPT-4o and later, o1 and later, gpt-oss.
    O200kBase,
    /// GPT-4, GPT-3.5, the embedding models.
    Cl100kBase,
    /// Codex, text-davinci-002 and -003.
    P50kBase,
    /// GPT-2, GPT-3.
    R50kBase,
}

impl Encoding {
    /// All of them, the newest first.
    pub const ALL: [Self; 4] = [Self::O200kBase, Self::Cl100kBase, Self::P50kBase, Self::R50kBase];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::O200kBase => "o200k_base",
            Self::Cl100kBase => "cl100k_base",
            Self::P50kBase => "p50k_base",
            Self::R50kBase => "r50k_base",
        }
    }

    /// The encoding of this name. Some have a second one, which differs in special tokens only; text that users
    /// write has none.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "o200k_harmony" => Some(Self::O200kBase),
            "p50k_edit" => Some(Self::P50kBase),
            "gpt2" => Some(Self::R50kBase),
            _ => Self::ALL.into_iter().find(|encoding| encoding.name() == name),
        }
    }

    /// The encoding of a model of OpenAI's, known by its name; gateways put a provider before it (`openai/gpt-4o`).
    pub fn of_model(model: &str) -> Option<Self> {
        let own = model.rsplit('/').next().unwrap_or(model);
        Some(match get_tokenizer(own)? {
            Known::O200kBase | Known::O200kHarmony => Self::O200kBase,
            Known::Cl100kBase => Self::Cl100kBase,
            Known::P50kBase | Known::P50kEdit => Self::P50kBase,
            Known::R50kBase | Known::Gpt2 => Self::R50kBase,
        })
    }

    pub(super) fn tables(self) -> &'static CoreBPE {
        match self {
            Self::O200kBase => o200k_base_singleton(),
            Self::Cl100kBase => cl100k_base_singleton(),
            Self::P50kBase => p50k_base_singleton(),
            Self::R50kBase => r50k_base_singleton(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_found_by_its_names() {
        for encoding in Encoding::ALL {
            assert_eq!(Encoding::named(encoding.name()), Some(encoding));
        }
        assert_eq!(Encoding::named("o200k_harmony"), Some(Encoding::O200kBase));
        assert_eq!(Encoding::named("o200k"), None);
    }

    #[test]
    fn a_model_of_openais_is_known_with_and_without_a_provider() {
        for (model, want) in [
            ("gpt-4o-mini", Some(Encoding::O200kBase)),
            ("openai/gpt-oss-120b", Some(Encoding::O200kBase)),
            ("gpt-4-0613", Some(Encoding::Cl100kBase)),
            ("ft:gpt-3.5-turbo:acme::1", Some(Encoding::Cl100kBase)),
            ("meta-llama/Llama-3.1-8B", None),
            ("gpt", None),
        ] {
            assert_eq!(Encoding::of_model(model), want, "{model}");
        }
    }
}
