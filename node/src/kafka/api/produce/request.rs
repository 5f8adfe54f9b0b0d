//! A Produce request as views of its bytes.

use std::ops::Range;

use crate::kafka::cursor::{Cursor, Cut};
use crate::kafka::topic_key::TopicRef;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProduceRequest<'a> {
    pub transactional: bool,
    pub acks: i16,
    pub timeout_ms: i32,
    pub topics: Vec<Topic<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Topic<'a> {
    pub key: TopicRef<'a>,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub index: i32,
    /// Where the batch lies in the body.
    pub records: Option<Range<usize>>,
}

/// Least bytes of a topic: an empty name and no partitions.
const TOPIC_BYTES_MIN: usize = 2;
/// Least bytes of a partition: its index and a null in place of records.
const PARTITION_BYTES_MIN: usize = 5;

pub(super) fn parse(version: i16, flexible: bool, body: &[u8]) -> Result<ProduceRequest<'_>, Cut> {
    let mut cursor = Cursor::new(body, flexible);
    let transactional = version >= 3 && cursor.nullable_string()?.is_some();
    let (acks, timeout_ms) = (cursor.i16()?, cursor.i32()?);
    let count = cursor.count(TOPIC_BYTES_MIN)?;
    let topics = (0..count).map(|_| topic(version, &mut cursor)).collect::<Result<_, _>>()?;
    cursor.tags()?;
    Ok(ProduceRequest { transactional, acks, timeout_ms, topics })
}

fn topic<'a>(version: i16, cursor: &mut Cursor<'a>) -> Result<Topic<'a>, Cut> {
    let key = TopicRef::read(cursor, version >= 13)?;
    let count = cursor.count(PARTITION_BYTES_MIN)?;
    let mut partitions = Vec::with_capacity(count);
    for _ in 0..count {
        partitions.push(Partition { index: cursor.i32()?, records: cursor.nullable_bytes()? });
        cursor.tags()?;
    }
    cursor.tags()?;
    Ok(Topic { key, partitions })
}
