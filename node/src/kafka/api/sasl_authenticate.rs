//! SaslAuthenticate: one SASL message, and for how long the session holds (KIP-368).

use kafka_protocol::messages::{SaslAuthenticateRequest, SaslAuthenticateResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Call, Outcome, decode, encode};
use crate::kafka::errors::ErrorCode;
use crate::kafka::gate::{Gate, Step};
use crate::kafka::shape::{Field, Shape, always};

pub const SHAPE: &[Field] = &[always(Shape::Bytes)];

pub(crate) async fn handle(gate: &mut Gate, call: &Call, client_id: &str) -> Outcome {
    let Some(request) = decode::<SaslAuthenticateRequest>(SHAPE, call) else { return Outcome::Close("a misshapen SaslAuthenticate") };
    let response = SaslAuthenticateResponse::default();
    match gate.step(&request.auth_bytes, client_id).await {
        // Version 0 has no lifetime; the session ends in time all the same.
        Step::Passed { lifetime_ms } => encode(call, &response.with_session_lifetime_ms(if call.version > 0 { lifetime_ms } else { 0 })),
        Step::Challenge(challenge) => encode(call, &response.with_auth_bytes(challenge.into())),
        Step::Refused(refusal) => {
            let message = StrBytes::from_string(format!("Authentication failed: {refusal}"));
            let response = response.with_error_code(ErrorCode::SaslAuthenticationFailed.code()).with_error_message(Some(message));
            match encode(call, &response) {
                Outcome::Reply(reply) => Outcome::Last(reply),
                other => other,
            }
        }
    }
}
