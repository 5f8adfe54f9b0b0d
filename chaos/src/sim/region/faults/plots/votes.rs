//! Plots about votes: given, forgotten, asked for twice.

use meridian_raft::{GroupId, NodeId};
use rand::Rng;

use super::{Cast, cast, end, once};
use crate::sim::region::phases::Run;
use crate::sim::region::site::{host, lock};

/// Waits until one of the two has been elected by the other, which then hears nothing of it: not even that it has been elected.
pub(super) fn elected_unheard(
    run: &mut Run,
    id: GroupId,
    [one, other]: [NodeId; 2],
    next: impl FnOnce(&mut Run, Option<(NodeId, NodeId)>) + 'static,
) {
    const STANDS_WITHIN_MS: u64 = 1500;
    const VOTED_WITHIN_MS: u64 = 100;
    const ELECTED_WITHIN_MS: u64 = 40;
    let leadership = move |run: &Run, node: NodeId| run.sites[&node].partition(id).map(|partition| partition.leadership());
    let term = move |run: &Run, node: NodeId| leadership(run, node).map_or(0, |leadership| leadership.epoch);
    let before = term(run, one).max(term(run, other));
    let stands = move |run: &Run| [one, other].into_iter().find(|node| term(run, *node) > before);
    once(
        run,
        STANDS_WITHIN_MS,
        move |run| stands(run).is_some(),
        move |run| {
            let Some(candidate) = stands(run) else { return next(run, None) };
            let voter = if candidate == one { other } else { one };
            once(
                run,
                VOTED_WITHIN_MS,
                move |run| term(run, voter) >= term(run, candidate),
                move |run| {
                    run.sim.partition_oneway(host(candidate), host(voter));
                    let elected =
                        move |run: &Run| leadership(run, candidate).is_some_and(|now| now.leader == Some(candidate) && now.epoch > before);
                    once(run, ELECTED_WITHIN_MS, elected, move |run| {
                        let elected = elected(run) && run.breaks();
                        next(run, elected.then_some((candidate, voter)));
                    });
                },
            );
        },
    );
}

/// A voter is killed in the very moment in which its vote has made a leader, before it hears of that leader, and starts at once. From then on it
/// hears only the leader of before, who knows of no later term: whoever of the two stands must not get that vote a second time.
pub(super) fn voter_killed(run: &mut Run) -> bool {
    /// A node that starts waits a second for those it does not hear; then promises have to end, and an election to be held.
    const ALONE_MS: u64 = 2000;
    let Some(Cast { id, leader, followers }) = cast(run) else { return false };
    run.plot = true;
    // Either it has forgotten that it led, or nobody has told it that it does no more.
    let killed = run.random.random_bool(0.7);
    if killed {
        run.kill(leader);
    } else {
        followers.iter().for_each(|follower| run.sim.partition(host(leader), host(*follower)));
    }
    elected_unheard(run, id, followers, move |run, elected| {
        let [one, other] = followers;
        [(leader, one), (leader, other), (one, other)].iter().for_each(|(a, b)| run.sim.release(host(*a), host(*b)));
        let Some((elected, voter)) = elected else {
            run.power_on(leader);
            return end(run);
        };
        lock(&run.oracle).reached.voters_killed += 1;
        run.kill(voter);
        [leader, voter].iter().for_each(|node| run.sim.partition(host(elected), host(*node)));
        [leader, voter].iter().for_each(|node| run.power_on(*node));
        run.mend_after(ALONE_MS, move |run| {
            [leader, voter].iter().for_each(|node| run.sim.release(host(elected), host(*node)));
            end(run);
        });
    });
    true
}

/// The leader is gone, and of its followers neither hears the other until both have asked: their questions cross, and each may vote for itself.
pub(super) fn votes_split(run: &mut Run) -> bool {
    const AGREED_WITHIN_MS: u64 = 900;
    let Some(Cast { leader, followers: [one, other], .. }) = cast(run) else { return false };
    run.plot = true;
    run.kill(leader);
    run.sim.hold(host(one), host(other));
    let held_ms = run.random.random_range(50..600);
    run.mend_after(held_ms, move |run| run.sim.release(host(one), host(other)));
    run.mend_after(held_ms + AGREED_WITHIN_MS, move |run| {
        run.power_on(leader);
        end(run);
    });
    true
}

/// Leadership is offered to a follower that dies at about that moment: before it hears of it, while it asks for votes, or when it has just won.
pub(super) fn successor_dies(run: &mut Run) -> bool {
    const DIES_WITHIN_MS: u64 = 12;
    const AWAY_MS: u64 = 900;
    let Some(Cast { id, followers, .. }) = cast(run) else { return false };
    let successor = followers[run.random.random_range(0..2)];
    let dies_after_ms = run.random.random_range(1..DIES_WITHIN_MS);
    run.plot = true;
    *lock(&run.streams[&id].offer) = Some(successor);
    run.mend_after(dies_after_ms, move |run| {
        let offered = lock(&run.streams[&id].offer).take().is_none();
        if run.breaks() {
            lock(&run.oracle).reached.successors_killed += u64::from(offered);
            run.kill(successor);
        }
    });
    run.mend_after(AWAY_MS, move |run| {
        run.power_on(successor);
        end(run);
    });
    true
}
