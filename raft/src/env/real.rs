//! The real world: system clock, files, TCP, the operating system's randomness.

use std::fs;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};

use super::direct::{Appender, Direct};
use super::{Clock, Disk, DiskSpace, Env, File, Listener, Net, Random, Stream};

/// Kernels take at most this many slices in one `pwritev` (`IOV_MAX` on Linux).
const SLICES_MAX: usize = 1024;

/// Shorter reads go through the page cache: the device would be asked more often than is worth it.
const READ_PAST_CACHE_BYTES_MIN: usize = 64 << 10;

impl Env {
    /// The machine this process runs on.
    pub fn real() -> Env {
        Env {
            clock: Arc::new(RealClock),
            disk: Arc::new(RealDisk),
            net: Arc::new(RealNet),
            random: Arc::new(RealRandom),
            #[cfg(feature = "sim")]
            mutations: super::Mutations::default(),
        }
    }
}

#[derive(Debug)]
struct RealClock;

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam: the one place that reads the wall clock")]
    fn wall_us(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

#[derive(Debug)]
struct RealRandom;

impl Random for RealRandom {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

#[derive(Debug)]
struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
        Ok(Arc::new(RealFile { file, direct: Direct::default(), appender: Mutex::new(None) }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }
    fn sync_delay(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
    fn is_simulated(&self) -> bool {
        false
    }
    fn space(&self, path: &Path) -> io::Result<Option<DiskSpace>> {
        let told = rustix::fs::statvfs(path)?;
        Ok(Some(DiskSpace { total_bytes: told.f_blocks * told.f_frsize, free_bytes: told.f_bavail * told.f_frsize }))
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    direct: Direct,
    /// None while nothing is known of the file's end.
    appender: Mutex<Option<Appender>>,
}

impl RealFile {
    fn appender(&self) -> MutexGuard<'_, Option<Appender>> {
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_through_cache(&self, slices: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        for slices in slices.chunks(SLICES_MAX) {
            let total: usize = slices.iter().map(|slice| slice.len()).sum();
            let mut written = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, slices, offset))?;
            // A short write is rare (signals, a full disk): finish it slice by slice.
            let mut position = offset;
            for slice in slices {
                let skip = written.min(slice.len());
                written -= skip;
                if skip < slice.len() {
                    self.file.write_all_at(&slice[skip..], position + skip as u64)?;
                }
                position += slice.len() as u64;
            }
            offset += total as u64;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn read_past_cache(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = if buffer.len() < READ_PAST_CACHE_BYTES_MIN { None } else { self.direct.read(&self.file, buffer, offset)? };
        read.map_or_else(|| self.read_at(buffer, offset), Ok)
    }
    fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut appender = self.appender();
        let Some(appender) = &mut *appender else { return self.write_through_cache(slices, offset) };
        if !appender.append(&self.direct, &self.file, slices, offset)? {
            self.write_through_cache(slices, offset)?;
            appender.note_write(offset + slices.iter().map(|slice| slice.len() as u64).sum::<u64>());
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn written_until(&self) -> io::Result<u64> {
        use rustix::fs::{SeekFrom, seek};
        let mut until = 0;
        loop {
            match seek(&self.file, SeekFrom::Data(until)) {
                Ok(written) => match seek(&self.file, SeekFrom::Hole(written)) {
                    Ok(hole) if hole > until => until = hole,
                    _ => return self.len(),
                },
                Err(rustix::io::Errno::NXIO) => return Ok(until),
                Err(_) => return self.len(),
            }
        }
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut appender = self.appender();
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            // Some file systems cannot reserve; a sparse file is correct too, only its syncs are slower.
            Err(error) if error == rustix::io::Errno::OPNOTSUPP => {
                if self.file.metadata()?.len() < bytes {
                    self.file.set_len(bytes)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(appender) = &mut *appender {
            appender.reserved(bytes);
        }
        Ok(())
    }
    fn forget(&self, offset: u64, bytes: u64) {
        let _ = rustix::fs::fadvise(&self.file, offset, std::num::NonZeroU64::new(bytes), rustix::fs::Advice::DontNeed);
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut appender = self.appender();
        self.file.set_len(bytes)?;
        *appender = Some(Appender::cut(appender.take(), bytes));
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[derive(Debug)]
struct RealNet;

impl Net for RealNet {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        async move { Ok(Box::new(RealListener(TcpListener::bind(address).await?)) as Box<dyn Listener>) }.boxed()
    }
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let address = address.to_owned();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }
        .boxed()
    }
}

#[derive(Debug)]
struct RealListener(TcpListener);

impl Listener for RealListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        async move {
            let (stream, peer) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Stream>, peer))
        }
        .boxed()
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use crate::env::{BLOCK_BYTES, Env, File};

    #[test]
    fn what_was_written_is_never_taken_for_merely_reserved() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Env::real().disk.open(&folder.path().join("file"), true).expect("a file");
        assert_eq!(file.written_until().expect("told"), 0);
        file.allocate(8 << 20).expect("reserved");
        for offset in [0, 5_000, 3 << 20] {
            file.write_all_at(&[IoSlice::new(b"written")], offset).expect("written");
            let until = file.written_until().expect("told");
            assert!((offset + 7..=8 << 20).contains(&until), "{until} after writing at {offset}");
        }
    }

    /// What a file has to hold, kept beside it.
    struct Twin {
        file: Arc<dyn File>,
        model: Vec<u8>,
        random: StdRng,
    }

    impl Twin {
        fn new(folder: &Path, seed: u64) -> Twin {
            let file = Env::real().disk.open(&folder.join("twin"), true).expect("a file");
            file.set_len(0).expect("empty");
            file.allocate(1 << 20).expect("reserved");
            Twin { file, model: Vec::new(), random: StdRng::seed_from_u64(seed) }
        }

        fn append(&mut self) {
            let bytes = match self.random.random_range(0..4) {
                0 => self.random.random_range(1..200),
                1 => self.random.random_range(1..5) << 12,
                2 => self.random.random_range(1..20_000),
                _ => self.random.random_range(1..700_000),
            };
            let mut fresh = vec![0; bytes];
            self.random.fill(&mut fresh[..]);
            let (head, tail) = fresh.split_at(self.random.random_range(0..=bytes));
            let end = (self.model.len() + bytes) as u64;
            self.file.allocate(end.next_multiple_of(1 << 16)).expect("reserved");
            self.file.write_all_at(&[IoSlice::new(head), IoSlice::new(tail)], self.model.len() as u64).expect("written");
            self.model.extend(fresh);
        }

        fn cut(&mut self) {
            let (length, reserved) = (self.random.random_range(0..=self.model.len()), self.file.len().expect("told"));
            self.file.set_len(length as u64).expect("cut");
            self.file.allocate(reserved).expect("reserved again");
            self.model.truncate(length);
        }

        fn check(&mut self, what: &str) {
            let mut held = vec![1; usize::try_from(self.file.len().expect("told")).expect("short")];
            let mut filled = 0;
            while filled < held.len() {
                filled += self.file.read_at(&mut held[filled..], filled as u64).expect("read");
            }
            assert!(held.starts_with(&self.model), "{what}: the bytes are others");
            assert!(held[self.model.len()..].iter().all(|byte| *byte == 0), "{what}: behind the end stand no zeros");
            let block = usize::try_from(BLOCK_BYTES).expect("short");
            for bytes in [700, 70_000, 18 * block, 220 * block] {
                let from = self.random.random_range(0..=held.len());
                let from = if bytes % block == 0 { from - from % block } else { from };
                let mut memory = vec![1; bytes + block];
                let begin = memory.as_ptr().align_offset(block);
                let read = self.file.read_past_cache(&mut memory[begin..begin + bytes], from as u64).expect("read");
                let expected = &held[from..(from + bytes).min(held.len())];
                assert!(memory[begin..begin + read] == *expected, "{what}: {bytes} bytes read past the cache from {from}");
            }
        }
    }

    #[test]
    fn appends_and_cuts_leave_what_a_plain_file_would_hold() {
        for seed in 0..3 {
            let folder = tempfile::tempdir().expect("a folder");
            let mut twin = Twin::new(folder.path(), seed);
            for step in 0..40 {
                match twin.random.random_range(0..8) {
                    0 => twin.cut(),
                    1 => {
                        // As after a restart: the end is not known until recovery cuts behind it.
                        twin.file = Env::real().disk.open(&folder.path().join("twin"), false).expect("opened again");
                        twin.file.set_len(twin.model.len() as u64).expect("cut");
                        twin.file.allocate(2 << 20).expect("reserved");
                    }
                    2 => {
                        twin.file = Env::real().disk.open(&folder.path().join("twin"), false).expect("opened again");
                        twin.append();
                    }
                    _ => twin.append(),
                }
                twin.file.sync().expect("synced");
                twin.check(&format!("seed {seed}, step {step}"));
            }
        }
    }

    #[test]
    fn what_was_appended_is_read_whole_while_the_block_it_ends_in_is_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Env::real().disk.open(&folder.path().join("file"), true).expect("a file");
        file.set_len(0).expect("empty");
        file.allocate(4 << 20).expect("reserved");
        let end = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut held = vec![0; 8192];
                    loop {
                        let until = end.load(Ordering::Acquire);
                        if until == usize::MAX {
                            return;
                        }
                        let from = until.saturating_sub(8192);
                        let count = file.read_at(&mut held[..until - from], from as u64).expect("read");
                        assert!((from..from + count).zip(&held).all(|(at, byte)| *byte == (at % 251) as u8 + 1), "at {from}");
                    }
                });
            }
            let mut at = 0;
            while at < 2 << 20 {
                let bytes: Vec<u8> = (at..at + 700).map(|at| (at % 251) as u8 + 1).collect();
                file.write_all_at(&[IoSlice::new(&bytes)], at as u64).expect("written");
                at += bytes.len();
                end.store(at, Ordering::Release);
            }
            end.store(usize::MAX, Ordering::Release);
        });
    }
}
