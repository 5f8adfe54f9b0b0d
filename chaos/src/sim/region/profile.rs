//! What one seed's run is made of: how many nodes and partitions, which faults and workloads.

use meridian_raft::partition::{PartitionSettings, PartitionSpec, Rolling};
use meridian_raft::{GroupId, NodeId};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::faults::{FAULTS, Fault, PLOTS, PLOTS_OF_MANY};
use super::workload::{WORKLOADS, Workload};

/// Small and short, so that a run rolls through several segments.
const ROLLING: Rolling = Rolling { segment_bytes: 32 * 1024, segment_ms: 5_000 };

/// Of every partition.
const REPLICAS: usize = 3;

#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub nodes: NodeId,
    pub partitions: Vec<PartitionSpec>,
    pub faults: Vec<&'static Fault>,
    pub workloads: Vec<&'static Workload>,
    /// Clients pause now and then, all at once and long enough for groups to fall asleep.
    pub rests: bool,
}

impl Profile {
    /// Three or five nodes, one to three partitions with three replicas each, some of the faults and plots, and most of the workloads.
    pub fn choose(random: &mut StdRng) -> Profile {
        let nodes = if random.random_bool(0.7) { 3 } else { 5 };
        let partitions = (0..random.random_range(1..=3)).map(|partition| spec(partition, nodes, random)).collect();
        // Some runs meet nearly everything at once; in others one fault has a quieter world to itself.
        let count = *[1, 2, 4, 8].choose(random).unwrap_or(&8);
        let (always, sometimes): (Vec<&Fault>, Vec<&Fault>) = FAULTS.iter().partition(|fault| fault.always);
        let many = if nodes > REPLICAS as NodeId { PLOTS_OF_MANY } else { &[] };
        let plots: Vec<&Fault> = PLOTS.iter().chain(many).collect();
        let count_of_plots = *[0, 1, 2, 4].choose(random).unwrap_or(&1);
        let sometimes = sometimes.choose_multiple(random, count).chain(plots.choose_multiple(random, count_of_plots)).copied();
        let faults = always.into_iter().chain(sometimes.collect::<Vec<_>>()).collect();
        let workloads = WORKLOADS.iter().filter(|workload| workload.always || random.random_bool(0.5)).collect();
        let rests = random.random_bool(0.5);
        Profile { nodes, partitions, faults, workloads, rests }
    }
}

fn spec(partition: i32, nodes: NodeId, random: &mut StdRng) -> PartitionSpec {
    let all: Vec<NodeId> = (1..=nodes).collect();
    // The order matters: the first stands for election first.
    let replicas = all.choose_multiple(random, REPLICAS).copied().collect();
    let id = GroupId { topic: uuid::Uuid::from_u128(1), partition };
    PartitionSpec { id, replicas, mirror: false, settings: PartitionSettings { rolling: ROLLING } }
}
