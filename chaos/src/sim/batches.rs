//! Small Kafka batches that describe themselves: uncompressed, a few records, a value nobody else has.

use bytes::{BufMut, Bytes, BytesMut};

/// A batch of `count` records whose values are `name` and their number, padded to `pad` bytes.
pub(super) fn batch(name: u64, count: i32, pad: usize, timestamp_ms: i64) -> Bytes {
    let mut records = BytesMut::new();
    for delta in 0..count {
        let value = format!("{name}/{delta}/{:pad$}", "");
        let mut record = BytesMut::new();
        record.put_u8(0);
        put_varint(&mut record, 0);
        put_varint(&mut record, i64::from(delta));
        put_varint(&mut record, -1);
        put_varint(&mut record, value.len() as i64);
        record.put_slice(value.as_bytes());
        put_varint(&mut record, 0);
        put_varint(&mut records, record.len() as i64);
        records.put_slice(&record);
    }
    let mut covered = BytesMut::new();
    covered.put_i16(0);
    covered.put_i32(count - 1);
    covered.put_i64(timestamp_ms);
    covered.put_i64(timestamp_ms);
    covered.put_i64(-1);
    covered.put_i16(-1);
    covered.put_i32(-1);
    covered.put_i32(count);
    covered.put_slice(&records);
    let mut batch = BytesMut::new();
    batch.put_i64(0);
    batch.put_i32(9 + covered.len() as i32);
    batch.put_i32(-1);
    batch.put_u8(2);
    batch.put_u32(crc32c::crc32c(&covered));
    batch.put_slice(&covered);
    batch.freeze()
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
    #[test]
    fn what_is_made_here_a_broker_would_accept() {
        let batch = meridian_raft::batch::Batch::validate(super::batch(7, 3, 100, 1_000)).expect("a sound batch");
        assert_eq!(batch.header().count, 3);
        assert_eq!(batch.records().expect("records").len(), 3);
    }
}
