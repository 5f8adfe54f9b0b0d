//! One seeded run: first everything breaks while clients append, then everything heals and the replicas have to agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use meridian_raft::env::SimDisk;
use meridian_raft::node::Node;
use meridian_raft::partition::Partition;
use meridian_raft::{GroupId, NodeId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::faults::CHANCES;
use super::faults::decay::{self, Decay};
use super::oracle::{Held, Oracle};
use super::profile::Profile;
use super::site::{Shared, Site, host, lock};
use super::workload::Stream;
use crate::sim::Mutations;

/// Simulated time with faults, and the time to agree after them.
const FAULTS: Duration = Duration::from_secs(6);
const HEALING: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(1);
/// A process that ended itself over a disk that is sound again is started after this time.
const RESTART_MS: u64 = 50;
/// Between two looks at whether the healed replicas agree.
const LOOK_TICKS: u32 = 100;
/// Offsets that every healed partition must acknowledge anew.
const SERVED_MIN: i64 = 20;

pub(super) const LATENCY_MAX: Duration = Duration::from_millis(3);

type Mend = Box<dyn FnOnce(&mut Run)>;
/// True once it has begun.
pub(super) type Begin = fn(&mut Run) -> bool;

pub(in crate::sim) struct Run {
    pub sim: turmoil::Sim<'static>,
    pub random: StdRng,
    pub sites: BTreeMap<NodeId, Site>,
    pub oracle: Shared<Oracle>,
    profile: Arc<Profile>,
    pub streams: Arc<BTreeMap<GroupId, Arc<Stream>>>,
    down: BTreeSet<NodeId>,
    mends: Vec<(Duration, Mend)>,
    pub decay: Decay,
    /// The one node whose disk fails or is full.
    pub ailing: Option<NodeId>,
    /// A disaster in several acts is under way: nothing else begins.
    pub plot: bool,
    /// One that begins as soon as all is well and its actors are where it needs them, or is given up: nothing else begins before.
    pub waits: Option<(Duration, Begin)>,
    healing: bool,
}

impl Run {
    pub fn new(seed: u64, mutations: Mutations) -> Run {
        let mut random = StdRng::seed_from_u64(seed);
        let profile = Arc::new(Profile::choose(&mut random));
        let mut sim = turmoil::Builder::new()
            .rng_seed(random.random())
            .simulation_duration(FAULTS + HEALING + Duration::from_secs(5))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(LATENCY_MAX)
            // Of links that break by themselves; nothing else does before a fault says so.
            .repair_rate(0.3)
            .build();
        let oracle: Shared<Oracle> = Arc::default();
        let streams: Arc<BTreeMap<GroupId, Arc<Stream>>> =
            Arc::new(profile.partitions.iter().map(|spec| (spec.id, Arc::new(Stream::new(spec.replicas.clone())))).collect());
        let site = |node| Site {
            node,
            seed: random.random(),
            disk: SimDisk::new(),
            boots: Arc::default(),
            running: Arc::default(),
            promised: Arc::default(),
            oracle: oracle.clone(),
            profile: profile.clone(),
            streams: streams.clone(),
            mutations,
        };
        let sites: BTreeMap<NodeId, Site> = (1..=profile.nodes).zip((1..=profile.nodes).map(site)).collect();
        for (node, site) in &sites {
            let site = site.clone();
            sim.host(host(*node), move || site.clone().live());
        }
        Run {
            sim,
            random,
            sites,
            oracle,
            profile,
            streams,
            down: BTreeSet::new(),
            mends: Vec::new(),
            decay: Decay::default(),
            ailing: None,
            plot: false,
            waits: None,
            healing: false,
        }
    }

    /// One tick of simulated time; the first broken promise ends the run.
    fn tick(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| format!("a node ended: {error}"))?;
        self.bury();
        lock(&self.oracle).broken.clone().map_or(Ok(()), Err)
    }

    /// Processes that ended themselves take with them what their disk did not make durable.
    fn bury(&mut self) {
        let ended: Vec<NodeId> = self.sites.values().filter(|site| lock(&site.running).ended).map(|site| site.node).collect();
        for node in ended {
            lock(&self.oracle).reached.fail_stops += 1;
            self.power_off(node, None);
            let ailing = self.ailing == Some(node);
            if !ailing {
                self.mend_after(RESTART_MS, move |run| run.power_on(node));
            }
        }
    }

    /// Faults may still begin.
    pub fn breaks(&self) -> bool {
        !self.healing
    }

    /// First phase: safety.
    pub fn faults(&mut self) -> Result<(), String> {
        while self.sim.elapsed() < FAULTS {
            self.tick()?;
            self.mend(false);
            decay::remember(self);
            self.maybe_begin();
        }
        Ok(())
    }

    /// Nobody is down, nothing is cut.
    pub fn all_is_well(&self) -> bool {
        self.mends.is_empty() && self.down.is_empty()
    }

    fn maybe_begin(&mut self) {
        if self.plot || decay::needs_everybody(self) {
            return;
        }
        if let Some((until, begin)) = self.waits {
            if begin(self) || self.sim.elapsed() >= until {
                self.waits = None;
            }
            return;
        }
        let mut drawn = self.random.random_range(0..CHANCES);
        let profile = self.profile.clone();
        for (number, fault) in profile.faults.iter().enumerate() {
            if drawn < fault.chances {
                let bites = (fault.begin)(self);
                lock(&self.oracle).fault(number as u64, bites);
                return;
            }
            drawn -= fault.chances;
        }
    }

    /// Leaders hand over now and then though nothing is wrong.
    pub fn hands_over(&self) -> bool {
        self.profile.workloads.iter().any(|workload| workload.name == "transfer")
    }

    /// Any of the nodes, up or down.
    pub fn any_node(&mut self) -> NodeId {
        self.random.random_range(1..=self.profile.nodes)
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        !self.down.contains(&node)
    }

    /// The node loses power: un-synced data is gone, except what survives where `tear` gives a seed.
    pub fn power_off(&mut self, node: NodeId, tear: Option<u64>) {
        self.kill(node);
        self.sites[&node].disk.crash(tear);
    }

    /// The node's process is gone, its machine goes on.
    pub fn kill(&mut self, node: NodeId) {
        let site = &self.sites[&node];
        site.count();
        let joint = lock(&site.running).partitions.values().any(|partition| partition.membership().joint);
        lock(&self.oracle).reached.joint_power_cuts += u64::from(joint);
        let running = std::mem::take(&mut *lock(&site.running));
        lock(&site.promised).extend(running.partitions.iter().map(|(id, partition)| (*id, partition.promised_index())));
        drop(running);
        self.sim.crash(host(node));
        site.disk.end_process();
        self.streams.values().for_each(|stream| stream.forget(node));
        self.down.insert(node);
    }

    pub fn power_on(&mut self, node: NodeId) {
        if self.down.remove(&node) {
            self.sim.bounce(host(node));
        }
    }

    /// Has a fault end after that many milliseconds, or when the world heals.
    pub fn mend_after(&mut self, after_ms: u64, mend: impl FnOnce(&mut Run) + 'static) {
        self.mends.push((self.sim.elapsed() + Duration::from_millis(after_ms), Box::new(mend)));
    }

    /// Ends the faults that are over; all of them where `now`.
    fn mend(&mut self, now: bool) {
        let elapsed = self.sim.elapsed();
        let (over, lasting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.mends).into_iter().partition(|(until, _)| now || *until <= elapsed);
        self.mends = lasting;
        over.into_iter().for_each(|(_, mend)| mend(self));
    }

    /// Second phase: liveness. Everything works again; every partition has to serve, and its replicas to catch up with all that was
    /// acknowledged, and hold the same.
    pub fn healing(&mut self) -> Result<(), String> {
        self.healing = true;
        while !self.mends.is_empty() {
            self.mend(true);
        }
        let deadline = self.sim.elapsed() + HEALING;
        let groups: Vec<GroupId> = self.streams.keys().copied().collect();
        let mut waiting: BTreeMap<GroupId, i64> =
            groups.iter().map(|id| (*id, lock(&self.oracle).group(*id).acknowledged_end() + SERVED_MIN)).collect();
        loop {
            for _ in 0..LOOK_TICKS {
                self.tick()?;
                self.mend(false);
            }
            waiting.retain(|id, least| {
                let end = lock(&self.oracle).group(*id).acknowledged_end();
                let moves = lock(&self.streams[id].placement).target.is_some();
                moves || end <= *least || !self.agree(*id, end)
            });
            if waiting.is_empty() {
                self.sites.values().for_each(Site::count);
                return lock(&self.oracle).broken.clone().map_or(Ok(()), Err);
            }
            if self.sim.elapsed() >= deadline {
                let states: Vec<String> = waiting.keys().map(|id| self.states(*id)).collect();
                return Err(format!("the healed region does not agree: {}", states.join("; ")));
            }
        }
    }

    fn replicas(&self, id: GroupId) -> impl Iterator<Item = &Site> {
        let replicas = lock(&self.streams[&id].placement).replicas.clone();
        replicas.into_iter().map(|node| &self.sites[&node])
    }

    fn agree(&self, id: GroupId, end: i64) -> bool {
        let start = lock(&self.oracle).group(id).start_acknowledged();
        let held = self.replicas(id).map(|site| Some((site.node, everything(&site.partition(id)?, start, end)?)));
        let Some(held) = held.collect::<Option<BTreeMap<NodeId, Held>>>() else { return false };
        lock(&self.oracle).group(id).judge(&held);
        true
    }

    fn states(&self, id: GroupId) -> String {
        let state = |site: &Site| match site.partition(id) {
            Some(partition) => {
                format!("node {}: {:?}, high watermark {}", site.node, partition.leadership(), partition.high_watermark())
            }
            None => {
                let damaged = lock(&site.running).node.as_ref().map(Node::damaged).unwrap_or_default();
                let damaged = damaged.into_iter().find(|damaged| damaged.id == id);
                format!("node {}: not up, {damaged:?}", site.node)
            }
        };
        let end = lock(&self.oracle).group(id).acknowledged_end();
        let states: Vec<String> = self.replicas(id).map(state).collect();
        let placement = lock(&self.streams[&id].placement).clone();
        format!("partition {}, acknowledged up to {end}, {placement:?}: {}", id.partition, states.join(", "))
    }
}

/// All batches before `end`, once the replica has committed that far, and let go of what was to go before `start`.
fn everything(partition: &Partition, start: i64, end: i64) -> Option<Held> {
    let begin = partition.log_start_offset();
    if partition.high_watermark() < end || begin < start {
        return None;
    }
    let mut batches = partition.read(begin, usize::MAX).now_or_never()?.ok()?;
    batches.retain(|batch| meridian_raft::batch::BatchHeader::decode(&batch.bytes).is_some_and(|header| header.base_offset < end));
    Some(Held { start: begin, batches })
}
