//! A tenant's name as a claim of the JSON Web Token that the client shows (RFC 7519), its signature checked against a set
//! of keys (RFC 7517). No token is kept: what was found out about one is remembered under its SHA-256.

use std::sync::Arc;
use std::time::SystemTime;

use hashbrown::HashMap;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use serde_json::Value;

use super::jwks::{Fetched, KeySet, Refused};
use super::tenant::{Digest, digest};
use crate::exchange::Name;

/// How many tokens are remembered. When there are more, all are forgotten and checked anew.
const REMEMBERED: usize = 4096;

/// A longer token is none: a head has no more room for it either.
const TOKEN_LIMIT: usize = 64 << 10;

/// How far the clocks of who issued a token and ours may be apart, in seconds.
const LEEWAY: u64 = 60;

/// How a tenant's name is found in a token.
#[derive(Debug)]
pub struct JwtClaim {
    /// The header that has the token, with or without `Bearer`.
    header: HeaderName,
    /// The claim that is the name.
    claim: String,
    keys: Keys,
    known: Mutex<Known>,
}

#[derive(Debug)]
enum Keys {
    /// Whoever can write a token can be any tenant.
    Unchecked,
    Set(Arc<KeySet>),
    Fetched(Arc<Fetched>),
}

/// What was found out about tokens, by one set of keys. Another set may know better, so it begins anew.
#[derive(Debug, Default)]
struct Known {
    by: Option<Arc<KeySet>>,
    verdicts: HashMap<Digest, Verdict>,
}

/// What a token says, where it can be believed: a name, from when and until when.
#[derive(Debug, Clone, Default)]
struct Verdict {
    name: Option<Name>,
    from: Option<u64>,
    until: Option<u64>,
    /// It names a key that is not in the set.
    is_of_unknown_key: bool,
}

impl JwtClaim {
    /// A claim of tokens that are signed by one of these keys.
    pub fn signed(header: HeaderName, claim: String, keys: KeySet) -> Self {
        Self { header, claim, keys: Keys::Set(Arc::new(keys)), known: Mutex::default() }
    }

    /// A claim of tokens that are signed by one of the keys at a URL.
    pub fn fetched(header: HeaderName, claim: String, keys: Fetched) -> Self {
        Self { header, claim, keys: Keys::Fetched(Arc::new(keys)), known: Mutex::default() }
    }

    /// A claim of tokens whose signatures are not checked.
    pub fn unchecked(header: HeaderName, claim: String) -> Self {
        Self { header, claim, keys: Keys::Unchecked, known: Mutex::default() }
    }

    /// Whether signatures are checked.
    pub fn is_checked(&self) -> bool {
        !matches!(self.keys, Keys::Unchecked)
    }

    /// The keys that somebody has to fetch.
    pub fn to_fetch(&self) -> Option<&Arc<Fetched>> {
        match &self.keys {
            Keys::Fetched(keys) => Some(keys),
            Keys::Unchecked | Keys::Set(_) => None,
        }
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
        let set = match &self.keys {
            Keys::Unchecked => None,
            Keys::Set(set) => Some(Arc::clone(set)),
            Keys::Fetched(fetched) => {
                let set = fetched.set();
                if set.is_none() {
                    fetched.want();
                }
                Some(set?)
            }
        };
        let key = digest(token.as_bytes());
        let known = self.known.lock().find(set.as_ref(), &key);
        let verdict = known.unwrap_or_else(|| {
            let verdict = self.read(token, set.as_deref());
            self.known.lock().keep(set.as_ref(), key, &verdict);
            verdict
        });
        if verdict.is_of_unknown_key
            && let Some(fetched) = self.to_fetch()
        {
            fetched.want();
        }
        verdict.at(now)
    }

    /// What a token says; nothing where its signature is none of ours.
    fn read(&self, token: &str, set: Option<&KeySet>) -> Verdict {
        let claims = match set {
            None => jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| Refused::NotSigned),
            Some(set) => set.claims(token),
        };
        let claims: serde_json::Map<String, Value> = match claims {
            Ok(claims) => claims,
            Err(refused) => {
                return Verdict { is_of_unknown_key: refused == Refused::UnknownKey, ..Verdict::default() };
            }
        };
        let number = |name: &str| claims.get(name).map(|value| value.as_f64().map_or(0, |time| time as u64));
        let name = match claims.get(&self.claim) {
            Some(Value::String(text)) => Some(Name::bounded(text.trim(), super::tenant::NAME_LIMIT)),
            Some(Value::Number(number)) => Some(Name::from(number.to_string().as_str())),
            _ => None,
        };
        let is_name = |name: &Name| !name.as_str().is_empty() && !name.as_str().chars().any(char::is_control);
        Verdict {
            name: name.filter(is_name),
            from: number("nbf"),
            until: number("exp"),
            is_of_unknown_key: false,
        }
    }
}

