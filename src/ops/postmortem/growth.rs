//! What counters grew by from one scrape to the next: the samples as they were scraped, not a rate over a window, which
//! would smear the moment at which something began. Knows no metric.

use std::collections::BTreeMap;

use super::Series;

/// What a counter grew by between two scrapes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// The scrape before.
    pub after: f64,
    /// The scrape that showed it.
    pub at: f64,
    /// By how much.
    pub by: f64,
}

/// When each instance was scraped, and how often.
#[derive(Debug, Clone, Default)]
pub struct Scrapes {
    by_instance: BTreeMap<(String, String), Vec<f64>>,
    /// The usual distance between two, in seconds: the median.
    pub interval: f64,
}

impl Scrapes {
    /// From a series that every scrape has, such as `streamgauge_build_info`.
    pub fn of(series: &[Series]) -> Self {
        let mut by_instance: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for one in series {
            by_instance.entry(instance(one)).or_default().extend(one.points.iter().map(|(at, _)| *at));
        }
        let mut gaps = Vec::new();
        for times in by_instance.values_mut() {
            times.sort_by(f64::total_cmp);
            times.dedup();
            gaps.extend(times.windows(2).filter_map(|pair| Some(pair.last()? - pair.first()?)));
        }
        gaps.sort_by(f64::total_cmp);
        let interval = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
        Self { by_instance, interval }
    }

    /// Whether there was any.
    pub fn is_empty(&self) -> bool {
        self.by_instance.is_empty()
    }

    /// How many instances were scraped.
    pub fn instances(&self) -> usize {
        self.by_instance.len()
    }

    /// The last of all.
    pub fn last(&self) -> Option<f64> {
        self.by_instance.values().filter_map(|times| times.last().copied()).max_by(f64::total_cmp)
    }

    /// The first of all.
    pub fn first(&self) -> Option<f64> {
        self.by_instance.values().filter_map(|times| times.first().copied()).min_by(f64::total_cmp)
    }

    /// The scrape of the same instance before this one.
    fn before(&self, of: &Series, at: f64) -> Option<f64> {
        let times = self.by_instance.get(&instance(of))?;
        let next = times.partition_point(|time| *time < at);
        times.get(next.checked_sub(1)?).copied()
    }

    /// What a counter grew by, scrape by scrape, without the scrapes at which it did not. A counter that falls has begun
    /// anew from 0. One that appears on a page that was scraped before without it has grown from 0, too; on the first page
    /// of all nobody knows what it was before.
    pub fn growth(&self, counter: &Series) -> Vec<Growth> {
        let mut grown = Vec::new();
        let mut last: Option<(f64, f64)> = None;
        for (at, value) in counter.points.iter().copied().filter(|(_, value)| value.is_finite()) {
            let (after, by) = match last {
                Some((after, before)) if value >= before => (after, value - before),
                Some((after, _)) => (after, value),
                None => match self.before(counter, at) {
                    Some(after) => (after, value),
                    None => (at, 0.0),
                },
            };
            if by > 0.0 {
                grown.push(Growth { after, at, by });
            }
            last = Some((at, value));
        }
        grown
    }
}

fn instance(of: &Series) -> (String, String) {
    (of.label("job").to_owned(), of.label("instance").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        let labels = BTreeMap::from([("instance".to_owned(), "a".to_owned())]);
        Series { labels, points: points.to_vec() }
    }

    fn grown(counter: &[(f64, f64)]) -> Vec<(f64, f64, f64)> {
        let scrapes =
            Scrapes::of(&[series(&[(10.0, 1.0), (15.0, 1.0), (20.0, 1.0), (25.0, 1.0), (90.0, 1.0)])]);
        assert_eq!(scrapes.interval, 5.0, "the median: an outage is none");
        scrapes.growth(&series(counter)).iter().map(|one| (one.after, one.at, one.by)).collect()
    }

    #[test]
    fn what_grows_is_told_with_the_scrapes_around_it() {
        assert_eq!(grown(&[(10.0, 3.0), (15.0, 3.0), (20.0, 5.0)]), [(15.0, 20.0, 2.0)]);
    }

    #[test]
    fn a_restart_begins_at_nothing() {
        assert_eq!(grown(&[(10.0, 3.0), (15.0, 1.0)]), [(10.0, 15.0, 1.0)]);
    }

    #[test]
    fn a_counter_that_appears_has_grown_from_nothing_but_on_the_first_page() {
        assert_eq!(grown(&[(20.0, 2.0), (25.0, 3.0)]), [(15.0, 20.0, 2.0), (20.0, 25.0, 1.0)]);
        assert_eq!(grown(&[(10.0, 2.0)]), []);
    }

    #[test]
    fn no_number_is_no_growth() {
        assert_eq!(grown(&[(10.0, 1.0), (15.0, f64::NAN), (20.0, 2.0)]), [(10.0, 20.0, 1.0)]);
    }
}
