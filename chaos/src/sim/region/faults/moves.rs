//! Partitions are told to move, or to go back, whatever else happens. No disaster, but the way from one set of voters to another is made of
//! dangers.

use meridian_raft::NodeId;
use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use crate::sim::region::phases::Run;
use crate::sim::region::site::lock;

const REPLICAS: usize = 3;

pub(super) fn start(run: &mut Run) -> bool {
    let nodes: Vec<NodeId> = run.sites.keys().copied().collect();
    if nodes.len() <= REPLICAS {
        return false;
    }
    let target: Vec<NodeId> = nodes.choose_multiple(&mut run.random, REPLICAS).copied().collect();
    let back = run.random.random_bool(0.2);
    let Some(stream) = run.streams.values().choose(&mut run.random).cloned() else { return false };
    let mut placement = lock(&stream.placement);
    if !back {
        placement.start(target);
        return true;
    }
    let under_way = placement.target.is_some();
    if under_way {
        placement.target = Some(placement.replicas.clone());
        lock(&run.oracle).reached.moves_taken_back += 1;
    }
    under_way
}
