//! Entries by index and batches by offset, from memory or from the files.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::segment::{damaged, head_of, read_frame};
use super::stretch::Stretch;
use super::{EntryHead, Log, LogEntry, StoredBatch};
use crate::env::File;

/// How much of each entry is wanted.
enum Wanted {
    Heads,
    /// All of it, for about so many bytes in all.
    Whole(usize),
}

/// Where the files are read on.
enum Place {
    Heads { file: Arc<dyn File>, position: u64 },
    Whole(Stretch),
}

impl Place {
    /// The entry `next`, which stands here or further on.
    fn seek(&mut self, next: u64) -> io::Result<LogEntry> {
        let (file, position) = match self {
            Place::Whole(stretch) => return stretch.seek(next),
            Place::Heads { file, position } => (file, position),
        };
        loop {
            let (entry, bytes) = read_frame(&**file, *position, true)?;
            *position += bytes;
            if entry.index == next {
                return Ok(entry);
            }
            if entry.index > next {
                return Err(damaged("frame out of order"));
            }
        }
    }
}

impl Log {
    /// Stamped entries, at most `bytes_max` in all but at least one where the range holds any.
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let mut bytes = 0usize;
        self.scan(range, Wanted::Whole(bytes_max), |entry| {
            bytes = bytes.saturating_add(entry.payload.len());
            bytes <= bytes_max
        })
    }

    /// Heads only; of batches on disk nothing beyond the header is read.
    pub fn heads(&self, range: Range<u64>) -> io::Result<Vec<EntryHead>> {
        Ok(self.scan(range, Wanted::Heads, |_| true)?.iter().map(head_of).collect())
    }

    /// Entries of `range` in order; ends early (the first entry excepted) where `more` says so.
    fn scan(&self, range: Range<u64>, wanted: Wanted, mut more: impl FnMut(&LogEntry) -> bool) -> io::Result<Vec<LogEntry>> {
        let held = self.indexes();
        let mut next = range.start.max(held.start);
        let end = range.end.min(held.end);
        let mut found: Vec<LogEntry> = Vec::new();
        let mut cuts = self.state().cuts;
        let mut place: Option<(Place, u64)> = None;
        while next < end {
            let cached = {
                let state = self.state();
                if state.cuts != cuts {
                    // What was read ahead may have been taken back.
                    (place, cuts) = (None, state.cuts);
                    if next >= state.next_index() {
                        break;
                    }
                }
                let first = state.tail.front().map_or(u64::MAX, |entry| entry.index);
                let cached = next.checked_sub(first).and_then(|i| state.tail.get(i as usize).cloned());
                if cached.is_none() && place.as_ref().is_none_or(|(_, until)| next >= *until) {
                    let i = state.segments.partition_point(|segment| segment.base_index <= next);
                    let Some(segment) = i.checked_sub(1).and_then(|i| state.segments.get(i)) else { break };
                    let until = state.segments.get(i).map_or(u64::MAX, |segment| segment.base_index);
                    let p = segment.points.partition_point(|point| point.index <= next);
                    let Some(point) = p.checked_sub(1).and_then(|p| segment.points.get(p)) else { break };
                    let (file, position) = (segment.file.clone(), point.position);
                    place = Some(match wanted {
                        Wanted::Heads => (Place::Heads { file, position }, until),
                        // What is not durable yet may be read ahead before it is written: behind it the place is looked up again.
                        Wanted::Whole(bytes) => {
                            let durable = state.flushed_next.max(next + 1);
                            (Place::Whole(Stretch::new(file, position, segment.end, bytes)), until.min(durable))
                        }
                    });
                }
                cached
            };
            let entry = match (cached, &mut place) {
                (Some(entry), _) => entry,
                (None, Some((from, _))) => match from.seek(next) {
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

    /// Index of a frame at or before the batch that holds `offset`.
    pub(super) fn index_near(&self, offset: i64) -> u64 {
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
        for entry in self.scan(self.index_near(offset)..u64::MAX, Wanted::Whole(bytes_max), |entry| {
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
}
