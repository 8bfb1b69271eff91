//! What devices cost by the hour, used or not.

use std::time::Duration;

use crate::account::price::PICO;
use crate::exchange::Name;

/// The price of an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rent {
    /// Of all devices, in millionths of a millionth of the currency's unit.
    pub pico: u128,
    /// As ISO 4217 writes it.
    pub currency: Name,
}

/// What has been paid so far: prices of an hour times nanoseconds, so that nothing is rounded on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paid(u128);

const NANOSECONDS_AN_HOUR: u128 = 3_600_000_000_000;

impl Paid {
    /// Adds the rent of some time.
    pub fn add(&mut self, rent: &Rent, time: Duration) {
        self.0 = self.0.saturating_add(rent.pico.saturating_mul(time.as_nanos()));
    }

    /// In the currency's unit.
    pub fn units(self) -> f64 {
        self.0 as f64 / (PICO * NANOSECONDS_AN_HOUR) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_costs_24_hours_however_often_it_is_looked_at() {
        let rent = Rent { pico: 18 * PICO / 10, currency: Name::from("USD") };
        let mut paid = Paid::default();
        for _ in 0..86_400 {
            paid.add(&rent, Duration::from_secs(1));
        }
        assert_eq!(paid.units(), 43.2);
        paid.add(&rent, Duration::MAX);
        assert!(paid.units() > 1e10);
    }
}
