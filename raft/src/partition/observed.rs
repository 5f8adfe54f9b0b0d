//! What a replica is and holds just now, seen from outside: for the simulator's transcripts.

use super::Partition;
use crate::NodeId;
use crate::log::FrameKind;
use crate::peer::overheard::voters;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Learner,
    Follower,
    Candidate,
    Leader,
}

/// One replica at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub role: Role,
    pub term: u64,
    /// Whom it votes for in this term, or follows.
    pub voted_for: Option<NodeId>,
    /// It knows that a majority voted so: there is a leader.
    pub led: bool,
    /// Sets of voters that must each agree, and learners.
    pub members: String,
    /// Entries before the first were let go of.
    pub first_index: u64,
    pub entries: Vec<ObservedEntry>,
    /// Entries before this index are committed, as far as it has applied them.
    pub committed_end: u64,
    pub start_offset: i64,
    pub high_watermark: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedEntry {
    pub term: u64,
    pub index: u64,
    pub kind: FrameKind,
    /// First and last offset of its records.
    pub offsets: Option<(i64, i64)>,
    /// Of a retention point.
    pub start_offset: Option<i64>,
}

impl Partition {
    /// Nothing has happened for so long that its clocks stand still.
    pub fn is_asleep(&self) -> bool {
        self.inner.group.is_asleep()
    }

    /// None where the log cannot be read.
    pub fn observed(&self) -> Option<Observed> {
        let group = &self.inner.group;
        let (role, vote, members) = group.observed()?;
        let indexes = group.log().indexes();
        let heads = group.log().heads(indexes.clone()).ok()?;
        let offsets = |batch: crate::batch::BatchHeader| (batch.base_offset, batch.base_offset + i64::from(batch.last_offset_delta));
        let entries = heads.into_iter().map(|head| ObservedEntry {
            term: head.term,
            index: head.index,
            kind: head.kind,
            offsets: head.batch.map(offsets),
            start_offset: head.start_offset,
        });
        let applied = *group.applied().borrow();
        Some(Observed {
            role,
            term: vote.term,
            voted_for: (vote.term > 0).then_some(vote.node),
            led: vote.led,
            members: voters(&members),
            first_index: indexes.start,
            entries: entries.collect(),
            committed_end: if applied.term == 0 { indexes.start } else { applied.index + 1 },
            start_offset: self.log_start_offset(),
            high_watermark: self.high_watermark(),
        })
    }
}
