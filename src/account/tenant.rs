//! Who asks.

use http::{HeaderMap, HeaderName};

use crate::exchange::Name;

/// How tenants are told apart.
#[derive(Debug, Clone)]
pub struct Tenants {
    /// The headers that name one, in the order of asking.
    pub headers: Vec<HeaderName>,
    /// Who has no name.
    pub default: Name,
    /// Names that are never folded into `other`.
    pub known: Vec<Name>,
    /// How many further names get series of their own.
    pub limit: usize,
}

const NAME_LIMIT: usize = 1024; // what stands in a log; as a label a name of more than 128 bytes is `other`

impl Tenants {
    /// The tenant of a request: the first header that holds a name, else the default. Text that is not
    /// UTF-8 or holds control characters is no name.
    pub fn resolve(&self, headers: &HeaderMap) -> Name {
        let named = |header: &HeaderName| {
            let text = std::str::from_utf8(headers.get(header)?.as_bytes()).ok()?.trim();
            let is_name = !text.is_empty() && !text.chars().any(char::is_control);
            is_name.then(|| Name::bounded(text, NAME_LIMIT))
        };
        self.headers.iter().find_map(named).unwrap_or_else(|| self.default.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(headers: &[(&'static str, &str)]) -> String {
        let tenants = Tenants {
            headers: vec![HeaderName::from_static("x-team"), HeaderName::from_static("x-tenant-id")],
            default: Name::from("anonymous"),
            known: Vec::new(),
            limit: 200,
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        tenants.resolve(&map).as_str().to_owned()
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
}
