//! A page as text: Prometheus text 0.0.4, or OpenMetrics 1.0 with exemplars. Labels and bounds are put into words once
//! for a series and a metric, not for each bucket: a page of thousands of series takes a core for milliseconds, and on a
//! small machine that is the traffic's core.
//!
//! Where OpenMetrics differs: a counter's family has no `_total` in its name, the bounds of buckets are written as
//! floats (`le="1.0"`), and the page ends with a mark, so that half a page is known to be half.
//! Formats: <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::fmt::{self, Display, Formatter, Write as _};
use std::time::SystemTime;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::family::{Block, Exemplar, Exemplars};
use super::format::Format;

/// A page of these metrics.
pub(super) fn page(blocks: &[Block], format: Format) -> String {
    let mut page = Page { text: String::new(), labels: String::new(), format };
    blocks.iter().for_each(|block| page.block(block));
    if page.is_open() {
        page.text.push_str("# EOF\n");
    }
    page.text
}

struct Page {
    text: String,
    /// Those of the series that is being written, as they stand between braces.
    labels: String,
    format: Format,
}

impl Page {
    fn is_open(&self) -> bool {
        self.format == Format::OpenMetrics100
    }

    fn block(&mut self, block: &Block) {
        let family = &block.family;
        let full = family.name();
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            MetricType::GAUGE => "gauge",
            MetricType::SUMMARY | MetricType::UNTYPED => return, // no metric of ours, nor of the process collector
        };
        let is_short = self.is_open() && kind == "counter";
        let name = full.strip_suffix("_total").filter(|_| is_short).unwrap_or(full);
        let help = Escaped { text: family.help(), quotes: self.is_open() };
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        let total = if is_short { "_total" } else { "" };
        let bounds = self.bounds(family);
        for (metric, exemplars) in family.get_metric().iter().zip(&block.exemplars) {
            self.take_labels(metric.get_label());
            match family.get_field_type() {
                MetricType::COUNTER => self.sample(name, total, metric.get_counter().get_value()),
                MetricType::HISTOGRAM => self.histogram(name, &bounds, metric, exemplars),
                _ => self.sample(name, "", metric.get_gauge().get_value()),
            }
        }
    }

    /// The bounds of a histogram's buckets, which all its series have.
    fn bounds(&self, family: &MetricFamily) -> Vec<String> {
        let first = family.get_metric().first().map(|metric| metric.get_histogram().get_bucket());
        let finite = first.into_iter().flatten().map(|bucket| bucket.upper_bound());
        let spelled =
            |bound| if self.is_open() { Bound(bound).to_string() } else { Number(bound).to_string() };
        finite.chain([f64::INFINITY]).map(spelled).collect()
    }

    fn take_labels(&mut self, pairs: &[LabelPair]) {
        self.labels.clear();
        for pair in pairs {
            let before = if self.labels.is_empty() { "" } else { "," };
            let value = Escaped { text: pair.value(), quotes: true };
            let _ = write!(self.labels, "{before}{}=\"{value}\"", pair.name()); // writing to a String cannot fail
        }
    }

    fn histogram(&mut self, name: &str, bounds: &[String], metric: &Metric, exemplars: &Exemplars) {
        let histogram = metric.get_histogram();
        let count = histogram.get_sample_count();
        let finite = histogram.get_bucket().iter().map(|bucket| bucket.cumulative_count());
        for (place, (below, bound)) in finite.chain([count]).zip(bounds).enumerate() {
            let comma = if self.labels.is_empty() { "" } else { "," };
            let pieces = [name, "_bucket{", &self.labels, comma, "le=\"", bound, "\"} "];
            pieces.into_iter().for_each(|piece| self.text.push_str(piece));
            let _ = write!(self.text, "{below}"); // writing to a String cannot fail
            if let Some((_, exemplar)) = exemplars.iter().find(|(of, _)| *of == place && self.is_open()) {
                let _ = write!(self.text, "{exemplar}");
            }
            self.text.push('\n');
        }
        self.sample(name, "_sum", histogram.get_sample_sum());
        self.sample(name, "_count", count as f64);
    }

    fn sample(&mut self, name: &str, suffix: &str, value: f64) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        if !self.labels.is_empty() {
            let pieces = ["{", &self.labels, "}"];
            pieces.into_iter().for_each(|piece| self.text.push_str(piece));
        }
        self.line(format_args!(" {}", Number(value)));
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        let _ = self.text.write_fmt(text); // writing to a String cannot fail
        self.text.push('\n');
    }
}

impl Display for Exemplar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(" # {")?;
        for (place, (name, value)) in self.labels.iter().flatten().enumerate() {
            let before = if place > 0 { "," } else { "" };
            write!(f, "{before}{name}=\"{}\"", Escaped { text: value.as_str(), quotes: true })?;
        }
        let at = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        write!(f, "}} {} {:.3}", Number(self.value), at.as_secs_f64())
    }
}

/// A label's value, or a help text, in which text 0.0.4 leaves quotes as they are.
struct Escaped<'a> {
    text: &'a str,
    quotes: bool,
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let escape = |character| match character {
            '\\' => Some("\\\\"),
            '\n' => Some("\\n"),
            '"' if self.quotes => Some("\\\""),
            _ => None,
        };
        for piece in self.text.split_inclusive(|character| escape(character).is_some()) {
            match piece.char_indices().next_back() {
                Some((at, last)) if escape(last).is_some() => {
                    f.write_str(piece.get(..at).unwrap_or_default())?;
                    f.write_str(escape(last).unwrap_or_default())?;
                }
                _ => f.write_str(piece)?,
            }
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
        let escaped = |text, quotes| Escaped { text, quotes }.to_string();
        assert_eq!(escaped("a\"b\\c\nd", true), r#"a\"b\\c\nd"#);
        assert_eq!(escaped("a\"b\\c\nd", false), r#"a"b\\c\nd"#);
        assert_eq!(escaped("\n\n", true), r"\n\n");
        assert_eq!(escaped("plain, {ü}", true), "plain, {ü}");
        assert_eq!(escaped("", true), "");
    }
}
