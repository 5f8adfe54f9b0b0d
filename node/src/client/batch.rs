//! Records of a client: written into one batch with a producer's sequence, and read out of what a fetch brings, compressed or not.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_raft::batch::{BatchHeader, HEADER_BYTES};

use super::ClientError;
use crate::compression;

/// Bits of a batch's attributes.
const CONTROL: i16 = 0x20;
const LOG_APPEND_TIME: i16 = 0x08;

/// One record as an application sees it. `key` and `value` may be null, which is not the same as empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
    pub timestamp_ms: i64,
}

/// A record and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub partition: i32,
    pub offset: i64,
    pub record: Record,
}

/// Who writes, and the number of the batch's first record among all that it wrote to the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
}

/// About as many bytes as the record takes in a batch.
pub fn size(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len) + 8).sum();
    record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers + 24
}

/// Makes an uncompressed batch of at least one record.
pub fn encode(records: &[Record], sequence: Sequence) -> Result<Bytes, ClientError> {
    let count = i32::try_from(records.len()).ok().filter(|count| *count > 0);
    let count = count.ok_or_else(|| ClientError::Records("a batch holds between 1 and 2^31 records".into()))?;
    let base_timestamp_ms = records.iter().map(|record| record.timestamp_ms).min().unwrap_or_default();
    let max_timestamp_ms = records.iter().map(|record| record.timestamp_ms).max().unwrap_or_default();
    let mut batch = BytesMut::with_capacity(HEADER_BYTES + records.iter().map(size).sum::<usize>());
    batch.put_i64(0);
    batch.put_i32(0);
    batch.put_i32(-1);
    batch.put_u8(2);
    batch.put_u32(0);
    batch.put_i16(0);
    batch.put_i32(count - 1);
    batch.put_i64(base_timestamp_ms);
    batch.put_i64(max_timestamp_ms);
    batch.put_i64(sequence.producer_id);
    batch.put_i16(sequence.producer_epoch);
    batch.put_i32(sequence.base_sequence);
    batch.put_i32(count);
    let mut one = BytesMut::new();
    for (delta, record) in (0i64..).zip(records) {
        one.clear();
        put_record(&mut one, record, record.timestamp_ms.wrapping_sub(base_timestamp_ms), delta);
        put_varint(&mut batch, one.len() as i64);
        batch.put_slice(&one);
    }
    let length = i32::try_from(batch.len() - 12).map_err(|_| ClientError::Records("a batch is smaller than 2 GiB".into()))?;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Ok(batch.freeze())
}

fn put_record(one: &mut BytesMut, record: &Record, timestamp_delta: i64, offset_delta: i64) {
    one.put_u8(0);
    put_varint(one, timestamp_delta);
    put_varint(one, offset_delta);
    put_nullable(one, record.key.as_deref());
    put_nullable(one, record.value.as_deref());
    put_varint(one, record.headers.len() as i64);
    for (name, value) in &record.headers {
        put_nullable(one, Some(name.as_bytes()));
        put_nullable(one, value.as_deref());
    }
}

fn put_nullable(buffer: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(buffer, bytes.len() as i64);
            buffer.put_slice(bytes);
        }
        None => put_varint(buffer, -1),
    }
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

/// What a fetch brought of one partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    pub records: Vec<Fetched>,
    /// First offset behind the last whole batch; None where there was none.
    pub next_offset: Option<i64>,
}

/// Reads the batches of one partition's answer. Records before `from` are left out (a batch comes whole, from its first record on), and so
/// are the marks that transactions leave. A batch cut short at the end is not an error: it comes again.
pub fn decode(partition: i32, from: i64, mut bytes: Bytes) -> Result<Decoded, ClientError> {
    let mut decoded = Decoded::default();
    while let Some(header) = BatchHeader::decode(&bytes) {
        let claimed = usize::try_from(i64::from(header.length) + 12).unwrap_or(0);
        if claimed < HEADER_BYTES {
            return Err(damaged(partition, header.base_offset, "its length cannot be"));
        }
        if claimed > bytes.len() {
            break;
        }
        let batch = bytes.split_to(claimed);
        read_batch(partition, from, &header, batch, &mut decoded.records)?;
        decoded.next_offset = Some(header.base_offset + i64::from(header.last_offset_delta) + 1);
    }
    Ok(decoded)
}

fn damaged(partition: i32, offset: i64, what: &str) -> ClientError {
    ClientError::Records(format!("the batch at offset {offset} of partition {partition} is damaged: {what}"))
}

fn read_batch(partition: i32, from: i64, header: &BatchHeader, batch: Bytes, records: &mut Vec<Fetched>) -> Result<(), ClientError> {
    let damaged = |what: &str| damaged(partition, header.base_offset, what);
    if batch[16] != 2 {
        return Err(damaged("its format is not version 2"));
    }
    if crc32c::crc32c(&batch[21..]) != header.crc {
        return Err(damaged("its checksum does not match"));
    }
    if header.attributes & CONTROL != 0 {
        return Ok(());
    }
    let payload = batch.slice(HEADER_BYTES..);
    let mut payload = compression::decompress(header.attributes & 7, payload).map_err(|error| damaged(&error.to_string()))?;
    for _ in 0..header.count {
        let (offset, record) = take_record(header, &mut payload).ok_or_else(|| damaged("its records do not parse"))?;
        if offset >= from {
            records.push(Fetched { partition, offset, record });
        }
    }
    Ok(())
}

