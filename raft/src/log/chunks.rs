//! Chunks of segments as they were read from the disk a moment ago: whoever reads on finds there what the last read brought beyond its end, and who
//! follows shortly behind another reads them from memory. One small budget for all logs of a node, beside the recent entries and never in their
//! place: whoever reads old records, however many, drives out only what was read for others like him.
//!
//! What is held is not believed: each entry is verified whenever it is read, and read from the disk again where it does not hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::env::BLOCK_BYTES;

/// What is read at once for who reads on; a longer frame comes whole.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// Of the chunks of all logs of a node together.
const HELD_BYTES_MAX: usize = 32 << 20;
/// Nobody comes back for a chunk so late.
const AGE_MAX: Duration = Duration::from_secs(5);
/// Buffers that wait for the next read: fresh memory costs as much as the read itself.
const FREE_MAX: usize = 8;

/// Which bytes of which segment; `cuts` tells those of before a truncation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChunkKey {
    pub(super) log: u64,
    pub(super) cuts: u64,
    pub(super) base_index: u64,
    /// Where in the file it begins: with a block.
    pub(super) start: u64,
}

#[derive(Debug, Default)]
pub(super) struct Chunks {
    held: Mutex<Held>,
    free: Arc<Free>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    uses: u64,
    chunks: BTreeMap<ChunkKey, Chunk>,
    /// Last use → chunk.
    order: BTreeMap<u64, ChunkKey>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    /// What it takes, the rest of its buffer included.
    takes: usize,
    used: u64,
    since: Instant,
}

#[derive(Debug, Default)]
struct Free(Mutex<Vec<Vec<u8>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chunks {
    /// The chunk of that segment that begins last at or before the key's start.
    pub(super) fn find(&self, key: ChunkKey) -> Option<(u64, Bytes)> {
        let mut held = lock(&self.held);
        let (&found, _) = held.chunks.range(ChunkKey { start: 0, ..key }..=key).next_back()?;
        let bytes = held.touch(found)?;
        Some((found.start, bytes))
    }

    /// Keeps what was read, in place of a chunk that began there, too.
    pub(super) fn keep(&self, key: ChunkKey, bytes: Bytes) {
        let takes = bytes.len().max(CHUNK_BYTES);
        let mut held = lock(&self.held);
        held.remove(key);
        held.uses += 1;
        held.bytes += takes;
        let used = held.uses;
        held.chunks.insert(key, Chunk { bytes, takes, used, since: Instant::now() });
        held.order.insert(used, key);
        while held.bytes > HELD_BYTES_MAX && held.remove_oldest() {}
    }

    pub(super) fn forget_segment(&self, log: u64, base_index: u64) {
        self.forget(log, |key| key.base_index == base_index);
    }

    pub(super) fn forget_log(&self, log: u64) {
        self.forget(log, |_| true);
    }

    fn forget(&self, log: u64, gone: impl Fn(&ChunkKey) -> bool) {
        let begin = |log| ChunkKey { log, cuts: 0, base_index: 0, start: 0 };
        let mut held = lock(&self.held);
        let keys: Vec<ChunkKey> = held.chunks.range(begin(log)..begin(log + 1)).map(|(key, _)| *key).filter(gone).collect();
        keys.into_iter().for_each(|key| held.remove(key));
    }

    /// Lets go of what nobody has come for.
    pub(super) fn trim(&self) {
        let mut held = lock(&self.held);
        if held.chunks.is_empty() {
            return;
        }
        while held.is_oldest_stale() && held.remove_oldest() {}
        if held.chunks.is_empty() {
            lock(&self.free.0).clear();
        }
    }

    pub(super) fn bytes(&self) -> usize {
        lock(&self.held).bytes
    }

    /// Room for `size` bytes. Of a chunk's size it is one that was used before, where there is one, and what it holds is not zeros.
    pub(super) fn buffer(&self, size: usize) -> Buffer {
        if size > CHUNK_BYTES {
            return Buffer::new(size);
        }
        let used = lock(&self.free.0).pop();
        let bytes = used.unwrap_or_else(|| vec![0; CHUNK_BYTES + BLOCK_BYTES as usize]);
        Buffer { bytes, size, free: Some(self.free.clone()) }
    }
}

impl Held {
    fn touch(&mut self, key: ChunkKey) -> Option<Bytes> {
        let chunk = self.chunks.get_mut(&key)?;
        self.uses += 1;
        self.order.remove(&chunk.used);
        (chunk.used, chunk.since) = (self.uses, Instant::now());
        self.order.insert(self.uses, key);
        Some(chunk.bytes.clone())
    }

    fn remove(&mut self, key: ChunkKey) {
        if let Some(chunk) = self.chunks.remove(&key) {
            self.bytes -= chunk.takes;
            self.order.remove(&chunk.used);
        }
    }

    /// False where there is none.
    fn remove_oldest(&mut self) -> bool {
        let Some((_, &key)) = self.order.first_key_value() else { return false };
        self.remove(key);
        true
    }

    fn is_oldest_stale(&self) -> bool {
        let oldest = self.order.first_key_value().and_then(|(_, key)| self.chunks.get(key));
        oldest.is_some_and(|chunk| chunk.since.elapsed() >= AGE_MAX)
    }
}

/// Memory that begins with a block, as reads past the system's cache want it.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    size: usize,
    /// Where it goes when nobody needs it any more.
    free: Option<Arc<Free>>,
}

