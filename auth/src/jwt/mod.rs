//! JSON Web Tokens, strictly: what is accepted is listed, everything else is refused. The algorithm comes from the key, never from the token.

mod key_set;
mod verifier;

pub use key_set::{KEY_SET_BYTES_MAX, KEYS_MAX, KeySet, KeySetError};
pub use verifier::{TOKEN_BYTES_MAX, key_id_of, verify};

use crate::principal::Principal;

/// Longest clock difference that [`Rules`] may tolerate, seconds.
pub const LEEWAY_S_MAX: u64 = 30;

/// What every token must satisfy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub issuer: String,
    pub audience: String,
    /// Tolerated clock difference, seconds; more than [`LEEWAY_S_MAX`] counts as that.
    pub leeway_s: u64,
    /// Longest `exp - iat` accepted, seconds (24 h by default).
    pub lifetime_s_max: u64,
}

impl Rules {
    /// A day's lifetime at most, clocks within half a minute.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Rules {
        Rules { issuer: issuer.into(), audience: audience.into(), leeway_s: LEEWAY_S_MAX, lifetime_s_max: 24 * 60 * 60 }
    }
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

/// Why a token was refused. Never holds anything of the token itself, so that it may be logged and counted by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("the token is not a signed JWT")]
    Malformed,
    #[error("the token's header asks for something that is not supported here")]
    Header,
    #[error("the token names no key of the key set")]
    UnknownKey,
    #[error("the token's algorithm is not its key's")]
    Algorithm,
    #[error("the token's signature does not verify")]
    Signature,
    #[error("the token's claims are incomplete or of the wrong type")]
    Claims,
    #[error("the token was issued by somebody else")]
    Issuer,
    #[error("the token is meant for somebody else")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token's lifetime is longer than allowed")]
    Lifetime,
    #[error("the token's subject cannot be a principal's name")]
    Subject,
}

#[cfg(test)]
mod tests;
