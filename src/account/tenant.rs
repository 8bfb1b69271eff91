//! Who asks.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use hashbrown::HashMap;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, header};
use sha2::{Digest as _, Sha256};

use super::jwks::Fetched;
use super::jwt::JwtClaim;
use crate::exchange::Name;

/// How tenants are told apart.
#[derive(Debug, Clone)]
pub struct Tenants {
    /// The ways to a name, in the order of asking.
    pub identify: Vec<Identify>,
    /// Who has no name.
    pub default: Name,
    /// Names that are never folded into `other`.
    pub known: Vec<Name>,
    /// How many further names get series of their own.
    pub limit: usize,
}

/// A way to a tenant's name.
#[derive(Debug, Clone)]
pub enum Identify {
    /// A header that says it.
    Header(HeaderName),
    /// The key that the client shows.
    ApiKey(Keys),
    /// A claim of the token that the client shows.
    Jwt(Arc<JwtClaim>),
    /// The path.
    Path(PathPrefix),
}

/// Tenants by the SHA-256 of their keys. No key is kept: not here, not in a configuration.
#[derive(Clone)]
pub struct Keys(Arc<HashMap<Digest, Name>>);

/// The SHA-256 of a key.
pub type Digest = [u8; 32];

/// A path that begins with a tenant's name, as `/t/{tenant}/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPrefix {
    before: String,
    after: String,
    strip: bool,
}

pub(super) const NAME_LIMIT: usize = 1024; // what stands in a log; as a label a name of more than 128 bytes is `other`

/// Headers that hold a key and nothing else: Anthropic's, Azure's, Google's.
static KEY_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

impl Tenants {
    /// The tenant of a request: the first way that yields a name, else the default. Text that is not UTF-8 or holds
    /// control characters is no name.
    ///
    /// `now`: what the wall clock says, where somebody has to ask.
    pub fn resolve(&self, target: &Uri, headers: &HeaderMap, now: impl Fn() -> SystemTime) -> Name {
        let named = |way: &Identify| match way {
            Identify::Header(header) => {
                let text = std::str::from_utf8(headers.get(header)?.as_bytes()).ok()?.trim();
                let is_name = !text.is_empty() && !text.chars().any(char::is_control);
                is_name.then(|| Name::bounded(text, NAME_LIMIT))
            }
            Identify::ApiKey(keys) => keys.find(target, headers),
            Identify::Jwt(claim) => claim.find(headers, now()),
            Identify::Path(prefix) => {
                prefix.split(target.path()).map(|(name, _)| Name::bounded(name, NAME_LIMIT))
            }
        };
        self.identify.iter().find_map(named).unwrap_or_else(|| self.default.clone())
    }

    /// Whether tokens are believed that anybody may have written.
    pub fn has_unchecked(&self) -> bool {
        self.identify.iter().any(|way| matches!(way, Identify::Jwt(claim) if !claim.is_checked()))
    }

    /// The sets of keys that somebody has to fetch.
    pub fn to_fetch(&self) -> impl Iterator<Item = &Arc<Fetched>> {
        self.identify.iter().filter_map(|way| match way {
            Identify::Jwt(claim) => claim.to_fetch(),
            Identify::Header(_) | Identify::ApiKey(_) | Identify::Path(_) => None,
        })
    }

    /// A target without the tenant's part of its path, where that is to be taken out of it.
    pub fn stripped(&self, target: &Uri) -> Option<Uri> {
        let prefixes = self.identify.iter().filter_map(|way| match way {
            Identify::Path(prefix) if prefix.strip => Some(prefix),
            _ => None,
        });
        let rest = prefixes.filter_map(|prefix| prefix.split(target.path())).map(|(_, rest)| rest).next()?;
        let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut parts = target.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(format!("/{rest}{query}")).ok()?);
        Uri::from_parts(parts).ok()
    }
}

impl Keys {
    /// Names by digest.
    pub fn new(names: impl IntoIterator<Item = (Digest, Name)>) -> Self {
        Self(Arc::new(names.into_iter().collect()))
    }

    /// Whose the key is that a request shows.
    fn find(&self, target: &Uri, headers: &HeaderMap) -> Option<Name> {
        let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
            let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
        });
        let plain = KEY_HEADERS
            .iter()
            .filter_map(|name| headers.get(name))
            .map(|value| value.as_bytes().trim_ascii());
        let query =
            target.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("key="));
        let mut shown = bearer.chain(plain).chain(query.map(str::as_bytes)).filter(|key| !key.is_empty());
        shown.find_map(|key| self.0.get(&digest(key)).cloned())
    }
}

/// The SHA-256 of a key.
pub fn digest(key: &[u8]) -> Digest {
    Sha256::digest(key).into()
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("names", &self.0.len()).finish()
    }
}

