//! Numbers of parameters and tokens, as people write them.

const MOST: f64 = 1e15; // a thousand times the largest model; and tokens to train on

/// A number that is not 0, as `8b`, `1.5t` or `8.03e9`.
pub fn count(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let units = [("k", 1e3), ("m", 1e6), ("b", 1e9), ("t", 1e12)];
    let with_unit = units.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor)));
    let (number, factor) = with_unit.unwrap_or((&lower, 1.0));
    let number = (number.parse::<f64>().ok()? * factor).round();
    (1.0..=MOST).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        for (text, want) in [
            ("8b", 8_000_000_000),
            ("8.03e9", 8_030_000_000),
            ("8030261248", 8_030_261_248),
            ("1.5T", 1_500_000_000_000),
            ("270M", 270_000_000),
        ] {
            assert_eq!(count(text), Some(want), "{text}");
        }
        for text in ["", "b", "0", "-8b", "nan", "inf", "1e16", "8x7b", "0.1"] {
            assert_eq!(count(text), None, "{text}");
        }
    }
}
