//! All Raft groups of one process: the controller and every partition that has a replica here, over one peer connection per neighbour.
//!
//! [`pulse`] tells the neighbours that this node lives, [`takeover`] has others lead what a dead one led, [`quiesce`] lets groups at rest sleep,
//! [`telling`] says which groups this node leads.

mod disk;
pub(crate) mod lives;
mod pulse;
mod quiesce;
mod repairs;
mod scrub;
mod takeover;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::control::{Control, Machine};
use crate::env::Env;
use crate::group::machine::Host;
use crate::group::rest::Awake;
use crate::group::storage::meta_keys;
use crate::group::{Group, LeadershipWatch, Plan, Surroundings};
use crate::log::LogError;
use crate::partition::producers::Producers;
use crate::partition::{Leadership, Partition, PartitionSpec};
use crate::peer::client::Peers;
use crate::peer::frame::{Kind, Request};
use crate::peer::liveness::Liveness;
use crate::peer::server;
use crate::repair::{self, Repair};
use crate::space::Space;
use crate::writer::{Writer, WriterStats};
use crate::{GroupId, NodeId};
use lives::Lives;
use repairs::VOTES_LOST;
pub use scrub::ScrubStats;
use telling::Telling;

const CONTROLLER_SEGMENT_BYTES: u64 = 16 << 20;
/// Groups that may be opened or deleted at once.
const CHANGING: usize = 32;
/// How often logs are looked at for segments that are too old or too many.
const RETENTION_EVERY: Duration = Duration::from_secs(10);
/// How long the controller waits, before it is opened, for peers to say that this node knows what it has promised.
const CLEARANCE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a stopping node waits for another to take a group over.
pub(crate) const HANDOVER_DEADLINE: Duration = Duration::from_secs(2);

/// Mutual TLS for peers; None only in simulation.
#[derive(Debug, Clone)]
pub struct PeerTls {
    pub server: Arc<rustls::ServerConfig>,
    pub client: Arc<rustls::ClientConfig>,
    /// `spiffe://MESH/region/R/` : what every peer's URI SAN must start with; the rest is `node/N`.
    pub identity_prefix: String,
}

/// How one node takes part in its region.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub node_id: NodeId,
    pub data_dir: PathBuf,
    pub peer_listen: SocketAddr,
    /// `host:port` of every node of the region, this one included.
    pub peers: BTreeMap<NodeId, String>,
    pub tls: Option<PeerTls>,
    pub timing: Timing,
}

/// Raft's clocks, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("data folder: {0}")]
    Io(#[from] std::io::Error),
    #[error("the data folder belongs to node {found}, this is node {expected}")]
    WrongNode { found: NodeId, expected: NodeId },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("raft: {0}")]
    Raft(String),
    /// It takes no part in its group until it has been repaired, which goes on by itself.
    #[error("the replica is damaged and being repaired from its peers: {0}")]
    Damaged(String),
}

