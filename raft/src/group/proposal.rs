//! What a group is asked to append, and what it answers.

use bytes::Bytes;

use crate::NodeId;
use crate::log::FrameKind;

/// What clients of a group propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub kind: FrameKind,
    /// 0 where this log's leader shall stamp it.
    pub append_time_us: i64,
    pub payload: Bytes,
    /// The term in which the proposer judged it to follow on the log: in another it is refused.
    pub judged_in: Option<u64>,
}

/// What applying an entry answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to say: blanks, memberships, and mirrored batches that did not continue the log.
    Nothing,
    Batch {
        base_offset: i64,
        last_offset: i64,
    },
    Answer(Vec<u8>),
    /// The log begins at this offset now.
    Retained {
        start_offset: i64,
    },
}

/// Why there is no outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is certain that the proposal is in no log, or has been taken back.
    NotLeader {
        leader: Option<NodeId>,
    },
    /// It may yet be committed.
    Unknown,
    Stopped(String),
}

pub(crate) type Proposed = Result<Outcome, Refusal>;
