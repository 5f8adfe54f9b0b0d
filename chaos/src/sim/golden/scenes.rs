//! The scenes. Each waits for what it needs to see, never for a time.

use std::collections::BTreeMap;

use meridian_raft::NodeId;
use meridian_raft::partition::{Observed, Role};

use super::Scene;
use super::stage::Stage;

/// Every scene, in the order in which a reader should meet them.
pub const SCENES: &[Scene] = &[
    Scene {
        name: "election",
        title: "Election. Three new nodes form a group and elect node 1, which then loses power: the other two elect one of them, in a later term.",
        play: election,
    },
    Scene {
        name: "leadership-transfer",
        title: "Leadership transfer. Node 1 leads and hands over to node 3, which stands at once: no promise to the old leader holds it back.",
        play: transfer,
    },
    Scene {
        name: "divergence",
        title: "Divergence and truncation. A leader that is cut off appends what no majority stores; when it is back it cuts that off.",
        play: divergence,
    },
    Scene {
        name: "far-behind-follower",
        title: "A follower far behind. Retention lets go of what node 3 lacks: its log begins anew behind the retention point, without a hole.",
        play: far_behind,
    },
    Scene {
        name: "joint-consensus",
        title: "Joint consensus. The partition moves from nodes 1, 2, 3 to 1, 2, 4: node 4 learns, then both sets must agree, then the new one.",
        play: joint,
    },
];

type Replicas = BTreeMap<NodeId, Observed>;

fn leads(replicas: &Replicas, node: NodeId) -> bool {
    replicas.get(&node).is_some_and(|replica| replica.role == Role::Leader && committed_own(replica))
}

/// It has committed an entry of its own term, so it serves.
fn committed_own(replica: &Observed) -> bool {
    replica.entries.iter().any(|entry| entry.term == replica.term && entry.index < replica.committed_end)
}

/// These replicas have committed as many records, and all that they hold.
fn settled(replicas: &Replicas, nodes: &[NodeId], high_watermark: i64) -> bool {
    let ends: Vec<u64> = nodes
        .iter()
        .filter_map(|node| replicas.get(node))
        .filter_map(|replica| {
            let end = replica.entries.last().map_or(replica.first_index, |entry| entry.index + 1);
            (replica.high_watermark == high_watermark && replica.committed_end == end).then_some(end)
        })
        .collect();
    ends.len() == nodes.len() && ends.windows(2).all(|pair| pair[0] == pair[1])
}

/// Three nodes, led by the first, with one record.
fn begin(stage: &mut Stage) -> Result<(), String> {
    stage.until("node 1 leads", |replicas| leads(replicas, 1) && settled(replicas, &[1, 2, 3], 0))?;
    stage.append(1, 1);
    stage.until("the record is committed", |replicas| settled(replicas, &[1, 2, 3], 1))
}

fn election(stage: &mut Stage) -> Result<(), String> {
    begin(stage)?;
    stage.power_off(1);
    stage.until("another leads", |replicas| {
        leads(replicas, 2) && settled(replicas, &[2, 3], 1) || leads(replicas, 3) && settled(replicas, &[2, 3], 1)
    })?;
    stage.power_on(1);
    stage.until("node 1 follows", |replicas| settled(replicas, &[1, 2, 3], 1))
}

fn transfer(stage: &mut Stage) -> Result<(), String> {
    begin(stage)?;
    stage.hand_over(1, 3);
    stage.until("node 3 leads", |replicas| leads(replicas, 3) && settled(replicas, &[1, 2, 3], 1))?;
    stage.append(3, 1);
    stage.until("it serves", |replicas| settled(replicas, &[1, 2, 3], 2))
}

fn divergence(stage: &mut Stage) -> Result<(), String> {
    begin(stage)?;
    stage.cut(1);
    stage.append(1, 2);
    stage.until("node 1 stores what nobody else does", |replicas| replicas[&1].entries.len() > replicas[&2].entries.len() + 1)?;
    stage.until("another leads", |replicas| (leads(replicas, 2) || leads(replicas, 3)) && settled(replicas, &[2, 3], 1))?;
    let leader = if stage.leads(2) { 2 } else { 3 };
    stage.append(leader, 1);
    stage.until("it serves", |replicas| settled(replicas, &[2, 3], 2))?;
    stage.join(1);
    stage.until("all hold the same", |replicas| settled(replicas, &[1, 2, 3], 2))
}

fn far_behind(stage: &mut Stage) -> Result<(), String> {
    begin(stage)?;
    stage.power_off(3);
    stage.append(1, 9);
    stage.until("the records are committed", |replicas| settled(replicas, &[1, 2], 10))?;
    stage.delete_records(1, 8);
    stage.until("segments are gone", |replicas| [1, 2].iter().all(|node| replicas[node].first_index > 4))?;
    stage.power_on(3);
    stage.until("node 3 has caught up", |replicas| settled(replicas, &[1, 2, 3], 10))
}

fn joint(stage: &mut Stage) -> Result<(), String> {
    begin(stage)?;
    stage.reconfigure(1, &[1, 2, 4]);
    stage.until("the new voters alone decide", |replicas| {
        settled(replicas, &[1, 2, 4], 1) && replicas[&1].members == "{1 2 4}" && replicas[&4].members == "{1 2 4}"
    })?;
    stage.append(1, 1);
    stage.until("it serves", |replicas| settled(replicas, &[1, 2, 4], 2))
}
