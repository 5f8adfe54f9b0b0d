//! The source's end of links: accepts nodes of other regions, tells them what is here, and feeds the mirrors that they open.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::frame::{Frame, Open, REQUEST_BYTES_MAX, ReadFrameError, read_frame};
use super::session::{close, write};
use super::{Inner, tls};
use crate::catalogue::Catalogue;
use crate::heartbeat::Teller;
use crate::mirror::source::Pump;

/// Accepted connections at once, those in handshake included.
const CONNECTIONS_MAX: usize = 1024;
/// Time to finish a handshake, and to say what a stream is for.
const FIRST_DEADLINE: Duration = Duration::from_secs(5);
/// Mirrors opened on one stream.
const MIRRORS_MAX: usize = 64 << 10;
/// Frames that wait for one stream. Few: what waits here is memory, and delays the partitions that share the stream.
const FRAMES_WAITING_MAX: usize = 4;

#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error(transparent)]
    Read(#[from] ReadFrameError),
    #[error("cannot write: {0}")]
    Write(#[from] quinn::WriteError),
    #[error("nothing said within {FIRST_DEADLINE:?}")]
    Slow,
    #[error("a frame that a target does not send")]
    Unexpected,
    #[error("mirror number {0} is in use")]
    Number(u32),
    #[error("more than {MIRRORS_MAX} mirrors on one stream")]
    Mirrors,
}

/// Accepts until the endpoint is closed.
pub(crate) async fn accept(inner: Arc<Inner>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = inner.endpoint.accept() => incoming,
            Some(_) = connections.join_next() => continue,
        };
        let Some(incoming) = incoming else { return };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!(peer = %incoming.remote_address(), "a link is refused: too many are open");
            incoming.refuse();
            continue;
        };
        let inner = inner.clone();
        connections.spawn(async move {
            serve(inner, incoming).await;
            drop(permit);
        });
    }
}

async fn serve(inner: Arc<Inner>, incoming: Incoming) {
    let address = incoming.remote_address();
    let connection = match tokio::time::timeout(FIRST_DEADLINE, async { incoming.accept()?.await }).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::info!(peer = %address, %error, "a link's handshake failed"),
        Err(_) => return tracing::info!(peer = %address, "a link's handshake took too long"),
    };
    let config = &inner.config;
    let expected = |region: &str| region != config.region && config.remote.contains_key(region);
    let identity = match tls::peer(&connection, &config.mesh, expected) {
        Ok(identity) => identity,
        Err(error) => {
            tracing::warn!(peer = %address, %error, "a link is refused");
            return connection.close(VarInt::from_u32(close::IDENTITY), error.to_string().as_bytes());
        }
    };
    tracing::debug!(peer = %address, region = %identity.region, node = identity.node, "a link is accepted");
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => {
                let Ok((send, receive)) = stream else { return };
                streams.spawn(converse(inner.clone(), identity.region.clone(), send, receive));
            }
            Some(Ok(result)) = streams.join_next() => {
                if let Err(error) = result && connection.close_reason().is_none() {
                    tracing::warn!(peer = %address, region = %identity.region, node = identity.node, %error, "a link is closed");
                    return connection.close(VarInt::from_u32(code(&error)), error.to_string().as_bytes());
                }
            }
        }
    }
}

fn code(error: &ServiceError) -> u32 {
    if matches!(error, ServiceError::Mirrors) { close::BUSY } else { close::PROTOCOL }
}

/// One stream, by what its first frame says that it is for.
async fn converse(inner: Arc<Inner>, region: String, send: SendStream, mut receive: RecvStream) -> Result<(), ServiceError> {
    let first = tokio::time::timeout(FIRST_DEADLINE, read_frame(&mut receive, REQUEST_BYTES_MAX)).await;
    match first.map_err(|_| ServiceError::Slow)?? {
        Some(Frame::Control) => tell(inner, region, send).await,
        Some(Frame::Bulk) => feed(inner, region, send, receive).await,
        Some(_) => Err(ServiceError::Unexpected),
        None => Ok(()),
    }
}

