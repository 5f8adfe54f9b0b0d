//! What a group is asked to append, and what it answers.

use std::fmt;

use bytes::Bytes;

use crate::batch::BatchHeader;
use crate::log::FrameKind;

/// What clients of a group propose.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Proposal {
    pub kind: FrameKind,
    /// 0 where this log's leader shall stamp it.
    pub append_time_us: i64,
    /// Empty where only the head of a batch was read, for apply.
    pub payload: Bytes,
    #[serde(skip)]
    pub batch: Option<BatchHeader>,
    /// The term in which the proposer judged it to follow on the log. Should openraft append it in another, a blank is stored in its place.
    #[serde(skip)]
    pub judged_in: Option<u64>,
}

impl Proposal {
    /// Records of clients, whose place is on disk space that others leave.
    pub fn is_data(&self) -> bool {
        matches!(self.kind, FrameKind::Batch | FrameKind::Mirrored)
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} bytes", self.kind, self.payload.len())
    }
}

/// What applying an entry answers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
