//! The one I/O thread of a data folder: group commit of every log's appends, and the node's meta log.
//!
//! A failed write or sync is final: every later job is answered with the error, because what a second sync would report is not to be believed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::env::{Disk, Env, File};
use crate::log::Flushed;

/// Jobs of one group-commit round.
const ROUND_JOBS_MAX: usize = 1024;
/// Files synced at once.
const SYNC_THREADS_MAX: usize = 16;
/// Longest key or value of the meta log.
const META_FIELD_BYTES_MAX: usize = 1 << 24;
const META_HEADER_BYTES: usize = 16;
const META_MAGIC: u32 = 0x4d52_4d54;
/// A value length that means "deleted".
const META_DELETED: u32 = u32::MAX;

/// Figures since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterStats {
    pub syncs: u64,
    pub sync_us_sum: u64,
    pub sync_us_max: u64,
    pub bytes_written: u64,
}

/// Work that must not be mixed with its neighbours in a round (creating, cutting, removing files); syncs what it changes.
pub(crate) type Task = Box<dyn FnOnce() -> io::Result<()> + Send>;

pub(crate) enum Job {
    Write {
        file: Arc<dyn File>,
        offset: u64,
        parts: Vec<Bytes>,
        done: Flushed,
    },
    /// The first file of a log. Many are made in one round and synced together, with the folders that name them, before any frame is written.
    Create {
        task: Task,
        file: Arc<dyn File>,
        folders: [PathBuf; 2],
    },
    /// Makes room for writes that follow. Whether it is durable matters as little as the zeros that it adds.
    Reserve {
        file: Arc<dyn File>,
        bytes: u64,
    },
    Task {
        task: Task,
        done: Flushed,
    },
    Meta {
        frame: Bytes,
        done: Option<Flushed>,
    },
    Stop(oneshot::Sender<()>),
}

/// Handle to the writer; cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer {
    jobs: mpsc::UnboundedSender<Job>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    meta: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    stats: Mutex<WriterStats>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stopped() -> io::Error {
    io::Error::other("the writer has stopped")
}

impl Writer {
    /// Replays and compacts the meta log, then starts the I/O thread (in simulation: a task). `fsync` is false only in mutation tests.
    pub fn start(env: &Env, data_dir: &Path, fsync: bool) -> io::Result<Writer> {
        let (meta, meta_file, meta_end) = open_meta(&*env.disk, data_dir)?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { meta: Mutex::new(meta), stats: Mutex::default() });
        let mut rounds = Rounds {
            shared: shared.clone(),
            meta_file,
            meta_end,
            fsync,
            failed: None,
            disk: env.disk.clone(),
            created: Vec::new(),
            folders: BTreeSet::new(),
            pending: Vec::new(),
            done: Vec::new(),
            dirty: false,
        };
        let disk = env.disk.clone();
        if disk.is_simulated() {
            tokio::spawn(async move {
                let mut queue = queue;
                while let Some(job) = queue.recv().await {
                    let stop = rounds.take(job, &mut queue);
                    disk.sync_delay().await;
                    rounds.finish(false);
                    if let Some(stop) = stop {
                        let _ = stop.send(());
                        break;
                    }
                }
            });
        } else {
            std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
                let mut queue = queue;
                while let Some(job) = queue.blocking_recv() {
                    let stop = rounds.take(job, &mut queue);
                    rounds.finish(true);
                    if let Some(stop) = stop {
                        let _ = stop.send(());
                        break;
                    }
                }
            })?;
        }
        Ok(Writer { jobs, shared })
    }

    pub(crate) fn queue(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).map_err(|_| stopped())
    }

    /// The value as of open, or saved since (perhaps not yet durable).
    pub fn meta(&self, key: Vec<u8>) -> Option<Vec<u8>> {
        lock(&self.shared.meta).get(&key).cloned()
    }

    /// Saves (None: deletes); resolves once durable. In order with appends queued before.
    pub fn save_meta(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> BoxFuture<'static, io::Result<()>> {
        let (done, outcome) = oneshot::channel();
        let done: Flushed = Box::new(move |result| {
            let _ = done.send(result);
        });
        let queued = self.queue_meta(key, value, Some(done));
        async move {
            queued?;
            outcome.await.map_err(|_| stopped())?
        }
        .boxed()
    }

    /// Saves with the next group commit, without a sync of its own.
    pub fn save_meta_lazily(&self, key: Vec<u8>, value: Vec<u8>) {
        // A writer that has stopped loses lazily saved values; that is what lazily means.
        let _ = self.queue_meta(key, Some(value), None);
    }

    fn queue_meta(&self, key: Vec<u8>, value: Option<Vec<u8>>, done: Option<Flushed>) -> io::Result<()> {
        if key.len() > META_FIELD_BYTES_MAX || value.as_ref().is_some_and(|value| value.len() > META_FIELD_BYTES_MAX) {
            return Err(io::Error::other("a meta field is too long"));
        }
        let frame = encode_meta(&key, value.as_deref());
        // Queued under the lock, so that memory and file agree on the order.
        let mut meta = lock(&self.shared.meta);
        self.queue(Job::Meta { frame, done })?;
        match value {
            Some(value) => meta.insert(key, value),
            None => meta.remove(&key),
        };
        Ok(())
    }

    /// Removes a folder and what is in it, behind everything queued before.
    pub(crate) fn remove_dir(&self, env: &Env, dir: PathBuf) -> BoxFuture<'static, io::Result<()>> {
        let disk = env.disk.clone();
        let task: Task = Box::new(move || {
            if disk.exists(&dir) {
                disk.remove_dir_all(&dir)?;
                dir.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))?;
            }
            Ok(())
        });
        let (sender, outcome) = oneshot::channel();
        let done: Flushed = Box::new(move |result| {
            let _ = sender.send(result);
        });
        let queued = self.queue(Job::Task { task, done });
        async move {
            queued?;
            outcome.await.map_err(|_| stopped())?
        }
        .boxed()
    }

    pub fn stats(&self) -> WriterStats {
        *lock(&self.shared.stats)
    }

    /// Finishes what is queued and ends the thread.
    pub fn stop(&self) -> BoxFuture<'static, ()> {
        let (sender, stopped) = oneshot::channel();
        let queued = self.queue(Job::Stop(sender));
        async move {
            if queued.is_ok() {
                let _ = stopped.await;
            }
        }
        .boxed()
    }
}

