//! One seeded run: three nodes, their disasters, and their recovery.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_raft::batch::Batch;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::env::{Env, SimDisk};
use meridian_raft::node::{Node, NodeConfig, Timing};
use meridian_raft::partition::{AppendError, Partition, PartitionSettings, PartitionSpec, StoredBatch};
use meridian_raft::{GroupId, NodeId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Outcome;
use super::oracle::Oracle;
use crate::sim::{Broken, Mutations};

const NODES: NodeId = 3;
const PORT: u16 = 9000;
const GROUP: GroupId = GroupId { topic: uuid::Uuid::from_u128(1), partition: 0 };
/// Small, so that a run rolls through several segments.
const SEGMENT_BYTES: u64 = 32 * 1024;
/// Simulated time with faults, and the time to agree after them.
const FAULTS: Duration = Duration::from_secs(6);
const HEALING: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(1);
/// An append without an answer is given up after this time; a producer then sends it again.
const ANSWER_PATIENCE: Duration = Duration::from_millis(800);
const TIMING: Timing = Timing { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 };

type Shared<T> = Arc<Mutex<T>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one idempotent producer of a run, wherever the leader is: its next batch, sent until it is acknowledged.
#[derive(Debug, Default)]
struct Producer {
    next: u64,
    /// The node at which it waits for an answer.
    waits_at: Option<NodeId>,
}

/// What a node's program shares with the run around it. It outlives the node's crashes.
#[derive(Clone)]
struct Site {
    node: NodeId,
    seed: u64,
    disk: SimDisk,
    boots: Shared<u64>,
    partition: Shared<Option<Partition>>,
    oracle: Shared<Oracle>,
    producer: Shared<Producer>,
    values: Shared<u64>,
    fsync: bool,
}

fn host(node: NodeId) -> String {
    format!("node-{node}")
}

/// Runs one seed from beginning to end. A panic anywhere in the simulated nodes is a finding as well.
pub fn simulate(seed: u64, mutations: Mutations) -> Result<Outcome, Broken> {
    let broken = |step, what| Broken { world: "region", seed, step, what };
    let lived = std::panic::catch_unwind(|| {
        let mut run = Run::new(seed, mutations);
        let result = run.faults().and_then(|()| run.healing());
        let step = run.sim.elapsed().as_millis() as u64;
        let oracle = lock(&run.oracle);
        oracle.broken.clone().map_or(result, Err).map_err(|what| broken(step, what))?;
        Ok(Outcome { seed, trace: oracle.trace, reached: oracle.reached })
    });
    lived.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(broken(0, format!("a node panicked: {}", what.unwrap_or_default())))
    })
}

struct Run {
    sim: turmoil::Sim<'static>,
    random: StdRng,
    sites: BTreeMap<NodeId, Site>,
    down: BTreeMap<NodeId, Duration>,
    cut: Vec<(NodeId, NodeId, Duration)>,
    oracle: Shared<Oracle>,
}

