//! The keys of who issues tokens (RFC 7517): as a file has them, or as they were fetched last. Fetching is an edge's.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use http::Uri;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::exchange::Name;

/// The most keys of a set: a token that names none is tried against each. Issuers have two to ten.
const KEYS: usize = 64;

/// The longest URL in a label, in bytes, as of other names there.
const LABEL_LIMIT: usize = 128;

/// Keys that check signatures.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    jwk: Jwk,
    /// The only one that it checks: whoever writes a token chooses its `alg`.
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It names a key that the set does not have; the issuer may have a new one.
    UnknownKey,
    /// None of these keys signed it.
    NotSigned,
}

/// Keys that are fetched from a URL. None until the first answer is here.
#[derive(Debug)]
pub struct Fetched {
    /// Where they are.
    pub url: Uri,
    /// PEM file of the roots to trust instead of the system's.
    pub ca: Option<PathBuf>,
    set: ArcSwapOption<KeySet>,
    wanted: AtomicBool,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys of other kinds or for other uses than checking RS256, ES256 or EdDSA are left out.
    ///
    /// # Errors
    /// It is none, or has no key that is left. Completes the name of where it came from, and repeats nothing of it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|error| {
            format!("is no JSON Web Key Set (line {}, column {})", error.line(), error.column())
        })?;
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::of).collect();
        if keys.is_empty() {
            return Err("has no key for RS256, ES256 or EdDSA".to_owned());
        }
        if keys.len() > KEYS {
            return Err(format!("has {} keys, more than the {KEYS} that are tried", keys.len()));
        }
        Ok(Self(keys))
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The claims of a token that one of these keys has signed.
    pub(super) fn claims(&self, token: &str) -> Result<Map<String, Value>, Refused> {
        let header = decode_header(token).map_err(|_| Refused::NotSigned)?;
        // RFC 7515, section 4.1.11: who does not understand what is critical must refuse it.
        let is_plain = header.crit.is_none();
        if !is_plain || !Key::ALGORITHMS.contains(&header.alg) {
            return Err(Refused::NotSigned);
        }
        let named = |key: &Key| key.jwk.common.key_id == header.kid;
        let is_meant = |key: &&Key| header.kid.is_none() || key.jwk.common.key_id.is_none() || named(key);
        let mut validation = Validation::new(header.alg);
        // When it holds is asked at each request; whom it is for is not ours to judge.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let mut able = self.0.iter().filter(is_meant).filter(|key| key.algorithm == header.alg);
        able.find_map(|key| decode(token, &key.key, &validation).ok()).map(|data| data.claims).ok_or_else(
            || match header.kid.is_none() || self.0.iter().any(named) {
                true => Refused::NotSigned,
                false => Refused::UnknownKey,
            },
        )
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        // Some issuers show their keys in another order each time.
        let has = |set: &Self, key: &Key| set.0.iter().any(|own| own.jwk == key.jwk);
        self.0.iter().all(|key| has(other, key)) && other.0.iter().all(|key| has(self, key))
    }
}

impl Key {
    /// The signatures that are checked.
    const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

    /// A key, where it is one that checks signatures. Others may stand beside it in a set.
    fn of(jwk: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            _ => return None,
        };
        let common = &jwk.common;
        let is_for = common.key_algorithm.is_none_or(|own| own == KeyAlgorithm::from(algorithm));
        let signs = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        let checks = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (is_for && signs && checks).then_some(Self { jwk, algorithm, key })
    }
}

impl Fetched {
    /// Keys that are at a URL; none yet.
    pub fn new(url: Uri, ca: Option<PathBuf>) -> Self {
        Self { url, ca, set: ArcSwapOption::empty(), wanted: AtomicBool::new(false) }
    }

    /// The keys that were fetched last.
    pub fn set(&self) -> Option<Arc<KeySet>> {
        self.set.load_full()
    }

    /// From now on these are the keys.
    pub fn publish(&self, set: Option<Arc<KeySet>>) {
        self.set.store(set);
    }

