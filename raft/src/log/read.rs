//! Entries by index and batches by offset, from memory or from the files.

use std::io;
use std::ops::Range;

use super::frames::Frames;
use super::segment::{damaged, head_of};
use super::{EntryHead, Log, LogEntry, StoredBatch};

/// Read at a time: heads stand apart, whole entries follow on each other.
const HEADS_CHUNK_BYTES: usize = 16 << 10;
const CHUNK_BYTES_MIN: usize = 64 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;
const SINGLE_CHUNK_BYTES: usize = 4 << 10;
/// Recent entries taken under one lock.
const RECENT_MAX: usize = 64;

/// Where a scan reads a file.
struct Place {
    frames: Frames,
    position: u64,
    /// The first index of the next segment.
    until: u64,
    /// Where it began.
    from: u64,
    /// The next frame is the one that is wanted; otherwise it has to be looked for.
    found: bool,
}

impl Place {
    /// The entry `next`, at the place or behind it; goes behind it.
    fn read(&mut self, next: u64, head_only: bool) -> io::Result<LogEntry> {
        loop {
            let at = self.position;
            let (entry, bytes) = self.frames.read(at, head_only || !self.found)?;
            if entry.index > next {
                return Err(damaged("frame out of order"));
            }
            if entry.index == next && !self.found {
                self.found = true;
                self.from = at;
                continue;
            }
            self.position = at + bytes;
            if entry.index == next {
                return Ok(entry);
            }
            self.found = false;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.frames.forget_far_behind(self.from, self.position);
    }
}

fn payload_bytes(entries: &[LogEntry]) -> u64 {
    entries.iter().map(|entry| entry.payload.len() as u64).sum()
}

impl Log {
    /// Stamped entries, at most `bytes_max` in all but at least one where the range holds any.
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let mut bytes = 0usize;
        self.scan(range, Some(bytes_max), |entry| {
            bytes = bytes.saturating_add(entry.payload.len());
            bytes <= bytes_max
        })
    }

    /// Heads only; of batches on disk nothing beyond the header is needed.
    pub fn heads(&self, range: Range<u64>) -> io::Result<Vec<EntryHead>> {
        Ok(self.scan(range, None, |_| true)?.iter().map(head_of).collect())
    }

    /// Entries of `range` in order, whole where about `bytes_max` of them are wanted, heads otherwise; ends early (the first entry excepted) where
    /// `more` says so.
    fn scan(&self, range: Range<u64>, bytes_max: Option<usize>, mut more: impl FnMut(&LogEntry) -> bool) -> io::Result<Vec<LogEntry>> {
        let held = self.indexes();
        let mut next = range.start.max(held.start);
        let end = range.end.min(held.end);
        let mut found: Vec<LogEntry> = Vec::new();
        let mut cuts = self.state().cuts;
        let mut place: Option<Place> = None;
        let chunk_bytes = match bytes_max {
            None => HEADS_CHUNK_BYTES,
            Some(_) if end.saturating_sub(next) == 1 => SINGLE_CHUNK_BYTES,
            Some(bytes_max) => bytes_max.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX),
        };
        let mut recent = 0;
        while next < end {
            let before = found.len();
            let enough = !self.take_recent(&mut next, end, &mut found, &mut more);
            recent += payload_bytes(&found[before..]);
            if enough || next >= end {
                break;
            }
            if place.as_ref().is_none_or(|place| next >= place.until) {
                place = self.place(next, chunk_bytes)?;
            }
            let Some(at) = &mut place else { break };
            let entry = match at.read(next, bytes_max.is_none()) {
                Ok(entry) => entry,
                // Cut by a new leader's word while it was read: nothing is wrong with the file, but the place may be another.
                Err(_) if self.state().cuts != cuts => {
                    (place, cuts) = (None, self.state().cuts);
                    if next >= self.indexes().end {
                        break;
                    }
                    continue;
                }
                Err(error) => {
                    self.note_damage(format!("entry {next} cannot be read: {error}"));
                    return Err(error);
                }
            };
            if !more(&entry) && !found.is_empty() {
                break;
            }
            next += 1;
            found.push(entry);
        }
        if bytes_max.is_some() {
            self.inner.memory.count_read(recent, payload_bytes(&found) - recent);
        }
        Ok(found)
    }

    /// Takes recent entries from `next` on; false where enough has been found.
    fn take_recent(&self, next: &mut u64, end: u64, found: &mut Vec<LogEntry>, more: &mut impl FnMut(&LogEntry) -> bool) -> bool {
        while *next < end {
            let state = self.state();
            for _ in 0..RECENT_MAX {
                let Some(entry) = state.tail.get(*next).filter(|_| *next < end) else { return true };
                if !more(entry) && !found.is_empty() {
                    return false;
                }
                *next += 1;
                found.push(entry.clone());
            }
        }
        true
    }

    /// Where the entry `next` is to be looked for on disk.
    fn place(&self, next: u64, chunk_bytes: usize) -> io::Result<Option<Place>> {
        let (base_index, until, end) = {
            let state = self.state();
            let behind = state.segments.partition_point(|segment| segment.base_index <= next);
            let Some(segment) = behind.checked_sub(1).and_then(|at| state.segments.get(at)) else { return Ok(None) };
            let until = state.segments.get(behind).map_or(u64::MAX, |segment| segment.base_index);
            (segment.base_index, until, segment.end)
        };
        let looked_up = self.with_index(base_index, |look| look.points.before(next).map(|point| (look.file.clone(), point.position)))?;
        let place = looked_up.flatten().map(|(file, position)| {
            let frames = Frames::new(file, chunk_bytes, end);
            Place { frames, position, until, from: position, found: false }
        });
        Ok(place)
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

    /// Index of the batch that holds `offset`, or of a frame shortly before it.
    fn index_of(&self, offset: i64) -> io::Result<u64> {
        let recent = self.state().tail.index_near(offset);
        if let Some(index) = recent {
            return Ok(index);
        }
        let from = self.point_near(offset)?;
        let mut holder = None;
        self.scan(from..u64::MAX, None, |entry| {
            let holds = head_of(entry).batch.is_some_and(|batch| batch.base_offset + i64::from(batch.last_offset_delta) >= offset);
            if holds {
                holder.get_or_insert(entry.index);
            }
            !holds
        })?;
        Ok(holder.unwrap_or(from))
    }

    /// Whole batches from the one that holds `offset` on, as long as they begin before `end_offset`; the first is whole whatever its size.
    pub fn read_batches(&self, offset: i64, end_offset: i64, bytes_max: usize) -> io::Result<Vec<StoredBatch>> {
        let mut found = Vec::new();
        let mut bytes = 0usize;
        for entry in self.scan(self.index_of(offset)?..u64::MAX, Some(bytes_max), |entry| {
            let batch = head_of(entry).batch;
            // What lies behind the end is not read, however little has been found.
            if batch.is_some_and(|batch| batch.base_offset >= end_offset) {
                return false;
            }
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
}
