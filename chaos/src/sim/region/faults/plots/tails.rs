//! Plots about entries that no majority has: kept, dropped, or taken up again.

use std::time::Duration;

use meridian_raft::{GroupId, NodeId};
use rand::Rng;

use super::votes::elected_unheard;
use super::{Cast, cast, end, once};
use crate::sim::region::phases::Run;
use crate::sim::region::site::{host, lock};

/// An election after a node was lost, with all that may have to pass before.
const ELECTED_WITHIN_MS: u64 = 1500;
/// The same where one of the voters has just been started: it waits a second for those that it does not hear.
const STARTED_AND_ELECTED_WITHIN_MS: u64 = 2500;

/// Entries of this replica that are not known to be committed.
fn has_tail(run: &Run, id: GroupId, node: NodeId) -> bool {
    run.sites[&node].partition(id).is_some_and(|partition| partition.log_end_offset() > partition.high_watermark())
}

fn end_index(run: &Run, id: GroupId, node: NodeId) -> u64 {
    run.sites[&node].partition(id).map_or(0, |partition| partition.end_index())
}

/// A leader that is cut off goes on storing what nobody else gets; when it hears of its successor it has to drop all that, and dies over it.
pub(super) fn dies_dropping(run: &mut Run) -> bool {
    let Some(Cast { id, leader, followers }) = cast(run) else { return false };
    run.plot = true;
    followers.iter().for_each(|follower| run.sim.partition(host(leader), host(*follower)));
    let led = move |run: &Run| followers.iter().any(|node| run.sites[node].leads().contains(&id));
    once(run, ELECTED_WITHIN_MS, led, move |run| {
        lock(&run.oracle).reached.tails_contested += u64::from(led(run) && has_tail(run, id, leader));
        let (more_ms, dies_after_ms) = (run.random.random_range(0..200), run.random.random_range(0..40));
        run.mend_after(more_ms, move |run| {
            followers.iter().for_each(|follower| run.sim.release(host(leader), host(*follower)));
            run.mend_after(dies_after_ms, move |run| {
                if run.breaks() && run.random.random_bool(0.5) {
                    run.kill(leader);
                } else if run.breaks() {
                    let tear = run.random.random_bool(0.5).then(|| run.random.random());
                    run.power_off(leader, tear);
                }
                run.mend_after(60, move |run| {
                    run.power_on(leader);
                    end(run);
                });
            });
        });
    });
    true
}

/// Figure 8 of the Raft paper with three nodes. A leader stores what nobody else gets; a second is elected and stores something of its own term that
/// nobody else gets; the first is elected again, sends its old entries to the third, and dies. They are on a majority now, and the second may still be
/// elected and overwrite them: who took them for committed has lied.
pub(super) fn old_tail_resumed(run: &mut Run) -> bool {
    const ALONE_MS: u64 = 100;
    let Some(Cast { id, leader, followers }) = cast(run) else { return false };
    run.plot = true;
    followers.iter().for_each(|follower| run.sim.partition(host(leader), host(*follower)));
    elected_unheard(run, id, followers, move |run, elected| {
        let Some((second, third)) = elected else {
            let [one, other] = followers;
            [(leader, one), (leader, other), (one, other)].iter().for_each(|(a, b)| run.sim.release(host(*a), host(*b)));
            return end(run);
        };
        // What it has to say in its own term nobody hears.
        run.sim.partition(host(second), host(third));
        run.mend_after(ALONE_MS, move |run| {
            let tail = has_tail(run, id, leader);
            run.sim.release(host(leader), host(third));
            resume(run, id, [leader, second, third], tail);
        });
    });
    true
}

fn resume(run: &mut Run, id: GroupId, [leader, second, third]: [NodeId; 3], tail: bool) {
    const ELECTED_AGAIN_WITHIN_MS: u64 = 1500;
    const DIES_WITHIN_MS: u64 = 8;
    const AWAY_MS: u64 = 1200;
    let leads = move |run: &Run| run.sites[&leader].partition(id).map(|partition| partition.leadership());
    let term = leads(run).map_or(0, |leads| leads.epoch);
    let again = move |run: &Run| leads(run).is_some_and(|leads| leads.leader == Some(leader) && leads.epoch > term);
    once(run, ELECTED_AGAIN_WITHIN_MS, again, move |run| {
        lock(&run.oracle).reached.old_tails_resumed += u64::from(tail && again(run));
        let dies_after_ms = run.random.random_range(0..DIES_WITHIN_MS);
        run.mend_after(dies_after_ms, move |run| {
            if run.breaks() {
                run.kill(leader);
            }
            [leader, third].iter().for_each(|node| run.sim.release(host(second), host(*node)));
            run.mend_after(AWAY_MS, move |run| {
                run.power_on(leader);
                end(run);
            });
        });
    });
}

