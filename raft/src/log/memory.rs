//! What all logs of a node together keep in memory: recent entries, which whoever follows the tail reads, indexes of closed segments, and chunks of
//! what was read from the disk. Each has a budget; what is oldest, or was used longest ago, goes first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::chunks::Chunks;
use super::index::Points;
use super::{Inner, LogEntry};
use crate::env::File;

/// Default of [`Memory::limit`] for recent entries.
pub const TAIL_BYTES_DEFAULT: usize = 128 << 20;
/// Default of [`Memory::limit`] for indexes of closed segments.
pub const INDEX_BYTES_DEFAULT: usize = 16 << 20;
/// What an entry takes beside its payload.
const ENTRY_BYTES: usize = 192;
/// An index counts as at least this: it holds a file open.
const INDEX_BYTES_MIN: usize = 4096;
/// Recent entries grow old: nobody who follows the tail comes so late.
const TAIL_AGE_MAX: Duration = Duration::from_secs(60);
/// Appends to one log within this time are let go of together, as long as they are no more than a small part of the budget.
const TICKET_TIME: Duration = Duration::from_millis(50);
const TICKET_PART: usize = 64;

/// What the logs of one node share; cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tail_bytes_max: AtomicUsize,
    tail_bytes: AtomicUsize,
    /// In the order in which entries came, whatever the log.
    tickets: Mutex<VecDeque<Ticket>>,
    indexes: Mutex<Indexes>,
    chunks: Chunks,
    logs: AtomicU64,
    read_memory_bytes: AtomicU64,
    read_disk_bytes: AtomicU64,
}

/// What the logs of a node hold in memory just now, and where entries that were read whole have come from since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub tail_bytes: u64,
    pub index_bytes: u64,
    /// Read from the disk a moment ago, for whoever reads on there.
    pub chunk_bytes: u64,
    pub read_memory_bytes: u64,
    pub read_disk_bytes: u64,
}

/// Entries of one log that came together.
#[derive(Debug)]
struct Ticket {
    log: Weak<Inner>,
    /// First index behind them.
    until: u64,
    bytes: usize,
    since: Instant,
}

/// A closed segment's index, and its file.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) file: Arc<dyn File>,
    pub(super) points: Points,
    pub(super) epochs: Vec<(i32, i64)>,
}

/// Log and base index.
type SegmentKey = (u64, u64);

#[derive(Debug)]
struct Indexes {
    bytes_max: usize,
    bytes: usize,
    uses: u64,
    held: BTreeMap<SegmentKey, (Arc<Index>, u64)>,
    /// Last use → index.
    order: BTreeMap<u64, SegmentKey>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Memory {
    fn default() -> Memory {
        let indexes = Indexes { bytes_max: INDEX_BYTES_DEFAULT, bytes: 0, uses: 0, held: BTreeMap::new(), order: BTreeMap::new() };
        Memory {
            shared: Arc::new(Shared {
                tail_bytes_max: AtomicUsize::new(TAIL_BYTES_DEFAULT),
                tail_bytes: AtomicUsize::new(0),
                tickets: Mutex::default(),
                indexes: Mutex::new(indexes),
                chunks: Chunks::default(),
                logs: AtomicU64::new(0),
                read_memory_bytes: AtomicU64::new(0),
                read_disk_bytes: AtomicU64::new(0),
            }),
        }
    }
}

impl Memory {
    /// The most that recent entries and indexes of closed segments take, bytes. What is not yet durable is kept besides.
    pub fn limit(&self, tail_bytes: usize, index_bytes: usize) {
        self.shared.tail_bytes_max.store(tail_bytes, Ordering::Relaxed);
        lock(&self.shared.indexes).limit(index_bytes);
        self.trim();
    }

    pub fn stats(&self) -> MemoryStats {
        let Shared { tail_bytes, indexes, chunks, read_memory_bytes, read_disk_bytes, .. } = &*self.shared;
        MemoryStats {
            tail_bytes: tail_bytes.load(Ordering::Relaxed) as u64,
            index_bytes: lock(indexes).bytes as u64,
            chunk_bytes: chunks.bytes() as u64,
            read_memory_bytes: read_memory_bytes.load(Ordering::Relaxed),
            read_disk_bytes: read_disk_bytes.load(Ordering::Relaxed),
        }
    }

