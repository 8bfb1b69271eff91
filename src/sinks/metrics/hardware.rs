//! Models and the devices that serve them: what is configured of them, and the work that was done.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Metrics;
use super::catalog::Id;
use super::labels::{Key, Labels};
use crate::account::hardware::{Fleet, Paid};
use crate::account::model::{Model, Models};
use crate::clock::Moment;
use crate::exchange::Exchange;

/// What devices have cost, by model and currency.
#[derive(Debug)]
pub(super) struct Costs {
    paid: BTreeMap<Key, Paid>, // the models of a process's configurations; each name stays
    until: Moment,
}

impl Costs {
    pub(super) const fn from(start: Moment) -> Self {
        Self { paid: BTreeMap::new(), until: start }
    }

    /// Pays up to now.
    fn pay(&mut self, models: &Models, now: Moment) {
        let time = now.since(self.until);
        self.until = now.max(self.until); // two scrapes may come here in another order than they read the clock
        for model in models.iter() {
            let Some(rent) = &model.rent else { continue };
            self.paid
                .entry(Key::from([model.name.clone(), rent.currency.clone()]))
                .or_default()
                .add(rent, time);
        }
    }
}

impl Metrics {
    /// What devices have cost up to now, under the present configuration since it was last told.
    pub(super) fn hardware_cost(&self, now: Moment) -> Vec<(Key, f64)> {
        let models = Arc::clone(&self.settings.read().models);
        let mut costs = self.hardware_costs.lock();
        costs.pay(&models, now);
        costs.paid.iter().map(|(key, paid)| (key.clone(), paid.units())).collect()
    }

    /// A figure of every configured model that has it.
    pub(super) fn of_models(&self, id: Id) -> Vec<(Key, f64)> {
        let models = Arc::clone(&self.settings.read().models);
        let figure = |model: &Model| Some((Key::from([model.name.clone()]), figure(id, model)?));
        let mut all: Vec<_> = models.iter().filter_map(figure).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all.dedup_by(|one, other| one.0 == other.0); // two entries of a name are one model
        all
    }

    /// Adds the work of a settled exchange, where its model's architecture is configured.
    pub(super) fn worked(&self, exchange: &Exchange, labels: &Labels<'_>, now: Moment) {
        let known = [exchange.input, exchange.output].into_iter().flatten().map(|count| count.value);
        let Some(tokens) = known.reduce(u64::saturating_add) else { return };
        let cached = exchange.usage.cache_read.unwrap_or(0);
        let models = Arc::clone(&self.settings.read().models);
        let configured = exchange.model.configured.as_ref().and_then(|name| models.named(name));
        if let Some((architecture, _)) = configured.and_then(|model| model.architecture) {
            self.add_wide(Id::ModelFlops, labels, architecture.serving_flops(cached, tokens) as u128, now);
        }
    }
}

fn figure(id: Id, Model { architecture, hardware, .. }: &Model) -> Option<f64> {
    let each = |of_device: fn(&Fleet) -> Option<f64>| {
        hardware.as_ref().and_then(|fleet| Some(of_device(fleet)? * fleet.count as f64))
    };
    match id {
        Id::ModelParameters => architecture.map(|(it, _)| it.parameters as f64),
        Id::ModelWeights => architecture.map(|(it, dtype)| it.weights_bytes(dtype) as f64),
        Id::HardwareFlops => each(|fleet| fleet.device.fp16_flops),
        Id::HardwareInt8Ops => each(|fleet| fleet.device.int8_ops),
        Id::HardwareMemory => each(|fleet| Some(fleet.device.memory_bytes as f64)),
        Id::HardwareBandwidth => each(|fleet| Some(fleet.device.memory_bandwidth)),
        _ => None,
    }
}
