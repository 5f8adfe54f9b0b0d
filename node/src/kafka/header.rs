//! The request header: which API in which version, under which correlation id, from which client.

use super::api;
use super::cursor::{Cursor, Cut};
use super::versions::Api;

/// A header, and where the body begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    pub api: &'static Api,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: &'a str,
    pub body_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the request header is {0}")]
    Cut(#[from] Cut),
    #[error("API key {0} is not served")]
    UnknownApi(i16),
    /// Kept apart because ApiVersions is answered even so.
    #[error("{} version {version} is not served", api.name)]
    UnknownVersion { api: &'static Api, version: i16, correlation_id: i32 },
}

/// Reads the header of a frame.
pub fn decode(frame: &[u8]) -> Result<RequestHeader<'_>, HeaderError> {
    let mut cursor = Cursor::new(frame, false);
    let (key, version, correlation_id) = (cursor.i16()?, cursor.i16()?, cursor.i32()?);
    let api = api::find(key).ok_or(HeaderError::UnknownApi(key))?;
    if !api.serves(version) {
        return Err(HeaderError::UnknownVersion { api, version, correlation_id });
    }
    // The client id's length stays plain even in the flexible header.
    let client_id = cursor.nullable_string()?.unwrap_or_default();
    let at = cursor.position();
    let mut tags = Cursor::new(&frame[at..], api.is_flexible(version));
    tags.tags()?;
    Ok(RequestHeader { api, version, correlation_id, client_id, body_at: at + tags.position() })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::RequestHeader as Oracle;
    use kafka_protocol::protocol::{StrBytes, encode_request_header_into_buffer};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_of_the_codec_crate_are_read_at_every_version() {
        for api in api::TABLE {
            for version in api.min..=api.max {
                // The crate does not know the newest version of this one; its header is that of the version before.
                let known = if api.name == "list_offsets" { version.min(10) } else { version };
                let oracle = Oracle::default().with_request_api_key(api.key).with_request_api_version(known).with_correlation_id(7);
                let mut bytes = BytesMut::new();
                encode_request_header_into_buffer(&mut bytes, &oracle.with_client_id(Some(StrBytes::from_static_str("ann"))))
                    .expect("encoded");
                bytes[2..4].copy_from_slice(&version.to_be_bytes());
                let header = decode(&bytes).expect("a header");
                let expected = RequestHeader { api, version, correlation_id: 7, client_id: "ann", body_at: bytes.len() };
                assert_eq!(header, expected, "{} {version}", api.name);
                assert!((0..bytes.len()).all(|end| decode(&bytes[..end]).is_err()), "{} {version}: cut short", api.name);
            }
        }
    }

    #[test]
    fn what_is_not_served_is_named() {
        assert_eq!(decode(b"\x7f\0\0\0\0\0\0\x01"), Err(HeaderError::UnknownApi(0x7f00)));
        assert!(matches!(decode(b"\0\x12\0\x63\0\0\0\x09"), Err(HeaderError::UnknownVersion { version: 99, correlation_id: 9, .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_header_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), key in 0i16..80, version in 0i16..20) {
            let _ = decode(&bytes);
            let _ = decode(&[&key.to_be_bytes()[..], &version.to_be_bytes()[..], &bytes].concat());
        }
    }
}
