//! What decays on one node's disk is found, not served, and brought back from the others.

use meridian_raft::NodeId;

use crate::harness::{Region, batch, values};

const BATCHES: u32 = 400;

/// A region in which everything is acknowledged and everywhere, and one follower of it down.
fn one_down() -> (Region, NodeId, NodeId) {
    let mut region = Region::start();
    let leader = region.leader();
    for number in 0..BATCHES {
        region.append(leader, batch(number, 1)).expect("acknowledged");
    }
    let follower = region.nodes().into_iter().find(|node| *node != leader).expect("three nodes");
    region.wait_for_offset(follower, i64::from(BATCHES));
    // What is durable is noted with the next sync of anything.
    region.append(leader, batch(BATCHES, 1)).expect("acknowledged");
    region.wait_for_offset(follower, i64::from(BATCHES) + 1);
    region.kill(follower);
    (region, leader, follower)
}

fn is_whole_again(region: &mut Region, leader: NodeId, follower: NodeId) {
    region.restart(follower);
    assert_eq!(region.repaired(follower), 1, "the damage was not seen");
    region.wait_for_offset(follower, i64::from(BATCHES) + 1);
    assert_eq!(values(&region.read(follower)), (0..=BATCHES).collect::<Vec<_>>());
    assert_eq!(region.read(follower), region.read(leader));
    assert!(!region.keeps_damaged_files(follower));
    // It votes again: with the leader gone, the two others go on.
    region.kill(leader);
    let next = region.leader();
    region.append(next, batch(BATCHES + 1, 1)).expect("acknowledged");
}

#[test]
fn a_flipped_bit_inside_a_segment_is_repaired_from_peers() {
    let (mut region, leader, follower) = one_down();
    let segments = region.segments(follower);
    assert!(segments.len() > 1, "{segments:?}");
    let mut bytes = std::fs::read(&segments[0]).expect("a segment");
    // The last offset of an early batch: a header that is read without the rest of its batch.
    bytes[64 * 40 + 17] ^= 0x10;
    std::fs::write(&segments[0], bytes).expect("written");
    is_whole_again(&mut region, leader, follower);
}

#[test]
fn a_shortened_segment_is_repaired_from_peers() {
    let (mut region, leader, follower) = one_down();
    let last = region.segments(follower).pop().expect("a segment");
    let file = std::fs::OpenOptions::new().write(true).open(&last).expect("a segment");
    file.set_len(64).expect("cut");
    is_whole_again(&mut region, leader, follower);
}

#[test]
fn a_deleted_segment_is_repaired_from_peers() {
    for which in [0, 1] {
        let (mut region, leader, follower) = one_down();
        std::fs::remove_file(&region.segments(follower)[which]).expect("deleted");
        is_whole_again(&mut region, leader, follower);
    }
}

#[test]
fn a_deleted_log_is_repaired_from_peers() {
    let (mut region, leader, follower) = one_down();
    for segment in region.segments(follower) {
        std::fs::remove_file(segment).expect("deleted");
    }
    is_whole_again(&mut region, leader, follower);
}
