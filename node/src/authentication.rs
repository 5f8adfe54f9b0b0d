//! Who is at the other end: tokens judged by the strict verifier against the key set this node holds now.

use std::sync::Arc;

use meridian_auth::jwt::{TokenError, Verified};

/// Verifies bearer tokens; refreshes its key set from a file or an https URL. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {}

impl Authenticator {
    /// Judges a token now; asks the key source again (at most once a minute per unknown key) where the token names a key not held.
    pub async fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        let _ = (&self.inner, token);
        unimplemented!()
    }
}
