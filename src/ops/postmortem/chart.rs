//! Charts as inline SVG: lines over time, with the incident's and the alerts' spans shaded, and bars of what a time is
//! made of. Colours are classes of the page's style sheet; every line has a dash of its own, for print and for who does
//! not tell colours.

use std::fmt::Write as _;

use super::Span;
use super::html::escape;
use super::text::{clock, digits, seconds};

/// A chart that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// What it shows.
    pub title: String,
    /// The unit of its values.
    pub unit: String,
    /// How it is to be read.
    pub caption: String,
    /// What it means where there is nothing to show.
    pub empty: String,
    /// Lines: the legend, and their points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
    /// The time that it shows.
    pub span: Span,
    /// The distance of two points; a larger one is a gap.
    pub step: f64,
    /// The incident.
    pub incident: Option<Span>,
    /// Alerts that fired.
    pub alerts: Vec<Span>,
    /// What a value is to stay below: an objective's threshold.
    pub threshold: Option<f64>,
}

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;
/// Lines that can be told from each other.
pub const LINES: usize = 6;

impl Lines {
    /// Whether there is a value at all.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|(_, points)| points.iter().all(|(_, value)| !value.is_finite()))
    }

    fn top(&self) -> f64 {
        let values = self.lines.iter().flat_map(|(_, points)| points).map(|(_, value)| *value);
        let highest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        // A threshold far above all values would flatten them.
        let threshold = self.threshold.filter(|own| *own < 3.0 * highest).unwrap_or_default();
        let most = highest.max(threshold * 1.1);
        if most > 0.0 { most } else { 1.0 }
    }

    fn x(&self, at: f64) -> f64 {
        let share = (at - self.span.begin) / self.span.seconds().max(1e-9);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn shade(&self, out: &mut String, span: Span, class: &str, title: &str) {
        if !span.overlaps(&self.span) {
            return;
        }
        let (x, end) = (self.x(span.begin), self.x(span.end));
        let (y, height) = match class {
            "alert" => (TOP - 6.0, 5.0),
            _ => (TOP, HEIGHT - TOP - BOTTOM),
        };
        let width = (end - x).max(1.0);
        let _ = write!(
            out,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{}</title></rect>"#,
            escape(title)
        );
    }

    /// The SVG; `id` is one that nothing else on the page has.
    pub fn svg(&self, id: &str) -> String {
        let mut out = String::new();
        let description = self.in_words();
        let _ = write!(
            out,
            r#"<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{id}-t {id}-d"><title id="{id}-t">{}</title><desc id="{id}-d">{}</desc>"#,
            escape(&format!("{} ({})", self.title, self.unit)),
            escape(&description)
        );
        if let Some(incident) = self.incident {
            self.shade(&mut out, incident, "incident", "the incident");
        }
        for alert in &self.alerts {
            self.shade(&mut out, *alert, "alert", "an alert fired");
        }
        let (top, step) = ticks(self.top());
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
        let mut tick = 0.0;
        while tick <= top * 1.0001 {
            let at = y(tick);
            let _ = write!(
                out,
                r#"<line class="grid" x1="{LEFT}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                WIDTH - RIGHT,
                LEFT - 5.0,
                at + 4.0,
                self.value(tick)
            );
            tick += step;
        }
        self.times(&mut out);
        if let Some(threshold) = self.threshold.filter(|own| *own <= top) {
            let at = y(threshold);
            let _ = write!(
                out,
                r#"<line class="threshold" x1="{LEFT}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}"/>"#,
                WIDTH - RIGHT
            );
        }
        for (place, (_, points)) in self.lines.iter().take(LINES).enumerate().rev() {
            let path = self.path(points, y);
            let _ = write!(out, r#"<path class="line l{place}" d="{path}"/>"#);
        }
        out.push_str("</svg>");
        out
    }

    fn path(&self, points: &[(f64, f64)], y: impl Fn(f64) -> f64) -> String {
        let mut path = String::new();
        let mut last: Option<f64> = None;
        for (at, value) in points.iter().copied().filter(|(_, value)| value.is_finite()) {
            let joined = last.is_some_and(|last| at - last <= 1.5 * self.step);
            let (x, y) = (self.x(at), y(value));
            let _ = match (joined, last) {
                (true, _) => write!(path, "L{x:.1} {y:.1}"),
                // A point by itself must show, too.
                (false, _) => write!(path, "M{x:.1} {y:.1}h.01"),
            };
            last = Some(at);
        }
        path
    }

    fn times(&self, out: &mut String) {
        let length = self.span.seconds();
        let wanted = length / 4.0;
        let steps = [
            1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
            10_800.0, 21_600.0, 43_200.0,
        ];
        let step = steps
            .into_iter()
            .find(|step| *step >= wanted)
            .unwrap_or_else(|| (wanted / 86_400.0).ceil().max(1.0) * 86_400.0);
        let mut at = (self.span.begin / step).ceil() * step;
        while at <= self.span.end {
            let x = self.x(at);
            let text = if step >= 60.0 { clock(at).chars().take(5).collect() } else { clock(at) };
            let text = if step >= 86_400.0 {
                super::text::instant(at).chars().skip(5).take(5).collect()
            } else {
                text
            };
            let anchor = if x > WIDTH - 40.0 {
                "end"
            } else if x < LEFT + 20.0 {
                "start"
            } else {
                "middle"
            };
            let _ = write!(
                out,
                r#"<line class="mark" x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{:.1}"/><text class="tick" x="{x:.1}" y="{:.1}" text-anchor="{anchor}">{text}</text>"#,
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 4.0,
                HEIGHT - BOTTOM + 17.0
            );
            at += step;
        }
    }

    /// A value with its unit, where that changes with its size.
    fn value(&self, value: f64) -> String {
        match self.unit.as_str() {
            "s" => seconds(value),
            _ if value >= 1_000_000.0 => format!("{}M", digits(value / 1e6)),
            _ if value >= 10_000.0 => format!("{}k", digits(value / 1e3)),
            _ => digits(value),
        }
    }

    /// What who cannot see the chart is told.
    pub fn in_words(&self) -> String {
        let highest = |(legend, points): &(String, Vec<(f64, f64)>)| {
            let finite = points.iter().filter(|(_, value)| value.is_finite());
            let (at, value) = finite.max_by(|one, other| one.1.total_cmp(&other.1))?;
            Some(format!("{legend}: at most {} at {}", self.value(*value), clock(*at)))
        };
        let lines: Vec<_> = self.lines.iter().take(LINES).filter_map(highest).collect();
        if lines.is_empty() { "no data".to_owned() } else { lines.join("; ") }
    }
}

/// The end of an axis and the distance of its marks.
fn ticks(most: f64) -> (f64, f64) {
    let raw = most / 4.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= raw);
    let step = step.unwrap_or(raw);
    ((most / step).ceil() * step, step)
}