/// The leader's disk hangs, and only one follower gets what it sends. The leader loses power and with it all that; it and the other follower go on in
/// a later term with a shorter log. The first follower's log is longer, of an older term, and worth nothing.
pub(super) fn long_and_old(run: &mut Run) -> bool {
    const HUNG: Duration = Duration::from_millis(2000);
    let Some(Cast { id, leader, followers: [long, other] }) = cast(run) else { return false };
    run.plot = true;
    run.sites[&leader].disk.ail(|ills| ills.sync_delay = HUNG);
    [leader, long].iter().for_each(|node| run.sim.partition(host(other), host(*node)));
    let hangs_ms = run.random.random_range(30..130);
    run.mend_after(hangs_ms, move |run| {
        run.sites[&leader].disk.ail(|ills| ills.sync_delay = Duration::ZERO);
        run.sim.partition(host(long), host(leader));
        run.sim.release(host(other), host(leader));
        if run.breaks() {
            run.power_off(leader, None);
        }
        run.mend_after(10, move |run| run.power_on(leader));
        let leads = move |run: &Run| [leader, other].into_iter().find(|node| run.sites[node].leads().contains(&id));
        once(
            run,
            STARTED_AND_ELECTED_WITHIN_MS,
            move |run| leads(run).is_some(),
            move |run| {
                let shorter = leads(run).is_some_and(|leader| end_index(run, id, leader) < end_index(run, id, long));
                lock(&run.oracle).reached.longer_logs_deposed += u64::from(shorter);
                let more_ms = run.random.random_range(0..30);
                run.mend_after(more_ms, move |run| {
                    [leader, other].iter().for_each(|node| run.sim.release(host(long), host(*node)));
                    run.mend_after(400, end);
                });
            },
        );
    });
    true
}

/// Only one follower gets what the leader sends, makes it durable and answers, and no answer arrives. Then both die: who has missed all that and
/// the follower may keep it or drop it, but only one of the two.
pub(super) fn answer_lost(run: &mut Run) -> bool {
    let Some(Cast { id, leader, followers: [deaf, mute] }) = cast(run) else { return false };
    run.plot = true;
    run.sim.partition(host(deaf), host(leader));
    run.sim.partition_oneway(host(mute), host(leader));
    let lost_ms = run.random.random_range(3..40);
    run.mend_after(lost_ms, move |run| {
        if run.breaks() {
            let unanswered = end_index(run, id, mute) > end_index(run, id, deaf);
            lock(&run.oracle).reached.answers_lost += u64::from(unanswered);
            run.kill(mute);
            run.power_off(leader, None);
        }
        [deaf, mute].iter().for_each(|node| run.sim.release(host(leader), host(*node)));
        run.mend_after(5, move |run| run.power_on(mute));
        let back_ms = run.random.random_range(200..1500);
        run.mend_after(back_ms, move |run| {
            run.power_on(leader);
            end(run);
        });
    });
    true
}

/// Only the leader's disk is slow: its followers make durable what it has not yet, it may answer on the strength of that, and loses power.
pub(super) fn slow_leader_cut(run: &mut Run) -> bool {
    let Some(Cast { leader, .. }) = cast(run) else { return false };
    let (delay_ms, slow_ms) = (run.random.random_range(30..300), run.random.random_range(100..600));
    let delay = Duration::from_millis(delay_ms);
    run.plot = true;
    run.sites[&leader].disk.ail(|ills| ills.sync_delay = delay);
    run.mend_after(slow_ms, move |run| {
        let leads = !run.sites[&leader].leads().is_empty();
        run.sites[&leader].disk.ail(|ills| ills.sync_delay = Duration::ZERO);
        if run.breaks() {
            lock(&run.oracle).reached.slow_leaders_cut += u64::from(leads);
            run.power_off(leader, None);
        }
        let down_ms = run.random.random_range(5..900);
        run.mend_after(down_ms, move |run| {
            run.power_on(leader);
            end(run);
        });
    });
    true
}
