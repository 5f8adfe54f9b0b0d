//! All Raft groups of one process: the controller and every partition that has a replica here, over one peer connection per neighbour.
//!
//! [`pulse`] tells the neighbours that this node lives, [`takeover`] has others lead what a dead one led, [`release`] what lives but leads no more,
//! [`clock`] calls groups, [`telling`] says which groups this node leads, [`leading`] knows who leads the others, [`opening`] opens groups,
//! [`deleting`] deletes them, [`trust`] takes an operator's word for that of nodes that are gone.

mod clock;
mod config;
mod deleting;
mod disk;
mod leading;
pub(crate) mod lives;
pub(crate) mod losses;
mod opening;
mod pulse;
mod release;
mod repairs;
mod retention;
mod scrub;
mod takeover;
mod telling;
pub mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::control::Control;
use crate::env::Env;
use crate::group::Group;
use crate::group::clock::Clock;
use crate::log::{Memory, MemoryStats, Rolling};
use crate::partition::Partition;
use crate::peer::client::Peers;
use crate::peer::liveness::Liveness;
use crate::peer::server;
use crate::repair::{self, Repair};
use crate::space::Space;
use crate::writer::{Writer, WriterStats};
use crate::{GroupId, NodeId};
pub use config::{NodeConfig, NodeError, NodeStats, PeerTls, Timing};
use lives::Lives;
pub use scrub::{SCRUB_BYTES_PER_S_DEFAULT, SCRUB_PAUSE_DEFAULT, ScrubStats};
use telling::Telling;

/// A snapshot takes the place of the controller's log once it holds more: so much is read and applied again at a start.
const CONTROLLER_ROLLING: Rolling = Rolling { segment_bytes: 4 << 20, ..Rolling::DEFAULT };
/// Groups that may be opened or deleted at once.
const CHANGING: usize = 32;
/// How long a stopping node waits for another to take a group over.
pub(crate) const HANDOVER_DEADLINE: Duration = Duration::from_secs(2);

/// One process's part in its region. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// What the node's own tasks hold, so that they do not keep it alive.
#[derive(Debug, Clone)]
pub(crate) struct NodeWeak(Weak<Inner>);

impl NodeWeak {
    pub fn upgrade(&self) -> Option<Node> {
        self.0.upgrade().map(|inner| Node { inner })
    }
}

#[derive(Debug)]
struct Inner {
    env: Env,
    config: NodeConfig,
    writer: Writer,
    memory: Memory,
    space: Arc<Space>,
    peers: Peers,
    /// Peers that refuse new data, by their own word.
    full_peers: Mutex<BTreeSet<NodeId>>,
    runtime: Handle,
    /// One open or delete at a time of the same group, so that it never runs twice over the same files.
    changing: [tokio::sync::Mutex<()>; CHANGING],
    liveness: Liveness,
    clock: Clock,
    /// Groups that are led, or led no more: peers are to hear.
    telling: Arc<Telling>,
    partitions: RwLock<BTreeMap<GroupId, Partition>>,
    control: RwLock<Option<Control>>,
    /// Who led what when it was last heard: group → node and epoch.
    heard: Mutex<BTreeMap<GroupId, (NodeId, i32)>>,
    repairs: Mutex<BTreeMap<GroupId, Repair>>,
    lives: Lives,
    scrub: scrub::Scrub,
    repair_counters: Arc<repair::Counters>,
    elections: Arc<AtomicU64>,
    tasks: Mutex<Vec<AbortHandle>>,
    address: SocketAddr,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Binds the data folder to its node.
fn claim(writer: &Writer, node_id: NodeId) -> Result<BoxFuture<'static, io::Result<()>>, NodeError> {
    let key = b"node".to_vec();
    match writer.meta(key.clone()).and_then(|value| Some(u64::from_be_bytes(value.try_into().ok()?))) {
        Some(found) if found != node_id => Err(NodeError::WrongNode { found, expected: node_id }),
        Some(_) => Ok(std::future::ready(Ok(())).boxed()),
        None => Ok(writer.save_meta(key, Some(node_id.to_be_bytes().to_vec()))),
    }
}

