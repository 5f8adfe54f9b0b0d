//! Partitions that move: learners, joint consensus, leaders that die on the way, and replicas that must never found a group of their own.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_raft::NodeId;
use meridian_raft::partition::ReconfigureError;
use tokio::time::Instant;

use crate::harness::{Region, batch, values};

const PATIENCE: Duration = Duration::from_secs(20);

fn append_all(region: &Region, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let begun = Instant::now();
        while region.append(region.leader(), batch(number, 1)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "nobody takes batch {number}");
        }
    }
}

/// Moves the partition whoever leads, as a node's own task would.
fn move_to(region: &Region, voters: &[NodeId]) {
    let begun = Instant::now();
    while !matches!(region.reconfigure(region.leader(), voters, PATIENCE), Some(Ok(()))) {
        assert!(begun.elapsed() < PATIENCE, "the partition does not move to {voters:?}");
    }
}

fn wait_for_leader_among(region: &Region, nodes: &[NodeId]) -> NodeId {
    let begun = Instant::now();
    loop {
        let leader = region.leader();
        if nodes.contains(&leader) {
            return leader;
        }
        assert!(begun.elapsed() < PATIENCE, "node {leader} leads, none of {nodes:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_partition_moves_to_new_nodes_with_all_its_records_and_the_old_ones_are_not_needed_any_more() {
    let mut region = Region::start_with_joiners(6);
    append_all(&region, 0..50);
    move_to(&region, &[4, 5, 6]);
    wait_for_leader_among(&region, &[4, 5, 6]);
    append_all(&region, 50..60);
    for node in 1..=3 {
        region.kill(node);
    }
    append_all(&region, 60..70);
    for node in 4..=6 {
        region.wait_for_offset(node, 70);
        assert_eq!(values(&region.read(node)), (0..70).collect::<Vec<_>>());
        let membership = region.partition(node).membership();
        assert_eq!((membership.voters, membership.joint), (BTreeSet::from([4, 5, 6]), false));
    }
}

#[test]
fn replicas_that_were_told_to_join_never_form_a_group() {
    let mut region = Region::start_with_joiners(5);
    for node in 1..=3 {
        region.kill(node);
    }
    std::thread::sleep(Duration::from_secs(4));
    for node in [4, 5] {
        let leadership = region.partition(node).leadership();
        assert_eq!((leadership.leader, leadership.is_leader), (None, false), "node {node}");
        assert_eq!(region.partition(node).membership().voters, BTreeSet::new(), "node {node}");
    }
}

#[test]
fn the_next_leader_goes_on_where_a_killed_one_stopped() {
    let mut region = Region::start_with_joiners(5);
    append_all(&region, 0..20);
    let first = region.leader();
    // One new replica is down, so that the move stands still between its steps.
    region.kill(5);
    assert_eq!(region.reconfigure(first, &[first, 4, 5], Duration::from_millis(700)), None, "a dead node cannot have caught up");
    assert_eq!(region.partition(first).membership().learners, BTreeSet::from([4, 5]));
    region.kill(first);
    region.restart(5);
    let rest: Vec<NodeId> = (1..=3).filter(|node| *node != first).collect();
    let second = wait_for_leader_among(&region, &rest);
    move_to(&region, &[second, 4, 5]);
    append_all(&region, 20..30);
    for node in [second, 4, 5] {
        region.wait_for_offset(node, 30);
        assert_eq!(values(&region.read(node)), (0..30).collect::<Vec<_>>());
    }
}

#[test]
fn a_move_that_is_taken_back_leaves_the_old_voters_and_no_learner() {
    let mut region = Region::start_with_joiners(4);
    append_all(&region, 0..10);
    let leader = region.leader();
    region.kill(4);
    assert_eq!(region.reconfigure(leader, &[1, 2, 4], Duration::from_millis(500)), None);
    move_to(&region, &[1, 2, 3]);
    let membership = region.partition(region.leader()).membership();
    assert_eq!((membership.voters, membership.learners), (BTreeSet::from([1, 2, 3]), BTreeSet::new()));
    append_all(&region, 10..20);
}

#[test]
fn only_the_leader_moves_a_partition() {
    let region = Region::start_with_joiners(4);
    let leader = region.leader();
    let follower = (1..=3).find(|node| *node != leader).expect("two followers");
    assert_eq!(region.reconfigure(follower, &[1, 2, 4], PATIENCE), Some(Err(ReconfigureError::NotLeader)));
}

#[test]
fn a_replica_that_catches_up_is_sent_no_more_than_the_rate_while_others_go_on() {
    let region = Region::start_with_joiners(4);
    // 10 MiB: more than a replica that has caught up may lack.
    let mut bytes = 0;
    let mut number = 0;
    while bytes < 10 << 20 {
        let batch = batch(number, 8192);
        (bytes, number) = (bytes + batch.bytes().len(), number + 1);
        region.append(region.leader(), batch).expect("acknowledged");
    }
    region.set_catch_up_rate(3 << 20);
    let begun = Instant::now();
    let leader = region.leader();
    let voters: Vec<NodeId> = if leader == 1 { vec![1, 2, 4] } else { vec![leader, 1, 4] };
    assert_eq!(region.reconfigure(leader, &voters, Duration::from_millis(500)), None, "10 MiB in half a second");
    let append = Instant::now();
    region.append(leader, batch(number, 1)).expect("acknowledged");
    assert!(append.elapsed() < Duration::from_secs(1), "an append waited {:?} for a learner", append.elapsed());
    move_to(&region, &voters);
    // All but what may be lacking of a replica that has caught up, and the first tenth of a second's share.
    assert!(begun.elapsed() > Duration::from_millis(1500), "{bytes} bytes took {:?}", begun.elapsed());
}

#[test]
fn a_node_that_joins_reaches_the_controller_before_it_is_taken_in_and_knows_everything_after() {
    let mut region = Region::start_with_joiners(4);
    region.leader();
    region.propose(1, vec![1]).expect("committed");
    assert_eq!(region.propose(4, vec![4]).expect("committed, though by others")[1..], [4]);
    assert!(region.commands(4, 0).is_empty());
    region.reconfigure_control(&[1, 2, 3], &[4]);
    assert_eq!(region.commands(4, 2), region.commands(1, 2));
    // Everybody's turn to follow, the leader's too.
    for follower in 1..=4u64 {
        let voters: Vec<NodeId> = (1..=4).filter(|node| *node != follower).collect();
        region.reconfigure_control(&voters, &[follower]);
    }
    // It takes another one's place.
    region.reconfigure_control(&[2, 3, 4], &[]);
    region.kill(1);
    region.propose(4, vec![5]).expect("committed");
    assert_eq!(region.commands(2, 3), region.commands(4, 3));
}
