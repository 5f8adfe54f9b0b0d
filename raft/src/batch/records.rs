//! Records of an uncompressed batch: making a batch of them, and taking them out again. For tools; a broker never re-encodes.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Batch, BatchError, HEADER_BYTES, varint};

/// One record, without headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Bytes>,
    /// None takes back what the key said before (a tombstone).
    pub value: Option<Bytes>,
    pub timestamp_ms: i64,
}

/// Makes a batch at offset 0 of the records given. Refuses none and more than fit a batch's 31-bit length.
pub fn encode(records: &[Record]) -> Result<Batch, BatchError> {
    let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
    let base_timestamp_ms = records.iter().map(|record| record.timestamp_ms).min().unwrap_or_default();
    let max_timestamp_ms = records.iter().map(|record| record.timestamp_ms).max().unwrap_or_default();
    let mut covered = BytesMut::new();
    covered.put_i16(0);
    covered.put_i32(count.saturating_sub(1));
    covered.put_i64(base_timestamp_ms);
    covered.put_i64(max_timestamp_ms);
    covered.put_i64(-1);
    covered.put_i16(-1);
    covered.put_i32(-1);
    covered.put_i32(count);
    let mut one = BytesMut::new();
    for (delta, record) in (0i64..).zip(records) {
        one.clear();
        one.put_u8(0);
        put_varint(&mut one, record.timestamp_ms.saturating_sub(base_timestamp_ms));
        put_varint(&mut one, delta);
        put_nullable(&mut one, record.key.as_deref());
        put_nullable(&mut one, record.value.as_deref());
        put_varint(&mut one, 0);
        put_bytes(&mut covered, &one);
    }
    // Behind the length field: epoch, magic and checksum (9 bytes), then what the checksum covers.
    let length = i32::try_from(covered.len() + 9).map_err(|_| BatchError::Length { claimed: i64::MAX, present: covered.len() })?;
    let mut batch = BytesMut::with_capacity(HEADER_BYTES + covered.len());
    batch.put_i64(0);
    batch.put_i32(length);
    batch.put_i32(-1);
    batch.put_u8(2);
    batch.put_u32(crc32c::crc32c(&covered));
    batch.put_slice(&covered);
    Batch::validate(batch.freeze())
}

/// The records of an uncompressed batch, headers passed over; None where it is compressed or damaged.
pub fn decode(batch: &Batch) -> Option<Vec<Record>> {
    let heads = batch.records()?;
    let mut rest = batch.bytes().get(HEADER_BYTES..)?;
    let mut records = Vec::with_capacity(heads.len());
    for head in heads {
        let mut record = take_bytes(&mut rest)??.get(1..)?;
        varint(&mut record)?;
        varint(&mut record)?;
        let key = take_bytes(&mut record)?.map(Bytes::copy_from_slice);
        let value = take_bytes(&mut record)?.map(Bytes::copy_from_slice);
        records.push(Record { key, value, timestamp_ms: head.timestamp_ms });
    }
    Some(records)
}

/// A length and that many bytes; −1 stands for null.
fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint(rest)?;
    if length == -1 {
        return Some(None);
    }
    let (bytes, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = behind;
    Some(Some(bytes))
}

fn put_nullable(buffer: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => put_bytes(buffer, bytes),
        None => put_varint(buffer, -1),
    }
}

fn put_bytes(buffer: &mut BytesMut, bytes: &[u8]) {
    put_varint(buffer, i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    buffer.put_slice(bytes);
}

/// Zigzag, seven bits a byte.
fn put_varint(buffer: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        buffer.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buffer.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(key: Option<&'static str>, value: &'static str, timestamp_ms: i64) -> Record {
        Record { key: key.map(Bytes::from), value: Some(Bytes::from(value)), timestamp_ms }
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        let tombstone = Record { value: None, ..record(Some("UA"), "", 2_000) };
        let records = [record(Some("UA"), "{}", 2_000), record(None, "", 1_000), record(Some(""), "x", 3_000), tombstone];
        let batch = encode(&records).expect("a batch");
        assert_eq!((batch.header().count, batch.header().base_timestamp_ms, batch.header().max_timestamp_ms), (4, 1_000, 3_000));
        assert_eq!(decode(&batch).expect("records"), records);
    }

    #[test]
    fn a_batch_of_nothing_is_refused() {
        assert!(matches!(encode(&[]), Err(BatchError::Count { .. })));
    }

    #[test]
    fn each_lie_in_a_batch_is_named() {
        let good = encode(&[record(Some("UA"), "value", 1)]).expect("a batch").bytes().to_vec();
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Batch::validate(bytes.into())
        };
        assert_eq!(Batch::validate(Bytes::copy_from_slice(&good[..60])), Err(BatchError::Short(60)));
        assert!(matches!(changed(11, 0xff), Err(BatchError::Length { .. })));
        assert_eq!(changed(16, 1), Err(BatchError::Magic(1)));
        assert_eq!(changed(good.len() - 2, b'X'), Err(BatchError::Checksum));
        // Offset and epoch lie before the checksum's range: stamping them breaks nothing.
        assert!(changed(7, 9).is_ok() && changed(15, 9).is_ok());
    }

    /// Bytes 21 on with their checksum made right, so that the checks behind it are reached.
    fn resealed(mut bytes: Vec<u8>) -> Bytes {
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    #[test]
    fn a_header_that_contradicts_its_records_is_refused_though_the_checksum_holds() {
        let good = encode(&[record(None, "a", 1), record(None, "b", 1)]).expect("a batch").bytes().to_vec();
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Batch::validate(resealed(bytes))
        };
        assert!(matches!(changed(26, 5), Err(BatchError::Count { .. })), "last offset delta");
        assert_eq!(changed(22, 0x20), Err(BatchError::Control));
        assert_eq!(changed(22, 7), Err(BatchError::Codec(7)));
        assert_eq!(changed(22, 0x10), Err(BatchError::Producer), "transactional without a producer");
        assert!(changed(52, 0).is_ok() && changed(51, 0).is_ok(), "@platformatic/kafka leaves an epoch of 0 beside no producer id");
        let mut three = good.clone();
        (three[26], three[60]) = (2, 3);
        assert_eq!(Batch::validate(resealed(three)), Err(BatchError::Records));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_batch_panic(junk in prop::collection::vec(any::<u8>(), 0..300), tail in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Batch::validate(junk.clone().into());
            // The same behind a header that is right in every way, so that the record walk meets the junk.
            let mut bytes = encode(&[record(None, "a", 1)]).expect("a batch").bytes()[..HEADER_BYTES].to_vec();
            bytes.extend(tail);
            let length = (bytes.len() - 12) as i32;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            if let Ok(batch) = Batch::validate(resealed(bytes)) {
                let _ = decode(&batch);
            }
        }
    }
}
