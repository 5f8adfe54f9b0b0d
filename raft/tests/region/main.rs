//! A region of three nodes on real disks and real mutual TLS, through the crate's public face. A node is killed by dropping its runtime: nothing
//! is flushed, nobody is told.

mod damage;
mod harness;
mod moves;

use std::time::Duration;

use harness::{Region, batch, idempotent, values, values_from};
use meridian_raft::partition::{AppendError, Appended, DeleteRecordsError, ReadError, StoredBatch};

#[test]
fn an_acknowledged_batch_is_on_every_replica_with_the_same_bytes() {
    let region = Region::start();
    let leader = region.leader();
    for number in 0..20 {
        assert_eq!(region.append(leader, batch(number, 2)).expect("acknowledged").base_offset, i64::from(number) * 2);
    }
    let expected = region.read(leader);
    assert_eq!(expected.len(), 20);
    for node in region.nodes() {
        region.wait_for_offset(node, 40);
        assert_eq!(region.read(node), expected);
    }
}

#[test]
fn every_node_knows_who_lives_though_followers_ask_nothing() {
    let region = Region::start();
    region.leader();
    // Longer than anything said before a leader was found counts.
    std::thread::sleep(Duration::from_secs(3));
    for node in region.nodes() {
        assert_eq!(region.live_nodes(node), [1, 2, 3], "as node {node} has it");
    }
}

#[test]
fn a_snapshot_stands_for_old_commands_at_a_start_and_for_a_node_far_behind() {
    let mut region = Region::start();
    region.leader();
    region.kill(3);
    let command = |number: u8| vec![number; 700 << 10];
    // More than a segment of the controller's log.
    for number in 0..8 {
        region.propose(1, command(number)).expect("committed by the other two");
    }
    for node in [1, 2] {
        region.wait_for_shorter_control(node);
    }
    region.restart(3);
    let all: Vec<_> = (0..8).map(command).collect();
    assert!(region.commands(3, 8) == all, "what the node far behind has applied");
    for node in 1..=3 {
        region.kill(node);
    }
    for node in 1..=3 {
        region.restart(node);
    }
    region.propose(2, command(8)).expect("committed");
    let all: Vec<_> = (0..9).map(command).collect();
    for node in 1..=3 {
        assert!(region.commands(node, 9) == all, "what node {node} has applied after the restart");
    }
}

#[test]
fn kill_of_the_leader_loses_nothing_and_the_dead_node_catches_up() {
    let mut region = Region::start();
    let first = region.leader();
    for number in 0..10 {
        region.append(first, batch(number, 1)).expect("acknowledged");
    }
    region.kill(first);
    let second = region.leader();
    assert_ne!(second, first);
    for number in 10..20 {
        region.append(second, batch(number, 1)).expect("acknowledged");
    }
    region.restart(first);
    region.wait_for_offset(first, 20);
    assert_eq!(values(&region.read(first)), (0..20).collect::<Vec<_>>());
    assert_eq!(region.read(first), region.read(second));
}

#[test]
fn a_whole_region_killed_at_once_keeps_what_it_acknowledged() {
    let mut region = Region::start();
    let leader = region.leader();
    for number in 0..10 {
        region.append(leader, batch(number, 1)).expect("acknowledged");
    }
    let before = region.read(leader);
    for node in region.nodes() {
        region.kill(node);
    }
    for node in 1..=3 {
        region.restart(node);
    }
    let leader = region.leader();
    region.append(leader, batch(10, 1)).expect("acknowledged");
    let after = region.read(leader);
    assert_eq!(after[..10], before[..]);
    assert_eq!(values(&after), (0..=10).collect::<Vec<_>>());
}

#[test]
fn a_retry_after_the_leader_died_is_stored_once() {
    let mut region = Region::start();
    let leader = region.leader();
    let first = region.append(leader, idempotent(0, 1, 0)).expect("acknowledged");
    region.kill(leader);
    let leader = region.leader();
    let again = region.append(leader, idempotent(0, 1, 0)).expect("acknowledged");
    assert_eq!(again, Appended { duplicate: true, ..first });
    region.append(leader, idempotent(1, 1, 1)).expect("acknowledged");
    let refused = region.append(leader, idempotent(3, 1, 3)).expect_err("a gap");
    assert!(matches!(refused, AppendError::OutOfOrderSequence { expected: 2, got: 3, .. }));
    assert_eq!(values(&region.read(leader)), [0, 1]);
}