/// Catalogue and heartbeats, until the peer is gone.
async fn tell(inner: Arc<Inner>, region: String, mut send: SendStream) -> Result<(), ServiceError> {
    let mut changes = inner.metadata.watch_changes();
    let mut pulse = inner.pulse.subscribe();
    let mut teller = Teller::default();
    let mut told: Option<Catalogue> = None;
    changes.mark_changed();
    loop {
        tokio::select! {
            biased;
            changed = changes.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                changes.borrow_and_update();
                if let Some(frame) = news(&mut told, inner.metadata.catalogue_for(&region)) {
                    write(&mut send, frame.encode()).await?;
                }
            }
            changed = pulse.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let tick = pulse.borrow_and_update().clone();
                let led = tick.led.iter().filter(|(_, regions)| regions.contains(&region)).map(|(led, _)| led);
                for frame in teller.tell(tick.now_us, led) {
                    write(&mut send, frame.encode()).await?;
                }
            }
        }
    }
}

/// What to say of a catalogue, given the last one that was sent.
fn news(told: &mut Option<Catalogue>, now: Catalogue) -> Option<Frame> {
    let version = now.version;
    match told {
        Some(told) if told.version == version => None,
        Some(told) if told.repeats(&now) => {
            told.version = version;
            Some(Frame::CatalogueUnchanged { version })
        }
        _ => {
            *told = Some(now.clone());
            Some(Frame::Catalogue(now))
        }
    }
}

/// Mirrors opened on one stream, and their pumps.
struct Feeds {
    inner: Arc<Inner>,
    region: String,
    frames: mpsc::Sender<Vec<Bytes>>,
    open: HashMap<u32, (watch::Sender<i64>, AbortHandle)>,
    pumps: JoinSet<()>,
}

async fn feed(inner: Arc<Inner>, region: String, send: SendStream, receive: RecvStream) -> Result<(), ServiceError> {
    let (frames, queue) = mpsc::channel(FRAMES_WAITING_MAX);
    let feeds = Feeds { inner, region, frames, open: HashMap::new(), pumps: JoinSet::new() };
    tokio::select! {
        result = write_frames(send, queue) => result,
        result = feeds.listen(receive) => result,
    }
}

async fn write_frames(mut send: SendStream, mut queue: mpsc::Receiver<Vec<Bytes>>) -> Result<(), ServiceError> {
    while let Some(frame) = queue.recv().await {
        write(&mut send, frame).await?;
    }
    Ok(())
}

impl Feeds {
    async fn listen(mut self, mut receive: RecvStream) -> Result<(), ServiceError> {
        while let Some(frame) = read_frame(&mut receive, REQUEST_BYTES_MAX).await? {
            match frame {
                Frame::Open(open) => self.open(open)?,
                Frame::Position { number, offset } => {
                    // A mirror that ended meanwhile has no use for it.
                    if let Some((position, _)) = self.open.get(&number) {
                        position.send_replace(offset);
                    }
                }
                Frame::Close { number } => {
                    if let Some((_, pump)) = self.open.remove(&number) {
                        pump.abort();
                    }
                }
                _ => return Err(ServiceError::Unexpected),
            }
            while self.pumps.try_join_next().is_some() {}
        }
        Ok(())
    }

    fn open(&mut self, open: Open) -> Result<(), ServiceError> {
        if self.open.contains_key(&open.number) {
            return Err(ServiceError::Number(open.number));
        }
        if self.open.len() >= MIRRORS_MAX {
            return Err(ServiceError::Mirrors);
        }
        let number = open.number;
        let (position, positions) = watch::channel(open.from);
        let pump = Pump {
            partition: self.inner.raft.partition(open.group),
            open,
            region: self.region.clone(),
            metadata: self.inner.metadata.clone(),
            positions,
            frames: self.frames.clone(),
        };
        let pump = self.pumps.spawn(pump.run());
        self.open.insert(number, (position, pump));
        Ok(())
    }
}
