//! Who is at the other end: tokens judged by the strict verifier against the key set this node holds now.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use meridian_auth::jwt::{KeySet, KeySetError, Rules, TokenError, Verified, verify};
use meridian_raft::env::Env;

use crate::config;

/// Verifies bearer tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Env,
    rules: Rules,
    keys: RwLock<KeySet>,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthenticatorError {
    #[error("cannot read the key set {path}: {error}")]
    Read { path: String, error: std::io::Error },
    #[error("{path}: {error}")]
    KeySet { path: String, error: KeySetError },
}

impl Authenticator {
    pub async fn start(env: Env, config: &config::Authentication) -> Result<Authenticator, AuthenticatorError> {
        let path = config.jwks.clone();
        let document = std::fs::read(Path::new(&path)).map_err(|error| AuthenticatorError::Read { path: path.clone(), error })?;
        let keys = KeySet::parse(&document).map_err(|error| AuthenticatorError::KeySet { path, error })?;
        let rules = Rules::new(&config.issuer, &config.audience);
        Ok(Authenticator { inner: Arc::new(Inner { env, rules, keys: RwLock::new(keys) }) })
    }

    /// Judges a token now.
    pub async fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        let now_s = self.inner.env.clock.wall_us() / 1_000_000;
        verify(&self.inner.rules, &self.inner.keys.read().unwrap_or_else(PoisonError::into_inner), token, now_s)
    }
}
