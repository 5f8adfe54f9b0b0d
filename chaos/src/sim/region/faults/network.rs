//! Connections break.

use meridian_raft::NodeId;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::sim::region::phases::Run;
use crate::sim::region::site::{host, lock};

/// Cuts a node from one other, or from all.
pub(super) fn cut(run: &mut Run) -> bool {
    let one = run.any_node();
    let mut others: Vec<NodeId> = run.sites.keys().copied().filter(|other| *other != one).collect();
    others.shuffle(&mut run.random);
    if run.random.random_bool(0.5) {
        others.truncate(1);
    }
    lock(&run.oracle).reached.network_cuts += 1;
    for other in &others {
        run.sim.partition(host(one), host(*other));
    }
    let cut_ms = run.random.random_range(50..2000);
    run.mend_after(cut_ms, move |run| others.iter().for_each(|other| run.sim.repair(host(one), host(*other))));
    true
}
