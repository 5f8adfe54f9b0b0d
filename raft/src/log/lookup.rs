//! Lookups by time and by leader epoch, over the sparse index and the batches themselves.

use std::io;

use super::{Log, OffsetAt};
use crate::batch::Batch;

impl Log {
    /// The first record at or after `timestamp_ms`: exact where records are not compressed, else the base of the batch that holds it.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64, end_offset: i64) -> io::Result<Option<OffsetAt>> {
        self.find_record(end_offset, timestamp_ms)
    }

    /// The record with the greatest timestamp, with the same limit for compressed batches.
    pub fn offset_of_max_timestamp(&self, end_offset: i64) -> io::Result<Option<OffsetAt>> {
        let heads = self.heads(self.indexes())?;
        let batches = heads.iter().filter_map(|head| head.batch).filter(|batch| batch.base_offset < end_offset);
        match batches.map(|batch| batch.max_timestamp_ms).max() {
            Some(timestamp_ms) => self.find_record(end_offset, timestamp_ms),
            None => Ok(None),
        }
    }

    fn find_record(&self, end_offset: i64, timestamp_ms: i64) -> io::Result<Option<OffsetAt>> {
        let start = {
            let state = self.state();
            let mut points = state.segments.iter().flat_map(|segment| &segment.points);
            points.find(|point| point.max_timestamp_ms >= timestamp_ms).map(|point| point.index)
        };
        let Some(start) = start else { return Ok(None) };
        for head in self.heads(start..self.indexes().end)? {
            let Some(batch) = head.batch.filter(|batch| batch.max_timestamp_ms >= timestamp_ms) else { continue };
            if batch.base_offset >= end_offset {
                break;
            }
            let Some(entry) = self.entries(head.index..head.index + 1, usize::MAX)?.pop() else { break };
            let records = Batch::from_stored(entry.payload).map_err(io::Error::other)?.records();
            let (offset, timestamp_ms) = match &records {
                None => (batch.base_offset, batch.max_timestamp_ms),
                Some(records) => match records.iter().find(|record| record.timestamp_ms >= timestamp_ms) {
                    Some(record) => (record.offset, record.timestamp_ms),
                    // The client's header promised a later time than its records have.
                    None => continue,
                },
            };
            return Ok(Some(OffsetAt { offset, timestamp_ms, leader_epoch: batch.leader_epoch }));
        }
        Ok(None)
    }

    /// The largest batch epoch not above `epoch`, and the offset where it ends.
    pub fn end_offset_for_epoch(&self, epoch: i32, end_offset: i64) -> Option<(i32, i64)> {
        let state = self.state();
        let i = state.epochs.partition_point(|&(known, _)| known <= epoch);
        let (known, _) = *state.epochs.get(i.checked_sub(1)?)?;
        let end = state.epochs.get(i).map_or(state.next_offset, |&(_, start)| start);
        Some((known, end.min(end_offset)))
    }
}
