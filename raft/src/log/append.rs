//! New entries: stamped with offset, epoch and time, written behind the last, in a new segment where the old one is full.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::frame::{FRAME_HEADER_BYTES, PAYLOAD_BYTES_MAX, encode_frame, encode_segment, is_batch};
use super::memory::Index;
use super::retention::start_offset_of;
use super::segment::{Open, Segment, damaged, head_of, reservation, segment_path, sidecar_path};
use super::state::State;
use super::{Flushed, FrameKind, Inner, Log, LogEntry, Rolling, index};
use crate::batch::Batch;
use crate::env::File;
use crate::writer::{Job, Task};

/// How much is written to a segment, at most, before its sidecar is brought up to date: no restart verifies much more.
const COVER_BYTES_MAX: u64 = 32 << 20;
/// And what part of a segment: of short ones less.
const COVER_PART: u64 = 4;

impl Log {
    /// Stamps and queues entries; they can be read at once. `flushed` is called by the writer, in order, once they are durable.
    pub fn append(&self, entries: Vec<LogEntry>, flushed: Flushed) -> io::Result<()> {
        let mut state = self.state();
        let mut flushed = Some(flushed);
        let mut run: Option<(Arc<dyn File>, u64, Vec<Bytes>)> = None;
        let payload_bytes = entries.iter().map(|entry| entry.payload.len()).sum();
        for mut entry in entries {
            if state.last.is_some_and(|last| entry.index != last.index + 1) || entry.payload.len() > PAYLOAD_BYTES_MAX {
                return Err(damaged("entry does not continue the log, or is too long"));
            }
            self.stamp(&state, &mut entry)?;
            // Nothing before such a point is read any more: in a segment of its own it lets go of all of it.
            let covers = start_offset_of(&entry).is_some_and(|start| start >= state.next_offset);
            let lets_go = covers && state.segments.last().is_some_and(|segment| segment.first_append_time_us.is_some());
            if lets_go || state.is_due(entry.append_time_us) {
                if let Some((file, offset, parts)) = run.take() {
                    self.inner.writer.queue(Job::Write { file, offset, parts, done: Box::new(|_| ()) })?;
                }
                self.roll(&mut state, entry.index)?;
            }
            let header = encode_frame(&entry);
            let segment_bytes = state.rolling.segment_bytes;
            if let Some(segment) = state.segments.last_mut()
                && let Some(open) = &segment.open
            {
                let end = segment.end + (FRAME_HEADER_BYTES + entry.payload.len()) as u64;
                if end > segment.reserved {
                    segment.reserved = reservation(end, segment_bytes);
                    self.inner.writer.queue(Job::Reserve { file: open.file.clone(), bytes: segment.reserved })?;
                }
                let (_, _, parts) = run.get_or_insert_with(|| (open.file.clone(), segment.end, Vec::new()));
                parts.extend([header, entry.payload.clone()]);
            }
            let (bytes, offset) = (FRAME_HEADER_BYTES + entry.payload.len(), state.next_offset);
            state.note(&head_of(&entry), bytes as u64);
            state.tail.push(entry, offset);
        }
        let (next, cuts) = (state.next_index(), state.cuts);
        let log = self.clone();
        let done: Flushed = Box::new(move |result| {
            if result.is_ok() {
                log.state().flushed(next, cuts);
            }
            if let Some(flushed) = flushed.take() {
                flushed(result);
            }
        });
        match run {
            Some((file, offset, parts)) => self.inner.writer.queue(Job::Write { file, offset, parts, done })?,
            None => self.inner.writer.queue(Job::Task { task: Box::new(|| Ok(())), done })?,
        }
        let uncovered = state.segments.last().and_then(|segment| Some(segment.end - segment.open.as_ref()?.covered));
        if uncovered.is_some_and(|bytes| bytes >= cover_bytes(state.rolling)) {
            self.queue_cover(&mut state)?;
        }
        drop(state);
        self.inner.memory.came(&self.inner, next, payload_bytes);
        self.inner.memory.trim();
        Ok(())
    }

    /// Brings the last segment's sidecar up to date, behind all that is queued: a restart verifies nothing before.
    pub fn cover(&self) -> io::Result<()> {
        self.queue_cover(&mut self.state())
    }

