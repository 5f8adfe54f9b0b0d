//! What a loss of votes cost a node: which groups have to make it good, and what the node may still say to others that have lost theirs.
//!
//! *Who is distrusted.* After a loss every replica on the node is, also one that is made anew: an empty folder may be what is left of a voter.
//! It takes part again once all other nodes have told its group's latest term and its log holds what the leader has.
//!
//! *Who is silent.* A distrusted node cannot tell its own term to another that asks ([`Node::standing`]), or the other would believe too low
//! a number. Silence for every group at once would have two nodes wait for each other's word that neither has to give: so a node that lost
//! its votes asks, once, which partitions the region's metadata place on it ([`Node::settle_loss`]), and owes its word for these alone.
//!
//! *Why that is enough.* Let N have voted for A in term T and forgotten it; N must not help another to lead T. N is told T by A, if by nobody
//! else: A's own vote was durable before it asked. That A has forgotten it as well matters only if A's old life led T, or could yet. It cannot
//! yet: that process is gone. If it led T, a majority holds votes of T or later. Now let M lose its votes while the metadata, as of a moment
//! after the loss, do not place the group on it. Then a majority of voters without M has committed, in some term S, that M is none of them, and
//! each has a vote of S or later. If M led a term T at or before S, one of these tells N at least S. A term behind S was not led by M: whoever
//! is elected behind S holds the entry that voted M out, or was elected by voters that did not. So N learns enough without M's word. It has
//! to be metadata of *after* the loss: by older ones M may be no voter yet. What M forgot with its log it does not give back by this: should
//! the group be placed on it once more, it is distrusted still, and repaired before it votes.

use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex;

use bytes::{Buf, BufMut, Bytes};
use uuid::Uuid;

use super::{Node, lock};
use crate::GroupId;
use crate::group::votes::{meta_key, stored_vote};
use crate::writer::Writer;

const LOST_KEY: &[u8] = b"lost";
const OWED_KEY: &[u8] = b"owed";
/// One group's name in the list of those that are owed: topic and partition.
const GROUP_BYTES: usize = 16 + 4;

/// The loss after which a group was last found sound.
pub(crate) fn trusted_key(group: GroupId) -> Vec<u8> {
    meta_key(b't', group)
}

/// Number of the last loss of votes.
pub(super) fn last_loss(writer: &Writer) -> Option<u64> {
    Some(u64::from_be_bytes(writer.meta(LOST_KEY.to_vec())?.try_into().ok()?))
}

/// Notes durably that votes are lost.
pub(crate) async fn note_loss(writer: &Writer) -> io::Result<()> {
    let next = last_loss(writer).unwrap_or(0) + 1;
    writer.save_meta(LOST_KEY.to_vec(), Some(next.to_be_bytes().to_vec())).await
}

/// A loss, and the groups that were placed here after it: of these alone this node's word counts, and is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settled {
    loss: u64,
    groups: BTreeSet<GroupId>,
}

impl Settled {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + GROUP_BYTES * self.groups.len());
        bytes.put_u64(self.loss);
        for group in &self.groups {
            bytes.put_slice(group.topic.as_bytes());
            bytes.put_i32(group.partition);
        }
        bytes
    }

    fn decode(mut bytes: Bytes) -> Option<Settled> {
        let loss = bytes.try_get_u64().ok()?;
        if !bytes.len().is_multiple_of(GROUP_BYTES) {
            return None;
        }
        let mut groups = BTreeSet::new();
        while bytes.has_remaining() {
            groups.insert(GroupId { topic: Uuid::from_u128(bytes.get_u128()), partition: bytes.get_i32() });
        }
        Some(Settled { loss, groups })
    }
}

/// What this node has settled since it lost votes.
#[derive(Debug)]
pub(super) struct Owed {
    /// As durable.
    settled: Mutex<Option<Settled>>,
    /// The loss that this very process has settled: partitions may have moved away while it was down.
    settled_now: Mutex<Option<u64>>,
}

