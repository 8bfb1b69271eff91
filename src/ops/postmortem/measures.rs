//! Numbers out of what Prometheus answered about a span. What was not there is no number, never 0.

use std::collections::BTreeMap;

use super::{Series, Span};

/// The answers about a span, by the names of the questions.
#[derive(Debug, Clone, Default)]
pub struct Measures {
    /// Of what time.
    pub span: Span,
    answers: BTreeMap<&'static str, Vec<Series>>,
}

impl Measures {
    /// Nothing asked yet.
    pub fn new(span: Span) -> Self {
        Self { span, answers: BTreeMap::new() }
    }

    /// Takes an answer.
    pub fn take(&mut self, name: &'static str, answer: Vec<Series>) {
        self.answers.insert(name, answer);
    }

    /// The series of an answer.
    pub fn series(&self, name: &str) -> &[Series] {
        self.answers.get(name).map_or(&[], Vec::as_slice)
    }

    /// The sum of an answer's series.
    pub fn total(&self, name: &str) -> Option<f64> {
        let mut values = self.series(name).iter().filter_map(Series::value).peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// The sum of those that a rule takes; 0 where there is none.
    pub fn sum_where(&self, name: &str, takes: impl Fn(&Series) -> bool) -> f64 {
        self.series(name).iter().filter(|one| takes(one)).filter_map(Series::value).sum()
    }

    /// The sums by a label's value, the largest first.
    pub fn by(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for series in self.series(name) {
            *sums.entry(series.label(label)).or_default() += series.value().unwrap_or_default();
        }
        let mut sums: Vec<_> =
            sums.into_iter().filter(|(_, sum)| *sum > 0.0).map(|(of, sum)| (of.to_owned(), sum)).collect();
        sums.sort_by(|one, other| other.1.total_cmp(&one.1));
        sums
    }

    /// A sum divided by a count.
    pub fn mean(&self, sum: &str, count: &str) -> Option<f64> {
        let count = self.total(count).filter(|count| *count > 0.0)?;
        Some(self.total(sum)? / count)
    }

    /// So many a second.
    pub fn rate(&self, name: &str) -> Option<f64> {
        Some(self.total(name)? / self.span.seconds()).filter(|rate| rate.is_finite())
    }

    /// A histogram, of all series that a rule takes.
    pub fn histogram(&self, name: &str, takes: impl Fn(&Series) -> bool) -> Histogram {
        let mut counts: BTreeMap<u64, f64> = BTreeMap::new();
        for series in self.series(name).iter().filter(|one| takes(one)) {
            let bound = series.label("le").parse::<f64>().ok().filter(|bound| *bound >= 0.0);
            if let (Some(bound), Some(count)) = (bound, series.value()) {
                *counts.entry(bound.to_bits()).or_default() += count; // bounds are not negative: they order like their bits
            }
        }
        Histogram(counts.into_iter().map(|(bound, count)| (f64::from_bits(bound), count)).collect())
    }

    /// First tokens: all of them.
    pub fn ttft(&self) -> Histogram {
        self.histogram("ttft", |_| true)
    }

    /// The mean time to the first token.
    pub fn ttft_mean(&self) -> Option<f64> {
        let count = self.ttft().count();
        Some(self.total("ttft_sum")? / count).filter(|mean| mean.is_finite())
    }

    /// Seconds a token, while streams decode.
    pub fn tpot_mean(&self) -> Option<f64> {
        let count = self.histogram("tpot", |_| true).count();
        Some(self.total("tpot_sum")? / count).filter(|mean| mean.is_finite())
    }

    /// Requests that ended, by a rule.
    pub fn ended(&self, takes: impl Fn(&Series) -> bool) -> f64 {
        self.sum_where("requests", takes)
    }
}

/// A cumulative histogram: upper bounds, and how many are not above them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    /// How many there are.
    pub fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// How many are above a bound: exactly, where it is one of a bucket; else none is told.
    pub fn above(&self, bound: f64) -> Option<f64> {
        let close = |own: f64| (own - bound).abs() <= bound.abs() * 1e-9;
        let (_, below) = self.0.iter().find(|(own, _)| close(*own))?;
        Some(self.count() - below)
    }

    /// A quantile, interpolated in its bucket as Prometheus does; of the last bucket its lower bound.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = self.count() * share;
        if self.count() <= 0.0 {
            return None;
        }
        let mut lower = (0.0, 0.0);
        for (bound, count) in self.0.iter().copied() {
            if count >= rank {
                if bound.is_infinite() {
                    return Some(lower.0);
                }
                let inside = (rank - lower.1) / (count - lower.1);
                return Some(lower.0 + (bound - lower.0) * if inside.is_finite() { inside } else { 0.0 });
            }
            lower = (bound, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram() -> Histogram {
        Histogram(vec![(0.1, 10.0), (0.3, 30.0), (1.0, 39.0), (f64::INFINITY, 40.0)])
    }

    #[test]
    fn quantiles_are_prometheus_own() {
        let histogram = histogram();
        let close = |share, expected: f64| (histogram.quantile(share).unwrap() - expected).abs() < 1e-9;
        assert!(close(0.5, 0.2) && close(0.25, 0.1) && close(0.9, 0.3 + 0.7 * 6.0 / 9.0) && close(1.0, 1.0));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn what_is_above_is_told_at_bounds_only() {
        assert_eq!(histogram().above(0.3), Some(10.0));
        assert_eq!(histogram().above(0.25), None);
    }

    #[test]
    fn what_was_not_there_is_no_number() {
        let mut measures = Measures::new(Span { begin: 0.0, end: 10.0 });
        assert_eq!((measures.total("input"), measures.mean("ttfb_sum", "ttfb_count")), (None, None));
        measures.take("input", vec![Series { points: vec![(10.0, 5.0)], ..Series::default() }]);
        assert_eq!((measures.total("input"), measures.rate("input")), (Some(5.0), Some(0.5)));
    }
}
