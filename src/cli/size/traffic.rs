//! What traffic there was, as Prometheus has it.

use std::collections::BTreeMap;

use anyhow::bail;
use http::Uri;

use crate::cli::prometheus::{Prometheus, Series};

/// A model's tokens of the last days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traffic {
    /// The label.
    pub(super) model: String,
    pub(super) input: u64,
    pub(super) output: u64,
}

impl Traffic {
    /// Input and output.
    pub(super) const fn tokens(&self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

pub(super) const DAYS: u32 = 7;
const INPUT: &str = "streamgauge_input_tokens_total";
const OUTPUT: &str = "streamgauge_output_tokens_total";

/// Asks a Prometheus; the model with the most tokens first.
pub(super) fn ask(url: &Uri) -> anyhow::Result<Vec<Traffic>> {
    let prometheus = Prometheus::at(url)?;
    let grown = |counter: &str| {
        let series = prometheus.query(&format!("sum by (model) (increase({counter}[{DAYS}d]))"), None)?;
        anyhow::Ok(series.into_iter().filter_map(tokens).collect())
    };
    let traffic = together(grown(INPUT)?, grown(OUTPUT)?);
    if traffic.is_empty() {
        bail!(
            "{}: it has no {INPUT} and no {OUTPUT} of the last {DAYS} days; does it scrape a sidecar?",
            prometheus.name()
        );
    }
    Ok(traffic)
}

/// A model and its tokens. `increase` extrapolates, so they are rounded.
fn tokens(mut series: Series) -> Option<(String, u64)> {
    let (_, grown) = series.values.first().filter(|(_, grown)| *grown >= 0.5)?;
    let model = series.metric.remove("model").unwrap_or_else(|| "unknown".to_owned());
    Some((model, grown.round() as u64))
}

fn together(input: Vec<(String, u64)>, output: Vec<(String, u64)>) -> Vec<Traffic> {
    let mut models: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (model, tokens) in input {
        models.entry(model).or_default().0 += tokens;
    }
    for (model, tokens) in output {
        models.entry(model).or_default().1 += tokens;
    }
    let mut traffic: Vec<_> =
        models.into_iter().map(|(model, (input, output))| Traffic { model, input, output }).collect();
    traffic.sort_by_key(|traffic| std::cmp::Reverse(traffic.tokens()));
    traffic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_whole_and_nothing_is_none() {
        let series = |model: Option<&str>, value| Series {
            metric: model.map(|model| ("model".to_owned(), model.to_owned())).into_iter().collect(),
            values: vec![(1_700_000_000.1, value)],
        };
        assert_eq!(tokens(series(Some("a"), 1234.6)), Some(("a".to_owned(), 1235)));
        assert_eq!(tokens(series(None, 7.0)), Some(("unknown".to_owned(), 7)));
        assert_eq!(tokens(series(Some("idle"), 0.0)), None);
        assert_eq!(tokens(series(Some("odd"), f64::NAN)), None);
    }

    #[test]
    fn the_busiest_model_comes_first() {
        let of = |model: &str, tokens| (model.to_owned(), tokens);
        let traffic = together(vec![of("a", 1), of("b", 5)], vec![of("c", 9), of("b", 5)]);
        let models: Vec<_> = traffic.iter().map(|it| (it.model.as_str(), it.input, it.output)).collect();
        assert_eq!(models, [("b", 5, 5), ("c", 0, 9), ("a", 1, 0)]);
    }
}
