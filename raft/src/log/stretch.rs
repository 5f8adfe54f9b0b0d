//! Frames of one segment read in long stretches: one system call for many, whose payloads share its memory.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::LogEntry;
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, decode_frame};
use super::segment::damaged;
use crate::env::File;

/// The most that is read ahead at once. Whoever keeps one payload keeps all that was read with it.
const STRETCH_BYTES_MAX: u64 = 1 << 20;

/// Where somebody reads on.
pub(super) struct Stretch {
    file: Arc<dyn File>,
    position: u64,
    /// Nothing is read ahead beyond this.
    end: u64,
    bytes_wanted: u64,
    held_from: u64,
    held: Bytes,
}

impl Stretch {
    /// From a frame's beginning, for somebody who wants about so many bytes.
    pub(super) fn new(file: Arc<dyn File>, position: u64, end: u64, bytes_wanted: usize) -> Stretch {
        Stretch { file, position, end, bytes_wanted: bytes_wanted as u64, held_from: position, held: Bytes::new() }
    }

    /// The entry `next`, which stands here or further on; verified.
    pub(super) fn seek(&mut self, next: u64) -> io::Result<LogEntry> {
        loop {
            let header = self.take(self.position, FRAME_HEADER_BYTES)?;
            let header = header.first_chunk().and_then(decode_frame).ok_or_else(|| damaged("frame header"))?;
            let FrameHeader { kind, term, index, append_time_us, length, .. } = header;
            let (begin, bytes) = (self.position, FRAME_HEADER_BYTES + length);
            if index > next {
                return Err(damaged("frame out of order"));
            }
            self.position += bytes as u64;
            if index == next {
                let payload = self.take(begin, bytes)?.slice(FRAME_HEADER_BYTES..);
                if !header.payload_is_sound(&payload) {
                    return Err(damaged("frame payload"));
                }
                return Ok(LogEntry { kind, term, index, append_time_us, payload });
            }
        }
    }

    fn take(&mut self, position: u64, bytes: usize) -> io::Result<Bytes> {
        if position < self.held_from || position + bytes as u64 > self.held_from + self.held.len() as u64 {
            let ahead = self.end.saturating_sub(position).min(self.bytes_wanted).min(STRETCH_BYTES_MAX);
            self.held = self.file.read_ahead(position, bytes.max(ahead as usize))?;
            self.held_from = position;
        }
        let skip = (position - self.held_from) as usize;
        if self.held.len() < skip + bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.held.slice(skip..skip + bytes))
    }
}
