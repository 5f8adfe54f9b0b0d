//! Frames that follow on each other in a segment's file, read many at a time.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::chunks::{Buffer, ChunkKey};
use super::frame::{FRAME_HEADER_BYTES, FrameHeader};
use super::segment::{frame_header, frame_of, payload_wanted};
use super::{Log, LogEntry};
use crate::env::{BLOCK_BYTES, File};

/// Of what has been read, so much stays in the system's memory, for others who read the same a little later; what lies before is forgotten.
const FORGET_BEHIND_BYTES: u64 = 32 << 20;
const FORGET_STEP_BYTES: u64 = 4 << 20;

#[derive(Debug)]
pub(super) struct Frames {
    file: Arc<dyn File>,
    chunk_bytes: usize,
    /// Nothing behind is asked of the file without need.
    until: u64,
    buffer: Bytes,
    start: u64,
    shared: Option<Shared>,
}

/// Where what is read is kept for other reads, and found.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) log: Log,
    pub(super) base_index: u64,
    pub(super) cuts: u64,
}

impl Shared {
    fn key(&self, start: u64) -> ChunkKey {
        ChunkKey { log: self.log.inner.number, cuts: self.cuts, base_index: self.base_index, start }
    }

    fn find(&self, at: u64) -> Option<(u64, Bytes)> {
        self.log.inner.memory.chunks().find(self.key(at))
    }

    fn keep(&self, start: u64, bytes: Bytes) {
        // Under the lock, so that whoever cuts or removes the segment finds what is to be forgotten.
        let state = self.log.state();
        if state.cuts == self.cuts && state.segments.binary_search_by_key(&self.base_index, |segment| segment.base_index).is_ok() {
            self.log.inner.memory.chunks().keep(self.key(start), bytes);
        }
    }
}

impl Frames {
    /// Reads `chunk_bytes` at a time, as long as frames are shorter, up to `until`.
    pub(super) fn new(file: Arc<dyn File>, chunk_bytes: usize, until: u64) -> Frames {
        Frames { file, chunk_bytes, until, buffer: Bytes::new(), start: 0, shared: None }
    }

    pub(super) fn shared(self, shared: Option<Shared>) -> Frames {
        Frames { shared, ..self }
    }

    /// The frame at `position`: its head, its bytes on disk, and unless `head_only` its payload (verified).
    pub(super) fn read(&mut self, position: u64, head_only: bool) -> io::Result<(LogEntry, u64)> {
        let (header, head) = self.head(position)?;
        let entry = if head_only { head } else { self.whole(position, &header)? };
        Ok((entry, header.frame_bytes()))
    }

    /// What begins the frame at `position`, verified: its header, and its entry with no more of the payload than a batch's header.
    pub(super) fn head(&mut self, position: u64) -> io::Result<(FrameHeader, LogEntry)> {
        self.twice(|frames| {
            let header = frame_header(&frames.bytes(position, FRAME_HEADER_BYTES)?)?;
            let entry = frames.entry(position, &header, true)?;
            Ok((header, entry))
        })
    }

    /// The entry of the frame at `position`, which begins with `header`: whole, verified.
    pub(super) fn whole(&mut self, position: u64, header: &FrameHeader) -> io::Result<LogEntry> {
        self.twice(|frames| frames.entry(position, header, false))
    }

    /// What was read before, by whomever, may have been written since: what does not hold is read again before that is said.
    fn twice<T>(&mut self, mut read: impl FnMut(&mut Frames) -> io::Result<T>) -> io::Result<T> {
        match read(self) {
            Err(_) if !self.buffer.is_empty() => {
                let shared = self.shared.take();
                self.buffer.clear();
                let again = read(self);
                self.shared = shared;
                again.inspect(|_| self.keep())
            }
            read => read,
        }
    }

    fn entry(&mut self, position: u64, header: &FrameHeader, head_only: bool) -> io::Result<LogEntry> {
        let payload = self.bytes(position + FRAME_HEADER_BYTES as u64, payload_wanted(header, head_only))?;
        frame_of(header, payload, head_only).map(|(entry, _)| entry)
    }

    fn bytes(&mut self, at: u64, count: usize) -> io::Result<Bytes> {
        if count == 0 {
            return Ok(Bytes::new());
        }
        if let Some(held) = self.held(at, count) {
            return Ok(held);
        }
        if let Some((start, chunk)) = self.shared.as_ref().and_then(|shared| shared.find(at)) {
            (self.start, self.buffer) = (start, chunk);
            if let Some(held) = self.held(at, count) {
                return Ok(held);
            }
        }
        self.load(at, count)?;
        self.held(at, count).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn held(&self, at: u64, count: usize) -> Option<Bytes> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        let end = from.checked_add(count)?;
        (end <= self.buffer.len()).then(|| self.buffer.slice(from..end))
    }

