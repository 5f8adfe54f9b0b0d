//! One group's log on disk: segments of checksummed frames, and the indexes that are rebuilt from them. It is the Raft log and the partition log in one.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::GroupId;
use crate::batch::{Batch, BatchHeader, HEADER_BYTES};
use crate::env::{Env, File};
use crate::writer::{Job, Task, Writer};

mod frame;
mod lookup;
mod recovery;

use frame::{
    FRAME_HEADER_BYTES, FrameHeader, PAYLOAD_BYTES_MAX, SEGMENT_HEADER_BYTES, decode_frame, encode_frame, encode_segment, is_batch,
};

/// What a frame holds. Only `Batch` frames take Kafka offsets.
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

/// Recent entries kept in memory per log; what is not yet flushed is kept besides.
const TAIL_CACHE_BYTES: usize = 1 << 20;
/// What a new segment reserves on disk, and the most by which it is reserved further: it doubles in between. An idle partition takes
/// little, a busy one rarely changes its file's size, and no log reserves much more than it holds.
const RESERVE_BYTES_MIN: u64 = 64 << 10;
const RESERVE_BYTES_MAX: u64 = 64 << 20;
const _: () = assert!(RESERVE_BYTES_MIN.is_power_of_two() && RESERVE_BYTES_MAX.is_power_of_two());
/// Distance of the points of the sparse index.
const POINT_BYTES: u64 = 4096;

/// The log of one group, cheap to clone. One task appends and truncates (openraft's core), readers are free.
#[derive(Debug, Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Env,
    writer: Writer,
    dir: PathBuf,
    settings: LogSettings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    segments: Vec<Segment>,
    last: Option<LogPosition>,
    next_offset: i64,
    /// Epoch and the offset where it begins, both ascending.
    epochs: Vec<(i32, i64)>,
    last_append_time_us: i64,
    closed_us: i64,
    tail: VecDeque<LogEntry>,
    tail_bytes: usize,
    /// First index not known to be durable.
    flushed_next: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: Arc<dyn File>,
    base_index: u64,
    base_offset: i64,
    /// Where the next frame goes.
    end: u64,
    /// Size of the file; what lies behind `end` is zeros.
    reserved: u64,
    points: Vec<Point>,
}

/// The size of a segment's file that holds `end` bytes.
fn reservation(end: u64, segment_bytes: u64) -> u64 {
    let stepped =
        if end <= RESERVE_BYTES_MAX { end.next_power_of_two().max(RESERVE_BYTES_MIN) } else { end.next_multiple_of(RESERVE_BYTES_MAX) };
    stepped.min(segment_bytes.max(end))
}

/// One entry of the sparse index.
#[derive(Debug, Clone, Copy)]
struct Point {
    index: u64,
    /// Next offset at this frame: the base offset of the first batch at or behind it.
    offset: i64,
    position: u64,
    /// Greatest record timestamp from here to the next point.
    max_timestamp_ms: i64,
}

impl State {
    fn next_index(&self) -> u64 {
        self.last.map_or_else(|| self.segments.first().map_or(0, |segment| segment.base_index), |last| last.index + 1)
    }

    /// Accounts for one frame at the end of the last segment.
    fn note(&mut self, head: &EntryHead, frame_bytes: u64) {
        let next_offset = self.next_offset;
        if let Some(segment) = self.segments.last_mut() {
            if segment.points.last().is_none_or(|point| segment.end >= point.position + POINT_BYTES) {
                segment.points.push(Point { index: head.index, offset: next_offset, position: segment.end, max_timestamp_ms: i64::MIN });
            }
            if let (Some(point), Some(batch)) = (segment.points.last_mut(), head.batch) {
                point.max_timestamp_ms = point.max_timestamp_ms.max(batch.max_timestamp_ms);
            }
            segment.end += frame_bytes;
        }
        if let Some(batch) = head.batch {
            if self.epochs.last().is_none_or(|&(epoch, _)| batch.leader_epoch > epoch) {
                self.epochs.push((batch.leader_epoch, batch.base_offset));
            }
            self.next_offset = batch.base_offset + i64::from(batch.last_offset_delta) + 1;
        }
        self.last = Some(LogPosition { term: head.term, index: head.index });
        self.last_append_time_us = self.last_append_time_us.max(head.append_time_us);
    }