impl Owed {
    pub fn read(writer: &Writer) -> Owed {
        let settled = writer.meta(OWED_KEY.to_vec()).and_then(|bytes| Settled::decode(bytes.into()));
        Owed { settled: Mutex::new(settled), settled_now: Mutex::default() }
    }

    /// Whether others have to wait for this node's word on the group, since that loss.
    fn includes(&self, loss: u64, group: GroupId) -> bool {
        lock(&self.settled).as_ref().is_none_or(|settled| settled.loss != loss || settled.groups.contains(&group))
    }
}

impl Node {
    /// The loss of votes that this group has not made good yet; until then its vote and its log's end are not to be believed.
    pub(super) fn distrusted(&self, id: GroupId) -> Option<u64> {
        let lost = last_loss(&self.inner.writer)?;
        let trusted = self.inner.writer.meta(trusted_key(id)).and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        (trusted < Some(lost)).then_some(lost)
    }

    /// The term of this node's vote in a group, for a peer that has lost its own; None where it cannot be relied upon either.
    pub(crate) fn standing(&self, id: GroupId) -> Option<u64> {
        // Without a trace of a replica, this node has none to come back with: two losses that came one after the other would wait for ever.
        let held =
            self.open_group(id).is_some() || lock(&self.inner.repairs).contains_key(&id) || self.inner.env.disk.exists(&self.directory(id));
        if held && self.distrusted(id).is_some_and(|lost| id == GroupId::CONTROLLER || self.inner.lives.owed.includes(lost, id)) {
            return None;
        }
        Some(stored_vote(&self.inner.writer, id).ok()?.term)
    }

    /// The loss of votes for which [`Node::settle_loss`] waits, if there is any.
    pub fn unsettled_loss(&self) -> Option<u64> {
        last_loss(&self.inner.writer).filter(|lost| *lock(&self.inner.lives.owed.settled_now) != Some(*lost))
    }

    /// Says which partitions the region's metadata place here, now or when a move that is under way arrives. They must be as of a moment after
    /// `loss` was told by [`Node::unsettled_loss`]: read behind a command that was committed since, never from what this node happens to know.
    pub async fn settle_loss(&self, loss: u64, placed: BTreeSet<GroupId>) -> io::Result<()> {
        // No other loss comes in between.
        let _deciding = self.inner.lives.deciding.lock().await;
        if last_loss(&self.inner.writer) != Some(loss) {
            return Ok(());
        }
        let owed = &self.inner.lives.owed;
        let held = lock(&owed.settled).clone();
        // What was placed here since the loss was settled has nothing to answer for.
        let groups = match &held {
            Some(held) if held.loss == loss => held.groups.intersection(&placed).copied().collect(),
            _ => placed,
        };
        let settled = Settled { loss, groups };
        if held.as_ref() != Some(&settled) {
            self.inner.writer.save_meta(OWED_KEY.to_vec(), Some(settled.encode())).await?;
            *lock(&owed.settled) = Some(settled);
        }
        *lock(&owed.settled_now) = Some(loss);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settled_loss_is_read_as_written_and_a_cut_one_is_not_believed() {
        let group = |partition| GroupId { topic: Uuid::from_u128(7), partition };
        let settled = Settled { loss: 3, groups: [group(0), group(5)].into() };
        let bytes = settled.encode();
        assert_eq!(Settled::decode(bytes.clone().into()), Some(settled));
        assert_eq!(Settled::decode(bytes[..bytes.len() - 1].to_vec().into()), None);
        assert_eq!(Settled::decode(Bytes::new()), None);
    }

    #[test]
    fn of_a_new_loss_every_word_is_owed_until_it_is_settled_too() {
        let group = |partition| GroupId { topic: Uuid::from_u128(7), partition };
        let settled = Settled { loss: 3, groups: [group(0)].into() };
        let owed = Owed { settled: Mutex::new(Some(settled)), settled_now: Mutex::default() };
        assert!(owed.includes(3, group(0)) && !owed.includes(3, group(1)));
        assert!(owed.includes(4, group(1)));
    }
}