    /// Reads whole blocks from the one at `at` on. What is held of them already is not read again.
    fn load(&mut self, at: u64, count: usize) -> io::Result<()> {
        let start = at - at % BLOCK_BYTES;
        let needed = at + count as u64;
        let until = needed.max(self.until.min(start + self.chunk_bytes as u64));
        let size = usize::try_from((until - start).next_multiple_of(BLOCK_BYTES)).map_err(io::Error::other)?;
        let mut buffer = match &self.shared {
            Some(shared) => shared.log.inner.memory.chunks().buffer(size),
            None => Buffer::new(size),
        };
        let room = buffer.room();
        let mut filled = self.carry_over(start, room);
        while filled < size {
            match self.file.read_past_cache(&mut room[filled..], start + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        // Of the block behind the end somebody may be writing the rest just now.
        let filled = filled.min((until - start) as usize);
        (self.buffer, self.start) = (buffer.into_bytes(filled), start);
        self.keep();
        Ok(())
    }

    /// Copies the blocks from `start` on that are held; returns their bytes.
    fn carry_over(&self, start: u64, room: &mut [u8]) -> usize {
        let from = start.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let Some(held) = from.and_then(|from| self.buffer.get(from..)) else { return 0 };
        let whole = (held.len() - held.len() % BLOCK_BYTES as usize).min(room.len());
        room[..whole].copy_from_slice(&held[..whole]);
        whole
    }

    fn keep(&self) {
        if let Some(shared) = &self.shared {
            shared.keep(self.start, self.buffer.clone());
        }
    }

    /// Bytes from `from` to `to` have been read. Readers come for a little at a time: when they cross a step, what lies far behind it is forgotten.
    pub(super) fn forget_far_behind(&self, from: u64, to: u64) {
        let step = to / FORGET_STEP_BYTES;
        if from / FORGET_STEP_BYTES != step
            && let Some(far) = (step * FORGET_STEP_BYTES).checked_sub(FORGET_BEHIND_BYTES + FORGET_STEP_BYTES)
        {
            self.file.forget(far, FORGET_STEP_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::ops::Range;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::GroupId;
    use crate::batch::BatchHeader;
    use crate::batch::records::{Record, encode};
    use crate::env::Env;
    use crate::log::segment::segment_path;
    use crate::log::{FrameKind, LogSettings, Memory, Place, Purged, Rolling, StoredBatch};
    use crate::writer::Writer;

    const SEGMENT_BYTES: u64 = 128 << 10;
    const FETCH_BYTES: usize = 10_000;

    fn entry(term: u64, index: u64) -> LogEntry {
        let value = Some(format!("{term}/{index}/{:900}", "").into());
        let payload = encode(&[Record { key: None, value, timestamp_ms: 1 }]).expect("a batch").bytes().clone();
        LogEntry { kind: FrameKind::Batch, term, index, append_time_us: 0, payload }
    }

    fn append(log: &Log, term: u64, indexes: Range<u64>) {
        let (done, durable) = mpsc::channel();
        let entries = indexes.map(|index| entry(term, index)).collect();
        log.append(entries, Box::new(move |result| done.send(result).expect("a waiting test"))).expect("queued");
        durable.recv().expect("an answer").expect("durable");
    }

    /// A log of 300 entries, of which memory holds nothing.
    fn cold_log(folder: &Path) -> (Log, Memory) {
        let (env, memory) = (Env::real(), Memory::default());
        memory.limit(0, 1 << 20);
        let writer = Writer::start(&env, folder).expect("a writer");
        let settings = LogSettings {
            group: GroupId { topic: uuid::Uuid::from_u128(7), partition: 0 },
            rolling: Rolling { segment_bytes: SEGMENT_BYTES, ..Rolling::DEFAULT },
        };
        let log = Log::open(Place { env: &env, writer: &writer, memory: &memory }, &folder.join("log"), settings).expect("a log");
        (0..30).for_each(|part| append(&log, 1, part * 10..part * 10 + 10));
        memory.trim();
        (log, memory)
    }

    fn offset_of(batch: &StoredBatch) -> i64 {
        BatchHeader::decode(&batch.bytes).expect("a header").base_offset
    }

    fn is_of(term: u64, batch: &StoredBatch) -> bool {
        let wanted = format!("{term}/{}/ ", offset_of(batch));
        batch.bytes.windows(wanted.len()).any(|bytes| bytes == wanted.as_bytes())
    }

    fn flip(path: &Path, position: u64) {
        let file = Env::real().disk.open(path, false).expect("a segment");
        let mut byte = [0];
        file.read_at(&mut byte, position).expect("read");
        file.write_all_at(&[IoSlice::new(&[byte[0] ^ 4])], position).expect("written");
    }

    #[test]
    fn a_bit_that_flips_in_a_chunk_in_memory_is_not_served() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, memory) = cold_log(folder.path());
        log.read_batches(0, 300, FETCH_BYTES).expect("readable");
        let key = ChunkKey { log: log.inner.number, cuts: 0, base_index: 0, start: 0 };
        let (_, chunk) = memory.chunks().find(key).expect("what lies behind was read, too");
        for at in (FETCH_BYTES..chunk.len()).step_by(331) {
            let mut spoilt = chunk.to_vec();
            spoilt[at] ^= 16;
            memory.chunks().keep(key, spoilt.into());
            let mut next = 0;
            while next < 100 {
                let batches = log.read_batches(next, 300, FETCH_BYTES).expect("the disk holds it");
                assert!(batches.iter().zip(next..).all(|(batch, offset)| offset_of(batch) == offset && is_of(1, batch)), "{at}: {next}");
                next += batches.len() as i64;
            }
        }
        assert_eq!(log.damage(), None);
    }

    #[test]
    fn a_bit_that_flips_on_the_disk_in_the_midst_of_a_chunk_is_served_to_nobody_and_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, _) = cold_log(folder.path());
        flip(&segment_path(&folder.path().join("log"), 0), 64 + 50 * 1_050);
        let mut next = 0;
        let error = loop {
            match log.read_batches(next, 300, FETCH_BYTES) {
                Ok(batches) => next += batches.iter().filter(|batch| is_of(1, batch)).count() as i64,
                Err(error) => break error,
            }
        };
        assert!((45..55).contains(&next), "{next}: what stands before it is read");
        assert!(log.damage().is_some(), "{error}");
        assert!(log.read_batches(next, 300, FETCH_BYTES).is_err(), "not from memory, either");
    }

    #[tokio::test]
    async fn a_chunk_does_not_outlive_that_its_entries_are_taken_back_though_a_reader_comes_late() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, memory) = cold_log(folder.path());
        log.read_batches(0, 300, FETCH_BYTES).expect("readable");
        let shared = Shared { log: log.clone(), base_index: 0, cuts: 0 };
        let (start, chunk) = shared.find(99).expect("held");
        log.truncate_after(Some(19)).await.expect("cut");
        assert_eq!(memory.stats().chunk_bytes, 0);
        shared.keep(start, chunk);
        assert_eq!(memory.stats().chunk_bytes, 0, "whoever read it before the cut keeps it for nobody");
        append(&log, 2, 20..300);
        memory.trim();
        let mut next = 0;
        while next < 300 {
            let batches = log.read_batches(next, 300, FETCH_BYTES).expect("readable");
            assert!(batches.iter().all(|batch| is_of(if offset_of(batch) < 20 { 1 } else { 2 }, batch)), "from {next}");
            next += batches.len() as i64;
        }
    }

    #[test]
    fn a_chunk_does_not_outlive_its_segment_or_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, memory) = cold_log(folder.path());
        let whole = log.entries(0..300, usize::MAX).expect("readable");
        let held = memory.stats().chunk_bytes;
        let second = log.state().segments[1].base_index;
        log.purge(Purged {
            term: 1,
            index: second - 1,
            next_offset: second as i64,
            append_time_us: whole[second as usize - 1].append_time_us,
        });
        assert!((1..held).contains(&memory.stats().chunk_bytes), "the first segment's are gone: {held}");
        assert!(log.state().trails.iter().all(|trail| trail.index >= second));
        drop(log);
        assert_eq!(memory.stats().chunk_bytes, 0);
    }

    #[test]
    fn what_is_appended_behind_a_chunk_is_read_by_who_had_read_to_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, memory) = cold_log(folder.path());
        for round in 30..60_i64 {
            let mut next = round * 10 - 25;
            while next < round * 10 {
                let batches = log.read_batches(next, i64::MAX, FETCH_BYTES).expect("readable");
                assert!(batches.iter().zip(next..).all(|(batch, offset)| offset_of(batch) == offset && is_of(1, batch)), "from {next}");
                next += batches.len() as i64;
            }
            append(&log, 1, round as u64 * 10..round as u64 * 10 + 10);
            memory.trim();
        }
    }

    /// Counts what is read of it.
    #[derive(Debug)]
    struct Counted(Arc<dyn File>, AtomicU64);

    impl File for Counted {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let count = self.0.read_at(buffer, offset)?;
            self.1.fetch_add(count as u64, Ordering::Relaxed);
            Ok(count)
        }
        fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
            self.0.write_all_at(slices, offset)
        }
        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }
        fn allocate(&self, bytes: u64) -> io::Result<()> {
            self.0.allocate(bytes)
        }
        fn set_len(&self, bytes: u64) -> io::Result<()> {
            self.0.set_len(bytes)
        }
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
    }

    #[test]
    fn whoever_goes_through_a_segment_reads_every_byte_of_it_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, memory) = cold_log(folder.path());
        let (base_index, until) = {
            let first = &log.state().segments[0];
            (first.base_index, first.end)
        };
        let file = Env::real().disk.open(&segment_path(&folder.path().join("log"), base_index), false).expect("a segment");
        let counted = Arc::new(Counted(file, AtomicU64::new(0)));
        let mut position = 64;
        while position < until {
            // A reader of its own for a few frames, as one fetch is.
            let shared = Shared { log: log.clone(), base_index, cuts: 0 };
            let mut frames = Frames::new(counted.clone(), 9 * 4096, until).shared(Some(shared));
            for _ in 0..7 {
                if position < until {
                    position += frames.read(position, false).expect("readable").1;
                }
            }
        }
        let read = counted.1.load(Ordering::Relaxed);
        assert!((until..=until + 4096).contains(&read), "{read} of {until}");
        assert!(memory.stats().chunk_bytes > 0);
    }
}
