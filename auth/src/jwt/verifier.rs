//! The verification of one token: header, key, signature, claims, in this order, so that no claim is believed before its signature.

use jsonwebtoken::{Validation, decode, decode_header};

use super::{KeySet, LEEWAY_S_MAX, Rules, TokenError, Verified};
use crate::principal::Principal;

/// Longest token looked at.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
const SUBJECT_CHARACTERS_MAX: usize = 255;
/// `typ` values of access tokens: RFC 7519's, RFC 9068's.
const TYPES: [&str; 3] = ["JWT", "at+jwt", "application/at+jwt"];

/// Claims, typed so that a list of issuers or a textual date does not parse. Times are NumericDate: a fraction is allowed.
#[derive(serde::Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: f64,
    iat: f64,
    nbf: Option<f64>,
    jti: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Verifies one token against the rules and keys at time `now_s` (seconds since the epoch).
pub fn verify(rules: &Rules, keys: &KeySet, token: &str, now_s: i64) -> Result<Verified, TokenError> {
    let key_name = checked_header(token)?;
    let (key_id, key) = keys.find(key_name.as_deref()).ok_or(TokenError::UnknownKey)?;
    let claims = signed_claims(token, key)?;
    check_claims(rules, &claims, now_s)?;
    Ok(Verified {
        principal: Principal::user(claims.sub),
        expires_at_s: claims.exp as i64,
        issued_at_s: claims.iat as i64,
        key_id: key_id.to_string(),
        token_id: claims.jti,
    })
}

/// The key id a token's header names, for deciding whether to refresh the key set; None if it names none or is no token.
pub fn key_id_of(token: &str) -> Option<String> {
    checked_header(token).ok().flatten()
}

fn checked_header(token: &str) -> Result<Option<String>, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    if token.split('.').count() != 3 {
        return Err(TokenError::Malformed);
    }
    // An unknown or absent algorithm (`none`) does not parse.
    let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
    let asks_for_more = header.crit.is_some()
        || header.jku.is_some()
        || header.jwk.is_some()
        || header.x5u.is_some()
        || header.x5c.is_some()
        || header.zip.is_some()
        || header.enc.is_some();
    let type_known = header.typ.as_deref().is_none_or(|given| TYPES.iter().any(|known| known.eq_ignore_ascii_case(given)));
    if asks_for_more || !type_known {
        return Err(TokenError::Header);
    }
    Ok(header.kid)
}

fn signed_claims(token: &str, key: &super::key_set::Key) -> Result<Claims, TokenError> {
    use jsonwebtoken::errors::ErrorKind;
    // Only the signature is the library's business: its time checks read the system clock, and its claim checks accept more than ours.
    let mut validation = Validation::new(key.algorithm);
    validation.algorithms = vec![key.algorithm];
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    match decode::<Claims>(token, &key.decoding, &validation) {
        Ok(data) => Ok(data.claims),
        Err(error) => Err(match error.kind() {
            ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
            ErrorKind::InvalidSignature => TokenError::Signature,
            ErrorKind::Json(_) | ErrorKind::Utf8(_) => TokenError::Claims,
            _ => TokenError::Malformed,
        }),
    }
}

fn check_claims(rules: &Rules, claims: &Claims, now_s: i64) -> Result<(), TokenError> {
    let now = now_s as f64;
    let leeway = rules.leeway_s.min(LEEWAY_S_MAX) as f64;
    if claims.iss != rules.issuer {
        return Err(TokenError::Issuer);
    }
    let meant_for_us = match &claims.aud {
        Audience::One(audience) => *audience == rules.audience,
        Audience::Many(audiences) => audiences.contains(&rules.audience),
    };
    if !meant_for_us {
        return Err(TokenError::Audience);
    }
    // Stated as what must hold, so that a NaN, if a parser ever let one through, is refused.
    let unexpired = claims.exp + leeway > now;
    let begun = claims.iat - leeway <= now && claims.nbf.is_none_or(|nbf| nbf - leeway <= now);
    let short_lived = claims.exp > claims.iat && claims.exp - claims.iat <= rules.lifetime_s_max as f64;
    if !unexpired {
        return Err(TokenError::Expired);
    }
    if !begun {
        return Err(TokenError::NotYetValid);
    }
    if !short_lived {
        return Err(TokenError::Lifetime);
    }
    check_subject(&claims.sub)
}

fn check_subject(subject: &str) -> Result<(), TokenError> {
    let length = subject.chars().count();
    if length == 0 || length > SUBJECT_CHARACTERS_MAX || subject.chars().any(|character| character.is_control() || character == '*') {
        return Err(TokenError::Subject);
    }
    Ok(())
}
