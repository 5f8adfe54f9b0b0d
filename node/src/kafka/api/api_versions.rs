//! ApiVersions: which versions of which APIs are served. Its response header is never flexible, and even an unknown version is answered.

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::protocol::Encodable;

use super::{Outcome, TABLE, sealed};
use crate::kafka::errors::{ErrorCode, NONE};

pub fn answer(correlation_id: i32, version: i16) -> Outcome {
    respond(correlation_id, version, NONE)
}

/// KIP-511: the oldest body tells the client what it could have asked for.
pub fn answer_unknown_version(correlation_id: i32) -> Outcome {
    respond(correlation_id, 0, ErrorCode::UnsupportedVersion.code())
}

fn respond(correlation_id: i32, version: i16, error_code: i16) -> Outcome {
    let api_keys = TABLE.iter().map(|api| ApiVersion::default().with_api_key(api.key).with_min_version(api.min).with_max_version(api.max));
    let response = ApiVersionsResponse::default().with_error_code(error_code).with_api_keys(api_keys.collect());
    let mut buffer = BytesMut::with_capacity(512);
    buffer.put_i32(0);
    buffer.put_i32(correlation_id);
    if response.encode(&mut buffer, version).is_err() {
        return Outcome::Close("a version of ApiVersions that the codec lacks");
    }
    sealed(buffer)
}
