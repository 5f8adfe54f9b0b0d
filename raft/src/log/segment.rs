//! One segment of a log as memory knows it, and how frames are read from its file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, decode_frame, is_batch};
use super::retention::start_offset_of;
use super::{EntryHead, FrameKind, LogEntry};
use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::env::File;

/// What a new segment reserves on disk, and the most by which it is reserved further: it doubles in between. An idle partition takes
/// little, a busy one rarely changes its file's size, and no log reserves much more than it holds.
const RESERVE_BYTES_MIN: u64 = 64 << 10;
const RESERVE_BYTES_MAX: u64 = 64 << 20;
const _: () = assert!(RESERVE_BYTES_MIN.is_power_of_two() && RESERVE_BYTES_MAX.is_power_of_two());

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) base_index: u64,
    pub(super) base_offset: i64,
    /// Where the next frame goes.
    pub(super) end: u64,
    /// Size of the file; what lies behind `end` is zeros.
    pub(super) reserved: u64,
    pub(super) points: Vec<Point>,
    /// Of its first entry; None while it has none.
    pub(super) first_append_time_us: Option<i64>,
}

impl Segment {
    /// Greatest record timestamp; `i64::MIN` where it holds no record.
    pub(super) fn max_timestamp_ms(&self) -> i64 {
        self.points.iter().map(|point| point.max_timestamp_ms).max().unwrap_or(i64::MIN)
    }
}

/// The size of a segment's file that holds `end` bytes.
pub(super) fn reservation(end: u64, segment_bytes: u64) -> u64 {
    let stepped =
        if end <= RESERVE_BYTES_MAX { end.next_power_of_two().max(RESERVE_BYTES_MIN) } else { end.next_multiple_of(RESERVE_BYTES_MAX) };
    stepped.min(segment_bytes.max(end))
}

/// One entry of the sparse index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) index: u64,
    /// Next offset at this frame: the base offset of the first batch at or behind it.
    pub(super) offset: i64,
    pub(super) position: u64,
    /// Greatest record timestamp from here to the next point.
    pub(super) max_timestamp_ms: i64,
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
    let header = decode_frame(&header).ok_or_else(|| damaged("frame header"))?;
    // Of a retention point the payload is what the log must know of it.
    let whole = !head_only || header.kind == FrameKind::RetentionPoint;
    let wanted = if whole {
        header.length
    } else if is_batch(header.kind) {
        header.length.min(HEADER_BYTES)
    } else {
        0
    };
    let mut payload = vec![0; wanted];
    read_exact(file, &mut payload, position + FRAME_HEADER_BYTES as u64)?;
    let sound = if !whole { header.head_is_sound(&payload) } else { header.payload_is_sound(&payload) };
    if !sound {
        return Err(damaged("frame payload"));
    }
    let FrameHeader { kind, term, index, append_time_us, length, .. } = header;
    Ok((LogEntry { kind, term, index, append_time_us, payload: payload.into() }, (FRAME_HEADER_BYTES + length) as u64))
}
