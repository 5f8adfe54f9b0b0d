//! Lookups by time and by leader epoch, over the sparse index and the batches themselves.

use std::io;
use std::ops::Range;

use super::sidecar::Look;
use super::{Log, OffsetAt};
use crate::batch::Batch;

impl Log {
    /// The first record at or after `timestamp_ms`: exact where records are not compressed, else the base of the batch that holds it.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64, end_offset: i64) -> io::Result<Option<OffsetAt>> {
        self.find_record(end_offset, timestamp_ms)
    }

    /// The record with the greatest timestamp, with the same limit for compressed batches.
    pub fn offset_of_max_timestamp(&self, end_offset: i64) -> io::Result<Option<OffsetAt>> {
        // The index knows what lies before the stretch where the committed end is; that stretch is looked through.
        let last = self.point_near(end_offset.saturating_sub(1))?;
        let first = self.point_near(self.start_offset())?;
        let mut greatest = self.max_timestamp_between(first, last)?;
        let mut from = Some(last);
        while let Some(stretch) = self.next_stretch(&mut from, i64::MIN)? {
            let heads = self.heads(stretch)?;
            for batch in heads.iter().filter_map(|head| head.batch) {
                if batch.base_offset >= end_offset {
                    return greatest.map_or(Ok(None), |timestamp_ms| self.find_record(end_offset, timestamp_ms));
                }
                greatest = greatest.max(Some(batch.max_timestamp_ms));
            }
        }
        greatest.map_or(Ok(None), |timestamp_ms| self.find_record(end_offset, timestamp_ms))
    }

    fn find_record(&self, end_offset: i64, timestamp_ms: i64) -> io::Result<Option<OffsetAt>> {
        let start_offset = self.start_offset();
        let mut from = Some(self.point_near(start_offset)?);
        while let Some(stretch) = self.next_stretch(&mut from, timestamp_ms)? {
            for head in self.heads(stretch)? {
                let Some(batch) = head.batch.filter(|batch| batch.max_timestamp_ms >= timestamp_ms) else { continue };
                if batch.base_offset + i64::from(batch.last_offset_delta) < start_offset {
                    continue;
                }
                if batch.base_offset >= end_offset {
                    return Ok(None);
                }
                let Some(entry) = self.entries(head.index..head.index + 1, usize::MAX)?.pop() else { return Ok(None) };
                let records = Batch::from_stored(entry.payload).map_err(io::Error::other)?.records();
                let (offset, timestamp_ms) = match &records {
                    None => (batch.base_offset.max(start_offset), batch.max_timestamp_ms),
                    Some(records) => {
                        match records.iter().find(|record| record.timestamp_ms >= timestamp_ms && record.offset >= start_offset) {
                            Some(record) => (record.offset, record.timestamp_ms),
                            // The client's header promised a later time than its records have.
                            None => continue,
                        }
                    }
                };
                return Ok(Some(OffsetAt { offset, timestamp_ms, leader_epoch: batch.leader_epoch }));
            }
        }
        Ok(None)
    }

    /// The greatest timestamp of the stretches that begin at `first` or later and before `last`, both points of the index.
    fn max_timestamp_between(&self, first: u64, last: u64) -> io::Result<Option<i64>> {
        let segments: Vec<(u64, u64, i64)> = {
            let state = self.state();
            let until = |at: usize| state.segments.get(at + 1).map_or(u64::MAX, |next| next.base_index);
            let segments = state.segments.iter().enumerate();
            segments.map(|(at, segment)| (segment.base_index, until(at), segment.max_timestamp_ms)).collect()
        };
        let mut greatest = i64::MIN;
        for (base_index, until, max_timestamp_ms) in segments {
            if until <= first || base_index >= last {
                continue;
            }
            let found = if base_index >= first && until <= last {
                Some(max_timestamp_ms)
            } else {
                let within = |look: Look<'_>| {
                    let points = look.points.iter().filter(|point| (first..last).contains(&point.index));
                    points.map(|point| point.max_timestamp_ms).max()
                };
                self.with_index(base_index, within)?.flatten()
            };
            greatest = greatest.max(found.unwrap_or(i64::MIN));
        }
        Ok(Some(greatest).filter(|timestamp_ms| *timestamp_ms != i64::MIN))
    }

    /// The next stretch of the log between two points of the index, from the point at `from` on, that holds a time at or after `timestamp_ms`: a
    /// little at a time, so that a lookup costs what it finds and not what lies behind it. Moves `from` behind it.
    fn next_stretch(&self, from: &mut Option<u64>, timestamp_ms: i64) -> io::Result<Option<Range<u64>>> {
        while let Some(begin) = *from {
            let (base_index, next_base, end) = {
                let state = self.state();
                let first = state.segments.partition_point(|segment| segment.base_index <= begin).saturating_sub(1);
                let mut candidates = state.segments.iter().enumerate().skip(first);
                let Some((at, segment)) = candidates.find(|(_, segment)| segment.max_timestamp_ms >= timestamp_ms) else { break };
                let next_base = state.segments.get(at + 1).map(|next| next.base_index);
                (segment.base_index, next_base, state.next_index())
            };
            let found = self.with_index(base_index, |look| {
                let skipped = look.points.partition_point(|point| point.index < begin);
                let mut points = look.points.iter().skip(skipped).skip_while(|point| point.max_timestamp_ms < timestamp_ms);
                let start = points.next()?.index;
                Some((start, points.next().map(|point| point.index)))
            })?;
            let Some((start, next)) = found.flatten() else {
                *from = next_base;
                continue;
            };
            *from = next.or(next_base);
            return Ok(Some(start..from.unwrap_or(end)));
        }
        *from = None;
        Ok(None)
    }

    /// The largest batch epoch not above `epoch`, and the offset where it ends. Of an epoch older than all that is kept, where the log begins:
    /// whoever asks has to go on from there.
    pub fn end_offset_for_epoch(&self, epoch: i32, end_offset: i64) -> Option<(i32, i64)> {
        let state = self.state();
        let i = state.epochs.partition_point(|&(known, _)| known <= epoch);
        let Some(&(known, _)) = i.checked_sub(1).and_then(|i| state.epochs.get(i)) else {
            return state.purged.and_then(|_| state.epochs.first()).map(|&(_, start)| (epoch, start.min(end_offset)));
        };
        let end = state.epochs.get(i).map_or(state.next_offset, |&(_, start)| start);
        Some((known, end.min(end_offset)))
    }
}
