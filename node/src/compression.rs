//! Opens compressed records, whatever codec their producer chose, up to a size: for `meridian consume`, and for nodes, which look into what
//! they are sent.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use bytes::{Buf, Bytes};
use meridian_raft::batch::admission::Opened;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// Most bytes that one batch may grow to: far above what nodes accept by default (1 MiB compressed), far below a bomb.
const OPENED_BYTES_MAX: usize = 256 << 20;
/// Most times that one batch may grow: what gzip can do at most. Only zstd can do more, of one byte repeated.
const RATIO_MAX: usize = 1032;
/// Whatever its ratio, a batch may grow to this.
const OPENED_BYTES_FREE: usize = 32 << 20;
/// Decompressed at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Largest window that a zstd frame may ask memory for; that of zstd's highest level but the two "ultra" ones.
const ZSTD_WINDOW_BYTES_MAX: u64 = 32 << 20;
/// Magic and length of a zstd frame that is to be skipped.
const SKIPPED_HEADER_BYTES: usize = 8;
/// What Java's clients put before snappy blocks, each of which then has its length before it: xerial's magic and two version numbers.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = XERIAL_MAGIC.len() + 8;

#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    #[error("its compression ({0}) is unknown to this client")]
    Codec(i16),
    #[error("it cannot be decompressed: {0}")]
    Damaged(String),
    #[error("it grows beyond {max} bytes")]
    Large { max: usize },
}

/// The most that so many compressed bytes may grow to.
pub fn opened_bytes_max(compressed_bytes: usize) -> usize {
    compressed_bytes.saturating_mul(RATIO_MAX).clamp(OPENED_BYTES_FREE, OPENED_BYTES_MAX)
}

/// The whole of it. `codec` is a batch's: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
pub fn decompress(codec: i16, bytes: Bytes) -> Result<Bytes, CompressionError> {
    let max = opened_bytes_max(bytes.len());
    match codec {
        0 => return Ok(bytes),
        1..=4 => {}
        codec => return Err(CompressionError::Codec(codec)),
    }
    let mut opened = Vec::new();
    let read = open(codec, &bytes, max).and_then(|mut reader| reader.read_to_end(&mut opened));
    match read {
        Ok(_) => Ok(opened.into()),
        Err(error) if error.kind() == ErrorKind::FileTooLarge => Err(CompressionError::Large { max }),
        Err(error) => Err(CompressionError::Damaged(error.to_string())),
    }
}

/// The same as it is read; fails with [`ErrorKind::FileTooLarge`] where there is more than `max` bytes.
pub fn open(codec: i16, bytes: &[u8], max: usize) -> io::Result<Opened<'_>> {
    Ok(match codec {
        1 => bounded(flate2::bufread::MultiGzDecoder::new(bytes), max),
        2 => Box::new(Snappy::new(bytes, max)?),
        3 => bounded(lz4_flex::frame::FrameDecoder::new(bytes), max),
        4 => bounded(Zstd { rest: bytes, frame: None }, max),
        codec => return Err(damaged(format!("codec {codec} is unknown"))),
    })
}

fn bounded<'a>(reader: impl Read + 'a, max: usize) -> Opened<'a> {
    Box::new(BufReader::with_capacity(CHUNK_BYTES, Bounded { reader, left: max }))
}

/// Ends as its reader does, and fails where that goes on for too long.
struct Bounded<R> {
    reader: R,
    left: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One more than may come shows that there is more.
        let room = buffer.len().min(self.left.saturating_add(1));
        let read = self.reader.read(&mut buffer[..room])?;
        self.left = self.left.checked_sub(read).ok_or(ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

/// One block as librdkafka writes it, or several in xerial's frame as Java does.
struct Snappy<'a> {
    rest: &'a [u8],
    is_framed: bool,
    block: Vec<u8>,
    /// Of the block, so many bytes are read.
    at: usize,
    left: usize,
}

impl<'a> Snappy<'a> {
    fn new(bytes: &'a [u8], max: usize) -> io::Result<Snappy<'a>> {
        let is_framed = bytes.starts_with(XERIAL_MAGIC);
        let rest = if is_framed { bytes.get(XERIAL_HEADER_BYTES..).ok_or_else(cut)? } else { bytes };
        Ok(Snappy { rest, is_framed, block: Vec::new(), at: 0, left: max })
    }

    fn next_block(&mut self) -> io::Result<()> {
        let length = if self.is_framed { self.rest.try_get_u32().map_err(|_| cut())? as usize } else { self.rest.len() };
        let (block, rest) = self.rest.split_at_checked(length).ok_or_else(cut)?;
        // A block says first how large it will be.
        let opened = snap::raw::decompress_len(block).map_err(damaged)?;
        self.left = self.left.checked_sub(opened).ok_or(ErrorKind::FileTooLarge)?;
        self.block.resize(opened, 0);
        let written = snap::raw::Decoder::new().decompress(block, &mut self.block).map_err(damaged)?;
        self.block.truncate(written);
        (self.rest, self.at) = (rest, 0);
        Ok(())
    }
}

impl BufRead for Snappy<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.block.len() && !self.rest.is_empty() {
            self.next_block()?;
        }
        Ok(&self.block[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes).min(self.block.len());
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// Frames, one after the other.
struct Zstd<'a> {
    rest: &'a [u8],
    frame: Option<StreamingDecoder<&'a [u8], ruzstd::decoding::FrameDecoder>>,
}

impl Zstd<'_> {
    /// Opens the next frame, or passes over one that is to be skipped.
    fn next_frame(&mut self) -> io::Result<()> {
        match StreamingDecoder::new_with_max_window_size(self.rest, ZSTD_WINDOW_BYTES_MAX) {
            Ok(frame) => self.frame = Some(frame),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let end = usize::try_from(length).map_err(damaged)?.saturating_add(SKIPPED_HEADER_BYTES);
                self.rest = self.rest.get(end..).ok_or_else(|| damaged("a frame to be skipped is cut short"))?;
            }
            Err(error) => return Err(damaged(error)),
        }
        Ok(())
    }
}

impl Read for Zstd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let read = frame.read(buffer).map_err(damaged)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                self.rest = frame.get_ref();
                self.frame = None;
            }
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.next_frame()?;
        }
    }
}

fn cut() -> io::Error {
    damaged("a snappy frame is cut short")
}

fn damaged(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use meridian_raft::batch::HEADER_BYTES;
    use proptest::prelude::*;

    use super::*;
    use crate::client::batch;

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