fn take_record(header: &BatchHeader, payload: &mut Bytes) -> Option<(i64, Record)> {
    let length = usize::try_from(take_varint(payload)?).ok()?;
    if length == 0 || length > payload.len() {
        return None;
    }
    let mut one = payload.split_to(length);
    one.advance(1);
    let timestamp_delta = take_varint(&mut one)?;
    let offset = header.base_offset.checked_add(take_varint(&mut one)?)?;
    let key = take_nullable(&mut one)?;
    let value = take_nullable(&mut one)?;
    let count = usize::try_from(take_varint(&mut one)?).ok()?;
    // Each header takes two bytes at least.
    if count > one.len() {
        return None;
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = String::from_utf8_lossy(&take_nullable(&mut one)??).into_owned();
        headers.push((name, take_nullable(&mut one)?));
    }
    let timestamp_ms = match header.attributes & LOG_APPEND_TIME {
        0 => header.base_timestamp_ms.saturating_add(timestamp_delta),
        _ => header.max_timestamp_ms,
    };
    Some((offset, Record { key, value, headers, timestamp_ms }))
}

fn take_nullable(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    let length = take_varint(bytes)?;
    if length == -1 {
        return Some(None);
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len())?;
    Some(Some(bytes.split_to(length)))
}

fn take_varint(bytes: &mut Bytes) -> Option<i64> {
    let mut value = 0u64;
    for shift in 0..10 {
        if bytes.is_empty() {
            return None;
        }
        let byte = bytes.get_u8();
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use meridian_raft::batch::Batch;
    use proptest::prelude::*;

    use super::*;

    const SEQUENCE: Sequence = Sequence { producer_id: 7, producer_epoch: 1, base_sequence: 40 };

    fn record(key: Option<&'static str>, value: Option<&'static str>, timestamp_ms: i64) -> Record {
        Record { key: key.map(Bytes::from), value: value.map(Bytes::from), headers: Vec::new(), timestamp_ms }
    }

    fn records() -> Vec<Record> {
        let mut records = vec![record(Some("UA"), Some("{}"), 2_000), record(None, None, 1_000), record(Some(""), Some(""), 3_000)];
        records[1].headers = vec![("traceparent".into(), Some(Bytes::from_static(b"00-1"))), ("empty".into(), None)];
        records
    }

    /// The same batch with other attributes and payload, sealed again.
    fn resealed(batch: &Bytes, attributes: i16, payload: &[u8]) -> Bytes {
        let mut bytes = batch[..HEADER_BYTES].to_vec();
        bytes.extend(payload);
        let length = (bytes.len() - 12) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        let batch = encode(&records(), SEQUENCE).expect("a batch");
        let decoded = decode(3, 0, batch).expect("records");
        assert_eq!(decoded.next_offset, Some(3));
        assert_eq!(decoded.records.iter().map(|fetched| fetched.record.clone()).collect::<Vec<_>>(), records());
        assert_eq!(decoded.records.iter().map(|fetched| (fetched.partition, fetched.offset)).collect::<Vec<_>>(), [(3, 0), (3, 1), (3, 2)]);
    }

    #[test]
    fn a_node_takes_the_batch_and_reads_its_producer() {
        let batch = Batch::validate(encode(&records(), SEQUENCE).expect("a batch")).expect("valid");
        let header = batch.header();
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 1, 40));
        assert_eq!((header.base_timestamp_ms, header.max_timestamp_ms), (1_000, 3_000));
    }

    #[test]
    fn a_batch_is_read_from_the_middle_and_its_cut_successor_waits() {
        let batch = encode(&records(), SEQUENCE).expect("a batch");
        let mut bytes = batch.to_vec();
        bytes.extend(&batch[..batch.len() - 1]);
        let decoded = decode(0, 1, bytes.into()).expect("records");
        assert_eq!((decoded.records.len(), decoded.records[0].offset, decoded.next_offset), (2, 1, Some(3)));
    }

    #[test]
    fn a_flipped_bit_is_refused_and_a_control_batch_is_no_record() {
        let batch = encode(&records(), SEQUENCE).expect("a batch");
        let mut flipped = batch.to_vec();
        flipped[70] ^= 1;
        assert!(decode(0, 0, flipped.into()).expect_err("damage").to_string().contains("checksum"));
        let control = resealed(&batch, CONTROL, &batch[HEADER_BYTES..]);
        assert_eq!(decode(0, 0, control).expect("no records"), Decoded { records: Vec::new(), next_offset: Some(3) });
    }

    #[test]
    fn gzip_is_read() {
        let batch = encode(&records(), SEQUENCE).expect("a batch");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&batch[HEADER_BYTES..]).expect("compressed");
        let batch = resealed(&batch, 1, &gzip.finish().expect("compressed"));
        assert_eq!(decode(0, 0, batch).expect("records").records.len(), 3);
    }

    proptest! {
        #[test]
        fn no_records_make_a_reader_panic(junk in prop::collection::vec(any::<u8>(), 0..120), codec in 0i16..8) {
            let good = encode(&records(), SEQUENCE).expect("a batch");
            let _ = decode(0, 0, resealed(&good, codec, &junk));
            let _ = decode(0, 0, junk.into());
        }
    }
}