    fn evict(&mut self) {
        while self.tail_bytes > TAIL_CACHE_BYTES && self.tail.front().is_some_and(|entry| entry.index < self.flushed_next) {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |entry| entry.payload.len() + FRAME_HEADER_BYTES);
        }
    }
}

fn head_of(entry: &LogEntry) -> EntryHead {
    EntryHead {
        kind: entry.kind,
        term: entry.term,
        index: entry.index,
        append_time_us: entry.append_time_us,
        batch: is_batch(entry.kind).then(|| BatchHeader::decode(&entry.payload)).flatten(),
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_exact(file: &dyn File, buffer: &mut [u8], position: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], position + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

/// Reads one frame: its head, its bytes on disk, and unless `head_only` its payload (verified).
fn read_frame(file: &dyn File, position: u64, head_only: bool) -> io::Result<(LogEntry, u64)> {
    let mut header = [0; FRAME_HEADER_BYTES];
    read_exact(file, &mut header, position)?;
    let header = decode_frame(&header).ok_or_else(|| damaged("frame header"))?;
    let wanted = if !head_only {
        header.length
    } else if is_batch(header.kind) {
        header.length.min(HEADER_BYTES)
    } else {
        0
    };
    let mut payload = vec![0; wanted];
    read_exact(file, &mut payload, position + FRAME_HEADER_BYTES as u64)?;
    if !head_only && !header.payload_is_sound(&payload) {
        return Err(damaged("frame payload"));
    }
    let FrameHeader { kind, term, index, append_time_us, length, .. } = header;
    Ok((LogEntry { kind, term, index, append_time_us, payload: payload.into() }, (FRAME_HEADER_BYTES + length) as u64))
}

impl Log {
    /// Recovers the log in `dir`: headers of sealed segments, every checksum of the last one; a torn tail is cut.
    pub fn open(env: &Env, writer: &Writer, dir: &Path, settings: LogSettings) -> Result<Log, LogError> {
        // Its name is made durable with the first file in it.
        env.disk.create_dir_all(dir)?;
        let mut state = State::default();
        let paths: Vec<PathBuf> = env.disk.list(dir)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
        for (i, path) in paths.iter().enumerate() {
            recovery::recover(env, &mut state, path, settings.group, i + 1 == paths.len())?;
        }
        state.flushed_next = state.next_index();
        let inner = Inner { env: env.clone(), writer: writer.clone(), dir: dir.to_owned(), settings, state: Mutex::new(state) };
        Ok(Log { inner: Arc::new(inner) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `first index held .. next index`.
    pub fn indexes(&self) -> Range<u64> {
        let state = self.state();
        state.segments.first().map_or(0, |segment| segment.base_index)..state.next_index()
    }

    pub fn last(&self) -> Option<LogPosition> {
        self.state().last
    }

    /// Stamps and queues entries; they can be read at once. `flushed` is called by the writer, in order, once they are durable.
    pub fn append(&self, entries: Vec<LogEntry>, flushed: Flushed) -> io::Result<()> {
        let mut state = self.state();
        let mut flushed = Some(flushed);
        let mut run: Option<(Arc<dyn File>, u64, Vec<Bytes>)> = None;
        for mut entry in entries {
            if state.last.is_some_and(|last| entry.index != last.index + 1) || entry.payload.len() > PAYLOAD_BYTES_MAX {
                return Err(damaged("entry does not continue the log, or is too long"));
            }
            self.stamp(&state, &mut entry)?;
            if state.segments.last().is_none_or(|segment| segment.end >= self.inner.settings.segment_bytes) {
                if let Some((file, offset, parts)) = run.take() {
                    self.inner.writer.queue(Job::Write { file, offset, parts, done: Box::new(|_| ()) })?;
                }
                self.roll(&mut state, entry.index)?;
            }
            let header = encode_frame(&entry);
            if let Some(segment) = state.segments.last_mut() {
                let end = segment.end + (FRAME_HEADER_BYTES + entry.payload.len()) as u64;
                if end > segment.reserved {
                    segment.reserved = reservation(end, self.inner.settings.segment_bytes);
                    self.inner.writer.queue(Job::Reserve { file: segment.file.clone(), bytes: segment.reserved })?;
                }
                let (_, _, parts) = run.get_or_insert_with(|| (segment.file.clone(), segment.end, Vec::new()));
                parts.extend([header, entry.payload.clone()]);
            }
            let bytes = FRAME_HEADER_BYTES + entry.payload.len();
            state.note(&head_of(&entry), bytes as u64);
            state.tail_bytes += bytes;
            state.tail.push_back(entry);
        }
        let next = state.next_index();
        let log = self.clone();
        let done: Flushed = Box::new(move |result| {
            if result.is_ok() {
                let mut state = log.state();
                state.flushed_next = state.flushed_next.max(next.min(state.next_index()));
                state.evict();
            }
            if let Some(flushed) = flushed.take() {
                flushed(result);
            }
        });
        match run {
            Some((file, offset, parts)) => self.inner.writer.queue(Job::Write { file, offset, parts, done }),
            None => self.inner.writer.queue(Job::Task { task: Box::new(|| Ok(())), done }),
        }
    }

    fn stamp(&self, state: &State, entry: &mut LogEntry) -> io::Result<()> {
        if entry.append_time_us == 0 {
            let floor = state.last_append_time_us.max(state.closed_us).saturating_add(1);
            entry.append_time_us = self.inner.env.clock.wall_us().max(floor);
        }
        if !is_batch(entry.kind) {
            return Ok(());
        }
        let header = *Batch::from_stored(entry.payload.clone()).map_err(io::Error::other)?.header();
        if header.last_offset_delta < 0 || state.next_offset.checked_add(i64::from(header.last_offset_delta) + 1).is_none() {
            return Err(damaged("batch offsets"));
        }
        if entry.kind == FrameKind::Mirrored {
            // An earlier batch of the same mirror was refused after this one was proposed. Whoever proposed them learns it from the blank.
            if header.base_offset != state.next_offset {
                (entry.kind, entry.payload) = (FrameKind::Blank, Bytes::new());
            }
            return Ok(());
        }
        let epoch = i32::try_from(entry.term).map_err(io::Error::other)?;
        if (header.base_offset, header.leader_epoch) != (state.next_offset, epoch) {
            let payload = std::mem::take(&mut entry.payload);
            let mut bytes = payload.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            crate::batch::stamp(&mut bytes, state.next_offset, epoch);
            entry.payload = bytes.freeze();
        }
        Ok(())
    }

    fn roll(&self, state: &mut State, base_index: u64) -> io::Result<()> {
        let Inner { env, dir, settings, .. } = &*self.inner;
        let path = dir.join(format!("{base_index:020}.log"));
        let file = env.disk.open(&path, true)?;
        let header = encode_segment(settings.group, base_index, state.next_offset);
        let (base_offset, end) = (state.next_offset, SEGMENT_HEADER_BYTES as u64);
        let reserved = reservation(end, settings.segment_bytes);
        let (is_first, task_file) = (state.segments.is_empty(), file.clone());
        let prepare = move || {
            task_file.set_len(0)?;
            task_file.allocate(reserved)?;
            task_file.write_all_at(&[IoSlice::new(&header)], 0)
        };
        if is_first {
            let folders = [dir.clone(), dir.parent().unwrap_or(dir).to_owned()];
            self.inner.writer.queue(Job::Create { task: Box::new(prepare), file: file.clone(), folders })?;
        } else {
            let (disk, dir, task_file) = (env.disk.clone(), dir.clone(), file.clone());
            let task: Task = Box::new(move || {
                prepare()?;
                task_file.sync()?;
                disk.sync_dir(&dir)
            });
            self.inner.writer.queue(Job::Task { task, done: Box::new(|_| ()) })?;
        }
        state.segments.push(Segment { path, file, base_index, base_offset, end, reserved, points: Vec::new() });
        Ok(())
    }

    /// Drops every entry behind `index` (None: all). Durable once resolved; ordered behind appends already queued.
    pub fn truncate_after(&self, index: Option<u64>) -> BoxFuture<'static, io::Result<()>> {
        let queued = self.cut(index);
        async move { queued?.await.map_err(|_| io::Error::other("the writer has stopped"))? }.boxed()
    }

    fn cut(&self, index: Option<u64>) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (sender, outcome) = oneshot::channel();
        let keep = index.map_or(0, |index| index.saturating_add(1));
        // Read before the state is touched: the frame that becomes the last one, and those from its index point on.
        let heads = match index.filter(|index| self.indexes().contains(index)) {
            Some(index) => self.heads(index..index + 1)?,
            None => Vec::new(),
        };
        let mut guard = self.state();
        let state = &mut *guard;
        let mut removed = Vec::new();
        let mut cut = None;
        if keep < state.next_index() {
            while let Some(segment) = state.segments.pop_if(|segment| segment.base_index >= keep) {
                state.next_offset = segment.base_offset;
                removed.push(segment.path);
            }
            if let Some(segment) = state.segments.last_mut()
                && keep <= state.last.map_or(0, |last| last.index)
            {
                let from = segment.points.iter().rposition(|point| point.index < keep).map_or(0, |i| i);
                let point = segment.points[from];
                let (file, mut position) = (segment.file.clone(), point.position);
                let end = segment.end;
                segment.points.truncate(from);
                segment.end = position;
                state.next_offset = point.offset;
                let mut kept = Vec::new();
                let cached: BTreeMap<u64, LogEntry> = state.tail.iter().map(|entry| (entry.index, entry.clone())).collect();
                let mut at = point.index;
                while at < keep && position < end {
                    let (entry, bytes) = match cached.get(&at) {
                        Some(entry) => (entry.clone(), (FRAME_HEADER_BYTES + entry.payload.len()) as u64),
                        None => read_frame(&*file, position, true)?,
                    };
                    kept.push((head_of(&entry), bytes));
                    position += bytes;
                    at += 1;
                }
                for (head, bytes) in kept {
                    state.note(&head, bytes);
                }
                let reserved = reservation(position, self.inner.settings.segment_bytes);
                if let Some(segment) = state.segments.last_mut() {
                    segment.reserved = reserved;
                }
                cut = Some((file, position, reserved));
            }
            let next_offset = state.next_offset;
            state.epochs.retain(|&(_, start)| start < next_offset);
            state.last = heads.first().map(|head| LogPosition { term: head.term, index: head.index });
            state.last_append_time_us = heads.first().map_or(0, |head| head.append_time_us);
            while let Some(entry) = state.tail.pop_back_if(|entry| entry.index >= keep) {
                state.tail_bytes -= entry.payload.len() + FRAME_HEADER_BYTES;
            }
            state.flushed_next = state.flushed_next.min(keep);
        }
        let Inner { env, dir, .. } = &*self.inner;
        let (disk, dir) = (env.disk.clone(), dir.clone());
        let task: Task = Box::new(move || {
            // Last segment first, so that a crash in between leaves a prefix.
            for path in &removed {
                disk.remove_file(path)?;
                disk.sync_dir(&dir)?;
            }
            if let Some((file, end, reserved)) = cut {
                // Shortened, then reserved anew: the old frames must read as zeros, or recovery would take them for entries.
                file.set_len(end)?;
                file.allocate(reserved)?;
                file.sync()?;
            }
            Ok(())
        });
        let done: Flushed = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.inner.writer.queue(Job::Task { task, done })?;
        Ok(outcome)
    }

    /// Stamped entries, at most `bytes_max` in all but at least one where the range holds any.
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let mut bytes = 0usize;
        self.scan(range, false, |entry| {
            bytes = bytes.saturating_add(entry.payload.len());
            bytes <= bytes_max
        })
    }

    /// Heads only; of batches on disk nothing beyond the header is read.
    pub fn heads(&self, range: Range<u64>) -> io::Result<Vec<EntryHead>> {
        Ok(self.scan(range, true, |_| true)?.iter().map(head_of).collect())
    }

    /// Entries of `range` in order; ends early (the first entry excepted) where `more` says so.
    fn scan(&self, range: Range<u64>, head_only: bool, mut more: impl FnMut(&LogEntry) -> bool) -> io::Result<Vec<LogEntry>> {
        let held = self.indexes();
        let mut next = range.start.max(held.start);
        let end = range.end.min(held.end);
        let mut found: Vec<LogEntry> = Vec::new();
        let mut place: Option<(Arc<dyn File>, u64, u64)> = None;
        while next < end {
            let cached = {
                let state = self.state();
                let first = state.tail.front().map_or(u64::MAX, |entry| entry.index);
                let cached = next.checked_sub(first).and_then(|i| state.tail.get(i as usize).cloned());
                if cached.is_none() && place.as_ref().is_none_or(|(_, _, until)| next >= *until) {
                    let i = state.segments.partition_point(|segment| segment.base_index <= next);
                    let Some(segment) = i.checked_sub(1).and_then(|i| state.segments.get(i)) else { break };
                    let until = state.segments.get(i).map_or(u64::MAX, |segment| segment.base_index);
                    let p = segment.points.partition_point(|point| point.index <= next);
                    let Some(point) = p.checked_sub(1).and_then(|p| segment.points.get(p)) else { break };
                    place = Some((segment.file.clone(), point.position, until));
                }
                cached
            };
            let entry = match (cached, &mut place) {
                (Some(entry), _) => entry,
                (None, Some((file, position, _))) => loop {
                    let (entry, bytes) = read_frame(&**file, *position, true)?;
                    let at = *position;
                    *position += bytes;
                    if entry.index == next {
                        break if head_only { entry } else { read_frame(&**file, at, false)?.0 };
                    }
                    if entry.index > next {
                        return Err(damaged("frame out of order"));
                    }
                },
                (None, None) => break,
            };
            if !more(&entry) && !found.is_empty() {
                break;
            }
            next += 1;
            found.push(entry);
        }
        Ok(found)
    }

    pub fn next_offset(&self) -> i64 {
        self.state().next_offset
    }

    pub fn start_offset(&self) -> i64 {
        self.state().segments.first().map_or(0, |segment| segment.base_offset)
    }

    /// Index of a frame at or before the batch that holds `offset`.
    fn index_near(&self, offset: i64) -> u64 {
        let state = self.state();
        // A point whose offset equals `offset` may stand behind frames without offsets, never behind the batch itself.
        let i = state.segments.partition_point(|segment| segment.base_offset <= offset);
        let Some(segment) = i.checked_sub(1).and_then(|i| state.segments.get(i)) else { return 0 };
        let p = segment.points.partition_point(|point| point.offset <= offset);
        p.checked_sub(1).and_then(|p| segment.points.get(p)).map_or(segment.base_index, |point| point.index)
    }

    /// Whole batches from the one that holds `offset` on, as long as they begin before `end_offset`; the first is whole whatever its size.
    pub fn read_batches(&self, offset: i64, end_offset: i64, bytes_max: usize) -> io::Result<Vec<StoredBatch>> {
        let mut found = Vec::new();
        let mut bytes = 0usize;
        for entry in self.scan(self.index_near(offset)..u64::MAX, false, |entry| {
            let batch = head_of(entry).batch;
            let wanted = batch.filter(|batch| batch.base_offset + i64::from(batch.last_offset_delta) >= offset);
            bytes = bytes.saturating_add(wanted.map_or(0, |_| entry.payload.len()));
            bytes <= bytes_max || bytes == wanted.map_or(0, |_| entry.payload.len())
        })? {
            let Some(batch) = head_of(&entry).batch else { continue };
            if batch.base_offset >= end_offset {
                break;
            }
            if batch.base_offset + i64::from(batch.last_offset_delta) >= offset {
                found.push(StoredBatch { append_time_us: entry.append_time_us, bytes: entry.payload });
            }
        }
        Ok(found)
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
