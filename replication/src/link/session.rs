//! The target's end of a link: dials a node of another region, hears what it leads, and opens mirrors on its streams.
//!
//! A session is two connections. Heartbeats and the catalogue have one of their own, because a connection has one congestion window: behind a
//! backlog of batches even the stream of highest priority would wait for it. Positions run against the batches, on the same streams: they are
//! what lets the source send more, and cost the other direction nothing.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use meridian_raft::GroupId;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::frame::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, Data, EndReason, Frame, ReadFrameError, read_frame};
use super::transport::MIRROR_STREAMS;
use super::{Inner, lock, tls};
use crate::heartbeat::{Claim, Hearing, HearingError};
use crate::mirror::source::FRAMES_IN_FLIGHT_MAX;

/// Requests of this node that wait for a stream.
const REQUESTS_MAX: usize = 1024;
/// Time for both handshakes of a session.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// A peer that is silent for so long is dialled anew, whatever QUIC hopes for.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);
/// A claim counts as connected for so long after the last heartbeat.
const FRESH: Duration = Duration::from_secs(1);

/// Application close codes, seen by the peer.
pub(crate) mod close {
    pub const STOPPED: u32 = 0;
    pub const IDENTITY: u32 = 1;
    pub const PROTOCOL: u32 = 2;
    pub const SILENT: u32 = 3;
    pub const BUSY: u32 = 4;
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("cannot resolve the address: {0}")]
    Resolve(std::io::Error),
    #[error("the address resolves to nothing")]
    Nowhere,
    #[error("cannot dial: {0}")]
    Dial(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("no connection within {DIAL_DEADLINE:?}")]
    Slow,
    #[error(transparent)]
    Identity(#[from] tls::IdentityError),
    #[error("both connections must reach the same node")]
    Mixed,
    #[error("node {found} answers where node {expected} was told to be")]
    Stranger { found: u64, expected: u64 },
    #[error("no heartbeat for {SILENCE_MAX:?}")]
    Silent,
    #[error("the peer ended the control stream")]
    Ended,
    #[error(transparent)]
    Read(#[from] ReadFrameError),
    #[error("cannot write: {0}")]
    Write(#[from] quinn::WriteError),
    #[error(transparent)]
    Hearing(#[from] HearingError),
    #[error("a frame that a source does not send")]
    Unexpected,
    #[error("more batches than were asked for")]
    Flood,
}

/// What a mirror hears from its source.
#[derive(Debug)]
pub(crate) enum MirrorEvent {
    Opened,
    /// The permit counts the bytes against what this node will buffer, until dropped.
    Data(Data, OwnedSemaphorePermit),
    Ended(EndReason, String),
}

/// A live link to one node of another region.
#[derive(Debug)]
pub(crate) struct Session {
    pub id: u64,
    pub region: String,
    /// Whose certificate both connections showed.
    pub node: u64,
    pub control: Connection,
    pub bulk: Connection,
    streams: Vec<OnceCell<MirrorStream>>,
    hearing: Mutex<Hearing>,
    heard_at: Mutex<Instant>,
    heard: AtomicBool,
    numbers: AtomicU32,
}

type Routes = Arc<Mutex<HashMap<u32, mpsc::Sender<MirrorEvent>>>>;

#[derive(Debug)]
struct MirrorStream {
    requests: mpsc::Sender<Frame>,
    routes: Routes,
}

/// One opened mirror. Closes at the source when dropped.
#[derive(Debug)]
pub(crate) struct OpenMirror {
    pub number: u32,
    pub events: mpsc::Receiver<MirrorEvent>,
    requests: mpsc::Sender<Frame>,
    routes: Routes,
}

impl OpenMirror {
    pub async fn report(&self, offset: i64) {
        // A broken stream is learned from `events`.
        let _ = self.requests.send(Frame::Position { number: self.number, offset }).await;
    }
}

impl Drop for OpenMirror {
    fn drop(&mut self) {
        lock(&self.routes).remove(&self.number);
        // Where the queue is full, the source learns it from silence: it never has more in flight than one mirror's credit.
        let _ = self.requests.try_send(Frame::Close { number: self.number });
    }
}

impl Session {
    /// Connects to a node of `region` at `address`: to that one, where one is named.
    pub async fn dial(inner: &Arc<Inner>, id: u64, region: &str, node: Option<u64>, address: &str) -> Result<Session, SessionError> {
        let dialled = async {
            let control = connect(inner, region, address).await?;
            let bulk = connect(inner, region, address).await?;
            Ok::<_, SessionError>((control, bulk))
        };
        let ((control, control_peer), (bulk, bulk_peer)) =
            tokio::time::timeout(DIAL_DEADLINE, dialled).await.map_err(|_| SessionError::Slow)??;
        if control_peer != bulk_peer {
            return Err(SessionError::Mixed);
        }
        let found = control_peer.node;
        if let Some(expected) = node.filter(|expected| *expected != found) {
            control.close(VarInt::from_u32(close::IDENTITY), b"another node was expected here");
            bulk.close(VarInt::from_u32(close::IDENTITY), b"another node was expected here");
            return Err(SessionError::Stranger { found, expected });
        }
        Ok(Session {
            id,
            region: region.to_owned(),
            node: found,
            control,
            bulk,
            streams: (0..MIRROR_STREAMS).map(|_| OnceCell::new()).collect(),
            hearing: Mutex::default(),
            heard_at: Mutex::new(Instant::now()),
            heard: AtomicBool::new(false),
            numbers: AtomicU32::new(1),
        })
    }

    /// Listens until the session breaks, and says why. Then both connections are closed.
    pub async fn run(&self, inner: &Arc<Inner>) -> SessionError {
        let error = tokio::select! {
            error = self.listen(inner) => error,
            error = self.watch_silence() => error,
            error = self.bulk.closed() => error.into(),
        };
        let code = match &error {
            SessionError::Silent => close::SILENT,
            SessionError::Connection(_) => close::STOPPED,
            _ => close::PROTOCOL,
        };
        self.close(code, &error.to_string());
        error
    }

    pub fn close(&self, code: u32, reason: &str) {
        self.control.close(VarInt::from_u32(code), reason.as_bytes());
        self.bulk.close(VarInt::from_u32(code), reason.as_bytes());
    }

    async fn listen(&self, inner: &Arc<Inner>) -> SessionError {
        match self.hear_all(inner).await {
            Ok(()) => SessionError::Ended,
            // What closed the connection says more than the stream that broke with it.
            Err(error) => self.control.close_reason().map_or(error, SessionError::from),
        }
    }

    async fn hear_all(&self, inner: &Arc<Inner>) -> Result<(), SessionError> {
        let (mut send, mut receive) = self.control.open_bi().await?;
        write(&mut send, Frame::Control.encode()).await?;
        let mut last = None;
        while let Some(frame) = read_frame(&mut receive, CONTROL_BYTES_MAX).await? {
            match frame {
                Frame::Catalogue(catalogue) => {
                    inner.metadata.accept(&self.region, catalogue.clone());
                    last = Some(catalogue);
                }
                Frame::CatalogueUnchanged { version } => {
                    let catalogue = last.as_mut().ok_or(SessionError::Unexpected)?;
                    catalogue.version = version;
                    inner.metadata.accept(&self.region, catalogue.clone());
                }
                Frame::Name { number, group } => lock(&self.hearing).name(number, group)?,
                Frame::Heartbeat(heartbeat) => {
                    *lock(&self.heard_at) = Instant::now();
                    self.heard.store(true, Ordering::Relaxed);
                    let mut pairs = Vec::with_capacity(heartbeat.beats.len());
                    let changed = lock(&self.hearing).hear(&heartbeat, |group, claim| pairs.push((group, claim.pair(0))))?;
                    // After the lock is free: whoever asks for a mirror's status takes them in the other order.
                    pairs.into_iter().for_each(|(group, pair)| inner.note(group, pair));
                    if changed {
                        inner.claims_changed();
                    }
                }
                _ => return Err(SessionError::Unexpected),
            }
        }
        Ok(())
    }

    async fn watch_silence(&self) -> SessionError {
        loop {
            let heard_at = *lock(&self.heard_at);
            if heard_at.elapsed() >= SILENCE_MAX {
                return SessionError::Silent;
            }
            tokio::time::sleep_until(heard_at + SILENCE_MAX).await;
        }
    }

    /// What the peer says of a partition, if it leads it and the session lives; with the pair it vouches for.
    pub fn claim(&self, group: GroupId) -> Option<(Claim, (i64, i64))> {
        if self.control.close_reason().is_some() {
            return None;
        }
        let hearing = lock(&self.hearing);
        hearing.claim(group).map(|claim| (claim, claim.pair(hearing.quiet_us())))
    }

    /// At least one heartbeat came: the peer took this node in.
    pub fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// A heartbeat came within the last second.
    pub fn is_fresh(&self) -> bool {
        self.is_heard() && lock(&self.heard_at).elapsed() < FRESH
    }

    /// Asks for a partition on the stream that its name hashes to.
    pub async fn open(&self, inner: &Arc<Inner>, open: super::frame::Open) -> Result<OpenMirror, SessionError> {
        let mut hasher = DefaultHasher::new();
        open.group.hash(&mut hasher);
        let stream = &self.streams[hasher.finish() as usize % self.streams.len()];
        let stream = stream.get_or_try_init(|| MirrorStream::start(inner.clone(), self.bulk.clone())).await?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        // The source has at most so many frames of one mirror in flight, and says at most two things besides.
        let (sender, events) = mpsc::channel(FRAMES_IN_FLIGHT_MAX + 2);
        lock(&stream.routes).insert(number, sender);
        let mirror = OpenMirror { number, events, requests: stream.requests.clone(), routes: stream.routes.clone() };
        let open = super::frame::Open { number, ..open };
        stream.requests.send(Frame::Open(open)).await.map_err(|_| SessionError::Ended)?;
        Ok(mirror)
    }
}

async fn connect(
    inner: &Inner,
    region: &str,
    address: &str,
) -> Result<(Connection, meridian_auth::certificate::NodeIdentity), SessionError> {
    let ipv4 = inner.endpoint.local_addr().is_ok_and(|local| local.is_ipv4());
    let mut resolved = tokio::net::lookup_host(address).await.map_err(SessionError::Resolve)?;
    let remote = resolved.find(|remote| remote.is_ipv4() || !ipv4).ok_or(SessionError::Nowhere)?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let connection = inner.endpoint.connect(remote, host)?.await?;
    match tls::peer(&connection, &inner.config.mesh, |found| found == region) {
        Ok(identity) => Ok((connection, identity)),
        Err(error) => {
            connection.close(VarInt::from_u32(close::IDENTITY), error.to_string().as_bytes());
            Err(error.into())
        }
    }
}

/// Writes an encoded frame.
pub(crate) async fn write(stream: &mut SendStream, mut pieces: Vec<Bytes>) -> Result<(), quinn::WriteError> {
    stream.write_all_chunks(&mut pieces).await
}

impl MirrorStream {
    async fn start(inner: Arc<Inner>, bulk: Connection) -> Result<MirrorStream, SessionError> {
        let (send, receive) = bulk.open_bi().await?;
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let routes = Routes::default();
        let task = serve(inner.clone(), bulk, send, receive, queue, routes.clone());
        inner.spawn(task);
        Ok(MirrorStream { requests, routes })
    }
}

/// Both directions of a mirror stream, until either breaks: then every mirror on it learns that its events end.
async fn serve(inner: Arc<Inner>, bulk: Connection, send: SendStream, receive: RecvStream, queue: mpsc::Receiver<Frame>, routes: Routes) {
    let mut tasks = JoinSet::new();
    tasks.spawn(write_requests(send, queue));
    tasks.spawn(route(inner, receive, routes.clone()));
    if let Some(Ok(Err(error))) = tasks.join_next().await
        && bulk.close_reason().is_none()
    {
        tracing::warn!(%error, "a mirror stream broke");
        bulk.close(VarInt::from_u32(close::PROTOCOL), error.to_string().as_bytes());
    }
    drop(tasks);
    lock(&routes).clear();
}

async fn write_requests(mut send: SendStream, mut queue: mpsc::Receiver<Frame>) -> Result<(), SessionError> {
    write(&mut send, Frame::Bulk.encode()).await?;
    while let Some(frame) = queue.recv().await {
        write(&mut send, frame.encode()).await?;
    }
    Ok(())
}

async fn route(inner: Arc<Inner>, mut receive: RecvStream, routes: Routes) -> Result<(), SessionError> {
    while let Some(frame) = read_frame(&mut receive, DATA_BYTES_MAX).await? {
        let (number, event) = match frame {
            Frame::Opened { number } => (number, MirrorEvent::Opened),
            Frame::Ended { number, reason, detail } => (number, MirrorEvent::Ended(reason, detail)),
            Frame::Data(data) => {
                // While this node has too much to append already, nothing more is read: the source's window closes.
                let bytes = data.batches.iter().map(|batch| batch.bytes.len()).sum();
                let permit = inner.admit(bytes).await;
                (data.number, MirrorEvent::Data(data, permit))
            }
            _ => return Err(SessionError::Unexpected),
        };
        // A mirror that was closed here may be sent to until the source learns it.
        let Some(mirror) = lock(&routes).get(&number).cloned() else { continue };
        if let Err(mpsc::error::TrySendError::Full(_)) = mirror.try_send(event) {
            return Err(SessionError::Flood);
        }
    }
    Ok(())
}
