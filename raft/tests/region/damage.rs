//! What decays on one node's disk is found, not served, and brought back from the others.

use meridian_raft::NodeId;
use meridian_raft::node::trust::TrustError;

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
    region.append(leader, batch(BATCHES, 1)).expect("acknowledged");
    region.wait_for_offset(follower, i64::from(BATCHES) + 1);
    // How far the log is durable is noted once a second.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    region.kill(follower);
    (region, leader, follower)
}

fn is_whole_again(region: &mut Region, leader: NodeId, follower: NodeId) {
    region.restart(follower);
    assert_eq!(region.repaired(follower), 1, "the damage was not seen");
    region.wait_for_offset(follower, i64::from(BATCHES) + 1);
    assert_eq!(values(&region.read(follower)), (0..=BATCHES).collect::<Vec<_>>());
    assert_eq!(region.read(follower), region.read(leader));
    region.wait_until_damaged_files_are_gone(follower);
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
    let frame = bytes.windows(4).enumerate().filter(|(_, magic)| magic == b"FDRM").nth(10).expect("a frame").0;
    bytes[frame + 64 + 23] ^= 0x10;
    std::fs::write(&segments[0], bytes).expect("written");
    // Without it a start reads what it has applied once more; with it, whoever comes first: a reader, a follower, the scrub.
    let _ = std::fs::remove_file(segments[0].with_file_name("applied"));
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

/// Elsewhere a node that came back empty has voted for one that held nothing, and whole streams were gone.
#[test]
fn a_node_that_comes_back_empty_takes_no_part_before_it_is_up_to_date() {
    let (mut region, leader, follower) = one_down();
    region.empty_folder(follower);
    region.restart(follower);
    assert!(region.repaired(follower) >= 1, "it was believed");
    region.wait_for_offset(follower, i64::from(BATCHES) + 1);
    assert_eq!(region.read(follower), region.read(leader));
    region.kill(leader);
    let next = region.leader();
    region.append(next, batch(BATCHES + 1, 1)).expect("acknowledged");
    assert_eq!(values(&region.read(next)), (0..=BATCHES + 1).collect::<Vec<_>>());
}

#[test]
fn an_empty_node_and_one_that_is_behind_are_no_majority() {
    let mut region = Region::start();
    let leader = region.leader();
    region.append(leader, batch(0, 1)).expect("acknowledged");
    let followers: Vec<NodeId> = region.nodes().into_iter().filter(|node| *node != leader).collect();
    followers.iter().for_each(|node| region.wait_for_offset(*node, 1));
    // The second follower misses what the other two acknowledge.
    region.kill(followers[1]);
    for number in 1..20 {
        region.append(leader, batch(number, 1)).expect("acknowledged");
    }
    region.wait_for_offset(followers[0], 20);
    region.kill(leader);
    region.kill(followers[0]);
    region.empty_folder(followers[0]);
    region.restart(followers[1]);
    region.begin(followers[0]);
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(region.running_leader().is_none(), "a node that holds nothing gave its vote");
    region.restart(leader);
    let led = region.leader();
    region.append(led, batch(20, 1)).expect("acknowledged");
    assert_eq!(values(&region.read(led)), (0..=20).collect::<Vec<_>>());
}

/// A leader that is gone for good, a follower whose folder is empty, and one that was killed when it held `held` of 20 batches.
fn two_of_three_lost(held: u32) -> (Region, NodeId, NodeId, NodeId) {
    let mut region = Region::start();
    let leader = region.leader();
    let others: Vec<NodeId> = region.nodes().into_iter().filter(|node| *node != leader).collect();
    let (emptied, left) = (others[0], others[1]);
    // By then everybody has told everybody of its life.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    for number in 0..20 {
        if number == held {
            region.wait_for_offset(left, i64::from(held));
            region.kill(left);
        }
        region.append(leader, batch(number, 1)).expect("acknowledged");
    }
    region.wait_for_offset(emptied, 20);
    if held == 20 {
        region.wait_for_offset(left, 20);
        region.kill(left);
    }
    region.kill(leader);
    region.kill(emptied);
    region.empty_folder(emptied);
    (region, leader, emptied, left)
}

/// 20 when nothing is lost: what the node that is left held is all there is.
#[test]
fn by_an_operators_word_a_group_whose_votes_and_another_node_are_lost_goes_on_with_what_is_left() {
    for held in [20, 1] {
        let (mut region, gone, emptied, left) = two_of_three_lost(held);
        assert!(matches!(region.trust_without(emptied, &[gone]), Err(TrustError::Unused)), "an empty folder says nothing");
        region.restart(left);
        region.begin(emptied);
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert!(region.running_leader().is_none(), "a node that holds nothing gave its vote");
        region.kill_begun();
        assert!(matches!(region.trust_without(emptied, &[emptied]), Err(TrustError::Names)), "nobody is gone who is to go on");
        assert_eq!(region.trust_without(emptied, &[gone]).expect("needed"), 1, "the controller waits");
        region.restart(emptied);
        let leader = region.leader();
        assert_eq!(leader, left, "who holds more leads");
        region.append(leader, batch(held, 1)).expect("acknowledged");
        assert_eq!(values(&region.read(leader)), (0..=held).collect::<Vec<_>>());
        region.wait_for_offset(emptied, i64::from(held) + 1);
        // What has been made good needs no word any more.
        region.kill(emptied);
        assert!(matches!(region.trust_without(emptied, &[gone]), Err(TrustError::Unneeded)));
        region.kill(left);
        assert!(matches!(region.trust_without(left, &[gone]), Err(TrustError::Unneeded)), "it has lost no votes");
    }
}

#[test]
fn an_operators_word_does_not_count_for_a_node_that_lives() {
    let (mut region, leader, emptied, left) = two_of_three_lost(1);
    region.restart(left);
    region.begin(emptied);
    std::thread::sleep(std::time::Duration::from_secs(3));
    region.kill_begun();
    region.trust_without(emptied, &[leader]).expect("needed");
    region.begin(emptied);
    std::thread::sleep(std::time::Duration::from_secs(2));
    region.restart(leader);
    region.kill_begun();
    region.restart(emptied);
    let led = region.leader();
    region.append(led, batch(20, 1)).expect("acknowledged");
    assert_eq!(values(&region.read(led)), (0..=20).collect::<Vec<_>>(), "the word was believed");
}

#[test]
fn a_meta_log_that_is_damaged_or_old_or_gone_is_made_good_by_the_peers() {
    for damage in 0..3 {
        let (mut region, leader, follower) = one_down();
        let meta = region.folder(follower).join("meta.log");
        let old = std::fs::read(&meta).expect("a meta log");
        match damage {
            0 => std::fs::remove_file(&meta).expect("deleted"),
            1 => {
                let mut bytes = old.clone();
                bytes[20] ^= 1;
                std::fs::write(&meta, bytes).expect("written");
            }
            _ => {
                region.restart(follower);
                region.append(leader, batch(BATCHES + 1, 1)).expect("acknowledged");
                region.wait_for_offset(follower, i64::from(BATCHES) + 2);
                std::thread::sleep(std::time::Duration::from_secs(2));
                region.kill(follower);
                std::fs::write(&meta, &old).expect("written");
            }
        }
        region.restart(follower);
        assert!(region.repaired(follower) >= 1, "damage {damage} was not seen");
        region.append(leader, batch(BATCHES + 2, 1)).expect("acknowledged");
        region.kill(leader);
        let next = region.leader();
        region.append(next, batch(BATCHES + 3, 1)).expect("acknowledged");
    }
}