/// Room for the names of bars.
const NAMES: f64 = 116.0;

/// Bars of one scale, one above the other, each of several parts.
pub fn bars(id: &str, title: &str, rows: &[(&str, Vec<(usize, f64)>)]) -> String {
    let longest =
        rows.iter().map(|(_, parts)| parts.iter().map(|(_, value)| value).sum::<f64>()).fold(0.0, f64::max);
    let height = 34.0 * rows.len() as f64 + 6.0;
    let mut out = format!(
        r#"<svg class="bars" viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-labelledby="{id}-t"><title id="{id}-t">{}</title>"#,
        escape(title)
    );
    let room = WIDTH - NAMES - 64.0;
    for (row, (name, parts)) in rows.iter().enumerate() {
        let y = 34.0 * row as f64 + 4.0;
        let _ = write!(out, r#"<text class="name" x="0" y="{:.1}">{}</text>"#, y + 18.0, escape(name));
        let mut x = NAMES;
        for (class, value) in parts {
            let width = if longest > 0.0 { value / longest * room } else { 0.0 };
            let _ = write!(
                out,
                r#"<rect class="part p{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="26"/>"#
            );
            x += width;
        }
        let all: f64 = parts.iter().map(|(_, value)| value).sum();
        let _ = write!(
            out,
            r#"<text class="tick" x="{:.1}" y="{:.1}">{}</text>"#,
            x + 6.0,
            y + 18.0,
            seconds(all)
        );
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Lines {
        Lines {
            title: "TTFT <b>".into(),
            unit: "s".into(),
            caption: String::new(),
            empty: String::new(),
            lines: vec![("p95".into(), points.to_vec())],
            span: Span { begin: 0.0, end: 100.0 },
            step: 10.0,
            incident: Some(Span { begin: 40.0, end: 60.0 }),
            alerts: vec![Span { begin: 50.0, end: 70.0 }, Span { begin: 200.0, end: 300.0 }],
            threshold: Some(0.3),
        }
    }

    #[test]
    fn a_chart_shows_lines_gaps_shades_and_says_so_in_words() {
        let svg = chart(&[(0.0, 0.1), (10.0, 0.2), (20.0, f64::NAN), (50.0, 1.5)]).svg("c1");
        assert!(svg.contains("TTFT &lt;b&gt; (s)") && !svg.contains("<b>"), "{svg}");
        assert_eq!(svg.matches("h.01").count(), 2, "a gap begins the line anew: {svg}");
        assert_eq!(svg.matches(r#"class="alert""#).count(), 1, "an alert of another time is not shown");
        assert!(
            svg.contains(r#"class="incident""#) && svg.contains("p95: at most 1.5 s at 00:00:50"),
            "{svg}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(chart(&[(0.0, f64::NAN)]).is_empty());
        assert!(!chart(&[(0.0, f64::INFINITY)]).svg("c1").contains("inf"));
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let close = |(top, step): (f64, f64), expected: (f64, f64)| {
            assert!((top - expected.0).abs() < 1e-9 && (step - expected.1).abs() < 1e-9, "{top} {step}");
        };
        close(ticks(0.93), (1.0, 0.25));
        close(ticks(7.1), (8.0, 2.0));
        close(ticks(1200.0), (1500.0, 500.0));
    }

    #[test]
    fn bars_share_a_scale() {
        let svg = bars("b", "parts", &[("before", vec![(0, 1.0)]), ("in it", vec![(0, 1.0), (1, 3.0)])]);
        let widths: Vec<f64> = svg
            .split("width=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect();
        assert!(
            (widths[0] - widths[1]).abs() < 0.2 && (widths[2] - 3.0 * widths[0]).abs() < 0.3,
            "{widths:?}"
        );
    }
}
