//! The table against the codec crate: its versions, and shapes that say the same of the bytes as the crate does.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn the_codec_knows_every_version_but_those_that_are_encoded_like_the_one_before() {
    let beyond: Vec<&str> = plain().into_iter().filter(|plain| plain.api.max > plain.known).map(|plain| plain.api.name).collect();
    // ListOffsets 11 only gives one more timestamp a meaning; the other two have their own `read`.
    assert_eq!(beyond, ["list_offsets", "offset_commit", "offset_fetch"]);
}

#[test]
fn no_api_is_listed_twice() {
    let keys: BTreeSet<i16> = TABLE.iter().map(|api| api.key).collect();
    assert_eq!(keys.len(), TABLE.len());
    assert!(TABLE.iter().all(|api| api.min <= api.max && (api.key as usize) < crate::kafka::counters::API_KEYS));
}

#[test]
fn default_requests_have_the_shape_of_their_api_at_every_version_and_no_prefix_of_them_has() {
    for Plain { api, shape, known, default, .. } in plain() {
        for version in api.min..=api.max.min(known) {
            let body = default(version);
            let flexible = api.is_flexible(version);
            assert_eq!(shape::check(shape, version, flexible, &body), Ok(()), "{} {version}", api.name);
            for end in 0..body.len() {
                assert!(shape::check(shape, version, flexible, &body[..end]).is_err(), "{} {version}: cut at {end}", api.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is written by the shape alone is read by the codec to its last byte, and written by it again as it was.
    #[test]
    fn a_body_made_after_the_shape_is_the_codecs_own(seed: u64) {
        for Plain { api, shape, known, again, .. } in plain() {
            for version in api.min..=api.max.min(known) {
                let mut body = Body { bytes: Vec::new(), version, flexible: api.is_flexible(version), seed };
                body.fields(shape);
                prop_assert_eq!(shape::check(shape, version, body.flexible, &body.bytes), Ok(()), "{} {}", api.name, version);
                prop_assert_eq!(again(version, &body.bytes), Ok(body.bytes), "{} {}", api.name, version);
            }
        }
    }

    #[test]
    fn what_passes_the_shape_never_makes_the_codec_panic(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), any::<u8>()], 0..60)) {
        for Plain { api, shape, known, again, .. } in plain() {
            for version in api.min..=api.max.min(known) {
                if shape::check(shape, version, api.is_flexible(version), &bytes).is_ok() {
                    let _ = again(version, &bytes);
                }
            }
        }
    }
}

/// A plain API with what the codec crate does with its requests.
pub(super) struct Plain {
    api: &'static Api,
    shape: &'static [Field],
    /// The newest version that the crate knows.
    known: i16,
    default: fn(i16) -> Vec<u8>,
    /// Reads a whole body and writes it again.
    again: fn(i16, &[u8]) -> Result<Vec<u8>, String>,
}

impl Plain {
    pub(super) fn of<R: Encodable + Decodable + Message + Default>(api: &'static Api, shape: &'static [Field]) -> Plain {
        let default = |version| {
            let mut bytes = BytesMut::new();
            R::default().encode(&mut bytes, version).expect("a default request");
            bytes.to_vec()
        };
        let again = |version, body: &[u8]| {
            let mut rest = Bytes::copy_from_slice(body);
            let request = R::decode(&mut rest, version).map_err(|error| error.to_string())?;
            let mut bytes = BytesMut::new();
            request.encode(&mut bytes, version).map_err(|error| error.to_string())?;
            if rest.is_empty() { Ok(bytes.to_vec()) } else { Err(format!("{} bytes were not read", rest.len())) }
        };
        Plain { api, shape, known: R::VERSIONS.max, default, again }
    }
}

/// A request body under construction, of a shape and nothing else.
struct Body {
    bytes: Vec<u8>,
    version: i16,
    flexible: bool,
    seed: u64,
}

impl Body {
    /// Below `bound`; the same for the same seed (a linear congruence is chance enough).
    fn choose(&mut self, bound: u64) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.seed >> 33) % bound) as usize
    }

    fn length(&mut self, length: usize, wide: bool) {
        match (self.flexible, wide) {
            (true, _) => self.bytes.push(length as u8 + 1),
            (false, true) => self.bytes.extend((length as i32).to_be_bytes()),
            (false, false) => self.bytes.extend((length as i16).to_be_bytes()),
        }
    }

    fn text(&mut self, wide: bool) {
        let length = self.choose(5);
        self.length(length, wide);
        for _ in 0..length {
            let letter = b'a' + self.choose(26) as u8;
            self.bytes.push(letter);
        }
    }

    fn shape(&mut self, shape: &shape::Shape) {
        match shape {
            // A bool or a small number: one that every reader writes again as it was.
            shape::Shape::Fixed(1) => {
                let value = self.choose(2) as u8;
                self.bytes.push(value);
            }
            shape::Shape::Fixed(bytes) => {
                for _ in 0..*bytes {
                    let value = self.choose(256) as u8;
                    self.bytes.push(value);
                }
            }
            shape::Shape::Text => self.text(false),
            shape::Shape::Bytes => self.text(true),
            shape::Shape::Array(fields) => {
                let count = self.choose(3);
                self.length(count, true);
                (0..count).for_each(|_| self.fields(fields));
            }
            shape::Shape::Values(shape) => {
                let count = self.choose(3);
                self.length(count, true);
                (0..count).for_each(|_| self.shape(shape));
            }
            shape::Shape::Struct(fields) => self.fields(fields),
        }
    }

    fn fields(&mut self, fields: &[Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.is_in(version)) {
            self.shape(&field.shape);
        }
        if self.flexible {
            self.bytes.push(0);
        }
    }
}