impl Known {
    fn is_by(&self, set: Option<&Arc<KeySet>>) -> bool {
        match (&self.by, set) {
            (None, None) => true,
            (Some(ours), Some(set)) => Arc::ptr_eq(ours, set),
            _ => false,
        }
    }

    fn find(&mut self, set: Option<&Arc<KeySet>>, token: &Digest) -> Option<Verdict> {
        if !self.is_by(set) {
            *self = Self { by: set.cloned(), verdicts: HashMap::new() };
        }
        self.verdicts.get(token).cloned()
    }

    /// Remembers a verdict, unless other keys have come meanwhile.
    fn keep(&mut self, set: Option<&Arc<KeySet>>, token: Digest, verdict: &Verdict) {
        if !self.is_by(set) {
            return;
        }
        if self.verdicts.len() >= REMEMBERED {
            self.verdicts.clear();
        }
        self.verdicts.insert(token, verdict.clone());
    }
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

    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
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

    fn set(issuer: &Issuer) -> KeySet {
        KeySet::parse(issuer.jwks.as_bytes()).unwrap()
    }

    fn signed(issuer: &Issuer) -> JwtClaim {
        JwtClaim::signed(http::header::AUTHORIZATION, "org_id".to_owned(), set(issuer))
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
        assert_eq!(claim.known.lock().verdicts.len(), 1);
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
    fn what_was_found_out_is_forgotten_with_the_keys_that_said_so() {
        let issuer = issuer();
        let renamed = Arc::new(KeySet::parse(issuer.jwks.replace("k1", "k2").as_bytes()).unwrap());
        let keys = Fetched::new("https://issuer/keys".parse().unwrap(), None);
        let claim = JwtClaim::fetched(http::header::AUTHORIZATION, "org_id".to_owned(), keys);
        let keys = claim.to_fetch().unwrap();
        let [old, new] = ["k1", "k2"].map(|kid| issuer.token(kid, &json!({"org_id": kid})));
        assert_eq!(find(&claim, &old, 0), None, "no keys yet");
        assert!(keys.take_wanted() && !keys.take_wanted());
        keys.publish(Some(Arc::new(set(&issuer))));
        assert_eq!(find(&claim, &old, 0).as_deref(), Some("k1"));
        assert!(!keys.take_wanted());
        for again in 0..2 {
            assert_eq!(find(&claim, &new, 0), None);
            assert!(keys.take_wanted(), "asked for, though what is remembered says so: {again}");
        }
        assert_eq!(claim.known.lock().verdicts.len(), 2);
        keys.publish(Some(renamed));
        assert_eq!(find(&claim, &new, 0).as_deref(), Some("k2"));
        assert!(!keys.take_wanted());
        assert_eq!(find(&claim, &old, 0), None);
        assert!(keys.take_wanted());
    }

    #[test]
    fn what_other_keys_said_meanwhile_is_not_remembered() {
        let issuer = issuer();
        let [old, new] = [(); 2].map(|()| Arc::new(set(&issuer)));
        let (mut known, token) = (Known::default(), digest(b"token"));
        assert!(known.find(Some(&old), &token).is_none());
        assert!(known.find(Some(&new), &token).is_none());
        known.keep(Some(&old), token, &Verdict::default());
        assert!(known.find(Some(&new), &token).is_none());
        known.keep(Some(&new), token, &Verdict::default());
        assert!(known.find(Some(&new), &token).is_some());
    }

    #[test]
    fn tokens_of_made_up_keys_fill_no_memory() {
        let (issuer, claim) = (issuer(), signed(&issuer()));
        let head = issuer.token("k1", &json!({}));
        let (rest, _) = head.rsplit_once('.').unwrap();
        for n in 0..=REMEMBERED {
            find(&claim, &format!("{rest}.{n}"), 0);
        }
        assert_eq!(claim.known.lock().verdicts.len(), 1);
    }
}
