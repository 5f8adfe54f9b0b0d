//! One partition's replica on this node: append, read, watch. The only door through which the rest of Meridian reaches a log.

mod append;
#[cfg(feature = "sim")]
mod observed;
pub(crate) mod producers;
mod retention;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::group::Group;
pub use crate::group::membership::{Behind, Membership, ReconfigureError};
use crate::log::Log;
pub use crate::log::{OffsetAt, Retention, Rolling, StoredBatch};
use crate::{GroupId, NodeId};
pub use append::{AppendError, Appended};
#[cfg(feature = "sim")]
pub use observed::{Observed, ObservedEntry, Role};
use producers::Producers;
pub use retention::DeleteRecordsError;

/// Which replicas hold a partition, and how it is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSpec {
    pub id: GroupId,
    /// Voters that form the group where its log is empty; the first is the preferred leader and starts the first election. Empty: the group
    /// exists already, and this replica joins it when the group's leader asks it to. It never forms one: there would be two of one name.
    pub replicas: Vec<NodeId>,
    /// True where the records come from another region: offsets and epochs are then asserted, not assigned.
    pub mirror: bool,
    pub settings: PartitionSettings,
}

/// What a topic's config says about its logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSettings {
    /// When a new segment file is begun (`segment.bytes`, `segment.ms`).
    pub rolling: Rolling,
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

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("offset {offset} is outside {start}..={end}")]
    OutOfRange { offset: i64, start: i64, end: i64 },
    #[error("the log cannot be read here: {0}")]
    Storage(String),
}

/// One attempt to hand leadership over.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(2);
/// A follower this many entries behind still counts as in sync: as many as may be in flight to it.
const IN_SYNC_ENTRIES_MAX: u64 = 4096;

/// What clients moved through one replica since it was opened; counted by the rooms that serve them.
#[derive(Debug, Default)]
pub struct Traffic {
    pub records_in: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
}

