//! A Fetch request, read by own code.

use crate::kafka::cursor::{Cursor, Cut};
use crate::kafka::topic_key::TopicRef;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct FetchRequest<'a> {
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    /// 1 is read_committed.
    pub isolation: i8,
    /// 0 or less: not a part of an incremental session.
    pub session_epoch: i32,
    pub topics: Vec<Topic<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Topic<'a> {
    pub key: TopicRef<'a>,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partition {
    pub index: i32,
    /// The leader epoch that the client believes in; negative: none.
    pub epoch: i32,
    pub offset: i64,
    pub bytes_max: i32,
}

/// Least bytes of a topic: an empty name and no partitions.
const TOPIC_BYTES_MIN: usize = 2;
/// Least bytes of a partition: index, offset, size.
const PARTITION_BYTES_MIN: usize = 16;

pub(super) fn parse(version: i16, flexible: bool, body: &[u8]) -> Result<FetchRequest<'_>, Cut> {
    let mut cursor = Cursor::new(body, flexible);
    if version <= 14 {
        let _replica_id = cursor.i32()?;
    }
    let (max_wait_ms, min_bytes, max_bytes, isolation) = (cursor.i32()?, cursor.i32()?, cursor.i32()?, cursor.i8()?);
    let (_session_id, session_epoch) = if version >= 7 { (cursor.i32()?, cursor.i32()?) } else { (0, -1) };
    let count = cursor.count(TOPIC_BYTES_MIN)?;
    let topics = (0..count).map(|_| topic(version, &mut cursor)).collect::<Result<_, _>>()?;
    if version >= 7 {
        forgotten(version, &mut cursor)?;
    }
    if version >= 11 {
        let _rack = cursor.string()?;
    }
    cursor.tags()?;
    Ok(FetchRequest { max_wait_ms, min_bytes, max_bytes, isolation, session_epoch, topics })
}

fn topic<'a>(version: i16, cursor: &mut Cursor<'a>) -> Result<Topic<'a>, Cut> {
    let key = TopicRef::read(cursor, version >= 13)?;
    let count = cursor.count(PARTITION_BYTES_MIN)?;
    let partitions = (0..count).map(|_| partition(version, cursor)).collect::<Result<_, _>>()?;
    cursor.tags()?;
    Ok(Topic { key, partitions })
}

fn partition(version: i16, cursor: &mut Cursor<'_>) -> Result<Partition, Cut> {
    let index = cursor.i32()?;
    let epoch = if version >= 9 { cursor.i32()? } else { -1 };
    let offset = cursor.i64()?;
    if version >= 12 {
        let _last_fetched_epoch = cursor.i32()?;
    }
    if version >= 5 {
        let _log_start_offset = cursor.i64()?;
    }
    let bytes_max = cursor.i32()?;
    cursor.tags()?;
    Ok(Partition { index, epoch, offset, bytes_max })
}

/// Partitions that leave an incremental session: there is none to leave.
fn forgotten(version: i16, cursor: &mut Cursor<'_>) -> Result<(), Cut> {
    for _ in 0..cursor.count(TOPIC_BYTES_MIN)? {
        TopicRef::read(cursor, version >= 13)?;
        for _ in 0..cursor.count(size_of::<i32>())? {
            cursor.i32()?;
        }
        cursor.tags()?;
    }
    Ok(())
}
