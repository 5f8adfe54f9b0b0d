//! A disk in memory. It forgets at a crash what was not synced, tears, fails, fills up, is slow and rots when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::lock;
use crate::env::{Disk, DiskSpace, File};

/// Of every simulated disk.
const DISK_BYTES: u64 = 64 << 20;
const SYNC_DELAY: Duration = Duration::from_micros(700);

/// What is wrong with a machine just now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ills {
    /// Every sync fails, and what it should have made durable is lost with the next crash, whatever a later sync says.
    pub fail_syncs: bool,
    pub fail_writes: bool,
    /// Added to the time that a sync takes.
    pub sync_delay: Duration,
    /// The wall clock is off by this, and runs that much faster.
    pub clock_offset_us: i64,
    pub clock_drift_ppm: i64,
    /// Connections that were accepted before this time of the world are not read.
    pub unread_before: Duration,
}

/// A disk that outlives its node's crashes. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
struct DiskState {
    /// Names as a running process sees them.
    names: BTreeMap<PathBuf, Arc<SimFile>>,
    /// Names as they would be after a crash.
    durable_names: BTreeMap<PathBuf, Arc<SimFile>>,
    dirs: BTreeSet<PathBuf>,
    ills: Ills,
    /// Operations that were made to fail, since ever.
    failures: u64,
    /// Files that were changed behind the node's back, since ever.
    touched: u64,
    /// Bytes that others than the node have filled.
    others_bytes: u64,
    /// The first node's start, so that a restarted node's clock goes on instead of starting again.
    started: Option<Instant>,
    /// Grows with every crash: handles of before can no longer write.
    generation: u64,
}

impl SimDisk {
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// When its first node started.
    pub(super) fn started(&self) -> Instant {
        *lock(&self.state).started.get_or_insert_with(Instant::now)
    }

    pub(super) fn ills(&self) -> Ills {
        lock(&self.state).ills
    }

    /// Loses power: un-synced names and bytes are gone, except that of each file a random prefix of its un-synced writes survives where `tear` gives a seed.
    pub fn crash(&self, tear: Option<u64>) {
        let mut state = lock(&self.state);
        let mut random = tear.map(StdRng::seed_from_u64);
        state.generation += 1;
        let generation = state.generation;
        state.names = state
            .durable_names
            .iter()
            .map(|(path, file)| (path.clone(), Arc::new(file.after_crash(random.as_mut(), generation))))
            .collect();
        state.durable_names = state.names.clone();
    }

    /// The process ends and its machine goes on: all that was written stays, synced or not.
    pub fn end_process(&self) {
        let mut state = lock(&self.state);
        state.generation += 1;
        let DiskState { names, durable_names, generation, .. } = &mut *state;
        // A file that has a name both now and after a crash stays one.
        let mut again: BTreeMap<usize, Arc<SimFile>> = BTreeMap::new();
        for file in names.values_mut().chain(durable_names.values_mut()) {
            let reopened = || {
                Arc::new(SimFile { disk: self.state.clone(), content: Mutex::new(lock(&file.content).clone()), generation: *generation })
            };
            let reopened = again.entry(Arc::as_ptr(file).addr()).or_insert_with(reopened).clone();
            *file = reopened;
        }
    }

    /// Makes every sync fail (or succeed again): a dying device.
    pub fn fail_syncs(&self, fail: bool) {
        self.ail(|ills| ills.fail_syncs = fail);
    }

    /// Changes what is wrong with the machine.
    pub fn ail(&self, change: impl FnOnce(&mut Ills)) {
        change(&mut lock(&self.state).ills);
    }

    /// Operations that failed because they were made to, since ever.
    pub fn failures(&self) -> u64 {
        lock(&self.state).failures
    }

    /// Files that were changed behind the node's back, since ever.
    pub fn touched(&self) -> u64 {
        lock(&self.state).touched
    }

    /// Somebody else fills the disk up to so many free bytes; None: takes his bytes away.
    pub fn leave_free(&self, free_bytes: Option<u64>) {
        let mut state = lock(&self.state);
        state.others_bytes = 0;
        let free = state.free_bytes();
        state.others_bytes = free_bytes.map_or(0, |left| free.saturating_sub(left));
    }

