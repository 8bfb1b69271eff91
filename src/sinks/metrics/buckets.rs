//! The bucket bounds of every kind of histogram. A configuration may replace a histogram's list by name.

/// Which bounds a histogram has unless the configuration says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buckets {
    /// Waiting for something of an answer: 5 ms to 5 min.
    Wait,
    /// Between two tokens: 0.5 ms to 10 s.
    TokenTime,
    /// A whole exchange: 50 ms to 1 h.
    Duration,
    /// Making a connection: 0.5 ms to 10 s.
    Connect,
    /// Tokens per second: 1 to 1,000.
    TokensPerSecond,
    /// Tokens of one request: 1 to about a million, dense at the sizes that models are sold by.
    Tokens,
    /// What the sidecar itself costs: 10 µs to 250 ms.
    Overhead,
    /// Tokens of a minute: 100 to 100 million, three a decade.
    TokensPerMinute,
    /// One count over another: dense around 1.
    Ratio,
}

impl Buckets {
    /// The bounds, ascending, without +Inf.
    pub const fn bounds(self) -> &'static [f64] {
        match self {
            Self::Wait => &[
                0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0,
                4.5, 6.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0,
            ],
            Self::TokenTime => &[
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.08, 0.1,
                0.15, 0.175, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0,
            ],
            Self::Duration => &[
                0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0,
                600.0, 1200.0, 3600.0,
            ],
            Self::Connect => {
                &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]
            }
            Self::TokensPerSecond => &[
                1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 33.0, 40.0, 50.0, 60.0, 80.0, 90.0, 100.0,
                120.0, 150.0, 200.0, 300.0, 500.0, 1000.0,
            ],
            Self::Tokens => &[
                1.0,
                4.0,
                16.0,
                64.0,
                256.0,
                1_000.0,
                1_024.0,
                2_000.0,
                4_000.0,
                4_096.0,
                8_000.0,
                16_000.0,
                16_384.0,
                32_000.0,
                64_000.0,
                65_536.0,
                128_000.0,
                256_000.0,
                262_144.0,
                512_000.0,
                1_024_000.0,
                1_048_576.0,
            ],
            Self::Overhead => &[
                0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                0.1, 0.25,
            ],
            Self::TokensPerMinute => &[
                1e2, 2e2, 5e2, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2e7, 5e7, 1e8,
            ],
            Self::Ratio => &[
                0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.001, 1.005, 1.01, 1.02, 1.05, 1.1, 1.25,
                1.5, 2.0,
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_bounds_are_the_powers_of_four_and_the_thousands_doubled() {
        let fours = (0..=10).map(|n| 4f64.powi(n));
        let thousands = (0..=10).map(|n| 1_000.0 * 2f64.powi(n));
        let mut want: Vec<f64> = fours.chain(thousands).collect();
        want.sort_by(f64::total_cmp);
        assert_eq!(Buckets::Tokens.bounds(), want);
    }

    #[test]
    fn bounds_ascend() {
        use Buckets::*;
        let sizes = [Tokens, TokensPerSecond, TokensPerMinute, Ratio];
        for buckets in [Wait, TokenTime, Duration, Connect, Overhead].into_iter().chain(sizes) {
            assert!(buckets.bounds().is_sorted_by(|a, b| a < b), "{buckets:?}");
        }
    }
}
