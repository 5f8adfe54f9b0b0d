//! Entries taken back: what a new leader's log does not hold.

use std::collections::BTreeMap;
use std::io;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::frame::FRAME_HEADER_BYTES;
use super::segment::{head_of, read_frame, reservation};
use super::{Flushed, Inner, Log, LogEntry, LogPosition};
use crate::writer::{Job, Task};

impl Log {
    /// Drops every entry behind `index` (None: all). Durable once resolved; ordered behind appends already queued.
    pub fn truncate_after(&self, index: Option<u64>) -> BoxFuture<'static, io::Result<()>> {
        let queued = self.cut(index);
        async move { queued?.await.map_err(|_| io::Error::other("the writer has stopped"))? }.boxed()
    }

    fn cut(&self, index: Option<u64>) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (sender, outcome) = oneshot::channel();
        let keep = index.map_or(0, |index| index.saturating_add(1));
        // Read before the state is touched: the frame that becomes the last one, and those from its index point on.
        let heads = match index.filter(|index| self.indexes().contains(index)) {
            Some(index) => self.heads(index..index + 1)?,
            None => Vec::new(),
        };
        let mut guard = self.state();
        let state = &mut *guard;
        let mut removed = Vec::new();
        let mut cut = None;
        if keep < state.next_index() {
            state.cuts += 1;
            while let Some(segment) = state.segments.pop_if(|segment| segment.base_index >= keep) {
                state.next_offset = segment.base_offset;
                removed.push(segment.path);
            }
            if let Some(segment) = state.segments.last_mut()
                && keep <= state.last.map_or(0, |last| last.index)
            {
                let from = segment.points.iter().rposition(|point| point.index < keep).map_or(0, |i| i);
                let point = segment.points[from];
                let (file, mut position) = (segment.file.clone(), point.position);
                let end = segment.end;
                segment.points.truncate(from);
                segment.end = position;
                state.next_offset = point.offset;
                let mut kept = Vec::new();
                let cached: BTreeMap<u64, LogEntry> = state.tail.iter().map(|entry| (entry.index, entry.clone())).collect();
                let mut at = point.index;
                while at < keep && position < end {
                    let (entry, bytes) = match cached.get(&at) {
                        Some(entry) => (entry.clone(), (FRAME_HEADER_BYTES + entry.payload.len()) as u64),
                        None => read_frame(&*file, position, true)?,
                    };
                    kept.push((head_of(&entry), bytes));
                    position += bytes;
                    at += 1;
                }
                for (head, bytes) in kept {
                    state.note(&head, bytes);
                }
                let reserved = reservation(position, self.inner.settings.segment_bytes);
                if let Some(segment) = state.segments.last_mut() {
                    segment.reserved = reserved;
                }
                cut = Some((file, position, reserved));
            }
            let next_offset = state.next_offset;
            state.epochs.retain(|&(_, start)| start < next_offset);
            let purged = state.purged.filter(|purged| purged.index + 1 == keep);
            let held = heads.first().map(|head| (LogPosition { term: head.term, index: head.index }, head.append_time_us));
            let last = held.or(purged.map(|purged| (purged.position(), purged.append_time_us)));
            state.last = last.map(|(position, _)| position);
            state.last_append_time_us = last.map_or(0, |(_, time_us)| time_us);
            while let Some(entry) = state.tail.pop_back_if(|entry| entry.index >= keep) {
                state.tail_bytes -= entry.payload.len() + FRAME_HEADER_BYTES;
            }
            state.flushed_next = state.flushed_next.min(keep);
        }
        let Inner { env, dir, .. } = &*self.inner;
        let (disk, dir) = (env.disk.clone(), dir.clone());
        let task: Task = Box::new(move || {
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
        });
        let done: Flushed = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.inner.writer.queue(Job::Task { task, done })?;
        Ok(outcome)
    }
}