    pub(super) fn queue_cover(&self, state: &mut State) -> io::Result<()> {
        let Inner { env, dir, group, .. } = &*self.inner;
        let next_offset = state.next_offset;
        let Some(segment) = state.segments.last_mut() else { return Ok(()) };
        let Some(facts) = segment.facts(next_offset) else { return Ok(()) };
        let Some(open) = segment.open.as_mut().filter(|open| open.covered < facts.end) else { return Ok(()) };
        open.covered = facts.end;
        let Some(bytes) = index::encode(*group, &facts, &open.points) else { return Ok(()) };
        let (disk, dir, path) = (env.disk.clone(), dir.clone(), sidecar_path(dir, segment.base_index));
        let task: Task = Box::new(move || {
            index::write(&*disk, &path, &bytes)?;
            disk.sync_dir(&dir)
        });
        // Nothing is lost without it but time.
        self.inner.writer.queue(Job::Task { task: Box::new(move || forgiving_space(task())), done: Box::new(|_| ()) })
    }

    /// A restart that has no more to read than this takes no time worth saving.
    pub(crate) fn cover_bytes(&self) -> u64 {
        cover_bytes(self.state().rolling)
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
        let Inner { env, dir, group, .. } = &*self.inner;
        let file = env.disk.open(&segment_path(dir, base_index), true)?;
        let header = encode_segment(*group, base_index, state.next_offset);
        let base_offset = state.next_offset;
        let reserved = reservation(header.len() as u64, state.rolling.segment_bytes);
        let task_file = file.clone();
        let prepare = move || {
            task_file.set_len(0)?;
            task_file.allocate(reserved)?;
            task_file.write_all_at(&[IoSlice::new(&header)], 0)
        };
        if state.segments.is_empty() {
            let folders = [dir.clone(), dir.parent().unwrap_or(dir).to_owned()];
            self.inner.writer.queue(Job::Create { task: Box::new(prepare), file: file.clone(), folders })?;
        } else {
            let (disk, dir, task_file) = (env.disk.clone(), dir.clone(), file.clone());
            let (close, done) = self.closing(state);
            let task: Task = Box::new(move || {
                prepare()?;
                task_file.sync()?;
                close()?;
                disk.sync_dir(&dir)
            });
            self.inner.writer.queue(Job::Task { task, done })?;
        }
        state.segments.push(Segment::new(base_index, base_offset, reserved, file));
        Ok(())
    }

    /// What closing the last segment takes on disk, where all of it is durable by then, and what memory lets go of once that is done.
    fn closing(&self, state: &mut State) -> (Task, Flushed) {
        let Inner { env, dir, group, .. } = &*self.inner;
        let (next_offset, number) = (state.next_offset, state.closings + 1);
        state.closings = number;
        let nothing = || -> (Task, Flushed) { (Box::new(|| Ok(())), Box::new(|_| ())) };
        let Some(segment) = state.segments.last_mut() else { return nothing() };
        let facts = segment.facts(next_offset);
        let (Some(facts), Some(open)) = (facts, &mut segment.open) else { return nothing() };
        open.closing = Some(number);
        segment.reserved = segment.end;
        let (disk, file, end, base_index) = (env.disk.clone(), open.file.clone(), segment.end, segment.base_index);
        let (path, bytes) = (sidecar_path(dir, base_index), index::encode(*group, &facts, &open.points));
        let task: Task = Box::new(move || {
            // What was reserved and not needed.
            file.set_len(end)?;
            file.sync()?;
            bytes.map_or(Ok(()), |bytes| forgiving_space(index::write(&*disk, &path, &bytes)))
        });
        let log = self.clone();
        let done: Flushed = Box::new(move |result| {
            if result.is_ok() {
                log.closed(base_index, number);
            }
        });
        (task, done)
    }

    /// From now on the segment's index is read from its sidecar.
    fn closed(&self, base_index: u64, number: u64) {
        // Kept under the lock, so that whoever cuts the segment finds what is to be forgotten.
        let mut state = self.state();
        let Ok(at) = state.segments.binary_search_by_key(&base_index, |segment| segment.base_index) else { return };
        if let Some(open) = state.segments[at].open.take_if(|open| open.closing == Some(number)) {
            let Open { file, points, epochs, .. } = *open;
            self.inner.memory.keep_index(self.inner.number, base_index, Arc::new(Index { file, points, epochs }));
        }
    }
}

fn cover_bytes(rolling: Rolling) -> u64 {
    COVER_BYTES_MAX.min(rolling.segment_bytes / COVER_PART)
}

/// A sidecar that finds no room is no failure: a restart reads the segment instead.
fn forgiving_space(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
        written => written,
    }
}
