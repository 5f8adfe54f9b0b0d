//! One good token, and every way we know to make it a bad one.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_700_000_000;

struct Issuer {
    key: EncodingKey,
    public: Value,
}

impl Issuer {
    fn new(key_id: &str) -> Issuer {
        let pair = rcgen::KeyPair::generate().expect("a P-256 key");
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("its public half");
        public.common.key_id = Some(key_id.into());
        Issuer { key, public: json!(public) }
    }

    fn keys(&self) -> KeySet {
        key_set(std::slice::from_ref(&self.public)).expect("a key set")
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with(header(), claims)
    }

    fn sign_with(&self, header: Header, claims: &Value) -> String {
        encode(&header, claims, &self.key).expect("a token")
    }
}

fn key_set(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

fn header() -> Header {
    Header { kid: Some("k1".into()), ..Header::new(Algorithm::ES256) }
}

fn claims() -> Value {
    json!({ "iss": "https://issuer", "aud": "meridian", "sub": "ann", "iat": NOW, "exp": NOW + 3600 })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn rules() -> Rules {
    Rules::new("https://issuer", "meridian")
}

fn outcome(claims: &Value) -> Result<Verified, TokenError> {
    let issuer = Issuer::new("k1");
    verify(&rules(), &issuer.keys(), &issuer.sign(claims), NOW)
}

#[test]
fn a_good_token_names_its_principal() {
    let verified = outcome(&with("jti", json!("t-1"))).expect("a good token");
    assert_eq!(verified.principal, Principal::user("ann"));
    assert_eq!((verified.expires_at_s, verified.key_id.as_str(), verified.token_id.as_deref()), (NOW + 3600, "k1", Some("t-1")));
    assert!(outcome(&with("aud", json!(["other", "meridian"]))).is_ok());
}

#[test]
fn claims_are_required_and_typed() {
    for name in ["iss", "aud", "sub", "exp", "iat"] {
        assert_eq!(outcome(&without(name)), Err(TokenError::Claims), "{name}");
    }
    assert_eq!(outcome(&with("iss", json!(["https://issuer"]))), Err(TokenError::Claims));
    assert_eq!(outcome(&with("exp", json!("tomorrow"))), Err(TokenError::Claims));
}

#[test]
fn a_strangers_issuer_or_audience_is_refused() {
    assert_eq!(outcome(&with("iss", json!("https://issuer/"))), Err(TokenError::Issuer));
    assert_eq!(outcome(&with("aud", json!("other"))), Err(TokenError::Audience));
    assert_eq!(outcome(&with("aud", json!([]))), Err(TokenError::Audience));
}

#[test]
fn time_is_respected_within_the_leeway() {
    let lived = |iat: i64, exp: i64| json!({ "iss": "https://issuer", "aud": "meridian", "sub": "ann", "iat": iat, "exp": exp });
    assert!(outcome(&lived(NOW - 100, NOW - 29)).is_ok());
    assert_eq!(outcome(&lived(NOW - 100, NOW - 30)), Err(TokenError::Expired));
    assert_eq!(outcome(&lived(NOW + 31, NOW + 100)), Err(TokenError::NotYetValid));
    assert_eq!(outcome(&with("nbf", json!(NOW + 31))), Err(TokenError::NotYetValid));
    assert_eq!(outcome(&lived(NOW, NOW + 86_401)), Err(TokenError::Lifetime));
    assert_eq!(outcome(&with("exp", json!(1e300))), Err(TokenError::Lifetime));
}

#[test]
fn a_configured_leeway_beyond_the_limit_counts_as_the_limit() {
    let issuer = Issuer::new("k1");
    let token = issuer.sign(&with("exp", json!(NOW + 10)));
    let lax = Rules { leeway_s: 1_000_000, ..rules() };
    assert_eq!(verify(&lax, &issuer.keys(), &token, NOW + 41), Err(TokenError::Expired));
}

#[test]
fn a_subject_that_could_pass_for_a_wildcard_is_refused() {
    for subject in ["", "*", "a*", "a\u{0}b", "line\nbreak"] {
        assert_eq!(outcome(&with("sub", json!(subject))), Err(TokenError::Subject), "{subject:?}");
    }
    assert_eq!(outcome(&with("sub", json!("x".repeat(256)))), Err(TokenError::Subject));
    assert!(outcome(&with("sub", json!("é".repeat(255)))).is_ok());
}

#[test]
fn a_token_without_signature_is_refused() {
    let issuer = Issuer::new("k1");
    let good = issuer.sign(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none","kid":"k1"}
    let none = format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{}.", parts[1]);
    assert_eq!(verify(&rules(), &issuer.keys(), &none, NOW), Err(TokenError::Malformed));
    let stripped = format!("{}.{}.", parts[0], parts[1]);
    assert!(verify(&rules(), &issuer.keys(), &stripped, NOW).is_err());
    assert_eq!(verify(&rules(), &issuer.keys(), &format!("{}.{}", parts[0], parts[1]), NOW), Err(TokenError::Malformed));
}

#[test]
fn another_issuers_signature_under_our_key_id_is_refused() {
    let (ours, theirs) = (Issuer::new("k1"), Issuer::new("k1"));
    assert_eq!(verify(&rules(), &ours.keys(), &theirs.sign(&claims()), NOW), Err(TokenError::Signature));
}

#[test]
fn a_public_key_is_never_taken_for_a_shared_secret() {
    let issuer = Issuer::new("k1");
    let secret = EncodingKey::from_secret(issuer.public.to_string().as_bytes());
    let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
    let token = encode(&header, &claims(), &secret).expect("a token");
    assert_eq!(verify(&rules(), &issuer.keys(), &token, NOW), Err(TokenError::Algorithm));
}

#[test]
fn a_header_that_brings_its_own_key_or_terms_is_refused() {
    let issuer = Issuer::new("k1");
    let headers = [
        Header { jku: Some("https://evil/keys".into()), ..header() },
        Header { x5u: Some("https://evil/cert".into()), ..header() },
        Header { x5c: Some(vec!["AAAA".into()]), ..header() },
        Header { crit: Some(vec!["exp".into()]), ..header() },
        Header { typ: Some("secevent+jwt".into()), ..header() },
    ];
    for header in headers {
        let token = issuer.sign_with(header.clone(), &claims());
        assert_eq!(verify(&rules(), &issuer.keys(), &token, NOW), Err(TokenError::Header), "{header:?}");
    }
}

#[test]
fn a_token_names_a_key_of_the_set_or_the_only_one() {
    let (one, two) = (Issuer::new("k1"), Issuer::new("k2"));
    let nameless = one.sign_with(Header::new(Algorithm::ES256), &claims());
    assert!(verify(&rules(), &one.keys(), &nameless, NOW).is_ok());
    let both = key_set(&[one.public.clone(), two.public.clone()]).expect("two keys");
    assert_eq!(verify(&rules(), &both, &nameless, NOW), Err(TokenError::UnknownKey));
    assert_eq!(verify(&rules(), &two.keys(), &one.sign(&claims()), NOW), Err(TokenError::UnknownKey));
    assert_eq!(key_id_of(&one.sign(&claims())).as_deref(), Some("k1"));
}

#[test]
fn a_token_too_long_is_not_looked_at() {
    let issuer = Issuer::new("k1");
    assert_eq!(verify(&rules(), &issuer.keys(), &"x".repeat(TOKEN_BYTES_MAX + 1), NOW), Err(TokenError::TooLong));
}

#[test]
fn a_key_set_keeps_only_strong_public_signature_keys() {
    let issuer = Issuer::new("k1");
    let symmetric = json!({ "kty": "oct", "kid": "s", "k": "c2VjcmV0" });
    let mut for_encryption = issuer.public.clone();
    for_encryption["kid"] = json!("e");
    for_encryption["use"] = json!("enc");
    let keys = key_set(&[symmetric.clone(), issuer.public.clone(), for_encryption]).expect("one key is good");
    assert_eq!(keys.key_ids().collect::<Vec<_>>(), ["k1"]);
    assert!(key_set(&[symmetric]).is_err());

    assert!(key_set(&[issuer.public.clone(), issuer.public.clone()]).is_err(), "one id twice");
    let mut contradictory = issuer.public.clone();
    contradictory["alg"] = json!("RS256");
    assert!(key_set(&[contradictory]).is_err());
    let weak = json!({ "kty": "RSA", "kid": "w", "n": "x".repeat(171), "e": "AQAB" });
    assert!(key_set(&[weak]).is_err());
    let mut nameless = issuer.public.clone();
    nameless.as_object_mut().expect("an object").remove("kid");
    assert!(key_set(&[nameless]).is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_verifier_panic(token in "[A-Za-z0-9_.-]{0,80}|\\PC{0,40}", document in "\\PC{0,80}") {
        let issuer = Issuer::new("k1");
        proptest::prop_assert!(verify(&rules(), &issuer.keys(), &token, NOW).is_err());
        proptest::prop_assert!(KeySet::parse(document.as_bytes()).is_err());
    }
}
