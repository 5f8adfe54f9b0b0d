//! JSON Web Tokens, strictly: what is accepted is listed, everything else is refused. The algorithm comes from the key, never from the token.

use crate::principal::Principal;

/// What every token must satisfy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub issuer: String,
    pub audience: String,
    /// Tolerated clock difference, seconds; at most 30.
    pub leeway_s: u64,
    /// Longest `exp - iat` accepted, seconds (24 h by default).
    pub lifetime_s_max: u64,
}

/// A verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub principal: Principal,
    pub expires_at_s: i64,
    pub issued_at_s: i64,
    pub key_id: String,
    pub token_id: Option<String>,
}

/// Why a token was refused. `reason()` is a short metric label; the message never holds token bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("token refused: {0}")]
    Refused(&'static str),
}

/// Public keys, parsed from a JWKS document.
#[derive(Debug, Clone)]
pub struct KeySet {}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key set refused: {0}")]
pub struct KeySetError(pub String);

#[allow(unused_variables)]
impl KeySet {
    /// At most 256 KiB of JSON; symmetric keys dropped, weak or contradictory keys refused.
    pub fn parse(jwks: &[u8]) -> Result<KeySet, KeySetError> {
        unimplemented!()
    }
    pub fn contains(&self, key_id: &str) -> bool {
        unimplemented!()
    }
}

/// Verifies one token against the rules and keys at time `now_s` (seconds since the epoch).
#[allow(unused_variables)]
pub fn verify(rules: &Rules, keys: &KeySet, token: &str, now_s: i64) -> Result<Verified, TokenError> {
    unimplemented!()
}

/// The key id a token's header names, for deciding whether to refresh the key set; None if the token is malformed.
#[allow(unused_variables)]
pub fn key_id_of(token: &str) -> Option<String> {
    unimplemented!()
}
