//! The dialling half: one connection to every other node of the region, kept open, with any number of questions in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::frame::{self, Kind, Reader, Request};
use super::identity;
use super::liveness::Liveness;
use super::throttle::Throttle;
use crate::env::{Env, Stream};
use crate::node::PeerTls;
use crate::{GroupId, NodeId};

/// Pause between attempts to connect.
const REDIAL: Duration = Duration::from_millis(100);
const REDIAL_AT_ONCE: Duration = Duration::from_millis(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// A connection on which questions were sent and nothing came back for this long is dead, whatever TCP still hopes.
const SILENCE_MAX: Duration = Duration::from_millis(1000);
/// Small frames gathered before a write.
const WRITE_BUFFER_BYTES: usize = 64 << 10;
/// Requests and bytes that may wait for one peer before new ones are refused.
const QUEUED_REQUESTS_MAX: usize = 1 << 16;
const QUEUED_BYTES_MAX: u64 = 256 << 20;
/// The status byte of answers.
pub(crate) const STATUS_OK: u8 = 0;

/// Ordered, so that a lost connection fails its askers in one order, in simulation too.
type Waiting = BTreeMap<u64, Asker>;

/// Whoever sends appends over a connection: it is asked for the next one when there is room for it.
pub(crate) trait Source: std::fmt::Debug + Send + Sync {
    /// What is to be sent to that node now, if anything.
    fn next(self: Arc<Self>, node: NodeId) -> Option<(Request, Ticket)>;
    /// What became of it. Answers come in the order of the requests, or not at all any more.
    fn answered(self: Arc<Self>, node: NodeId, ticket: Ticket, answer: io::Result<Bytes>);
    /// It will not be asked: there is no connection any more.
    fn unreachable(self: Arc<Self>, node: NodeId);
}

/// What a source knows its requests by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub session: u64,
    pub term: u64,
}

#[derive(Debug)]
enum Asker {
    Caller(oneshot::Sender<io::Result<Bytes>>),
    Source(Arc<dyn Source>, Ticket),
}

/// What waits to be sent.
#[derive(Debug)]
enum Item {
    Request(u64, Request),
    Source(Arc<dyn Source>),
}

/// Connections to all other nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    peers: Arc<RwLock<BTreeMap<NodeId, Arc<Peer>>>>,
    env: Env,
    tls: Option<PeerTls>,
    /// Where connections live, whoever adds one.
    runtime: tokio::runtime::Handle,
    /// What replicas that are catching up may be sent.
    catch_up: Arc<Throttle>,
    liveness: Liveness,
    /// A connection is made.
    made: Arc<Notify>,
}

