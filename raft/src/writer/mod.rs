//! The one I/O thread of a data folder: group commit of every log's appends, and the node's meta log.
//!
//! [`rounds`] is what the thread does, [`sync`] makes many files durable at once, [`meta`] is the file of the votes and commit indexes.
//!
//! A failed write or sync is final: every later job is answered with the error, because what a second sync would report is not to be believed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use crate::env::{Env, File};
use crate::log::Flushed;

mod meta;
mod rounds;
mod sync;

use meta::{META_FIELD_BYTES_MAX, MetaLog, Values, encode_meta};
use rounds::Rounds;

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
        done: Flushed,
    },
    /// Writes what was saved lazily.
    SaveLazy,
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
    meta: Mutex<Meta>,
    stats: Mutex<WriterStats>,
    changes: AtomicU64,
    /// Set once, by the first write or sync that failed.
    failure: watch::Sender<Option<String>>,
}

/// The meta log's content, ahead of the file by what is queued.
#[derive(Debug, Default)]
struct Meta {
    values: Values,
    /// Keys of which the file may hold an older value, or none.
    lazy: BTreeSet<Vec<u8>>,
}

impl Meta {
    fn take_lazy(&mut self) -> Vec<Bytes> {
        let lazy = std::mem::take(&mut self.lazy);
        lazy.iter().filter_map(|key| Some(encode_meta(key, Some(self.values.get(key)?)))).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stopped() -> io::Error {
    io::Error::other("the writer has stopped")
}

impl Writer {
    /// Replays and compacts the meta log, then starts the I/O thread (in simulation: a task).
    pub fn start(env: &Env, data_dir: &Path) -> io::Result<Writer> {
        let (log, values) = MetaLog::open(&env.disk, data_dir)?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            meta: Mutex::new(Meta { values, lazy: BTreeSet::new() }),
            stats: Mutex::default(),
            changes: AtomicU64::new(0),
            failure: watch::Sender::default(),
        });
        let mut rounds = Rounds::new(shared.clone(), env, log);
        let disk = env.disk.clone();
        if disk.is_simulated() {
            tokio::spawn(async move {
                let mut queue = queue;
                while let Some(job) = queue.recv().await {
                    let stop = rounds.take(job, &mut queue);
                    disk.sync_delay().await;
                    rounds.finish();
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
                    rounds.finish();
                    if let Some(stop) = stop {
                        let _ = stop.send(());
                        break;
                    }
                }
            })?;
        }
        Ok(Writer { jobs, shared })
    }

