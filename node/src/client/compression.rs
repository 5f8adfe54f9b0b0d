//! Opens compressed records, whatever codec their producer chose, up to a size.

use std::io::Read;

use bytes::{Buf, Bytes};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// Most bytes that one batch may grow to: far above what nodes accept by default (1 MiB compressed), far below a bomb.
const OPENED_BYTES_MAX: usize = 256 << 20;
/// Most times that one batch may grow: what gzip can do at most. Only zstd can do more, of one byte repeated.
const RATIO_MAX: usize = 1032;
/// Whatever its ratio, a batch may grow to this.
const OPENED_BYTES_FREE: usize = 32 << 20;
/// Largest window that a zstd frame may ask memory for; that of zstd's highest level but the two "ultra" ones.
const ZSTD_WINDOW_BYTES_MAX: u64 = 32 << 20;
/// What Java's clients put before snappy blocks, each of which then has its length before it: xerial's magic and two version numbers.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = XERIAL_MAGIC.len() + 8;

#[derive(Debug, thiserror::Error)]
pub(super) enum CompressionError {
    #[error("its compression ({0}) is unknown to this client")]
    Codec(i16),
    #[error("it cannot be decompressed: {0}")]
    Damaged(String),
    #[error("it grows beyond {max} bytes")]
    Large { max: usize },
}

/// `codec` is a batch's: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
pub(super) fn decompress(codec: i16, bytes: Bytes) -> Result<Bytes, CompressionError> {
    let mut opened = Opened::of(bytes.len());
    match codec {
        0 => return Ok(bytes),
        1 => opened.read(flate2::read::MultiGzDecoder::new(&bytes[..]))?,
        2 => opened.snappy(bytes)?,
        3 => opened.read(lz4_flex::frame::FrameDecoder::new(&bytes[..]))?,
        4 => opened.zstd(&bytes)?,
        codec => return Err(CompressionError::Codec(codec)),
    }
    Ok(opened.bytes.into())
}

/// What came out so far, and how much may.
struct Opened {
    bytes: Vec<u8>,
    max: usize,
}

impl Opened {
    fn of(compressed_bytes: usize) -> Opened {
        let max = compressed_bytes.saturating_mul(RATIO_MAX).clamp(OPENED_BYTES_FREE, OPENED_BYTES_MAX);
        Opened { bytes: Vec::new(), max }
    }

    fn left(&self) -> usize {
        self.max - self.bytes.len()
    }

    fn large(&self) -> CompressionError {
        CompressionError::Large { max: self.max }
    }

    fn read(&mut self, reader: impl Read) -> Result<(), CompressionError> {
        reader.take(self.left() as u64 + 1).read_to_end(&mut self.bytes).map_err(damaged)?;
        if self.bytes.len() > self.max { Err(self.large()) } else { Ok(()) }
    }

    /// One block as librdkafka writes it, or several in xerial's frame as Java does.
    fn snappy(&mut self, mut bytes: Bytes) -> Result<(), CompressionError> {
        if !bytes.starts_with(XERIAL_MAGIC) {
            return self.snappy_block(&bytes);
        }
        let cut = || damaged("a snappy frame is cut short");
        if bytes.len() < XERIAL_HEADER_BYTES {
            return Err(cut());
        }
        bytes.advance(XERIAL_HEADER_BYTES);
        while !bytes.is_empty() {
            let length = bytes.try_get_u32().map_err(|_| cut())?;
            let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len()).ok_or_else(cut)?;
            self.snappy_block(&bytes.split_to(length))?;
        }
        Ok(())
    }

    fn snappy_block(&mut self, block: &[u8]) -> Result<(), CompressionError> {
        // A block says first how large it will be.
        let length = snap::raw::decompress_len(block).map_err(damaged)?;
        if length > self.left() {
            return Err(self.large());
        }
        let mut opened = vec![0; length];
        let written = snap::raw::Decoder::new().decompress(block, &mut opened).map_err(damaged)?;
        self.bytes.extend_from_slice(&opened[..written]);
        Ok(())
    }

    /// Frames, one after the other.
    fn zstd(&mut self, mut bytes: &[u8]) -> Result<(), CompressionError> {
        while !bytes.is_empty() {
            match StreamingDecoder::new_with_max_window_size(&mut bytes, ZSTD_WINDOW_BYTES_MAX) {
                Ok(decoder) => self.read(decoder)?,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
                    bytes.advance(length.ok_or_else(|| damaged("a frame to be skipped is cut short"))?);
                }
                Err(error) => return Err(damaged(error)),
            }
        }
        Ok(())
    }
}