impl Run {
    fn new(seed: u64, mutations: Mutations) -> Run {
        let mut random = StdRng::seed_from_u64(seed);
        let mut sim = turmoil::Builder::new()
            .rng_seed(random.random())
            .simulation_duration(FAULTS + HEALING + Duration::from_secs(5))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(3))
            .build();
        let oracle: Shared<Oracle> = Arc::default();
        let (producer, values) = (Shared::<Producer>::default(), Shared::<u64>::default());
        let sites: BTreeMap<NodeId, Site> = (1..=NODES)
            .map(|node| {
                let site = Site {
                    node,
                    seed: random.random(),
                    disk: SimDisk::new(),
                    boots: Arc::default(),
                    partition: Arc::default(),
                    oracle: oracle.clone(),
                    producer: producer.clone(),
                    values: values.clone(),
                    fsync: !mutations.no_fsync,
                };
                (node, site)
            })
            .collect();
        for (node, site) in &sites {
            let site = site.clone();
            sim.host(host(*node), move || live(site.clone()));
        }
        Run { sim, random, sites, down: BTreeMap::new(), cut: Vec::new(), oracle }
    }

    /// One tick of simulated time; the first broken promise ends the run.
    fn tick(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| format!("a node ended: {error}"))?;
        lock(&self.oracle).broken.clone().map_or(Ok(()), Err)
    }

    fn faults(&mut self) -> Result<(), String> {
        while self.sim.elapsed() < FAULTS {
            self.tick()?;
            self.mend(false);
            match self.random.random_range(0..4000) {
                0..3 => {
                    let node = self.random.random_range(1..=NODES);
                    self.power_cut(node);
                }
                3..4 => self.whole_region_cut(),
                4..10 => self.cut_network(),
                _ => {}
            }
        }
        Ok(())
    }

    fn power_cut(&mut self, node: NodeId) {
        if self.down.contains_key(&node) {
            return;
        }
        let back = self.sim.elapsed() + Duration::from_millis(self.random.random_range(20..1500));
        let tear = self.random.random_bool(0.5).then(|| self.random.random());
        let site = &self.sites[&node];
        let led = lock(&site.partition).take().is_some_and(|partition| partition.leadership().is_leader);
        self.sim.crash(host(node));
        site.disk.crash(tear);
        {
            let mut oracle = lock(&self.oracle);
            oracle.faults(1, node, 0);
            oracle.reached.power_cuts += 1;
            oracle.reached.leaders_cut += u64::from(led);
        }
        // Whoever waited for this node's answer will never get one.
        let mut producer = lock(&site.producer);
        if producer.waits_at == Some(node) {
            producer.waits_at = None;
        }
        drop(producer);
        self.down.insert(node, back);
    }

    /// Every node at once: only what is on the disks survives.
    fn whole_region_cut(&mut self) {
        (1..=NODES).for_each(|node| self.power_cut(node));
    }

    fn cut_network(&mut self) {
        let one = self.random.random_range(1..=NODES);
        let until = self.sim.elapsed() + Duration::from_millis(self.random.random_range(50..2000));
        // Half of the cuts isolate a node from both others.
        let isolate = self.random.random_bool(0.5);
        let others: Vec<NodeId> = (1..=NODES).filter(|other| *other != one).collect();
        let count = if isolate { 2 } else { 1 };
        for other in others.into_iter().take(count) {
            self.sim.partition(host(one), host(other));
            self.cut.push((one, other, until));
            let mut oracle = lock(&self.oracle);
            oracle.faults(2, one, other);
            oracle.reached.network_cuts += 1;
        }
    }

    /// Ends the faults that are over; all of them where `now`.
    fn mend(&mut self, now: bool) {
        let elapsed = self.sim.elapsed();
        let (over, lasting) = std::mem::take(&mut self.cut).into_iter().partition(|(_, _, until)| now || *until <= elapsed);
        self.cut = lasting;
        for (one, other, _) in over {
            self.sim.repair(host(one), host(other));
        }
        let back: Vec<NodeId> = self.down.iter().filter(|(_, until)| now || **until <= elapsed).map(|(node, _)| *node).collect();
        for node in back {
            self.down.remove(&node);
            self.sim.bounce(host(node));
        }
    }

    /// Everything works again: the replicas have to catch up with all that was acknowledged, and hold the same.
    fn healing(&mut self) -> Result<(), String> {
        self.mend(true);
        let deadline = self.sim.elapsed() + HEALING;
        // Appends go on for a while, so that the healed region shows that it serves.
        let before = lock(&self.oracle).acknowledged_end();
        loop {
            for _ in 0..100 {
                self.tick()?;
            }
            let end = lock(&self.oracle).acknowledged_end();
            if end > before + 20 && self.agree(end) {
                break;
            }
            if self.sim.elapsed() >= deadline {
                return Err(format!("the healed region does not agree: acknowledged up to {end}, {}", self.states()));
            }
        }
        Ok(())
    }

    fn agree(&mut self, end: i64) -> bool {
        let replicas: BTreeMap<NodeId, Vec<StoredBatch>> =
            self.sites.iter().filter_map(|(node, site)| Some((*node, everything(lock(&site.partition).as_ref()?, end)?))).collect();
        if replicas.len() as u64 != NODES {
            return false;
        }
        lock(&self.oracle).judge(&replicas);
        true
    }

    fn states(&self) -> String {
        let state = |(node, site): (&NodeId, &Site)| match &*lock(&site.partition) {
            Some(partition) => format!("node {node}: {:?}, high watermark {}", partition.leadership(), partition.high_watermark()),
            None => format!("node {node}: not up"),
        };
        self.sites.iter().map(state).collect::<Vec<_>>().join("; ")
    }
}

/// All batches before `end`, once the replica has committed that far.
fn everything(partition: &Partition, end: i64) -> Option<Vec<StoredBatch>> {
    use futures_util::FutureExt;
    if partition.high_watermark() < end {
        return None;
    }
    let mut batches = partition.read(0, usize::MAX).now_or_never()?.ok()?;
    batches.retain(|batch| meridian_raft::batch::BatchHeader::decode(&batch.bytes).is_some_and(|header| header.base_offset < end));
    Some(batches)
}

