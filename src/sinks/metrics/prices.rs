//! What a million tokens cost now: of every model that is configured, and of every one that was priced.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::Metrics;
use super::labels::{Key, Label, Labels, OTHER};
use crate::account::price::KINDS;
use crate::exchange::{ModelNames, Name};

/// The names by which the price of a model was found last, by the model's label.
#[derive(Debug, Default)]
pub(super) struct PriceNames(Mutex<HashMap<Name, ModelNames>>);

impl PriceNames {
    /// An exchange of this label was priced by these names.
    pub(super) fn keep(&self, labels: &Labels<'_>, names: &ModelNames) {
        let Some(label) = labels.values(&[Label::Model]).next().filter(|label| *label != OTHER) else {
            return;
        };
        let mut known = self.0.lock();
        match known.get_mut(label) {
            Some(known) if known == names => {}
            Some(known) => known.clone_from(names),
            None => drop(known.insert(Name::from(label), names.clone())),
        }
    }

    /// Forgets the labels that are no more.
    pub(super) fn retain(&self, is_there: impl Fn(&Name) -> bool) {
        self.0.lock().retain(|label, _| is_there(label));
    }
}

impl Metrics {
    /// What a million tokens of each model cost now.
    pub(super) fn prices(&self) -> Vec<(Key, f64)> {
        let models = Arc::clone(&self.settings.read().models);
        let now = self.clock.wall(self.clock.now());
        let configured = |name: &Name| ModelNames { configured: Some(name.clone()), ..ModelNames::default() };
        let mut names: HashMap<Name, ModelNames> =
            models.iter().map(|model| (model.name.clone(), configured(&model.name))).collect();
        names.extend(self.price_names.0.lock().iter().map(|(label, names)| (label.clone(), names.clone())));
        let mut all = Vec::new();
        for (label, names) in names {
            let Some(price) = models.price(&names, now) else { continue };
            for (kind, rate) in KINDS.into_iter().zip(price.ordinary.rates.each()) {
                let key = [label.clone(), Name::from(kind), price.currency.clone()];
                all.push((Key::from(key), rate.per_million()));
            }
        }
        all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        all
    }
}
