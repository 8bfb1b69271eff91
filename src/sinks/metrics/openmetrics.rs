//! The OpenMetrics 1.0 text format, with exemplars. The older text format is the prometheus crate's.
//!
//! Differences that matter: a counter's family has no `_total` in its name, the bounds of buckets are written
//! as floats (`le="1.0"`), and the page ends with a mark, so that half a page is known to be half.
//! Format: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::fmt::{self, Display, Formatter, Write as _};
use std::time::SystemTime;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::family::{Block, Exemplar, Exemplars};

/// A page of these metrics.
pub(super) fn encode(blocks: &[Block]) -> String {
    let mut page = String::new();
    for block in blocks {
        encode_block(&mut page, block);
    }
    page.push_str("# EOF\n");
    page
}

fn encode_block(page: &mut String, block: &Block) {
    let family = &block.family;
    let full = family.name();
    let (name, kind) = match family.get_field_type() {
        MetricType::COUNTER => (full.strip_suffix("_total").unwrap_or(full), "counter"),
        MetricType::HISTOGRAM => (full, "histogram"),
        MetricType::GAUGE => (full, "gauge"),
        MetricType::SUMMARY | MetricType::UNTYPED => return, // no metric of ours, nor of the process collector
    };
    line(page, format_args!("# HELP {name} {}", Escaped(family.help())));
    line(page, format_args!("# TYPE {name} {kind}"));
    for (metric, exemplars) in family.get_metric().iter().zip(&block.exemplars) {
        encode_metric(page, family, name, metric, exemplars);
    }
}

fn encode_metric(
    page: &mut String,
    family: &MetricFamily,
    name: &str,
    metric: &Metric,
    exemplars: &Exemplars,
) {
    let labels = Labels { pairs: metric.get_label(), le: None };
    match family.get_field_type() {
        MetricType::COUNTER => {
            line(page, format_args!("{name}_total{labels} {}", Number(metric.get_counter().get_value())));
        }
        MetricType::HISTOGRAM => encode_histogram(page, name, metric, exemplars),
        _ => line(page, format_args!("{name}{labels} {}", Number(metric.get_gauge().get_value()))),
    }
}

fn encode_histogram(page: &mut String, name: &str, metric: &Metric, exemplars: &Exemplars) {
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    let finite =
        histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    for (place, (bound, below)) in finite.chain([(f64::INFINITY, count)]).enumerate() {
        let labels = Labels { pairs: metric.get_label(), le: Some(bound) };
        let _ = write!(page, "{name}_bucket{labels} {below}"); // writing to a String cannot fail
        if let Some((_, exemplar)) = exemplars.iter().find(|(of, _)| *of == place) {
            let _ = write!(page, "{exemplar}");
        }
        page.push('\n');
    }
    let labels = Labels { pairs: metric.get_label(), le: None };
    line(page, format_args!("{name}_sum{labels} {}", Number(histogram.get_sample_sum())));
    line(page, format_args!("{name}_count{labels} {count}"));
}

fn line(page: &mut String, text: fmt::Arguments<'_>) {
    let _ = page.write_fmt(text); // writing to a String cannot fail
    page.push('\n');
}

/// Labels in braces; nothing where there are none.
struct Labels<'a> {
    pairs: &'a [LabelPair],
    le: Option<f64>,
}

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut before = '{';
        for pair in self.pairs {
            write!(f, "{before}{}=\"{}\"", pair.name(), Escaped(pair.value()))?;
            before = ',';
        }
        if let Some(bound) = self.le {
            write!(f, "{before}le=\"{}\"", Bound(bound))?;
            before = ',';
        }
        if before == ',' { f.write_char('}') } else { Ok(()) }
    }
}

impl Display for Exemplar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(" # {")?;
        for (place, (name, value)) in self.labels.iter().flatten().enumerate() {
            let before = if place > 0 { "," } else { "" };
            write!(f, "{before}{name}=\"{}\"", Escaped(value.as_str()))?;
        }
        let at = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        write!(f, "}} {} {:.3}", Number(self.value), at.as_secs_f64())
    }
}

/// A label's value, or a help text.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for piece in self.0.split_inclusive(['\\', '"', '\n']) {
            let (text, escape) = match piece.chars().next_back() {
                Some('\\') => (piece.strip_suffix('\\'), "\\\\"),
                Some('"') => (piece.strip_suffix('"'), "\\\""),
                Some('\n') => (piece.strip_suffix('\n'), "\\n"),
                _ => (None, ""),
            };
            f.write_str(text.unwrap_or(piece))?;
            f.write_str(escape)?;
        }
        Ok(())
    }
}

/// A sample's value.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_finite() || self.0.is_nan() {
            write!(f, "{}", self.0)
        } else {
            f.write_str(if self.0 > 0.0 { "+Inf" } else { "-Inf" })
        }
    }
}

/// The bound of a bucket in the one spelling that OpenMetrics wants (Go's `%g` with a point): a string that
/// differs from another exposer's is another series.
struct Bound(f64);

impl Display for Bound {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.0.is_finite() {
            return Number(self.0).fmt(f);
        }
        let scientific = format!("{:e}", self.0);
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        match exponent.parse::<i32>() {
            Ok(exponent) if !(-4..6).contains(&exponent) => write!(f, "{digits}e{exponent:+03}"),
            _ if self.0.fract() == 0.0 => write!(f, "{:.1}", self.0),
            _ => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_spelled_as_the_specification_spells_them() {
        for (bound, want) in [
            (1.0, "1.0"),
            (0.25, "0.25"),
            (0.00001, "1e-05"),
            (0.000025, "2.5e-05"),
            (0.0001, "0.0001"),
            (1_000.0, "1000.0"),
            (512_000.0, "512000.0"),
            (1_024_000.0, "1.024e+06"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(Bound(bound).to_string(), want);
        }
    }

    #[test]
    fn what_would_end_a_value_is_escaped() {
        assert_eq!(Escaped("a\"b\\c\nd").to_string(), r#"a\"b\\c\nd"#);
        assert_eq!(Escaped("\n\n").to_string(), r"\n\n");
        assert_eq!(Escaped("plain, {ü}").to_string(), "plain, {ü}");
        assert_eq!(Escaped("").to_string(), "");
    }
}
