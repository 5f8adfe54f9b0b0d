//! One group's log on disk: segments of checksummed frames, and the indexes that are rebuilt from them. It is the Raft log and the partition log in one.
//!
//! [`frame`] is the bytes of a segment, [`segment`] one file of them, [`index`] and [`sidecar`] its sparse index in memory and beside it on disk,
//! [`state`] what memory knows of all, [`memory`] what the logs of a node share, [`chunks`] of it what was read from the disk; [`append`],
//! [`truncate`], [`read`] and [`lookup`] are what is done with a log, [`retention`] is where it begins, [`recovery`] what a restart finds.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::GroupId;
use crate::env::{Env, Mutations};
use crate::writer::Writer;

mod append;
mod chunks;
mod frame;
mod frames;
mod index;
mod lookup;
mod memory;
mod read;
mod recent;
mod recovery;
mod retention;
pub(crate) mod salvage;
mod scrub;
mod segment;
mod sidecar;
mod state;
mod truncate;

pub use memory::{INDEX_BYTES_DEFAULT, Memory, MemoryStats, TAIL_BYTES_DEFAULT};
pub(crate) use retention::start_offset_of;
pub use retention::{Purged, Retention, decode_start_offset, encode_start_offset};
use state::State;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    /// Where readers may begin from now on: an offset. In a mirror also where the next batch begins, if that lies further on.
    RetentionPoint = 5,
}

/// One entry as the Raft group hands it over and gets it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub kind: FrameKind,
    pub term: u64,
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
    pub index: u64,
    pub append_time_us: i64,
    pub batch: Option<crate::batch::BatchHeader>,
    /// Of a retention point: the log start offset that it asks for.
    pub start_offset: Option<i64>,
}

/// A batch as stored, with the time its home's leader stamped on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// Microseconds since the Unix epoch; strictly increasing along the partition.
    pub append_time_us: i64,
    /// The whole batch, header stamped with offset and leader epoch.
    pub bytes: Bytes,
}

/// Where a lookup by time ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAt {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub leader_epoch: i32,
}

/// What one log is told when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Whose log it is; never changes.
    pub group: GroupId,
    pub rolling: Rolling,
}

/// When a new segment file is begun. May change while the log is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolling {
    /// Beyond this size.
    pub segment_bytes: u64,
    /// Where the segment's first entry is older than this by the append times that entries carry: every replica does it at the same place, and a
    /// log at rest stays as it is.
    pub segment_ms: u64,
}

impl Rolling {
    /// As topics have it by default: Kafka's figures.
    pub const DEFAULT: Rolling = Rolling { segment_bytes: 1 << 30, segment_ms: 7 * 24 * 3_600_000 };
}

impl Default for Rolling {
    fn default() -> Rolling {
        Rolling::DEFAULT
    }
}

/// Where an entry stands in Raft's order, by which logs are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    pub term: u64,
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
    /// Entries that were durable here are gone: a file was cut, deleted or replaced by an older one.
    #[error("the log ends before index {held}, which it held durably: it goes on at {next}")]
    Short { next: u64, held: u64 },
    /// The meta log is older than the log.
    #[error("the log has entries of term {last}, the vote is for term {vote}")]
    VoteLost { vote: u64, last: u64 },
    /// Found while entries were read.
    #[error("{0}")]
    Unreadable(String),
}

impl LogError {
    /// Whether the bytes are at fault, so that only peers can help.
    pub fn is_damage(&self) -> bool {
        !matches!(self, LogError::Io(_))
    }
}

/// Called once, when an append is durable or has failed for good.
pub type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The log of one group, cheap to clone. Its group appends and truncates, under its own lock; readers are free.
#[derive(Debug, Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Env,
    writer: Writer,
    memory: Memory,
    /// Of this log, within `memory`.
    number: u64,
    dir: PathBuf,
    group: GroupId,
    state: Mutex<State>,
    /// What was found wrong with the files while they were read, once anything was.
    damage: watch::Sender<Option<String>>,
}

/// What a log stands on: its node's disk and clock, the writer of its data folder, and what its logs share of memory.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub env: &'a Env,
    pub writer: &'a Writer,
    pub memory: &'a Memory,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.memory.forget_log(self.number);
    }
}

