//! What a client's batch must be before it is stored: its header, its checksum, and every record in it, whichever codec hides them.
//!
//! As Kafka's `LogValidator` has it: as many records as the header claims and nothing behind them, numbered one after the other, each with
//! lengths that fit; and the greatest timestamp of the header is theirs. What a reader could not read is refused while its producer listens.

use std::io::{self, BufRead, ErrorKind};

use bytes::{Bytes, BytesMut};

use super::{Batch, BatchError, HEADER_BYTES};

/// Attribute: the timestamps are the log's, not the producer's. No client's to say.
const LOG_APPEND_TIME: i16 = 0x08;
/// Where the greatest timestamp stands.
const MAX_TIMESTAMP: std::ops::Range<usize> = 35..43;
const CHECKSUM: std::ops::Range<usize> = 17..21;
/// What the checksum covers begins here.
const COVERED: usize = 21;

/// The records of a batch, decompressed as they are read. A source that would give more than it may fails with [`ErrorKind::FileTooLarge`].
pub type Opened<'a> = Box<dyn BufRead + 'a>;

impl Batch {
    /// Ingress check of a client's batch. `open` gives the records of a compressed one. A greatest timestamp that is not the records' is set
    /// right, as Kafka does: retention and lookups by time go by it.
    pub fn admit(bytes: Bytes, open: impl FnOnce(i16, &[u8]) -> io::Result<Opened<'_>>) -> Result<Batch, BatchError> {
        let batch = Batch::sound(bytes)?;
        let header = &batch.header;
        if header.attributes & LOG_APPEND_TIME != 0 {
            return Err(BatchError::TimestampType);
        }
        let records = batch.bytes.get(HEADER_BYTES..).unwrap_or_default();
        let latest = if batch.is_compressed() {
            open(batch.codec(), records).and_then(|opened| latest(opened, header.count)).map_err(refusal)?
        } else {
            latest(records, header.count).map_err(refusal)?
        };
        let max_timestamp_ms = header.base_timestamp_ms.saturating_add(latest);
        if max_timestamp_ms == header.max_timestamp_ms { Ok(batch) } else { Ok(batch.with_max_timestamp(max_timestamp_ms)) }
    }

    fn with_max_timestamp(self, max_timestamp_ms: i64) -> Batch {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[MAX_TIMESTAMP].copy_from_slice(&max_timestamp_ms.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[COVERED..]);
        bytes[CHECKSUM].copy_from_slice(&crc.to_be_bytes());
        let header = super::BatchHeader { max_timestamp_ms, crc, ..self.header };
        Batch { header, bytes: bytes.freeze() }
    }
}

fn refusal(error: io::Error) -> BatchError {
    match error.kind() {
        ErrorKind::FileTooLarge => BatchError::Large,
        ErrorKind::UnexpectedEof | ErrorKind::InvalidInput => BatchError::Records,
        _ => BatchError::Compression(error.to_string()),
    }
}

fn misshapen() -> io::Error {
    ErrorKind::InvalidInput.into()
}

/// Walks `count` records to the end of their source; the greatest of their timestamps, as the difference from the batch's base.
fn latest(source: impl BufRead, count: i32) -> io::Result<i64> {
    let mut walk = Walk { source, position: 0 };
    let mut latest = i64::MIN;
    for number in 0..i64::from(count) {
        latest = latest.max(walk.record(number)?);
    }
    if walk.source.fill_buf()?.is_empty() { Ok(latest) } else { Err(misshapen()) }
}

struct Walk<R> {
    source: R,
    position: u64,
}

impl<R: BufRead> Walk<R> {
    /// Passes over the record of this number; its timestamp's difference from the base.
    fn record(&mut self, number: i64) -> io::Result<i64> {
        let length = self.length()?.ok_or_else(misshapen)?;
        let end = self.position + length;
        // Attributes, of which there are none yet.
        self.skip(1)?;
        let timestamp_delta = self.varint()?;
        if self.varint()? != number {
            return Err(misshapen());
        }
        self.skip_nullable()?;
        self.skip_nullable()?;
        for _ in 0..self.length()?.ok_or_else(misshapen)? {
            let name = self.length()?.ok_or_else(misshapen)?;
            self.skip(name)?;
            self.skip_nullable()?;
            if self.position > end {
                return Err(misshapen());
            }
        }
        if self.position == end { Ok(timestamp_delta) } else { Err(misshapen()) }
    }

    fn skip_nullable(&mut self) -> io::Result<()> {
        match self.length()? {
            Some(length) => self.skip(length),
            None => Ok(()),
        }
    }

