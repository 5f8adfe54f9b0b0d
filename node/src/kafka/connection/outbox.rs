//! The way out of a connection: answers gathered, handed to TLS piece by piece, and flushed.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Closed;
use crate::kafka::counters::{Counters, add};
use crate::kafka::reply::Reply;

/// A client that takes no byte of an answer for so long is given up.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);
/// Pieces handed to TLS at once.
const SLICES_MAX: usize = 64;

/// Answers that are ready to be written.
pub(super) struct Outbox<W> {
    write: W,
    parts: VecDeque<Bytes>,
    pub(super) bytes: usize,
    /// TLS may still hold some of what was written: it takes more than the socket does.
    unflushed: bool,
    pub(super) counters: Arc<Counters>,
}

impl<W: AsyncWrite + Unpin> Outbox<W> {
    pub(super) fn new(write: W, counters: Arc<Counters>) -> Outbox<W> {
        Outbox { write, parts: VecDeque::new(), bytes: 0, unflushed: false, counters }
    }

    pub(super) fn push(&mut self, reply: Reply) {
        for part in reply.into_iter().filter(|part| !part.is_empty()) {
            self.bytes += part.len();
            self.parts.push_back(part);
        }
    }

    /// Hands everything to TLS, which copies it only to encrypt it.
    pub(super) async fn write(&mut self) -> Result<(), Closed> {
        add(&self.counters.bytes_out, self.bytes);
        self.unflushed |= !self.parts.is_empty();
        while !self.parts.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut filled = 0;
            for (slice, part) in slices.iter_mut().zip(&self.parts) {
                *slice = IoSlice::new(part);
                filled += 1;
            }
            let written = tokio::time::timeout(WRITE_STALL_MAX, self.write.write_vectored(&slices[..filled]));
            match written.await.map_err(|_| Closed::Stalled)?.map_err(Closed::Write)? {
                0 => return Err(Closed::Write(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes = self.bytes.saturating_sub(written);
        while let Some(part) = self.parts.front_mut() {
            if part.len() > written {
                part.advance(written);
                return;
            }
            written -= part.len();
            self.parts.pop_front();
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), Closed> {
        self.write().await?;
        if self.unflushed {
            let flushed = tokio::time::timeout(WRITE_STALL_MAX, self.write.flush());
            flushed.await.map_err(|_| Closed::Stalled)?.map_err(Closed::Write)?;
            self.unflushed = false;
        }
        Ok(())
    }
}
