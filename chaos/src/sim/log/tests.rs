//! The simulator's own promises: it finds nothing in the sound log, it is deterministic, and it finds what is broken on purpose.

use super::*;
use crate::sim::Mutations;

const SEEDS: u64 = 60;

#[test]
fn no_seed_breaks_the_log_and_every_danger_is_met() {
    let mut reached = Reached::default();
    for seed in 0..SEEDS {
        let outcome = simulate(seed, Mutations::default()).unwrap_or_else(|broken| panic!("{broken}"));
        reached.add(&outcome.reached);
    }
    assert_eq!(reached.missing(), Vec::<&str>::new(), "{reached:?}");
}

#[test]
fn the_same_seed_leaves_the_same_trace() {
    for seed in [3, 14, 159] {
        assert_eq!(simulate(seed, Mutations::default()), simulate(seed, Mutations::default()));
    }
    let (one, other) = (simulate(1, Mutations::default()), simulate(2, Mutations::default()));
    assert_ne!(one.map(|outcome| outcome.trace), other.map(|outcome| outcome.trace));
}

#[test]
fn an_acknowledgement_without_fsync_is_caught_within_ten_seeds() {
    let found: Vec<String> = (0..10)
        .filter_map(|seed| simulate(seed, Mutations { no_fsync: true, ..Mutations::default() }).err())
        .map(|broken| broken.what)
        .collect();
    assert!(found.iter().any(|what| what.contains("acknowledged entries are lost")), "the oracle sleeps: {found:?}");
}
