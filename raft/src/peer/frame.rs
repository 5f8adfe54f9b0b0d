//! Frames between peers: `length u32, kind u8, request u64, topic 16 bytes, partition i32, body`, big endian. An answer repeats the request's
//! number, and its body begins with one status byte.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use openraft::type_config::alias::{LogIdOf, VoteOf};
use tokio::io::{AsyncRead, AsyncReadExt};
use uuid::Uuid;

use crate::group::Types;
use crate::group::snapshot::{self, GroupSnapshot};
use crate::group::storage::{entry_of, log_id, stored};
use crate::log::{FrameKind, LogEntry};
use crate::{GroupId, NodeId};

/// Longest frame: one entry of the largest payload a log takes, and room beside it.
pub(crate) const FRAME_BYTES_MAX: usize = 80 << 20;
/// Bytes of a frame's head behind its length.
const HEAD_BYTES: usize = 1 + 8 + 16 + 4;
/// A frame's memory before its bytes have come: all of one that holds entries as [`APPEND_BYTES_MAX`](crate::group::APPEND_BYTES_MAX) allows. What is
/// longer grows with what arrives, not with what its length claims.
const CLAIM_BYTES_MAX: usize = 2 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    Transfer = 4,
    /// A command for the controller's leader.
    Propose = 5,
    /// Which groups the sender leads, all of them or what has changed; not answered.
    Leaders = 6,
    /// What a follower's log shall begin behind.
    Snapshot = 7,
    /// Hand the group's leadership to the node whose number follows.
    HandOver = 8,
    /// The sender's process lives; answered with the bond by which it is acknowledged.
    Pulse = 9,
    /// Groups that the sender leads and that may sleep; answered with the bond and who agrees.
    Sleep = 10,
    /// Groups that sleep, and that the receiver leads, have reason to wake; not answered.
    Rouse = 11,
    /// Groups that the sender led and leads no more, though its process lives.
    Release = 12,
    /// A damaged replica asks for entries.
    Repair = 20,
    /// How often the sender has been started, against what is remembered of it.
    Lives = 21,
    /// Whoever has lost its vote asks for the term of the others'.
    Standing = 22,
    Answer = 100,
}

/// What is asked of a peer, without its number.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub kind: Kind,
    pub group: GroupId,
    /// Parts are written one behind the other; entries' payloads are not copied together.
    pub body: Vec<Bytes>,
}

impl Request {
    pub fn vote(group: GroupId, body: Vec<u8>) -> Request {
        Request { kind: Kind::Vote, group, body: vec![body.into()] }
    }
    pub fn pre_vote(group: GroupId, body: Vec<u8>) -> Request {
        Request { kind: Kind::PreVote, group, body: vec![body.into()] }
    }
    pub fn transfer(group: GroupId, body: Vec<u8>) -> Request {
        Request { kind: Kind::Transfer, group, body: vec![body.into()] }
    }
    pub fn bytes(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }
}

/// A frame as received.
#[derive(Debug)]
pub(crate) struct Frame {
    pub kind: Kind,
    pub request: u64,
    pub group: GroupId,
    pub body: Bytes,
}

impl Frame {
    /// What follows on a frame's length.
    pub fn decode(mut bytes: Bytes) -> io::Result<Frame> {
        if bytes.len() < HEAD_BYTES {
            return Err(malformed());
        }
        let kind = match bytes.get_u8() {
            1 => Kind::Append,
            2 => Kind::Vote,
            3 => Kind::PreVote,
            4 => Kind::Transfer,
            5 => Kind::Propose,
            6 => Kind::Leaders,
            7 => Kind::Snapshot,
            8 => Kind::HandOver,
            9 => Kind::Pulse,
            10 => Kind::Sleep,
            11 => Kind::Rouse,
            12 => Kind::Release,
            20 => Kind::Repair,
            21 => Kind::Lives,
            22 => Kind::Standing,
            100 => Kind::Answer,
            _ => return Err(malformed()),
        };
        let request = bytes.get_u64();
        let mut topic = [0; 16];
        bytes.copy_to_slice(&mut topic);
        let group = GroupId { topic: Uuid::from_bytes(topic), partition: bytes.get_i32() };
        Ok(Frame { kind, request, group, body: bytes })
    }
}