fn damaged(error: impl std::fmt::Display) -> CompressionError {
    CompressionError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use meridian_raft::batch::HEADER_BYTES;
    use proptest::prelude::*;

    use super::super::batch;
    use super::*;

    /// Batches as they were sent: three records by librdkafka 2 in each codec, and one by Apache Kafka's Java client 4 in xerial's frame.
    const SNAPPY: &str = "00000000000000000000005e0000000202b2fa181b0002000000020000018bcfe568000000018bcfe56802ffffffffffffffffffffffffffff00000003\
        bd013c7c000000026b6e6d6572696469616e20b209001430007c000202e23f001431007c000404e23f00043200";
    const LZ4: &str = "00000000000000000000006f0000000202bd2f8ddb0003000000020000018bcfe568000000018bcfe56802ffffffffffffffffffffffffffff00000003\
        04224d186040822f000000ff017c000000026b6e6d6572696469616e2009001a6f30007c0002023f00266f31007c0004043f002350616e20320000000000";
    const ZSTD: &str = "00000000000000000000006400000002023a8face50004000000020000018bcfe568000000018bcfe56802ffffffffffffffffffffffffffff00000003\
        28b52ffd0058550100f07c000000026b6e6d6572696469616e2030007c00020231007c0004043200030086b358086721cdb204";
    const XERIAL: &str = "00000000000000000000005d0000000202a854a1800002000000000000018bcfe568000000018bcfe5680000010000000000010000000000000000000\
        182534e41505059000000000100000001000000183f3c7c000000026b6e6d6572696469616e20b20900043000";

    fn bytes(hexadecimal: &str) -> Bytes {
        let digits: Vec<u32> = hexadecimal.chars().map(|digit| digit.to_digit(16).expect("a digit")).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    fn payload(hexadecimal: &str) -> Bytes {
        bytes(hexadecimal).slice(HEADER_BYTES..)
    }

    fn is_large(opened: Result<Bytes, CompressionError>) -> bool {
        matches!(opened, Err(CompressionError::Large { .. }))
    }

    #[test]
    fn what_other_clients_compress_is_read() {
        for (batch, count) in [(SNAPPY, 3), (LZ4, 3), (ZSTD, 3), (XERIAL, 1)] {
            let decoded = batch::decode(0, 0, bytes(batch)).expect("records");
            assert_eq!(decoded.records.len(), count);
            for (i, fetched) in decoded.records.iter().enumerate() {
                let value = format!("{}{i}", "meridian ".repeat(6));
                assert_eq!((fetched.offset, fetched.record.timestamp_ms), (i as i64, 1_700_000_000_000 + i as i64));
                assert_eq!((fetched.record.key.as_deref(), fetched.record.value.as_deref()), (Some(&b"k"[..]), Some(value.as_bytes())));
            }
        }
    }

    #[test]
    fn frames_and_blocks_follow_each_other() {
        let one = decompress(4, payload(ZSTD)).expect("opened");
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 0xff, 0xff];
        let two = [&payload(ZSTD)[..], &skipped, &payload(ZSTD)].concat();
        assert_eq!(decompress(4, two.into()).expect("opened"), [&one[..], &one].concat());

        let one = decompress(2, payload(XERIAL)).expect("opened");
        let two = [&payload(XERIAL)[..], &payload(XERIAL)[XERIAL_HEADER_BYTES..]].concat();
        assert_eq!(decompress(2, two.into()).expect("opened"), [&one[..], &one].concat());
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        let block = |is_last: u32| [&((128 << 10) << 3 | 1 << 1 | is_last).to_le_bytes()[..3], &[0]].concat();
        let repeated = |blocks: usize| {
            let window_of_128_kib = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x38];
            Bytes::from([&window_of_128_kib[..], &block(0).repeat(blocks - 1), &block(1)].concat())
        };
        assert_eq!(decompress(4, repeated(256)).expect("not beyond what is free").len(), OPENED_BYTES_FREE);
        assert!(is_large(decompress(4, repeated(257))));

        let window_of_1_gib = [0x28, 0xb5, 0x2f, 0xfd, 0, 0xa0, 1, 0, 0];
        assert!(decompress(4, Bytes::copy_from_slice(&window_of_1_gib)).is_err());
        assert!(is_large(decompress(2, Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]))));
        let cut_short = payload(XERIAL).slice(..payload(XERIAL).len() - 1);
        assert!(matches!(decompress(2, cut_short), Err(CompressionError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn damage_is_no_panic(of in 0usize..4, damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let (codec, batch) = [(2, SNAPPY), (3, LZ4), (4, ZSTD), (2, XERIAL)][of];
            let mut damaged = payload(batch).to_vec();
            for (index, byte) in damages {
                let at = index.index(damaged.len());
                damaged[at] = byte;
            }
            if let Ok(opened) = decompress(codec, damaged.into()) {
                prop_assert!(opened.len() <= OPENED_BYTES_FREE);
            }
        }
    }
}
