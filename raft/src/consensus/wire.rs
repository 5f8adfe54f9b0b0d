//! What the members of a group say to each other, as bytes. Big endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Vote;
use super::election::{Ballot, Cast};
use super::follower::{Append, Reply};
use crate::NodeId;
use crate::log::{FrameKind, LogEntry, LogPosition};
use crate::peer::liveness::Bond;

/// Bytes of an entry without its payload.
const ENTRY_HEAD_BYTES: usize = 1 + 8 + 8 + 8 + 4;
/// Terms are epochs in Kafka's batches.
const TERM_MAX: u64 = i32::MAX as u64;
/// Indexes beyond are no log's.
pub(crate) const INDEX_MAX: u64 = u64::MAX / 2;

fn put_vote(bytes: &mut BytesMut, vote: Vote) {
    bytes.put_slice(&vote.encode());
}

fn vote(bytes: &mut Bytes) -> Option<Vote> {
    let vote = if bytes.len() < Vote::BYTES { None } else { Vote::decode(&bytes.split_to(Vote::BYTES)) };
    vote.filter(|vote| vote.term <= TERM_MAX)
}

/// A term, as far as a batch can carry it.
fn term(bytes: &mut Bytes) -> Option<u64> {
    bytes.try_get_u64().ok().filter(|term| *term <= TERM_MAX)
}

fn put_position(bytes: &mut BytesMut, position: Option<LogPosition>) {
    bytes.put_u8(u8::from(position.is_some()));
    if let Some(LogPosition { term, index }) = position {
        bytes.put_u64(term);
        bytes.put_u64(index);
    }
}

fn position(bytes: &mut Bytes) -> Option<Option<LogPosition>> {
    if !flag(bytes)? {
        return Some(None);
    }
    let (term, index) = (term(bytes)?, bytes.try_get_u64().ok()?);
    (index <= INDEX_MAX).then_some(Some(LogPosition { term, index }))
}

fn flag(bytes: &mut Bytes) -> Option<bool> {
    match bytes.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn put_bond(bytes: &mut BytesMut, bond: Bond) {
    bytes.put_u64(bond.process);
    bytes.put_u64(bond.promise);
}

fn bond(bytes: &mut Bytes) -> Option<Bond> {
    Some(Bond { process: bytes.try_get_u64().ok()?, promise: bytes.try_get_u64().ok()? })
}

/// Kinds of entries are those of the log's frames.
pub(crate) fn entry_kind(kind: u8) -> Option<FrameKind> {
    Some(match kind {
        0 => FrameKind::Blank,
        1 => FrameKind::Membership,
        2 => FrameKind::Batch,
        3 => FrameKind::Mirrored,
        4 => FrameKind::Command,
        5 => FrameKind::RetentionPoint,
        _ => return None,
    })
}

/// `term, leader, prev, committed end, count, (kind, term, index, append time, length, payload)*`. In parts, so that payloads are not copied.
pub(crate) fn encode_append(append: Append) -> Vec<Bytes> {
    let mut head = BytesMut::with_capacity(64);
    head.put_u64(append.term);
    head.put_u64(append.leader);
    put_position(&mut head, append.prev);
    head.put_u64(append.committed_end);
    head.put_u32(append.entries.len() as u32);
    let mut body = Vec::with_capacity(1 + 2 * append.entries.len());
    for entry in append.entries {
        head.put_u8(entry.kind as u8);
        head.put_u64(entry.term);
        head.put_u64(entry.index);
        head.put_i64(entry.append_time_us);
        head.put_u32(entry.payload.len() as u32);
        body.extend([head.split().freeze(), entry.payload]);
    }
    if !head.is_empty() {
        body.push(head.freeze());
    }
    body
}

/// None of malformed bytes, and of entries that do not follow on each other.
pub(crate) fn decode_append(mut bytes: Bytes) -> Option<Append> {
    let (term, leader) = (term(&mut bytes)?, bytes.try_get_u64().ok()?);
    let prev = position(&mut bytes)?;
    let committed_end = bytes.try_get_u64().ok()?;
    let count = bytes.try_get_u32().ok()? as usize;
    if count > bytes.len() / ENTRY_HEAD_BYTES {
        return None;
    }
    let mut next = match prev {
        Some(prev) => prev.index.checked_add(1)?,
        None => 0,
    };
    let mut term_before = prev.map_or(0, |prev| prev.term);
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = entry_kind(bytes.try_get_u8().ok()?)?;
        let (entry_term, index) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
        let append_time_us = bytes.try_get_i64().ok()?;
        let length = bytes.try_get_u32().ok()? as usize;
        if length > bytes.len() || index != next || entry_term < term_before || entry_term > term {
            return None;
        }
        (next, term_before) = (index.checked_add(1)?, entry_term);
        entries.push(LogEntry { kind, term: entry_term, index, append_time_us, payload: bytes.split_to(length) });
    }
    bytes.is_empty().then_some(Append { term, leader, prev, entries, committed_end })
}

pub(crate) fn encode_reply(reply: Reply) -> Bytes {
    let mut bytes = BytesMut::with_capacity(25);
    match reply {
        Reply::Holds { end, bond } => {
            bytes.put_u8(0);
            bytes.put_u64(end);
            put_bond(&mut bytes, bond);
        }
        Reply::Differs { end, bond } => {
            bytes.put_u8(1);
            bytes.put_u64(end);
            put_bond(&mut bytes, bond);
        }
        Reply::Later(vote) => {
            bytes.put_u8(2);
            put_vote(&mut bytes, vote);
        }
    }
    bytes.freeze()
}

