//! SaslHandshake: the client names its mechanism.

use kafka_protocol::messages::{SaslHandshakeRequest, SaslHandshakeResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Call, Outcome, decode, encode};
use crate::kafka::errors::{ErrorCode, NONE};
use crate::kafka::gate::Gate;
use crate::kafka::sasl::MECHANISMS;
use crate::kafka::shape::{Field, Shape, always};

pub const SHAPE: &[Field] = &[always(Shape::Text)];

pub(crate) fn handle(gate: &mut Gate, call: &Call) -> Outcome {
    let Some(request) = decode::<SaslHandshakeRequest>(SHAPE, call) else { return Outcome::Close("a misshapen SaslHandshake") };
    let error_code = if gate.choose(&request.mechanism, call.version == 0) { NONE } else { ErrorCode::UnsupportedSaslMechanism.code() };
    let mechanisms = MECHANISMS.into_iter().map(StrBytes::from_static_str).collect();
    encode(call, &SaslHandshakeResponse::default().with_error_code(error_code).with_mechanisms(mechanisms))
}
