//! The kinds of value that a configuration has. Each is parsed where it is read: one that exists is right.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::uri::Authority;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::Transport;
use super::error::may_be_secret;
use crate::exchange::Name;

/// Reads a scalar through `parse`. An error is raised while the reader stands on the value, so that it has the
/// value's key, line and column.
pub(super) fn scalar<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Scalar<T>(fn(&str) -> Result<T, String>);
    impl<T> Visitor<'_> for Scalar<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a single value")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            (self.0)(text).map_err(|error| {
                // Where it stands is told; what stands there may be a key in the wrong place.
                E::custom(if may_be_secret(text) { error.replace(text, "…") } else { error })
            })
        }
    }
    from.deserialize_str(Scalar(parse))
}

/// A text that is not empty and fits a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Text(pub(super) String);

const TEXT_LIMIT: usize = 4096; // the longest path
const LABEL_LIMIT: usize = 128;

impl Text {
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.len() > TEXT_LIMIT || text.chars().any(char::is_control) {
            return Err("expected a text that is not empty, on one line".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// As a name, for a label.
    pub(super) fn name(&self) -> Name {
        Name::from(self.0.get(..self.0.floor_char_boundary(LABEL_LIMIT)).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, Self::parse)
    }
}

/// A time, as `25s` or `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let span = humantime::parse_duration(text);
            span.map(Self).map_err(|_| format!("`{text}` is no time; write it like 250ms, 25s, 5m or 6h"))
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(self.0))
    }
}

/// A time, or `none`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Option<Duration>);

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| match humantime::parse_duration(text) {
            _ if text == "none" => Ok(Self(None)),
            Ok(limit) if !limit.is_zero() => Ok(Self(Some(limit))),
            _ => Err(format!("`{text}` is no limit; write `none` or a time like 30s or 10m")),
        })
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => to.serialize_str("none"),
            Some(limit) => Span(limit).serialize(to),
        }
    }
}

/// A URL that may have a password, which is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(pub(super) String);

impl SecretUrl {
    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let hidden = if host.len() < authority.len() { "***@" } else { "" };
        write!(f, "{scheme}://{hidden}{host}{path}")
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A share, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Share(pub(super) f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| match text.parse() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err(format!("`{text}` is no share; write a number from 0 to 1")),
        })
    }
}

/// A header's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header(pub(super) http::HeaderName);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            let name = http::HeaderName::from_str(text);
            name.map(Self).map_err(|_| format!("`{text}` cannot be a header's name"))
        })
    }
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.as_str())
    }
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Listen(pub(super) SocketAddr);

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("`{text}` is no address to listen on; write it like 0.0.0.0:8080 or [::1]:8080");
        text.parse().map(Self).map_err(|_| expected())
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, str::parse)
    }
}

/// How many; 0 is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct HowMany(pub(super) usize);

impl<'de> Deserialize<'de> for HowMany {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            text.parse().map(Self).map_err(|_| format!("`{text}` is no number; write one from 0, as 200"))
        })
    }
}

/// One text, or a list of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Texts(pub(super) Vec<Text>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a list of names")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Texts, E> {
                Text::parse(text).map(|text| Texts(vec![text])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = elements.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        from.deserialize_any(OneOrMore)
    }
}

/// The beginning of a path, with its slash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PathPrefix(pub(super) String);

impl<'de> Deserialize<'de> for PathPrefix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, |text| {
            if !text.starts_with('/') || text.contains(['?', '#']) {
                return Err(format!("`{text}` is no path; write it like / or /v1/"));
            }
            Ok(Self(text.to_owned()))
        })
    }
}

/// Where an upstream listens: `http://`, `https://`, `h2c://` or `unix:///path`, without a path of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    text: String,
    pub(super) secure: bool,
    pub(super) http2: bool,
    pub(super) transport: Transport,
    pub(super) authority: Authority,
}

