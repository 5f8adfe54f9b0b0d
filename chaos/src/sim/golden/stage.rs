//! Four nodes, one partition, and a director: nodes lose power, networks are cut, clients append, all at moments that only the nodes' states tell.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::env::{Ear, Env, SimDisk};
use meridian_raft::log::Rolling;
use meridian_raft::node::{Node, NodeConfig, Timing};
use meridian_raft::partition::{Observed, Partition, PartitionSettings, PartitionSpec};
use meridian_raft::{GroupId, NodeId};

use super::transcript::Transcript;

const SEED: u64 = 7;
const PORT: u16 = 9000;
const NODES: NodeId = 4;
/// Who forms the group; the first stands first.
const FOUNDERS: [NodeId; 3] = [1, 2, 3];
const TICK: Duration = Duration::from_millis(1);
/// The same for every message, so that little depends on chance.
const LATENCY: Duration = Duration::from_millis(2);
const TIMING: Timing = Timing { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 };
/// A few records make a segment.
const RECORD_BYTES: usize = 500;
const ROLLING: Rolling = Rolling { segment_bytes: 2048, segment_ms: 3_600_000 };
/// What a scene waits for comes within so much simulated time.
const PATIENCE: Duration = Duration::from_secs(20);

type Shared<T> = Arc<Mutex<T>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a client asks of a node.
#[derive(Debug, Clone)]
enum Wish {
    Append,
    DeleteRecords(i64),
    HandOver(NodeId),
    Reconfigure(Vec<NodeId>),
}

/// One node, as it outlives its power cuts.
#[derive(Clone)]
struct Actor {
    node: NodeId,
    disk: SimDisk,
    wishes: Shared<Vec<Wish>>,
    partition: Shared<Option<Partition>>,
    transcript: Shared<Transcript>,
}

pub(super) struct Stage {
    sim: turmoil::Sim<'static>,
    actors: BTreeMap<NodeId, Actor>,
    transcript: Shared<Transcript>,
}

fn host(node: NodeId) -> String {
    format!("node-{node}")
}

fn node_at(address: &str) -> Option<NodeId> {
    address.strip_prefix("node-")?.split(':').next()?.parse().ok()
}

impl Stage {
    pub fn new(title: &str) -> Stage {
        let mut sim = turmoil::Builder::new()
            .rng_seed(SEED)
            .simulation_duration(Duration::from_secs(600))
            .tick_duration(TICK)
            .min_message_latency(LATENCY)
            .max_message_latency(LATENCY)
            .build();
        let transcript = Arc::new(Mutex::new(Transcript::new(title)));
        let actor =
            |node| Actor { node, disk: SimDisk::new(), wishes: Arc::default(), partition: Arc::default(), transcript: transcript.clone() };
        let actors: BTreeMap<NodeId, Actor> = (1..=NODES).map(|node| (node, actor(node))).collect();
        for (node, actor) in &actors {
            let actor = actor.clone();
            sim.host(host(*node), move || actor.clone().live());
        }
        Stage { sim, actors, transcript }
    }

    pub fn transcript(&self) -> String {
        lock(&self.transcript).text()
    }

    fn tick(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        for (node, actor) in &self.actors {
            let observed = lock(&actor.partition).as_ref().and_then(Partition::observed);
            lock(&self.transcript).observe(*node, observed);
        }
        Ok(())
    }

    /// Lets time pass until this is so of all replicas that are up.
    pub fn until(&mut self, what: &str, so: impl Fn(&BTreeMap<NodeId, Observed>) -> bool) -> Result<(), String> {
        let deadline = self.sim.elapsed() + PATIENCE;
        while self.sim.elapsed() < deadline {
            self.tick()?;
            let up = self.actors.iter().filter_map(|(node, actor)| Some((*node, lock(&actor.partition).as_ref()?.observed()?)));
            if so(&up.collect()) {
                return Ok(());
            }
        }
        Err(format!("it never came to this: {what}"))
    }

    pub fn leads(&self, node: NodeId) -> bool {
        lock(&self.actors[&node].partition).as_ref().is_some_and(|partition| partition.leadership().is_leader)
    }

    fn act(&mut self, line: String) {
        lock(&self.transcript).act(&line);
    }

