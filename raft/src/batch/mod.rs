//! Kafka's RecordBatch v2, as much of it as a log needs: the 61-byte header, validated once, stamped without re-encoding.

pub mod admission;
pub mod records;

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
    #[error("record data cannot be decompressed: {0}")]
    Compression(String),
    #[error("record data decompresses to more than a batch may hold")]
    Large,
    #[error("timestamps are the producer's, and the batch says that they are the log's")]
    TimestampType,
}

impl BatchHeader {
    /// Reads a header without judging it; None when fewer than [`HEADER_BYTES`] bytes are there.
    pub fn decode(bytes: &[u8]) -> Option<BatchHeader> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        Some(BatchHeader {
            base_offset: i64::from_be_bytes(field(bytes, 0)),
            length: i32::from_be_bytes(field(bytes, 8)),
            leader_epoch: i32::from_be_bytes(field(bytes, 12)),
            crc: u32::from_be_bytes(field(bytes, 17)),
            attributes: i16::from_be_bytes(field(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)),
            base_timestamp_ms: i64::from_be_bytes(field(bytes, 27)),
            max_timestamp_ms: i64::from_be_bytes(field(bytes, 35)),
            producer_id: i64::from_be_bytes(field(bytes, 43)),
            producer_epoch: i16::from_be_bytes(field(bytes, 51)),
            base_sequence: i32::from_be_bytes(field(bytes, 53)),
            count: i32::from_be_bytes(field(bytes, 57)),
        })
    }
}

/// `N` bytes at a constant offset that lies inside the header.
fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

/// One record of an uncompressed batch, as far as lookups need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    pub offset: i64,
    pub timestamp_ms: i64,
}

/// Takes one zigzag varint off the front.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// Walks the records of an uncompressed batch; None at the first that does not parse.
fn walk(header: &BatchHeader, mut bytes: &[u8], mut seen: impl FnMut(RecordHead)) -> Option<i32> {
    let mut count = 0i32;
    while !bytes.is_empty() {
        let length = usize::try_from(varint(&mut bytes)?).ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        let (_, mut record) = record.split_first()?;
        let timestamp_delta = varint(&mut record)?;
        let offset_delta = varint(&mut record)?;
        if offset_delta != i64::from(count) {
            return None;
        }
        seen(RecordHead {
            offset: header.base_offset.saturating_add(offset_delta),
            timestamp_ms: header.base_timestamp_ms.saturating_add(timestamp_delta),
        });
        bytes = rest;
        count = count.checked_add(1)?;
    }
    Some(count)
}

impl Batch {
    /// Checks a batch that some log has admitted before: header, checksum, and the records of an uncompressed one. A client's is checked by
    /// [`Batch::admit`].
    pub fn validate(bytes: Bytes) -> Result<Batch, BatchError> {
        let batch = Batch::sound(bytes)?;
        let header = &batch.header;
        if !batch.is_compressed() && walk(header, &batch.bytes[HEADER_BYTES..], |_| ()) != Some(header.count) {
            return Err(BatchError::Records);
        }
        Ok(batch)
    }
    /// Header and checksum.
    fn sound(bytes: Bytes) -> Result<Batch, BatchError> {
        let batch = Batch::from_stored(bytes)?;
        let header = &batch.header;
        if crc32c::crc32c(&batch.bytes[21..]) != header.crc {
            return Err(BatchError::Checksum);
        }
        if header.count < 1 || header.last_offset_delta != header.count - 1 {
            return Err(BatchError::Count { count: header.count, last_offset_delta: header.last_offset_delta });
        }
        if batch.codec() > 4 {
            return Err(BatchError::Codec(batch.codec()));
        }
        if header.attributes & 0x20 != 0 {
            return Err(BatchError::Control);
        }
        let idempotent = header.producer_id >= 0;
        if header.producer_id < -1
            || (idempotent && (header.producer_epoch < 0 || header.base_sequence < 0))
            // Without an id the other two say nothing, whatever they hold: clients leave zeros there, and Kafka does not look.
            || (!idempotent && batch.is_transactional())
        {
            return Err(BatchError::Producer);
        }
        Ok(batch)
    }
    /// Wraps a batch that a log has validated before; only length and magic are looked at.
    pub fn from_stored(bytes: Bytes) -> Result<Batch, BatchError> {
        let header = BatchHeader::decode(&bytes).ok_or(BatchError::Short(bytes.len()))?;
        let claimed = 12 + i64::from(header.length);
        if claimed != bytes.len() as i64 {
            return Err(BatchError::Length { claimed, present: bytes.len() });
        }
        if bytes[16] != 2 {
            return Err(BatchError::Magic(bytes[16] as i8));
        }
        Ok(Batch { header, bytes })
    }
    /// Offsets and times of the records; None where they are compressed or damaged.
    pub fn records(&self) -> Option<Vec<RecordHead>> {
        let mut records = Vec::new();
        (!self.is_compressed()).then(|| walk(&self.header, &self.bytes[HEADER_BYTES..], |record| records.push(record)))??;
        Some(records)
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
