//! Plots about a change of the voters.

use meridian_raft::NodeId;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::{Cast, cast, end, once};
use crate::sim::region::phases::Run;
use crate::sim::region::site::{host, lock};

const MOVED_WITHIN_MS: u64 = 2000;

fn nodes_without(run: &Run, cast: &Cast) -> Vec<NodeId> {
    run.sites.keys().copied().filter(|node| *node != cast.leader && !cast.followers.contains(node)).collect()
}

/// While the old and the new voters must both agree, the leader dies, or a voter that has just become one, or both.
pub(super) fn killed_between(run: &mut Run) -> bool {
    let Some(cast) = cast(run) else { return false };
    let others = nodes_without(run, &cast);
    let Cast { id, leader, followers } = cast;
    let Some(&newcomer) = others.choose(&mut run.random) else { return false };
    // The leader may be among those that go.
    let stays = *[leader, followers[0]].choose(&mut run.random).unwrap_or(&leader);
    run.plot = true;
    lock(&run.streams[&id].placement).start(vec![stays, followers[1], newcomer]);
    let joint = move |run: &Run| run.sites[&leader].partition(id).is_some_and(|partition| partition.membership().joint);
    once(run, MOVED_WITHIN_MS, joint, move |run| {
        let (with_leader, down_ms) = (run.random.random_bool(0.7), run.random.random_range(100..1200));
        let with_newcomer = !with_leader || run.random.random_bool(0.3);
        if run.breaks() && joint(run) {
            lock(&run.oracle).reached.newcomers_killed += u64::from(with_newcomer);
            [(leader, with_leader), (newcomer, with_newcomer)].into_iter().filter(|(_, dies)| *dies).for_each(|(node, _)| run.kill(node));
        }
        run.mend_after(down_ms, move |run| {
            [leader, newcomer].iter().for_each(|node| run.power_on(*node));
            end(run);
        });
    });
    true
}

/// A voter that is cut off is voted out, and told nothing; it comes back in the belief that it votes. It must not lead, nor end the lead of another.
pub(super) fn removed_comes_back(run: &mut Run) -> bool {
    const GONE_MS: u64 = 400;
    const BACK_MS: u64 = 700;
    let Some(cast) = cast(run) else { return false };
    let others = nodes_without(run, &cast);
    let Cast { id, leader, followers } = cast;
    let Some(&newcomer) = others.first() else { return false };
    let turn = run.random.random_range(0..2);
    let (absent, stays) = (followers[turn], followers[1 - turn]);
    let all: Vec<NodeId> = run.sites.keys().copied().filter(|node| *node != absent).collect();
    run.plot = true;
    all.iter().for_each(|node| run.sim.partition(host(absent), host(*node)));
    let (stream, target) = (run.streams[&id].clone(), vec![leader, stays, newcomer]);
    {
        let mut placement = lock(&stream.placement);
        placement.unaware = Some(absent);
        placement.start(target.clone());
    }
    let moved = move |_: &Run| {
        let placement = lock(&stream.placement);
        placement.target.is_none() && placement.replicas == target
    };
    once(run, MOVED_WITHIN_MS, moved.clone(), move |run| {
        run.mend_after(GONE_MS, move |run| {
            all.iter().for_each(|node| run.sim.release(host(absent), host(*node)));
            let term = lock(&run.oracle).group(id).last_term();
            let returns = run.breaks() && moved(run) && run.sites[&absent].partition(id).is_some();
            lock(&run.oracle).reached.removed_returned += u64::from(returns);
            run.mend_after(BACK_MS, move |run| {
                let mut oracle = lock(&run.oracle);
                let now = oracle.group(id).last_term();
                if returns && now != term && !run.hands_over() {
                    oracle.group(id).breaks(format!("node {absent}, which was voted out, has ended term {term}: term {now} is led"));
                }
                drop(oracle);
                lock(&run.streams[&id].placement).unaware = None;
                end(run);
            });
        });
    });
    true
}