/// Handle to one replica. Everything is safe to call from any task.
#[derive(Debug, Clone)]
pub struct Partition {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: PartitionSpec,
    group: Group,
    producers: Arc<Mutex<Producers>>,
    /// Mirrors: the term of leadership, and the offset behind all that was submitted in it.
    submitted: Mutex<Option<(u64, i64)>>,
    retention: Mutex<Retention>,
    /// Of appends that wait for their commit.
    waiting_bytes: Arc<AtomicUsize>,
    traffic: Traffic,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Partition {
    pub(crate) fn new(spec: PartitionSpec, group: Group, producers: Arc<Mutex<Producers>>) -> Partition {
        let (submitted, retention) = (Mutex::default(), Mutex::default());
        let inner = Inner { spec, group, producers, submitted, retention, waiting_bytes: Arc::default(), traffic: Traffic::default() };
        Partition { inner: Arc::new(inner) }
    }

    pub(crate) fn group(&self) -> &Group {
        &self.inner.group
    }

    pub fn id(&self) -> GroupId {
        self.inner.spec.id
    }
    pub fn spec(&self) -> &PartitionSpec {
        &self.inner.spec
    }
    /// Both are handles of one opening of the replica: one that was repaired, and so opened again, is another.
    pub fn is_same_opening(&self, other: &Partition) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
    pub fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }
    pub fn leadership(&self) -> Leadership {
        *self.inner.group.leadership().borrow()
    }
    /// This node leads, and a majority has confirmed so within the lease: nobody else can have led since.
    pub fn holds_lease(&self) -> bool {
        self.inner.group.holds_lease()
    }
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.group.leadership()
    }

    /// Takes up what the topic's config says by now.
    pub fn configure(&self, settings: PartitionSettings) {
        self.inner.group.log().set_rolling(settings.rolling);
    }

    pub fn log_start_offset(&self) -> i64 {
        self.inner.group.log().start_offset()
    }
    /// First offset not yet committed; readers see only what lies before it. Never goes back.
    pub fn high_watermark(&self) -> i64 {
        *self.inner.group.high_watermark().borrow()
    }
    pub fn watch_high_watermark(&self) -> watch::Receiver<i64> {
        self.inner.group.high_watermark()
    }
    /// Entries before this index are committed, and this replica has said that they are durable here: no crash may take them.
    #[cfg(feature = "sim")]
    pub fn promised_index(&self) -> u64 {
        self.inner.group.log().flushed_next().min(self.inner.group.applied().borrow().index + 1)
    }
    /// First index not yet in this replica's log.
    #[cfg(feature = "sim")]
    pub fn end_index(&self) -> u64 {
        self.inner.group.log().indexes().end
    }
    /// First offset not yet in this replica's log (committed or not).
    pub fn log_end_offset(&self) -> i64 {
        self.inner.group.log().next_offset()
    }
    /// Epoch and append time (µs) of the last *committed* batch; None in an empty log. The epoch is the batch's own.
    pub fn last_committed(&self) -> Option<(i32, i64)> {
        let applied = *self.inner.group.applied().borrow();
        (applied.append_time_us > 0).then_some((applied.batch_epoch, applied.append_time_us))
    }

    /// Committed batches from the one that holds `offset` on, at most `bytes_max` in all, but the first always whole. Empty at the high watermark.
    pub fn read(&self, offset: i64, bytes_max: usize) -> BoxFuture<'static, Result<Vec<StoredBatch>, ReadError>> {
        let (start, end) = (self.log_start_offset(), self.high_watermark());
        if !(start..=end).contains(&offset) {
            return std::future::ready(Err(ReadError::OutOfRange { offset, start, end })).boxed();
        }
        let log = self.inner.group.log().clone();
        let waits = offset < end && !log.is_recent(offset);
        let read = self.look(waits, move |log| if offset == end { Ok(Vec::new()) } else { log.read_batches(offset, end, bytes_max) });
        async move {
            let batches = read.await?;
            // What was asked for may have been let go meanwhile; what follows on it is no answer.
            let start = log.start_offset();
            if start > offset { Err(ReadError::OutOfRange { offset, start, end }) } else { Ok(batches) }
        }
        .boxed()
    }

    /// First committed record whose timestamp is at or after `timestamp_ms`, exact to the record.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64) -> BoxFuture<'static, Result<Option<OffsetAt>, ReadError>> {
        let end = self.high_watermark();
        self.look(true, move |log| log.offset_for_timestamp(timestamp_ms, end))
    }
    /// The committed record with the greatest timestamp (ListOffsets −3).
    pub fn offset_of_max_timestamp(&self) -> BoxFuture<'static, Result<Option<OffsetAt>, ReadError>> {
        let end = self.high_watermark();
        self.look(true, move |log| log.offset_of_max_timestamp(end))
    }

    /// Asks the log; a question that `waits` for the disk, on a thread that may: the tasks of other connections have none to lose.
    fn look<T>(
        &self,
        waits: bool,
        question: impl FnOnce(&Log) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, ReadError>>
    where
        T: Send + 'static,
    {
        let log = self.inner.group.log().clone();
        async move {
            let answer = match tokio::runtime::Handle::try_current() {
                Ok(runtime) if waits && !log.is_simulated() => {
                    let answer = runtime.spawn_blocking(move || question(&log)).await;
                    answer.unwrap_or_else(|error| Err(io::Error::other(error)))
                }
                _ => question(&log),
            };
            answer.map_err(|error| ReadError::Storage(error.to_string()))
        }
        .boxed()
    }

    /// OffsetForLeaderEpoch: the largest batch epoch ≤ `epoch` and the offset where it ends; None when the log knows none.
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        self.inner.group.log().end_offset_for_epoch(epoch, self.high_watermark())
    }

    /// On a leader whose lease holds: no later commit will carry an append time at or before this one (µs). None elsewhere. Ask for it
    /// *before* the high watermark it shall vouch for. Holds across a change of leader as long as the clocks of a region differ by less
    /// than an election timeout.
    pub fn closed_time_us(&self) -> Option<i64> {
        let group = &self.inner.group;
        if !group.holds_lease() {
            return None;
        }
        let closed = group.log().close_time();
        // What is appended but not committed carries times before it.
        if group.log().next_offset() <= self.high_watermark() { Some(closed) } else { self.last_committed().map(|(_, time)| time) }
    }

    /// Hands leadership to another in-sync replica; resolves when another leads or after the deadline of the attempt.
    pub fn transfer_leadership(&self) -> BoxFuture<'static, bool> {
        let group = self.inner.group.clone();
        async move { group.transfer(TRANSFER_DEADLINE, &BTreeSet::new()).await }.boxed()
    }

    /// Hands leadership to that voter; true once another node leads.
    pub fn transfer_leadership_to(&self, node: NodeId) -> BoxFuture<'static, bool> {
        let group = self.inner.group.clone();
        async move { group.transfer_to(node, TRANSFER_DEADLINE).await }.boxed()
    }

    /// Who holds the partition, as this replica knows.
    pub fn membership(&self) -> Membership {
        self.inner.group.membership()
    }
    /// On the leader: how far behind every other replica is.
    pub fn behind(&self) -> BTreeMap<NodeId, Behind> {
        self.inner.group.behind()
    }
    /// Moves the partition to these voters: those that are new are sent the log first, no faster than the node's catch-up rate, then joint
    /// consensus changes who votes. Only the leader can; it returns when the change is committed, and leads on for a moment even if it is not
    /// among them. Dropping the future stops between two steps; whoever leads may call it again, with the same voters or others.
    pub fn reconfigure(&self, voters: BTreeSet<NodeId>) -> BoxFuture<'static, Result<(), ReconfigureError>> {
        let group = self.inner.group.clone();
        async move { group.reconfigure(&voters, &BTreeSet::new()).await }.boxed()
    }

    /// Replicas that have all but the newest entries, as the leader knows (itself included); on followers, all voters.
    pub fn in_sync_replicas(&self) -> Vec<NodeId> {
        self.inner.group.in_sync(IN_SYNC_ENTRIES_MAX)
    }
    /// Bytes of this replica's log on disk.
    pub fn size_bytes(&self) -> u64 {
        self.inner.group.log().size_bytes()
    }
}