    /// Counts payloads that were read.
    pub(super) fn count_read(&self, memory_bytes: u64, disk_bytes: u64) {
        self.shared.read_memory_bytes.fetch_add(memory_bytes, Ordering::Relaxed);
        self.shared.read_disk_bytes.fetch_add(disk_bytes, Ordering::Relaxed);
    }

    /// How many logs have been opened so far.
    pub(crate) fn opened(&self) -> u64 {
        self.shared.logs.load(Ordering::Relaxed)
    }

    /// A number for a log, which no other has.
    pub(super) fn number(&self) -> u64 {
        self.shared.logs.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn tail(&self) -> Tail {
        Tail { entries: VecDeque::new(), bytes: 0, memory: self.clone() }
    }

    /// Entries before `until`, with payloads of so many bytes, came to this log just now.
    pub(super) fn came(&self, log: &Arc<Inner>, until: u64, bytes: usize) {
        let now = Instant::now();
        let mut tickets = lock(&self.shared.tickets);
        if let Some(last) = tickets.back_mut()
            && last.log.as_ptr() == Arc::as_ptr(log)
            && now.duration_since(last.since) < TICKET_TIME
            && last.bytes.saturating_add(bytes) <= self.shared.tail_bytes_max.load(Ordering::Relaxed) / TICKET_PART
        {
            last.until = until;
            last.bytes += bytes;
            return;
        }
        tickets.push_back(Ticket { log: Arc::downgrade(log), until, bytes, since: now });
    }

    /// Lets go of what came first while there is too much, and of what has grown old. No log's state may be locked by the caller.
    pub(crate) fn trim(&self) {
        self.shared.chunks.trim();
        loop {
            let over = self.shared.tail_bytes.load(Ordering::Relaxed) > self.shared.tail_bytes_max.load(Ordering::Relaxed);
            let ticket = {
                let mut tickets = lock(&self.shared.tickets);
                let Some(ticket) = tickets.pop_front_if(|first| over || first.since.elapsed() >= TAIL_AGE_MAX) else { return };
                if tickets.is_empty() {
                    tickets.shrink_to_fit();
                }
                ticket
            };
            let Some(log) = ticket.log.upgrade() else { continue };
            let flushed = log.state.lock().unwrap_or_else(PoisonError::into_inner).let_go(ticket.until);
            if !flushed {
                // In memory only, so far. What came later is hardly more durable.
                lock(&self.shared.tickets).push_front(ticket);
                return;
            }
        }
    }

    pub(super) fn index(&self, log: u64, base_index: u64) -> Option<Arc<Index>> {
        lock(&self.shared.indexes).get((log, base_index))
    }

    pub(super) fn keep_index(&self, log: u64, base_index: u64, index: Arc<Index>) {
        lock(&self.shared.indexes).insert((log, base_index), index);
    }

    pub(super) fn chunks(&self) -> &Chunks {
        &self.shared.chunks
    }

    /// Forgets index and chunks.
    pub(super) fn forget_segment(&self, log: u64, base_index: u64) {
        lock(&self.shared.indexes).remove((log, base_index));
        self.shared.chunks.forget_segment(log, base_index);
    }

    pub(super) fn forget_log(&self, log: u64) {
        lock(&self.shared.indexes).remove_log(log);
        self.shared.chunks.forget_log(log);
    }
}

impl Index {
    fn bytes(&self) -> usize {
        self.points.bytes().max(INDEX_BYTES_MIN)
    }
}

impl Indexes {
    fn get(&mut self, key: SegmentKey) -> Option<Arc<Index>> {
        let (index, used) = self.held.get_mut(&key)?;
        self.uses += 1;
        self.order.remove(used);
        *used = self.uses;
        self.order.insert(self.uses, key);
        Some(index.clone())
    }

    fn insert(&mut self, key: SegmentKey, index: Arc<Index>) {
        self.remove(key);
        self.uses += 1;
        self.bytes += index.bytes();
        self.held.insert(key, (index, self.uses));
        self.order.insert(self.uses, key);
        self.limit(self.bytes_max);
    }

    fn remove(&mut self, key: SegmentKey) {
        if let Some((index, used)) = self.held.remove(&key) {
            self.bytes -= index.bytes();
            self.order.remove(&used);
        }
    }

    fn remove_log(&mut self, log: u64) {
        let keys: Vec<SegmentKey> = self.held.range((log, 0)..=(log, u64::MAX)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.remove(key));
    }