impl PathPrefix {
    /// A prefix as it is written: one whole segment of it is `{tenant}`, and it ends with a slash.
    pub fn new(text: &str, strip: bool) -> Option<Self> {
        let (before, after) = text.split_once("{tenant}")?;
        let is_prefix = before.starts_with('/') && before.ends_with('/');
        let is_right =
            is_prefix && after.starts_with('/') && after.ends_with('/') && !after.contains("{tenant}");
        is_right.then(|| Self { before: before.to_owned(), after: after.to_owned(), strip })
    }

    /// The name in a path, and what follows the prefix.
    fn split<'p>(&self, path: &'p str) -> Option<(&'p str, &'p str)> {
        let rest = path.strip_prefix(self.before.as_str())?;
        let (name, _) = rest.split_once('/')?;
        let rest = rest.get(name.len()..)?.strip_prefix(self.after.as_str())?;
        (!name.is_empty()).then_some((name, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(identify: Vec<Identify>) -> Tenants {
        Tenants { identify, default: Name::from("anonymous"), known: Vec::new(), limit: 200 }
    }

    fn resolve_at(tenants: &Tenants, target: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        tenants.resolve(&target.parse().unwrap(), &map, || SystemTime::UNIX_EPOCH).as_str().to_owned()
    }

    fn resolve(headers: &[(&'static str, &str)]) -> String {
        let header = |name| Identify::Header(HeaderName::from_static(name));
        resolve_at(&tenants(vec![header("x-team"), header("x-tenant-id")]), "/v1/models", headers)
    }

    #[test]
    fn the_first_header_that_holds_a_name_wins() {
        assert_eq!(resolve(&[("x-tenant-id", "search")]), "search");
        assert_eq!(resolve(&[("x-tenant-id", "search"), ("x-team", "ads")]), "ads");
        assert_eq!(resolve(&[("x-tenant-id", "search"), ("x-team", " ")]), "search");
        assert_eq!(resolve(&[]), "anonymous");
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(resolve(&[("x-team", &"é".repeat(1000))]), "é".repeat(512));
        assert_eq!(resolve(&[("x-team", "日本")]), "日本");
    }

    #[test]
    fn a_key_is_found_wherever_an_api_has_it_and_an_unknown_one_is_no_name() {
        let keys =
            Keys::new([(digest(b"sk-search"), Name::from("search")), (digest(b"ads"), Name::from("ads"))]);
        let tenants = tenants(vec![Identify::ApiKey(keys)]);
        let at = |target, headers: &[_]| resolve_at(&tenants, target, headers);
        assert_eq!(at("/", &[("authorization", "Bearer sk-search")]), "search");
        assert_eq!(at("/", &[("authorization", "bearer  sk-search ")]), "search");
        assert_eq!(at("/", &[("authorization", "Basic sk-search")]), "anonymous");
        assert_eq!(at("/", &[("authorization", "Bearer made-up"), ("x-api-key", "ads")]), "ads");
        assert_eq!(at("/", &[("api-key", "ads")]), "ads");
        assert_eq!(at("/", &[("x-goog-api-key", "ads")]), "ads");
        assert_eq!(at("/m:generate?alt=sse&key=ads", &[]), "ads");
        assert_eq!(at("/?monkey=ads&key=", &[("x-api-key", "")]), "anonymous");
        assert!(!format!("{tenants:?}").contains("search"), "{tenants:?}");
    }

    #[test]
    fn a_path_may_begin_with_the_name_and_be_sent_without_it() {
        for wrong in ["/t/", "{tenant}/", "/t{tenant}/", "/t/{tenant}", "/{tenant}x/", "/{tenant}/{tenant}/"]
        {
            assert_eq!(PathPrefix::new(wrong, false), None, "{wrong}");
        }
        let of = |text, strip| tenants(vec![Identify::Path(PathPrefix::new(text, strip).unwrap())]);
        let kept = of("/t/{tenant}/", false);
        assert_eq!(resolve_at(&kept, "/t/acme/v1/models", &[]), "acme");
        assert_eq!(resolve_at(&kept, "/t//v1/models", &[]), "anonymous");
        assert_eq!(resolve_at(&kept, "/t/acme", &[]), "anonymous");
        assert_eq!(kept.stripped(&"/t/acme/v1/models".parse().unwrap()), None);
        let stripped = of("/{tenant}/api/", true);
        let without = |target: &str| stripped.stripped(&target.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(resolve_at(&stripped, "/acme/api/v1/chat", &[]), "acme");
        assert_eq!(without("/acme/api/v1/chat?a=%20b&a").as_deref(), Some("/v1/chat?a=%20b&a"));
        assert_eq!(without("http://h:1/acme/api/").as_deref(), Some("http://h:1/"));
        assert_eq!(without("/acme/v1/api/"), None);
    }
}
