//! Lookups by time and by leader epoch, over the sparse index and the batches themselves.

use std::io;
use std::ops::Range;

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
        let last = self.index_near(end_offset.saturating_sub(1));
        let first = self.index_near(self.start_offset());
        let before = {
            let state = self.state();
            let points = state.segments.iter().flat_map(|segment| &segment.points).take_while(|point| point.index < last);
            points.filter(|point| point.index >= first).map(|point| point.max_timestamp_ms).max()
        };
        let mut greatest = before.filter(|timestamp_ms| *timestamp_ms != i64::MIN);
        for stretch in self.stretches(last, i64::MIN) {
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
        for stretch in self.stretches(self.index_near(start_offset), timestamp_ms) {
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

    /// The stretches of the log between two points of the index, from the point at `from` on, that hold a time at or after `timestamp_ms`:
    /// a few KiB each, so that a lookup costs what it finds and not what lies behind it.
    fn stretches(&self, from: u64, timestamp_ms: i64) -> impl Iterator<Item = Range<u64>> {
        let mut from = Some(from);
        std::iter::from_fn(move || {
            let begin = from?;
            let state = self.state();
            let first = state.segments.partition_point(|segment| segment.base_index <= begin).saturating_sub(1);
            let points = state.segments.get(first..)?.iter().flat_map(|segment| {
                let skipped = segment.points.partition_point(|point| point.index < begin);
                segment.points.get(skipped..).unwrap_or_default()
            });
            let mut points = points.skip_while(|point| point.max_timestamp_ms < timestamp_ms);
            let start = points.next()?.index;
            let next = points.next().map(|point| point.index);
            from = next;
            Some(start..next.unwrap_or_else(|| state.next_index()))
        })
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
