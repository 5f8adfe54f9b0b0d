//! What the Kafka listener counts, for whoever exports it. Relaxed atomics: each is right on its own, not with the others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_auth::jwt::TokenError;

use super::errors::ErrorCode;
use super::latency::Latency;

/// API keys counted apart; all that are served lie below.
pub const API_KEYS: usize = 128;
/// Error codes counted apart: -1 to the last one known, and room for some more.
const ERROR_CODES: usize = 160;

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
    /// From a request's arrival to its answer, by API key; a long poll's wait included.
    latencies: [Latency; API_KEYS],
    /// Refused partitions by error code plus one.
    produce_errors: [AtomicU64; ERROR_CODES],
    fetch_errors: [AtomicU64; ERROR_CODES],
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
            latencies: std::array::from_fn(|_| Latency::default()),
            produce_errors: std::array::from_fn(|_| zero()),
            fetch_errors: std::array::from_fn(|_| zero()),
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

    pub(crate) fn answered(&self, api_key: i16, time: Duration) {
        if let Some(latency) = usize::try_from(api_key).ok().and_then(|key| self.latencies.get(key)) {
            latency.took(time);
        }
    }

    pub(crate) fn produce_refused(&self, error: ErrorCode) {
        count_error(&self.produce_errors, error);
    }

    pub(crate) fn fetch_refused(&self, error: ErrorCode) {
        count_error(&self.fetch_errors, error);
    }

    /// Refused partitions of Produce requests by error, those that occurred.
    pub fn produce_errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> + '_ {
        occurred(&self.produce_errors)
    }

    /// Refused partitions of Fetch requests by error, those that occurred.
    pub fn fetch_errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> + '_ {
        occurred(&self.fetch_errors)
    }

    /// Of every API that is served, by its name.
    pub fn latencies(&self) -> impl Iterator<Item = (&'static str, &Latency)> + '_ {
        super::api::TABLE.iter().filter_map(|api| Some((api.name, self.latencies.get(usize::try_from(api.key).ok()?)?)))
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

fn count_error(counters: &[AtomicU64; ERROR_CODES], error: ErrorCode) {
    if let Some(counter) = usize::try_from(error.code() + 1).ok().and_then(|index| counters.get(index)) {
        add(counter, 1);
    }
}

fn occurred(counters: &[AtomicU64; ERROR_CODES]) -> impl Iterator<Item = (ErrorCode, u64)> + '_ {
    (-1i16..).zip(counters).filter_map(|(code, counter)| {
        let count = counter.load(Ordering::Relaxed);
        let error = if count > 0 { ErrorCode::try_from_code(code) } else { None };
        Some((error?, count))
    })
}
