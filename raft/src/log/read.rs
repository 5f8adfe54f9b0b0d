//! Entries by index and batches by offset, from memory or from the files.

use std::io;
use std::ops::Range;

use super::chunks::CHUNK_BYTES;
use super::frame::FrameHeader;
use super::frames::{Frames, Shared};
use super::segment::{damaged, head_of};
use super::state::Trail;
use super::{EntryHead, Log, LogEntry, StoredBatch};

/// Read at a time: heads stand apart, whole entries follow on each other.
const HEADS_CHUNK_BYTES: usize = 16 << 10;
const CHUNK_BYTES_MIN: usize = 64 << 10;
const SINGLE_CHUNK_BYTES: usize = 4 << 10;
/// Recent entries taken under one lock.
const RECENT_MAX: usize = 64;

/// How a scan reads what is not in memory.
#[derive(Debug, Clone, Copy)]
enum Stride {
    Short(usize),
    /// From here somebody reads on: what is read beyond what he asks for now (so many bytes) is kept for him.
    Long(usize),
}

/// Where a scan reads a file.
struct Place {
    frames: Frames,
    base_index: u64,
    /// The first index of the next segment.
    until: u64,
    cuts: u64,
    /// Where a frame stands that is the next one, or before it.
    position: u64,
    /// The first frame that was looked for, for what is to be forgotten behind it.
    from: Option<u64>,
}

impl Place {
    /// Goes to the frame of entry `next`.
    fn find(&mut self, next: u64) -> io::Result<(FrameHeader, LogEntry)> {
        loop {
            let (header, entry) = self.frames.head(self.position)?;
            if entry.index == next {
                self.from.get_or_insert(self.position);
                return Ok((header, entry));
            }
            if entry.index > next {
                return Err(damaged("frame out of order"));
            }
            self.position += header.frame_bytes();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.frames.forget_far_behind(self.from.unwrap_or(self.position), self.position);
    }
}

fn payload_bytes(entries: &[LogEntry]) -> u64 {
    entries.iter().map(|entry| entry.payload.len() as u64).sum()
}

impl Log {
    /// Stamped entries, at most `bytes_max` in all but at least one where the range holds any.
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let mut bytes = 0usize;
        let alone = range.end.saturating_sub(range.start) == 1;
        let stride = if alone { Stride::Short(SINGLE_CHUNK_BYTES) } else { Stride::Long(bytes_max) };
        let found = self.scan(range, stride, true, |_, payload_bytes| {
            bytes = bytes.saturating_add(payload_bytes);
            bytes <= bytes_max
        })?;
        Ok(found)
    }

    /// Heads only; of batches on disk nothing beyond the header is needed.
    pub fn heads(&self, range: Range<u64>) -> io::Result<Vec<EntryHead>> {
        let found = self.scan(range, Stride::Short(HEADS_CHUNK_BYTES), false, |_, _| true)?;
        Ok(found.iter().map(head_of).collect())
    }

    /// Entries of `range` in order, `whole` or their heads; ends early (the first entry excepted) where `more` says so of an entry and the bytes of
    /// its payload.
    fn scan(
        &self,
        range: Range<u64>,
        stride: Stride,
        whole: bool,
        mut more: impl FnMut(&EntryHead, usize) -> bool,
    ) -> io::Result<Vec<LogEntry>> {
        let held = self.indexes();
        let mut next = range.start.max(held.start);
        let end = range.end.min(held.end);
        let mut found: Vec<LogEntry> = Vec::new();
        let mut cuts = self.state().cuts;
        let mut place: Option<Place> = None;
        let mut recent = 0;
        while next < end {
            let before = found.len();
            let enough = !self.take_recent(&mut next, end, &mut found, &mut more);
            recent += payload_bytes(&found[before..]);
            if enough || next >= end {
                break;
            }
            if place.as_ref().is_none_or(|place| next >= place.until) {
                place = self.place(next, stride)?;
            }
            let Some(at) = &mut place else { break };
            let read = at.find(next).and_then(|(header, head)| {
                if !more(&head_of(&head), header.length) && !found.is_empty() {
                    return Ok(None);
                }
                let entry = if whole { at.frames.whole(at.position, &header)? } else { head };
                at.position += header.frame_bytes();
                Ok(Some(entry))
            });
            match read {
                Ok(Some(entry)) => {
                    next += 1;
                    found.push(entry);
                }
                Ok(None) => break,
                // Cut by a new leader's word while it was read: nothing is wrong with the file, but the place may be another.
                Err(_) if self.state().cuts != cuts => {
                    (place, cuts) = (None, self.state().cuts);
                    if next >= self.indexes().end {
                        break;
                    }
                }
                Err(error) => {
                    self.note_damage(format!("entry {next} cannot be read: {error}"));
                    return Err(error);
                }
            }
        }
        if let (Some(place), Stride::Long(_)) = (&place, stride) {
            self.leave_trail(place, next, found.last());
        }
        // Of heads, what memory has of them costs nothing.
        self.inner.memory.count_read(if whole { recent } else { 0 }, payload_bytes(&found) - recent);
        Ok(found)
    }

