//! One simulated node: its disk, its program, and what of it outlives its crashes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_raft::env::{Env, SimDisk};
use meridian_raft::node::{Node, NodeConfig, NodeError, Timing};
use meridian_raft::partition::{Partition, PartitionSpec};
use meridian_raft::{GroupId, NodeId};

use super::oracle::Oracle;
use super::profile::Profile;
use super::workload::{self, Place, Stream};
use crate::sim::Mutations;

const PORT: u16 = 9000;
const SCRUB_BYTES_PER_S: u64 = 4 << 20;
const SCRUB_PAUSE: Duration = Duration::from_millis(300);
/// Between two looks at whether a damaged replica is open again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Clients that rest do so for the last part of each stretch.
const STRETCH_MS: u128 = 2_500;
const REST_MS: u128 = 1_700;
/// A failed node may ask its peers to lead in its place for this long.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(1);
const TIMING: Timing = Timing { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 };

pub(super) type Shared<T> = Arc<Mutex<T>>;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The simulated network's name of a node.
pub(super) fn host(node: NodeId) -> String {
    format!("node-{node}")
}

/// What a node's program shares with the run around it. It outlives the node's crashes.
#[derive(Clone)]
pub(super) struct Site {
    pub node: NodeId,
    pub seed: u64,
    pub disk: SimDisk,
    pub boots: Shared<u64>,
    /// The running program's handles; empty while the node is down.
    pub running: Shared<Running>,
    /// What each replica had promised to keep when its node went down.
    pub promised: Shared<BTreeMap<GroupId, u64>>,
    pub oracle: Shared<Oracle>,
    pub profile: Arc<Profile>,
    pub streams: Arc<BTreeMap<GroupId, Arc<Stream>>>,
    pub mutations: Mutations,
}

/// A node that is up.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub node: Option<Node>,
    pub partitions: BTreeMap<GroupId, Partition>,
    /// The process has ended by itself, over a disk that failed.
    pub ended: bool,
}

impl Site {
    /// This node's replica, while it is up.
    pub fn partition(&self, id: GroupId) -> Option<Partition> {
        lock(&self.running).partitions.get(&id).cloned()
    }

    /// Partitions that this node leads.
    pub fn leads(&self) -> Vec<GroupId> {
        lock(&self.running).partitions.values().filter(|partition| partition.leadership().is_leader).map(Partition::id).collect()
    }

    /// Adds what the running node counted to what the run reached.
    pub fn count(&self) {
        let Some(node) = lock(&self.running).node.clone() else { return };
        let reached = &mut lock(&self.oracle).reached;
        reached.repairs += node.repair_stats().repaired;
        let stats = node.stats();
        (reached.quiesced, reached.woken) = (reached.quiesced + stats.quiesced, reached.woken + stats.woken);
    }

