//! A tenant's name as a claim of the JSON Web Token that the client shows (RFC 7519), its signature checked against a set
//! of keys (RFC 7517). No token is kept: what was found out about one is remembered under its SHA-256.

use std::time::SystemTime;

use hashbrown::HashMap;
use http::{HeaderMap, HeaderName};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::tenant::{Digest, digest};
use crate::exchange::Name;

/// How many tokens are remembered. When there are more, all are forgotten and checked anew.
const REMEMBERED: usize = 4096;

/// A longer token is none: a head has no more room for it either.
const TOKEN_LIMIT: usize = 64 << 10;

/// How far the clocks of who issued a token and ours may be apart, in seconds.
const LEEWAY: u64 = 60;

/// The signatures that are checked.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// How a tenant's name is found in a token.
#[derive(Debug)]
pub struct JwtClaim {
    /// The header that has the token, with or without `Bearer`.
    header: HeaderName,
    /// The claim that is the name.
    claim: String,
    keys: Keys,
    known: Mutex<HashMap<Digest, Verdict>>,
}

#[derive(Debug)]
enum Keys {
    /// Whoever can write a token can be any tenant.
    Unchecked,
    Set(JwkSet),
}

/// What a token says, where it can be believed: a name, from when and until when.
#[derive(Debug, Clone, Default)]
struct Verdict {
    name: Option<Name>,
    from: Option<u64>,
    until: Option<u64>,
}

impl JwtClaim {
    /// A claim of tokens that are signed by one of these keys (a JSON Web Key Set).
    ///
    /// # Errors
    /// The text is none, or has no key of a kind that is checked.
    pub fn signed(header: HeaderName, claim: String, jwks: &str) -> Result<Self, String> {
        let set: JwkSet =
            serde_json::from_str(jwks).map_err(|error| format!("is no JSON Web Key Set: {error}"))?;
        if !set.keys.iter().any(|key| DecodingKey::from_jwk(key).is_ok()) {
            return Err("has no key for RS256, ES256 or EdDSA".to_owned());
        }
        Ok(Self { header, claim, keys: Keys::Set(set), known: Mutex::default() })
    }

    /// A claim of tokens whose signatures are not checked.
    pub fn unchecked(header: HeaderName, claim: String) -> Self {
        Self { header, claim, keys: Keys::Unchecked, known: Mutex::default() }
    }

    /// Whether signatures are checked.
    pub fn is_checked(&self) -> bool {
        matches!(self.keys, Keys::Set(_))
    }

    /// The name in the token that a request shows, where it holds now.
    pub fn find(&self, headers: &HeaderMap, now: SystemTime) -> Option<Name> {
        let value = headers.get(&self.header)?.to_str().ok()?;
        let bearer = value
            .split_at_checked("Bearer ".len())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer "));
        let token = bearer.map_or(value, |(_, token)| token).trim();
        if token.len() > TOKEN_LIMIT || token.bytes().filter(|byte| *byte == b'.').count() != 2 {
            return None;
        }
        let key = digest(token.as_bytes());
        let known = self.known.lock().get(&key).cloned();
        let verdict = known.unwrap_or_else(|| {
            let verdict = self.read(token).unwrap_or_default();
            let mut known = self.known.lock();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(key, verdict.clone());
            verdict
        });
        verdict.at(now)
    }

    /// What a token says; none where its signature is none of ours.
    fn read(&self, token: &str) -> Option<Verdict> {
        let claims = match &self.keys {
            Keys::Unchecked => jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?,
            Keys::Set(set) => signed_claims(token, set)?,
        };
        let number = |name: &str| claims.get(name).map(|value| value.as_f64().map_or(0, |time| time as u64));
        let name = match claims.get(&self.claim)? {
            Value::String(text) => Name::bounded(text.trim(), super::tenant::NAME_LIMIT),
            Value::Number(number) => Name::from(number.to_string().as_str()),
            _ => return None,
        };
        let is_name = !name.as_str().is_empty() && !name.as_str().chars().any(char::is_control);
        Some(Verdict { name: Some(name).filter(|_| is_name), from: number("nbf"), until: number("exp") })
    }
}

