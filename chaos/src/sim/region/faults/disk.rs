//! Disks that fail, fill up, or are slow. A node that cannot write must not acknowledge.

use std::time::Duration;

use meridian_raft::env::Ills;
use rand::Rng;

use crate::sim::region::phases::Run;
use crate::sim::region::site::lock;

/// The limits below which a simulated node refuses data are far above this.
const FREE_BYTES_MAX: u64 = 200_000;

/// Syncs or writes fail, so the node has to end by itself. What a failed sync should have kept is gone, whatever the next one says.
pub(super) fn fail(run: &mut Run) -> bool {
    let node = run.any_node();
    if !run.is_up(node) || run.ailing.is_some() {
        return false;
    }
    let syncs = run.random.random_bool(0.6);
    let fails = move |ills: &mut Ills, fail: bool| if syncs { ills.fail_syncs = fail } else { ills.fail_writes = fail };
    run.ailing = Some(node);
    run.sites[&node].disk.ail(|ills| fails(ills, true));
    lock(&run.oracle).reached.failed_disks += 1;
    let lasts_ms = run.random.random_range(20..1500);
    run.mend_after(lasts_ms, move |run| {
        run.ailing = None;
        run.sites[&node].disk.ail(|ills| fails(ills, false));
        run.power_on(node);
    });
    true
}

/// Somebody else takes all but little of the disk, and gives it back later.
pub(super) fn fill(run: &mut Run) -> bool {
    let node = run.any_node();
    if !run.is_up(node) || run.ailing.is_some() {
        return false;
    }
    run.ailing = Some(node);
    let left = run.random.random_range(0..FREE_BYTES_MAX);
    run.sites[&node].disk.leave_free(Some(left));
    let lasts_ms = run.random.random_range(200..3000);
    run.mend_after(lasts_ms, move |run| {
        run.ailing = None;
        let site = &run.sites[&node];
        site.disk.leave_free(None);
        let refused = lock(&site.running).node.as_ref().map(|node| node.stats().disk_full);
        lock(&run.oracle).reached.disks_full += u64::from(refused == Some(true));
        // What it could not do without may have gone beyond its reserve: then it has ended, as it must.
        run.power_on(node);
    });
    true
}

pub(super) fn slow_down(run: &mut Run) -> bool {
    let node = run.any_node();
    let sync_delay = Duration::from_millis(run.random.random_range(5..120));
    run.sites[&node].disk.ail(|ills| ills.sync_delay = sync_delay);
    lock(&run.oracle).reached.slow_disks += 1;
    let lasts_ms = run.random.random_range(100..2000);
    run.mend_after(lasts_ms, move |run| run.sites[&node].disk.ail(|ills| ills.sync_delay = Duration::ZERO));
    true
}

/// A disk that answers nothing for longer than anybody waits, and then everything.
pub(super) fn hang(run: &mut Run) -> bool {
    let node = run.any_node();
    let sync_delay = Duration::from_millis(run.random.random_range(400..2500));
    run.sites[&node].disk.ail(|ills| ills.sync_delay = sync_delay);
    lock(&run.oracle).reached.disks_hung += 1;
    let lasts_ms = run.random.random_range(10..300);
    run.mend_after(lasts_ms, move |run| run.sites[&node].disk.ail(|ills| ills.sync_delay = Duration::ZERO));
    true
}
