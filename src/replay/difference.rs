//! What differs between the exchange that a case should yield and the one that was seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// The members that differ, a line each: `-` what was expected, `+` what was seen. Empty where none does.
/// `about` is for people.
pub fn difference(expected: &Value, seen: &Value) -> String {
    let (expected, seen) = (members(expected), members(seen));
    let mut lines = String::new();
    for name in expected.keys().chain(seen.keys().filter(|name| !expected.contains_key(*name))) {
        let (want, got) = (expected.get(name), seen.get(name));
        if want != got {
            // Writing to a string cannot fail.
            want.iter().for_each(|value| _ = writeln!(lines, "    - {name}: {value}"));
            got.iter().for_each(|value| _ = writeln!(lines, "    + {name}: {value}"));
        }
    }
    lines
}

/// The members of an object, as they are written.
fn members(json: &Value) -> BTreeMap<&str, String> {
    let object = json.as_object().into_iter().flatten();
    let counted = object.filter(|(name, _)| *name != "about");
    counted.map(|(name, value)| (name.as_str(), value.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let expected = serde_json::json!({"about": "x", "a": 1, "b": 2, "c": 3});
        let seen = serde_json::json!({"a": 1, "b": 3, "d": 4});
        assert_eq!(difference(&expected, &seen), "    - b: 2\n    + b: 3\n    - c: 3\n    + d: 4\n");
        assert_eq!(difference(&expected, &expected), "");
    }
}
