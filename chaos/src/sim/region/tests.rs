//! The simulated region's own promises: it holds, it is deterministic, and it finds what is broken on purpose.

use super::*;
use crate::sim::Mutations;
use crate::sim::sweep::Sweep;

/// As many as every test run lives through; `meridian-chaos sim --seeds` goes further.
const SEEDS: std::ops::Range<u64> = 0..60;

#[test]
fn no_seed_breaks_the_region_and_every_danger_is_met() {
    let sweep = Sweep { seeds: SEEDS, jobs: 2, keep_going: false };
    assert!(sweep.run(|seed| simulate(seed, Mutations::default()), &mut std::io::sink()), "see what was printed");
}

#[test]
fn the_same_seed_leaves_the_same_trace() {
    let first = simulate(5, Mutations::default());
    assert_eq!(first, simulate(5, Mutations::default()));
    assert_ne!(first.map(|outcome| outcome.trace), simulate(6, Mutations::default()).map(|outcome| outcome.trace));
}

/// The first seed, of so many, that shows that something is broken, and nothing where nothing is.
fn caught(name: &str, seeds: std::ops::Range<u64>) -> Broken {
    let mutations = Mutations::named(name).unwrap_or_else(|| panic!("no mutation {name}"));
    let holds = |broken: &Broken| simulate(broken.seed, Mutations::default()).is_ok();
    let mut found = seeds.clone().filter_map(|seed| simulate(seed, mutations).err()).filter(holds);
    found.next().unwrap_or_else(|| panic!("the oracle sleeps: {name} goes unseen in seeds {seeds:?}"))
}

#[test]
fn an_answer_before_the_majority_has_the_batch_is_caught() {
    caught("ack-before-commit", 0..10);
}

#[test]
fn producers_forgotten_by_a_restart_are_caught() {
    caught("forgotten-producers", 60..100);
}

#[test]
fn a_vote_that_is_not_kept_is_caught() {
    caught("forgotten-vote", 120..130);
}

#[test]
fn an_acknowledgement_without_fsync_is_caught() {
    caught("no-fsync", 0..10);
}

#[test]
fn a_failed_sync_that_passes_for_a_good_one_is_caught() {
    caught("ignored-sync-error", 0..60);
}

#[test]
fn a_snapshot_that_stands_for_more_than_was_purged_is_caught() {
    caught("snapshot-too-new", 0..20);
}

#[test]
fn a_tail_cut_one_entry_too_late_is_caught() {
    caught("truncate-off-by-one", 0..30);
}

#[test]
fn a_damaged_replica_that_is_believed_is_caught() {
    caught("trust-damaged", 6..20);
}

#[test]
fn a_sleeping_follower_that_votes_against_a_live_leader_is_caught() {
    caught("sleepers-vote", 0..70);
}
