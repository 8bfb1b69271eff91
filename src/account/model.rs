//! Which model: the configured names, and what matches them.

use std::path::PathBuf;
use std::time::SystemTime;

use super::hardware::{Architecture, Dtype, Fleet, Rent};
use super::price::Price;
use super::tokenize::Encoding;
use crate::exchange::{ModelNames, Name};
use crate::observe::Keeps;

/// The models that are known by name.
#[derive(Debug, Clone, Default)]
pub struct Models {
    configured: Vec<Model>,
    /// Price lists.
    listed: Vec<Listed>,
}

/// What a price list says of a model.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The names that it is sold by.
    pub patterns: Vec<Glob>,
    /// What it costs, and when.
    pub prices: Vec<Price>,
}

/// A model known by name.
#[derive(Debug, Clone)]
pub struct Model {
    /// What clients and servers call it.
    pub patterns: Vec<Glob>,
    /// The label.
    pub name: Name,
    /// What counts its text; none: what its name says, where that is known.
    pub tokenizer: Option<TokenizerName>,
    /// What it costs, and when; empty: what a price list says.
    pub prices: Vec<Price>,
    /// Other configured models: what the same tokens would cost there is told too.
    pub alternatives: Vec<Name>,
    /// What it is made of, and what its weights are kept in.
    pub architecture: Option<(Architecture, Dtype)>,
    /// What it runs on.
    pub hardware: Option<Fleet>,
    /// What that costs by the hour.
    pub rent: Option<Rent>,
}

/// Which tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenizerName {
    /// An encoding of OpenAI's.
    Encoding(Encoding),
    /// A `tokenizer.json` of Hugging Face's.
    File(PathBuf),
}

impl TokenizerName {
    /// Whether its models take OpenAI's chat format.
    pub const fn is_openai(&self) -> bool {
        matches!(self, Self::Encoding(_))
    }
}

impl Keeps for Models {
    fn keeps(&self, requested: Option<&Name>, served: Option<&Name>) -> bool {
        self.tokenizer(requested, served).is_some()
    }
}

impl Models {
    /// A table, and price lists; of two entries that match, the first counts.
    pub fn new(configured: Vec<Model>, listed: Vec<Listed>) -> Self {
        Self { configured, listed }
    }

    /// The entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Model> {
        self.configured.iter()
    }

    /// The configured model of this name.
    pub fn named(&self, name: &Name) -> Option<&Model> {
        self.iter().find(|model| model.name == *name)
    }

    /// Whether any model has a price.
    pub fn has_prices(&self) -> bool {
        !self.listed.is_empty() || self.iter().any(|model| !model.prices.is_empty())
    }

    /// Whether any price is in this currency.
    pub fn has_prices_in(&self, currency: &Name) -> bool {
        let own = self.iter().flat_map(|model| &model.prices);
        let listed = self.listed.iter().flat_map(|listed| &listed.prices);
        own.chain(listed).any(|price| price.currency == *currency)
    }

    /// What a model costs at this time: what its configuration says, else a price list; that one is asked for the name
    /// that was served before the one that was asked for.
    pub fn price(&self, names: &ModelNames, at: SystemTime) -> Option<&Price> {
        let configured = names.configured.as_ref().and_then(|name| self.named(name));
        let own = configured.map(|model| &model.prices).filter(|prices| !prices.is_empty());
        let listed = |name: &Name| {
            let lists = self.listed.iter();
            let named = |listed: &&Listed| listed.patterns.iter().any(|glob| glob.matches(name.as_str()));
            lists.filter(named).flat_map(|listed| &listed.prices).find(|price| price.holds(at))
        };
        match own {
            Some(prices) => prices.iter().find(|price| price.holds(at)),
            None => {
                let names = [&names.served, &names.requested, &names.configured];
                let by_name = names.into_iter().flatten().find_map(listed);
                by_name.or_else(|| self.listed_as(configured?).find(|price| price.holds(at)))
            }
        }
    }

    /// What the lists say of a configured model by the patterns that it is known by, as they are written.
    fn listed_as(&self, model: &Model) -> impl Iterator<Item = &Price> {
        let is_it = |listed: &&Listed| {
            listed.patterns.iter().any(|glob| {
                model.patterns.iter().any(|pattern| glob == pattern || glob.matches(pattern.text()))
            })
        };
        self.listed.iter().filter(is_it).flat_map(|listed| &listed.prices)
    }

    /// Whether a configured model has a price at some time.
    pub fn can_have_price(&self, name: &Name) -> bool {
        let named = |listed: &Listed| listed.patterns.iter().any(|glob| glob.matches(name.as_str()));
        self.named(name).is_some_and(|model| {
            !model.prices.is_empty()
                || self.listed.iter().any(named)
                || self.listed_as(model).next().is_some()
        })
    }

    /// The configured model that goes by `name`.
    fn find(&self, name: &Name) -> Option<&Model> {
        self.iter().find(|model| model.patterns.iter().any(|pattern| pattern.matches(name.as_str())))
    }

    /// What counts the text of an exchange: what its configured model names, else what its name says.
    pub fn tokenizer(&self, requested: Option<&Name>, served: Option<&Name>) -> Option<TokenizerName> {
        let configured =
            requested.and_then(|name| self.find(name)).or_else(|| served.and_then(|name| self.find(name)));
        let by_name = || {
            let names = [requested, served].into_iter().flatten();
            names.filter_map(|name| Encoding::of_model(name.as_str())).map(TokenizerName::Encoding).next()
        };
        configured.and_then(|model| model.tokenizer.clone()).or_else(by_name)
    }

    /// All names of an exchange's model. The requested name is looked up first: it is what the client knows.
    pub fn names(&self, requested: Option<&Name>, served: Option<&Name>) -> ModelNames {
        let by_request = requested.and_then(|name| self.find(name)).map(|model| &model.name);
        let by_answer = || served.and_then(|name| self.find(name)).map(|model| &model.name);
        ModelNames {
            configured: by_request.or_else(by_answer).cloned(),
            requested: requested.map(|name| name.cut(NAME_LIMIT)),
            served: served.cloned(),
        }
    }
}

