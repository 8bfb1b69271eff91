//! Budgets: what there is to spend, and what is spent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::catalog::Id;
use super::family::units;
use super::labels::{Key, LONGEST_NAME};
use super::{Metrics, known_tenants};
use crate::account::budget::{Account, BudgetList};
use crate::account::price::PICO;
use crate::budgets::Budgets;
use crate::config::Config;
use crate::exchange::Name;

/// What is told of budgets.
#[derive(Debug)]
pub(super) struct Told {
    list: BudgetList,
    /// The accounts that are there from the start.
    accounts: BTreeSet<Account>,
    /// How many tenants beyond those have series of each budget that is one for each tenant.
    limit: usize,
}

impl Told {
    pub(super) fn of(config: &Config) -> Self {
        let of_each = config.budgets.of_each_tenant();
        let known = of_each
            .flat_map(|budget| known_tenants(config).map(|tenant| Account { tenant, ..budget.clone() }));
        let accounts = config.budgets.named().cloned().chain(known).collect();
        Self { list: config.budgets.clone(), accounts, limit: config.tenants.limit }
    }

    /// Further tenants that have series of a budget for each tenant: those that have spent the most.
    fn further<'s>(
        &self,
        budget: &Account,
        spent: &'s BTreeMap<Account, u128>,
    ) -> impl Iterator<Item = (&'s Account, u128)> {
        let is_of = |account: &Account| {
            (&account.currency, account.period) == (&budget.currency, budget.period)
                && self.list.is_one_of_many(account)
                && !self.accounts.contains(account)
                && account.tenant.as_str().len() <= LONGEST_NAME
        };
        let of_it = spent.iter().filter(|(account, _)| is_of(account));
        let mut all: Vec<_> = of_it.map(|(account, pico)| (account, *pico)).collect();
        all.sort_by_key(|(_, pico)| std::cmp::Reverse(*pico));
        all.into_iter().take(self.limit)
    }
}

impl Metrics {
    /// The same, with what is spent of budgets.
    #[must_use]
    pub fn with_budgets(self, spent: Arc<Budgets>) -> Self {
        Self { spent: Some(spent), ..self }
    }

    /// Of every budget its amount, or what is spent of it.
    pub(super) fn budgets(&self, id: Id) -> Vec<(Key, f64)> {
        let spent = self.spent.as_ref().map(|budgets| budgets.spent()).unwrap_or_default();
        let settings = self.settings.read();
        let told = &settings.budgets;
        let of_account = |account: &Account| spent.get(account).copied().unwrap_or(0);
        let mut all: BTreeMap<Account, u128> =
            told.accounts.iter().map(|account| (account.clone(), of_account(account))).collect();
        for budget in told.list.of_each_tenant() {
            all.extend(told.further(budget, &spent).map(|(account, pico)| (account.clone(), pico)));
        }
        let value = |(account, spent): (Account, u128)| {
            let pico = if id == Id::Budget { told.list.amount(&account)? } else { spent };
            let key = [account.tenant, account.currency, Name::from(account.period.label())];
            Some((Key::from(key), units(pico, PICO)))
        };
        all.into_iter().filter_map(value).collect()
    }
}