pub(crate) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed peer frame")
}

/// Length and head of a frame whose body has `body_bytes`.
pub(crate) fn head(kind: Kind, request: u64, group: GroupId, body_bytes: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(4 + HEAD_BYTES);
    bytes.put_u32((HEAD_BYTES + body_bytes) as u32);
    bytes.put_u8(kind as u8);
    bytes.put_u64(request);
    bytes.put_slice(group.topic.as_bytes());
    bytes.put_i32(group.partition);
    bytes.freeze()
}

/// Reads frames; keeps what arrived of the next one.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(stream: R) -> Reader<R> {
        Reader { stream, buffer: BytesMut::new() }
    }

    /// The next frame; `UnexpectedEof` when the peer has closed. Not cancel-safe for what a frame loses, which is nothing: bytes stay buffered.
    pub async fn next(&mut self) -> io::Result<Frame> {
        self.fill(4).await?;
        let length = self.buffer.get_u32() as usize;
        if !(HEAD_BYTES..=FRAME_BYTES_MAX).contains(&length) {
            return Err(malformed());
        }
        self.fill(length).await?;
        Frame::decode(self.buffer.split_to(length).freeze())
    }

    async fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while self.buffer.len() < wanted {
            self.buffer.reserve((wanted - self.buffer.len()).min(CLAIM_BYTES_MAX));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

fn put_vote(bytes: &mut BytesMut, vote: &VoteOf<Types>) {
    bytes.put_u64(vote.leader_id().term);
    bytes.put_u64(vote.leader_id().voted_for);
    bytes.put_u8(u8::from(vote.is_committed()));
}

fn vote(bytes: &mut Bytes) -> Option<VoteOf<Types>> {
    let (term, node) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
    match bytes.try_get_u8().ok()? {
        0 => Some(VoteOf::<Types>::new(term, node)),
        1 => Some(VoteOf::<Types>::new_committed(term, node)),
        _ => None,
    }
}

fn put_log_id(bytes: &mut BytesMut, id: Option<&LogIdOf<Types>>) {
    bytes.put_u8(u8::from(id.is_some()));
    if let Some(id) = id {
        bytes.put_u64(id.leader_id.term);
        bytes.put_u64(id.index);
    }
}

fn optional_log_id(bytes: &mut Bytes) -> Option<Option<LogIdOf<Types>>> {
    match bytes.try_get_u8().ok()? {
        0 => Some(None),
        1 => Some(Some(log_id(bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?))),
        _ => None,
    }
}

/// `vote, snapshot`.
pub(crate) fn snapshot_request(group: GroupId, vote: &VoteOf<Types>, snapshot: &GroupSnapshot) -> io::Result<Request> {
    let mut head = BytesMut::with_capacity(17);
    put_vote(&mut head, vote);
    Ok(Request { kind: Kind::Snapshot, group, body: vec![head.freeze(), snapshot::encode(snapshot)?.into()] })
}

pub(crate) fn decode_snapshot(mut bytes: Bytes) -> Option<(VoteOf<Types>, GroupSnapshot)> {
    let vote = vote(&mut bytes)?;
    Some((vote, snapshot::decode(&bytes).ok()?))
}

/// Kinds in a frame of entries are those of the log's frames.
pub(crate) fn frame_kind(kind: u8) -> Option<FrameKind> {
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

/// Bytes of an entry without its payload.
const ENTRY_HEAD_BYTES: usize = 1 + 8 + 8 + 8 + 4;

pub(crate) fn append_request(group: GroupId, rpc: AppendEntriesRequest<Types>) -> io::Result<Request> {
    let mut head = BytesMut::with_capacity(64);
    put_vote(&mut head, &rpc.vote);
    put_log_id(&mut head, rpc.prev_log_id.as_ref());
    put_log_id(&mut head, rpc.leader_commit.as_ref());
    head.put_u32(rpc.entries.len() as u32);
    let mut body = Vec::with_capacity(1 + 2 * rpc.entries.len());
    for entry in rpc.entries {
        let entry = stored(entry)?;
        head.put_u8(entry.kind as u8);
        head.put_u64(entry.term);
        head.put_u64(entry.index);
        head.put_i64(entry.append_time_us);
        head.put_u32(entry.payload.len() as u32);
        body.extend([head.split().freeze(), entry.payload]);
    }
    body.push(head.freeze());
    Ok(Request { kind: Kind::Append, group, body })
}

pub(crate) fn decode_append(mut bytes: Bytes) -> Option<AppendEntriesRequest<Types>> {
    let vote = vote(&mut bytes)?;
    let prev_log_id = optional_log_id(&mut bytes)?;
    let leader_commit = optional_log_id(&mut bytes)?;
    let count = bytes.try_get_u32().ok()? as usize;
    if count > bytes.len() / ENTRY_HEAD_BYTES {
        return None;
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = frame_kind(bytes.try_get_u8().ok()?)?;
        let (term, index) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
        let append_time_us = bytes.try_get_i64().ok()?;
        let length = bytes.try_get_u32().ok()? as usize;
        if length > bytes.len() {
            return None;
        }
        let payload = bytes.split_to(length);
        entries.push(entry_of(LogEntry { kind, term, index, append_time_us, payload }).ok()?);
    }
    bytes.is_empty().then_some(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn encode_append_answer(answer: &StreamAppendResult<Types>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(24);
    match answer {
        Ok(matched) => {
            bytes.put_u8(0);
            put_log_id(&mut bytes, matched.as_ref());
        }
        Err(StreamAppendError::Conflict(id)) => {
            bytes.put_u8(1);
            put_log_id(&mut bytes, Some(id));
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            bytes.put_u8(2);
            put_vote(&mut bytes, vote);
        }
    }
    bytes.freeze()
}

pub(crate) fn decode_append_answer(bytes: &Bytes) -> Option<StreamAppendResult<Types>> {
    let mut bytes = bytes.clone();
    Some(match bytes.try_get_u8().ok()? {
        0 => Ok(optional_log_id(&mut bytes)?),
        1 => Err(StreamAppendError::Conflict(optional_log_id(&mut bytes)??)),
        2 => Err(StreamAppendError::HigherVote(vote(&mut bytes)?)),
        _ => return None,
    })
}

fn put_group(bytes: &mut BytesMut, group: GroupId) {
    bytes.put_slice(group.topic.as_bytes());
    bytes.put_i32(group.partition);
}

/// Reads a group; the caller has checked the length.
fn group(bytes: &mut Bytes) -> GroupId {
    let mut topic = [0; 16];
    bytes.copy_to_slice(&mut topic);
    GroupId { topic: Uuid::from_bytes(topic), partition: bytes.get_i32() }
}

const GROUP_BYTES: usize = 16 + 4;

/// The number of items that follow, each of `item_bytes`.
fn count(bytes: &mut Bytes, item_bytes: usize) -> Option<usize> {
    let count = bytes.try_get_u32().ok()? as usize;
    (bytes.len() == count.checked_mul(item_bytes)?).then_some(count)
}

/// What a node tells of the groups that it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Led {
    pub node: NodeId,
    /// What is not named is not led.
    pub whole: bool,
    /// With their epochs; none where the group is led no more.
    pub groups: Vec<(GroupId, Option<i32>)>,
}

const LED_BYTES: usize = GROUP_BYTES + 4;
const NOT_LED: i32 = -1;

/// `node, whole, count, (topic, partition, epoch)*`.
pub(crate) fn encode_leaders(led: &Led) -> Bytes {
    let mut bytes = BytesMut::with_capacity(13 + led.groups.len() * LED_BYTES);
    bytes.put_u64(led.node);
    bytes.put_u8(u8::from(led.whole));
    bytes.put_u32(led.groups.len() as u32);
    for (group, epoch) in &led.groups {
        put_group(&mut bytes, *group);
        bytes.put_i32(epoch.unwrap_or(NOT_LED));
    }
    bytes.freeze()
}

pub(crate) fn decode_leaders(mut bytes: Bytes) -> Option<Led> {
    let (node, whole) = (bytes.try_get_u64().ok()?, bytes.try_get_u8().ok()? != 0);
    let count = count(&mut bytes, LED_BYTES)?;
    let one = |bytes: &mut Bytes| (group(bytes), Some(bytes.get_i32()).filter(|epoch| *epoch != NOT_LED));
    Some(Led { node, whole, groups: (0..count).map(|_| one(&mut bytes)).collect() })
}

/// A pulse: `node, process, 1 where it refuses new data`.
pub(crate) fn encode_pulse(node: NodeId, process: u64, refuses_data: bool) -> Bytes {
    let mut bytes = BytesMut::from(&encode_pair(node, process)[..]);
    bytes.put_u8(u8::from(refuses_data));
    bytes.freeze()
}

pub(crate) fn decode_pulse(mut bytes: Bytes) -> Option<(NodeId, u64, bool)> {
    let (node, process) = decode_pair(&mut bytes)?;
    Some((node, process, bytes.try_get_u8().ok()? != 0))
}

/// Two numbers: the bond that acknowledges a pulse (`process, promise`).
pub(crate) fn encode_pair(one: u64, other: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16);
    bytes.put_u64(one);
    bytes.put_u64(other);
    bytes.freeze()
}

pub(crate) fn decode_pair(bytes: &mut Bytes) -> Option<(u64, u64)> {
    Some((bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?))
}

/// A group, the term of its leader, and the index of its last entry (0 where that does not matter).
pub(crate) type Position = (GroupId, u64, u64);

const POSITION_BYTES: usize = GROUP_BYTES + 8 + 8;

/// `node, count, (topic, partition, term, index)*`.
pub(crate) fn encode_positions(node: NodeId, positions: &[Position]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(12 + positions.len() * POSITION_BYTES);
    bytes.put_u64(node);
    bytes.put_u32(positions.len() as u32);
    for (group, term, index) in positions {
        put_group(&mut bytes, *group);
        bytes.put_u64(*term);
        bytes.put_u64(*index);
    }
    bytes.freeze()
}

pub(crate) fn decode_positions(mut bytes: Bytes) -> Option<(NodeId, Vec<Position>)> {
    let node = bytes.try_get_u64().ok()?;
    let count = count(&mut bytes, POSITION_BYTES)?;
    Some((node, (0..count).map(|_| (group(&mut bytes), bytes.get_u64(), bytes.get_u64())).collect()))
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
            let _ = decode_append_answer(&bytes);
            let _ = decode_snapshot(bytes.clone());
            let _ = decode_leaders(bytes.clone());
            let _ = decode_positions(bytes.clone());
            let _ = decode_pulse(bytes.clone());
        }

        #[test]
        fn an_append_arrives_as_sent(terms in proptest::collection::vec(0u64..9, 0..5), committed: Option<u64>) {
            let entries = terms.iter().enumerate().map(|(i, term)| {
                entry_of(LogEntry { kind: FrameKind::Command, term: *term, index: i as u64, append_time_us: 7, payload: vec![1; i].into() })
            }).collect::<io::Result<Vec<_>>>().unwrap();
            let leader_commit = committed.map(|index| log_id(3, index));
            let vote = VoteOf::<Types>::new_committed(3, 1);
            let rpc = AppendEntriesRequest { vote, prev_log_id: None, entries, leader_commit };
            let request = append_request(GroupId::CONTROLLER, rpc.clone()).unwrap();
            let decoded = decode_append(request.body.concat().into()).unwrap();
            prop_assert_eq!((decoded.vote, decoded.leader_commit, decoded.entries), (rpc.vote, rpc.leader_commit, rpc.entries));
        }
    }
}
