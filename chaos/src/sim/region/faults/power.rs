//! Power goes: what was not synced is gone, perhaps all but a torn part of it. Or only a process does: what it wrote is there, and may yet go.

use meridian_raft::NodeId;
use rand::Rng;

use crate::sim::region::phases::Run;
use crate::sim::region::site::{host, lock};

pub(super) fn cut_one(run: &mut Run) -> bool {
    let node = run.any_node();
    cut(run, node)
}

/// Every node at once: only what is on the disks survives.
pub(super) fn cut_all(run: &mut Run) -> bool {
    let nodes: Vec<NodeId> = run.sites.keys().copied().collect();
    nodes.into_iter().filter(|node| cut(run, *node)).count() > 0
}

/// The process ends without a word, its machine goes on. Whoever starts after it reads what no sync has made durable yet, and power may go then.
pub(super) fn kill(run: &mut Run) -> bool {
    let node = run.any_node();
    if !run.is_up(node) {
        return false;
    }
    run.kill(node);
    lock(&run.oracle).reached.kills += 1;
    let down_ms = run.random.random_range(5..300);
    let lives_ms = run.random.random_bool(0.5).then(|| run.random.random_range(1..200));
    run.mend_after(down_ms, move |run| {
        run.power_on(node);
        if let Some(lives_ms) = lives_ms.filter(|_| run.breaks()) {
            run.mend_after(lives_ms, move |run| {
                if run.breaks() {
                    cut(run, node);
                }
            });
        }
    });
    true
}

fn cut(run: &mut Run, node: NodeId) -> bool {
    if !run.is_up(node) {
        return false;
    }
    let led = !run.sites[&node].leads().is_empty();
    let tear = run.random.random_bool(0.5).then(|| run.random.random());
    // A process that ends leaves a machine that says so to everybody; of a machine without power nobody hears anything.
    let dark = run.random.random_bool(0.5);
    let others: Vec<NodeId> = run.sites.keys().copied().filter(|other| *other != node).collect();
    if dark {
        others.iter().for_each(|other| run.sim.partition(host(node), host(*other)));
    }
    run.power_off(node, tear);
    let mut oracle = lock(&run.oracle);
    oracle.reached.power_cuts += 1;
    oracle.reached.leaders_cut += u64::from(led);
    oracle.reached.dark_cuts += u64::from(dark);
    drop(oracle);
    let down_ms = run.random.random_range(20..1500);
    run.mend_after(down_ms, move |run| {
        if dark {
            others.iter().for_each(|other| run.sim.release(host(node), host(*other)));
        }
        run.power_on(node);
    });
    true
}