    /// Makes all that was written durable, as an idle machine comes to do.
    pub fn settle(&self) {
        let mut state = lock(&self.state);
        state.durable_names = state.names.clone();
        for file in state.names.values() {
            let mut content = lock(&file.content);
            content.durable = content.volatile.clone();
            content.unsynced.clear();
        }
    }

    /// Every file as a running process sees it, with its length.
    pub fn names(&self) -> Vec<(PathBuf, u64)> {
        lock(&self.state).names.iter().map(|(path, file)| (path.clone(), lock(&file.content).volatile.len() as u64)).collect()
    }

    /// Every durable file with its bytes: what a copy of the disk would hold.
    pub fn copy(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = lock(&self.state);
        state.durable_names.iter().map(|(path, file)| (path.clone(), lock(&file.content).durable.clone())).collect()
    }

    /// One byte, as whoever reads the file finds it.
    pub fn byte(&self, path: &Path, at: usize) -> Option<u8> {
        lock(&self.state).names.get(path).and_then(|file| lock(&file.content).volatile.get(at).copied())
    }

    /// Puts other bytes in a file's place, or none: a file system that lost or confused files. For a node that is down.
    pub fn replace(&self, path: &Path, bytes: Option<Vec<u8>>) {
        let mut state = lock(&self.state);
        state.touched += 1;
        let (disk, generation) = (self.state.clone(), state.generation);
        let file = bytes.map(|bytes| {
            let content = Content { volatile: bytes.clone(), durable: bytes, unsynced: Vec::new() };
            Arc::new(SimFile { disk, content: Mutex::new(content), generation })
        });
        let DiskState { names, durable_names, .. } = &mut *state;
        for names in [names, durable_names] {
            names.remove(path);
            names.extend(file.iter().map(|file| (path.to_owned(), file.clone())));
        }
    }

    /// Flips one bit of a durable file, as a decaying medium does.
    pub fn flip_bit(&self, path: &Path, byte: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.touched += 1;
        let file = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let mut content = lock(&file.content);
        let position = usize::try_from(byte).map_err(io::Error::other)?;
        *content.volatile.get_mut(position).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1;
        if let Some(byte) = content.durable.get_mut(position) {
            *byte ^= 1;
        }
        Ok(())
    }
}

impl DiskState {
    fn free_bytes(&self) -> u64 {
        let used: u64 = self.names.values().map(|file| lock(&file.content).volatile.len() as u64).sum();
        DISK_BYTES.saturating_sub(used).saturating_sub(self.others_bytes)
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<DiskState>>,
    content: Mutex<Content>,
    generation: u64,
}

#[derive(Debug, Clone, Default)]
struct Content {
    volatile: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, in order.
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Change::Length(length) => content.resize(*length, 0),
        }
    }
}

impl SimFile {
    fn after_crash(&self, random: Option<&mut StdRng>, generation: u64) -> SimFile {
        let content = lock(&self.content);
        let mut kept = content.durable.clone();
        if let Some(random) = random {
            let whole = random.random_range(0..=content.unsynced.len());
            for change in &content.unsynced[..whole] {
                change.apply(&mut kept);
            }
            // The next write tears in the middle.
            if let Some(Change::Write { offset, bytes }) = content.unsynced.get(whole) {
                let torn = random.random_range(0..=bytes.len());
                Change::Write { offset: *offset, bytes: bytes[..torn].to_vec() }.apply(&mut kept);
            }
        }
        SimFile {
            disk: self.disk.clone(),
            content: Mutex::new(Content { volatile: kept.clone(), durable: kept, unsynced: Vec::new() }),
            generation,
        }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.check_alive()?;
        let mut content = lock(&self.content);
        change.apply(&mut content.volatile);
        content.unsynced.push(change);
        Ok(())
    }

