//! One group's log on disk: segments of checksummed frames, and the indexes that are rebuilt from them. It is the Raft log and the partition log in one.

use std::ops::Range;

use bytes::Bytes;

use crate::partition::StoredBatch;

/// What a frame holds. Only `Batch` frames take Kafka offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A leader's first entry of its term.
    Blank = 0,
    /// A membership, serialized.
    Membership = 1,
    /// One RecordBatch, whose offset and epoch this log assigns.
    Batch = 2,
    /// One RecordBatch of another region, whose offset, epoch and append time are asserted.
    Mirrored = 3,
    /// A command of the controller.
    Command = 4,
}

/// One entry as the Raft group hands it over and gets it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub kind: FrameKind,
    pub term: u64,
    /// Node that led when the entry was made (part of openraft's log id).
    pub leader: u64,
    pub index: u64,
    /// 0 until the leader's append stamps it; followers and mirrors receive it stamped.
    pub append_time_us: i64,
    /// For batches: whole, stamped once appended.
    pub payload: Bytes,
}

/// What apply needs of an entry: never the payload of a batch beyond its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHead {
    pub kind: FrameKind,
    pub term: u64,
    pub leader: u64,
    pub index: u64,
    pub append_time_us: i64,
    pub batch: Option<crate::batch::BatchHeader>,
}

/// The log of one group. Methods take `&self`; one writer at a time (openraft's core task) is the caller's duty, readers are free.
#[derive(Debug)]
pub struct Log {}

#[allow(unused_variables)]
impl Log {
    /// `first index held .. next index`.
    pub fn indexes(&self) -> Range<u64> {
        unimplemented!()
    }
    pub fn read_batches(&self, offset: i64, end_offset: i64, bytes_max: usize) -> std::io::Result<Vec<StoredBatch>> {
        unimplemented!()
    }
}
