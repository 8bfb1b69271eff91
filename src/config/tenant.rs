//! What the file says of tenants.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::error::{Error, Place};
use super::value::{Header, HowMany, KeysUrl, Text};
use crate::account::jwks::{Fetched, KeySet};
use crate::account::jwt::JwtClaim;
use crate::account::tenant::{Digest, Identify, Keys, PathPrefix, Tenants};

#[derive(Debug, Clone, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TenantsEntry {
    identify: Vec<IdentifyEntry>,
    default: Text,
    known: Vec<Text>,
    limit: HowMany,
}

impl Default for TenantsEntry {
    fn default() -> Self {
        let header = Some(Header(http::HeaderName::from_static("x-tenant-id")));
        Self {
            identify: vec![IdentifyEntry { header, ..IdentifyEntry::default() }],
            default: Text("anonymous".to_owned()),
            known: Vec::new(),
            limit: HowMany(200),
        }
    }
}

/// One way; exactly one of these is given.
#[derive(Debug, Clone, Default, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct IdentifyEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<ApiKeyEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_claim: Option<JwtEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_prefix: Option<Text>,
    /// Of a path's prefix: whether the upstream sees the path without it.
    #[serde(skip_serializing_if = "is_false")]
    strip: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Debug, Clone, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKeyEntry {
    /// A file of names by the SHA-256 of their keys.
    names: PathBuf,
}

#[derive(Debug, Clone, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtEntry {
    claim: Text,
    #[serde(default = "authorization")]
    header: Header,
    /// The issuer's keys: a JSON Web Key Set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jwks: Option<Jwks>,
    /// Of a set that is fetched: the roots to trust instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    verify: bool,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum Jwks {
    File(PathBuf),
    Url(KeysUrl),
}

impl<'de> Deserialize<'de> for Jwks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        super::value::scalar(from, |text| match text {
            "" => Err("expected a file or a URL".to_owned()),
            url if url.contains("://") => url.parse().map(Self::Url),
            path => Ok(Self::File(PathBuf::from(path))),
        })
    }
}

