//! Kafka's RecordBatch v2, as much of it as a log needs: the 61-byte header, validated once, stamped without re-encoding.

use bytes::{Bytes, BytesMut};

/// Bytes before the records of a batch.
pub const HEADER_BYTES: usize = 61;

/// The header of one batch, decoded. Field order is the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Bytes after this field, so `12 + length` is the whole batch.
    pub length: i32,
    pub leader_epoch: i32,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp_ms: i64,
    pub max_timestamp_ms: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub count: i32,
}

/// One well-formed batch in a buffer of its own (never a slice of a request).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

/// Why bytes are not a batch that may be stored; each maps to one Kafka error code (see `node/src/kafka/errors.rs`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("a batch needs at least 61 bytes, got {0}")]
    Short(usize),
    #[error("batch length {claimed} does not match the {present} bytes present")]
    Length { claimed: i64, present: usize },
    #[error("record batch magic {0} is not 2")]
    Magic(i8),
    #[error("batch checksum does not match its bytes")]
    Checksum,
    #[error("batch claims {count} records but last offset delta {last_offset_delta}")]
    Count { count: i32, last_offset_delta: i32 },
    #[error("compression codec {0} is unknown")]
    Codec(i16),
    #[error("clients may not write control batches")]
    Control,
    #[error("producer fields contradict each other")]
    Producer,
    #[error("record data does not hold the records that the header claims")]
    Records,
}

#[allow(unused_variables)]
impl BatchHeader {
    /// Reads a header without judging it; None when fewer than [`HEADER_BYTES`] bytes are there.
    pub fn decode(bytes: &[u8]) -> Option<BatchHeader> {
        unimplemented!()
    }
}

#[allow(unused_variables)]
impl Batch {
    /// Ingress check of a client's batch.
    pub fn validate(bytes: Bytes) -> Result<Batch, BatchError> {
        unimplemented!()
    }
    /// Wraps a batch that a log has validated before; only the header is looked at.
    pub fn from_stored(bytes: Bytes) -> Result<Batch, BatchError> {
        unimplemented!()
    }
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    pub fn codec(&self) -> i16 {
        self.header.attributes & 7
    }
    pub fn is_compressed(&self) -> bool {
        self.codec() != 0
    }
    pub fn is_transactional(&self) -> bool {
        self.header.attributes & 0x10 != 0
    }
}

/// Writes offset and leader epoch into a batch; both lie before the bytes that the checksum covers.
pub fn stamp(batch: &mut BytesMut, base_offset: i64, leader_epoch: i32) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}
