//! Appends and long reads past the page cache. Appends write whole blocks from an aligned buffer, the last of them again with the append that goes on in it.
//!
//! Through the page cache a sync pays for a copy, for page after page looked up, marked and written back, and for the extents that were only
//! reserved so far: four times the CPU and three times the time at 64 KiB. So short appends write zeros ahead of themselves, too: what follows
//! lands in blocks that are written already, and its sync commits nothing of the file system's own.
//!
//! Short reads use the page cache; the kernel drops what it holds of a block that is written past it. A sync is due as ever: the device has a cache.

use std::cell::RefCell;
use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

/// What offsets, lengths and memory are aligned to. A file system that wants more refuses, and is written through the page cache.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// The most that one system call writes; each thread that writes holds a buffer of up to this size.
const CHUNK_BYTES_MAX: usize = 512 << 10;
/// Files that end before this are written through the page cache: of thousands of small ones each would take a second descriptor.
const FILE_BYTES_MIN: u64 = 64 << 10;
/// Appends below this size write zeros ahead: as much as the file holds already, up to the second figure.
const AHEAD_BELOW_BYTES: u64 = 128 << 10;
const AHEAD_BYTES_MAX: u64 = 256 << 10;

/// The second descriptor of a file, past the page cache; a file that is open this way cannot be read and written as one likes.
#[derive(Debug, Default)]
pub(super) struct Direct {
    file: OnceLock<Option<fs::File>>,
    refused: AtomicBool,
}

impl Direct {
    /// None where the file system refuses.
    fn of(&self, file: &fs::File) -> Option<&fs::File> {
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        let opened = self.file.get_or_init(|| {
            // By its number: the name may have changed, or be another file's by now.
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            match rustix::fs::open(name, OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()) {
                Ok(direct) => Some(direct.into()),
                Err(error) => {
                    self.refuse(&error.into());
                    None
                }
            }
        });
        opened.as_ref()
    }

    fn refuse(&self, error: &io::Error) {
        static SAID: AtomicBool = AtomicBool::new(false);
        self.refused.store(true, Ordering::Relaxed);
        if !SAID.swap(true, Ordering::Relaxed) {
            tracing::info!(%error, "this file system does not work past the page cache; logs go through it");
        }
    }

    /// What is read; None where that has to be done through the page cache.
    pub(super) fn read(&self, file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let place = [offset, buffer.len() as u64, buffer.as_ptr().addr() as u64];
        if place.iter().any(|number| number % BLOCK_BYTES != 0) {
            return Ok(None);
        }
        let Some(direct) = self.of(file) else { return Ok(None) };
        loop {
            match direct.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_refusal(&error) => {
                    self.refuse(&error);
                    return Ok(None);
                }
                read => return read.map(Some),
            }
        }
    }
}

/// What is known of a file's end, so that it can be written by whole blocks.
#[derive(Debug)]
pub(super) struct Appender {
    /// From here on the file reads as zeros.
    blank_from: u64,
    length: u64,
    /// What stands before `blank_from` in its block; None where that has to be read first.
    last: Option<Vec<u8>>,
    /// Blocks before this one are not merely reserved.
    written_until: u64,
}

impl Appender {
    /// Of a file that was just given this length.
    pub(super) fn cut(before: Option<Appender>, length: u64) -> Appender {
        let Some(mut held) = before else {
            let written_until = length.next_multiple_of(BLOCK_BYTES);
            return Appender { blank_from: length, length, last: None, written_until };
        };
        held.length = length;
        if length < held.blank_from {
            held.blank_from = length;
            held.last = None;
        }
        held.written_until = held.written_until.min(length.next_multiple_of(BLOCK_BYTES));
        held
    }

    /// The file has at least this length.
    pub(super) fn reserved(&mut self, length: u64) {
        self.length = self.length.max(length);
    }

    /// Somebody wrote through the page cache.
    pub(super) fn note_write(&mut self, end: u64) {
        self.blank_from = self.blank_from.max(end);
        self.length = self.length.max(end);
        self.written_until = self.written_until.max(end.next_multiple_of(BLOCK_BYTES));
        self.last = None;
    }

