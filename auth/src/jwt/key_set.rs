//! A set of public keys from a JWKS document. Each key is good for exactly one algorithm.

use std::collections::BTreeMap;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

/// Largest document read.
pub const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// Most keys in one document.
pub const KEYS_MAX: usize = 128;
const KEY_ID_BYTES_MAX: usize = 255;
/// RSA moduli below 2048 bits are refused: 2048 bits are 256 bytes, 342 characters in base64url.
const RSA_MODULUS_CHARACTERS_MIN: usize = 342;
/// Beyond 8192 bits, verifying is a cheap way to burn our processor.
const RSA_MODULUS_CHARACTERS_MAX: usize = 1366;

/// Public keys by key id.
#[derive(Debug, Clone)]
pub struct KeySet {
    keys: BTreeMap<String, Key>,
}

#[derive(Clone)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key set refused: {0}")]
pub struct KeySetError(pub String);

impl KeySet {
    /// Parses a JWKS document. Symmetric keys and keys that are not for signatures are dropped; a weak, contradictory or
    /// duplicate key refuses the whole document, as does one in which no key is left.
    pub fn parse(jwks: &[u8]) -> Result<KeySet, KeySetError> {
        #[derive(serde::Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        if jwks.len() > KEY_SET_BYTES_MAX {
            return Err(KeySetError(format!("{} bytes, at most {KEY_SET_BYTES_MAX} are read", jwks.len())));
        }
        let document: Document = serde_json::from_slice(jwks).map_err(|error| KeySetError(format!("no JWKS document: {error}")))?;
        if document.keys.len() > KEYS_MAX {
            return Err(KeySetError(format!("{} keys, at most {KEYS_MAX} are kept", document.keys.len())));
        }
        let mut keys = BTreeMap::new();
        for value in document.keys {
            let Some((id, key)) = usable(value)? else { continue };
            if keys.insert(id.clone(), key).is_some() {
                return Err(KeySetError(format!("two keys have the id {id:?}")));
            }
        }
        if keys.is_empty() {
            return Err(KeySetError("it holds no usable public key".into()));
        }
        Ok(KeySet { keys })
    }

    pub fn contains(&self, key_id: &str) -> bool {
        self.keys.contains_key(key_id)
    }

    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// The key a token names; a token without a name gets the only key, if there is just one.
    pub(super) fn find(&self, key_id: Option<&str>) -> Option<(&str, &Key)> {
        match key_id {
            Some(id) => self.keys.get_key_value(id).map(|(id, key)| (id.as_str(), key)),
            None if self.keys.len() == 1 => self.keys.first_key_value().map(|(id, key)| (id.as_str(), key)),
            None => None,
        }
    }
}

/// None for a key that is simply not for us.
fn usable(value: serde_json::Value) -> Result<Option<(String, Key)>, KeySetError> {
    let kind = value.get("kty").and_then(|kind| kind.as_str()).unwrap_or_default().to_string();
    if !["RSA", "EC", "OKP"].contains(&kind.as_str()) {
        return Ok(None);
    }
    let jwk: Jwk = serde_json::from_value(value).map_err(|error| KeySetError(format!("a {kind} key: {error}")))?;
    let id = jwk.common.key_id.clone().unwrap_or_default();
    if id.is_empty() || id.len() > KEY_ID_BYTES_MAX {
        return Err(KeySetError(format!("a {kind} key has no id of 1 to {KEY_ID_BYTES_MAX} bytes")));
    }
    if !for_signatures(&jwk) {
        return Ok(None);
    }
    let algorithm = algorithm_of(&jwk).map_err(|why| KeySetError(format!("key {id:?}: {why}")))?;
    let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| KeySetError(format!("key {id:?} cannot be used")))?;
    Ok(Some((id, Key { algorithm, decoding })))
}

fn for_signatures(jwk: &Jwk) -> bool {
    let by_use = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let by_operations = jwk.common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    by_use && by_operations
}

/// The one algorithm a key may be used with: its own `alg`, which must suit its type; without one, the type's usual choice.
fn algorithm_of(jwk: &Jwk) -> Result<Algorithm, &'static str> {
    let stated = jwk.common.key_algorithm;
    match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(parameters) => {
            let (fitting, algorithm) = match parameters.curve {
                EllipticCurve::P256 => (KeyAlgorithm::ES256, Algorithm::ES256),
                EllipticCurve::P384 => (KeyAlgorithm::ES384, Algorithm::ES384),
                _ => return Err("its curve is not supported"),
            };
            if stated.is_none_or(|stated| stated == fitting) {
                Ok(algorithm)
            } else {
                Err("its algorithm and its curve contradict each other")
            }
        }
        AlgorithmParameters::OctetKeyPair(parameters) => match (&parameters.curve, stated) {
            (EllipticCurve::Ed25519, None | Some(KeyAlgorithm::EdDSA)) => Ok(Algorithm::EdDSA),
            (EllipticCurve::Ed25519, Some(_)) => Err("its algorithm and its curve contradict each other"),
            _ => Err("its curve is not supported"),
        },
        AlgorithmParameters::RSA(parameters) => {
            if parameters.n.len() < RSA_MODULUS_CHARACTERS_MIN {
                return Err("an RSA key needs at least 2048 bits");
            }
            if parameters.n.len() > RSA_MODULUS_CHARACTERS_MAX {
                return Err("an RSA key may have at most 8192 bits");
            }
            match stated {
                None | Some(KeyAlgorithm::RS256) => Ok(Algorithm::RS256),
                Some(KeyAlgorithm::RS384) => Ok(Algorithm::RS384),
                Some(KeyAlgorithm::RS512) => Ok(Algorithm::RS512),
                Some(KeyAlgorithm::PS256) => Ok(Algorithm::PS256),
                Some(KeyAlgorithm::PS384) => Ok(Algorithm::PS384),
                Some(KeyAlgorithm::PS512) => Ok(Algorithm::PS512),
                Some(_) => Err("its algorithm is not one for RSA signatures"),
            }
        }
        _ => Err("its type is not supported"),
    }
}
