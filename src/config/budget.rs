//! What the file says of budgets.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{Error, Place};
use super::price::Currency;
use super::value::{Text, scalar};
use crate::account::budget::{Account, Budget, BudgetList, Period};
use crate::account::price::{PICO, amount};
use crate::account::quota::ALL;
use crate::exchange::Name;

/// `{tenant: support, period: month, amount: 500, currency: USD}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetEntry {
    #[serde(default = "all")]
    tenant: Text,
    period: PeriodEntry,
    amount: Amount,
    currency: Currency,
}

fn all() -> Text {
    Text(ALL.to_owned())
}

#[derive(Debug, Clone, Copy)]
struct PeriodEntry(Period);

impl<'de> Deserialize<'de> for PeriodEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let period = Period::ALL.into_iter().find(|period| period.label() == text);
            period.map(Self).ok_or_else(|| {
                let known = Period::ALL.map(Period::label).join(", ");
                format!("`{text}` is no period; these are: {known}")
            })
        })
    }
}

impl Serialize for PeriodEntry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.label())
    }
}

/// Amounts are below this many units: a sum of them fits with all its decimals.
const AMOUNT_LIMIT: u128 = 1_000_000_000_000_000;

/// In millionths of a millionth of the currency's unit.
#[derive(Debug, Clone, Copy)]
struct Amount(u128);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let pico = amount(text).filter(|pico| *pico < AMOUNT_LIMIT * PICO);
            match pico {
                Some(0) => Err("must be more than 0".to_owned()),
                Some(pico) => Ok(Self(pico)),
                None => Err(format!(
                    "`{text}` is no amount; write it like 500 or 99.95, in the currency's unit, with up to twelve decimals"
                )),
            }
        })
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = format!("{}.{:012}", self.0 / PICO, self.0 % PICO);
        to.serialize_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// The budgets of a file.
pub(super) fn resolve(entries: &[BudgetEntry]) -> Result<BudgetList, Error> {
    let mut budgets: Vec<Budget> = Vec::new();
    for (entry, index) in entries.iter().zip(0..) {
        let budget = entry.resolve();
        if budgets.iter().any(|other| other.account == budget.account) {
            let Account { tenant, currency, period } = &budget.account;
            let text = format!(
                "a second budget of `{tenant}` for the {} in {currency}; give each tenant, period and currency one amount",
                period.label()
            );
            return Err(Error::at(Place::new().key("budgets").index(index), text));
        }
        budgets.push(budget);
    }
    Ok(BudgetList(budgets))
}

impl BudgetEntry {
    fn resolve(&self) -> Budget {
        let currency = Name::from(self.currency.0.as_str());
        let account = Account { tenant: self.tenant.name(), currency, period: self.period.0 };
        Budget { account, amount: self.amount.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(budgets: &str) -> Result<Config, String> {
        let text = format!("upstream: http://u:1\nbudgets:\n  - {budgets}\n");
        Config::parse(&text, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn budgets_are_read_to_the_last_decimal_and_printed_so() {
        let text = "{tenant: a, period: month, amount: 500.000000000001, currency: USD}\n  - {period: hour, amount: 2, currency: EUR}";
        let config = parse(text).unwrap();
        let [first, second] = config.budgets.0.as_slice() else { panic!("two") };
        assert_eq!((first.account.tenant.as_str(), first.amount), ("a", 500 * PICO + 1));
        assert_eq!((second.account.tenant.as_str(), second.account.period), (ALL, Period::Hour));
        let printed = config.to_yaml();
        assert!(printed.contains("500.000000000001"), "{printed}");
        assert_eq!(Config::parse(&printed, &[]).unwrap().budgets, config.budgets);
    }

    #[test]
    fn a_currency_without_prices_is_known() {
        let models = "models: [{name: m, price: {currency: EUR, input: 1, output: 1}}]\n";
        let config = Config::parse(&format!("upstream: http://u:1\n{models}"), &[]).unwrap();
        let has = ["EUR", "USD"].map(|currency| config.models.has_prices_in(&Name::from(currency)));
        assert_eq!(has, [true, false]);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (budget, want) in [
            ("{amount: 1, currency: USD}", "3:5: budgets[0]: missing field `period`"),
            (
                "{period: year, amount: 1, currency: USD}",
                "3:14: budgets[0].period: `year` is no period; these are: hour, day, week, month",
            ),
            ("{period: day, amount: 0.00, currency: USD}", "3:27: budgets[0].amount: must be more than 0"),
            (
                "{period: day, amount: 1e3, currency: USD}",
                "3:27: budgets[0].amount: `1e3` is no amount; write it like 500 or 99.95",
            ),
            (
                "{period: day, amount: 1000000000000000, currency: USD}",
                "3:27: budgets[0].amount: `1000000000000000` is",
            ),
            ("{period: day, amount: 1, currency: usd}", "3:40: budgets[0].currency: `usd` is no currency"),
            (
                "{period: day, amount: 1, currency: USD}\n  - {tenant: '*', period: day, amount: 2, currency: USD}",
                "4:5: budgets[1]: a second budget of `*` for the day in USD; give each tenant, period",
            ),
        ] {
            let got = parse(budget).map(|_| ()).unwrap_err();
            assert!(got.starts_with(want), "{budget}\n got: {got}\nwant: {want}");
        }
    }
}
