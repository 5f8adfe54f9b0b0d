//! Authentication of one connection: which mechanism was chosen, who passed, and until when.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_auth::jwt::{TokenError, Verified};
use tokio::time::Instant;

use super::counters::{Refusal, add};
use super::sasl::{Claim, Mechanism};
use super::{Broker, Session};

/// RFC 7628's error challenge. It says no more than that; the reason follows in the final answer.
const BEARER_CHALLENGE: &[u8] = br#"{"status":"invalid_token"}"#;

/// One connection's way in. Holds the session once there is one.
#[derive(Debug)]
pub(crate) struct Gate {
    broker: Broker,
    host: IpAddr,
    mechanism: Option<Mechanism>,
    /// Handshake version 0: SASL messages follow without Kafka's header.
    raw: bool,
    /// A refused OAUTHBEARER client has been told, and has yet to agree before it hears the reason.
    challenged: Option<Refusal>,
    session: Option<(Arc<Session>, Lease)>,
}

/// What a session hangs on: when its token ends, and the key that signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub expires: Instant,
    pub key_id: String,
}

/// What one SASL message led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Authenticated for so long.
    Passed {
        lifetime_ms: i64,
    },
    Challenge(&'static [u8]),
    Refused(Refusal),
}

impl Gate {
    pub fn new(broker: Broker, host: IpAddr) -> Gate {
        Gate { broker, host, mechanism: None, raw: false, challenged: None, session: None }
    }

    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref().map(|(session, _)| session)
    }

    /// When the session ends, idle or not.
    pub fn lease(&self) -> Option<&Lease> {
        self.session.as_ref().map(|(_, lease)| lease)
    }

    pub fn expects_raw(&self) -> bool {
        self.raw && self.mechanism.is_some()
    }

    /// False when the mechanism is not offered.
    pub fn choose(&mut self, name: &str, raw: bool) -> bool {
        self.mechanism = Mechanism::named(name);
        (self.raw, self.challenged) = (raw, None);
        if self.mechanism.is_none() {
            self.broker.counters.refused(Refusal::Mechanism);
        }
        self.mechanism.is_some()
    }

    /// Judges a SASL message. After `Refused` the connection is to be closed.
    pub async fn step(&mut self, message: &[u8], client_id: &str) -> Step {
        if let Some(refusal) = self.challenged.take() {
            return Step::Refused(refusal);
        }
        let Some(mechanism) = self.mechanism.take() else { return self.refused(Refusal::Mechanism) };
        match self.judge(mechanism, message).await {
            Ok(verified) => self.pass(verified, client_id),
            Err(refusal) if mechanism == Mechanism::OauthBearer => {
                self.refused(refusal);
                // Its answer is one byte, and is not judged.
                (self.mechanism, self.challenged) = (Some(mechanism), Some(refusal));
                Step::Challenge(BEARER_CHALLENGE)
            }
            Err(refusal) => self.refused(refusal),
        }
    }

    fn refused(&self, refusal: Refusal) -> Step {
        self.broker.counters.refused(refusal);
        tracing::info!(host = %self.host, reason = refusal.label(), "authentication refused");
        Step::Refused(refusal)
    }

    async fn judge(&self, mechanism: Mechanism, message: &[u8]) -> Result<Verified, Refusal> {
        let claim = Claim::parse(mechanism, message).ok_or(Refusal::Malformed)?;
        let verified = self.broker.authenticator.verify(claim.token).await?;
        if !claim.speaks_for(&verified.principal.name) {
            return Err(Refusal::UserName);
        }
        match self.session() {
            // KIP-368: a session is renewed, never handed to somebody else.
            Some(session) if session.principal != verified.principal => Err(Refusal::PrincipalChanged),
            _ => Ok(verified),
        }
    }

    fn pass(&mut self, verified: Verified, client_id: &str) -> Step {
        let now_ms = self.broker.env.clock.wall_us() / 1000;
        let lifetime_ms = verified.expires_at_s.saturating_mul(1000).saturating_sub(now_ms);
        // Within the tolerated clock difference a token passes a little after its end; a session with it would have no time.
        let Some(lifetime) = u64::try_from(lifetime_ms).ok().filter(|lifetime_ms| *lifetime_ms > 0) else {
            return self.refused(Refusal::Token(TokenError::Expired));
        };
        let session = Session { principal: verified.principal, host: self.host, client_id: client_id.into() };
        let lease = Lease { expires: Instant::now() + Duration::from_millis(lifetime), key_id: verified.key_id };
        self.session = Some((Arc::new(session), lease));
        add(&self.broker.counters.authentications, 1);
        Step::Passed { lifetime_ms }
    }
}
