//! Who is at the other end: tokens judged by the strict verifier against the key set this node holds now, which follows its file or URL.

mod source;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use meridian_auth::jwt::{KeySet, Rules, TokenError, Verified, verify};
use meridian_raft::env::Env;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::config;
use source::Source;
pub use source::SourceError;

/// Between two refreshes because of tokens whose key is unknown: an attacker can invent as many as it likes.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(60);
/// How long keys are believed that could not be confirmed, because the issuer is down or the file is gone.
const STALENESS_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Verifies bearer tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Env,
    rules: Rules,
    source: Source,
    held: RwLock<Held>,
    /// Serializes refreshes, and remembers when the last one for an unknown key was.
    refreshing: Mutex<Option<Instant>>,
    /// Counts key sets that differ from the one before.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Held {
    keys: Option<KeySet>,
    document: Vec<u8>,
    confirmed: Instant,
}

#[derive(Debug, thiserror::Error)]
#[error("key set {location}: {error}")]
pub struct AuthenticatorError {
    location: String,
    error: SourceError,
}

impl Authenticator {
    /// Reads the key set and follows it from then on. A file that cannot be read is a mistake in the configuration; an issuer that cannot be
    /// reached may be back in a minute, and until then every token is refused.
    pub async fn start(env: Env, config: &config::Authentication) -> Result<Authenticator, AuthenticatorError> {
        let refused = |error| AuthenticatorError { location: config.jwks.clone(), error };
        let source = Source::of(&config.jwks).map_err(refused)?;
        let rules = Rules::new(&config.issuer, &config.audience);
        Authenticator::follow(env, rules, source).await.map_err(refused)
    }

    async fn follow(env: Env, rules: Rules, source: Source) -> Result<Authenticator, SourceError> {
        let held = RwLock::new(Held { keys: None, document: Vec::new(), confirmed: Instant::now() });
        let (changes, _) = watch::channel(0);
        let inner = Arc::new(Inner { env, rules, source, held, refreshing: Mutex::default(), changes });
        if let Err(error) = inner.refresh().await {
            if inner.source.is_file() {
                return Err(error);
            }
            tracing::error!(%error, "no key set yet: every token is refused until the issuer answers");
        }
        tokio::spawn(keep_fresh(Arc::downgrade(&inner)));
        Ok(Authenticator { inner })
    }

    /// Judges a token now.
    pub async fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        match self.inner.judge(token) {
            Err(TokenError::UnknownKey) if self.inner.refresh_for_unknown_key().await => self.inner.judge(token),
            judged => judged,
        }
    }

    /// Is this key still believed? Sessions begun with one that is not are to end.
    pub fn believes(&self, key_id: &str) -> bool {
        self.inner.held().at(Instant::now()).is_some_and(|keys| keys.contains(key_id))
    }

    /// Fires whenever the key set has changed.
    pub fn watch_keys(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }
}

impl Held {
    /// None when nobody has confirmed the keys for too long.
    fn at(&self, now: Instant) -> Option<&KeySet> {
        self.keys.as_ref().filter(|_| now.duration_since(self.confirmed) < STALENESS_MAX)
    }
}

impl Inner {
    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, token: &str) -> Result<Verified, TokenError> {
        let now_s = self.env.clock.wall_us() / 1_000_000;
        let held = self.held();
        let keys = held.at(Instant::now()).ok_or(TokenError::UnknownKey)?;
        verify(&self.rules, keys, token, now_s)
    }

    /// True when the token deserves a second look.
    async fn refresh_for_unknown_key(&self) -> bool {
        let before = *self.changes.borrow();
        let mut last = self.refreshing.lock().await;
        if *self.changes.borrow() != before {
            // Somebody else refreshed while this one waited.
            return true;
        }
        if last.is_some_and(|last| last.elapsed() < UNKNOWN_KEY_INTERVAL) {
            return false;
        }
        *last = Some(Instant::now());
        match self.refresh().await {
            Ok(changed) => changed,
            Err(error) => {
                tracing::warn!(%error, "the key set cannot be refreshed; the one held stays in use");
                false
            }
        }
    }

    /// True when the key set is another now. On an error the one held stays.
    async fn refresh(&self) -> Result<bool, SourceError> {
        let document = self.source.read().await?;
        let changed = self.held().document != document || self.held().keys.is_none();
        let keys = if changed { Some(KeySet::parse(&document)?) } else { None };
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.confirmed = Instant::now();
        if let Some(keys) = keys {
            (held.keys, held.document) = (Some(keys), document);
            drop(held);
            self.changes.send_modify(|changes| *changes += 1);
        }
        Ok(changed)
    }
}

/// Refreshes on its own, until nobody holds the authenticator.
async fn keep_fresh(authenticator: Weak<Inner>) {
    let mut failing = false;
    loop {
        let Some(interval) = authenticator.upgrade().map(|inner| inner.source.interval(failing)) else { return };
        tokio::time::sleep(interval).await;
        let Some(inner) = authenticator.upgrade() else { return };
        let refreshed = inner.refresh().await;
        match &refreshed {
            Ok(true) => tracing::info!("the key set has changed"),
            Ok(false) => {}
            // Once per outage, not at each attempt.
            Err(error) if !failing => tracing::warn!(%error, "the key set cannot be refreshed; the one held stays in use for a while"),
            Err(_) => {}
        }
        failing = refreshed.is_err();
    }
}

#[cfg(test)]
mod tests;
