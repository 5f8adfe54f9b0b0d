//! The one seam between Meridian and the outside: clock, disk, network, randomness. Each has a real and (feature `sim`) a simulated form.
//!
//! Timers are `tokio::time` everywhere: the simulator runs tokio with virtual time. Only the *wall* clock needs a trait.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

mod direct;
mod mutations;
mod real;
#[cfg(feature = "sim")]
mod simulated;

pub(crate) use direct::BLOCK_BYTES;
pub use mutations::Mutations;
#[cfg(feature = "sim")]
pub use simulated::{Ear, Ills, Said, SimDisk};

/// What a node may touch. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub disk: Arc<dyn Disk>,
    pub net: Arc<dyn Net>,
    pub random: Arc<dyn Random>,
    #[cfg(feature = "sim")]
    pub mutations: Mutations,
}

impl Env {
    /// What is broken on purpose; nothing in a build without the simulator.
    pub(crate) fn mutations(&self) -> Mutations {
        #[cfg(feature = "sim")]
        return self.mutations;
        #[cfg(not(feature = "sim"))]
        return Mutations::NONE;
    }
}

/// The wall clock.
pub trait Clock: Debug + Send + Sync {
    /// Microseconds since the Unix epoch. May step backwards; callers that need order take `max(now, last + 1)`.
    fn wall_us(&self) -> i64;
}

/// Randomness; seeded in simulation.
pub trait Random: Debug + Send + Sync {
    fn next_u64(&self) -> u64;
}

/// A file system rooted wherever the paths say.
pub trait Disk: Debug + Send + Sync {
    /// Opens for reading and writing; `create` makes the file when absent.
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>>;
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    fn exists(&self, path: &Path) -> bool;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in this folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// What a sync costs in simulated time; ready at once on a real disk, where [`File::sync`] itself blocks.
    fn sync_delay(&self) -> BoxFuture<'static, ()>;
    /// True where work must stay on the calling thread (simulation).
    fn is_simulated(&self) -> bool;
    /// Of the file system that holds `path`; None where nothing can be said.
    fn space(&self, path: &Path) -> io::Result<Option<DiskSpace>>;
    /// So little is free that it is left to what must be written: new data is to be refused for now.
    fn refuses_data(&self) -> bool {
        false
    }
}

/// How large a file system is, and what of it this process may still use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

/// An open file.
#[expect(clippy::len_without_is_empty, reason = "asking a file costs a system call and may fail; nobody needs a second way")]
pub trait File: Debug + Send + Sync {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Reads for somebody who goes through the file: a long read of whole blocks ([`BLOCK_BYTES`]: place, length and memory) leaves no trace in
    /// the system's memory, where it would be copied and take the place of what is read often.
    fn read_past_cache(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }
    /// Writes every byte of every slice, in order, from `offset` on.
    fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// `fdatasync`: on return all earlier writes are durable. A failure is final for the caller: never retried.
    fn sync(&self) -> io::Result<()>;
    /// Reserves (and zero-reads as) `bytes` so that later writes change no file-system metadata.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Asks the system to keep nothing of these bytes in memory; what is read next comes from the medium. Only a wish.
    fn forget(&self, _offset: u64, _bytes: u64) {}
    fn len(&self) -> io::Result<u64>;
    /// Behind the last byte that was ever written: what is reserved beyond it reads as zeros. To be asked before anything is read (a file
    /// system may take what it read ahead for written); a file that cannot tell answers with its length.
    fn written_until(&self) -> io::Result<u64> {
        self.len()
    }
}

/// A byte stream between two nodes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin + Debug {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + Debug> Stream for S {}

/// The in-region network: TCP, or simulated TCP.
pub trait Net: Debug + Send + Sync {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
    /// `address` is `host:port`.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// Accepts streams.
pub trait Listener: Debug + Send {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;
    fn local_addr(&self) -> io::Result<SocketAddr>;
}