    /// Finds room for a file of that length.
    fn find_room(&self, length: usize) -> io::Result<()> {
        let held = lock(&self.content).volatile.len();
        let mut state = lock(&self.disk);
        if state.ills.fail_writes {
            state.failures += 1;
            return Err(io::Error::other("simulated write failure"));
        }
        if length > held && state.others_bytes > 0 && state.free_bytes() < (length - held) as u64 {
            state.failures += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn check_alive(&self) -> io::Result<()> {
        match lock(&self.disk).generation == self.generation {
            true => Ok(()),
            false => Err(io::Error::other("the node that opened this file has crashed")),
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = lock(&self.content);
        let start = usize::try_from(offset).map_err(io::Error::other)?.min(content.volatile.len());
        let count = buffer.len().min(content.volatile.len() - start);
        buffer[..count].copy_from_slice(&content.volatile[start..start + count]);
        Ok(count)
    }
    fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.find_room(offset + bytes.len())?;
        self.change(Change::Write { offset, bytes })
    }
    fn sync(&self) -> io::Result<()> {
        self.check_alive()?;
        let failed = failed_sync(&mut lock(&self.disk));
        let mut content = lock(&self.content);
        if failed.is_err() {
            content.unsynced.clear();
            return failed;
        }
        let Content { durable, unsynced, .. } = &mut *content;
        for change in unsynced.drain(..) {
            change.apply(durable);
        }
        Ok(())
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        self.find_room(bytes)?;
        let length = lock(&self.content).volatile.len();
        if length >= bytes {
            return Ok(());
        }
        self.change(Change::Length(bytes))
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::Length(usize::try_from(bytes).map_err(io::Error::other)?))
    }
    /// Memory takes what a failed sync did not write for clean: what is read after that is older.
    fn forget(&self, _: u64, _: u64) {
        let Content { volatile, durable, unsynced } = &mut *lock(&self.content);
        volatile.clone_from(durable);
        unsynced.iter().for_each(|change| change.apply(volatile));
    }
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.content).volatile.len() as u64)
    }
}

fn failed_sync(state: &mut DiskState) -> io::Result<()> {
    if state.ills.fail_syncs {
        state.failures += 1;
        return Err(io::Error::other("simulated sync failure"));
    }
    Ok(())
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let mut state = lock(&self.state);
        if let Some(file) = state.names.get(path) {
            return Ok(file.clone());
        }
        if !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = Arc::new(SimFile { disk: self.state.clone(), content: Mutex::default(), generation: state.generation });
        state.names.insert(path.to_owned(), file.clone());
        Ok(file)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        lock(&self.state).dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = lock(&self.state);
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names: BTreeSet<PathBuf> = state.names.keys().chain(&state.dirs).filter(|name| name.parent() == Some(path)).cloned().collect();
        Ok(names.into_iter().collect())
    }
    fn exists(&self, path: &Path) -> bool {
        let state = lock(&self.state);
        state.names.contains_key(path) || state.dirs.contains(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        Ok(())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        lock(&self.state).names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.names.retain(|name, _| !name.starts_with(path));
        state.dirs.retain(|name| !name.starts_with(path));
        Ok(())
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        failed_sync(&mut state)?;
        // A folder removed whole takes its children along, hence `starts_with` on what is gone.
        let DiskState { names, durable_names, dirs, .. } = &mut *state;
        durable_names.retain(|name, _| {
            let beneath = name.starts_with(path) && (name.parent() == Some(path) || !name.parent().is_some_and(|dir| dirs.contains(dir)));
            !beneath || names.contains_key(name)
        });
        for (name, file) in names.iter().filter(|(name, _)| name.parent() == Some(path)) {
            durable_names.insert(name.clone(), file.clone());
        }
        Ok(())
    }
    fn sync_delay(&self) -> BoxFuture<'static, ()> {
        tokio::time::sleep(SYNC_DELAY + lock(&self.state).ills.sync_delay).boxed()
    }
    fn is_simulated(&self) -> bool {
        true
    }
    fn space(&self, _: &Path) -> io::Result<Option<DiskSpace>> {
        Ok(Some(DiskSpace { total_bytes: DISK_BYTES, free_bytes: lock(&self.state).free_bytes() }))
    }
}