fn authorization() -> Header {
    Header(http::header::AUTHORIZATION)
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
const fn is_true(value: &bool) -> bool {
    *value
}

impl TenantsEntry {
    pub(super) fn resolve(&self, at: &Place) -> Result<Tenants, Error> {
        let at = at.clone().key("identify");
        let ways =
            self.identify.iter().zip(0..).map(|(entry, index)| entry.resolve(&at.clone().index(index)));
        Ok(Tenants {
            identify: ways.collect::<Result<_, _>>()?,
            default: self.default.name(),
            known: self.known.iter().map(Text::name).collect(),
            limit: self.limit.0,
        })
    }
}

impl IdentifyEntry {
    fn resolve(&self, at: &Place) -> Result<Identify, Error> {
        match self {
            Self {
                header: Some(Header(name)),
                api_key: None,
                jwt_claim: None,
                path_prefix: None,
                strip: false,
            } => Ok(Identify::Header(name.clone())),
            Self { header: None, api_key: Some(keys), jwt_claim: None, path_prefix: None, strip: false } => {
                keys.read(&at.clone().key("api_key").key("names")).map(Identify::ApiKey)
            }
            Self { header: None, api_key: None, jwt_claim: Some(jwt), path_prefix: None, strip: false } => {
                jwt.read(&at.clone().key("jwt_claim")).map(|claim| Identify::Jwt(Arc::new(claim)))
            }
            Self { header: None, api_key: None, jwt_claim: None, path_prefix: Some(Text(text)), strip } => {
                let wrong = || {
                    let text = format!(
                        "`{text}` is no prefix with a tenant; write it like /t/{{tenant}}/, with a slash at its end"
                    );
                    Error::at(at.clone().key("path_prefix"), text)
                };
                PathPrefix::new(text, *strip).map(Identify::Path).ok_or_else(wrong)
            }
            _ => {
                let text = "give `header`, `api_key`, `jwt_claim` or `path_prefix`, one of them; `strip` goes with `path_prefix`";
                Err(Error::at(at.clone(), text))
            }
        }
    }
}

impl JwtEntry {
    fn read(&self, at: &Place) -> Result<JwtClaim, Error> {
        let (header, claim) = (self.header.0.clone(), self.claim.0.clone());
        let wrong = |text: String| Error::at(at.clone().key("jwks"), text);
        let is_secure =
            matches!(&self.jwks, Some(Jwks::Url(KeysUrl(url))) if url.scheme_str() == Some("https"));
        if self.ca.is_some() && !is_secure {
            return Err(Error::at(at.clone().key("ca"), "goes with `jwks: https://…`"));
        }
        match (&self.jwks, self.verify) {
            (Some(Jwks::File(path)), true) => {
                let shown = path.display();
                let text = std::fs::read(path);
                let text = text.map_err(|error| wrong(format!("could not read {shown}: {error}")))?;
                let keys = KeySet::parse(&text).map_err(|error| wrong(format!("{shown} {error}")))?;
                Ok(JwtClaim::signed(header, claim, keys))
            }
            (Some(Jwks::Url(KeysUrl(url))), true) => {
                Ok(JwtClaim::fetched(header, claim, Fetched::new(url.clone(), self.ca.clone())))
            }
            (None, false) => Ok(JwtClaim::unchecked(header, claim)),
            _ => {
                let text = "give `jwks` (a file with the issuer's keys, or their URL), or `verify: false` to believe \
                            every token";
                Err(Error::at(at.clone(), text))
            }
        }
    }
}

impl ApiKeyEntry {
    fn read(&self, at: &Place) -> Result<Keys, Error> {
        let path = self.names.display();
        let wrong = |text: String| Error::at(at.clone(), text);
        let text = std::fs::read_to_string(&self.names);
        let text = text.map_err(|error| wrong(format!("could not read {path}: {error}")))?;
        keys(&text).map_err(|error| wrong(format!("{path}: {error}")))
    }
}

/// The names in a file. What is wrong there is told by its place alone: it may be a key.
fn keys(text: &str) -> Result<Keys, Error> {
    serde_yaml::from_str::<Names>(text)
        .map(|Names(names)| Keys::new(names))
        .map_err(|error| Error::of_yaml(&error))
}

struct Names(BTreeMap<Digest, crate::exchange::Name>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map: hex SHA-256 of a key: name of its tenant")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = BTreeMap::new();
                while let Some(Hex(digest)) = map.next_key()? {
                    if names.insert(digest, map.next_value::<Text>()?.name()).is_some() {
                        return Err(A::Error::custom("a digest that stands there already"));
                    }
                }
                Ok(Names(names))
            }
        }
        from.deserialize_map(Map)
    }
}

struct Hex(Digest);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        super::value::scalar(from, |text| {
            let wrong = "a name stands under something that is no SHA-256 of 64 hex digits: printf %s \"$KEY\" | sha256sum";
            let mut digest = Digest::default();
            let pairs = text
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
            if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(wrong.to_owned());
            }
            for (byte, pair) in digest.iter_mut().zip(pairs) {
                *byte = pair.ok_or_else(|| wrong.to_owned())?;
            }
            Ok(Self(digest))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of "secret"

    fn wrong(text: &str) -> String {
        keys(text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_of_names_says_where_it_is_wrong_and_never_shows_a_key() {
        assert!(keys(&format!("{DIGEST}: search\n")).is_ok());
        assert!(keys(&format!("\"{}\": search\n", DIGEST.to_uppercase())).is_ok());
        let plain = wrong(&format!("{DIGEST}: search\nsk-secret: ads\n"));
        assert!(
            plain.starts_with("2:1: ") && plain.contains("sha256sum") && !plain.contains("sk-"),
            "{plain}"
        );
        let short = wrong(&format!("{}: search\n", DIGEST.trim_start_matches('2')));
        assert!(short.contains("64 hex digits"), "{short}");
        let twice = wrong(&format!("{DIGEST}: search\n{DIGEST}: ads\n"));
        assert!(twice.contains("stands there already"), "{twice}");
        assert!(wrong("[sk-secret]").contains("a map") && !wrong("[sk-secret]").contains("sk-"));
    }
}
