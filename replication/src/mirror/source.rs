//! The sending half of a mirror: reads what is committed at home and pushes it, as far as the target's position allows.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use meridian_raft::batch::BatchHeader;
use meridian_raft::partition::{Partition, ReadError, StoredBatch};
use tokio::sync::{mpsc, watch};

use crate::catalogue::Metadata;
use crate::link::frame::{Data, EndReason, Frame, LastBatch, Open};

/// Bytes of one frame of batches, unless one batch is larger. Small enough that partitions which share a stream take turns.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of one mirror that may be on their way or waiting for the target's commit. At a round trip of 200 ms this allows 40 MB/s.
const BYTES_IN_FLIGHT_MAX: usize = 8 << 20;
/// The same in frames.
pub(crate) const FRAMES_IN_FLIGHT_MAX: usize = 256;

/// Counts what was sent and is not yet durable at the target.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// End offset and bytes of each frame.
    sent: VecDeque<(i64, usize)>,
    bytes: usize,
}

impl Window {
    pub fn send(&mut self, end_offset: i64, bytes: usize) {
        self.sent.push_back((end_offset, bytes));
        self.bytes += bytes;
    }

    /// The target holds everything before `offset`.
    pub fn confirm(&mut self, offset: i64) {
        while let Some((_, bytes)) = self.sent.pop_front_if(|(end_offset, _)| *end_offset <= offset) {
            self.bytes -= bytes;
        }
    }

    pub fn is_open(&self) -> bool {
        self.bytes < BYTES_IN_FLIGHT_MAX && self.sent.len() < FRAMES_IN_FLIGHT_MAX
    }
}

/// Why a mirror ends at its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub reason: EndReason,
    pub detail: String,
}

fn end(reason: EndReason, detail: impl Into<String>) -> End {
    End { reason, detail: detail.into() }
}

/// One mirror that a target has opened.
pub(crate) struct Pump {
    pub open: Open,
    /// The region that asks.
    pub region: String,
    pub partition: Option<Partition>,
    pub metadata: Arc<dyn Metadata>,
    /// The target's durable offset.
    pub positions: watch::Receiver<i64>,
    pub frames: mpsc::Sender<Vec<Bytes>>,
}

impl Pump {
    /// Sends until the mirror must end, and says so to the target.
    pub async fn run(mut self) {
        let End { reason, detail } = match self.pump().await {
            Ok(()) => return,
            Err(end) => end,
        };
        let _ = self.frames.send(Frame::Ended { number: self.open.number, reason, detail }.encode()).await;
    }

