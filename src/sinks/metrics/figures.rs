//! Numbers of the page for whoever shows them to a person: the same, not as text.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::Metrics;
use super::catalog::Id;
use super::labels::Key;
use crate::exchange::Name;

/// A window that a limit of ours is held to by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowFigure {
    /// Whose.
    pub tenant: Name,
    /// The model as the limit has it.
    pub model: Name,
    /// Tokens in any sixty seconds.
    pub limit: u64,
    /// What counts against it now.
    pub used: u64,
}

/// A budget.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetFigure {
    /// Whose.
    pub tenant: Name,
    /// As ISO 4217 writes it.
    pub currency: Name,
    /// How often it begins anew.
    pub period: Name,
    /// For a period.
    pub amount: f64,
    /// In the present one.
    pub spent: f64,
}

impl Metrics {
    /// Tokens of the last sixty seconds: tenant, model, how many.
    pub fn tokens_by_tenant_and_model(&self) -> Vec<(Name, Name, u64)> {
        let all = self.tokens_last_minute(self.clock.now()).into_iter();
        all.filter_map(|(key, tokens)| match &*key {
            [tenant, model] => Some((tenant.clone(), model.clone(), tokens as u64)),
            _ => None,
        })
        .collect()
    }

    /// Every window that a limit is held to by.
    pub fn window_figures(&self) -> Vec<WindowFigure> {
        let used: BTreeMap<Key, f64> = self.windows(Id::TpmUsed).into_iter().collect();
        let limits = self.windows(Id::TpmLimit).into_iter();
        limits
            .filter_map(|(key, limit)| {
                let used = used.get(&key).copied().unwrap_or(0.0);
                let [tenant, model] = &*key else { return None };
                let (tenant, model) = (tenant.clone(), model.clone());
                Some(WindowFigure { tenant, model, limit: limit as u64, used: used as u64 })
            })
            .collect()
    }

    /// Every budget.
    pub fn budget_figures(&self) -> Vec<BudgetFigure> {
        let spent: BTreeMap<Key, f64> = self.budgets(Id::BudgetSpent).into_iter().collect();
        let amounts = self.budgets(Id::Budget).into_iter();
        amounts
            .filter_map(|(key, amount)| {
                let spent = spent.get(&key).copied().unwrap_or(0.0);
                let [tenant, currency, period] = &*key else { return None };
                let (tenant, currency, period) = (tenant.clone(), currency.clone(), period.clone());
                Some(BudgetFigure { tenant, currency, period, amount, spent })
            })
            .collect()
    }

    /// Whether the last reload was taken, and when the configuration in force was loaded.
    pub fn last_reload(&self) -> (bool, SystemTime) {
        let reloaded = self.reloaded.lock();
        (reloaded.successful, reloaded.at)
    }

    /// Whether the place where replicas share their windows answers; none where there is none.
    pub fn limit_store_is_up(&self) -> Option<bool> {
        self.windows.as_ref().and_then(|windows| windows.store()).map(|state| state.is_up)
    }
}