    fn limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        while self.bytes > bytes_max {
            let Some((_, &key)) = self.order.first_key_value() else { return };
            self.remove(key);
        }
    }
}

/// An entry, and the next offset before it.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) entry: LogEntry,
    pub(super) offset: i64,
}

/// The recent entries of one log, in order and without a gap; all that is not durable yet is among them.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<Recent>,
    bytes: usize,
    memory: Memory,
}

impl Tail {
    pub(super) fn push(&mut self, entry: LogEntry, offset: i64) {
        self.account(entry.payload.len() + ENTRY_BYTES, 0);
        self.entries.push_back(Recent { entry, offset });
    }

    /// Lets go of entries before `index`.
    pub(super) fn drop_before(&mut self, index: u64) {
        while let Some(recent) = self.entries.pop_front_if(|recent| recent.entry.index < index) {
            self.account(0, recent.entry.payload.len() + ENTRY_BYTES);
        }
        self.shrink();
    }

    /// Lets go of entries from `index` on.
    pub(super) fn drop_from(&mut self, index: u64) {
        while let Some(recent) = self.entries.pop_back_if(|recent| recent.entry.index >= index) {
            self.account(0, recent.entry.payload.len() + ENTRY_BYTES);
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
    }

    fn account(&mut self, more: usize, less: usize) {
        self.bytes = self.bytes + more - less;
        let shared = &self.memory.shared;
        shared.tail_bytes.fetch_add(more, Ordering::Relaxed);
        shared.tail_bytes.fetch_sub(less, Ordering::Relaxed);
    }

    pub(super) fn get(&self, index: u64) -> Option<&LogEntry> {
        let first = self.entries.front()?.entry.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.entries.get(at).map(|recent| &recent.entry)
    }

    /// The index of the last entry at or before the batch that holds `offset`, where that batch is certain to be here or still to come.
    pub(super) fn index_near(&self, offset: i64) -> Option<u64> {
        let behind = self.entries.partition_point(|recent| recent.offset <= offset);
        behind.checked_sub(1).and_then(|last| self.entries.get(last)).map(|recent| recent.entry.index)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.account(0, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::env::Env;
    use crate::log::FrameKind;

    fn entry(index: u64, bytes: usize) -> LogEntry {
        LogEntry { kind: FrameKind::Blank, term: 1, index, append_time_us: 1, payload: Bytes::from(vec![0; bytes]) }
    }

    #[test]
    fn a_tail_counts_against_its_nodes_bytes_until_it_is_gone() {
        let memory = Memory::default();
        let mut tails = [memory.tail(), memory.tail()];
        for (i, tail) in tails.iter_mut().enumerate() {
            (5..10).for_each(|index| tail.push(entry(index, 1000), index as i64 * 10 + i as i64));
        }
        let entry_bytes = (1000 + ENTRY_BYTES) as u64;
        let whole = 10 * entry_bytes;
        assert_eq!(memory.stats().tail_bytes, whole);
        let [mut one, other] = tails;
        assert_eq!((one.index_near(49), one.index_near(50), one.index_near(59), one.index_near(1_000)), (None, Some(5), Some(5), Some(9)));
        one.drop_before(7);
        one.drop_from(9);
        assert_eq!((one.get(6), one.get(7).map(|entry| entry.index), one.get(9)), (None, Some(7), None));
        assert_eq!(memory.stats().tail_bytes, whole - 3 * entry_bytes);
        drop((one, other));
        assert_eq!(memory.stats().tail_bytes, 0);
    }

    #[test]
    fn the_index_that_was_used_longest_ago_goes_first_and_a_closed_log_takes_its_own_along() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Env::real().disk.open(&folder.path().join("segment"), true).expect("a file");
        let index = || Arc::new(Index { file: file.clone(), points: Points::default(), epochs: Vec::new() });
        let memory = Memory::default();
        memory.limit(0, 4 * INDEX_BYTES_MIN);
        (0..4).for_each(|base| memory.keep_index(base % 2, base, index()));
        assert!(memory.index(0, 0).is_some());
        memory.keep_index(0, 4, index());
        assert!(memory.index(1, 1).is_none(), "it was used longest ago");
        assert!([(0, 0), (0, 2), (1, 3), (0, 4)].into_iter().all(|(log, base)| memory.index(log, base).is_some()));
        memory.forget_log(0);
        assert_eq!(memory.stats().index_bytes, INDEX_BYTES_MIN as u64);
        memory.forget_segment(1, 3);
        assert_eq!(memory.stats().index_bytes, 0);
    }
}
