//! Rounds of group commit: what is queued is written together, synced together and answered in order.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::meta::MetaLog;
use super::sync::{Run, SyncPool, Syncs, Target};
use super::{Job, Shared, lock};
use crate::env::{Disk, Env, File};
use crate::log::Flushed;

/// Jobs of one group-commit round.
const ROUND_JOBS_MAX: usize = 1024;

/// What a round writes to one file.
struct Pending {
    file: Arc<dyn File>,
    runs: Vec<Run>,
}

pub(super) struct Rounds {
    shared: Arc<Shared>,
    meta: MetaLog,
    /// False only as a mutation, as the next is true.
    fsync: bool,
    ignores_sync_errors: bool,
    failed: Option<String>,
    disk: Arc<dyn Disk>,
    /// Files and folders that a round made.
    created: Vec<Arc<dyn File>>,
    folders: BTreeSet<PathBuf>,
    pending: Vec<Pending>,
    /// Which of `pending` is a file's: a round may touch a thousand.
    place: HashMap<usize, usize>,
    pool: SyncPool,
    done: Vec<Flushed>,
    /// Somebody waits for durability in this round.
    dirty: bool,
}

impl Rounds {
    pub(super) fn new(shared: Arc<Shared>, env: &Env, meta: MetaLog) -> Rounds {
        Rounds {
            shared,
            meta,
            fsync: !env.mutations().no_fsync,
            ignores_sync_errors: env.mutations().ignored_sync_error,
            failed: None,
            pool: SyncPool::new(!env.disk.is_simulated()),
            disk: env.disk.clone(),
            created: Vec::new(),
            folders: BTreeSet::new(),
            pending: Vec::new(),
            place: HashMap::new(),
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
                Some(Job::Stop(stop)) => return Some(self.end_with(stop)),
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
                    self.add_meta(vec![frame]);
                    self.done.push(done);
                }
                Some(Job::SaveLazy) => self.save_lazy(),
                Some(Job::Task { task, done }) => {
                    // What was queued before must be durable before files change under it.
                    self.finish();
                    let result = match &self.failed {
                        Some(error) => Err(io::Error::other(error.clone())),
                        None => task(),
                    };
                    if let Err(error) = &result {
                        self.fail(error);
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
            Some(Job::Stop(stop)) => Some(self.end_with(stop)),
            Some(job) => self.take(job, queue),
            None => None,
        }
    }

    fn try_now(&mut self, work: impl FnOnce() -> io::Result<()>) {
        if self.failed.is_none()
            && let Err(error) = work()
        {
            self.fail(&error);
        }
    }

    /// Final: what a second attempt would report is not to be believed.
    fn fail(&mut self, error: &io::Error) {
        if self.failed.is_none() {
            tracing::error!(%error, "the disk refuses writes; this node's logs stop here");
            self.failed = Some(error.to_string());
            self.shared.failure.send_replace(self.failed.clone());
        }
    }

    fn add_meta(&mut self, frames: Vec<Bytes>) {
        self.dirty = true;
        let (file, offset) = self.meta.place(frames.iter().map(|frame| frame.len() as u64).sum());
        self.add(file, offset, frames);
    }

    fn save_lazy(&mut self) {
        let frames = lock(&self.shared.meta).take_lazy();
        if !frames.is_empty() {
            self.add_meta(frames);
        }
    }

    /// The last round takes along what was saved lazily.
    fn end_with(&mut self, stop: oneshot::Sender<()>) -> oneshot::Sender<()> {
        self.save_lazy();
        stop
    }

    fn add(&mut self, file: Arc<dyn File>, offset: u64, parts: Vec<Bytes>) {
        let end = offset + parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let place = *self.place.entry(Arc::as_ptr(&file).cast::<()>().addr()).or_insert(self.pending.len());
        if place == self.pending.len() {
            self.pending.push(Pending { file, runs: Vec::with_capacity(1) });
        }
        let runs = &mut self.pending[place].runs;
        match runs.last_mut().filter(|run| run.end == offset) {
            Some(run) => {
                run.end = end;
                run.parts.extend(parts);
            }
            None => runs.push(Run { start: offset, end, parts }),
        }
    }

    /// Writes, syncs, answers.
    pub(super) fn finish(&mut self) {
        self.finish_created();
        self.place.clear();
        let pending = std::mem::take(&mut self.pending);
        let wanted = std::mem::take(&mut self.dirty);
        if self.failed.is_none()
            && let Err(error) = self.write_and_sync(pending, wanted)
        {
            self.fail(&error);
        }
        self.compact_meta();
        for done in self.done.drain(..) {
            done(self.failed.as_ref().map_or(Ok(()), |error| Err(io::Error::other(error.clone()))));
        }
    }

    fn compact_meta(&mut self) {
        if self.failed.is_none() && self.meta.may_be_grown() {
            let values = lock(&self.shared.meta).values.clone();
            let result = self.meta.compact(&values);
            self.try_now(|| result);
        }
    }

    /// Headers and names are durable before a frame is: a crash leaves no frame without the header of its file.
    fn finish_created(&mut self) {
        let (files, folders) = (std::mem::take(&mut self.created), std::mem::take(&mut self.folders));
        if files.is_empty() || !self.fsync || self.failed.is_some() {
            return;
        }
        let files = files.into_iter().map(Target::File).collect();
        let folders = folders.into_iter().map(|folder| Target::Folder(self.disk.clone(), folder)).collect();
        let result = self.pool.sync_all(files, Syncs::All).and_then(|()| self.pool.sync_all(folders, Syncs::All));
        self.try_now(|| result);
    }

    fn write_and_sync(&mut self, pending: Vec<Pending>, wanted: bool) -> io::Result<()> {
        let (files, started) = (pending.len() as u64, Instant::now());
        let bytes_written: u64 = pending.iter().flat_map(|pending| &pending.runs).map(|run| run.end - run.start).sum();
        let syncs = match wanted && self.fsync {
            false => Syncs::None,
            true if self.ignores_sync_errors => Syncs::Unheeded,
            true => Syncs::All,
        };
        let targets = pending.into_iter().map(|pending| Target::Runs(pending.file, pending.runs)).collect();
        self.pool.sync_all(targets, syncs)?;
        let mut stats = lock(&self.shared.stats);
        stats.bytes_written += bytes_written;
        if matches!(syncs, Syncs::None) {
            return Ok(());
        }
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        stats.syncs += files;
        stats.sync_us_sum += took;
        stats.sync_us_max = stats.sync_us_max.max(took);
        Ok(())
    }
}
