//! Our own limits on tokens per minute: what they are, what counts, and what happened at them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::catalog::Id;
use super::labels::{Key, Label, Labels, OTHER};
use super::{Metrics, known_tenants};
use crate::account::quota::{ALL, Limits, Scope, hit};
use crate::admission::{Admission, StoreState};
use crate::clock::Moment;
use crate::config::Config;
use crate::exchange::{Limited, Name};
use crate::live::Origin;

/// What is told of limits.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) limits: Limits,
    /// The windows that are there from the start.
    scopes: Vec<Scope>,
}

impl Told {
    pub(super) fn of(config: &Config) -> Self {
        let scopes = scopes(config).into_iter().map(|(scope, _)| scope).collect();
        Self { limits: config.limits.clone(), scopes }
    }
}

/// The windows of the configured limits and of the tenants that are known, with what may happen there.
fn scopes(config: &Config) -> Vec<(Scope, &'static str)> {
    let of_limit = |limit: &crate::account::quota::Limit| {
        let is_meant = |tenant: &Name| limit.tenant.as_str() == ALL || limit.tenant == *tenant;
        let (model, action) = (limit.model.clone(), hit(limit.action).label());
        let scope = move |tenant| (Scope { tenant, model: model.clone() }, action);
        known_tenants(config).filter(is_meant).map(scope).collect::<Vec<_>>()
    };
    config.limits.0.iter().flat_map(of_limit).collect()
}

/// The series of hits that are there from the start.
pub(super) fn presets(config: &Config) -> HashSet<Key> {
    let key = |(scope, action): (Scope, &str)| Key::from([scope.tenant, scope.model, Name::from(action)]);
    scopes(config).into_iter().map(key).collect()
}

impl Metrics {
    /// The same, with the windows that limits are held to by.
    #[must_use]
    pub fn with_windows(self, windows: Arc<Admission>) -> Self {
        Self { windows: Some(windows), ..self }
    }

    /// A request met a limit that had no room, or waited.
    pub(super) fn limited(&self, origin: &Origin, limited: &Limited, now: Moment) {
        let tenant = self.tenants.place(&origin.tenant, false, now);
        let labels = Labels::default().with(Label::Tenant, tenant.as_ref().map_or(OTHER, Name::as_str));
        for (model, action) in &limited.hits {
            let labels = labels.with(Label::Model, model.as_str()).with(Label::Action, action.label());
            self.add(Id::TpmLimitHits, &labels, 1, now);
        }
        if let (Some(delay), Some((model, _))) = (limited.delay, limited.hits.last()) {
            let labels = labels.with(Label::Model, model.as_str());
            self.observe(Id::TpmDelay, &labels, delay.as_secs_f64(), None, now);
        }
    }

    /// How the place does where replicas share their windows; nothing where there is none.
    pub(super) fn limit_store(&self, id: Id) -> Vec<(Key, f64)> {
        let state = self.windows.as_ref().and_then(|windows| windows.store());
        let value = |state: StoreState| match id {
            Id::LimitStoreUp => f64::from(u8::from(state.is_up)),
            _ => state.fallbacks as f64,
        };
        state.map(|state| (Key::default(), value(state))).into_iter().collect()
    }

    /// Of every window its limit, or what counts in it; the lowest limit, where there are several. Tenants without
    /// series of their own have none here either.
    pub(super) fn windows(&self, id: Id) -> Vec<(Key, f64)> {
        let settings = self.settings.read();
        let told = &settings.limits;
        let mut used: BTreeMap<Scope, u64> = told.scopes.iter().map(|scope| (scope.clone(), 0)).collect();
        let windows = self.windows.iter().flat_map(|windows| windows.used());
        used.extend(windows.filter(|(scope, _)| self.tenants.find(&scope.tenant).is_some()));
        let value = |(scope, used): (Scope, u64)| {
            let limit = told.limits.lowest(&scope)?; // none: it was taken out of the configuration
            let value = if id == Id::TpmLimit { limit } else { used };
            Some((Key::from([scope.tenant, scope.model]), value as f64))
        };
        used.into_iter().filter_map(value).collect()
    }
}
