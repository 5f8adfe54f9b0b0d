//! Opens compressed records, whatever codec their producer chose, up to a size.

use std::io::Read;

use bytes::Bytes;

/// Most bytes that one batch may grow to: far above what nodes accept by default (1 MiB compressed), far below a bomb.
const OPENED_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum CompressionError {
    #[error("its compression ({0}) is unknown to this client")]
    Codec(i16),
    #[error("it cannot be decompressed: {0}")]
    Damaged(String),
    #[error("it grows beyond {OPENED_BYTES_MAX} bytes")]
    Large,
}

/// `codec` is a batch's: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
pub(super) fn decompress(codec: i16, bytes: Bytes) -> Result<Bytes, CompressionError> {
    match codec {
        0 => Ok(bytes),
        1 => read(flate2::read::MultiGzDecoder::new(&bytes[..])),
        codec => Err(CompressionError::Codec(codec)),
    }
}

fn read(reader: impl Read) -> Result<Bytes, CompressionError> {
    let mut opened = Vec::new();
    reader.take(OPENED_BYTES_MAX + 1).read_to_end(&mut opened).map_err(|error| CompressionError::Damaged(error.to_string()))?;
    if opened.len() as u64 > OPENED_BYTES_MAX { Err(CompressionError::Large) } else { Ok(opened.into()) }
}
