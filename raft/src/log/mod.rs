//! One group's log on disk: segments of checksummed frames, and the indexes that are rebuilt from them. It is the Raft log and the partition log in one.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::GroupId;
use crate::env::Env;
use crate::partition::{OffsetAt, StoredBatch};
use crate::writer::Writer;

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

/// Fixed facts of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    pub group: GroupId,
    /// Roll to a new segment file beyond this size.
    pub segment_bytes: u64,
}

/// Where an entry stands in Raft's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    pub term: u64,
    pub leader: u64,
    pub index: u64,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log files: {0}")]
    Io(#[from] io::Error),
    /// Valid frames follow damaged ones, so this is not a torn tail: the replica must neither serve nor vote from it.
    #[error("{path} is corrupt at byte {position}: {reason}")]
    Corrupt { path: PathBuf, position: u64, reason: &'static str },
}

/// Called once, when an append is durable or has failed for good.
pub type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The log of one group, cheap to clone. One task appends and truncates (openraft's core), readers are free.
#[derive(Debug, Clone)]
pub struct Log {}

#[allow(unused_variables)]
impl Log {
    pub fn open(env: &Env, writer: &Writer, dir: &Path, settings: LogSettings) -> Result<Log, LogError> {
        unimplemented!()
    }
    /// `first index held .. next index`.
    pub fn indexes(&self) -> Range<u64> {
        unimplemented!()
    }
    pub fn last(&self) -> Option<LogPosition> {
        unimplemented!()
    }
    pub fn append(&self, entries: Vec<LogEntry>, flushed: Flushed) -> io::Result<()> {
        unimplemented!()
    }
    pub fn truncate_after(&self, index: Option<u64>) -> BoxFuture<'static, io::Result<()>> {
        unimplemented!()
    }
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        unimplemented!()
    }
    pub fn heads(&self, range: Range<u64>) -> io::Result<Vec<EntryHead>> {
        unimplemented!()
    }
    pub fn next_offset(&self) -> i64 {
        unimplemented!()
    }
    pub fn start_offset(&self) -> i64 {
        unimplemented!()
    }
    pub fn read_batches(&self, offset: i64, end_offset: i64, bytes_max: usize) -> io::Result<Vec<StoredBatch>> {
        unimplemented!()
    }
    pub fn offset_for_timestamp(&self, timestamp_ms: i64, end_offset: i64) -> io::Result<Option<OffsetAt>> {
        unimplemented!()
    }
    pub fn offset_of_max_timestamp(&self, end_offset: i64) -> io::Result<Option<OffsetAt>> {
        unimplemented!()
    }
    pub fn end_offset_for_epoch(&self, epoch: i32, end_offset: i64) -> Option<(i32, i64)> {
        unimplemented!()
    }
    pub fn last_append_time_us(&self) -> i64 {
        unimplemented!()
    }
    pub fn close_time(&self) -> i64 {
        unimplemented!()
    }
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }
}
