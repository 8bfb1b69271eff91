//! What the time to the first token is made of, before an incident and in it.
//!
//! The sidecar cannot look into the upstream: what it waited for there is split by what prompts of the same lengths took
//! before. What longer prompts explain is theirs; what came on top within each band of lengths is the queue, or an
//! upstream that has become slower, which [`super::cause`] tells apart where it can.

use std::collections::BTreeMap;

use super::Series;
use super::measures::Measures;

/// A part of the time, in mean seconds for each request.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What takes it.
    pub name: &'static str,
    /// How it is known.
    pub how: &'static str,
    /// Before the incident.
    pub before: Option<f64>,
    /// In it.
    pub during: Option<f64>,
}

/// All parts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Anatomy {
    /// The mean time to the first token before.
    pub before: Option<f64>,
    /// And in the incident.
    pub during: Option<f64>,
    /// What the sidecar itself added to it.
    pub sidecar: f64,
    /// What limits of ours added.
    pub held: f64,
    /// What connecting added.
    pub connect: f64,
    /// What longer prompts added.
    pub prompts: f64,
    /// What else the upstream added.
    pub rest: f64,
    /// The parts, in the order of a request; the last is decoding, which comes after the first token.
    pub parts: Vec<Part>,
}

/// What the parts before this one add up to.
pub const TTFT: &str = "time to first token";

/// Fewer first tokens of a band make no mean.
const ENOUGH: f64 = 5.0;

/// A number before an incident and in it.
type Pair = (Option<f64>, Option<f64>);

/// Of the time before, where there is any, and of the incident.
pub fn anatomy(before: Option<&Measures>, during: &Measures) -> Anatomy {
    let ttft = (before.and_then(Measures::ttft_mean), during.ttft_mean());
    let pair = |of: fn(&Measures) -> Option<f64>| (before.and_then(of), of(during));
    let (sidecar, held, connect) = (pair(sidecar), pair(held), pair(connect));
    let grown = |(before, during): Pair| match before {
        Some(before) => during.unwrap_or_default() - before,
        None => 0.0,
    };
    let own =
        |side: fn(Pair) -> Option<f64>| [sidecar, held, connect].into_iter().filter_map(side).sum::<f64>();
    let (own_before, own_during) = (own(|pair| pair.0), own(|pair| pair.1));
    let upstream_before = ttft.0.map(|ttft| (ttft - own_before).max(0.0));
    // Without a time before, nothing of the upstream's can be told apart.
    let expected = before.and_then(|before| expected(before, during));
    let prompts = expected.map(|expected| (expected - own_before).max(0.0));
    let prompts = prompts.zip(ttft.1).map(|(prompts, ttft)| prompts.min((ttft - own_during).max(0.0)));
    let rest = ttft.1.zip(prompts).map(|(ttft, prompts)| (ttft - own_during - prompts).max(0.0));
    let untold = ttft.1.filter(|_| prompts.is_none()).map(|ttft| (ttft - own_during).max(0.0));
    let part = |name, how, (before, during)| Part { name, how, before, during };
    let mut parts = vec![
        part("sidecar", "measured", sidecar),
        part("held by our limits", "measured", held),
        part("connecting", "measured; new connections, spread over all requests", connect),
    ];
    if untold.is_some() {
        parts.push(part("upstream", "the rest; there is no time before to tell it apart by", (None, untold)));
    } else {
        parts.push(part(
            "network and prefill",
            "before: all that the upstream took; in the incident: what prompts of these lengths took before",
            (upstream_before, prompts),
        ));
        parts.push(part("upstream queue and all else on top", "the rest", (None, rest)));
    }
    parts.push(part(TTFT, "measured, mean", ttft));
    parts.push(part(
        "decode, after the first token",
        "mean duration of completed streams less the above",
        pair(decode),
    ));
    Anatomy {
        before: ttft.0,
        during: ttft.1,
        sidecar: grown(sidecar),
        held: grown(held),
        connect: grown(connect),
        prompts: prompts.zip(upstream_before).map_or(0.0, |(during, before)| during - before),
        rest: rest.unwrap_or_default(),
        parts,
    }
}

fn sidecar(measures: &Measures) -> Option<f64> {
    let request = |series: &Series| series.label("phase") == "request";
    let count = measures.sum_where("overhead_count", request);
    (count > 0.0).then(|| measures.sum_where("overhead_sum", request) / count)
}

fn held(measures: &Measures) -> Option<f64> {
    per_request(measures, "held_sum")
}

fn connect(measures: &Measures) -> Option<f64> {
    per_request(measures, "connect_sum")
}

fn per_request(measures: &Measures, sum: &str) -> Option<f64> {
    let requests = measures.ended(|_| true);
    Some(measures.total(sum)? / requests).filter(|mean| mean.is_finite())
}

