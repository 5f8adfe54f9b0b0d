//! Space on the disk of the data folder: enough is kept free for what a node must be able to write, and new data is refused before it runs out.
//!
//! New data is refused while less than a share of the disk is free, and taken again once clearly more is. What must be written all the same
//! (votes, commit indexes, the controller's log, entries that Raft has accepted) may use that share, and when even that is gone a file that
//! was reserved for it. Both come back by themselves as soon as there is space.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;

use crate::env::{Disk, DiskSpace, Env, File};

/// New data is refused below this share of the disk, and below this much.
const FREE_SHARE: u64 = 20;
const FREE_BYTES_MAX: u64 = 512 << 20;
/// What is reserved beyond that.
const RESERVE_SHARE: u64 = 100;
const RESERVE_BYTES_MAX: u64 = 32 << 20;
const RESERVE_FILE: &str = "reserve";

/// What is known of the space on a data folder's disk.
#[derive(Debug)]
pub(crate) struct Space {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    full: AtomicBool,
    free: AtomicU64,
    /// What may still be reserved until the next look.
    allowance: AtomicI64,
    /// The reserve and its size; None where it has been given up, or could not be made yet.
    reserve: Mutex<Option<Arc<dyn File>>>,
    /// Times that data was refused from.
    fills: AtomicU64,
}

/// No space, or none within the quota.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn limits(space: DiskSpace) -> (u64, u64) {
    ((space.total_bytes / FREE_SHARE).min(FREE_BYTES_MAX), (space.total_bytes / RESERVE_SHARE).min(RESERVE_BYTES_MAX))
}

impl Space {
    /// The environment whose disk keeps room, and what it knows.
    pub fn keep(env: &Env, dir: &Path) -> io::Result<(Env, Arc<Space>)> {
        env.disk.create_dir_all(dir)?;
        let space = Space {
            disk: env.disk.clone(),
            dir: dir.to_owned(),
            full: AtomicBool::new(false),
            free: AtomicU64::new(0),
            allowance: AtomicI64::new(i64::MAX),
            reserve: Mutex::new(None),
            fills: AtomicU64::new(0),
        };
        let space = Arc::new(space);
        space.look();
        let env = Env { disk: Arc::new(RoomyDisk { disk: env.disk.clone(), space: space.clone() }), ..env.clone() };
        Ok((env, space))
    }

    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }
    pub fn free_bytes(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }
    pub fn fills(&self) -> u64 {
        self.fills.load(Ordering::Relaxed)
    }

    /// Asks the disk, reserves what is missing, and decides whether new data is taken. Cheap enough for once a second.
    pub fn look(&self) {
        let Ok(Some(space)) = self.disk.space(&self.dir) else { return };
        let (free_min, reserve) = limits(space);
        let held = self.rebuild(space, free_min + reserve, reserve);
        // Between the two limits things stay as they are.
        let enough = if self.is_full() { held && space.free_bytes >= free_min + free_min / 4 } else { space.free_bytes >= free_min };
        self.free.store(space.free_bytes, Ordering::Relaxed);
        self.allowance.store(i64::try_from(space.free_bytes.saturating_sub(free_min)).unwrap_or(i64::MAX), Ordering::Relaxed);
        if !enough {
            self.fill(space.free_bytes);
        } else if self.full.swap(false, Ordering::Relaxed) {
            tracing::info!(free_bytes = space.free_bytes, "there is space again: new data is taken");
        }
    }

    fn fill(&self, free_bytes: u64) {
        if !self.full.swap(true, Ordering::Relaxed) {
            self.fills.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(free_bytes, dir = %self.dir.display(), "the disk is nearly full: new data is refused until there is space");
        }
    }

    /// True where the reserve is held.
    fn rebuild(&self, space: DiskSpace, needed: u64, bytes: u64) -> bool {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join(RESERVE_FILE);
        if reserve.is_none() && (space.free_bytes >= needed || self.disk.exists(&path)) {
            let made =
                self.disk.open(&path, true).and_then(|file| file.allocate(bytes).map(|()| file.clone()).inspect_err(|_| give_up(&*file)));
            *reserve = made.ok();
        }
        reserve.is_some()
    }

    /// Runs `work` again with the reserve's space if it finds none. Only for what does the same when done twice.
    fn with_room<T>(&self, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let result = work();
        if !result.as_ref().err().is_some_and(is_full) {
            return result;
        }
        self.fill(0);
        let reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(reserve) = reserve else { return result };
        tracing::warn!(dir = %self.dir.display(), "the disk is full: the reserve is given up for what must be written");
        give_up(&*reserve);
        work()
    }

    fn reserves(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.allowance.fetch_sub(bytes, Ordering::Relaxed) < bytes {
            self.fill(self.free_bytes());
        }
    }
}

fn give_up(reserve: &dyn File) {
    if let Err(error) = reserve.set_len(0) {
        tracing::error!(%error, "the reserve cannot be given up");
    }
}

/// A disk that keeps room.
#[derive(Debug)]
struct RoomyDisk {
    disk: Arc<dyn Disk>,
    space: Arc<Space>,
}

impl Disk for RoomyDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let file = self.space.with_room(|| self.disk.open(path, create))?;
        Ok(Arc::new(RoomyFile { file, space: self.space.clone() }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.space.with_room(|| self.disk.create_dir_all(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.space.with_room(|| self.disk.rename(from, to))
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn sync_delay(&self) -> BoxFuture<'static, ()> {
        self.disk.sync_delay()
    }
    fn is_simulated(&self) -> bool {
        self.disk.is_simulated()
    }
    fn space(&self, path: &Path) -> io::Result<Option<DiskSpace>> {
        self.disk.space(path)
    }
    fn refuses_data(&self) -> bool {
        self.space.is_full()
    }
}

#[derive(Debug)]
struct RoomyFile {
    file: Arc<dyn File>,
    space: Arc<Space>,
}

impl File for RoomyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn read_past_cache(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_past_cache(buffer, offset)
    }
    fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.space.with_room(|| self.file.write_all_at(slices, offset))
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    /// Without space the file grows all the same, by a hole: whether what is written there finds room is then told by the write. What is left is
    /// not for what may be written some day.
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let length = self.file.len()?;
        if self.space.is_full() {
            return if length < bytes { self.file.set_len(bytes) } else { Ok(()) };
        }
        self.space.reserves(bytes.saturating_sub(length));
        match self.file.allocate(bytes) {
            Err(error) if is_full(&error) => {
                self.space.fill(0);
                if length < bytes { self.file.set_len(bytes) } else { Ok(()) }
            }
            result => result,
        }
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
    fn forget(&self, offset: u64, bytes: u64) {
        self.file.forget(offset, bytes);
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn written_until(&self) -> io::Result<u64> {
        self.file.written_until()
    }
}
