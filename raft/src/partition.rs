//! One partition's replica on this node: append, read, watch. The only door through which the rest of Meridian reaches a log.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::batch::Batch;
pub use crate::log::{OffsetAt, StoredBatch};
use crate::{GroupId, NodeId};

/// Which replicas hold a partition, and how it is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSpec {
    pub id: GroupId,
    /// Voters; the first is the preferred leader and starts the first election.
    pub replicas: Vec<NodeId>,
    /// True where the records come from another region: offsets and epochs are then asserted, not assigned.
    pub mirror: bool,
    pub settings: PartitionSettings,
}

/// What a topic's config says about its logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSettings {
    /// Roll to a new segment file beyond this size (`segment.bytes`).
    pub segment_bytes: u64,
}

/// Who leads, as this replica last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    pub leader: Option<NodeId>,
    /// Kafka-visible leader epoch: Raft term, plus in a mirror the epoch of its last batch; never goes back.
    pub epoch: i32,
    /// This node leads, has committed an entry of its own term, and may take appends.
    pub is_leader: bool,
}

/// Where an acknowledged batch landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: i64,
    pub last_offset: i64,
    /// The batch had been appended before (idempotent producer's retry); offsets are those of the first time.
    pub duplicate: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("this node does not lead the partition")]
    NotLeader { leader: Option<NodeId> },
    #[error("sequence {got} of producer {producer_id} is out of order, expected {expected}")]
    OutOfOrderSequence { producer_id: i64, expected: i32, got: i32 },
    #[error("producer {producer_id} has been fenced by epoch {current}")]
    InvalidProducerEpoch { producer_id: i64, current: i16 },
    /// A retry of a batch so old that its offset is no longer remembered; it *was* appended.
    #[error("duplicate of a batch of producer {producer_id} whose offset is no longer known")]
    DuplicateSequence { producer_id: i64 },
    #[error("offset {got} does not continue the mirror's log, which ends at {end}")]
    NotContiguous { got: i64, end: i64 },
    #[error("too many bytes wait to be appended; try again")]
    Overloaded,
    #[error("not acknowledged by a majority in time; the batch may yet be committed")]
    Timeout,
    #[error("the disk refuses writes: {0}")]
    Storage(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("offset {offset} is outside {start}..={end}")]
    OutOfRange { offset: i64, start: i64, end: i64 },
    #[error("the log cannot be read here: {0}")]
    Storage(String),
}

/// Handle to one replica. Everything is safe to call from any task.
#[derive(Debug, Clone)]
pub struct Partition {
    pub(crate) inner: Arc<PartitionInner>,
}

#[derive(Debug)]
pub(crate) struct PartitionInner {}

#[allow(unused_variables)]
impl Partition {
    pub fn id(&self) -> GroupId {
        unimplemented!()
    }
    pub fn spec(&self) -> PartitionSpec {
        unimplemented!()
    }
    pub fn leadership(&self) -> Leadership {
        unimplemented!()
    }
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        unimplemented!()
    }

    /// Submits a client's batch. Submission happens in the call, so that calls made in order are appended in order; the future resolves
    /// when a majority has fsynced the batch and this node has applied it. Idempotent producers are deduplicated here.
    pub fn append(&self, batch: Batch) -> BoxFuture<'static, Result<Appended, AppendError>> {
        unimplemented!()
    }

    /// Submits batches of the home region at the offsets, epochs and append times they carry; the first must continue this log exactly.
    /// Batches this log already holds are skipped when equal.
    pub fn append_mirrored(&self, batches: Vec<StoredBatch>) -> BoxFuture<'static, Result<Appended, AppendError>> {
        unimplemented!()
    }

    pub fn log_start_offset(&self) -> i64 {
        unimplemented!()
    }
    /// First offset not yet committed; readers see only what lies before it. Never goes back.
    pub fn high_watermark(&self) -> i64 {
        unimplemented!()
    }
    pub fn watch_high_watermark(&self) -> watch::Receiver<i64> {
        unimplemented!()
    }
    /// First offset not yet in this replica's log (committed or not).
    pub fn log_end_offset(&self) -> i64 {
        unimplemented!()
    }
    /// Epoch and append time of the last *committed* batch; None in an empty log. The epoch is the batch's own.
    pub fn last_committed(&self) -> Option<(i32, i64)> {
        unimplemented!()
    }

    /// Committed batches from the one that holds `offset` on, at most `bytes_max` in all, but the first always whole. Empty at the high watermark.
    pub fn read(&self, offset: i64, bytes_max: usize) -> BoxFuture<'static, Result<Vec<StoredBatch>, ReadError>> {
        unimplemented!()
    }

    /// First committed record whose timestamp is at or after `timestamp_ms`, exact to the record.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64) -> BoxFuture<'static, Result<Option<OffsetAt>, ReadError>> {
        unimplemented!()
    }
    /// The committed record with the greatest timestamp (ListOffsets −3).
    pub fn offset_of_max_timestamp(&self) -> BoxFuture<'static, Result<Option<OffsetAt>, ReadError>> {
        unimplemented!()
    }
    /// OffsetForLeaderEpoch: the largest batch epoch ≤ `epoch` and the offset where it ends; None when the log knows none.
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        unimplemented!()
    }

    /// On a leader whose lease holds: no later commit will carry an append time at or before this one (µs). None elsewhere.
    pub fn closed_time_us(&self) -> Option<i64> {
        unimplemented!()
    }

    /// Hands leadership to another in-sync replica; resolves when another leads or after the deadline of the attempt.
    pub fn transfer_leadership(&self) -> BoxFuture<'static, bool> {
        unimplemented!()
    }

    /// Replicas whose log is at most `lag_ms_max` behind, as the leader knows (itself included); on followers, all voters.
    pub fn in_sync_replicas(&self) -> Vec<NodeId> {
        unimplemented!()
    }
    /// Bytes of this replica's log on disk.
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }
}