    /// Counts what is saved that a node must not forget.
    pub(crate) fn note_change(&self) {
        self.shared.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Relaxed)
    }

    pub(crate) fn queue(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).map_err(|_| stopped())
    }

    /// The value as of open, or saved since (perhaps not yet durable).
    pub fn meta(&self, key: Vec<u8>) -> Option<Vec<u8>> {
        lock(&self.shared.meta).values.get(&key).cloned()
    }

    /// The keys that begin with this byte.
    pub(crate) fn meta_keys(&self, kind: u8) -> Vec<Vec<u8>> {
        let meta = lock(&self.shared.meta);
        meta.values.range(vec![kind]..vec![kind + 1]).map(|(key, _)| key.clone()).collect()
    }

    /// Saves (None: deletes); resolves once durable. In order with appends queued before.
    pub fn save_meta(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> BoxFuture<'static, io::Result<()>> {
        let (done, outcome) = oneshot::channel();
        let done: Flushed = Box::new(move |result| {
            let _ = done.send(result);
        });
        let queued = self.queue_meta(key, value, done);
        async move {
            queued?;
            outcome.await.map_err(|_| stopped())?
        }
        .boxed()
    }

    /// Saves; `done` is called once it is durable, in order with appends queued before.
    pub(crate) fn save_meta_then(&self, key: Vec<u8>, value: Option<Vec<u8>>, done: Flushed) -> io::Result<()> {
        self.queue_meta(key, value, done)
    }

    /// Resolves once everything is done that was queued before, or never will be.
    pub(crate) fn flushed(&self) -> BoxFuture<'static, ()> {
        let (sender, flushed) = oneshot::channel::<()>();
        let done: Flushed = Box::new(move |_| drop(sender));
        let queued = self.queue(Job::Task { task: Box::new(|| Ok(())), done });
        async move {
            if queued.is_ok() {
                let _ = flushed.await;
            }
        }
        .boxed()
    }

    /// Saves for [`Writer::save_lazy`]. A key that is saved so is never saved otherwise, but it may be deleted.
    pub fn save_meta_lazily(&self, key: Vec<u8>, value: Vec<u8>) {
        let mut meta = lock(&self.shared.meta);
        meta.values.insert(key.clone(), value);
        meta.lazy.insert(key);
    }

    /// Writes what was saved lazily since the last time: of each key the last value alone.
    pub fn save_lazy(&self) {
        if !lock(&self.shared.meta).lazy.is_empty() {
            // A writer that has stopped loses lazily saved values; that is what lazily means.
            let _ = self.queue(Job::SaveLazy);
        }
    }

    fn queue_meta(&self, key: Vec<u8>, value: Option<Vec<u8>>, done: Flushed) -> io::Result<()> {
        if key.len() > META_FIELD_BYTES_MAX || value.as_ref().is_some_and(|value| value.len() > META_FIELD_BYTES_MAX) {
            return Err(io::Error::other("a meta field is too long"));
        }
        let frame = encode_meta(&key, value.as_deref());
        // Queued under the lock, so that memory and file agree on the order.
        let mut meta = lock(&self.shared.meta);
        self.queue(Job::Meta { frame, done })?;
        meta.lazy.remove(&key);
        match value {
            Some(value) => meta.values.insert(key, value),
            None => meta.values.remove(&key),
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

    /// Why nothing can be written any more, once that is so.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failure.subscribe()
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

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn the_meta_log_stays_near_its_live_values_and_keeps_the_last_of_each() {
        let (folder, env) = (tempfile::tempdir().expect("a folder"), Env::real());
        let writer = Writer::start(&env, folder.path()).expect("a writer");
        for round in 0..20u64 {
            let saves = (0..400u64).map(|i| {
                let mut value = vec![b'.'; 1000];
                value[..8].copy_from_slice(&(round * 400 + i).to_be_bytes());
                writer.save_meta(vec![(i % 10) as u8], Some(value))
            });
            join_all(saves).await.into_iter().collect::<io::Result<()>>().expect("saved");
        }
        let bytes = std::fs::metadata(folder.path().join("meta.log")).expect("a file").len();
        assert!(bytes < 2 << 20, "8 MB were saved, 10 KB are live, the file has {bytes} bytes");
        writer.stop().await;
        let again = Writer::start(&env, folder.path()).expect("a writer again");
        for key in 0..10u8 {
            let last = again.meta(vec![key]).expect("a value");
            assert_eq!(u64::from_be_bytes(last[..8].try_into().expect("eight bytes")), 19 * 400 + 390 + u64::from(key));
        }
    }

    #[tokio::test]
    async fn what_is_saved_lazily_reaches_the_file_on_request_and_at_the_stop() {
        let (folder, env) = (tempfile::tempdir().expect("a folder"), Env::real());
        let file_bytes = || std::fs::metadata(folder.path().join("meta.log")).expect("a file").len();
        let writer = Writer::start(&env, folder.path()).expect("a writer");
        for value in 0..100u8 {
            writer.save_meta_lazily(b"commit".to_vec(), vec![value]);
        }
        assert_eq!(file_bytes(), 0, "nothing is written yet");
        writer.save_lazy();
        writer.save_meta(b"vote".to_vec(), Some(vec![1])).await.expect("saved behind it");
        assert!(file_bytes() < 100, "one frame of each");
        writer.save_meta_lazily(b"commit".to_vec(), vec![200]);
        writer.stop().await;
        let again = Writer::start(&env, folder.path()).expect("a writer again");
        assert_eq!(again.meta(b"commit".to_vec()), Some(vec![200]));
    }
}
