//! One segment of a log as memory knows it, and how frames are read from its file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, SEGMENT_HEADER_BYTES, decode_frame, is_batch};
use super::index::{DRAFT, Facts, Placed, Points, SIDECAR};
use super::retention::start_offset_of;
use super::{EntryHead, FrameKind, LogEntry};
use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::env::File;

/// What a new segment reserves on disk, and the most by which it is reserved further: it doubles in between. An idle partition takes
/// little, a busy one rarely changes its file's size, and no log reserves much more than it holds.
const RESERVE_BYTES_MIN: u64 = 64 << 10;
const RESERVE_BYTES_MAX: u64 = 64 << 20;
/// Looked at at once for zeros.
const ZEROS_BYTES: usize = 256 << 10;
const _: () = assert!(RESERVE_BYTES_MIN.is_power_of_two() && RESERVE_BYTES_MAX.is_power_of_two());

/// What memory always holds of a segment; of one that is closed, nothing else.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base_index: u64,
    pub(super) base_offset: i64,
    /// Where the next frame goes.
    pub(super) end: u64,
    /// Size of the file; what lies behind `end` is zeros.
    pub(super) reserved: u64,
    /// Of its first entry; None while it has none.
    pub(super) first_append_time_us: Option<i64>,
    /// Greatest record timestamp; `i64::MIN` where it holds no record.
    pub(super) max_timestamp_ms: i64,
    /// The segment is written to, or its sidecar is still to be written.
    pub(super) open: Option<Box<Open>>,
}

/// File and index of a segment that is written to.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) file: Arc<dyn File>,
    pub(super) points: Points,
    /// Epochs of its batches and the offset of the first of each.
    pub(super) epochs: Vec<(i32, i64)>,
    pub(super) last: Option<Placed>,
    /// Up to here its sidecar says what it holds.
    pub(super) covered: u64,
    /// Number of the closing that is under way.
    pub(super) closing: Option<u64>,
}

impl Open {
    pub(super) fn new(file: Arc<dyn File>) -> Open {
        Open { file, points: Points::default(), epochs: Vec::new(), last: None, covered: 0, closing: None }
    }
}

impl Segment {
    pub(super) fn new(base_index: u64, base_offset: i64, reserved: u64, file: Arc<dyn File>) -> Segment {
        let (end, open) = (SEGMENT_HEADER_BYTES as u64, Some(Box::new(Open::new(file))));
        Segment { base_index, base_offset, end, reserved, first_append_time_us: None, max_timestamp_ms: i64::MIN, open }
    }

    /// What a sidecar can say of it; None while it is empty, or closed.
    pub(super) fn facts(&self, next_offset: i64) -> Option<Facts> {
        let open = self.open.as_ref()?;
        Some(Facts {
            base_index: self.base_index,
            base_offset: self.base_offset,
            end: self.end,
            next_offset,
            last: open.last?,
            first_append_time_us: self.first_append_time_us?,
            max_timestamp_ms: self.max_timestamp_ms,
            epochs: open.epochs.clone(),
        })
    }
}

pub(super) fn segment_path(dir: &Path, base_index: u64) -> PathBuf {
    dir.join(format!("{base_index:020}.log"))
}

pub(super) fn sidecar_path(dir: &Path, base_index: u64) -> PathBuf {
    segment_path(dir, base_index).with_extension(SIDECAR)
}

/// The files of a log's folder: its segments in order, and what lies beside them.
pub(super) fn segments_and_sidecars(paths: Vec<PathBuf>) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let ends_in = |path: &PathBuf, ends: &[&str]| path.extension().and_then(|end| end.to_str()).is_some_and(|end| ends.contains(&end));
    let (segments, others): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(|path| ends_in(path, &["log"]));
    (segments, others.into_iter().filter(|path| ends_in(path, &[SIDECAR, DRAFT])).collect())
}

/// The size of a segment's file that holds `end` bytes.
pub(super) fn reservation(end: u64, segment_bytes: u64) -> u64 {
    let stepped =
        if end <= RESERVE_BYTES_MAX { end.next_power_of_two().max(RESERVE_BYTES_MIN) } else { end.next_multiple_of(RESERVE_BYTES_MAX) };
    stepped.min(segment_bytes.max(end))
}

pub(super) fn head_of(entry: &LogEntry) -> EntryHead {
    EntryHead {
        kind: entry.kind,
        term: entry.term,
        index: entry.index,
        append_time_us: entry.append_time_us,
        batch: is_batch(entry.kind).then(|| BatchHeader::decode(&entry.payload)).flatten(),
        start_offset: start_offset_of(entry),
    }
}

pub(super) fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(super) fn read_exact(file: &dyn File, buffer: &mut [u8], position: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], position + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

/// Reads one frame: its head, its bytes on disk, and unless `head_only` its payload (verified).
pub(super) fn read_frame(file: &dyn File, position: u64, head_only: bool) -> io::Result<(LogEntry, u64)> {
    let mut header = [0; FRAME_HEADER_BYTES];
    read_exact(file, &mut header, position)?;
    let header = frame_header(&header)?;
    let mut payload = vec![0; payload_wanted(&header, head_only)];
    read_exact(file, &mut payload, position + FRAME_HEADER_BYTES as u64)?;
    frame_of(&header, payload.into(), head_only)
}

pub(super) fn frame_header(bytes: &[u8]) -> io::Result<FrameHeader> {
    bytes.first_chunk().and_then(decode_frame).ok_or_else(|| damaged("frame header"))
}

/// Of a retention point the payload is what the log must know of it.
fn is_whole(header: &FrameHeader, head_only: bool) -> bool {
    !head_only || header.kind == FrameKind::RetentionPoint
}

/// How much of a frame's payload is read.
pub(super) fn payload_wanted(header: &FrameHeader, head_only: bool) -> usize {
    if is_whole(header, head_only) {
        header.length
    } else if is_batch(header.kind) {
        header.length.min(HEADER_BYTES)
    } else {
        0
    }
}

/// A frame of its header and as much of its payload as is wanted, verified.
pub(super) fn frame_of(header: &FrameHeader, payload: Bytes, head_only: bool) -> io::Result<(LogEntry, u64)> {
    let sound = if is_whole(header, head_only) { header.payload_is_sound(&payload) } else { header.head_is_sound(&payload) };
    if !sound {
        return Err(damaged("frame payload"));
    }
    let &FrameHeader { kind, term, index, append_time_us, length, .. } = header;
    Ok((LogEntry { kind, term, index, append_time_us, payload }, (FRAME_HEADER_BYTES + length) as u64))
}

/// Whether these bytes of a file can be read, and nothing was ever written to them.
pub(super) fn is_zero(file: &dyn File, from: u64, length: u64) -> io::Result<bool> {
    let mut buffer = vec![0; ZEROS_BYTES.min(usize::try_from(length.saturating_sub(from)).unwrap_or(ZEROS_BYTES))];
    let mut at = from;
    while at < length {
        let count = ZEROS_BYTES.min(usize::try_from(length - at).unwrap_or(ZEROS_BYTES));
        // What cannot be read is damage, whatever would have been there.
        if read_exact(file, &mut buffer[..count], at).is_err() || buffer[..count].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}
