//! What the Kafka listener counts, for whoever exports it. Relaxed atomics: each is right on its own, not with the others.

use std::sync::atomic::{AtomicU64, Ordering};

use meridian_auth::jwt::TokenError;

/// API keys counted apart; all that are served lie below.
pub const API_KEYS: usize = 128;

/// Why somebody could not authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("the SASL message is malformed")]
    Malformed,
    #[error("the SASL mechanism is not supported")]
    Mechanism,
    #[error("the user name is neither the token's subject nor `token`")]
    UserName,
    #[error("a connection cannot change its principal")]
    PrincipalChanged,
    #[error("the client took too long to authenticate")]
    Deadline,
    #[error("the TLS handshake failed")]
    Tls,
}

impl Refusal {
    pub const LABELS: [&str; 19] = [
        "token_too_long",
        "token_malformed",
        "token_header",
        "unknown_key",
        "algorithm",
        "signature",
        "claims",
        "issuer",
        "audience",
        "expired",
        "not_yet_valid",
        "lifetime",
        "subject",
        "sasl_malformed",
        "mechanism",
        "user_name",
        "principal_changed",
        "deadline",
        "tls",
    ];

    fn index(self) -> usize {
        match self {
            Refusal::Token(error) => match error {
                TokenError::TooLong => 0,
                TokenError::Malformed => 1,
                TokenError::Header => 2,
                TokenError::UnknownKey => 3,
                TokenError::Algorithm => 4,
                TokenError::Signature => 5,
                TokenError::Claims => 6,
                TokenError::Issuer => 7,
                TokenError::Audience => 8,
                TokenError::Expired => 9,
                TokenError::NotYetValid => 10,
                TokenError::Lifetime => 11,
                TokenError::Subject => 12,
            },
            Refusal::Malformed => 13,
            Refusal::Mechanism => 14,
            Refusal::UserName => 15,
            Refusal::PrincipalChanged => 16,
            Refusal::Deadline => 17,
            Refusal::Tls => 18,
        }
    }

    pub fn label(self) -> &'static str {
        Refusal::LABELS[self.index()]
    }
}

/// All counters of one node's Kafka listener, since start.
#[derive(Debug)]
pub struct Counters {
    /// By API key.
    requests: [AtomicU64; API_KEYS],
    refusals: [AtomicU64; Refusal::LABELS.len()],
    pub connections_accepted: AtomicU64,
    /// Turned away because too many were open, or half open.
    pub connections_refused: AtomicU64,
    /// Open now.
    pub connections_open: AtomicU64,
    /// Plaintext, frames' lengths included.
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    /// Acknowledged or still to be: counted when they are submitted.
    pub produced_records: AtomicU64,
    pub produced_bytes: AtomicU64,
    pub fetched_bytes: AtomicU64,
    pub fetched_records: AtomicU64,
    pub authentications: AtomicU64,
}

impl Default for Counters {
    fn default() -> Counters {
        let zero = AtomicU64::default;
        Counters {
            requests: std::array::from_fn(|_| zero()),
            refusals: std::array::from_fn(|_| zero()),
            connections_accepted: zero(),
            connections_refused: zero(),
            connections_open: zero(),
            bytes_in: zero(),
            bytes_out: zero(),
            produced_records: zero(),
            produced_bytes: zero(),
            fetched_bytes: zero(),
            fetched_records: zero(),
            authentications: zero(),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn request(&self, api_key: i16) {
        if let Some(counter) = usize::try_from(api_key).ok().and_then(|key| self.requests.get(key)) {
            add(counter, 1);
        }
    }

    pub(crate) fn refused(&self, refusal: Refusal) {
        add(&self.refusals[refusal.index()], 1);
    }

    /// Requests by the API's name, of every API that is served.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let by_key = |key: i16| usize::try_from(key).ok().and_then(|key| self.requests.get(key));
        super::api::TABLE.iter().filter_map(move |api| Some((api.name, by_key(api.key)?.load(Ordering::Relaxed))))
    }

    /// Failed authentications by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Refusal::LABELS.into_iter().zip(self.refusals.iter().map(|counter| counter.load(Ordering::Relaxed)))
    }
}