#[test]
fn without_a_majority_nothing_is_acknowledged() {
    let mut region = Region::start();
    let leader = region.leader();
    region.append(leader, batch(0, 1)).expect("acknowledged");
    for node in region.nodes().into_iter().filter(|node| *node != leader) {
        region.kill(node);
    }
    region.append(leader, batch(1, 1)).expect_err("no majority");
    assert_eq!(region.partition(leader).high_watermark(), 1);
}

#[test]
fn a_graceful_stop_hands_leadership_over_before_it_ends() {
    let mut region = Region::start();
    let leader = region.leader();
    let begun = tokio::time::Instant::now();
    region.stop(leader);
    let next = region.leader();
    assert_ne!(next, leader);
    region.append(next, batch(0, 1)).expect("acknowledged");
    // Without the handover the others wait out the lease and an election timeout first.
    assert!(begun.elapsed() < Duration::from_secs(3), "took {:?}", begun.elapsed());
}

#[test]
fn a_mirror_takes_batches_only_where_they_continue_its_log() {
    let home = Region::start();
    let leader = home.leader();
    for number in 0..5 {
        home.append(leader, batch(number, 2)).expect("acknowledged");
    }
    let batches = home.read(leader);
    let away = Region::start_mirror();
    let target = away.leader();
    let gap = away.append_mirrored(target, batches[1..].to_vec()).expect_err("a gap");
    assert!(matches!(gap, AppendError::NotContiguous { got: 2, end: 0 }));
    away.append_mirrored(target, batches[..3].to_vec()).expect("acknowledged");
    let mut damaged = batches[3].clone();
    let mut bytes = damaged.bytes.to_vec();
    bytes[70] ^= 1;
    damaged.bytes = bytes.into();
    let refused = away.append_mirrored(target, vec![damaged]).expect_err("a flipped bit");
    assert!(matches!(refused, AppendError::Malformed(_)));
    // Overlap is skipped, the rest continues.
    away.append_mirrored(target, batches[1..].to_vec()).expect("acknowledged");
    assert_eq!(away.read(target), batches);
    let held = away.append_mirrored(target, batches.clone()).expect("held already");
    assert!(held.duplicate);
}

#[test]
fn commands_reach_every_machine_in_one_order_whoever_proposes_them() {
    let region = Region::start();
    region.leader();
    for node in region.nodes() {
        for number in 0..5u8 {
            let answer = region.propose(node, vec![node as u8, number]).expect("committed");
            assert_eq!(answer[1..], [node as u8, number]);
        }
    }
    let expected = region.commands(1, 15);
    assert_eq!(expected.len(), 15);
    assert_eq!(region.commands(2, 15), expected);
    assert_eq!(region.commands(3, 15), expected);
}

#[test]
fn closed_time_is_told_by_the_leader_alone_and_never_contradicted() {
    let region = Region::start();
    let leader = region.leader();
    region.append(leader, batch(0, 1)).expect("acknowledged");
    let closed = region.partition(leader).closed_time_us().expect("a lease");
    for node in region.nodes().into_iter().filter(|node| *node != leader) {
        assert_eq!(region.partition(node).closed_time_us(), None);
    }
    region.append(leader, batch(1, 1)).expect("acknowledged");
    let times: Vec<i64> = region.read(leader).iter().map(|StoredBatch { append_time_us, .. }| *append_time_us).collect();
    assert!(times[0] <= closed && closed < times[1], "{times:?}, closed {closed}");
}

#[test]
fn a_data_folder_of_another_node_is_refused() {
    let mut region = Region::start();
    region.kill(2);
    let refused = region.start_on(2, 3).expect_err("another node's folder");
    assert_eq!(refused.to_string(), "the data folder belongs to node 2, this is node 3");
}

