//! Requests as they come off a connection: four bytes of length, then that many bytes. Memory is taken as bytes arrive, not as they are claimed.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest frame before authentication: the longest token many times over.
pub const UNAUTHENTICATED_BYTES_MAX: usize = 512 << 10;
/// Longest frame of an API other than Produce. What decoding takes beside it is bounded by `shape::ELEMENTS_MAX`.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Longest Produce frame (`socket.request.max.bytes`).
pub const PRODUCE_BYTES_MAX: usize = 100 << 20;
/// A frame's memory before the first of its bytes have come.
const CLAIM_BYTES_MAX: usize = 1 << 20;
/// Read at once; requests that fit share one buffer.
const CHUNK_BYTES: usize = 16 << 10;
const LENGTH_BYTES: usize = 4;
const PRODUCE: i16 = 0;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is not acceptable here")]
    Length(i32),
    #[error("the client closed the connection in the middle of a frame")]
    Cut,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The frames of one connection. Not cancel-safe towards the same connection: what a cancelled [`Frames::next`] had read of a long frame is gone.
#[derive(Debug)]
pub struct Frames<R> {
    read: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub fn new(read: R) -> Frames<R> {
        Frames { read, buffer: BytesMut::new() }
    }

    /// The next frame without its length; None when the client closed the connection between two frames.
    pub async fn next(&mut self, authenticated: bool) -> Result<Option<Bytes>, FrameError> {
        if self.buffer.is_empty() && !self.fill().await? {
            return Ok(None);
        }
        self.fill_to(LENGTH_BYTES).await?;
        let claimed = (&self.buffer[..]).get_i32();
        let length = usize::try_from(claimed).map_err(|_| FrameError::Length(claimed))?;
        if length > self.limit(length, authenticated).await? {
            return Err(FrameError::Length(claimed));
        }
        let whole = LENGTH_BYTES + length;
        if whole > CHUNK_BYTES && self.buffer.len() < whole {
            return self.long(length).await.map(Some);
        }
        self.fill_to(whole).await?;
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    async fn limit(&mut self, length: usize, authenticated: bool) -> Result<usize, FrameError> {
        if !authenticated {
            return Ok(UNAUTHENTICATED_BYTES_MAX);
        }
        if length <= REQUEST_BYTES_MAX {
            return Ok(REQUEST_BYTES_MAX);
        }
        self.fill_to(LENGTH_BYTES + size_of::<i16>()).await?;
        let api_key = (&self.buffer[LENGTH_BYTES..]).get_i16();
        Ok(if api_key == PRODUCE { PRODUCE_BYTES_MAX } else { REQUEST_BYTES_MAX })
    }

    /// A frame in a buffer of its own, so that a batch in it can be kept without a copy.
    async fn long(&mut self, length: usize) -> Result<Bytes, FrameError> {
        let mut frame = BytesMut::with_capacity(length.min(CLAIM_BYTES_MAX));
        frame.extend_from_slice(&self.buffer[LENGTH_BYTES..]);
        self.buffer.clear();
        while frame.len() < length {
            let missing = length - frame.len();
            if frame.len() == frame.capacity() {
                frame.reserve(missing.min(frame.len().max(CLAIM_BYTES_MAX)));
            }
            let room = missing.min(frame.capacity() - frame.len());
            if self.read.read_buf(&mut (&mut frame).limit(room)).await? == 0 {
                return Err(FrameError::Cut);
            }
        }
        Ok(frame.freeze())
    }

    async fn fill_to(&mut self, bytes: usize) -> Result<(), FrameError> {
        while self.buffer.len() < bytes {
            if !self.fill().await? {
                return Err(FrameError::Cut);
            }
        }
        Ok(())
    }

    /// False at the end of the stream.
    async fn fill(&mut self) -> Result<bool, FrameError> {
        if self.buffer.capacity() - self.buffer.len() < CHUNK_BYTES / 4 {
            self.buffer.reserve(CHUNK_BYTES);
        }
        Ok(self.read.read_buf(&mut self.buffer).await? > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8], authenticated: bool) -> (Vec<Bytes>, Result<(), FrameError>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut frames = Frames::new(bytes);
            let mut seen = Vec::new();
            loop {
                match frames.next(authenticated).await {
                    Ok(Some(frame)) => seen.push(frame),
                    Ok(None) => return (seen, Ok(())),
                    Err(error) => return (seen, Err(error)),
                }
            }
        })
    }

    fn framed(payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as i32).to_be_bytes()[..], payload].concat()
    }

    #[test]
    fn short_and_long_frames_come_out_as_they_went_in() {
        let long = vec![7; 3 << 20];
        let bytes = [framed(b"first"), framed(&long), framed(b""), framed(b"last")].concat();
        let (frames, end) = all(&bytes, true);
        end.expect("a clean end");
        assert_eq!(frames, [Bytes::from_static(b"first"), long.into(), Bytes::new(), Bytes::from_static(b"last")]);
    }

    #[test]
    fn a_claim_beyond_the_limit_is_refused_before_anything_is_read_for_it() {
        let claim = |length: usize, key: i16| [&(length as i32).to_be_bytes()[..], &key.to_be_bytes()[..]].concat();
        assert!(matches!(all(&claim(UNAUTHENTICATED_BYTES_MAX + 1, 18), false).1, Err(FrameError::Length(_))));
        assert!(matches!(all(&claim(REQUEST_BYTES_MAX + 1, 1), true).1, Err(FrameError::Length(_))));
        assert!(matches!(all(&claim(PRODUCE_BYTES_MAX + 1, 0), true).1, Err(FrameError::Length(_))));
        assert!(matches!(all(&claim(PRODUCE_BYTES_MAX, 0), true).1, Err(FrameError::Cut)));
        assert!(matches!(all(&(-1i32).to_be_bytes(), true).1, Err(FrameError::Length(-1))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_framing_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), authenticated: bool) {
            let _ = all(&bytes, authenticated);
        }
    }
}
