//! Entries taken back: what a new leader's log does not hold.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::frame::FRAME_HEADER_BYTES;
use super::segment::{Point, head_of, read_frame, reservation};
use super::state::State;
use super::{EntryHead, Flushed, Inner, Log, LogPosition};
use crate::env::File;
use crate::writer::{Job, Task};

impl Log {
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
        let mut state = self.state();
        let plan = if keep < state.next_index() { Some(plan(&state, keep)?) } else { None };
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
            state.take_back(plan, keep, heads.first());
        }
        Ok(outcome)
    }

    fn task(&self, plan: Option<&Plan>) -> Task {
        let Inner { env, dir, .. } = &*self.inner;
        let (disk, dir) = (env.disk.clone(), dir.clone());
        let removed = plan.map(|plan| plan.removed.clone()).unwrap_or_default();
        let cut = plan.and_then(|plan| plan.shortened.as_ref()).map(|cut| (cut.file.clone(), cut.end, cut.reserved));
        Box::new(move || {
            // Last segment first, so that a crash in between leaves a prefix.
            for path in &removed {
                disk.remove_file(path)?;
                disk.sync_dir(&dir)?;
            }
            if let Some((file, end, reserved)) = cut {
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
    /// Files that go, the last first.
    removed: Vec<PathBuf>,
    shortened: Option<Shortened>,
}

/// The segment that is cut in its midst.
struct Shortened {
    file: Arc<dyn File>,
    /// Its index points that stay untouched, and the one behind them, from which frames are accounted for anew.
    points: usize,
    from: Point,
    frames: Vec<(EntryHead, u64)>,
    end: u64,
    reserved: u64,
}

fn plan(state: &State, keep: u64) -> io::Result<Plan> {
    let stay = state.segments.iter().take_while(|segment| segment.base_index < keep).count();
    let removed = state.segments.iter().skip(stay).rev().map(|segment| segment.path.clone()).collect();
    let last = stay.checked_sub(1).and_then(|last| state.segments.get(last));
    let Some(segment) = last.filter(|segment| !segment.points.is_empty() && keep <= state.last.map_or(0, |last| last.index)) else {
        return Ok(Plan { removed, shortened: None });
    };
    let points = segment.points.iter().rposition(|point| point.index < keep).unwrap_or(0);
    let from = segment.points[points];
    let cached_from = state.tail.front().map_or(u64::MAX, |entry| entry.index);
    let (mut frames, mut at, mut end) = (Vec::new(), from.index, from.position);
    while at < keep && end < segment.end {
        let (entry, bytes) = match at.checked_sub(cached_from).and_then(|i| state.tail.get(i as usize)) {
            Some(entry) => (entry.clone(), (FRAME_HEADER_BYTES + entry.payload.len()) as u64),
            None => read_frame(&*segment.file, end, true)?,
        };
        frames.push((head_of(&entry), bytes));
        end += bytes;
        at += 1;
    }
    let shortened =
        Shortened { file: segment.file.clone(), points, from, frames, end, reserved: reservation(end, state.rolling.segment_bytes) };
    Ok(Plan { removed, shortened: Some(shortened) })
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
                segment.points.truncate(cut.points);
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
        while let Some(entry) = self.tail.pop_back_if(|entry| entry.index >= keep) {
            self.tail_bytes -= entry.payload.len() + FRAME_HEADER_BYTES;
        }
        self.flushed_next = self.flushed_next.min(keep);
    }
}
