//! A wall clock is wrong: it jumps, or runs too fast or too slow. It stays so until its node's clock is set.

use rand::Rng;

use crate::sim::region::phases::Run;
use crate::sim::region::site::lock;

/// Further than an election timeout, in both directions.
const JUMP_US_MAX: i64 = 5_000_000;
/// A tenth: far beyond any crystal.
const DRIFT_PPM_MAX: i64 = 100_000;

pub(super) fn jump(run: &mut Run) -> bool {
    let node = run.any_node();
    let offset_us = run.random.random_range(-JUMP_US_MAX..=JUMP_US_MAX);
    run.sites[&node].disk.ail(|ills| ills.clock_offset_us = offset_us);
    lock(&run.oracle).reached.clock_jumps += 1;
    let wrong_ms = run.random.random_range(50..3000);
    run.mend_after(wrong_ms, move |run| run.sites[&node].disk.ail(|ills| ills.clock_offset_us = 0));
    true
}

pub(super) fn drift(run: &mut Run) -> bool {
    let node = run.any_node();
    let drift_ppm = run.random.random_range(-DRIFT_PPM_MAX..=DRIFT_PPM_MAX);
    run.sites[&node].disk.ail(|ills| ills.clock_drift_ppm = drift_ppm);
    lock(&run.oracle).reached.clock_drifts += 1;
    let wrong_ms = run.random.random_range(500..5000);
    run.mend_after(wrong_ms, move |run| run.sites[&node].disk.ail(|ills| ills.clock_drift_ppm = 0));
    true
}
