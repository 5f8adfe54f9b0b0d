//! What a group leaves in `__consumer_offsets`: Kafka's own keys and values, written by hand (no crate of ours knows them).
//!
//! Offsets have key version 1 and value version 4 (the one that tells the topic's id, so that a topic made anew under an old name does not
//! inherit its offsets), groups key version 2 and value version 3. A record without a value is a tombstone: it takes back what its key said.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_raft::batch::records::Record;
use uuid::Uuid;

const OFFSET_KEY_VERSION: i16 = 1;
const GROUP_KEY_VERSION: i16 = 2;
const OFFSET_VALUE_VERSION: i16 = 4;
const GROUP_VALUE_VERSION: i16 = 3;
/// What an offset takes in the log besides names and metadata, roughly; a group or a member not much less.
const FIXED_BYTES: usize = 80;
/// Tagged field of an offset's value: the topic's id.
const TOPIC_ID_TAG: u32 = 0;

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub topic_id: Uuid,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub commit_timestamp_ms: i64,
}

/// A group as it was when it last became stable or empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredGroup {
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    pub timestamp_ms: i64,
    pub members: Vec<StoredMember>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMember {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// One record's meaning; `None` as value is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Offset { group: String, topic: String, partition: i32, value: Option<Committed> },
    Group { group: String, value: Option<StoredGroup> },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a string of {0} bytes does not fit the record")]
    TooLong(usize),
    #[error("the record ends early or holds what it may not")]
    Damaged,
    #[error("key version {0} is not known")]
    UnknownKey(i16),
    #[error("value version {0} is not known")]
    UnknownValue(i16),
}

/// What an offset takes in the log, roughly.
pub fn offset_bytes(group: &str, topic: &str, committed: &Committed) -> usize {
    group.len() + topic.len() + committed.metadata.len() + FIXED_BYTES
}

impl StoredMember {
    fn bytes(&self) -> usize {
        let names = self.id.len() + self.instance_id.as_ref().map_or(0, String::len) + self.client_id.len() + self.client_host.len();
        names + self.subscription.len() + self.assignment.len() + FIXED_BYTES
    }
}

impl Entry {
    /// What it takes in the log, roughly.
    pub fn bytes(&self) -> usize {
        match self {
            Entry::Offset { group, topic, value: Some(committed), .. } => offset_bytes(group, topic, committed),
            Entry::Offset { group, topic, value: None, .. } => group.len() + topic.len() + FIXED_BYTES,
            Entry::Group { group, value } => {
                let members = value.iter().flat_map(|stored| &stored.members);
                group.len() + FIXED_BYTES + members.map(StoredMember::bytes).sum::<usize>()
            }
        }
    }

    pub fn encode(&self, timestamp_ms: i64) -> Result<Record, RecordError> {
        let mut key = BytesMut::new();
        let mut live = None;
        match self {
            Entry::Offset { group, topic, partition, value: committed } => {
                key.put_i16(OFFSET_KEY_VERSION);
                put_string(&mut key, group)?;
                put_string(&mut key, topic)?;
                key.put_i32(*partition);
                if let Some(committed) = committed {
                    put_committed(live.insert(BytesMut::new()), committed);
                }
            }
            Entry::Group { group, value: stored } => {
                key.put_i16(GROUP_KEY_VERSION);
                put_string(&mut key, group)?;
                if let Some(stored) = stored {
                    put_group(live.insert(BytesMut::new()), stored)?;
                }
            }
        }
        Ok(Record { key: Some(key.freeze()), value: live.map(BytesMut::freeze), timestamp_ms })
    }

    pub fn decode(record: &Record) -> Result<Entry, RecordError> {
        let mut key = record.key.as_deref().ok_or(RecordError::Damaged)?;
        match key.try_get_i16().map_err(|_| RecordError::Damaged)? {
            OFFSET_KEY_VERSION => {
                let (group, topic) = (take_string(&mut key)?, take_string(&mut key)?);
                let partition = key.try_get_i32().map_err(|_| RecordError::Damaged)?;
                let value = record.value.as_deref().map(take_committed).transpose()?;
                Ok(Entry::Offset { group, topic, partition, value })
            }
            GROUP_KEY_VERSION => {
                let group = take_string(&mut key)?;
                let value = record.value.as_deref().map(take_group).transpose()?;
                Ok(Entry::Group { group, value })
            }
            other => Err(RecordError::UnknownKey(other)),
        }
    }
}

fn put_committed(buffer: &mut BytesMut, committed: &Committed) {
    buffer.put_i16(OFFSET_VALUE_VERSION);
    buffer.put_i64(committed.offset);
    buffer.put_i32(committed.leader_epoch);
    // Compact: one more than the length.
    put_varint(buffer, u32::try_from(committed.metadata.len() + 1).unwrap_or(u32::MAX));
    buffer.put_slice(committed.metadata.as_bytes());
    buffer.put_i64(committed.commit_timestamp_ms);
    put_varint(buffer, 1);
    put_varint(buffer, TOPIC_ID_TAG);
    put_varint(buffer, 16);
    buffer.put_slice(committed.topic_id.as_bytes());
}