impl Node {
    /// Opens the data folder, starts the peer listener and the writer. Runs Raft on the calling tokio runtime, whoever opens groups later.
    pub fn start(env: Env, config: NodeConfig) -> BoxFuture<'static, Result<Node, NodeError>> {
        // Boxed: so it is compiled once, with this crate, and not with each that awaits it.
        Node::begin(env, config).boxed()
    }

    async fn begin(env: Env, config: NodeConfig) -> Result<Node, NodeError> {
        let (env, space) = Space::keep(&env, &config.data_dir)?;
        let (writer, lost) = lives::open_writer(&env, &config)?;
        claim(&writer, config.node_id)?.await?;
        deleting::finish_all(&env, &writer, &config.data_dir).await?;
        let lives = Lives::begin(&env, &writer, lost).await?;
        let listener = env.net.listen(config.peer_listen).await?;
        let address = listener.local_addr()?;
        let others: BTreeMap<NodeId, String> =
            config.peers.iter().filter(|(node, _)| **node != config.node_id).map(|(node, at)| (*node, at.clone())).collect();
        let liveness = Liveness::new(env.random.next_u64(), config.timing);
        let peers = Peers::start(&env, config.tls.as_ref(), &others, &liveness);
        let tls = config.tls.clone();
        let inner = Inner {
            env,
            config,
            writer,
            memory: Memory::default(),
            space,
            peers,
            full_peers: Mutex::default(),
            runtime: Handle::current(),
            changing: Default::default(),
            liveness,
            clock: Clock::default(),
            telling: Arc::default(),
            partitions: RwLock::default(),
            control: RwLock::default(),
            heard: Mutex::default(),
            repairs: Mutex::default(),
            lives,
            scrub: Default::default(),
            repair_counters: Arc::default(),
            elections: Arc::default(),
            tasks: Mutex::default(),
            address,
        };
        let node = Node { inner: Arc::new(inner) };
        let weak = NodeWeak(Arc::downgrade(&node.inner));
        let mut tasks = vec![
            tokio::spawn(server::serve(weak.clone(), listener, tls)).abort_handle(),
            tokio::spawn(lives::live(weak.clone())).abort_handle(),
            tokio::spawn(scrub::scrub(weak.clone())).abort_handle(),
            tokio::spawn(telling::tell(weak.clone(), node.inner.telling.clone(), node.inner.peers.clone())).abort_handle(),
            tokio::spawn(takeover::watch(weak.clone(), node.inner.liveness.clone())).abort_handle(),
            tokio::spawn(clock::call(weak.clone(), node.inner.clock.clone())).abort_handle(),
            tokio::spawn(clock::watch_neighbours(weak.clone(), node.inner.liveness.clone())).abort_handle(),
            tokio::spawn(disk::tend(weak.clone())).abort_handle(),
            tokio::spawn(retention::enforce(weak)).abort_handle(),
        ];
        let pulses =
            pulse::send(node.inner.peers.clone(), node.inner.liveness.clone(), node.inner.space.clone(), node.inner.config.node_id);
        tasks.push(tokio::spawn(pulses).abort_handle());
        lock(&node.inner.tasks).extend(tasks);
        Ok(node)
    }

    /// Where peers are accepted; tells the port when the configuration asked for any.
    pub fn peer_address(&self) -> SocketAddr {
        self.inner.address
    }

    pub fn partition(&self, id: GroupId) -> Option<Partition> {
        read(&self.inner.partitions).get(&id).cloned()
    }
    pub fn partitions(&self) -> Vec<Partition> {
        read(&self.inner.partitions).values().cloned().collect()
    }

    /// As peers see it: none while it is not certain that this node knows what it has promised.
    pub(crate) fn group(&self, id: GroupId) -> Option<Group> {
        if self.takes_part() { self.open_group(id) } else { None }
    }

    fn open_group(&self, id: GroupId) -> Option<Group> {
        if id == GroupId::CONTROLLER {
            return read(&self.inner.control).as_ref().map(|control| control.group().clone());
        }
        self.partition(id).map(|partition| partition.group().clone())
    }

    pub(crate) fn liveness(&self) -> &Liveness {
        &self.inner.liveness
    }

    pub(crate) async fn propose_for_peer(&self, command: Vec<u8>) -> Result<Vec<u8>, String> {
        let control = read(&self.inner.control).clone();
        control.ok_or("the controller is not open here")?.propose_for_peer(command).await
    }

    /// There is a connection to that node, or it is this one. Falls the moment a process dies; a node may live that cannot be reached.
    pub fn reaches(&self, node: NodeId) -> bool {
        node == self.inner.config.node_id || self.inner.peers.is_connected(node)
    }

    /// Peers that were heard of within two election timeouts and have not died since for all that is known, and this node.
    pub fn live_nodes(&self) -> Vec<NodeId> {
        let mut live = self.inner.liveness.heard_within(Duration::from_millis(self.inner.config.timing.election_max_ms * 2));
        live.push(self.inner.config.node_id);
        live.sort_unstable();
        live
    }

    /// Why a group here cannot go on, if one cannot: a failed disk, or a bug. The groups share one disk, so the first to say it says enough.
    pub fn failure(&self) -> Option<String> {
        let control = || read(&self.inner.control).as_ref().and_then(|control| control.group().failure());
        self.disk_failure()
            .or_else(control)
            .or_else(|| read(&self.inner.partitions).values().find_map(|partition| partition.group().failure()))
    }

    /// From now on these are the other nodes of the region, each with the addresses where it may be reached. This node's own number is ignored.
    pub fn set_peers(&self, mut addresses: BTreeMap<NodeId, Vec<String>>) {
        addresses.remove(&self.inner.config.node_id);
        let removed: Vec<NodeId> = self.inner.peers.known().into_iter().filter(|peer| !addresses.contains_key(peer)).collect();
        self.inner.peers.set(addresses);
        // Nobody will say of them that they are gone.
        removed.into_iter().for_each(|peer| self.take_over(peer));
    }

    /// Where everything of this node lies.
    pub fn data_dir(&self) -> &std::path::Path {
        &self.inner.config.data_dir
    }

    /// How fast this node sends logs to replicas that catch up before they vote, all partitions together.
    pub fn set_catch_up_rate(&self, bytes_per_s: u64) {
        self.inner.peers.catch_up().set(bytes_per_s);
    }

    pub fn stats(&self) -> NodeStats {
        let WriterStats { syncs, sync_us_sum, sync_us_max, bytes_written } = self.inner.writer.stats();
        let (quiesced, woken) = self.inner.clock.counts();
        NodeStats {
            syncs,
            sync_us_sum,
            sync_us_max,
            bytes_written,
            elections: self.inner.elections.load(Ordering::Relaxed),
            disk_free_bytes: self.inner.space.free_bytes(),
            disk_full: self.inner.space.is_full(),
            disk_fills: self.inner.space.fills(),
            quiesced,
            woken,
        }
    }

    /// The most that recent entries of all logs together, and indexes of their closed segments, take in memory.
    pub fn limit_memory(&self, tail_bytes: usize, index_bytes: usize) {
        self.inner.memory.limit(tail_bytes, index_bytes);
    }

    /// What the logs take in memory, and how much of what was read came from there.
    pub fn memory_stats(&self) -> MemoryStats {
        self.inner.memory.stats()
    }

    fn groups(&self) -> Vec<Group> {
        let control = read(&self.inner.control).as_ref().map(|control| control.group().clone());
        self.partitions().iter().map(|partition| partition.group().clone()).chain(control).collect()
    }

    /// Hands every leadership over, flushes, and stops. Idempotent.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.cancel_repairs();
        futures_util::future::join_all(self.groups().iter().map(Group::stop)).await;
        write(&self.inner.partitions).clear();
        *write(&self.inner.control) = None;
        lock(&self.inner.tasks).drain(..).for_each(|task| task.abort());
        self.inner.peers.stop();
        self.inner.writer.stop().await;
    }
}
