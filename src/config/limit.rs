//! What the file says of limits on tokens per minute.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::LimitStore;
use super::error::{Error, Place};
use super::value::{HowMany, SecretUrl, Span, Text, scalar};
use crate::account::model::Models;
use crate::account::quota::{ALL, Action, Limit, Limits};

/// How long a request waits at most where the file does not say.
const MAX_DELAY: Span = Span(Duration::from_secs(30));

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitEntry {
    #[serde(default = "all")]
    tenant: Text,
    #[serde(default = "all")]
    model: Text,
    tokens_per_minute: HowMany,
    #[serde(default)]
    action: ActionEntry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_delay: Option<Span>,
}

fn all() -> Text {
    Text(ALL.to_owned())
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionEntry {
    #[default]
    Observe,
    Delay,
    Reject,
}

/// Where replicas share limits' windows: `memory` (nowhere), or the URL of a Redis server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StoreEntry(pub(super) LimitStore);

impl<'de> Deserialize<'de> for StoreEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            if text == "memory" {
                return Ok(Self(LimitStore::Memory));
            }
            let is_redis = ["redis://", "rediss://"].iter().any(|scheme| text.starts_with(scheme));
            let uri = text.parse::<http::Uri>().ok().filter(|uri| is_redis && uri.host().is_some());
            // Not shown: it may have a password.
            let wrong = "is no place where limits can be kept; write `memory`, or a URL like redis://redis:6379 or \
                         rediss://user:password@redis:6379";
            uri.map(|_| Self(LimitStore::Redis(SecretUrl(text.to_owned())))).ok_or_else(|| wrong.to_owned())
        })
    }
}

impl Serialize for StoreEntry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            LimitStore::Memory => to.serialize_str("memory"),
            LimitStore::Redis(url) => to.collect_str(url),
        }
    }
}

/// The limits of a file with these models.
pub(super) fn resolve(entries: &[LimitEntry], models: &Models) -> Result<Limits, Error> {
    let mut limits: Vec<Limit> = Vec::new();
    for (entry, index) in entries.iter().zip(0..) {
        let at = Place::new().key("limits").index(index);
        let limit = entry.resolve(&at, models)?;
        let is_same = |other: &&Limit| (&other.tenant, &other.model) == (&limit.tenant, &limit.model);
        if let Some(other) = limits.iter().filter(is_same).find(|other| same_kind(other.action, limit.action))
        {
            let text =
                format!("a second limit for `{}` and `{}` that does the same", other.tenant, other.model);
            return Err(Error::at(at, text));
        }
        limits.push(limit);
    }
    Ok(Limits(limits))
}

fn same_kind(one: Action, other: Action) -> bool {
    std::mem::discriminant(&one) == std::mem::discriminant(&other)
}

impl LimitEntry {
    fn resolve(&self, at: &Place, models: &Models) -> Result<Limit, Error> {
        let (tenant, model) = (self.tenant.name(), self.model.name());
        if model.as_str() != ALL && models.named(&model).is_none() {
            let text = format!(
                "`{model}` is the name of no configured model; write one under `models`, or \"*\" for all together"
            );
            return Err(Error::at(at.clone().key("model"), text));
        }
        if self.tokens_per_minute.0 == 0 {
            return Err(Error::at(at.clone().key("tokens_per_minute"), "must be at least 1"));
        }
        let action = match (self.action, self.max_delay) {
            (ActionEntry::Delay, Some(Span(Duration::ZERO))) => {
                let text = "is no time to wait; where nothing may wait write `action: reject`";
                return Err(Error::at(at.clone().key("max_delay"), text));
            }
            (ActionEntry::Delay, max_delay) => Action::Delay(max_delay.unwrap_or(MAX_DELAY).0),
            (_, Some(_)) => {
                return Err(Error::at(at.clone().key("max_delay"), "goes with `action: delay`"));
            }
            (ActionEntry::Observe, None) => Action::Observe,
            (ActionEntry::Reject, None) => Action::Reject,
        };
        Ok(Limit { tenant, model, tokens: self.tokens_per_minute.0 as u64, action })
    }
}