pub(crate) fn decode_reply(mut bytes: Bytes) -> Option<Reply> {
    Some(match bytes.try_get_u8().ok()? {
        0 => Reply::Holds { end: bytes.try_get_u64().ok()?, bond: bond(&mut bytes)? },
        1 => Reply::Differs { end: bytes.try_get_u64().ok()?, bond: bond(&mut bytes)? },
        2 => Reply::Later(vote(&mut bytes)?),
        _ => return None,
    })
}

pub(crate) fn encode_ballot(ballot: Ballot) -> Bytes {
    let mut bytes = BytesMut::with_capacity(35);
    bytes.put_u64(ballot.term);
    bytes.put_u64(ballot.candidate);
    bytes.put_u8(u8::from(ballot.pre));
    bytes.put_u8(u8::from(ballot.sent));
    put_position(&mut bytes, ballot.last);
    bytes.freeze()
}

pub(crate) fn decode_ballot(mut bytes: Bytes) -> Option<Ballot> {
    let (term, candidate) = (term(&mut bytes)?, bytes.try_get_u64().ok()?);
    let (pre, sent) = (flag(&mut bytes)?, flag(&mut bytes)?);
    let last = position(&mut bytes)?;
    (candidate > 0).then_some(Ballot { term, candidate, last, pre, sent })
}

pub(crate) fn encode_cast(cast: Cast) -> Bytes {
    let mut bytes = BytesMut::with_capacity(35);
    bytes.put_u8(u8::from(cast.granted));
    put_vote(&mut bytes, cast.vote);
    put_position(&mut bytes, cast.last);
    bytes.freeze()
}

pub(crate) fn decode_cast(mut bytes: Bytes) -> Option<Cast> {
    Some(Cast { granted: flag(&mut bytes)?, vote: vote(&mut bytes)?, last: position(&mut bytes)? })
}

/// A leader's offer: `term, leader, the one that shall lead, the last entry it must hold`.
pub(crate) fn encode_offer(term: u64, leader: NodeId, to: NodeId, last: Option<LogPosition>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(41);
    bytes.put_u64(term);
    bytes.put_u64(leader);
    bytes.put_u64(to);
    put_position(&mut bytes, last);
    bytes.freeze()
}

pub(crate) fn decode_offer(mut bytes: Bytes) -> Option<(u64, NodeId, NodeId, Option<LogPosition>)> {
    let (term, leader, to) = (term(&mut bytes)?, bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
    Some((term, leader, to, position(&mut bytes)?))
}

/// `term, leader` before a snapshot.
pub(crate) fn encode_begin(term: u64, leader: NodeId) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16);
    bytes.put_u64(term);
    bytes.put_u64(leader);
    bytes.freeze()
}

pub(crate) fn decode_begin(bytes: &mut Bytes) -> Option<(u64, NodeId)> {
    Some((term(bytes)?, bytes.try_get_u64().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn random_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_append(bytes.clone());
            let _ = decode_reply(bytes.clone());
            let _ = decode_ballot(bytes.clone());
            let _ = decode_cast(bytes.clone());
            let _ = decode_offer(bytes.clone());
        }

        #[test]
        fn an_append_arrives_as_sent(count in 0u64..5, from in 0u64..3, committed_end: u64) {
            let entries: Vec<LogEntry> = (from..from + count).map(|index| {
                LogEntry { kind: FrameKind::Command, term: 2, index, append_time_us: 7, payload: vec![1; index as usize].into() }
            }).collect();
            let prev = from.checked_sub(1).map(|index| LogPosition { term: 1, index });
            let append = Append { term: 3, leader: 2, prev, entries, committed_end };
            prop_assert_eq!(decode_append(encode_append(append.clone()).concat().into()), Some(append));
        }
    }

    #[test]
    fn entries_that_leave_a_hole_or_go_back_in_term_are_refused() {
        let entry = |term, index| LogEntry { kind: FrameKind::Blank, term, index, append_time_us: 1, payload: Bytes::new() };
        let sent = |entries| {
            let append = Append { term: 3, leader: 2, prev: Some(LogPosition { term: 2, index: 4 }), entries, committed_end: 0 };
            decode_append(encode_append(append).concat().into()).is_some()
        };
        assert!(sent(vec![entry(2, 5), entry(3, 6)]));
        assert!(!sent(vec![entry(2, 6)]), "a hole");
        assert!(!sent(vec![entry(3, 5), entry(2, 6)]), "back in term");
        assert!(!sent(vec![entry(4, 5)]), "of a term that is still to come");
    }

    #[test]
    fn answers_arrive_as_sent() {
        let (bond, vote) = (Bond { process: 7, promise: 1 }, Vote { term: 4, node: 2, led: true });
        for reply in [Reply::Holds { end: 9, bond }, Reply::Differs { end: 3, bond }, Reply::Later(vote)] {
            assert_eq!(decode_reply(encode_reply(reply)), Some(reply));
        }
        let last = Some(LogPosition { term: 3, index: 8 });
        let ballot = Ballot { term: 5, candidate: 3, last, pre: true, sent: false };
        assert_eq!(decode_ballot(encode_ballot(ballot)), Some(ballot));
        let cast = Cast { granted: true, vote, last: None };
        assert_eq!(decode_cast(encode_cast(cast)), Some(cast));
        assert_eq!(decode_offer(encode_offer(5, 1, 3, last)), Some((5, 1, 3, last)));
    }
}