/// One run of contiguous bytes for one file.
struct Pending {
    file: Arc<dyn File>,
    start: u64,
    end: u64,
    parts: Vec<Bytes>,
}

struct Rounds {
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
    /// Collects one round from `first` on; true order is kept, tasks split the round.
    fn take(&mut self, first: Job, queue: &mut mpsc::UnboundedReceiver<Job>) -> Option<oneshot::Sender<()>> {
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
    fn finish(&mut self, threads: bool) {
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

/// One blocking call per item, several at once where threads may be used: a disk makes many syncs durable in little more time than one.
fn all_at_once<T: Sync>(threads: bool, items: &[T], call: impl Fn(&T) -> io::Result<()> + Sync) -> io::Result<()> {
    if !threads || items.len() < 2 {
        return items.iter().try_for_each(call);
    }
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            call(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..SYNC_THREADS_MAX.min(items.len())).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(io::Error::other("a sync panicked"))))
    })
}

/// `magic, key length, value length, CRC32C of all the rest`, key, value.
fn encode_meta(key: &[u8], value: Option<&[u8]>) -> Bytes {
    let mut frame = Vec::with_capacity(META_HEADER_BYTES + key.len() + value.map_or(0, <[u8]>::len));
    frame.extend(META_MAGIC.to_le_bytes());
    frame.extend((key.len() as u32).to_le_bytes());
    frame.extend(value.map_or(META_DELETED, |value| value.len() as u32).to_le_bytes());
    frame.extend([0; 4]);
    frame.extend(key);
    frame.extend(value.unwrap_or_default());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..12]), &frame[META_HEADER_BYTES..]);
    frame[12..16].copy_from_slice(&crc.to_le_bytes());
    frame.into()
}

type MetaFrame<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

fn decode_meta(bytes: &[u8]) -> Option<MetaFrame<'_>> {
    let (header, rest) = bytes.split_at_checked(META_HEADER_BYTES)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (key_bytes, value_bytes) = (word(4) as usize, if word(8) == META_DELETED { 0 } else { word(8) as usize });
    if word(0) != META_MAGIC || key_bytes > META_FIELD_BYTES_MAX || value_bytes > META_FIELD_BYTES_MAX {
        return None;
    }
    let (body, rest) = rest.split_at_checked(key_bytes + value_bytes)?;
    if crc32c::crc32c_append(crc32c::crc32c(&header[..12]), body) != word(12) {
        return None;
    }
    let (key, value) = body.split_at(key_bytes);
    Some((key, (word(8) != META_DELETED).then_some(value), rest))
}

type OpenMeta = (BTreeMap<Vec<u8>, Vec<u8>>, Arc<dyn File>, u64);

fn open_meta(disk: &dyn Disk, dir: &Path) -> io::Result<OpenMeta> {
    disk.create_dir_all(dir)?;
    let path: PathBuf = dir.join("meta.log");
    let mut values = BTreeMap::new();
    if disk.exists(&path) {
        let file = disk.open(&path, false)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        let mut rest = &bytes[..filled];
        while let Some((key, value, after)) = decode_meta(rest) {
            match value {
                Some(value) => values.insert(key.to_vec(), value.to_vec()),
                None => values.remove(key),
            };
            rest = after;
        }
        // A torn tail is normal; a valid frame behind damage means that a vote may have been lost.
        if (1..rest.len()).any(|at| decode_meta(&rest[at..]).is_some()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the meta log is corrupt inside"));
        }
    }
    let compacted: Vec<Bytes> = values.iter().map(|(key, value): (&Vec<u8>, &Vec<u8>)| encode_meta(key, Some(value))).collect();
    let new = dir.join("meta.new");
    let file = disk.open(&new, true)?;
    file.set_len(0)?;
    file.write_all_at(&compacted.iter().map(|frame| IoSlice::new(frame)).collect::<Vec<_>>(), 0)?;
    file.sync()?;
    disk.rename(&new, &path)?;
    disk.sync_dir(dir)?;
    let end = compacted.iter().map(|frame| frame.len() as u64).sum();
    Ok((values, file, end))
}
