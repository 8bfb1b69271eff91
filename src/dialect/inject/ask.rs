//! Where a request's body is to be edited so that it asks for usage. Nothing else of it is touched, and a body that is
//! in any doubt is left alone.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

const OPTION: &str = r#"{"include_usage":true}"#;

/// An edit of a body: these of its bytes are replaced by a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Which bytes; none where the text is inserted.
    pub at: Range<usize>,
    /// What stands there instead.
    pub text: &'static str,
}

/// The edit by which a request for a stream asks for usage. None where it asks already, wants no stream, or is
/// anything but one JSON object that says each of these things once, by its plain name.
pub fn ask(body: &[u8]) -> Option<Edit> {
    let body = std::str::from_utf8(body).ok()?;
    let [stream, options] = members(body, ["stream", "stream_options"])?;
    if stream.value?.get() != "true" {
        return None;
    }
    let inside = match options.value {
        None => return Some(insert(body, body, r#""stream_options":{"include_usage":true},"#)),
        Some(options) if options.get() == "null" => return Some(replace(body, options, OPTION)),
        Some(options) => options.get(),
    };
    let [usage, continuous] = members(inside, ["include_usage", "continuous_usage_stats"])?;
    // Usage would stand in every event, where no event can be taken out for it.
    if continuous.value.is_some_and(|value| !matches!(value.get(), "false" | "null")) {
        return None;
    }
    match usage.value.map(RawValue::get) {
        None if usage.alone => Some(insert(body, inside, r#""include_usage":true"#)),
        None => Some(insert(body, inside, r#""include_usage":true,"#)),
        Some("false" | "null") => usage.value.map(|value| replace(body, value, "true")),
        Some(_) => None,
    }
}

/// An insertion right behind the brace that an object begins with.
fn insert(body: &str, object: &str, text: &'static str) -> Edit {
    let brace = object.find('{').unwrap_or_default();
    let at = offset(body, object) + brace + 1;
    Edit { at: at..at, text }
}

fn replace(body: &str, value: &RawValue, text: &'static str) -> Edit {
    let at = offset(body, value.get());
    Edit { at: at..at + value.get().len(), text }
}

/// Where a part of the body begins in it.
fn offset(body: &str, part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(body.as_ptr().addr())
}

/// What an object says of one member.
#[derive(Debug, Clone, Copy)]
struct Member<'a> {
    value: Option<&'a RawValue>,
    /// The object has no member at all.
    alone: bool,
}

/// These members of an object; none where the text is no object, or names one of them twice or with an escape.
fn members<'a>(json: &'a str, names: [&'static str; 2]) -> Option<[Member<'a>; 2]> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let found = reader.deserialize_map(Members { names }).ok()?;
    reader.end().ok()?;
    Some(found)
}

struct Members {
    names: [&'static str; 2],
}

impl<'de> Visitor<'de> for Members {
    type Value = [Member<'de>; 2];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [Member { value: None, alone: true }; 2];
        while let Some(which) = map.next_key_seed(Key(self.names))? {
            found.iter_mut().for_each(|member| member.alone = false);
            match which.and_then(|which| found.get_mut(which)) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(member) if member.value.is_some() => return Err(A::Error::custom("named twice")),
                Some(member) => member.value = Some(map.next_value()?),
            }
        }
        Ok(found)
    }
}

/// Which of the names a key is.
struct Key([&'static str; 2]);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }

    /// A key that was written with escapes.
    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        if self.0.contains(&key) { Err(E::custom("named with an escape")) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn edited(body: &str) -> Option<String> {
        let Edit { at, text } = ask(body.as_bytes())?;
        let mut edited = body.to_owned();
        edited.replace_range(at, text);
        Some(edited)
    }

    fn check(body: &str, want: &str) {
        assert_eq!(edited(body).as_deref(), Some(want), "{body}");
    }

    #[test]
    fn a_stream_that_does_not_ask_is_made_to() {
        check(r#"{"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#);
        check(
            " {\n  \"model\" : \"m\", \"stream\" : true\n}\r\n",
            " {\"stream_options\":{\"include_usage\":true},\n  \"model\" : \"m\", \"stream\" : true\n}\r\n",
        );
        check(
            r#"{"stream_options": null ,"stream":true}"#,
            r#"{"stream_options": {"include_usage":true} ,"stream":true}"#,
        );
        check(
            r#"{"stream":true,"stream_options":{ }}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true }}"#,
        );
        check(
            r#"{"stream":true,"stream_options": { "x":1}}"#,
            r#"{"stream":true,"stream_options": {"include_usage":true, "x":1}}"#,
        );
        for not in ["false", "null"] {
            check(
                &format!(
                    r#"{{"stream":true,"stream_options":{{"x":{{"include_usage":1}}, "include_usage" : {not} }}}}"#
                ),
                r#"{"stream":true,"stream_options":{"x":{"include_usage":1}, "include_usage" : true }}"#,
            );
        }
        check(
            r#"{"stream":true,"stream_options":{"continuous_usage_stats":false}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":false}}"#,
        );
    }

    #[test]
    fn all_else_stays_as_it_is_written() {
        let rest =
            r#""a":1e400,"a":2,"\u0061":"\ud83c\udf0a\/é","n":-0.0,"x":{"stream":false,"stream_options":1}"#;
        check(
            &format!(r#"{{{rest},"stream":true}}"#),
            &format!(r#"{{"stream_options":{{"include_usage":true}},{rest},"stream":true}}"#),
        );
    }

    #[test]
    fn what_asks_already_wants_no_stream_or_is_in_doubt_is_left_alone() {
        for body in [
            "",
            "null",
            "[]",
            r#""stream""#,
            r#"[{"stream":true}]"#,
            r#"{"stream":true"#,
            r#"{"stream":true} x"#,
            r#"{"stream":true}{"stream":true}"#,
            "\u{FEFF}{\"stream\":true}",
            r#"{"stream":true,}"#,
            "{}",
            r#"{"stream":false}"#,
            r#"{"stream":null}"#,
            r#"{"stream":"true"}"#,
            r#"{"stream":1}"#,
            r#"{"x":{"stream":true}}"#,
            r#"{"stream":true,"stream":true}"#,
            r#"{"stream":true,"strea\u006d":false}"#,
            r#"{"stream":true,"stream_options":null,"stream_options":null}"#,
            r#"{"stream":true,"stream\u005foptions":null}"#,
            r#"{"stream":true,"stream_options":true}"#,
            r#"{"stream":true,"stream_options":"{}"}"#,
            r#"{"stream":true,"stream_options":[]}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":1}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":"false"}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":false,"include_usage":false}}"#,
            r#"{"stream":true,"stream_options":{"include\u005fusage":false}}"#,
            r#"{"stream":true,"stream_options":{"continuous_usage_stats":true}}"#,
            r#"{"stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":false}}"#,
        ] {
            assert_eq!(edited(body), None, "{body}");
        }
        assert_eq!(ask(b"{\"stream\":true,\"x\":\"\xFF\"}"), None, "no UTF-8");
        let deep = format!(r#"{{"x":{}{},"stream":true}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(edited(&deep).is_none_or(|edited| edited.len() > deep.len()), "no stack is used up");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_edit_is_the_option_and_nothing_else(
            before in member(), after in member(),
            blank in prop::sample::select(vec!["", " ", "\n\t"]),
            options in prop::sample::select(vec![
                None, Some("null"), Some("{}"), Some(r#"{"include_usage":false}"#), Some(r#"{"y": [1] ,"include_usage" :null}"#),
            ]),
        ) {
            let options = options.map(|options| format!(r#","stream_options"{blank}:{blank}{options}"#)).unwrap_or_default();
            let body = format!(r#"{blank}{{{before}{blank},"stream":{blank}true{options},{after}{blank}}}{blank}"#);
            let Edit { at, text } = ask(body.as_bytes()).unwrap();
            let mut edited = body.clone();
            edited.replace_range(at.clone(), text);
            let mut want: Value = serde_json::from_str(&body).unwrap();
            if want["stream_options"].is_null() {
                want["stream_options"] = json!({});
            }
            want["stream_options"]["include_usage"] = json!(true);
            prop_assert_eq!(serde_json::from_str::<Value>(&edited).unwrap(), want);
            edited.replace_range(at.start..at.start + text.len(), std::str::from_utf8(&body.as_bytes()[at]).unwrap());
            prop_assert_eq!(edited, body);
        }
    }

    fn member() -> impl Strategy<Value = String> {
        ("[a-r]{1,6}", ".{0,8}")
            .prop_map(|(key, text)| format!("{}:{}", json!(key), json!({ "a": [text, 1.5] })))
    }
}
