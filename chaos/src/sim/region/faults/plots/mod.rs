//! Disasters in several acts, each at the moment when it does most harm: what chance alone would bring about once in a thousand runs.

mod tails;
mod voters;
mod votes;

use std::time::Duration;

use meridian_raft::{GroupId, NodeId};
use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::decay;
use crate::sim::region::phases::{Begin, Run};
use crate::sim::region::site::{host, lock};

/// A partition and its three replicas.
struct Cast {
    id: GroupId,
    leader: NodeId,
    followers: [NodeId; 2],
}

/// One whose replicas are all up and stay where they are, in a world where all is well.
fn cast(run: &mut Run) -> Option<Cast> {
    if run.plot || !run.all_is_well() {
        return None;
    }
    let leads = |id: &GroupId| run.sites.values().find(|site| site.leads().contains(id)).map(|site| site.node);
    let settled = run.streams.iter().filter_map(|(id, stream)| {
        let placement = lock(&stream.placement).clone();
        let leader = leads(id).filter(|leader| placement.target.is_none() && placement.replicas.contains(leader))?;
        let mut followers: Vec<NodeId> = placement.replicas.into_iter().filter(|node| *node != leader).collect();
        followers.sort_unstable();
        Some(Cast { id: *id, leader, followers: followers.try_into().ok()? })
    });
    let all: Vec<Cast> = settled.collect();
    all.into_iter().choose(&mut run.random)
}

/// Longer than clients pause between two of their stretches, and the time until an old copy of a disk is worth something.
const PATIENCE: Duration = Duration::from_millis(2600);

/// Each begins as soon as all is well.
macro_rules! waiting {
    ($($name:ident = $plot:path;)*) => {
        $(pub(super) fn $name(run: &mut Run) -> bool {
            wait_for(run, $plot)
        })*
    };
}

waiting! {
    cut_a_sleeper = sleeper_cut;
    move_away_and_back = away_and_back;
    old_disk_among_few = old_among_few;
    kill_a_voter = votes::voter_killed;
    split_votes = votes::votes_split;
    kill_a_successor = votes::successor_dies;
    kill_who_drops = tails::dies_dropping;
    resume_an_old_tail = tails::old_tail_resumed;
    leave_a_long_log = tails::long_and_old;
    lose_an_answer = tails::answer_lost;
    cut_a_slow_leader = tails::slow_leader_cut;
    kill_between = voters::killed_between;
    bring_back_the_removed = voters::removed_comes_back;
}

fn wait_for(run: &mut Run, plot: Begin) -> bool {
    run.waits = Some((run.sim.elapsed() + PATIENCE, plot));
    true
}

/// The plot is over; nothing else begins before.
fn end(run: &mut Run) {
    run.plot = false;
}

/// Looks every millisecond until it is so, at most for that long, and goes on with the next act.
fn once(run: &mut Run, within_ms: u64, so: impl Fn(&Run) -> bool + 'static, next: impl FnOnce(&mut Run) + 'static) {
    const EVERY_MS: u64 = 1;
    if !run.breaks() || within_ms == 0 || so(run) {
        return next(run);
    }
    run.mend_after(EVERY_MS, move |run| once(run, within_ms.saturating_sub(EVERY_MS), so, next));
}

/// A sleeping leader is cut off from its followers just long enough for one of them to be elected by the other, and hears of the other again
/// at that moment. The leader hears the first until late, so that it has no reason to wake: it must not take the second's answers for its old promise.
fn sleeper_cut(run: &mut Run) -> bool {
    /// Less than a promise lasts, and less than the silence after which one is taken for gone.
    const SECOND_HELD_AFTER_MS: u64 = 30;
    const FIRST_SILENT_AFTER_MS: u64 = 150;
    const ELECTED_WITHIN_MS: u64 = 400;
    const CUT_MS: u64 = 600;
    let Some(Cast { id, leader, followers }) = cast(run) else { return false };
    if !run.sites[&leader].partition(id).is_some_and(|partition| partition.is_asleep()) {
        return false;
    }
    // As the followers reckon who of them stands first.
    let turn = (id.topic.as_u128() as usize + id.partition.unsigned_abs() as usize) % 2;
    let (first, second) = (followers[turn], followers[1 - turn]);
    run.plot = true;
    lock(&run.oracle).reached.sleepers_cut += 1;
    run.sim.partition_oneway(host(leader), host(first));
    run.mend_after(SECOND_HELD_AFTER_MS, move |run| {
        if run.breaks() {
            run.sim.hold(host(leader), host(second));
        }
    });
    run.mend_after(FIRST_SILENT_AFTER_MS, move |run| {
        if run.breaks() {
            run.sim.partition_oneway(host(first), host(leader));
        }
        let elected = move |run: &Run| run.sites[&first].leads().contains(&id);
        once(run, ELECTED_WITHIN_MS, elected, move |run| run.sim.release(host(leader), host(second)));
    });
    run.mend_after(CUT_MS, move |run| {
        [first, second].iter().for_each(|other| run.sim.release(host(leader), host(*other)));
        end(run);
    });
    true
}