impl FromStr for UpstreamUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            // It is not repeated: what stands before the @ is a password.
            return Err("an upstream's URL cannot have a user; clients' own credentials are passed through"
                .to_owned());
        }
        // Nor is a query.
        let shown = text.split_once('?').map_or_else(|| text.to_owned(), |(before, _)| format!("{before}?…"));
        let expected = "expected http://HOST:PORT, https://HOST, h2c://HOST:PORT or unix:///PATH";
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(format!(
                    "`{shown}` is no upstream: a socket's path begins with /, as in unix:///run/vllm.sock"
                ));
            }
            let authority = Authority::from_static("localhost");
            let transport = Transport::Unix(PathBuf::from(path));
            return Ok(Self { text: text.to_owned(), secure: false, http2: false, transport, authority });
        }
        let uri = http::Uri::from_str(text).map_err(|_| format!("`{shown}` is no upstream; {expected}"))?;
        let (secure, http2, default_port) = match uri.scheme_str() {
            Some("http") => (false, false, 80),
            Some("h2c") => (false, true, 80),
            Some("https") => (true, false, 443),
            _ => return Err(format!("`{shown}` is no upstream; {expected}")),
        };
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(format!(
                "`{shown}` has a path; paths are passed through as clients send them, leave it out"
            ));
        }
        let authority =
            uri.authority().cloned().ok_or_else(|| format!("`{shown}` has no host; {expected}"))?;
        if authority.as_str() != authority.host() && authority.port_u16().is_none() {
            return Err(format!("`{shown}` has no such port; ports are 1 to 65535"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let transport = Transport::Tcp { host, port: authority.port_u16().unwrap_or(default_port) };
        Ok(Self { text: text.to_owned(), secure, http2, transport, authority })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for UpstreamUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from, str::parse)
    }
}

impl Serialize for UpstreamUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

/// Where an issuer's keys are fetched: `https://` or `http://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeysUrl(pub(super) http::Uri);

impl FromStr for KeysUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The URL is never repeated: a user's password or a token in the query may be in it.
        if text.contains('@') {
            return Err("a URL of keys cannot have a user; keys are public, so none is needed".to_owned());
        }
        let expected = "expected a file, or https://HOST/PATH or http://HOST/PATH";
        let uri = http::Uri::from_str(text).map_err(|_| format!("this is no URL; {expected}"))?;
        if !matches!(uri.scheme_str(), Some("https" | "http")) {
            return Err(format!("keys are fetched over HTTP only; {expected}"));
        }
        match uri.authority() {
            Some(host) if host.as_str() != host.host() && host.port_u16().is_none() => {
                Err("the URL has no such port; ports are 1 to 65535".to_owned())
            }
            Some(host) if !host.host().is_empty() => Ok(Self(uri)),
            _ => Err(format!("the URL has no host; {expected}")),
        }
    }
}

impl Serialize for KeysUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// Bucket bounds by histogram; each list ascends and is finite. A name that stands twice is an error.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct BucketLists(pub(super) BTreeMap<String, Vec<f64>>);

impl<'de> Deserialize<'de> for BucketLists {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Lists;
        impl<'de> Visitor<'de> for Lists {
            type Value = BucketLists;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of a histogram's name to its bucket bounds")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BucketLists, A::Error> {
                let mut lists = BTreeMap::new();
                while let Some((name, Bounds(bounds))) = map.next_entry::<String, Bounds>()? {
                    if lists.insert(name.clone(), bounds).is_some() {
                        return Err(A::Error::custom(format!("duplicate entry with key \"{name}\"")));
                    }
                }
                Ok(BucketLists(lists))
            }
        }
        from.deserialize_map(Lists)
    }
}

struct Bounds(Vec<f64>);

impl<'de> Deserialize<'de> for Bounds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Ascending;
        impl<'de> Visitor<'de> for Ascending {
            type Value = Bounds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of bucket bounds")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Bounds, A::Error> {
                let mut bounds: Vec<f64> = Vec::new();
                while let Some(bound) = elements.next_element::<f64>()? {
                    if !bound.is_finite() || bounds.last().is_some_and(|last| *last >= bound) {
                        return Err(A::Error::custom(
                            "bucket bounds must ascend and be finite, as in [0.1, 0.3, 1]",
                        ));
                    }
                    bounds.push(bound);
                }
                if bounds.is_empty() {
                    return Err(A::Error::custom("a list of bucket bounds must not be empty"));
                }
                Ok(Bounds(bounds))
            }
        }
        from.deserialize_seq(Ascending)
    }
}
