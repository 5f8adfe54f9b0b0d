//! New entries: stamped with offset, epoch and time, written behind the last, in a new segment where the old one is full.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::frame::{FRAME_HEADER_BYTES, PAYLOAD_BYTES_MAX, SEGMENT_HEADER_BYTES, encode_frame, encode_segment, is_batch};
use super::retention::start_offset_of;
use super::segment::{Segment, damaged, head_of, reservation};
use super::state::State;
use super::{Flushed, FrameKind, Inner, Log, LogEntry};
use crate::batch::Batch;
use crate::env::File;
use crate::writer::{Job, Task};

impl Log {
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
            // Nothing before such a point is read any more: in a segment of its own it lets go of all of it.
            let covers = start_offset_of(&entry).is_some_and(|start| start >= state.next_offset);
            let lets_go = covers && state.segments.last().is_some_and(|segment| !segment.points.is_empty());
            if lets_go || state.is_due(entry.append_time_us) {
                if let Some((file, offset, parts)) = run.take() {
                    self.inner.writer.queue(Job::Write { file, offset, parts, done: Box::new(|_| ()) })?;
                }
                self.roll(&mut state, entry.index)?;
            }
            let header = encode_frame(&entry);
            let segment_bytes = state.rolling.segment_bytes;
            if let Some(segment) = state.segments.last_mut() {
                let end = segment.end + (FRAME_HEADER_BYTES + entry.payload.len()) as u64;
                if end > segment.reserved {
                    segment.reserved = reservation(end, segment_bytes);
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
        let Inner { env, dir, group, .. } = &*self.inner;
        let path = dir.join(format!("{base_index:020}.log"));
        let file = env.disk.open(&path, true)?;
        let header = encode_segment(*group, base_index, state.next_offset);
        let (base_offset, end) = (state.next_offset, SEGMENT_HEADER_BYTES as u64);
        let reserved = reservation(end, state.rolling.segment_bytes);
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
        state.segments.push(Segment { path, file, base_index, base_offset, end, reserved, points: Vec::new(), first_append_time_us: None });
        Ok(())
    }
}
