//! Entries taken back: what a new leader's log does not hold.

use std::io;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::frame::FRAME_HEADER_BYTES;
use super::index::Point;
use super::retention::remove_if_there;
use super::segment::{Open, head_of, read_frame, reservation, segment_path, sidecar_path};
use super::state::State;
use super::{EntryHead, Flushed, Inner, Log, LogPosition};
use crate::writer::{Job, Task};

impl Log {
    /// Whether taking back entries from `end` on removes no file: only then may be appended before that is done.
    pub(crate) fn cuts_in_place(&self, end: u64) -> bool {
        self.state().segments.last().is_some_and(|segment| segment.base_index < end)
    }

    /// Drops every entry behind `index` (None: all). Durable once resolved; ordered behind appends already queued.
    pub fn truncate_after(&self, index: Option<u64>) -> BoxFuture<'static, io::Result<()>> {
        let queued = self.cut(index);
        async move { queued?.await.map_err(|_| io::Error::other("the writer has stopped"))? }.boxed()
    }

    /// Queues what a truncation changes on disk; memory follows only once that is queued.
    fn cut(&self, index: Option<u64>) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (sender, outcome) = oneshot::channel();
        let keep = index.map_or(0, |index| index.saturating_add(1));
        // The frame that becomes the last one.
        let heads = match index.filter(|index| self.indexes().contains(index)) {
            Some(index) => self.heads(index..index + 1)?,
            None => Vec::new(),
        };
        let reopened = self.last_kept(keep).map_or(Ok(None), |base_index| self.reopened(base_index))?;
        let mut state = self.state();
        let plan = if keep < state.next_index() { Some(plan(&state, keep, reopened)?) } else { None };
        let cuts = state.cuts + u64::from(plan.is_some());
        let log = self.clone();
        let done: Flushed = Box::new(move |result| {
            if result.is_ok() {
                // All that was queued before is durable by now.
                let mut state = log.state();
                let next = keep.min(state.next_index());
                state.flushed(next, cuts);
            }
            let _ = sender.send(result);
        });
        self.inner.writer.queue(Job::Task { task: self.task(plan.as_ref()), done })?;
        if let Some(plan) = plan {
            let Inner { memory, number, .. } = &*self.inner;
            let touched = plan.removed.iter().chain(plan.shortened.as_ref().map(|cut| &cut.base_index));
            touched.for_each(|base_index| memory.forget_segment(*number, *base_index));
            state.take_back(plan, keep, heads.first());
        }
        Ok(outcome)
    }

    /// The segment that will be the last, where entries go.
    fn last_kept(&self, keep: u64) -> Option<u64> {
        let state = self.state();
        let stay = state.segments.partition_point(|segment| segment.base_index < keep);
        let last = stay.checked_sub(1).and_then(|last| state.segments.get(last));
        last.filter(|_| keep < state.next_index()).map(|segment| segment.base_index)
    }

    fn task(&self, plan: Option<&Plan>) -> Task {
        let Inner { env, dir, .. } = &*self.inner;
        let (disk, dir) = (env.disk.clone(), dir.clone());
        let removed = plan.map(|plan| plan.removed.clone()).unwrap_or_default();
        let cut = plan.and_then(|plan| plan.shortened.as_ref());
        let cut = cut.map(|cut| (cut.base_index, cut.open.file.clone(), cut.end, cut.reserved));
        Box::new(move || {
            // Last segment first, so that a crash in between leaves a prefix.
            for base_index in removed {
                remove_if_there(&*disk, &sidecar_path(&dir, base_index))?;
                disk.remove_file(&segment_path(&dir, base_index))?;
                disk.sync_dir(&dir)?;
            }
            if let Some((base_index, file, end, reserved)) = cut {
                // Before what it tells of is no more.
                let sidecar = sidecar_path(&dir, base_index);
                if disk.exists(&sidecar) {
                    disk.remove_file(&sidecar)?;
                    disk.sync_dir(&dir)?;
                }
                // Shortened, then reserved anew: the old frames must read as zeros, or recovery would take them for entries.
                file.set_len(end)?;
                file.allocate(reserved)?;
                file.sync()?;
            }
            Ok(())
        })
    }
}

/// What a truncation leaves, found out before anything is changed.
struct Plan {
    /// Base indexes of segments that go, the last first.
    removed: Vec<u64>,
    shortened: Option<Shortened>,
}

/// The segment that is cut in its midst.
struct Shortened {
    base_index: u64,
    /// With the points of its index that stay untouched.
    open: Box<Open>,
    /// The point behind them, from which frames are accounted for anew.
    from: Point,
    frames: Vec<(EntryHead, u64)>,
    end: u64,
    reserved: u64,
}

/// `reopened` is the index of the segment that will be the last.
fn plan(state: &State, keep: u64, reopened: Option<Box<Open>>) -> io::Result<Plan> {
    let stay = state.segments.partition_point(|segment| segment.base_index < keep);
    let removed = state.segments.iter().skip(stay).rev().map(|segment| segment.base_index).collect();
    let last = stay.checked_sub(1).and_then(|last| state.segments.get(last));
    let (Some(segment), Some(mut open)) = (last, reopened) else { return Ok(Plan { removed, shortened: None }) };
    let points = open.points.iter().rposition(|point| point.index < keep).unwrap_or(0);
    let Some(&from) = open.points.get(points) else { return Ok(Plan { removed, shortened: None }) };
    let (mut frames, mut at, mut end) = (Vec::new(), from.index, from.position);
    while at < keep && end < segment.end {
        let (head, bytes) = match state.tail.get(at) {
            Some(entry) => (head_of(entry), (FRAME_HEADER_BYTES + entry.payload.len()) as u64),
            None => read_frame(&*open.file, end, true).map(|(entry, bytes)| (head_of(&entry), bytes))?,
        };
        frames.push((head, bytes));
        end += bytes;
        at += 1;
    }
    open.points.truncate(points);
    open.epochs.retain(|&(_, start)| start < from.offset);
    let reserved = reservation(end, state.rolling.segment_bytes);
    Ok(Plan { removed, shortened: Some(Shortened { base_index: segment.base_index, open, from, frames, end, reserved }) })
}

impl State {
    /// Forgets every entry from `keep` on; `last` is the head of the one before, where the log holds it.
    fn take_back(&mut self, plan: Plan, keep: u64, last: Option<&EntryHead>) {
        self.cuts += 1;
        while let Some(segment) = self.segments.pop_if(|segment| segment.base_index >= keep) {
            self.next_offset = segment.base_offset;
        }
        if let Some(cut) = plan.shortened {
            self.next_offset = cut.from.offset;
            if let Some(segment) = self.segments.last_mut() {
                segment.max_timestamp_ms = cut.open.points.iter().map(|point| point.max_timestamp_ms).max().unwrap_or(i64::MIN);
                segment.open = Some(cut.open);
                (segment.end, segment.reserved) = (cut.from.position, cut.reserved);
            }
            for (head, bytes) in cut.frames {
                self.note(&head, bytes);
            }
        }
        let next_offset = self.next_offset;
        self.epochs.retain(|&(_, start)| start < next_offset);
        let purged = self.purged.filter(|purged| purged.index + 1 == keep);
        let held = last.map(|head| (LogPosition { term: head.term, index: head.index }, head.append_time_us));
        let last = held.or(purged.map(|purged| (purged.position(), purged.append_time_us)));
        self.last = last.map(|(position, _)| position);
        self.last_append_time_us = last.map_or(0, |(_, time_us)| time_us);
        self.tail.drop_from(keep);
        self.trails.clear();
        self.flushed_next = self.flushed_next.min(keep);
    }
}
