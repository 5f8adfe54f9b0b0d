//! What a damaged replica asks of its peers, and what they answer. Big endian; every entry carries a checksum of its payload.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::NodeId;
use crate::consensus::wire::entry_kind;
use crate::log::{LogEntry, LogPosition};

/// Bytes of entries in one answer; the first entry is always whole.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 20;
const ENTRY_HEAD_BYTES: usize = 1 + 8 + 8 + 8 + 4 + 4;

/// Asks for the entries behind `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    /// The asker's last sound entry; None: it holds nothing.
    pub after: Option<LogPosition>,
    /// The asker believes no leader of an earlier term.
    pub term_min: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Of a leader in `term` whose last entry is `last`. No entries: the asker holds them all.
    Entries {
        term: u64,
        last: Option<LogPosition>,
        entries: Vec<LogEntry>,
    },
    NotLeading {
        leader: Option<NodeId>,
    },
    /// Of a sound replica that leads nothing, and has never held an entry for all that it knows.
    Empty,
    /// The leader's log has another entry, or none, at the asker's last index.
    Differs,
    /// The leader's log begins behind what was asked for; this stands for what lies before it.
    Begins {
        snapshot: Bytes,
    },
}

fn put_position(bytes: &mut BytesMut, position: Option<LogPosition>) {
    bytes.put_u8(u8::from(position.is_some()));
    if let Some(LogPosition { term, index }) = position {
        bytes.put_u64(term);
        bytes.put_u64(index);
    }
}

fn position(bytes: &mut Bytes) -> Option<Option<LogPosition>> {
    match bytes.try_get_u8().ok()? {
        0 => Some(None),
        1 => Some(Some(LogPosition { term: bytes.try_get_u64().ok()?, index: bytes.try_get_u64().ok()? })),
        _ => None,
    }
}

impl Question {
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(32);
        put_position(&mut bytes, self.after);
        bytes.put_u64(self.term_min);
        bytes.freeze()
    }

    pub fn decode(mut bytes: Bytes) -> Option<Question> {
        let question = Question { after: position(&mut bytes)?, term_min: bytes.try_get_u64().ok()? };
        bytes.is_empty().then_some(question)
    }
}

impl Reply {
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        match self {
            Reply::Entries { term, last, entries } => {
                bytes.put_u8(0);
                bytes.put_u64(*term);
                put_position(&mut bytes, *last);
                bytes.put_u32(entries.len() as u32);
                for entry in entries {
                    bytes.put_u8(entry.kind as u8);
                    bytes.put_u64(entry.term);
                    bytes.put_u64(entry.index);
                    bytes.put_i64(entry.append_time_us);
                    bytes.put_u32(crc32c::crc32c(&entry.payload));
                    bytes.put_u32(entry.payload.len() as u32);
                    bytes.extend_from_slice(&entry.payload);
                }
            }
            Reply::NotLeading { leader } => {
                bytes.put_u8(1);
                bytes.put_u64(leader.unwrap_or(0));
            }
            Reply::Differs => bytes.put_u8(2),
            Reply::Begins { snapshot } => {
                bytes.put_u8(3);
                bytes.extend_from_slice(snapshot);
            }
            Reply::Empty => bytes.put_u8(4),
        }
        bytes.freeze()
    }

    pub fn decode(mut bytes: Bytes) -> Option<Reply> {
        let reply = match bytes.try_get_u8().ok()? {
            0 => {
                let (term, last) = (bytes.try_get_u64().ok()?, position(&mut bytes)?);
                let count = bytes.try_get_u32().ok()? as usize;
                if count > bytes.len() / ENTRY_HEAD_BYTES {
                    return None;
                }
                let entries = (0..count).map(|_| entry(&mut bytes)).collect::<Option<Vec<_>>>()?;
                Reply::Entries { term, last, entries }
            }
            1 => Reply::NotLeading { leader: Some(bytes.try_get_u64().ok()?).filter(|node| *node != 0) },
            2 => Reply::Differs,
            3 => Reply::Begins { snapshot: std::mem::take(&mut bytes) },
            4 => Reply::Empty,
            _ => return None,
        };
        bytes.is_empty().then_some(reply)
    }
}

fn entry(bytes: &mut Bytes) -> Option<LogEntry> {
    let kind = entry_kind(bytes.try_get_u8().ok()?)?;
    let (term, index) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
    let append_time_us = bytes.try_get_i64().ok()?;
    let (crc, length) = (bytes.try_get_u32().ok()?, bytes.try_get_u32().ok()? as usize);
    if length > bytes.len() {
        return None;
    }
    let payload = bytes.split_to(length);
    (crc32c::crc32c(&payload) == crc).then_some(LogEntry { kind, term, index, append_time_us, payload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::FrameKind;

    proptest! {
        #[test]
        fn random_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Question::decode(bytes.clone().into());
            let _ = Reply::decode(bytes.into());
        }

        #[test]
        fn entries_arrive_as_sent_and_a_flipped_bit_is_refused(lengths in proptest::collection::vec(0usize..50, 1..5), bit: prop::sample::Index) {
            let entries: Vec<LogEntry> = lengths.iter().enumerate().map(|(i, length)| LogEntry {
                kind: FrameKind::Command, term: 3, index: i as u64, append_time_us: 9, payload: vec![7; *length].into(),
            }).collect();
            let reply = Reply::Entries { term: 4, last: Some(LogPosition { term: 3, index: 9 }), entries };
            let encoded = reply.encode();
            prop_assert_eq!(Reply::decode(encoded.clone()), Some(reply.clone()));
            let Reply::Entries { entries, .. } = &reply else { unreachable!() };
            // Within the last entry's payload, where nothing but the checksum can tell.
            let length = entries.last().map_or(0, |entry| entry.payload.len());
            prop_assume!(length > 0);
            let mut damaged = encoded.to_vec();
            let at = damaged.len() - length + bit.index(length);
            damaged[at] ^= 1;
            prop_assert_eq!(Reply::decode(damaged.into()), None);
        }
    }
}
