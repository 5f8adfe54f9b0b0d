//! Connections break, flap, lose, delay and hold back.

use std::time::Duration;

use meridian_raft::NodeId;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::sim::region::phases::{LATENCY_MAX, Run};
use crate::sim::region::site::{host, lock};

/// Part of the messages after which a losing link is broken, and part of those after which it works again.
const LOST: f64 = 0.02;
/// How often a flapping link goes and comes.
const FLAPS: u32 = 8;

/// Cuts a node from one other, or from all.
pub(super) fn cut(run: &mut Run) -> bool {
    let (one, others) = one_and_others(run);
    lock(&run.oracle).reached.network_cuts += 1;
    others.iter().for_each(|other| run.sim.partition(host(one), host(*other)));
    let cut_ms = run.random.random_range(50..2000);
    run.mend_after(cut_ms, move |run| join(run, one, &others));
    true
}

/// What a node says is not heard, or it does not hear: by one other, or by all.
pub(super) fn cut_one_way(run: &mut Run) -> bool {
    let (one, others) = one_and_others(run);
    let deaf = run.random.random_bool(0.5);
    lock(&run.oracle).reached.one_way_cuts += 1;
    for other in &others {
        let (from, to) = if deaf { (*other, one) } else { (one, *other) };
        run.sim.partition_oneway(host(from), host(to));
    }
    let cut_ms = run.random.random_range(50..2000);
    run.mend_after(cut_ms, move |run| join(run, one, &others));
    true
}

/// Cuts and joins again and again, each for about as long as an election takes.
pub(super) fn flap(run: &mut Run) -> bool {
    let (one, others) = one_and_others(run);
    lock(&run.oracle).reached.flaps += 1;
    flap_again(run, one, others, FLAPS);
    true
}

fn flap_again(run: &mut Run, one: NodeId, others: Vec<NodeId>, left: u32) {
    others.iter().for_each(|other| run.sim.partition(host(one), host(*other)));
    let (cut_ms, joined_ms) = (run.random.random_range(20..300), run.random.random_range(20..300));
    run.mend_after(cut_ms, move |run| {
        join(run, one, &others);
        if left > 0 && run.breaks() {
            run.mend_after(joined_ms, move |run| {
                if run.breaks() {
                    flap_again(run, one, others, left - 1)
                }
            });
        }
    });
}

/// A link that breaks by itself, with whatever was on it, and works again by itself.
pub(super) fn lose(run: &mut Run) -> bool {
    let (one, others) = one_and_others(run);
    lock(&run.oracle).reached.losses += 1;
    others.iter().for_each(|other| run.sim.set_link_fail_rate(host(one), host(*other), LOST));
    let losing_ms = run.random.random_range(100..2000);
    run.mend_after(losing_ms, move |run| {
        others.iter().for_each(|other| run.sim.set_link_fail_rate(host(one), host(*other), 0.0));
        join(run, one, &others);
    });
    true
}

pub(super) fn slow_down(run: &mut Run) -> bool {
    let (one, others) = one_and_others(run);
    let latency = Duration::from_millis(run.random.random_range(20..400));
    lock(&run.oracle).reached.latency_spikes += 1;
    others.iter().for_each(|other| run.sim.set_link_max_message_latency(host(one), host(*other), latency));
    let slow_ms = run.random.random_range(100..2000);
    run.mend_after(slow_ms, move |run| {
        others.iter().for_each(|other| run.sim.set_link_max_message_latency(host(one), host(*other), LATENCY_MAX));
    });
    true
}

/// Nothing arrives for a while, then everything does: to the others the node looks paused, and its old messages come late.
pub(super) fn stall(run: &mut Run) -> bool {
    let (one, others) = one_and_others(run);
    lock(&run.oracle).reached.stalls += 1;
    others.iter().for_each(|other| run.sim.hold(host(one), host(*other)));
    let stalled_ms = run.random.random_range(50..1500);
    run.mend_after(stalled_ms, move |run| join(run, one, &others));
    true
}

/// What has been said to a node by now, on connections that it has by now, is read much later: others have given them up meanwhile and said more
/// on new ones, which are read at once.
pub(super) fn linger(run: &mut Run) -> bool {
    let (node, now) = (run.any_node(), run.sim.elapsed());
    run.sites[&node].disk.ail(|ills| ills.unread_before = now);
    lock(&run.oracle).reached.connections_lingered += 1;
    let unread_ms = run.random.random_range(50..2500);
    run.mend_after(unread_ms, move |run| run.sites[&node].disk.ail(|ills| ills.unread_before = Duration::ZERO));
    true
}

/// A node, and one other or all others.
fn one_and_others(run: &mut Run) -> (NodeId, Vec<NodeId>) {
    let one = run.any_node();
    let mut others: Vec<NodeId> = run.sites.keys().copied().filter(|other| *other != one).collect();
    others.shuffle(&mut run.random);
    if run.random.random_bool(0.5) {
        others.truncate(1);
    }
    (one, others)
}

/// Whatever was held back is delivered as well.
fn join(run: &mut Run, one: NodeId, others: &[NodeId]) {
    others.iter().for_each(|other| run.sim.release(host(one), host(*other)));
}
