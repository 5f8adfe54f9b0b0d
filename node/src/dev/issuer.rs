//! The development mesh's own token issuer: an ES256 key in the mesh's folder, and the JWKS document by which nodes know it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use meridian_auth::jwt::{KeySet, KeySetError};

/// `iss` of every token made here.
pub const ISSUER: &str = "https://issuer.dev.meridian.invalid";
/// `aud` that a development mesh's nodes expect.
pub const AUDIENCE: &str = "meridian";

const KEY_FILE: &str = "issuer.key.pem";
pub const JWKS_FILE: &str = "jwks.json";

/// An opened issuer. Its private key never leaves its file (mode 0600) and this value.
pub struct Issuer {
    key: EncodingKey,
    key_id: String,
    keys: KeySet,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("{path} is not a P-256 private key in PEM; remove it to have a new one made")]
    Key { path: PathBuf },
    #[error("the issuer's own {0}")]
    KeySet(#[from] KeySetError),
    #[error("a key or token could not be made")]
    Crypto,
}

impl Issuer {
    /// Opens the issuer in `dir`; makes folder, key and JWKS document where they are missing.
    pub fn open(dir: &Path) -> Result<Issuer, IssuerError> {
        fs::create_dir_all(dir).map_err(|error| IssuerError::File { path: dir.into(), error })?;
        let path = dir.join(KEY_FILE);
        let pem = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(&path)?,
            read => read.map_err(|error| IssuerError::File { path: path.clone(), error })?,
        };
        let key = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| IssuerError::Key { path: path.clone() })?;
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).map_err(|_| IssuerError::Key { path })?;
        let key_id = public.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).map_err(|_| IssuerError::Crypto)?;
        public.common.key_id = Some(key_id.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let jwks = serde_json::json!({ "keys": [public] }).to_string();
        let keys = KeySet::parse(jwks.as_bytes())?;
        let path = dir.join(JWKS_FILE);
        fs::write(&path, jwks).map_err(|error| IssuerError::File { path, error })?;
        Ok(Issuer { key, key_id, keys })
    }

    /// The key set that verifies this issuer's tokens.
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// A token for `User:subject`, valid from `now_s` for `ttl_s` seconds.
    pub fn issue(&self, subject: &str, audience: &str, ttl_s: u32, now_s: i64) -> Result<String, IssuerError> {
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::ES256) };
        let claims = serde_json::json!({
            "iss": ISSUER, "aud": audience, "sub": subject, "iat": now_s, "exp": now_s + i64::from(ttl_s), "jti": uuid::Uuid::new_v4(),
        });
        encode(&header, &claims, &self.key).map_err(|_| IssuerError::Crypto)
    }
}

/// Writes a new key to a file of its own first, so that two processes starting at once cannot leave half a key.
fn make_key(path: &Path) -> Result<String, IssuerError> {
    let pem = rcgen::KeyPair::generate().map_err(|_| IssuerError::Crypto)?.serialize_pem();
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        // A link fails where the name is taken: whoever came first has made the key, and it is theirs that counts.
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        linked.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
    };
    write().map_err(|error| IssuerError::File { path: path.into(), error })?;
    fs::read_to_string(path).map_err(|error| IssuerError::File { path: path.into(), error })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use meridian_auth::jwt::{Rules, TokenError, verify};

    use super::*;

    const NOW: i64 = 1_700_000_000;

    #[test]
    fn a_token_verifies_after_the_issuer_is_opened_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let token = Issuer::open(dir.path()).expect("an issuer").issue("ann", AUDIENCE, 60, NOW).expect("a token");
        let again = Issuer::open(dir.path()).expect("the same issuer");
        let verified = verify(&Rules::new(ISSUER, AUDIENCE), again.keys(), &token, NOW).expect("a good token");
        assert_eq!(verified.principal.to_string(), "User:ann");
        let other = Issuer::open(&dir.path().join("other")).expect("another issuer");
        assert_eq!(verify(&Rules::new(ISSUER, AUDIENCE), other.keys(), &token, NOW), Err(TokenError::UnknownKey));
    }

    #[test]
    fn the_private_key_is_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        Issuer::open(dir.path()).expect("an issuer");
        let mode = fs::metadata(dir.path().join(KEY_FILE)).expect("the key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let jwks = fs::read_to_string(dir.path().join(JWKS_FILE)).expect("the key set");
        assert!(!jwks.contains("\"d\""), "the private half leaked into the key set");
    }

    #[test]
    fn a_damaged_key_is_named_and_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(KEY_FILE), "junk").expect("a file");
        let error = Issuer::open(dir.path()).expect_err("junk is no key");
        assert!(error.to_string().contains("issuer.key.pem"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join(KEY_FILE)).expect("still there"), "junk");
    }
}