const NAME_LIMIT: usize = 128; // a label's longest value; a longer name is cut

/// A name with `*` (any text) and `?` (any character). Case matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// A glob; every text is one.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether `name` matches, whole. Takes no memory: each exchange is held against every pattern there is.
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut name) = (self.0.chars(), name.chars());
        let mut star = None; // what follows the last `*`, and what that has left of the name
        loop {
            let rest = name.clone();
            match (pattern.next(), name.next()) {
                (Some('*'), _) => {
                    name = rest;
                    star = Some((pattern.clone(), name.clone()));
                }
                (Some(want), Some(c)) if want == '?' || want == c => {}
                (None, None) => return true,
                (Some(_), None) => return false,
                _ => {
                    let Some((after, left)) = &mut star else { return false };
                    if left.next().is_none() {
                        return false;
                    }
                    (pattern, name) = (after.clone(), left.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (glob, name, want) in [
            ("llama-3.1-8b", "llama-3.1-8b", true),
            ("llama-3.1-8b", "llama-3.1-8b-instruct", false),
            ("meta-llama/*8B*", "meta-llama/Llama-3.1-8B-Instruct", true),
            ("meta-llama/*8B*", "meta-llama/Llama-3.1-70B", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("*??", "é", false),
            ("*?é", "éé", true),
            ("a*", "a", true),
            ("a**c", "abbc", true),
            ("a*bc", "abbbc", true),
            ("a*b", "ac", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Glob::new(glob).matches(name), want, "{glob} against {name}");
        }
    }

    #[test]
    fn the_first_entry_that_matches_counts_and_the_requested_name_before_the_served_one() {
        let model = |glob, name| Model {
            patterns: vec![Glob::new(glob)],
            name: Name::from(name),
            tokenizer: None,
            prices: Vec::new(),
            alternatives: Vec::new(),
            architecture: None,
            hardware: None,
            rent: None,
        };
        let entries = vec![model("gpt-4o*", "four"), model("gpt-*", "any"), model("llama", "llama")];
        let models = Models::new(entries, Vec::new());
        let configured = |requested, served: Option<&str>| {
            let (requested, served): (Option<&str>, _) = (requested, served.map(Name::from));
            let names = models.names(requested.map(Name::from).as_ref(), served.as_ref());
            names.configured.map(|name| name.to_string())
        };
        assert_eq!(configured(Some("gpt-4o-mini"), Some("llama")).as_deref(), Some("four"));
        assert_eq!(configured(Some("alias"), Some("llama")).as_deref(), Some("llama"));
        assert_eq!(configured(Some("alias"), None), None);
    }
}
