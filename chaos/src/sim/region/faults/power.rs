//! Power goes: what was not synced is gone, perhaps all but a torn part of it.

use meridian_raft::NodeId;
use rand::Rng;

use crate::sim::region::phases::Run;
use crate::sim::region::site::lock;

pub(super) fn cut_one(run: &mut Run) -> bool {
    let node = run.any_node();
    cut(run, node)
}

/// Every node at once: only what is on the disks survives.
pub(super) fn cut_all(run: &mut Run) -> bool {
    let nodes: Vec<NodeId> = run.sites.keys().copied().collect();
    nodes.into_iter().filter(|node| cut(run, *node)).count() > 0
}

fn cut(run: &mut Run, node: NodeId) -> bool {
    if !run.is_up(node) {
        return false;
    }
    let led = !run.sites[&node].leads().is_empty();
    let tear = run.random.random_bool(0.5).then(|| run.random.random());
    run.power_off(node, tear);
    let mut oracle = lock(&run.oracle);
    oracle.reached.power_cuts += 1;
    oracle.reached.leaders_cut += u64::from(led);
    drop(oracle);
    let down_ms = run.random.random_range(20..1500);
    run.mend_after(down_ms, move |run| run.power_on(node));
    true
}