    /// Takes recent entries from `next` on; false where enough has been found.
    fn take_recent(&self, next: &mut u64, end: u64, found: &mut Vec<LogEntry>, more: &mut impl FnMut(&EntryHead, usize) -> bool) -> bool {
        while *next < end {
            let state = self.state();
            for _ in 0..RECENT_MAX {
                let Some(entry) = state.tail.get(*next).filter(|_| *next < end) else { return true };
                if !more(&head_of(entry), entry.payload.len()) && !found.is_empty() {
                    return false;
                }
                *next += 1;
                found.push(entry.clone());
            }
        }
        true
    }

    /// Where the entry `next` is to be looked for on disk.
    fn place(&self, next: u64, stride: Stride) -> io::Result<Option<Place>> {
        let (base_index, until, end, cuts, trail) = {
            let state = self.state();
            let behind = state.segments.partition_point(|segment| segment.base_index <= next);
            let Some(segment) = behind.checked_sub(1).and_then(|at| state.segments.get(at)) else { return Ok(None) };
            let until = state.segments.get(behind).map_or(u64::MAX, |segment| segment.base_index);
            let trail = state.trails.iter().find(|trail| (trail.index, trail.base_index) == (next, segment.base_index));
            (segment.base_index, until, segment.end, state.cuts, trail.map(|trail| trail.position))
        };
        let looked_up = self.with_index(base_index, |look| {
            let position = trail.or_else(|| look.points.before(next).map(|point| point.position));
            position.map(|position| (look.file.clone(), position))
        })?;
        let Some((file, position)) = looked_up.flatten() else { return Ok(None) };
        let (chunk_bytes, shared) = match stride {
            Stride::Short(bytes) => (bytes, None),
            // Who has come this way once reads on.
            Stride::Long(bytes) => {
                let bytes = if trail.is_some() { CHUNK_BYTES } else { bytes.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES) };
                (bytes, Some(Shared { log: self.clone(), base_index, cuts }))
            }
        };
        let frames = Frames::new(file, chunk_bytes, end).shared(shared);
        Ok(Some(Place { frames, base_index, until, cuts, position, from: None }))
    }

    /// Remembers where a scan came to a halt, before the entry `next`.
    fn leave_trail(&self, place: &Place, next: u64, last: Option<&LogEntry>) {
        let batch = last.filter(|last| last.index + 1 == next).and_then(|last| head_of(last).batch);
        let offset = batch.map(|batch| batch.base_offset + i64::from(batch.last_offset_delta) + 1);
        let mut state = self.state();
        if next < place.until && state.cuts == place.cuts {
            state.leave_trail(Trail { index: next, offset, base_index: place.base_index, position: place.position });
        }
    }

    /// Index of a point of the index at or before the batch that holds `offset`.
    pub(super) fn point_near(&self, offset: i64) -> io::Result<u64> {
        let base_index = {
            let state = self.state();
            let behind = state.segments.partition_point(|segment| segment.base_offset <= offset);
            let Some(segment) = behind.checked_sub(1).and_then(|at| state.segments.get(at)) else { return Ok(0) };
            segment.base_index
        };
        let point = self.with_index(base_index, |look| look.points.before_offset(offset))?;
        Ok(point.flatten().map_or(base_index, |point| point.index))
    }

    /// Whether memory holds the batch at `offset`, so that nobody waits for the disk who reads there.
    pub fn is_recent(&self, offset: i64) -> bool {
        self.state().tail.index_near(offset).is_some()
    }

    /// Index of the batch that holds `offset`, or of a frame shortly before it; `bytes_max` are to be read from there.
    fn index_of(&self, offset: i64, bytes_max: usize) -> io::Result<u64> {
        let known = {
            let state = self.state();
            let trail = state.trails.iter().find(|trail| trail.offset == Some(offset));
            state.tail.index_near(offset).or(trail.map(|trail| trail.index))
        };
        if let Some(index) = known {
            return Ok(index);
        }
        let from = self.point_near(offset)?;
        let mut holder = None;
        self.scan(from..u64::MAX, Stride::Long(bytes_max), false, |head, _| {
            let holds = head.batch.is_some_and(|batch| batch.base_offset + i64::from(batch.last_offset_delta) >= offset);
            if holds {
                holder.get_or_insert(head.index);
            }
            !holds
        })?;
        Ok(holder.unwrap_or(from))
    }

    /// Whole batches from the one that holds `offset` on, as long as they begin before `end_offset`; the first is whole whatever its size.
    pub fn read_batches(&self, offset: i64, end_offset: i64, bytes_max: usize) -> io::Result<Vec<StoredBatch>> {
        let mut found = Vec::new();
        let mut bytes = 0usize;
        let from = self.index_of(offset, bytes_max)?;
        for entry in self.scan(from..u64::MAX, Stride::Long(bytes_max), true, |head, payload_bytes| {
            // What lies behind the end is not read, however little has been found.
            if head.batch.is_some_and(|batch| batch.base_offset >= end_offset) {
                return false;
            }
            let wanted = head.batch.filter(|batch| batch.base_offset + i64::from(batch.last_offset_delta) >= offset);
            let wanted_bytes = wanted.map_or(0, |_| payload_bytes);
            bytes = bytes.saturating_add(wanted_bytes);
            bytes <= bytes_max || bytes == wanted_bytes
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
}
