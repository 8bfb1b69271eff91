//! The limits that are configured, and the windows that a request is charged to by them.

use std::time::Duration;

use crate::exchange::{HitAction, Name};

/// Stands for every tenant, each by itself, or for all models together.
pub const ALL: &str = "*";

/// What is done where a limit has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is counted.
    Observe,
    /// The request is held until there is room, at most so long.
    Delay(Duration),
    /// The request is answered with an error.
    Reject,
}

/// A limit as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Whose tokens; [`ALL`]: each tenant's by itself.
    pub tenant: Name,
    /// Of which model; [`ALL`]: of all together.
    pub model: Name,
    /// So many in any sixty seconds.
    pub tokens: u64,
    /// What is done beyond it.
    pub action: Action,
}

/// The configured limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits(pub Vec<Limit>);

/// Whose tokens of which model ([`ALL`]: of all) a window counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The tenant.
    pub tenant: Name,
    /// The model as the limit has it.
    pub model: Name,
}

/// A window and the limits on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Which window.
    pub scope: Scope,
    /// Tokens, and what is done beyond them.
    pub rules: Vec<(u64, Action)>,
}

impl Hold {
    /// The lowest limit that is held to, and how.
    pub fn held_to(&self) -> Option<(u64, Action)> {
        let enforced = self.rules.iter().filter(|(_, action)| *action != Action::Observe);
        enforced.copied().min_by_key(|(tokens, _)| *tokens)
    }

    /// The lowest limit that is held to, in a share of one in so many.
    pub fn cap(&self, share: u64) -> Option<u64> {
        self.held_to().map(|(tokens, _)| tokens / share.max(1))
    }
}

impl Limits {
    fn of_tenant<'l>(&'l self, tenant: &'l Name) -> impl Iterator<Item = &'l Limit> {
        self.0.iter().filter(move |limit| limit.tenant.as_str() == ALL || limit.tenant == *tenant)
    }

    /// Whether anything limits this tenant.
    pub fn watch(&self, tenant: &Name) -> bool {
        self.of_tenant(tenant).next().is_some()
    }

    /// Whether this tenant's requests may have to wait or be refused.
    pub fn hold(&self, tenant: &Name) -> bool {
        self.of_tenant(tenant).any(|limit| limit.action != Action::Observe)
    }

    /// The windows that a tenant's requests for this model are charged to. Where nobody can read which model is asked
    /// for, it may be any: all of the tenant's limits hold.
    pub fn on(&self, tenant: &Name, model: Option<&Name>) -> Vec<Hold> {
        let mut holds: Vec<Hold> = Vec::new();
        let matches =
            |limit: &&Limit| limit.model.as_str() == ALL || model.is_none_or(|model| limit.model == *model);
        for limit in self.of_tenant(tenant).filter(matches) {
            let rule = (limit.tokens, limit.action);
            match holds.iter_mut().find(|hold| hold.scope.model == limit.model) {
                Some(hold) => hold.rules.push(rule),
                None => {
                    let scope = Scope { tenant: tenant.clone(), model: limit.model.clone() };
                    holds.push(Hold { scope, rules: vec![rule] });
                }
            }
        }
        holds
    }

    /// The lowest limit on a window.
    pub fn lowest(&self, scope: &Scope) -> Option<u64> {
        self.of_tenant(&scope.tenant)
            .filter(|limit| limit.model == scope.model)
            .map(|limit| limit.tokens)
            .min()
    }
}

/// What an exchange met.
pub const fn hit(action: Action) -> HitAction {
    match action {
        Action::Observe => HitAction::Observed,
        Action::Delay(_) => HitAction::Delayed,
        Action::Reject => HitAction::Rejected,
    }
}
