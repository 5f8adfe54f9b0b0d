//! The simulated region's own promises: it holds, and it finds what is broken on purpose.

use crate::sim::process::tests::program;
use crate::sim::sweep::Sweep;
use crate::sim::{Broken, Run, World, apart};

/// As many as every test run lives through; `meridian-chaos sim --seeds` goes further.
const SEEDS: std::ops::Range<u64> = 0..60;

#[test]
fn no_seed_breaks_the_region_and_every_danger_is_met() {
    let sweep = Sweep { world: World::Region, mutation: None, seeds: SEEDS, jobs: 2, keep_going: false };
    assert!(sweep.run(program, &mut std::io::sink()), "see what was printed");
}

/// The first seed, of so many, that shows that something is broken, and nothing where nothing is.
fn caught(mutation: &str, seeds: std::ops::Range<u64>) -> Broken {
    let run = |seed| Run::new(World::Region, seed);
    let holds = |broken: &Broken| apart(&run(broken.run.seed), program).is_ok();
    let mut found = seeds.clone().filter_map(|seed| apart(&run(seed).mutated(mutation), program).err()).filter(holds);
    found.next().unwrap_or_else(|| panic!("the oracle sleeps: {mutation} goes unseen in seeds {seeds:?}"))
}

#[test]
fn an_answer_before_the_majority_has_the_batch_is_caught() {
    caught("ack-before-commit", 0..10);
}

#[test]
fn a_vote_that_a_restart_forgets_is_caught() {
    caught("forgotten-vote", 0..60);
}

#[test]
fn producers_forgotten_by_a_restart_are_caught() {
    caught("forgotten-producers", 20..35);
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
    caught("trust-damaged", 5..20);
}

#[test]
fn a_follower_that_votes_against_a_live_leader_is_caught() {
    caught("sleepers-vote", 0..70);
}

#[test]
fn promises_that_go_with_a_replica_are_caught() {
    caught("forgotten-farewells", 0..60);
}

#[test]
fn a_data_folder_that_is_older_than_its_peers_remember_is_caught() {
    caught("trust-old-votes", 0..60);
}

#[test]
fn an_answer_for_an_old_promise_that_passes_for_a_new_one_is_caught() {
    caught("any-bond-counts", 0..60);
}