    fn wish(&mut self, node: NodeId, wish: Wish) {
        lock(&self.actors[&node].wishes).push(wish);
    }

    /// Each as a batch of its own, one right behind the other.
    pub fn append(&mut self, node: NodeId, records: usize) {
        let what = if records == 1 { "a record".to_owned() } else { format!("{records} records") };
        self.act(format!("a client appends {what} at node {node}"));
        (0..records).for_each(|_| self.wish(node, Wish::Append));
    }

    pub fn delete_records(&mut self, node: NodeId, before: i64) {
        self.act(format!("a client deletes the records before offset {before} at node {node}"));
        self.wish(node, Wish::DeleteRecords(before));
    }

    pub fn hand_over(&mut self, from: NodeId, to: NodeId) {
        self.act(format!("node {from} is asked to hand over to node {to}"));
        self.wish(from, Wish::HandOver(to));
    }

    pub fn reconfigure(&mut self, leader: NodeId, voters: &[NodeId]) {
        self.act(format!("node {leader} is asked to move the partition to nodes {voters:?}"));
        self.wish(leader, Wish::Reconfigure(voters.to_vec()));
    }

    pub fn power_off(&mut self, node: NodeId) {
        self.act(format!("node {node} loses power"));
        let actor = &self.actors[&node];
        lock(&actor.partition).take();
        self.sim.crash(host(node));
        actor.disk.crash(None);
    }

    pub fn power_on(&mut self, node: NodeId) {
        self.act(format!("node {node} starts"));
        self.sim.bounce(host(node));
    }

    /// Nothing passes between this node and the others.
    pub fn cut(&mut self, node: NodeId) {
        self.act(format!("node {node} is cut off from the others"));
        (1..=NODES).filter(|other| *other != node).for_each(|other| self.sim.partition(host(node), host(other)));
    }

    pub fn join(&mut self, node: NodeId) {
        self.act(format!("node {node} is connected again"));
        (1..=NODES).filter(|other| *other != node).for_each(|other| self.sim.repair(host(node), host(other)));
    }
}

impl Actor {
    fn config(&self) -> NodeConfig {
        NodeConfig {
            node_id: self.node,
            data_dir: PathBuf::from("/data"),
            peer_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
            peers: (1..=NODES).map(|node| (node, format!("{}:{PORT}", host(node)))).collect(),
            tls: None,
            timing: TIMING,
        }
    }

    /// Writes down what is said on this node's connections.
    fn ear(&self) -> Ear {
        let (node, transcript) = (self.node, self.transcript.clone());
        Arc::new(move |said| {
            let Some(peer) = node_at(said.peer) else { return };
            let (from, to) = if said.answer { (peer, node) } else { (node, peer) };
            lock(&transcript).say(from, to, &said.words);
        })
    }

    async fn live(self) -> turmoil::Result {
        let env = Env::simulated_and_heard(SEED + self.node, self.disk.clone(), self.ear());
        let node = Node::start(env, self.config()).await?;
        let id = GroupId { topic: uuid::Uuid::from_u128(1), partition: 0 };
        let replicas = if FOUNDERS.contains(&self.node) { FOUNDERS.to_vec() } else { Vec::new() };
        let settings = PartitionSettings { rolling: ROLLING };
        let partition = node.open_partition(PartitionSpec { id, replicas, mirror: false, settings }).await?;
        *lock(&self.partition) = Some(partition.clone());
        loop {
            tokio::time::sleep(TICK).await;
            for wish in lock(&self.wishes).drain(..) {
                tokio::spawn(grant(partition.clone(), wish));
            }
        }
    }
}

/// What becomes of it is seen in the replicas.
async fn grant(partition: Partition, wish: Wish) {
    match wish {
        Wish::Append => {
            let record = Record { key: None, value: Some(Bytes::from(vec![b'.'; RECORD_BYTES])), timestamp_ms: 0 };
            if let Ok(batch) = encode(&[record]) {
                let _ = partition.append(batch).await;
            }
        }
        Wish::DeleteRecords(before) => drop(partition.delete_records(Some(before)).await),
        Wish::HandOver(to) => drop(partition.transfer_leadership_to(to).await),
        Wish::Reconfigure(voters) => drop(partition.reconfigure(voters.into_iter().collect()).await),
    }
}