/// How long a completed stream took after its first token.
pub fn decode(measures: &Measures) -> Option<f64> {
    let whole = measures.mean("duration_sum", "duration_count")?;
    Some((whole - measures.ttft_mean()?).max(0.0))
}

/// First tokens by band: how many, and the sum of their times.
fn bands(measures: &Measures) -> BTreeMap<String, (f64, f64)> {
    let mut bands: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for (band, sum) in measures.by("ttft_sum", "input_band") {
        let count = measures.histogram("ttft", |series| series.label("input_band") == band).count();
        if count > 0.0 {
            bands.insert(band, (count, sum));
        }
    }
    bands
}

/// The mean that the incident's prompts would have had at the speed of before. Of bands that there were none of before,
/// what they took less what the others took longer than before.
fn expected(before: &Measures, during: &Measures) -> Option<f64> {
    let (before, during) = (bands(before), bands(during));
    let mean = |band: &str| before.get(band).filter(|own| own.0 >= ENOUGH).map(|(count, sum)| sum / count);
    let all: f64 = during.values().map(|(count, _)| count).sum();
    let known = || during.iter().filter_map(|(band, own)| Some((own, mean(band)?)));
    let known_count: f64 = known().map(|((count, _), _)| count).sum();
    let longer: f64 = known().map(|((count, sum), mean)| sum - mean * count).sum();
    let longer = if known_count > 0.0 { (longer / known_count).max(0.0) } else { 0.0 };
    if all <= 0.0 || before.is_empty() {
        return None;
    }
    let sum = during.iter().map(|(band, (count, sum))| match mean(band) {
        Some(mean) => mean * count,
        None => (sum - longer * count).max(0.0),
    });
    Some(sum.sum::<f64>() / all)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Span;
    use super::*;

    /// Measures of a minute, from first tokens by band: how many, and seconds each.
    pub(in super::super) fn measures(bands: &[(&str, f64, f64)]) -> Measures {
        let mut measures = Measures::new(Span { begin: 0.0, end: 60.0 });
        let series = |labels: &[(&str, &str)], value: f64| Series {
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            points: vec![(60.0, value)],
        };
        let mut buckets = Vec::new();
        for (band, count, each) in bands {
            for bound in ["0.1", "0.3", "1", "3", "10", "+Inf"] {
                let below = if *each <= bound.parse::<f64>().unwrap() { *count } else { 0.0 };
                buckets.push(series(&[("input_band", band), ("le", bound)], below));
            }
        }
        measures.take("ttft", buckets);
        let sums = bands.iter().map(|(band, count, each)| series(&[("input_band", band)], count * each));
        measures.take("ttft_sum", sums.collect());
        let all: f64 = bands.iter().map(|(_, count, _)| count).sum();
        let ended = [("tenant", "web"), ("model", "m"), ("outcome", "completed"), ("code", "200")];
        measures.take("requests", vec![series(&ended, all)]);
        measures.take("started", vec![series(&[], all)]);
        measures
    }

    fn rises(before: &[(&str, f64, f64)], during: &[(&str, f64, f64)]) -> (f64, f64) {
        let found = anatomy(Some(&measures(before)), &measures(during));
        let rounded = |value: f64| (value * 1e6).round() / 1e6;
        (rounded(found.prompts), rounded(found.rest))
    }

    #[test]
    fn longer_prompts_are_told_from_what_comes_on_top() {
        let usual = [("le_1k", 100.0, 0.1), ("le_32k", 10.0, 1.2)];
        assert_eq!(
            rises(&usual, &[("le_1k", 100.0, 0.9), ("le_32k", 10.0, 2.0)]),
            (0.0, 0.8),
            "in every band"
        );
        assert_eq!(rises(&usual, &[("le_1k", 10.0, 0.1), ("le_32k", 100.0, 1.2)]), (0.9, 0.0), "the mix");
    }

    #[test]
    fn a_band_that_is_new_took_what_it_took_less_what_all_wait_for() {
        let usual = [("le_1k", 100.0, 0.1)];
        assert_eq!(rises(&usual, &[("le_32k", 100.0, 1.1)]), (1.0, 0.0));
        assert_eq!(rises(&usual, &[("le_1k", 50.0, 0.5), ("le_32k", 50.0, 1.5)]), (0.5, 0.4));
    }

    #[test]
    fn without_a_time_before_nothing_is_told_apart() {
        let found = anatomy(None, &measures(&[("le_1k", 100.0, 0.9)]));
        assert_eq!((found.before, found.rest), (None, 0.0));
        let names: Vec<_> = found.parts.iter().map(|part| part.name).collect();
        assert_eq!(names[3..5], ["upstream", TTFT]);
        assert!((found.during.unwrap() - 0.9).abs() < 1e-9);
        let all: f64 = found.parts[..4].iter().filter_map(|part| part.during).sum();
        assert!((all - 0.9).abs() < 1e-9, "the parts are the whole");
    }
}
