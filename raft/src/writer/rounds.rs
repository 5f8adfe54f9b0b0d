//! Rounds of group commit: what is queued is written together, synced together and answered in order.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::sync::all_at_once;
use super::{Job, Shared, lock};
use crate::env::{Disk, File};
use crate::log::Flushed;

/// Jobs of one group-commit round.
const ROUND_JOBS_MAX: usize = 1024;

/// One run of contiguous bytes for one file.
struct Pending {
    file: Arc<dyn File>,
    start: u64,
    end: u64,
    parts: Vec<Bytes>,
}

pub(super) struct Rounds {
    shared: Arc<Shared>,
    meta_file: Arc<dyn File>,
    meta_end: u64,
    fsync: bool,
    failed: Option<String>,
    disk: Arc<dyn Disk>,
    /// Files and folders that a round made.
    created: Vec<Arc<dyn File>>,
    folders: BTreeSet<PathBuf>,
    pending: Vec<Pending>,
    done: Vec<Flushed>,
    /// Somebody waits for durability in this round.
    dirty: bool,
}

impl Rounds {
    pub(super) fn new(shared: Arc<Shared>, disk: Arc<dyn Disk>, meta_file: Arc<dyn File>, meta_end: u64, fsync: bool) -> Rounds {
        Rounds {
            shared,
            meta_file,
            meta_end,
            fsync,
            failed: None,
            disk,
            created: Vec::new(),
            folders: BTreeSet::new(),
            pending: Vec::new(),
            done: Vec::new(),
            dirty: false,
        }
    }

    /// Collects one round from `first` on; true order is kept, tasks split the round.
    pub(super) fn take(&mut self, first: Job, queue: &mut mpsc::UnboundedReceiver<Job>) -> Option<oneshot::Sender<()>> {
        let mut next = Some(first);
        for _ in 0..ROUND_JOBS_MAX {
            match next {
                None => break,
                Some(Job::Stop(stop)) => return Some(stop),
                Some(Job::Write { file, offset, parts, done }) => {
                    self.dirty = true;
                    self.add(file, offset, parts);
                    self.done.push(done);
                }
                Some(Job::Create { task, file, folders }) => {
                    self.try_now(task);
                    self.created.push(file);
                    self.folders.extend(folders);
                }
                Some(Job::Reserve { file, bytes }) => self.try_now(|| file.allocate(bytes)),
                Some(Job::Meta { frame, done }) => {
                    let offset = self.meta_end;
                    self.meta_end += frame.len() as u64;
                    self.add(self.meta_file.clone(), offset, vec![frame]);
                    self.dirty |= done.is_some();
                    self.done.extend(done);
                }
                Some(Job::Task { task, done }) => {
                    // What was queued before must be durable before files change under it.
                    self.finish(false);
                    let result = match &self.failed {
                        Some(error) => Err(io::Error::other(error.clone())),
                        None => task(),
                    };
                    if let Err(error) = &result {
                        self.failed.get_or_insert_with(|| error.to_string());
                    }
                    done(result);
                }
            }
            // Asked last, so that no job is taken off the queue and then dropped at the bound.
            next = None;
            if self.done.len() < ROUND_JOBS_MAX - 1 {
                next = queue.try_recv().ok();
            }
        }
        // The loop may end at its bound with one job in hand.
        match next {
            Some(Job::Stop(stop)) => Some(stop),
            Some(job) => self.take(job, queue),
            None => None,
        }
    }

    fn try_now(&mut self, work: impl FnOnce() -> io::Result<()>) {
        if self.failed.is_none()
            && let Err(error) = work()
        {
            tracing::error!(%error, "the disk takes no new files or bytes; this node's logs stop here");
            self.failed = Some(error.to_string());
        }
    }

    fn add(&mut self, file: Arc<dyn File>, offset: u64, parts: Vec<Bytes>) {
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if let Some(run) = self.pending.iter_mut().rev().find(|run| Arc::ptr_eq(&run.file, &file)).filter(|run| run.end == offset) {
            run.end += length;
            run.parts.extend(parts);
        } else {
            self.pending.push(Pending { file, start: offset, end: offset + length, parts });
        }
    }

    /// Writes, syncs, answers.
    pub(super) fn finish(&mut self, threads: bool) {
        self.finish_created(threads);
        let pending = std::mem::take(&mut self.pending);
        let wanted = std::mem::take(&mut self.dirty);
        if self.failed.is_none()
            && let Err(error) = self.write_and_sync(&pending, wanted, threads)
        {
            tracing::error!(%error, "the disk refuses writes; this node's logs stop here");
            self.failed = Some(error.to_string());
        }
        for done in self.done.drain(..) {
            done(self.failed.as_ref().map_or(Ok(()), |error| Err(io::Error::other(error.clone()))));
        }
    }

    /// Headers and names are durable before a frame is: a crash leaves no frame without the header of its file.
    fn finish_created(&mut self, threads: bool) {
        let (files, folders) = (std::mem::take(&mut self.created), std::mem::take(&mut self.folders));
        if files.is_empty() || !self.fsync || self.failed.is_some() {
            return;
        }
        let disk = self.disk.clone();
        let folders: Vec<PathBuf> = folders.into_iter().collect();
        self.try_now(|| {
            all_at_once(threads, &files, |file| file.sync())?;
            all_at_once(threads, &folders, |folder| disk.sync_dir(folder))
        });
    }

    fn write_and_sync(&self, pending: &[Pending], wanted: bool, threads: bool) -> io::Result<()> {
        let mut files: Vec<&Arc<dyn File>> = Vec::new();
        for run in pending {
            let slices: Vec<IoSlice<'_>> = run.parts.iter().map(|part| IoSlice::new(part)).collect();
            run.file.write_all_at(&slices, run.start)?;
            lock(&self.shared.stats).bytes_written += run.end - run.start;
            if !files.iter().any(|file| Arc::ptr_eq(file, &run.file)) {
                files.push(&run.file);
            }
        }
        if !wanted || !self.fsync {
            return Ok(());
        }
        let started = Instant::now();
        all_at_once(threads, &files, |file| file.sync())?;
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut stats = lock(&self.shared.stats);
        stats.syncs += files.len() as u64;
        stats.sync_us_sum += took;
        stats.sync_us_max = stats.sync_us_max.max(took);
        Ok(())
    }
}