/// Figures for telemetry, all since start unless a unit says otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeStats {
    pub syncs: u64,
    pub sync_us_sum: u64,
    pub sync_us_max: u64,
    pub bytes_written: u64,
    pub elections: u64,
    /// What is free on the disk of the data folder.
    pub disk_free_bytes: u64,
    /// New data is refused for want of space.
    pub disk_full: bool,
    /// How often that began.
    pub disk_fills: u64,
    /// How often a replica fell asleep, and how often one woke.
    pub quiesced: u64,
    pub woken: u64,
}

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
    space: Arc<Space>,
    peers: Peers,
    /// Peers that refuse new data, by their own word.
    full_peers: Mutex<BTreeSet<NodeId>>,
    runtime: Handle,
    /// One open or delete at a time of the same group, so that it never runs twice over the same files.
    changing: [tokio::sync::Mutex<()>; CHANGING],
    liveness: Liveness,
    awake: Awake,
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
        // Boxed, as what starts and stops a group is: so openraft is compiled once, with this crate, and not with each that awaits it.
        Node::begin(env, config).boxed()
    }

    async fn begin(env: Env, config: NodeConfig) -> Result<Node, NodeError> {
        let (env, space) = Space::keep(&env, &config.data_dir)?;
        let (writer, lost) = lives::open_writer(&env, &config)?;
        claim(&writer, config.node_id)?.await?;
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
            space,
            peers,
            full_peers: Mutex::default(),
            runtime: Handle::current(),
            changing: Default::default(),
            liveness,
            awake: Awake::default(),
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
            tokio::spawn(quiesce::rouse_stirred(weak.clone(), node.inner.awake.clone())).abort_handle(),
            tokio::spawn(quiesce::put_to_sleep(weak.clone(), node.inner.liveness.clone())).abort_handle(),
            tokio::spawn(disk::tend(weak.clone())).abort_handle(),
            tokio::spawn(enforce_retention(weak)).abort_handle(),
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

    fn directory(&self, id: GroupId) -> PathBuf {
        self.inner.config.data_dir.join("logs").join(format!("{}-{}", id.topic, id.partition))
    }

    async fn changing(&self, id: GroupId) -> tokio::sync::MutexGuard<'_, ()> {
        let lane = id.topic.as_u128() as usize ^ id.partition.unsigned_abs() as usize;
        self.inner.changing[lane % CHANGING].lock().await
    }

    fn start_group(&self, plan: Plan) -> BoxFuture<'_, Result<Group, NodeError>> {
        self.begin_group(plan).boxed()
    }

    /// Starts a group on Raft's runtime.
    async fn begin_group(&self, plan: Plan) -> Result<Group, NodeError> {
        let (node, id) = (self.clone(), plan.id);
        let start = async move {
            let Inner { env, writer, peers, config, liveness, awake, .. } = &*node.inner;
            let (watch, takes_part) = (node.leadership_watch(), node.inner.lives.watch());
            let NodeConfig { node_id, timing, .. } = *config;
            let around = Surroundings { env, writer, peers, liveness, awake, takes_part, node_id, timing, watch };
            Group::start(around, plan).await
        };
        let group = self.inner.runtime.spawn(start).await.map_err(|error| NodeError::Raft(error.to_string()))??;
        self.inner.runtime.spawn(repairs::withdraw_when_damaged(NodeWeak(Arc::downgrade(&self.inner)), group.log().watch_damage(), id));
        Ok(group)
    }

    fn leadership_watch(&self) -> LeadershipWatch {
        let (telling, elections) = (self.inner.telling.clone(), self.inner.elections.clone());
        Arc::new(move |group, leadership: Leadership| {
            let change = telling.changed(group, leadership);
            if change == Some(true) {
                elections.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Opens (and on first start forms) the controller group of all `config.peers`; replays committed commands into `machine`.
    pub async fn open_controller(&self, machine: Arc<dyn Machine>) -> Result<Control, NodeError> {
        self.open_control(machine, self.inner.config.peers.keys().copied().collect()).await
    }

    /// Opens the controller group of a region that this node did not found: it follows once the region's controller has taken it in. Until then
    /// commands go through any node that is connected.
    pub async fn join_controller(&self, machine: Arc<dyn Machine>) -> Result<Control, NodeError> {
        self.open_control(machine, Vec::new()).await
    }

    async fn open_control(&self, machine: Arc<dyn Machine>, voters: Vec<NodeId>) -> Result<Control, NodeError> {
        self.await_clearance(CLEARANCE_PATIENCE).await;
        let _changing = self.changing(GroupId::CONTROLLER).await;
        if let Some(control) = &*read(&self.inner.control) {
            return Ok(control.clone());
        }
        let plan = || Plan {
            id: GroupId::CONTROLLER,
            directory: self.directory(GroupId::CONTROLLER),
            voters: voters.clone(),
            segment_bytes: CONTROLLER_SEGMENT_BYTES,
            host: Host::Control(machine.clone()),
            mirror: false,
        };
        if let Some((reason, damaged)) = self.unfit(GroupId::CONTROLLER) {
            self.mend_controller(reason, damaged).await?;
        }
        let group = match self.start_group(plan()).await {
            Err(NodeError::Log(error)) if error.is_damage() => {
                let damaged = self.is_damage(&error).await?;
                self.mend_controller(error.to_string(), damaged).await?;
                self.start_group(plan()).await?
            }
            started => started?,
        };
        let control = Control::new(group, self.inner.peers.clone(), self.inner.config.node_id);
        *write(&self.inner.control) = Some(control.clone());
        Ok(control)
    }

    /// Opens (and on first start forms) one partition's group. Opening twice returns the same handle.
    pub async fn open_partition(&self, spec: PartitionSpec) -> Result<Partition, NodeError> {
        let _changing = self.changing(spec.id).await;
        if let Some(partition) = self.partition(spec.id) {
            return Ok(partition);
        }
        self.refuse_damaged(&spec).await?;
        let producers = Arc::new(Mutex::new(Producers::default()));
        let plan = Plan {
            id: spec.id,
            directory: self.directory(spec.id),
            voters: spec.replicas.clone(),
            segment_bytes: spec.settings.segment_bytes,
            host: Host::Partition(producers.clone()),
            mirror: spec.mirror,
        };
        let group = match self.start_group(plan).await {
            Err(NodeError::Log(error)) if error.is_damage() => {
                let damaged = self.is_damage(&error).await?;
                return Err(self.quarantine(spec, error.to_string(), damaged).await);
            }
            started => started?,
        };
        let partition = Partition::new(spec, group, producers);
        write(&self.inner.partitions).insert(partition.id(), partition.clone());
        // Found out while it was opened: whoever closes all that is open may have missed it.
        if self.distrusted(partition.id()).is_some() {
            return Err(self.withdraw_open(partition.id(), VOTES_LOST.to_owned(), false).await);
        }
        Ok(partition)
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

    /// Stops the group and removes its files, here only.
    pub async fn delete_partition(&self, id: GroupId) -> Result<(), NodeError> {
        let _changing = self.changing(id).await;
        let removed = write(&self.inner.partitions).remove(&id);
        if let Some(partition) = removed {
            partition.group().stop().await;
        }
        self.abandon_repair(id).await?;
        lock(&self.inner.heard).remove(&id);
        self.inner.writer.remove_dir(&self.inner.env, self.directory(id)).await?;
        for key in meta_keys(id) {
            self.inner.writer.save_meta(key, None).await?;
        }
        Ok(())
    }

    /// Who leads a group, also where this node holds no replica of it (learned from the peers).
    pub fn leader_of(&self, id: GroupId) -> Option<(NodeId, i32)> {
        let here = self.open_group(id).map(|group| *group.leadership().borrow());
        let heard = lock(&self.inner.heard).get(&id).copied();
        match here {
            Some(Leadership { leader: Some(leader), epoch, .. }) => Some((leader, epoch)),
            Some(_) => None,
            None => heard,
        }
    }

    /// True once whoever leads the group can commit, by the leader's own word: what is appended there now is not refused for want of a leader.
    pub fn is_led(&self, id: GroupId) -> bool {
        let here = self.open_group(id).map(|group| *group.leadership().borrow());
        let heard = lock(&self.inner.heard).get(&id).map(|(node, _)| *node);
        match here {
            Some(here) if here.leader == Some(self.inner.config.node_id) => here.is_leader,
            Some(here) => here.leader.is_some() && here.leader == heard,
            None => heard.is_some(),
        }
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
        self.inner.peers.set(addresses);
    }

    /// Has whoever leads a group hand its leadership to a node; true once that is under way or done there.
    pub async fn ask_to_hand_over(&self, id: GroupId, to: NodeId) -> bool {
        match self.leader_of(id) {
            None => false,
            Some((leader, _)) if leader == to => true,
            Some((leader, _)) if leader == self.inner.config.node_id => match self.partition(id) {
                Some(partition) => partition.transfer_leadership_to(to).await,
                None => false,
            },
            Some((leader, _)) => {
                let request = Request { kind: Kind::HandOver, group: id, body: vec![to.to_be_bytes().to_vec().into()] };
                self.inner.peers.call(leader, request, HANDOVER_DEADLINE * 2).await.is_ok()
            }
        }
    }

    /// How fast this node sends logs to replicas that catch up before they vote, all partitions together.
    pub fn set_catch_up_rate(&self, bytes_per_s: u64) {
        self.inner.peers.catch_up().set(bytes_per_s);
    }

    pub fn stats(&self) -> NodeStats {
        let WriterStats { syncs, sync_us_sum, sync_us_max, bytes_written } = self.inner.writer.stats();
        let (quiesced, woken) = self.inner.awake.counts();
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

    fn groups(&self) -> Vec<Group> {
        let control = read(&self.inner.control).as_ref().map(|control| control.group().clone());
        self.partitions().iter().map(|partition| partition.group().clone()).chain(control).collect()
    }

    /// Hands every leadership over, as far as others can take them, and goes on as a follower.
    pub async fn hand_over(&self) {
        if !self.inner.peers.is_empty() {
            let avoid = self.full_peers();
            futures_util::future::join_all(self.groups().iter().map(|group| group.transfer(HANDOVER_DEADLINE, &avoid))).await;
        }
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

/// Looks at every log now and then, in memory: only a log that has something to let go of is written to.
async fn enforce_retention(node: NodeWeak) {
    loop {
        tokio::time::sleep(RETENTION_EVERY).await;
        let Some(node) = node.upgrade() else { return };
        let now_ms = node.inner.env.clock.wall_us() / 1000;
        let partitions = node.partitions();
        drop(node);
        for partition in partitions {
            partition.enforce_retention(now_ms).await;
            partition.purge_leftovers().await;
        }
    }
}
