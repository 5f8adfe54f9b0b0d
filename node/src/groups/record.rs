//! What a group leaves in `__consumer_offsets`: Kafka's own keys and values (offset commit 1/3, group metadata 2/3), written by hand.
//!
//! An empty value is a tombstone: it takes back what its key said before.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_raft::batch::records::Record;

const OFFSET_KEY_VERSION: i16 = 1;
const GROUP_KEY_VERSION: i16 = 2;
const VALUE_VERSION: i16 = 3;
/// Members a decoded group may claim; see [`crate::groups::group::MEMBERS_MAX`], which bounds what is written.
const STORED_MEMBERS_MAX: i32 = 100_000;

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
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

impl Entry {
    pub fn encode(&self, timestamp_ms: i64) -> Result<Record, RecordError> {
        let (mut key, mut value) = (BytesMut::new(), BytesMut::new());
        match self {
            Entry::Offset { group, topic, partition, value: committed } => {
                key.put_i16(OFFSET_KEY_VERSION);
                put_string(&mut key, group)?;
                put_string(&mut key, topic)?;
                key.put_i32(*partition);
                if let Some(committed) = committed {
                    value.put_i16(VALUE_VERSION);
                    value.put_i64(committed.offset);
                    value.put_i32(committed.leader_epoch);
                    put_string(&mut value, &committed.metadata)?;
                    value.put_i64(committed.commit_timestamp_ms);
                }
            }
            Entry::Group { group, value: stored } => {
                key.put_i16(GROUP_KEY_VERSION);
                put_string(&mut key, group)?;
                if let Some(stored) = stored {
                    put_group(&mut value, stored)?;
                }
            }
        }
        Ok(Record { key: Some(key.freeze()), value: value.freeze(), timestamp_ms })
    }

    pub fn decode(record: &Record) -> Result<Entry, RecordError> {
        let mut key = record.key.as_deref().ok_or(RecordError::Damaged)?;
        let mut value = &record.value[..];
        let live = !value.is_empty();
        match key.try_get_i16().map_err(|_| RecordError::Damaged)? {
            OFFSET_KEY_VERSION => {
                let (group, topic) = (take_string(&mut key)?, take_string(&mut key)?);
                let partition = key.try_get_i32().map_err(|_| RecordError::Damaged)?;
                let value = if live { Some(take_committed(&mut value)?) } else { None };
                Ok(Entry::Offset { group, topic, partition, value })
            }
            GROUP_KEY_VERSION => {
                let group = take_string(&mut key)?;
                let value = if live { Some(take_group(&mut value)?) } else { None };
                Ok(Entry::Group { group, value })
            }
            other => Err(RecordError::UnknownKey(other)),
        }
    }
}

fn put_group(buffer: &mut BytesMut, stored: &StoredGroup) -> Result<(), RecordError> {
    buffer.put_i16(VALUE_VERSION);
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

fn take_version(bytes: &mut &[u8]) -> Result<(), RecordError> {
    match bytes.try_get_i16() {
        Ok(VALUE_VERSION) => Ok(()),
        Ok(other) => Err(RecordError::UnknownValue(other)),
        Err(_) => Err(RecordError::Damaged),
    }
}

fn take_committed(bytes: &mut &[u8]) -> Result<Committed, RecordError> {
    take_version(bytes)?;
    Ok(Committed {
        offset: bytes.try_get_i64().map_err(|_| RecordError::Damaged)?,
        leader_epoch: bytes.try_get_i32().map_err(|_| RecordError::Damaged)?,
        metadata: take_string(bytes)?,
        commit_timestamp_ms: bytes.try_get_i64().map_err(|_| RecordError::Damaged)?,
    })
}

fn take_group(bytes: &mut &[u8]) -> Result<StoredGroup, RecordError> {
    take_version(bytes)?;
    let mut stored = StoredGroup {
        protocol_type: take_string(bytes)?,
        generation: bytes.try_get_i32().map_err(|_| RecordError::Damaged)?,
        protocol: take_nullable_string(bytes)?,
        leader: take_nullable_string(bytes)?,
        timestamp_ms: bytes.try_get_i64().map_err(|_| RecordError::Damaged)?,
        members: Vec::new(),
    };
    let count = bytes.try_get_i32().map_err(|_| RecordError::Damaged)?;
    if !(0..=STORED_MEMBERS_MAX).contains(&count) {
        return Err(RecordError::Damaged);
    }
    for _ in 0..count {
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
    let text = take(bytes, i32::from(length))?;
    Ok(Some(std::str::from_utf8(text).map_err(|_| RecordError::Damaged)?.to_owned()))
}

fn take_string(bytes: &mut &[u8]) -> Result<String, RecordError> {
    take_nullable_string(bytes)?.ok_or(RecordError::Damaged)
}

fn take_bytes(bytes: &mut &[u8]) -> Result<Bytes, RecordError> {
    let length = bytes.try_get_i32().map_err(|_| RecordError::Damaged)?;
    Ok(Bytes::copy_from_slice(take(bytes, length)?))
}

fn take<'a>(bytes: &mut &'a [u8], length: i32) -> Result<&'a [u8], RecordError> {
    let (taken, rest) = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length)).ok_or(RecordError::Damaged)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> Vec<Entry> {
        let committed = Committed { offset: 42, leader_epoch: 7, metadata: "händler".into(), commit_timestamp_ms: 1_000 };
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
            for end in 1..record.value.len() {
                assert!(Entry::decode(&Record { value: record.value.slice(..end), ..record.clone() }).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(kind in 0i16..3, key in prop::collection::vec(any::<u8>(), 0..60), value in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = kind.to_be_bytes().to_vec();
            framed.extend(key);
            let mut versioned = 3i16.to_be_bytes().to_vec();
            versioned.extend(value);
            let _ = Entry::decode(&Record { key: Some(framed.into()), value: versioned.into(), timestamp_ms: 0 });
        }
    }
}