    /// Writes what continues the file inside of what is reserved; false where it has to go through the page cache.
    pub(super) fn append(&mut self, direct: &Direct, file: &fs::File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<bool> {
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        let end = offset + bytes;
        let blocks_end = end.next_multiple_of(BLOCK_BYTES);
        if offset != self.blank_from || bytes == 0 || blocks_end > self.length || end < FILE_BYTES_MIN {
            return Ok(false);
        }
        let Some(past_cache) = direct.of(file) else { return Ok(false) };
        let begin = offset - offset % BLOCK_BYTES;
        let last = match self.last.take() {
            Some(last) => last,
            None => read_whole(file, begin, (offset - begin) as usize)?,
        };
        let mut until = blocks_end + self.zeros_ahead(bytes, blocks_end);
        let parts = || std::iter::once(&last[..]).chain(slices.iter().map(|slice| &**slice));
        let mut written = write_blocks(past_cache, parts(), begin, until);
        if until > blocks_end && written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            // What is left of the disk is not for zeros.
            until = blocks_end;
            written = write_blocks(past_cache, parts(), begin, until);
        }
        match written {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => {
                direct.refuse(&error);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.last = Some(end_of(&last, slices, (end % BLOCK_BYTES) as usize));
        self.blank_from = end;
        self.written_until = self.written_until.max(until);
        Ok(true)
    }

    fn zeros_ahead(&self, bytes: u64, blocks_end: u64) -> u64 {
        if bytes >= AHEAD_BELOW_BYTES || blocks_end <= self.written_until {
            return 0;
        }
        let left = self.length - blocks_end;
        (left - left % BLOCK_BYTES).min(blocks_end).min(AHEAD_BYTES_MAX)
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// The last `count` bytes of both together.
fn end_of(last: &[u8], slices: &[IoSlice<'_>], count: usize) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut missing = count;
    for part in slices.iter().rev().map(|slice| &**slice).chain([last]) {
        let part = &part[part.len() - part.len().min(missing)..];
        missing -= part.len();
        parts.push(part);
        if missing == 0 {
            break;
        }
    }
    parts.iter().rev().flat_map(|part| part.iter().copied()).collect()
}

fn read_whole(file: &fs::File, offset: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

thread_local! {
    static BOUNCE: RefCell<Bounce> = const { RefCell::new(Bounce { bytes: Vec::new(), start: 0, size: 0 }) };
}

/// Memory aligned to blocks, kept by each thread that writes.
struct Bounce {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl Bounce {
    fn of(&mut self, size: usize) -> &mut [u8] {
        if self.size < size {
            self.size = size.next_power_of_two().min(CHUNK_BYTES_MAX);
            self.bytes = vec![0; self.size + BLOCK_BYTES as usize];
            self.start = self.bytes.as_ptr().align_offset(BLOCK_BYTES as usize);
        }
        &mut self.bytes[self.start..self.start + self.size]
    }
}

/// Writes `parts`, then zeros, into the blocks from `begin` to `until`.
fn write_blocks<'a>(direct: &fs::File, mut parts: impl Iterator<Item = &'a [u8]>, begin: u64, until: u64) -> io::Result<()> {
    BOUNCE.with_borrow_mut(|bounce| {
        let (mut at, mut part) = (begin, &[][..]);
        while at < until {
            let size = usize::try_from(until - at).map_or(CHUNK_BYTES_MAX, |left| left.min(CHUNK_BYTES_MAX));
            let chunk = &mut bounce.of(size)[..size];
            let mut filled = 0;
            while filled < size {
                if part.is_empty() {
                    match parts.next() {
                        Some(next) => part = next,
                        None => {
                            chunk[filled..].fill(0);
                            break;
                        }
                    }
                }
                let (now, later) = part.split_at(part.len().min(size - filled));
                chunk[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                part = later;
            }
            write_chunk(direct, chunk, at)?;
            at += size as u64;
        }
        Ok(())
    })
}

/// A short write is finished from the last whole block on.
fn write_chunk(direct: &fs::File, mut chunk: &[u8], mut offset: u64) -> io::Result<()> {
    while !chunk.is_empty() {
        let written = match direct.write_at(chunk, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            written => written?,
        };
        let whole = written - written % BLOCK_BYTES as usize;
        if whole == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        chunk = &chunk[whole..];
        offset += whole as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;

    /// None where the file system refuses.
    fn appended(direct: &Direct, appender: &mut Appender, file: &fs::File, bytes: usize, offset: u64) -> Option<bool> {
        let written = appender.append(direct, file, &[IoSlice::new(&vec![7; bytes])], offset).expect("written");
        (!direct.refused.load(Ordering::Relaxed)).then_some(written)
    }

    #[test]
    fn only_what_continues_the_file_inside_its_reservation_goes_past_the_page_cache() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(2 << 20).expect("reserved");
        let (direct, mut appender) = (Direct::default(), Appender::cut(None, 60_000));
        assert_eq!(appended(&direct, &mut appender, &file, 10_000, 60_000), Some(false), "not reserved");
        appender.reserved(2 << 20);
        assert_eq!(appended(&direct, &mut appender, &file, 100, 60_000), Some(false), "a small file");
        let Some(written) = appended(&direct, &mut appender, &file, 10_000, 60_000) else { return };
        assert!(written);
        assert_eq!((appender.blank_from, appender.written_until), (70_000, 2 * 73_728), "as much ahead as the file holds");
        assert_eq!(appended(&direct, &mut appender, &file, 70_000, 70_000), Some(true));
        assert_eq!((appender.blank_from, appender.written_until), (140_000, 2 * 73_728), "which this needed");
        assert_eq!(appended(&direct, &mut appender, &file, 10, 139_000), Some(false), "not at the end");
        assert_eq!(appended(&direct, &mut appender, &file, 10, 150_000), Some(false), "behind a hole");
        assert_eq!(appended(&direct, &mut appender, &file, 200_000, 140_000), Some(true));
        assert_eq!(appender.written_until, 340_000_u64.next_multiple_of(BLOCK_BYTES), "a long one writes nothing ahead");
        assert_eq!(appended(&direct, &mut appender, &file, 2 << 20, 340_000), Some(false), "longer than what is reserved");
    }
}