/// A partition moves away from two of its nodes while one of them is down, and comes back to both while they hear only each other: of its old
/// voters they are a majority. What the one promised that was up may not have gone with its replica.
fn away_and_back(run: &mut Run) -> bool {
    const MOVED_WITHIN_MS: u64 = 2000;
    const DELETED_AFTER_MS: u64 = 60;
    const ALONE_MS: u64 = 2200;
    let Some(Cast { id, leader, followers }) = cast(run) else { return false };
    let others: Vec<NodeId> = run.sites.keys().copied().filter(|node| *node != leader && !followers.contains(node)).collect();
    if others.len() < 2 {
        return false;
    }
    let absent = *followers.choose(&mut run.random).unwrap_or(&followers[0]);
    run.plot = true;
    run.power_off(absent, None);
    let stream = run.streams[&id].clone();
    let away = vec![leader, others[0], others[1]];
    lock(&stream.placement).start(away.clone());
    let moved = move |_: &Run| {
        let placement = lock(&stream.placement);
        placement.target.is_none() && placement.replicas == away
    };
    once(run, MOVED_WITHIN_MS, moved.clone(), move |run| {
        let has_moved = moved(run);
        run.mend_after(DELETED_AFTER_MS, move |run| {
            if has_moved && run.breaks() {
                come_back(run, id, followers, ALONE_MS);
            } else {
                end(run);
            }
            run.power_on(absent);
        });
    });
    true
}

fn come_back(run: &mut Run, id: GroupId, pair: [NodeId; 2], alone_ms: u64) {
    let Some(leader) = run.sites.values().find(|site| site.leads().contains(&id)).map(|site| site.node) else { return end(run) };
    let replicas = lock(&run.streams[&id].placement).replicas.clone();
    let kept = replicas.iter().copied().find(|node| *node != leader).unwrap_or(leader);
    lock(&run.oracle).reached.moved_back += 1;
    lock(&run.streams[&id].placement).start(vec![pair[0], pair[1], kept]);
    // Nodes that hold nothing of it are heard, or those two would not take part at all.
    let apart = move |run: &Run, change: fn(&Run, NodeId, NodeId)| {
        for node in pair {
            replicas.iter().filter(|other| **other != kept).for_each(|other| change(run, node, *other));
        }
    };
    apart(run, |run, one, other| run.sim.partition(host(one), host(other)));
    run.mend_after(alone_ms, move |run| {
        apart(run, |run, one, other| run.sim.release(host(one), host(other)));
        end(run);
    });
}

/// A follower's disk comes back as it was before what only the leader and it know of was acknowledged; the leader is down, and who is left has
/// missed all that. A majority, but not one that may decide anything before the leader is back.
fn old_among_few(run: &mut Run) -> bool {
    let Some(Cast { id, leader, followers }) = cast(run) else { return false };
    let turn = run.random.random_range(0..2);
    let (old, behind) = (followers[turn], followers[1 - turn]);
    let Some(copy) = decay::old_copy(run, old) else { return false };
    let missed_ms = run.random.random_range(200..400);
    run.plot = true;
    run.sim.partition(host(behind), host(leader));
    run.sim.partition(host(behind), host(old));
    run.mend_after(missed_ms, move |run| {
        let joined = |run: &mut Run| [leader, old].iter().for_each(|other| run.sim.release(host(behind), host(*other)));
        let still = run.sites[&leader].leads().contains(&id);
        if !run.breaks() || !still {
            joined(run);
            return end(run);
        }
        lock(&run.oracle).reached.old_among_few += 1;
        run.power_off(leader, None);
        decay::put_back(run, old, &copy);
        joined(run);
        run.mend_after(20, move |run| run.power_on(old));
        run.mend_after(2000, move |run| {
            run.power_on(leader);
            end(run);
        });
    });
    true
}