fn put_group(buffer: &mut BytesMut, stored: &StoredGroup) -> Result<(), RecordError> {
    buffer.put_i16(GROUP_VALUE_VERSION);
    put_string(buffer, &stored.protocol_type)?;
    buffer.put_i32(stored.generation);
    put_nullable_string(buffer, stored.protocol.as_deref())?;
    put_nullable_string(buffer, stored.leader.as_deref())?;
    buffer.put_i64(stored.timestamp_ms);
    buffer.put_i32(i32::try_from(stored.members.len()).map_err(|_| RecordError::TooLong(stored.members.len()))?);
    for member in &stored.members {
        put_string(buffer, &member.id)?;
        put_nullable_string(buffer, member.instance_id.as_deref())?;
        put_string(buffer, &member.client_id)?;
        put_string(buffer, &member.client_host)?;
        buffer.put_i32(member.rebalance_timeout_ms);
        buffer.put_i32(member.session_timeout_ms);
        put_bytes(buffer, &member.subscription)?;
        put_bytes(buffer, &member.assignment)?;
    }
    Ok(())
}

fn take_version(bytes: &mut &[u8], expected: i16) -> Result<(), RecordError> {
    match bytes.try_get_i16() {
        Ok(version) if version == expected => Ok(()),
        Ok(other) => Err(RecordError::UnknownValue(other)),
        Err(_) => Err(RecordError::Damaged),
    }
}

fn take_committed(mut bytes: &[u8]) -> Result<Committed, RecordError> {
    let bytes = &mut bytes;
    take_version(bytes, OFFSET_VALUE_VERSION)?;
    let offset = bytes.try_get_i64().map_err(|_| RecordError::Damaged)?;
    let leader_epoch = bytes.try_get_i32().map_err(|_| RecordError::Damaged)?;
    let metadata_bytes = take_varint(bytes)?.checked_sub(1).ok_or(RecordError::Damaged)?;
    let metadata = std::str::from_utf8(take(bytes, metadata_bytes)?).map_err(|_| RecordError::Damaged)?.to_owned();
    let commit_timestamp_ms = bytes.try_get_i64().map_err(|_| RecordError::Damaged)?;
    let mut topic_id = Uuid::nil();
    for _ in 0..take_varint(bytes)? {
        let (tag, size) = (take_varint(bytes)?, take_varint(bytes)?);
        let field = take(bytes, size)?;
        if tag == TOPIC_ID_TAG {
            topic_id = Uuid::from_slice(field).map_err(|_| RecordError::Damaged)?;
        }
    }
    Ok(Committed { topic_id, offset, leader_epoch, metadata, commit_timestamp_ms })
}

fn take_group(mut bytes: &[u8]) -> Result<StoredGroup, RecordError> {
    let bytes = &mut bytes;
    take_version(bytes, GROUP_VALUE_VERSION)?;
    let mut stored = StoredGroup {
        protocol_type: take_string(bytes)?,
        generation: bytes.try_get_i32().map_err(|_| RecordError::Damaged)?,
        protocol: take_nullable_string(bytes)?,
        leader: take_nullable_string(bytes)?,
        timestamp_ms: bytes.try_get_i64().map_err(|_| RecordError::Damaged)?,
        members: Vec::new(),
    };
    // Nothing is allocated for what the count merely claims.
    for _ in 0..bytes.try_get_i32().map_err(|_| RecordError::Damaged)? {
        stored.members.push(StoredMember {
            id: take_string(bytes)?,
            instance_id: take_nullable_string(bytes)?,
            client_id: take_string(bytes)?,
            client_host: take_string(bytes)?,
            rebalance_timeout_ms: bytes.try_get_i32().map_err(|_| RecordError::Damaged)?,
            session_timeout_ms: bytes.try_get_i32().map_err(|_| RecordError::Damaged)?,
            subscription: take_bytes(bytes)?,
            assignment: take_bytes(bytes)?,
        });
    }
    Ok(stored)
}

fn put_string(buffer: &mut BytesMut, text: &str) -> Result<(), RecordError> {
    buffer.put_i16(i16::try_from(text.len()).map_err(|_| RecordError::TooLong(text.len()))?);
    buffer.put_slice(text.as_bytes());
    Ok(())
}

fn put_nullable_string(buffer: &mut BytesMut, text: Option<&str>) -> Result<(), RecordError> {
    match text {
        Some(text) => put_string(buffer, text),
        None => {
            buffer.put_i16(-1);
            Ok(())
        }
    }
}