    /// Ok when nobody listens any more.
    async fn pump(&mut self) -> Result<(), End> {
        let partition = self.partition.take().filter(|partition| !partition.spec().mirror);
        let mut changes = self.metadata.watch_changes();
        // Asked first: who may not have the topic does not learn whether it exists.
        self.check_permission()?;
        let partition = partition.ok_or_else(|| end(EndReason::NotLeader, "no replica here"))?;
        check_leadership(&partition)?;
        check_agreement(&partition, &self.open).await?;
        if self.frames.send(Frame::Opened { number: self.open.number }.encode()).await.is_err() {
            return Ok(());
        }
        let mut leadership = partition.watch_leadership();
        let mut high_watermark = partition.watch_high_watermark();
        let mut start = partition.watch_log_start_offset();
        // What the target knows of the home's start.
        let mut told = 0;
        let mut window = Window::default();
        let mut next = self.open.from;
        loop {
            if changes.has_changed().unwrap_or(true) {
                changes.borrow_and_update();
                self.check_permission()?;
            }
            check_leadership(&partition)?;
            window.confirm(*self.positions.borrow_and_update());
            let begin = *start.borrow_and_update();
            let more = next.max(begin) < *high_watermark.borrow_and_update();
            if window.is_open() && (more || begin > told) {
                let (frame, end_offset, bytes) = chunk(&partition, self.open.number, next).await?;
                told = begin.max(told);
                next = end_offset;
                window.send(end_offset, bytes);
                if self.frames.send(frame.encode()).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            let open = window.is_open();
            tokio::select! {
                changed = high_watermark.changed(), if open => changed.map_err(|_| end(EndReason::NotLeader, "the replica was closed"))?,
                changed = start.changed(), if open => changed.map_err(|_| end(EndReason::NotLeader, "the replica was closed"))?,
                changed = leadership.changed() => changed.map_err(|_| end(EndReason::NotLeader, "the replica was closed"))?,
                changed = changes.changed() => if changed.is_err() { return Ok(()) } else { self.check_permission()? },
                changed = self.positions.changed() => if changed.is_err() { return Ok(()) },
                () = self.frames.closed() => return Ok(()),
            }
        }
    }

    fn check_permission(&self) -> Result<(), End> {
        if self.metadata.may_send(self.open.group.topic, &self.region) {
            Ok(())
        } else {
            Err(end(EndReason::Refused, format!("region {} may not have the topic", self.region)))
        }
    }
}

fn check_leadership(partition: &Partition) -> Result<(), End> {
    if partition.leadership().is_leader { Ok(()) } else { Err(end(EndReason::NotLeader, "another node leads")) }
}

fn unreadable(error: ReadError) -> End {
    match error {
        ReadError::OutOfRange { .. } => end(EndReason::OutOfRange, error.to_string()),
        ReadError::Storage(_) => end(EndReason::Unreadable, error.to_string()),
    }
}

/// Do both logs hold the same batch before `from`?
async fn check_agreement(partition: &Partition, open: &Open) -> Result<(), End> {
    let (start, high_watermark) = (partition.log_start_offset(), partition.high_watermark());
    if open.from > high_watermark {
        return Err(end(EndReason::Diverged, format!("the mirror ends at {}, its home at {high_watermark}", open.from)));
    }
    if open.from <= start {
        // What came before is gone here: nothing to compare with. The mirror goes on where this log begins.
        return Ok(());
    }
    let here = partition.read(open.from - 1, 1).await.map_err(unreadable)?;
    let header = here.first().and_then(|batch| BatchHeader::decode(&batch.bytes));
    let here = header.filter(|header| end_of(header) == open.from).map(|header| LastBatch { epoch: header.leader_epoch, crc: header.crc });
    if here.is_some() && here == open.last {
        Ok(())
    } else {
        Err(end(EndReason::Diverged, format!("before offset {} the mirror holds another batch than its home", open.from)))
    }
}

/// The next frame of batches from `from` or the log's start on, its end offset and its bytes. No batches: all of them were sent, or are gone.
async fn chunk(partition: &Partition, number: u32, from: i64) -> Result<(Frame, i64, usize), End> {
    // In this order: the closed time vouches for the high watermark that is asked for behind it.
    let closed_us = partition.closed_time_us().unwrap_or(0);
    let high_watermark = partition.high_watermark();
    let start_offset = partition.log_start_offset();
    let batches = match partition.read(from.max(start_offset), CHUNK_BYTES).await {
        // Deleted meanwhile: what is left is asked for next.
        Err(ReadError::OutOfRange { offset, start, .. }) if offset < start => Vec::new(),
        read => read.map_err(unreadable)?,
    };
    let last = batches.last().and_then(|batch| BatchHeader::decode(&batch.bytes));
    let end_offset = last.map_or(from.max(start_offset), |header| end_of(&header));
    if !batches.is_empty() && end_offset <= from {
        return Err(end(EndReason::Unreadable, format!("no batch at offset {from}")));
    }
    let bytes = batches.iter().map(|StoredBatch { bytes, .. }| bytes.len()).sum();
    Ok((Frame::Data(Data { number, high_watermark, closed_us, start_offset, batches }), end_offset, bytes))
}

/// First offset behind a batch.
pub(crate) fn end_of(header: &BatchHeader) -> i64 {
    header.base_offset.saturating_add(i64::from(header.last_offset_delta)).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_closes_when_full_and_opens_with_the_targets_position() {
        let mut window = Window::default();
        window.send(10, BYTES_IN_FLIGHT_MAX - 1);
        assert!(window.is_open());
        window.send(20, 1);
        assert!(!window.is_open());
        window.confirm(9);
        assert!(!window.is_open());
        window.confirm(10);
        assert!(window.is_open());
    }

    #[test]
    fn many_small_frames_close_a_window_too() {
        let mut window = Window::default();
        (0..FRAMES_IN_FLIGHT_MAX as i64).for_each(|offset| window.send(offset + 1, 1));
        assert!(!window.is_open());
        window.confirm(1);
        assert!(window.is_open());
    }
}
