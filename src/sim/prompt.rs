//! Reads requests as far as all APIs have them in common: how many tokens a prompt is, what is missing.

use http::StatusCode;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::api::Refusal;

/// A request's body.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("invalid request: {error}")).about("body")
    })
}

pub(super) fn missing(param: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, format!("{param}: field required")).about(param)
}

/// Four bytes are a token.
pub(super) fn tokens_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}

/// The tokens in a text, or in an array of texts, of token ids or of arrays of token ids, and how many prompts it
/// is; none where there is nothing in it or it is anything else.
pub(super) fn weigh(prompt: &Value) -> Option<(u32, u32)> {
    match prompt {
        Value::String(text) => Some((tokens_of(text.len()), 1)),
        Value::Array(parts) if !parts.is_empty() => Some(weigh_prompts(parts)),
        _ => None,
    }
}

fn weigh_prompts(parts: &[Value]) -> (u32, u32) {
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    if parts.iter().all(Value::is_number) {
        return (count(parts.len()), 1);
    }
    let tokens = parts.iter().map(|part| match part {
        Value::String(text) => tokens_of(text.len()),
        Value::Array(ids) => count(ids.len()),
        _ => 0,
    });
    (tokens.fold(0, u32::saturating_add), count(parts.len()))
}

/// The bytes of text in a message's content, be it a string or an array of parts; nothing is copied.
#[derive(Default)]
pub(super) struct TextBytes(pub(super) usize);

impl<'de> Deserialize<'de> for TextBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = TextBytes;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("text, null or an array of parts")
    }

    fn visit_str<E>(self, text: &str) -> Result<TextBytes, E> {
        Ok(TextBytes(text.len()))
    }

    fn visit_unit<E>(self) -> Result<TextBytes, E> {
        Ok(TextBytes(0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<TextBytes, A::Error> {
        let mut bytes = 0usize;
        while let Some(TextBytes(part)) = parts.next_element()? {
            bytes = bytes.saturating_add(part);
        }
        Ok(TextBytes(bytes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<TextBytes, A::Error> {
        let mut bytes = 0usize;
        while let Some(key) = members.next_key::<String>()? {
            if key == "text" {
                bytes = bytes.saturating_add(members.next_value::<TextBytes>()?.0);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(TextBytes(bytes))
    }
}