#[derive(Debug)]
struct Peer {
    queue: mpsc::UnboundedSender<Item>,
    queued_bytes: Arc<AtomicU64>,
    state: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Number of the next question.
    next: AtomicU64,
    connected: AtomicBool,
    /// How many connections were made.
    sessions: AtomicU64,
    heard: Mutex<Option<Instant>>,
    /// Questions sent since anything was heard.
    unheard: AtomicU64,
    /// Where the peer may be reached, tried in turn.
    addresses: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_connected() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Peers {
    /// Starts dialling every address.
    pub fn start(env: &Env, tls: Option<&PeerTls>, addresses: &BTreeMap<NodeId, String>, liveness: &Liveness) -> Peers {
        let (env, tls, runtime) = (env.clone(), tls.cloned(), tokio::runtime::Handle::current());
        let liveness = liveness.clone();
        let peers = Peers { peers: Arc::default(), env, tls, runtime, catch_up: Arc::default(), liveness, made: Arc::default() };
        peers.set(addresses.iter().map(|(node, address)| (*node, vec![address.clone()])).collect());
        peers
    }

    /// From now on these are the peers. Who is not among them is dialled no more; of one that is already, only the addresses change, and a
    /// connection that lives is left alone.
    pub fn set(&self, wanted: BTreeMap<NodeId, Vec<String>>) {
        let mut peers = self.write();
        self.liveness.set(wanted.keys().copied());
        peers.retain(|node, peer| {
            let stays = wanted.contains_key(node);
            if !stays {
                peer.stop();
            }
            stays
        });
        for (node, addresses) in wanted {
            let peer = peers.entry(node).or_insert_with(|| Arc::new(self.dial(node)));
            *lock(&peer.state.addresses) = addresses;
        }
    }

    fn dial(&self, node: NodeId) -> Peer {
        let (queue, items) = mpsc::unbounded_channel();
        let state = Arc::new(Shared::default());
        let queued_bytes = Arc::new(AtomicU64::new(0));
        let dialler = Dialler {
            env: self.env.clone(),
            tls: self.tls.clone(),
            node,
            state: state.clone(),
            queued_bytes: queued_bytes.clone(),
            liveness: self.liveness.clone(),
            made: self.made.clone(),
        };
        let task = self.runtime.spawn(dialler.run(items)).abort_handle();
        Peer { queue, queued_bytes, state, task }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, Arc<Peer>>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<NodeId, Arc<Peer>>> {
        self.peers.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Those that are dialled, connected or not.
    pub fn known(&self) -> BTreeSet<NodeId> {
        self.read().keys().copied().collect()
    }

    /// Those that are connected now.
    pub fn connected(&self) -> Vec<NodeId> {
        let peers = self.read();
        peers.iter().filter(|(_, peer)| peer.state.connected.load(Ordering::SeqCst)).map(|(node, _)| *node).collect()
    }

    pub fn catch_up(&self) -> &Arc<Throttle> {
        &self.catch_up
    }

    /// Asks one peer. The request is queued in the call, so that calls made in order are sent in order; while there is no connection it fails at once.
    pub fn call(&self, node: NodeId, request: Request, deadline: Duration) -> BoxFuture<'static, io::Result<Bytes>> {
        let Some(peer) = self.read().get(&node).cloned() else {
            return std::future::ready(Err(not_connected())).boxed();
        };
        let (sender, answer) = oneshot::channel();
        let number = match peer.queue(request, Some(Asker::Caller(sender))) {
            Ok(number) => number,
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        async move {
            match tokio::time::timeout(deadline, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(not_connected()),
                Err(_) => {
                    lock(&peer.state.waiting).remove(&number);
                    Err(io::ErrorKind::TimedOut.into())
                }
            }
        }
        .boxed()
    }

    /// Asks `source` for the next request to that node, as soon as one can be sent; fails where there is no connection.
    pub fn feed(&self, node: NodeId, source: Arc<dyn Source>) -> io::Result<()> {
        let peer = self.read().get(&node).cloned().ok_or_else(not_connected)?;
        if !peer.state.connected.load(Ordering::SeqCst) {
            return Err(not_connected());
        }
        peer.queue.send(Item::Source(source)).map_err(|_| not_connected())
    }

    /// Bytes that wait to be sent to that node.
    pub fn queued_bytes(&self, node: NodeId) -> u64 {
        self.read().get(&node).map_or(0, |peer| peer.queued_bytes.load(Ordering::Relaxed))
    }

    /// Sends what `source` has made without being asked for it.
    pub fn send(&self, node: NodeId, request: Request, source: Arc<dyn Source>, ticket: Ticket) -> io::Result<()> {
        let peer = self.read().get(&node).cloned().ok_or_else(not_connected)?;
        peer.queue(request, Some(Asker::Source(source, ticket))).map(drop)
    }

    /// Tells one peer something that is not answered; fails where it is not connected, or too much waits.
    pub fn tell(&self, node: NodeId, kind: Kind, body: Bytes) -> io::Result<()> {
        let peer = self.read().get(&node).cloned().ok_or_else(not_connected)?;
        peer.queue(Request { kind, group: GroupId::CONTROLLER, body: vec![body] }, None).map(drop)
    }

    /// The number of the connection to a peer, while there is one: what was told on another may be lost.
    pub fn session(&self, node: NodeId) -> Option<u64> {
        let peers = self.read();
        let state = &peers.get(&node)?.state;
        state.connected.load(Ordering::SeqCst).then(|| state.sessions.load(Ordering::Relaxed))
    }

    /// Resolves when a connection is made.
    pub async fn made(&self) {
        self.made.notified().await;
    }

    pub fn is_connected(&self, node: NodeId) -> bool {
        self.read().get(&node).is_some_and(|peer| peer.state.connected.load(Ordering::SeqCst))
    }

    pub fn stop(&self) {
        self.read().values().for_each(|peer| peer.stop());
    }
}

impl Peer {
    fn stop(&self) {
        self.task.abort();
        self.state.connected.store(false, Ordering::SeqCst);
        lock(&self.state.waiting).clear();
    }

    fn queue(&self, request: Request, answer: Option<Asker>) -> io::Result<u64> {
        let bytes = request.bytes() as u64;
        if !self.state.connected.load(Ordering::SeqCst) {
            return Err(not_connected());
        }
        let number = self.state.next.fetch_add(1, Ordering::Relaxed);
        let mut waiting = lock(&self.state.waiting);
        if waiting.len() >= QUEUED_REQUESTS_MAX || self.queued_bytes.load(Ordering::Relaxed) + bytes > QUEUED_BYTES_MAX {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(answer) = answer {
            waiting.insert(number, answer);
            self.state.unheard.fetch_add(1, Ordering::Relaxed);
        }
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.queue.send(Item::Request(number, request)).map_err(|_| not_connected())?;
        Ok(number)
    }
}

struct Dialler {
    env: Env,
    tls: Option<PeerTls>,
    node: NodeId,
    state: Arc<Shared>,
    queued_bytes: Arc<AtomicU64>,
    liveness: Liveness,
    made: Arc<Notify>,
}

impl Dialler {
    async fn run(self, mut items: mpsc::UnboundedReceiver<Item>) {
        let mut said = String::new();
        for turn in 0usize.. {
            let dialled = Instant::now();
            let addresses = lock(&self.state.addresses).clone();
            let Some(address) = addresses.get(turn % addresses.len().max(1)) else {
                tokio::time::sleep(REDIAL).await;
                continue;
            };
            let result = match tokio::time::timeout(CONNECT_DEADLINE, self.connect(address)).await {
                Ok(Ok(stream)) => {
                    tracing::debug!(node = self.node, "peer connected");
                    said.clear();
                    self.state.sessions.fetch_add(1, Ordering::Relaxed);
                    self.state.connected.store(true, Ordering::SeqCst);
                    self.made.notify_one();
                    self.converse(stream, &mut items).await
                }
                Ok(Err(error)) => {
                    if error.kind() == io::ErrorKind::ConnectionRefused {
                        self.liveness.refused(self.node);
                    }
                    error
                }
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            let text = result.to_string();
            if text != said {
                tracing::info!(node = self.node, address, error = text, "no connection to peer; dialling on");
                said = text;
            }
            self.state.connected.store(false, Ordering::SeqCst);
            self.drop_all(&mut items);
            self.state.unheard.store(0, Ordering::Relaxed);
            // Whether the process is gone is learned by dialling it again: at once, where the connection had lasted.
            tokio::time::sleep(if dialled.elapsed() > REDIAL { REDIAL_AT_ONCE } else { REDIAL }).await;
        }
    }

    /// Nothing of what waits will be sent or answered.
    fn drop_all(&self, items: &mut mpsc::UnboundedReceiver<Item>) {
        while let Ok(item) = items.try_recv() {
            match item {
                Item::Request(_, request) => {
                    self.queued_bytes.fetch_sub(request.bytes() as u64, Ordering::Relaxed);
                }
                Item::Source(source) => source.unreachable(self.node),
            }
        }
        let waiting = std::mem::take(&mut *lock(&self.state.waiting));
        for asker in waiting.into_values() {
            if let Asker::Source(source, ticket) = asker {
                source.answered(self.node, ticket, Err(not_connected()));
            }
        }
    }

    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let stream = self.env.net.connect(address).await?;
        let Some(tls) = &self.tls else { return Ok(stream) };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(tls.client.clone()).connect(name, stream).await?;
        if identity::node_of(stream.get_ref().1.peer_certificates(), &tls.identity_prefix) != Some(self.node) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the certificate names another node"));
        }
        Ok(Box::new(stream))
    }

    /// Sends and receives until either fails.
    async fn converse(&self, stream: Box<dyn Stream>, items: &mut mpsc::UnboundedReceiver<Item>) -> io::Error {
        let (reader, writer) = tokio::io::split(stream);
        tokio::select! {
            biased;
            result = self.receive(Reader::new(reader)) => result,
            result = self.send(BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer), items) => result,
            silence = self.watch_silence() => Err(silence),
        }
        .err()
        .unwrap_or_else(not_connected)
    }

    async fn watch_silence(&self) -> io::Error {
        let connected = Instant::now();
        loop {
            tokio::time::sleep(SILENCE_MAX / 4).await;
            let since = lock(&self.state.heard).map_or(connected, |at| at.max(connected));
            if self.state.unheard.load(Ordering::Relaxed) > 0 && since.elapsed() > SILENCE_MAX {
                return io::Error::new(io::ErrorKind::TimedOut, "the peer does not answer");
            }
        }
    }

    async fn receive(&self, mut reader: Reader<impl tokio::io::AsyncRead + Unpin>) -> io::Result<()> {
        loop {
            let mut frame = reader.next().await?;
            *lock(&self.state.heard) = Some(Instant::now());
            self.state.unheard.store(0, Ordering::Relaxed);
            if frame.kind != Kind::Answer || frame.body.is_empty() {
                return Err(frame::malformed());
            }
            let status = frame.body.split_to(1)[0];
            let waiting = lock(&self.state.waiting).remove(&frame.request);
            if let Some(waiting) = waiting {
                let answer = if status == STATUS_OK {
                    Ok(frame.body)
                } else {
                    Err(io::Error::other(String::from_utf8_lossy(&frame.body).into_owned()))
                };
                match waiting {
                    // The asker may have given up.
                    Asker::Caller(sender) => drop(sender.send(answer)),
                    Asker::Source(source, ticket) => source.answered(self.node, ticket, answer),
                }
            }
        }
    }

    async fn send(
        &self,
        mut writer: BufWriter<impl tokio::io::AsyncWrite + Unpin>,
        items: &mut mpsc::UnboundedReceiver<Item>,
    ) -> io::Result<()> {
        while let Some(item) = items.recv().await {
            let mut next = Some(item);
            while let Some(item) = next {
                self.write_item(&mut writer, item).await?;
                next = items.try_recv().ok();
            }
            writer.flush().await?;
        }
        Ok(())
    }

    async fn write_item(&self, writer: &mut BufWriter<impl tokio::io::AsyncWrite + Unpin>, item: Item) -> io::Result<()> {
        match item {
            Item::Request(number, request) => {
                self.queued_bytes.fetch_sub(request.bytes() as u64, Ordering::Relaxed);
                self.write(writer, number, request).await
            }
            Item::Source(source) => {
                let Some((request, ticket)) = source.clone().next(self.node) else { return Ok(()) };
                let number = self.state.next.fetch_add(1, Ordering::Relaxed);
                lock(&self.state.waiting).insert(number, Asker::Source(source, ticket));
                self.state.unheard.fetch_add(1, Ordering::Relaxed);
                self.write(writer, number, request).await
            }
        }
    }

    async fn write(&self, writer: &mut BufWriter<impl tokio::io::AsyncWrite + Unpin>, number: u64, request: Request) -> io::Result<()> {
        writer.write_all(&frame::head(request.kind, number, request.group, request.bytes())).await?;
        for part in &request.body {
            writer.write_all(part).await?;
        }
        Ok(())
    }
}
