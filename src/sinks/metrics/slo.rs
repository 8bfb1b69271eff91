//! Objectives: what is asked for, and how many exchanges kept it.

use std::collections::HashSet;

use super::catalog::Id;
use super::labels::{Key, Label, Labels, OTHER, UNKNOWN, cut};
use super::{Metrics, known_models, known_tenants};
use crate::account::slo::Slos;
use crate::clock::Moment;
use crate::config::Config;
use crate::exchange::{ModelNames, Name};
use crate::live::Origin;

/// The series of objectives that are there from the start: of every tenant and model that is known and can fall under
/// them.
pub(super) fn presets(config: &Config) -> HashSet<Key> {
    let mut keys = HashSet::new();
    for slo in &config.slos.0 {
        for tenant in known_tenants(config) {
            let models = known_models(config).filter(|model| slo.matching.can_have(&tenant, model));
            keys.extend(models.map(|model| Key::from([slo.name.clone(), tenant.clone(), model])));
        }
    }
    keys
}

/// The times that objectives ask for of what a histogram shows, in seconds.
pub(super) fn thresholds(id: Id, slos: &Slos) -> impl Iterator<Item = f64> {
    let kind = match id {
        Id::TimeToFirstToken => "ttft",
        Id::TimePerOutputToken => "tpot",
        Id::RequestDuration => "duration",
        _ => "",
    };
    let asked = slos.0.iter().flat_map(|slo| slo.asks.thresholds());
    asked.filter(move |(own, _)| *own == kind).map(|(_, time)| time.as_secs_f64())
}

impl Metrics {
    /// An exchange kept an objective, or did not. Both series are touched, so that one is never there without the other.
    pub(super) fn judged(
        &self,
        origin: &Origin,
        model: &ModelNames,
        accepted: bool,
        slo: &Name,
        is_bad: bool,
        now: Moment,
    ) {
        let model = match model.label(accepted).map(cut) {
            Some(name) => self.models.place(&name, accepted, now).unwrap_or_else(|| Name::from(OTHER)),
            None => {
                let earlier = model.requested.as_ref().map(cut).filter(|name| self.models.was_accepted(name));
                earlier.unwrap_or_else(|| Name::from(UNKNOWN))
            }
        };
        let tenant = self.tenants.place(&origin.tenant, accepted, now);
        let labels = Labels::default()
            .with(Label::Slo, slo.as_str())
            .with(Label::Tenant, tenant.as_ref().map_or(OTHER, Name::as_str))
            .with(Label::Model, model.as_str());
        self.add(Id::SloRequests, &labels, 1, now);
        self.add(Id::SloBadRequests, &labels, u64::from(is_bad), now);
    }

    /// What the configured objectives ask for.
    pub(super) fn objectives(&self, id: Id) -> Vec<(Key, f64)> {
        let slos = &self.settings.read().slos;
        let mut all: Vec<(Key, f64)> = Vec::new();
        for slo in &slos.0 {
            let name = || slo.name.clone();
            if id == Id::SloObjective {
                all.push((Key::from([name()]), f64::from(slo.objective) / 1e6));
            } else {
                let each = slo.asks.thresholds();
                all.extend(
                    each.map(|(kind, time)| (Key::from([name(), Name::from(kind)]), time.as_secs_f64())),
                );
            }
        }
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }
}