#[test]
fn a_certificate_of_another_region_gets_no_answer() {
    let region = Region::start();
    region.leader();
    let stranger = harness::Strangers::new(&region);
    assert!(stranger.is_refused_by(1));
}

#[test]
fn a_deleted_partition_leaves_no_files() {
    let region = Region::start();
    let leader = region.leader();
    region.append(leader, batch(0, 1)).expect("acknowledged");
    region.delete(3);
    assert!(!region.has_log_files(3));
}

/// Peers tell only what changes: a node that forgot the leader with its replica would name none to its clients until the next election.
#[test]
fn a_node_whose_replica_moved_away_still_knows_who_leads() {
    let region = Region::start();
    let leader = region.leader();
    let other = region.nodes().into_iter().find(|node| *node != leader).expect("three nodes");
    region.wait_until_led_by(other, leader);
    region.append(leader, batch(0, 1)).expect("acknowledged");
    region.delete(other);
    region.wait_until_led_by(other, leader);
}

#[test]
fn deleted_records_are_gone_on_every_replica_and_stay_gone() {
    let mut region = Region::start();
    let leader = region.leader();
    for number in 0..10 {
        region.append(leader, batch(number, 2)).expect("acknowledged");
    }
    assert_eq!(region.delete_records(leader, Some(21)), Err(DeleteRecordsError::OutOfRange { offset: 21, end: 20 }));
    assert_eq!(region.delete_records(leader, Some(7)), Ok(7));
    assert_eq!(region.delete_records(leader, Some(3)), Ok(7), "it never goes back");
    for node in region.nodes() {
        region.wait_for_start(node, 7);
        let below = region.partition(node).read(6, 1 << 20);
        assert_eq!(region.block_on(below), Err(ReadError::OutOfRange { offset: 6, start: 7, end: 20 }));
        let kept = region.block_on(region.partition(node).read(7, 1 << 20)).expect("readable");
        assert_eq!(values_from(6, &kept), (3..10).collect::<Vec<_>>());
    }
    // All of it: the segment that was written to goes as well.
    let before = region.partition(leader).size_bytes();
    assert_eq!(region.delete_records(leader, None), Ok(20));
    for node in region.nodes() {
        region.wait_for_start(node, 20);
    }
    region.wait_for_less(leader, before);
    for node in region.nodes() {
        region.kill(node);
    }
    for node in 1..=3 {
        region.restart(node);
    }
    let leader = region.leader();
    assert_eq!(region.partition(leader).log_start_offset(), 20);
    let appended = region.append(leader, batch(10, 1)).expect("acknowledged");
    assert_eq!(appended.base_offset, 20);
}

#[test]
fn a_follower_that_missed_what_was_let_go_begins_behind_it() {
    let mut region = Region::start();
    let leader = region.leader();
    let away = region.nodes().into_iter().find(|node| *node != leader).expect("a follower");
    for number in 0..5 {
        region.append(leader, idempotent(number, 1, number as i32)).expect("acknowledged");
    }
    region.wait_for_offset(away, 5);
    region.kill(away);
    for number in 5..300 {
        region.append(leader, idempotent(number, 100, (number as i32 - 5) * 100 + 5)).expect("acknowledged");
    }
    let before = region.partition(leader).size_bytes();
    let start = region.delete_records(leader, None).expect("deleted");
    region.wait_for_less(leader, before);
    for number in 300..305 {
        region.append(leader, batch(number, 1)).expect("acknowledged");
    }
    region.restart(away);
    region.wait_for_offset(away, start + 5);
    let replica = region.partition(away);
    assert_eq!((replica.times_filled_up(), replica.log_start_offset()), (1, start));
    let held = region.block_on(replica.read(start, usize::MAX)).expect("readable");
    assert_eq!(values_from(start, &held), (300..305).collect::<Vec<_>>());
    // It knows the producer, and may lead.
    region.make_leader(away);
    let again = region.append(away, idempotent(299, 100, 29_405)).expect("acknowledged");
    assert!(again.duplicate, "{again:?}");
    region.append(away, idempotent(300, 1, 29_505)).expect("it follows on");
}