impl Log {
    /// Recovers the log in `dir`: what sidecars tell of is believed; of the last segment every checksum behind that is verified, and a torn tail is
    /// cut.
    pub fn open(place: Place<'_>, dir: &Path, settings: LogSettings) -> Result<Log, LogError> {
        Log::open_behind(place, dir, settings, None)
    }

    /// The same, where entries up to `purged` are gone: a log that ends before it begins anew there, one that begins behind it has a hole.
    pub fn open_behind(place: Place<'_>, dir: &Path, settings: LogSettings, purged: Option<Purged>) -> Result<Log, LogError> {
        let Place { env, writer, memory } = place;
        // Its name is made durable with the first file in it.
        env.disk.create_dir_all(dir)?;
        let mut state = State::new(settings.rolling, memory);
        let (paths, sidecars) = segment::segments_and_sidecars(env.disk.list(dir)?);
        retention::remove_strays(env, &paths, &sidecars)?;
        let paths = retention::remove_leftovers(env, dir, paths, purged)?;
        let folder = recovery::Folder { env, dir, group: settings.group };
        let paths = folder.without_torn(paths)?;
        folder.recover_all(&mut state, &paths)?;
        recovery::begin(env, &mut state, dir, purged)?;
        // A life that was killed may have begun the last segment and not made its name durable: behind the first entry it is.
        if state.segments.last().is_some_and(|segment| segment.first_append_time_us.is_none()) {
            env.disk.sync_dir(dir)?;
            env.disk.sync_dir(dir.parent().unwrap_or(dir))?;
        }
        state.flushed_next = state.next_index();
        let inner = Inner {
            env: env.clone(),
            writer: writer.clone(),
            memory: memory.clone(),
            number: memory.number(),
            dir: dir.to_owned(),
            group: settings.group,
            state: Mutex::new(state),
            damage: watch::Sender::default(),
        };
        Ok(Log { inner: Arc::new(inner) })
    }

    /// Changes when new segments are begun, from the next append on.
    pub fn set_rolling(&self, rolling: Rolling) {
        self.state().rolling = rolling;
    }

    /// Why this log must not be read from any more; None while nothing is known against it.
    pub(crate) fn damage(&self) -> Option<String> {
        self.inner.damage.borrow().clone()
    }

    pub(crate) fn watch_damage(&self) -> watch::Receiver<Option<String>> {
        self.inner.damage.subscribe()
    }

    /// Notes that the files do not hold what they have to.
    pub(crate) fn note_damage(&self, what: String) {
        self.inner.damage.send_if_modified(|held| {
            let first = held.is_none();
            held.get_or_insert(what);
            first
        });
    }

    /// Work must stay on the calling thread.
    pub(crate) fn is_simulated(&self) -> bool {
        self.inner.env.disk.is_simulated()
    }

    pub(crate) fn mutations(&self) -> Mutations {
        self.inner.env.mutations()
    }

    /// First index not known to be durable.
    pub(crate) fn flushed_next(&self) -> u64 {
        self.state().flushed_next
    }

    pub(crate) fn group(&self) -> GroupId {
        self.inner.group
    }

    /// Tells this opening of a log from any other of its node.
    pub(crate) fn number(&self) -> u64 {
        self.inner.number
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `first index held .. next index`.
    pub fn indexes(&self) -> Range<u64> {
        let state = self.state();
        state.first_index()..state.next_index()
    }

    pub fn last(&self) -> Option<LogPosition> {
        self.state().last
    }

    /// The disk keeps what is free for what must be written: new batches are to be refused before they enter any log.
    pub fn refuses_data(&self) -> bool {
        self.inner.env.disk.refuses_data()
    }

    pub fn next_offset(&self) -> i64 {
        self.state().next_offset
    }

    pub fn last_append_time_us(&self) -> i64 {
        self.state().last_append_time_us
    }

    /// Promises that no entry stamped here later carries an append time at or before the returned one (µs).
    pub fn close_time(&self) -> i64 {
        let now = self.inner.env.clock.wall_us();
        let mut state = self.state();
        state.closed_us = state.closed_us.max(now).max(state.last_append_time_us);
        state.closed_us
    }

    pub fn size_bytes(&self) -> u64 {
        self.state().segments.iter().map(|segment| segment.end).sum()
    }
}