/// The claims of a token that one of these keys has signed.
fn signed_claims(token: &str, set: &JwkSet) -> Option<Map<String, Value>> {
    let header = decode_header(token).ok()?;
    if !ALGORITHMS.contains(&header.alg) {
        return None;
    }
    let mut validation = Validation::new(header.alg);
    // When it holds is asked at each request; whom it is for is not ours to judge.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let is_meant = |key: &&Jwk| header.kid.is_none() || key.common.key_id == header.kid;
    set.keys.iter().filter(is_meant).find_map(|key| {
        let key = DecodingKey::from_jwk(key).ok()?;
        decode(token, &key, &validation).ok().map(|data| data.claims)
    })
}

impl Verdict {
    fn at(self, now: SystemTime) -> Option<Name> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let begun = self.from.is_none_or(|from| from <= now.saturating_add(LEEWAY));
        let holds = self.until.is_none_or(|until| now < until.saturating_add(LEEWAY));
        self.name.filter(|_| begun && holds)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    /// A key for the tests, and the set that has its public half.
    struct Issuer {
        key: EncodingKey,
        algorithm: Algorithm,
        jwks: String,
    }

    /// Ed25519, from a fixed seed: the first test vector of RFC 8032.
    fn issuer() -> Issuer {
        let seed = "302e020100300506032b6570042204209d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let der: Vec<u8> = seed
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "use": "sig",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        Issuer {
            key: EncodingKey::from_ed_der(&der),
            algorithm: Algorithm::EdDSA,
            jwks: json!({"keys": [jwk]}).to_string(),
        }
    }

    impl Issuer {
        fn token(&self, kid: &str, claims: &Value) -> String {
            let header = Header { kid: Some(kid.to_owned()), ..Header::new(self.algorithm) };
            encode(&header, claims, &self.key).unwrap()
        }
    }

    fn find(claim: &JwtClaim, value: &str, now: u64) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", value.parse().unwrap());
        claim.find(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(now)).map(|name| name.to_string())
    }

    fn signed(issuer: &Issuer) -> JwtClaim {
        JwtClaim::signed(http::header::AUTHORIZATION, "org_id".to_owned(), &issuer.jwks).unwrap()
    }

    #[test]
    fn a_signed_token_names_its_tenant_while_it_holds() {
        let (issuer, claim) = (issuer(), signed(&issuer()));
        let token =
            issuer.token("k1", &json!({"org_id": "acme", "nbf": 1_000, "exp": 2_000, "aud": "others"}));
        for (now, want) in
            [(939, None), (940, Some("acme")), (2_059, Some("acme")), (2_060, None), (1_500, Some("acme"))]
        {
            assert_eq!(find(&claim, &format!("Bearer {token}"), now).as_deref(), want, "at {now}");
        }
        assert_eq!(claim.known.lock().len(), 1);
        assert_eq!(find(&claim, &token, 1_500).as_deref(), Some("acme"), "without a scheme");
    }

    #[test]
    fn what_is_not_signed_by_a_known_key_names_nobody() {
        let (issuer, claim) = (issuer(), signed(&issuer()));
        let good = issuer.token("k1", &json!({"org_id": "acme"}));
        let (rest, signature) = good.rsplit_once('.').unwrap();
        let (head, _) = rest.split_once('.').unwrap();
        let none = "eyJhbGciOiJub25lIn0"; // {"alg":"none"}
        let other = "eyJvcmdfaWQiOiJldmlsIn0"; // {"org_id":"evil"}
        for wrong in [
            issuer.token("k2", &json!({"org_id": "acme"})),
            issuer.token("k1", &json!({"sub": "acme"})),
            issuer.token("k1", &json!({"org_id": "a\nb"})),
            issuer.token("k1", &json!({"org_id": ["acme"]})),
            format!("{head}.{other}.{signature}"),
            format!("{none}.{other}."),
            "a.b.c".to_owned(),
            "not a token".to_owned(),
        ] {
            assert_eq!(find(&claim, &wrong, 1_500), None, "{wrong}");
        }
        let unchecked = JwtClaim::unchecked(http::header::AUTHORIZATION, "org_id".to_owned());
        assert_eq!(find(&unchecked, &format!("{head}.{other}.{signature}"), 0).as_deref(), Some("evil"));
    }

    #[test]
    fn a_set_without_a_key_that_can_be_used_is_refused() {
        let wrong = |text| JwtClaim::signed(http::header::AUTHORIZATION, "c".to_owned(), text).unwrap_err();
        assert!(wrong("[]").starts_with("is no JSON Web Key Set"), "{}", wrong("[]"));
        assert_eq!(wrong(r#"{"keys": []}"#), "has no key for RS256, ES256 or EdDSA");
    }
}
