//! Looks into a batch before it is stored, also into a compressed one: how many records it holds is nothing that its producer may claim.

use bytes::Bytes;
use meridian_raft::batch::{Batch, BatchError};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::compression::{open, opened_bytes_max};

/// What a batch may grow to while the thread's other connections wait: some milliseconds. What grows larger is begun again where they need not.
const OPENED_AT_ONCE_BYTES: usize = 4 << 20;

pub fn admit(records: Bytes) -> Result<Batch, BatchError> {
    let max = opened_bytes_max(records.len());
    let within = |records: Bytes, max| Batch::admit(records, move |codec, compressed| open(codec, compressed, max));
    match within(records.clone(), OPENED_AT_ONCE_BYTES.min(max)) {
        Err(BatchError::Large) if is_shared() => tokio::task::block_in_place(|| within(records, max)),
        Err(BatchError::Large) => within(records, max),
        judged => judged,
    }
}

/// Whether this thread is one of several that can take each other's work.
fn is_shared() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use meridian_raft::batch::HEADER_BYTES;
    use meridian_raft::batch::records::{Record, encode};

    use super::*;

    /// A batch of one record, with other attributes and payload.
    fn batch(codec: u8, payload: &[u8]) -> Bytes {
        let plain = plain(0);
        let mut bytes = [&plain[..HEADER_BYTES], payload].concat();
        let length = (bytes.len() - 12) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[22] = codec;
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    fn plain(value_bytes: usize) -> Bytes {
        let record = Record { key: None, value: Some(vec![b'x'; value_bytes].into()), timestamp_ms: 1 };
        encode(&[record]).expect("a batch").bytes().clone()
    }

    fn gzipped(value_bytes: usize) -> Bytes {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain(value_bytes)[HEADER_BYTES..]).expect("compressed");
        batch(1, &gzip.finish().expect("compressed"))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_batch_that_grows_far_is_looked_into_to_its_end() {
        for value_bytes in [10, OPENED_AT_ONCE_BYTES, OPENED_AT_ONCE_BYTES * 2] {
            let judged = tokio::spawn(async move { admit(gzipped(value_bytes)) }).await.expect("no panic");
            assert_eq!(judged.expect("a batch").header().count, 1, "{value_bytes}");
        }
        let mut longer = gzipped(OPENED_AT_ONCE_BYTES * 2).to_vec();
        longer.truncate(longer.len() - 9);
        let cut = batch(1, &longer[HEADER_BYTES..]);
        let judged = tokio::spawn(async move { admit(cut) }).await.expect("no panic");
        assert!(matches!(judged, Err(BatchError::Records | BatchError::Compression(_))), "{judged:?}");
    }

    fn varint(value: u64) -> Vec<u8> {
        let mut rest = value << 1;
        let mut bytes = Vec::new();
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    #[test]
    fn a_bomb_of_a_record_is_refused_as_too_large() {
        // A record of 40 MiB of zeros in zstd: its head as it is, the rest as blocks of one byte repeated.
        const BLOCK: usize = 128 << 10;
        let (blocks, value) = (320, 320 * BLOCK as u64 - 1);
        let head = [&[0, 0, 0, 1][..], &varint(value)].concat();
        let record = [varint(head.len() as u64 + value + 1), head].concat();
        let block = |kind: usize, bytes: usize, is_last: usize| (bytes << 3 | kind << 1 | is_last).to_le_bytes()[..3].to_vec();
        let repeated = |is_last| [block(1, BLOCK, is_last), vec![0]].concat();
        let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x38][..], &block(0, record.len(), 0), &record].concat();
        let zstd = |blocks: usize| batch(4, &[&frame[..], &repeated(0).repeat(blocks - 1), &repeated(1)].concat());
        assert!(zstd(blocks).len() < 2_000);
        assert_eq!(admit(zstd(blocks)), Err(BatchError::Large));
    }
}
