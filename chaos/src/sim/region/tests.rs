//! The simulated region's own promises: it holds, it is deterministic, and it finds what is broken on purpose.

use super::*;
use crate::sim::Mutations;

const SEEDS: u64 = 20;
/// Within which a break that shows only where several things go wrong has to be found.
const SEEDS_BROKEN: u64 = 40;

#[test]
fn no_seed_breaks_the_region_and_every_danger_is_met() {
    let mut reached = Reached::default();
    for seed in 0..SEEDS {
        let outcome = simulate(seed, Mutations::default()).unwrap_or_else(|broken| panic!("{broken}"));
        reached.add(&outcome.reached);
    }
    assert_eq!(reached.missing(), Vec::<&str>::new(), "{reached:?}");
}

#[test]
fn the_same_seed_leaves_the_same_trace() {
    let first = simulate(5, Mutations::default());
    assert_eq!(first, simulate(5, Mutations::default()));
    assert_ne!(first.map(|outcome| outcome.trace), simulate(6, Mutations::default()).map(|outcome| outcome.trace));
}

/// Not every loss comes to light: a node may have lost what it was sent again in time. Half of the seeds must see one.
#[test]
fn a_region_without_fsync_is_caught_in_most_seeds() {
    let found: Vec<String> = (0..8)
        .filter_map(|seed| simulate(seed, Mutations { no_fsync: true, ..Mutations::default() }).err())
        .map(|broken| broken.what)
        .collect();
    assert!(found.len() >= 4, "the oracle sleeps: {found:?}");
}

#[test]
fn a_damaged_replica_that_is_believed_is_caught() {
    let mutations = Mutations { trust_damaged: true, ..Mutations::default() };
    let found = (0..SEEDS_BROKEN).find_map(|seed| simulate(seed, mutations).err());
    assert!(found.is_some(), "the oracle sleeps");
}

#[test]
fn a_snapshot_that_stands_for_more_than_was_purged_is_caught_within_a_few_seeds() {
    let mutations = Mutations { snapshot_too_new: true, ..Mutations::default() };
    let found: Vec<String> = (0..16).filter_map(|seed| simulate(seed, mutations).err()).map(|broken| broken.what).collect();
    // Records are deleted in every second run.
    assert!(!found.is_empty(), "the oracle sleeps");
}

#[test]
fn a_sleeping_follower_that_votes_against_a_live_leader_is_caught() {
    let mutations = Mutations { sleepers_vote: true, ..Mutations::default() };
    assert!((0..40).any(|seed| simulate(seed, mutations).is_err()), "the oracle sleeps");
}

#[test]
fn a_lease_on_the_word_of_another_process_is_caught() {
    let mutations = Mutations { any_bond_counts: true, ..Mutations::default() };
    assert!((0..40).any(|seed| simulate(seed, mutations).is_err()), "the oracle sleeps");
}