impl Buffer {
    pub(super) fn new(size: usize) -> Buffer {
        Buffer { bytes: vec![0; size + BLOCK_BYTES as usize], size, free: None }
    }

    fn skipped(&self) -> usize {
        self.bytes.as_ptr().align_offset(BLOCK_BYTES as usize).min(BLOCK_BYTES as usize)
    }

    pub(super) fn room(&mut self) -> &mut [u8] {
        let skipped = self.skipped();
        &mut self.bytes[skipped..skipped + self.size]
    }

    /// The first `count` bytes of it.
    pub(super) fn into_bytes(mut self, count: usize) -> Bytes {
        self.size = self.size.min(count);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        let skipped = self.skipped();
        &self.bytes[skipped..skipped + self.size]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(free) = &self.free {
            let mut free = lock(&free.0);
            if free.len() < FREE_MAX {
                free.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(log: u64, base_index: u64, start: u64) -> ChunkKey {
        ChunkKey { log, cuts: 0, base_index, start }
    }

    fn read(chunks: &Chunks, byte: u8) -> Bytes {
        let mut buffer = chunks.buffer(CHUNK_BYTES);
        buffer.room()[0] = byte;
        buffer.into_bytes(CHUNK_BYTES)
    }

    #[test]
    fn chunks_take_no_more_than_their_budget_and_the_one_used_longest_ago_goes_first() {
        let chunks = Chunks::default();
        let fit = (HELD_BYTES_MAX / CHUNK_BYTES) as u64;
        (0..fit).for_each(|log| chunks.keep(key(log, 0, 0), read(&chunks, 1)));
        assert!(chunks.find(key(0, 0, 99)).is_some(), "used again");
        (fit..fit + 3).for_each(|log| chunks.keep(key(log, 0, 0), read(&chunks, 1)));
        assert_eq!(chunks.bytes(), HELD_BYTES_MAX);
        let held = |log| chunks.find(key(log, 0, 0)).is_some();
        assert_eq!([0, 1, 2, 3, 4, fit + 2].map(held), [true, false, false, false, true, true]);
        chunks.keep(key(99, 0, 0), Bytes::from(vec![0; HELD_BYTES_MAX + 1]));
        assert_eq!(chunks.bytes(), 0, "what is longer than all of it is not kept");
    }

    #[test]
    fn a_buffer_is_used_again_only_when_nobody_reads_from_it_any_more() {
        let chunks = Chunks::default();
        let first = read(&chunks, 7);
        let slice = first.slice(..1);
        let at = |bytes: &Bytes| bytes.as_ptr() as usize;
        let place = at(&first);
        drop(first);
        let second = read(&chunks, 8);
        assert_eq!(&slice[..], [7], "somebody still holds a slice of it");
        assert_ne!(at(&second), place);
        drop(slice);
        assert_eq!(at(&read(&chunks, 9)), place);
        let many: Vec<Bytes> = (0..FREE_MAX + 9).map(|_| read(&chunks, 1)).collect();
        drop(many);
        assert_eq!(lock(&chunks.free.0).len(), FREE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_comes_back_for_is_let_go_of_and_its_buffers_with_it() {
        let chunks = Chunks::default();
        chunks.keep(key(1, 0, 0), read(&chunks, 1));
        chunks.keep(key(2, 0, 0), read(&chunks, 1));
        tokio::time::advance(AGE_MAX / 2).await;
        assert!(chunks.find(key(1, 0, 0)).is_some());
        tokio::time::advance(AGE_MAX / 2).await;
        chunks.trim();
        assert_eq!((chunks.bytes(), chunks.find(key(2, 0, 0))), (CHUNK_BYTES, None));
        tokio::time::advance(AGE_MAX).await;
        chunks.trim();
        assert_eq!((chunks.bytes(), lock(&chunks.free.0).len()), (0, 0));
    }

    #[test]
    fn a_segment_that_goes_takes_its_chunks_along_and_no_others() {
        let chunks = Chunks::default();
        let keys = [key(1, 0, 0), key(1, 0, 4096), key(1, 9, 0), key(2, 0, 0), ChunkKey { cuts: 4, ..key(1, 0, 0) }];
        keys.into_iter().for_each(|key| chunks.keep(key, read(&chunks, 1)));
        chunks.forget_segment(1, 0);
        let held = || keys.map(|key| chunks.find(key).is_some());
        assert_eq!(held(), [false, false, true, true, false]);
        chunks.forget_log(1);
        assert_eq!(held(), [false, false, false, true, false]);
    }
}
