//! Frames that follow on each other in a segment's file, read many at a time.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::LogEntry;
use super::frame::FRAME_HEADER_BYTES;
use super::segment::{frame_header, frame_of, payload_wanted};
use crate::env::File;

/// Of what has been read, so much stays in the system's memory, for others who read the same a little later; what lies before is forgotten.
const FORGET_BEHIND_BYTES: u64 = 32 << 20;
const FORGET_STEP_BYTES: u64 = 4 << 20;

#[derive(Debug)]
pub(super) struct Frames {
    file: Arc<dyn File>,
    chunk_bytes: usize,
    /// Nothing behind is asked of the file without need.
    until: u64,
    buffer: Bytes,
    start: u64,
}

impl Frames {
    /// Reads `chunk_bytes` at a time, as long as frames are shorter, up to `until`.
    pub(super) fn new(file: Arc<dyn File>, chunk_bytes: usize, until: u64) -> Frames {
        Frames { file, chunk_bytes, until, buffer: Bytes::new(), start: 0 }
    }

    /// The frame at `position`: its head, its bytes on disk, and unless `head_only` its payload (verified).
    pub(super) fn read(&mut self, position: u64, head_only: bool) -> io::Result<(LogEntry, u64)> {
        let held = !self.buffer.is_empty();
        match self.decode(position, head_only) {
            // What was read before may have been written since.
            Err(_) if held => {
                self.buffer.clear();
                self.decode(position, head_only)
            }
            read => read,
        }
    }

    fn decode(&mut self, position: u64, head_only: bool) -> io::Result<(LogEntry, u64)> {
        let header = frame_header(&self.bytes(position, FRAME_HEADER_BYTES)?)?;
        let payload = self.bytes(position + FRAME_HEADER_BYTES as u64, payload_wanted(&header, head_only))?;
        frame_of(&header, payload, head_only)
    }

    fn bytes(&mut self, at: u64, count: usize) -> io::Result<Bytes> {
        if count == 0 {
            return Ok(Bytes::new());
        }
        let from = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        if let Some(held) = from.filter(|from| from.checked_add(count).is_some_and(|end| end <= self.buffer.len())) {
            return Ok(self.buffer.slice(held..held + count));
        }
        let ahead = usize::try_from(self.until.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; count.max(self.chunk_bytes.min(ahead))];
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], at + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        buffer.truncate(filled);
        (self.buffer, self.start) = (buffer.into(), at);
        if filled < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.buffer.slice(..count))
    }

    /// Bytes from `from` to `to` have been read. Readers come for a little at a time: when they cross a step, what lies far behind it is forgotten.
    pub(super) fn forget_far_behind(&self, from: u64, to: u64) {
        let step = to / FORGET_STEP_BYTES;
        if from / FORGET_STEP_BYTES != step
            && let Some(far) = (step * FORGET_STEP_BYTES).checked_sub(FORGET_BEHIND_BYTES + FORGET_STEP_BYTES)
        {
            self.file.forget(far, FORGET_STEP_BYTES);
        }
    }
}