    /// A token came that other keys might explain.
    pub(super) fn want(&self) {
        if !self.wanted.load(Ordering::Relaxed) {
            self.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether such a token came since this was asked last.
    pub fn take_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    /// The URL as it stands in labels and logs: without its query, which may be a secret.
    pub fn label(&self) -> Name {
        let (scheme, authority) = (self.url.scheme_str(), self.url.authority());
        let text = format!(
            "{}://{}{}",
            scheme.unwrap_or_default(),
            authority.map_or("", |authority| authority.as_str()),
            self.url.path()
        );
        Name::bounded(&text, LABEL_LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    // Keys of an issuer and tokens of its, made by PyJWT: `{"org_id": "acme"}`.
    const N: &str = "jMEkaKa26pOOTJIhs2XHRTS2R7O_vYovFXOJ_ivU1Lf8VAkGUsRzdNrp-SbdwfxmdkQ8iQdCDDZhO-m8hS8nBgAGx-sdPp61zJtI9uq4gC0Vy5dUoL4-xJeRGs5AHDkVPKvsZ9ywJTQCi4_jTXpI1NNQh4fgwrKbN8ggWwCuy4ir-da3S9njKe1XaGAXdMFEWiTRpvu1kFk_Fb0G9py1ExngrkXpt12wLsZBQ97PUIDBFMSHkrM-IPOLPQJJDwyAuej2z8a1sH5UGqc5XmtHFuNrKCkMqQ6MvXnVSPm7R_pQhSBQvXm951N472Syq5PP-3bnNkfB5nqx7LdnZ0JZEQ";
    const X: &str = "fsHpPeOQScAfueTiPaO00-ctmwLOe3xAjCJ8Md5GmXM";
    const Y: &str = "dQpKzTsSuvfeLTRCxNUp8l_MoyRQSAK_5-dtBohTx8Y";
    const RS256: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InIiLCJ0eXAiOiJKV1QifQ.eyJvcmdfaWQiOiJhY21lIn0.cMiOH0fW4v8sJjXDspVMNSLLNoxX7oad2ZM323jiiwy5nEvhfDiWt872_BNActCUCGuWe3OjA3WGTb1x9C7YAhd6y7xvqvFgOC3xqCaSyi-oGhRRvgJqo2Z7mllGAgfmcdSGPUlCOOURWQDkWylTwAm0zEkm5d0trtn_KaPquPtJtFDVp56iEmoFgfXwbk1m-L3CiMCfDyQlBNuazpLqU_dvnj3iBnrjdyfV-v9Y6B6g5X-bDXiX_e4VU_ggTO4o-fIirTHZRT-Ifp1ymajVNlmj-FJ-g0qPrpNkxS9t2P4_NNmWuRo5FO4V0fxpGMHT4G1vYm3u7Sgtlx_3iE_cJw";
    const ES256: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImUiLCJ0eXAiOiJKV1QifQ.eyJvcmdfaWQiOiJhY21lIn0.flyMbsEMz939PLbZErH6BBjV6qJVdqSE6xtes0TUQeIn3LeLYnDKAIkYld3u9ekP87eYdwVU7O8dGrZCJZNtCg";
    const PS256: &str = "eyJhbGciOiJQUzI1NiIsImtpZCI6InIiLCJ0eXAiOiJKV1QifQ.eyJvcmdfaWQiOiJhY21lIn0.OMgC4lKofQ4P5VHkxNeWJ8yF_Ffe2JXcQlzUOVc5xi-1YNxnU3vHD1PhGN-wS-5RE0uxi-eZjv69EYdyk6NlcNKOLcb8b9JV_FqN7ifTPDzoQ3f6Je62AxCmZPj0ZnAPqCDFfb_t01-Mbu3ZFfsKF8a5rJYT9YKyqr_DRokzxJndSqo82sxfyTV3Wj0X0BEcfbi5r3eur5GXrV9hlm4n3eCAVlmyGolfGfN8Xe9RLcOpcZIHsfrZB45nq2aS_Pq5C6upzDqujohP9SFlaQ4t69ORGHVLKbsZfxYh7HKCY9M5aP7BbHmdm4ltmcN4a0Z-UCIMDfOtmjhxlQ7OUnB1bA";
    const CRITICAL: &str = "eyJhbGciOiJSUzI1NiIsImNyaXQiOlsiYjY0Il0sImtpZCI6InIiLCJ0eXAiOiJKV1QifQ.eyJvcmdfaWQiOiJhY21lIn0.CPg7GLSrz1x_UZSP_5ej2dO7z_oNGXIfKjVd706yJTpIdg2H1YBEdK9FYu2fl8UyaZXioXaKUPGo9ekUVfVHduV_mxSOFClZ7UNSUkQ465F9jUb6cXCCkokix-UgluG3fKuFt-n_DEdR-hmjerHu2WC1kAcHlvgMd0A4MeWRakXFWWYl5j6eXltWkSMC_Rhj2YZ69882ctSaO8vGRgjZ2kpKwlqLzjy1y3mm_NMIV8ZDCs3ps6GVvgT309och1BXo4BZ8o2m6UESDieZbPWxBqWARIQjn0HYDM8JwY2iVbblSO7-OHbuXxa0UY9jnywvwb3SEVi1K-6Li4FgEyMtAQ";
    /// HS256, with the public RSA key's PEM as its secret.
    const HS256: &str = "eyJhbGciOiAiSFMyNTYiLCAia2lkIjogInIifQ.eyJvcmdfaWQiOiAiYWNtZSJ9._V6Rq_gwx55hruL-IwFyZXKCpNPnav_NSdrQ66Bjm0w";

    fn rsa() -> Value {
        json!({"kty": "RSA", "kid": "r", "n": N, "e": "AQAB"})
    }

    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "kid": "e", "x": X, "y": Y})
    }

    fn with(mut key: Value, member: &str, value: Value) -> Value {
        key[member] = value;
        key
    }

    fn parse(keys: Value) -> Result<KeySet, String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn refusal(keys: Value, token: &str) -> Option<Refused> {
        parse(keys).unwrap().claims(token).err()
    }

    #[test]
    fn a_token_is_signed_by_the_key_that_it_names_with_that_keys_algorithm() {
        let both = || json!([rsa(), ec()]);
        assert_eq!(parse(both()).unwrap().claims(RS256).unwrap()["org_id"], "acme");
        assert_eq!(parse(both()).unwrap().claims(ES256).unwrap()["org_id"], "acme");
        for token in [PS256, CRITICAL, HS256] {
            assert_eq!(refusal(both(), token), Some(Refused::NotSigned), "{token}");
        }
        let renamed = json!([with(rsa(), "kid", json!("e")), with(ec(), "kid", json!("r"))]);
        assert_eq!(refusal(renamed, RS256), Some(Refused::NotSigned));
        assert_eq!(refusal(json!([ec()]), RS256), Some(Refused::UnknownKey));
    }

    #[test]
    fn a_key_without_a_name_is_tried_whatever_a_token_names() {
        let mut nameless = rsa();
        nameless.as_object_mut().unwrap().remove("kid");
        assert_eq!(refusal(json!([nameless.clone()]), RS256), None);
        assert_eq!(refusal(json!([nameless.clone()]), ES256), Some(Refused::UnknownKey));
        let other = with(ec(), "x", json!(Y));
        assert_eq!(refusal(json!([nameless, other]), ES256), Some(Refused::NotSigned));
    }

    #[test]
    fn the_same_keys_in_another_order_are_the_same_set() {
        assert_eq!(parse(json!([rsa(), ec()])), parse(json!([ec(), rsa()])));
        assert_ne!(parse(json!([rsa(), ec()])), parse(json!([rsa()])));
        assert_ne!(parse(json!([rsa()])), parse(json!([with(rsa(), "kid", json!("s"))])));
    }

    #[test]
    fn a_key_that_is_for_something_else_is_left_out() {
        for (member, value) in [
            ("use", json!("enc")),
            ("alg", json!("RS512")),
            ("alg", json!("PS256")),
            ("alg", json!("RSA-OAEP")),
            ("alg", json!("HS256")),
            ("alg", json!("ES256")),
            ("alg", json!("new")),
            ("key_ops", json!(["encrypt"])),
            ("kty", json!("AKP")),
            ("n", json!(5)),
        ] {
            let keys = json!([with(rsa(), member, value.clone()), ec()]);
            assert_eq!(parse(keys.clone()).unwrap().count(), 1, "{member}: {value}");
            assert_eq!(refusal(keys, RS256), Some(Refused::UnknownKey), "{member}: {value}");
        }
        for (member, value) in
            [("use", json!("sig")), ("alg", json!("RS256")), ("key_ops", json!(["verify"]))]
        {
            assert_eq!(refusal(json!([with(rsa(), member, value)]), RS256), None, "{member}");
        }
    }

    #[test]
    fn a_shared_secret_in_a_set_checks_nothing() {
        let header = Header { kid: Some("s".to_owned()), ..Header::new(Algorithm::HS256) };
        let key = EncodingKey::from_secret(b"secret");
        let token = encode(&header, &json!({"org_id": "evil"}), &key).unwrap();
        let secret = json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0"});
        assert_eq!(refusal(json!([rsa(), secret.clone()]), &token), Some(Refused::NotSigned));
        assert_eq!(parse(json!([secret])).unwrap_err(), "has no key for RS256, ES256 or EdDSA");
    }

    #[test]
    fn what_is_no_set_is_refused_and_nothing_of_it_repeated() {
        let wrong = |text: &str| KeySet::parse(text.as_bytes()).unwrap_err();
        for text in
            ["\"sk-secret\"", "sk-secret", "{\"keys\": \"sk-secret\"}", "[]", "", "{\"sk-secret\": 1}"]
        {
            let error = wrong(text);
            assert!(error.starts_with("is no JSON Web Key Set (line ") && !error.contains("sk-"), "{error}");
        }
        assert_eq!(wrong("{\"keys\": []}"), "has no key for RS256, ES256 or EdDSA");
        assert!(parse(json!(vec![rsa(); KEYS])).is_ok());
        assert_eq!(
            parse(json!(vec![rsa(); KEYS + 1])).unwrap_err(),
            "has 65 keys, more than the 64 that are tried"
        );
    }

    #[test]
    fn a_url_is_shown_without_its_query() {
        let label = |url: &str| Fetched::new(url.parse().unwrap(), None).label().to_string();
        assert_eq!(label("https://id.example:8443/keys?token=secret"), "https://id.example:8443/keys");
        assert_eq!(label("http://id.example"), "http://id.example/");
    }
}
