//! How dollars are written. They are counted in whole numbers, as `account::price` does.

use std::fmt;

use super::figures::whole;
use crate::account::price::{PICO, Rate};

/// Millionths of a millionth of a dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Money(u128);

/// A price for a million tokens.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    Rate::of_million(text).ok_or_else(|| {
        format!("`{text}` is no price for a million tokens; write it like 0.15, with six decimals at most")
    })
}

/// A price for a million tokens, with two decimals at least: `$0.90`.
pub(super) fn per_million(rate: Rate) -> String {
    let text = rate.to_string();
    let (dollars, decimals) = text.split_once('.').unwrap_or((&text, ""));
    let dollars = dollars.parse().map_or_else(|_| dollars.to_owned(), whole);
    format!("${dollars}.{decimals:0<2}")
}

impl Money {
    /// What so many tokens cost.
    pub(super) fn of(rate: Rate, tokens: u64) -> Self {
        Self(rate.of(tokens))
    }

    /// A share of it, rounded down.
    pub(super) const fn share(self, part: u128, whole: u128) -> Self {
        Self(self.0.saturating_mul(part) / whole)
    }

    /// The nearest double of the dollars.
    pub(super) fn dollars(self) -> f64 {
        self.0 as f64 / PICO as f64
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cents = (self.0 + PICO / 200) / (PICO / 100);
        if cents == 0 && self.0 > 0 {
            return f.pad("< $0.01");
        }
        f.pad(&format!("${}.{:02}", whole(cents / 100), cents % 100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_users_of_8b_and_70b() {
        for (price, day, month) in [("0.15", "$0.30", "$9.00"), ("0.90", "$1.80", "$54.00")] {
            let cost = |tokens| Money::of(rate(price).unwrap(), tokens).to_string();
            assert_eq!((cost(1000 * 2000), cost(30 * 1000 * 2000)), (day.to_owned(), month.to_owned()));
        }
    }

    #[test]
    fn prices_keep_every_digit() {
        for (text, want) in [
            ("0.15", "$0.15"),
            ("0.9", "$0.90"),
            ("2", "$2.00"),
            ("0.000001", "$0.000001"),
            ("1234.5", "$1,234.50"),
        ] {
            assert_eq!(per_million(rate(text).unwrap()), want);
        }
        assert!(rate("0.0000001").unwrap_err().contains("write it like 0.15"));
    }

    #[test]
    fn money_is_rounded_where_it_is_shown() {
        let cost = |tokens| Money::of(rate("0.15").unwrap(), tokens);
        assert_eq!(cost(33_333).to_string(), "< $0.01"); // half a cent less a little
        assert_eq!(cost(33_334).to_string(), "$0.01");
        assert_eq!(cost(0).to_string(), "$0.00");
        assert_eq!(cost(u64::MAX).share(30, 7).to_string(), "$11,858,621,190,241.85");
    }
}