    /// None is null.
    fn length(&mut self) -> io::Result<Option<u64>> {
        match self.varint()? {
            -1 => Ok(None),
            // What does not fit the 31 bits of a batch's own length fits nothing in it.
            length => u32::try_from(length).map(|length| Some(length.into())).map_err(|_| misshapen()),
        }
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(self.filled()?.len());
            self.consume(step);
            left -= step as u64;
        }
        Ok(())
    }

    fn varint(&mut self) -> io::Result<i64> {
        let mut value = 0u64;
        for shift in 0..10 {
            let byte = self.filled()?.first().copied().unwrap_or_default();
            self.consume(1);
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(misshapen())
    }

    /// At least one byte of what follows.
    fn filled(&mut self) -> io::Result<&[u8]> {
        let filled = self.source.fill_buf()?;
        if filled.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(filled) }
    }

    fn consume(&mut self, bytes: usize) {
        self.source.consume(bytes);
        self.position += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::records::{Record, encode};
    use super::*;

    const GZIP: i16 = 1;

    fn batch() -> Vec<u8> {
        let record = |value: &'static str, timestamp_ms| Record { key: Some("k".into()), value: Some(value.into()), timestamp_ms };
        encode(&[record("one", 5), record("two", 9)]).expect("a batch").bytes().to_vec()
    }

    fn sealed(mut bytes: Vec<u8>) -> Bytes {
        let length = (bytes.len() - 12) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[COVERED..]);
        bytes[CHECKSUM].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    /// The header with these attributes before these records, sealed.
    fn with(attributes: i16, records: &[u8]) -> Bytes {
        let mut bytes = batch()[..HEADER_BYTES].to_vec();
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        sealed([&bytes[..], records].concat())
    }

    /// A codec that hides nothing: what is walked is what was sent.
    fn plain(_codec: i16, records: &[u8]) -> io::Result<Opened<'_>> {
        Ok(Box::new(records))
    }

    fn admit(bytes: Bytes) -> Result<Batch, BatchError> {
        Batch::admit(bytes, plain)
    }

    #[test]
    fn records_are_counted_and_numbered_behind_a_codec_as_in_the_open() {
        let good = batch()[HEADER_BYTES..].to_vec();
        let half = good.len() / 2;
        for attributes in [0, GZIP] {
            assert!(admit(with(attributes, &good)).is_ok());
            for (what, records) in [
                ("one of two", &good[..half]),
                ("one twice", &[&good[..half], &good[..half]].concat()),
                ("three", &[&good[..], &good[half..]].concat()),
                ("the last one cut", &good[..good.len() - 1]),
                ("a byte behind", &[&good[..], &[0]].concat()),
                ("none", &[]),
            ] {
                assert_eq!(admit(with(attributes, records)), Err(BatchError::Records), "{what}, attributes {attributes}");
            }
            // A key's length that reaches beyond its record.
            let mut long = good.clone();
            long[4] = 0x7e;
            assert_eq!(admit(with(attributes, &long)), Err(BatchError::Records));
        }
    }

    #[test]
    fn a_wrong_greatest_timestamp_is_set_right_and_a_right_one_costs_no_copy() {
        let good = Bytes::from(batch());
        let kept = admit(good.clone()).expect("a batch");
        assert_eq!(kept.bytes().as_ptr(), good.as_ptr());
        for (attributes, lie) in [(0, 7i64), (GZIP, i64::MAX)] {
            let mut bytes = with(attributes, &batch()[HEADER_BYTES..]).to_vec();
            bytes[MAX_TIMESTAMP].copy_from_slice(&lie.to_be_bytes());
            let mended = admit(sealed(bytes)).expect("a batch");
            assert_eq!(mended.header().max_timestamp_ms, 9);
            assert_eq!(Batch::sound(mended.bytes().clone()).expect("its checksum holds").header(), mended.header());
        }
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let records = &batch()[HEADER_BYTES..];
        let failing = |kind: ErrorKind| Batch::admit(with(GZIP, records), move |_, _| Err(kind.into()));
        assert_eq!(failing(ErrorKind::FileTooLarge), Err(BatchError::Large));
        assert!(matches!(failing(ErrorKind::InvalidData), Err(BatchError::Compression(_))));
        assert_eq!(admit(with(LOG_APPEND_TIME, records)), Err(BatchError::TimestampType));
    }

    proptest! {
        #[test]
        fn no_records_make_the_walk_panic(records in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..60)) {
            let _ = admit(with(GZIP, &records));
        }
    }
}
