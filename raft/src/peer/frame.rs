//! Frames between peers: `length u32, kind u8, request u64, topic 16 bytes, partition i32, body`, big endian. An answer repeats the request's
//! number, and its body begins with one status byte.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use uuid::Uuid;

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
    /// A candidate asks for a vote, or whether it would have it.
    Vote = 2,
    /// The leader has the receiver stand for election.
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
    /// Somebody misses the leader of groups that the receiver seems to lead; not answered.
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
            4 => Kind::Transfer,
            5 => Kind::Propose,
            6 => Kind::Leaders,
            7 => Kind::Snapshot,
            8 => Kind::HandOver,
            9 => Kind::Pulse,
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
            let _ = decode_leaders(bytes.clone());
            let _ = decode_positions(bytes.clone());
            let _ = decode_pulse(bytes.clone());
        }
    }
}