/// A node's program: starts it, and appends whenever it leads.
async fn live(site: Site) -> turmoil::Result {
    let boot = {
        let mut boots = lock(&site.boots);
        *boots += 1;
        *boots
    };
    let env = Env::simulated(site.seed.wrapping_add(boot), site.disk.clone());
    let config = NodeConfig {
        node_id: site.node,
        data_dir: PathBuf::from("/data"),
        peer_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
        peers: (1..=NODES).map(|node| (node, format!("{}:{PORT}", host(node)))).collect(),
        tls: None,
        timing: TIMING,
        fsync: site.fsync,
    };
    let node = Node::start(env, config).await?;
    let spec = PartitionSpec {
        id: GROUP,
        replicas: (1..=NODES).collect(),
        mirror: false,
        settings: PartitionSettings { segment_bytes: SEGMENT_BYTES },
    };
    let partition = node.open_partition(spec).await?;
    *lock(&site.partition) = Some(partition.clone());
    tokio::join!(watch(&site, &partition), append_plain(&site, &partition), append_idempotent(&site, &partition));
    Ok(())
}

/// Tells the oracle who leads, and how far the watermark is.
async fn watch(site: &Site, partition: &Partition) {
    let mut watermark = 0;
    loop {
        let leadership = partition.leadership();
        let now = partition.high_watermark();
        {
            let mut oracle = lock(&site.oracle);
            if leadership.is_leader {
                oracle.leads(site.node, leadership);
            }
            oracle.watermark(site.node, watermark, now);
        }
        watermark = now;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn value_batch(value: u64) -> Result<Batch, meridian_raft::batch::BatchError> {
    let padding = (value % 7) as usize * 150;
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(8 + padding, b'.');
    encode(&[Record { key: None, value: Some(Bytes::from(bytes)), timestamp_ms: value as i64 }])
}

/// Producers without sequences: each value once, whatever becomes of it.
async fn append_plain(site: &Site, partition: &Partition) {
    loop {
        tokio::time::sleep(Duration::from_millis(4)).await;
        if !partition.leadership().is_leader {
            continue;
        }
        let value = {
            let mut values = lock(&site.values);
            *values += 1;
            *values
        };
        let Ok(batch) = value_batch(value) else { return };
        lock(&site.oracle).sends(value);
        match tokio::time::timeout(ANSWER_PATIENCE, partition.append(batch)).await {
            Ok(Ok(appended)) => lock(&site.oracle).acknowledges(site.node, value, appended),
            Ok(Err(_)) | Err(_) => lock(&site.oracle).leaves_open(site.node, value),
        }
    }
}

/// Values of the idempotent producer are far from the others'.
const IDEMPOTENT_BASE: u64 = 1 << 40;

/// The producer with sequences: the same batch again and again, at whoever leads, until one acknowledges it; now and then once more after that.
async fn append_idempotent(site: &Site, partition: &Partition) {
    loop {
        tokio::time::sleep(Duration::from_millis(7)).await;
        let sequence = {
            let mut producer = lock(&site.producer);
            if producer.waits_at.is_some() || !partition.leadership().is_leader {
                continue;
            }
            producer.waits_at = Some(site.node);
            producer.next
        };
        let value = IDEMPOTENT_BASE + sequence;
        let Some(batch) = with_sequence(value, sequence) else { return };
        lock(&site.oracle).sends(value);
        let answer = tokio::time::timeout(ANSWER_PATIENCE, partition.append(batch.clone())).await;
        match answer {
            Ok(Ok(appended)) => {
                lock(&site.oracle).acknowledges(site.node, value, appended);
                if sequence % 5 == 0
                    && let Ok(Ok(again)) = tokio::time::timeout(ANSWER_PATIENCE, partition.append(batch)).await
                {
                    lock(&site.oracle).acknowledges(site.node, value, again);
                }
                lock(&site.producer).next = sequence + 1;
            }
            Ok(Err(AppendError::OutOfOrderSequence { expected, got, .. })) => {
                let what = format!("sequence {got} follows on an acknowledged one, but node {} expects {expected}", site.node);
                lock(&site.oracle).broken.get_or_insert(what);
            }
            Ok(Err(_)) | Err(_) => lock(&site.oracle).leaves_open(site.node, value),
        }
        lock(&site.producer).waits_at = None;
    }
}

fn with_sequence(value: u64, sequence: u64) -> Option<Batch> {
    let mut bytes = BytesMut::from(&value_batch(value).ok()?.bytes()[..]);
    bytes[43..51].copy_from_slice(&7i64.to_be_bytes());
    bytes[51..53].copy_from_slice(&0i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&i32::try_from(sequence).ok()?.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Batch::validate(bytes.freeze()).ok()
}
