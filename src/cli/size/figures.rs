//! How figures are written: three digits that count, in units that people say.

const WIDTH: usize = 100;

/// A whole number with its thousands apart: `131,072`.
pub(super) fn whole(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits that count: `0.48`, `8.75`, `91.1`, `1,234`.
pub(super) fn three(number: f64) -> String {
    match number {
        n if n >= 99.95 => whole(n.round() as u128),
        n if n >= 9.995 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

/// With a decimal prefix: `16.0 GB`.
pub(super) fn scaled(number: f64, unit: &str) -> String {
    let prefixes = ["", "k", "M", "G", "T", "P"];
    let mut scaled = number;
    let mut prefix = prefixes[0];
    for next in &prefixes[1..] {
        if scaled < 999.5 {
            break;
        }
        scaled /= 1000.0;
        prefix = next;
    }
    format!("{} {prefix}{unit}", three(scaled))
}

/// A number of parameters as in a model's name: `8b`, `1.5t`.
pub(super) fn size(parameters: u64) -> String {
    let units = [("t", 1e12), ("b", 1e9), ("m", 1e6), ("k", 1e3)];
    let number = parameters as f64;
    match units.into_iter().find(|(_, factor)| number >= *factor) {
        Some((unit, factor)) => format!("{}{unit}", (number / factor * 1000.0).round() / 1000.0),
        None => parameters.to_string(),
    }
}

/// A time: `52 ms`, `1.20 s`.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s >= 0.9995 => format!("{} s", three(s)),
        s if s >= 0.00995 => format!("{:.0} ms", s * 1e3),
        s => format!("{} ms", three(s * 1e3)),
    }
}

/// How many times as much: `8.8×`.
pub(super) fn ratio(ratio: f64) -> String {
    match ratio {
        r if r >= 9.95 => format!("{}×", whole(r.round() as u128)),
        r if r >= 0.995 => format!("{r:.1}×"),
        r => format!("{r:.2}×"),
    }
}

/// Words in lines that fit the page, each indented.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{:indent$}{word}", "")),
        }
    }
    lines.join("\n")
}

/// A text that is cut where it is too long for its column; its end tells more than its beginning.
pub(super) fn cut(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let end: String = text.chars().skip(length + 1 - width).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_right() {
        assert_eq!(
            [0, 999, 1000, 131_072, 1_234_567].map(whole),
            ["0", "999", "1,000", "131,072", "1,234,567"]
        );
        assert_eq!(
            [0.481, 8.75, 9.996, 91.14, 99.96, 1234.5].map(three),
            ["0.48", "8.75", "10.0", "91.1", "100", "1,235"]
        );
        assert_eq!(scaled(16e9, "B"), "16.0 GB");
        assert_eq!(scaled(999.6e6, "B"), "1.00 GB");
        assert_eq!(scaled(0.0, "B"), "0.00 B");
        assert_eq!(
            [8_000_000_000, 8_030_000_000, 1_500_000_000_000, 999].map(size),
            ["8b", "8.03b", "1.5t", "999"]
        );
        assert_eq!([1.2, 0.0521, 0.00012].map(seconds), ["1.20 s", "52 ms", "0.12 ms"]);
        assert_eq!([0.48, 8.75, 12.4].map(ratio), ["0.48×", "8.8×", "12×"]);
        assert_eq!(cut("/models/mine/config.json", 12), "…config.json");
    }
}
