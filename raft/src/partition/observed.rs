//! What a replica is and holds just now, seen from outside: for the simulator's transcripts.

use openraft::ServerState;
use openraft::rt::watch::WatchReceiver as _;

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
        self.inner.group.rest().is_asleep()
    }

    /// None where the log cannot be read.
    pub fn observed(&self) -> Option<Observed> {
        let group = &self.inner.group;
        let (role, vote, members) = {
            let server = group.raft().server_metrics();
            let server = server.borrow_watched();
            let role = match server.state {
                ServerState::Learner => Role::Learner,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Leader => Role::Leader,
                ServerState::Shutdown => return None,
            };
            (role, server.vote, voters(server.membership_config.membership()))
        };
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
            term: vote.leader_id().term,
            voted_for: (vote.leader_id().term > 0).then_some(vote.leader_id().voted_for),
            led: vote.is_committed(),
            members,
            first_index: indexes.start,
            entries: entries.collect(),
            committed_end: if applied.term == 0 { indexes.start } else { applied.index + 1 },
            start_offset: self.log_start_offset(),
            high_watermark: self.high_watermark(),
        })
    }
}