    /// Are clients pausing now?
    pub fn rests(&self) -> bool {
        let now_ms = turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_millis());
        self.profile.rests && now_ms % STRETCH_MS >= STRETCH_MS - REST_MS
    }

    fn config(&self) -> NodeConfig {
        NodeConfig {
            node_id: self.node,
            data_dir: PathBuf::from("/data"),
            peer_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
            peers: (1..=self.profile.nodes).map(|node| (node, format!("{}:{PORT}", host(node)))).collect(),
            tls: None,
            timing: TIMING,
        }
    }

    /// The node's program. It ends when the node cannot go on, as the real process does; without a failing disk that is a finding.
    pub async fn live(self) -> turmoil::Result {
        let sound = self.disk.failures();
        let watched = async {
            loop {
                tokio::time::sleep(LOOK_AGAIN).await;
                if let Some(why) = lock(&self.running).node.as_ref().and_then(Node::failure) {
                    return why;
                }
            }
        };
        let why = tokio::select! {
            biased;
            ended = self.clone().run() => match ended {
                Ok(()) => return Ok(()),
                Err(error) => error.to_string(),
            },
            why = watched => why,
        };
        if self.disk.failures() == sound {
            return Err(format!("node {} cannot go on though its disk is sound: {why}", self.node).into());
        }
        let node = lock(&self.running).node.clone();
        if let Some(node) = node {
            let _ = tokio::time::timeout(FAREWELL_PATIENCE, node.disk_failed()).await;
            node.abandon().await;
        }
        lock(&self.running).ended = true;
        Ok(())
    }

    /// Starts the node with its replicas, and lets every workload act on each of them.
    async fn run(self) -> turmoil::Result {
        let boot = {
            let mut boots = lock(&self.boots);
            *boots += 1;
            *boots
        };
        let mut env = Env::simulated(self.seed.wrapping_add(boot), self.disk.clone());
        env.mutations = self.mutations;
        let node = Node::start(env, self.config()).await?;
        // Fast enough to pass over everything while a run lasts.
        node.limit_scrub(SCRUB_BYTES_PER_S, SCRUB_PAUSE);
        lock(&self.running).node = Some(node.clone());
        let placed = self.profile.partitions.iter();
        let hosted = futures_util::future::try_join_all(placed.map(|spec| self.host(&node, spec)));
        futures_util::future::try_join(hosted, self.settle(&node)).await?;
        Ok(())
    }

    /// A node that has lost votes says which partitions it is to answer for. Placements are the same to all, so these are never too old.
    async fn settle(&self, node: &Node) -> Result<(), NodeError> {
        loop {
            if let Some(loss) = node.unsettled_loss() {
                let placed = self.streams.iter().filter(|(_, stream)| lock(&stream.placement).hosts(self.node));
                node.settle_loss(loss, placed.map(|(id, _)| *id).collect()).await?;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// One replica's life: it is opened, acted upon, when it is found damaged waited for, and deleted when the partition has moved away.
    async fn host(&self, node: &Node, spec: &PartitionSpec) -> Result<(), NodeError> {
        let (id, stream) = (spec.id, &self.streams[&spec.id]);
        loop {
            let (hosted, replicas) = {
                let placement = lock(&stream.placement);
                (placement.hosts(self.node), placement.founders(self.node))
            };
            if !hosted {
                lock(&self.promised).remove(&id);
                if node.is_being_repaired(id) || node.orphans()?.contains(&id) {
                    node.leave_partition(id).await?;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            let partition = match node.open_partition(PartitionSpec { replicas, ..spec.clone() }).await {
                Err(NodeError::Damaged(why)) => {
                    if self.disk.touched() == 0 {
                        let what =
                            format!("node {} finds its replica damaged though nothing but itself wrote to its disk: {why}", self.node);
                        lock(&self.oracle).group(id).breaks(what);
                    }
                    lock(&self.running).partitions.remove(&id);
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                opened => opened?,
            };
            if let Some(promised) = lock(&self.promised).remove(&id).filter(|promised| partition.end_index() < *promised) {
                let what = format!("the log of node {} ends at index {}, promised was {promised}", self.node, partition.end_index());
                lock(&self.oracle).group(id).breaks(what);
            }
            lock(&self.running).partitions.insert(id, partition.clone());
            let closed = async {
                // A repair may close the replica and open it again between two looks.
                let open = || node.partition(id).is_some_and(|open| open.is_same_opening(&partition));
                while open() && !self.has_left(&partition, stream) {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            };
            tokio::select! {
                biased;
                () = closed => stream.forget(self.node),
                _ = workload::act(Place { site: self.clone(), partition: partition.clone(), stream: stream.clone() }) => return Ok(()),
            }
            if self.has_left(&partition, stream) {
                lock(&self.running).partitions.remove(&id);
                node.leave_partition(id).await?;
            }
        }
    }

    /// The partition has moved away, and this node leads it no more.
    fn has_left(&self, partition: &Partition, stream: &Stream) -> bool {
        let leadership = partition.leadership();
        !lock(&stream.placement).hosts(self.node) && leadership.leader != Some(self.node)
    }
}