fn put_bytes(buffer: &mut BytesMut, bytes: &[u8]) -> Result<(), RecordError> {
    buffer.put_i32(i32::try_from(bytes.len()).map_err(|_| RecordError::TooLong(bytes.len()))?);
    buffer.put_slice(bytes);
    Ok(())
}

fn take_nullable_string(bytes: &mut &[u8]) -> Result<Option<String>, RecordError> {
    let length = bytes.try_get_i16().map_err(|_| RecordError::Damaged)?;
    if length == -1 {
        return Ok(None);
    }
    let text = take(bytes, u32::try_from(length).map_err(|_| RecordError::Damaged)?)?;
    Ok(Some(std::str::from_utf8(text).map_err(|_| RecordError::Damaged)?.to_owned()))
}

fn take_string(bytes: &mut &[u8]) -> Result<String, RecordError> {
    take_nullable_string(bytes)?.ok_or(RecordError::Damaged)
}

fn take_bytes(bytes: &mut &[u8]) -> Result<Bytes, RecordError> {
    let length = bytes.try_get_i32().map_err(|_| RecordError::Damaged)?;
    Ok(Bytes::copy_from_slice(take(bytes, u32::try_from(length).map_err(|_| RecordError::Damaged)?)?))
}

/// Unsigned, seven bits a byte.
fn put_varint(buffer: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        buffer.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u32, RecordError> {
    let mut value = 0u32;
    for shift in 0..5 {
        let byte = bytes.try_get_u8().map_err(|_| RecordError::Damaged)?;
        value |= u32::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(RecordError::Damaged)
}

fn take<'a>(bytes: &mut &'a [u8], length: u32) -> Result<&'a [u8], RecordError> {
    let (taken, rest) = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length)).ok_or(RecordError::Damaged)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> Vec<Entry> {
        let committed =
            Committed {
                topic_id: Uuid::from_u128(9), offset: 42, leader_epoch: 7, metadata: "händler".into(), commit_timestamp_ms: 1_000
            };
        let member = StoredMember {
            id: "c-1".into(),
            instance_id: Some("i".into()),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_timeout_ms: 60_000,
            session_timeout_ms: 10_000,
            subscription: Bytes::from_static(b"topics"),
            assignment: Bytes::from_static(b"partitions"),
        };
        let stored = StoredGroup {
            protocol_type: "consumer".into(),
            generation: 3,
            protocol: Some("range".into()),
            leader: Some("c-1".into()),
            timestamp_ms: 5,
            members: vec![member],
        };
        vec![
            Entry::Offset { group: "g".into(), topic: "t".into(), partition: 1, value: Some(committed) },
            Entry::Offset { group: "g".into(), topic: "t".into(), partition: 1, value: None },
            Entry::Group { group: "g".into(), value: Some(stored) },
            Entry::Group { group: "g".into(), value: None },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for entry in entries() {
            let record = entry.encode(9).expect("encodes");
            assert_eq!(Entry::decode(&record).expect("decodes"), entry);
        }
    }

    #[test]
    fn a_record_cut_short_anywhere_is_damaged() {
        for entry in entries() {
            let record = entry.encode(9).expect("encodes");
            let value = record.value.clone().unwrap_or_default();
            for end in 0..value.len() {
                assert!(Entry::decode(&Record { value: Some(value.slice(..end)), ..record.clone() }).is_err());
            }
        }
    }

    /// The bytes as Kafka's schemas `OffsetCommitKey` 1 and `OffsetCommitValue` 4 spell them.
    #[test]
    fn an_offset_is_stored_byte_for_byte_as_kafka_stores_it() {
        let committed =
            Committed { topic_id: Uuid::from_u128(1), offset: 5, leader_epoch: 2, metadata: "m".into(), commit_timestamp_ms: 3 };
        let entry = Entry::Offset { group: "g".into(), topic: "t".into(), partition: 7, value: Some(committed) };
        let record = entry.encode(0).expect("encodes");
        assert_eq!(record.key.as_deref(), Some(&b"\0\x01\0\x01g\0\x01t\0\0\0\x07"[..]));
        let value = b"\0\x04\0\0\0\0\0\0\0\x05\0\0\0\x02\x02m\0\0\0\0\0\0\0\x03\x01\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
        assert_eq!(record.value.as_deref(), Some(&value[..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(kind in 0i16..3, key in prop::collection::vec(any::<u8>(), 0..60), value in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = kind.to_be_bytes().to_vec();
            framed.extend(key);
            for version in [3i16, 4] {
                let mut versioned = version.to_be_bytes().to_vec();
                versioned.extend(&value);
                let _ = Entry::decode(&Record { key: Some(framed.clone().into()), value: Some(versioned.into()), timestamp_ms: 0 });
            }
        }
    }
}
