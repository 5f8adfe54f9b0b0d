//! Disks that fail, fill up, or are slow.

use std::time::Duration;

use rand::Rng;

use crate::sim::region::phases::Run;
use crate::sim::region::site::lock;

/// The limits below which a simulated node refuses data are far above this.
const FREE_BYTES_MAX: u64 = 200_000;

/// Every sync fails, so the node has to end by itself; then the power goes, with all that was not synced, and the disk works again.
pub(super) fn fail(run: &mut Run) -> bool {
    let node = run.any_node();
    let disk = run.sites[&node].disk.clone();
    if !run.is_up(node) || disk.fails_syncs() {
        return false;
    }
    disk.fail_syncs(true);
    let lasts_ms = run.random.random_range(100..1500);
    run.mend_after(lasts_ms, move |run| {
        run.sites[&node].disk.fail_syncs(false);
        if run.is_up(node) {
            run.power_off(node, None);
            run.power_on(node);
        }
    });
    true
}

/// Somebody else takes all but little of the disk, and gives it back later.
pub(super) fn fill(run: &mut Run) -> bool {
    let node = run.any_node();
    if !run.is_up(node) {
        return false;
    }
    let left = run.random.random_range(0..FREE_BYTES_MAX);
    run.sites[&node].disk.leave_free(Some(left));
    let lasts_ms = run.random.random_range(200..3000);
    run.mend_after(lasts_ms, move |run| {
        let site = &run.sites[&node];
        site.disk.leave_free(None);
        let refused = lock(&site.running).node.as_ref().map(|node| node.stats().disk_full);
        lock(&run.oracle).reached.disks_full += u64::from(refused == Some(true));
        if refused.is_none() && run.is_up(node) {
            // What it could not do without went beyond its reserve: it has ended, as it must.
            run.power_off(node, None);
            run.power_on(node);
        }
    });
    true
}

pub(super) fn slow(run: &mut Run) -> bool {
    let node = run.any_node();
    let by = Duration::from_millis(run.random.random_range(5..120));
    run.sites[&node].disk.slow_down(by);
    lock(&run.oracle).reached.slow_disks += 1;
    let lasts_ms = run.random.random_range(100..2000);
    run.mend_after(lasts_ms, move |run| run.sites[&node].disk.slow_down(Duration::ZERO));
    true
}
