//! Many files written and made durable at once: a disk makes many syncs durable in little more time than one.
//!
//! The threads stand ready from the first round that needs them on. One dirty file is written by the caller alone, without any hand-over.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;

use super::lock;
use crate::env::{Disk, File};

/// Threads of the pool; with the caller, one more file is synced at once.
const SYNC_THREADS_MAX: usize = 15;

/// Contiguous bytes of a file.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) parts: Vec<Bytes>,
}

/// What can be made durable.
#[derive(Debug)]
pub(super) enum Target {
    File(Arc<dyn File>),
    /// A file, once these bytes stand in it.
    Runs(Arc<dyn File>, Vec<Run>),
    /// Creations, renames and removals in a folder.
    Folder(Arc<dyn Disk>, PathBuf),
}

/// What is left out; nothing but as a mutation, or where nobody waits for durability.
#[derive(Debug, Clone, Copy)]
pub(super) enum Syncs {
    All,
    Unheeded,
    None,
}

impl Target {
    fn write(&self) -> io::Result<()> {
        let Target::Runs(file, runs) = self else { return Ok(()) };
        for run in runs {
            let slices: Vec<IoSlice<'_>> = run.parts.iter().map(|part| IoSlice::new(part)).collect();
            file.write_all_at(&slices, run.start)?;
        }
        Ok(())
    }

    fn sync(&self, syncs: Syncs) -> io::Result<()> {
        let sync = || match self {
            Target::File(file) | Target::Runs(file, _) => file.sync(),
            Target::Folder(disk, path) => disk.sync_dir(path),
        };
        match syncs {
            Syncs::All => sync(),
            Syncs::Unheeded => {
                let _ = sync();
                Ok(())
            }
            Syncs::None => Ok(()),
        }
    }
}

/// One call of [`SyncPool::sync_all`], shared by those who work on it.
#[derive(Debug)]
struct Batch {
    targets: Vec<Target>,
    syncs: Syncs,
    next: AtomicUsize,
    /// How many were worked on, and the first failure.
    ended: Mutex<(usize, Option<io::Error>)>,
    all_ended: Condvar,
}

impl Batch {
    fn work(&self) {
        while let Some(target) = self.targets.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let result = target.write().and_then(|()| target.sync(self.syncs));
            let mut ended = lock(&self.ended);
            ended.0 += 1;
            if let Err(error) = result {
                ended.1.get_or_insert(error);
            }
            if ended.0 == self.targets.len() {
                self.all_ended.notify_one();
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let ended = self.all_ended.wait_while(lock(&self.ended), |(count, _)| *count < self.targets.len());
        ended.unwrap_or_else(PoisonError::into_inner).1.take().map_or(Ok(()), Err)
    }
}

/// Where the threads look for work.
#[derive(Debug, Default)]
struct Board {
    /// One call to a thread each; None ends a thread.
    calls: Mutex<VecDeque<Option<Arc<Batch>>>>,
    called: Condvar,
}

impl Board {
    fn call(&self, count: usize, batch: Option<&Arc<Batch>>) {
        lock(&self.calls).extend(std::iter::repeat_n(batch.cloned(), count));
        (0..count).for_each(|_| self.called.notify_one());
    }

    fn serve(&self) {
        loop {
            let calls = self.called.wait_while(lock(&self.calls), |calls| calls.is_empty());
            let call = calls.unwrap_or_else(PoisonError::into_inner).pop_front().flatten();
            let Some(batch) = call else { return };
            batch.work();
        }
    }
}

/// The threads that sync, or (in simulation) none.
#[derive(Debug)]
pub(super) struct SyncPool {
    board: Arc<Board>,
    threads: usize,
    threads_max: usize,
}

impl SyncPool {
    /// Without threads everything is done by the caller, one after the other, as the simulator needs it.
    pub(super) fn new(with_threads: bool) -> SyncPool {
        SyncPool { board: Arc::default(), threads: 0, threads_max: if with_threads { SYNC_THREADS_MAX } else { 0 } }
    }

    /// Returns once every target has been tried; the first failure speaks for all.
    pub(super) fn sync_all(&mut self, targets: Vec<Target>, syncs: Syncs) -> io::Result<()> {
        if self.threads_max == 0 || targets.len() < 2 {
            targets.iter().try_for_each(Target::write)?;
            return targets.iter().try_for_each(|target| target.sync(syncs));
        }
        let count = (targets.len() - 1).min(self.threads_max);
        while self.threads < count && self.start_one().is_ok() {}
        let batch = Arc::new(Batch { targets, syncs, next: AtomicUsize::new(0), ended: Mutex::default(), all_ended: Condvar::new() });
        self.board.call(count.min(self.threads), Some(&batch));
        batch.work();
        batch.wait()
    }

    fn start_one(&mut self) -> io::Result<()> {
        let board = self.board.clone();
        let started = std::thread::Builder::new().name(format!("log-sync-{}", self.threads)).spawn(move || board.serve());
        if let Err(error) = &started {
            // Fewer at once is slower, not wrong.
            tracing::warn!(%error, threads = self.threads, "no more threads for syncs");
            self.threads_max = self.threads;
        }
        self.threads += usize::from(started.is_ok());
        started.map(drop)
    }
}

impl Drop for SyncPool {
    fn drop(&mut self) {
        self.board.call(self.threads, None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Debug, Default)]
    struct Counting {
        syncs: AtomicUsize,
        fails: bool,
    }

    impl File for Counting {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn write_all_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            std::thread::sleep(std::time::Duration::from_micros(50));
            self.syncs.fetch_add(1, Ordering::Relaxed);
            if self.fails { Err(io::Error::other("worn out")) } else { Ok(()) }
        }
        fn allocate(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
    }

    #[test]
    fn every_file_is_synced_once_before_the_call_returns() {
        let mut pool = SyncPool::new(true);
        for count in (0..60).chain([200]) {
            let files: Vec<Arc<Counting>> = (0..count).map(|_| Arc::default()).collect();
            pool.sync_all(files.iter().map(|file| Target::File(file.clone())).collect(), Syncs::All).expect("synced");
            assert!(files.iter().all(|file| file.syncs.load(Ordering::Relaxed) == 1), "of {count} files");
        }
        assert_eq!(pool.threads, SYNC_THREADS_MAX);
    }

    #[test]
    fn one_failure_among_many_is_told() {
        let mut pool = SyncPool::new(true);
        for bad in 0..20 {
            let files = (0..20).map(|i| Target::File(Arc::new(Counting { fails: i == bad, ..Counting::default() })));
            assert!(pool.sync_all(files.collect(), Syncs::All).is_err(), "file {bad}");
        }
    }
}
