//! Is the node alive, and may clients be sent to it?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meridian_raft::GroupId;

use super::view::View;

/// What only the one who starts and stops the node knows. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Phase {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kafka_accepts: AtomicBool,
    stopping: AtomicBool,
}

impl Phase {
    /// The Kafka listener accepts from now on.
    pub fn kafka_accepts(&self) {
        self.inner.kafka_accepts.store(true, Ordering::Relaxed);
    }
    /// The node is on its way out: no client shall be sent to it any more.
    pub fn stopping(&self) {
        self.inner.stopping.store(true, Ordering::Relaxed);
    }
    /// Clients are let in.
    pub fn is_serving(&self) -> bool {
        self.inner.kafka_accepts.load(Ordering::Relaxed) && !self.is_stopping()
    }
    pub fn is_stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::Relaxed)
    }
}

/// Why the process should be replaced, if it should. A node that starts or stops is alive.
pub fn failure(phase: &Phase, view: Option<&View>) -> Option<String> {
    // Groups that were told to stop say that they cannot go on.
    if phase.is_stopping() { None } else { view?.raft.failure() }
}

/// What keeps clients from being sent here, in words; empty on a ready node.
pub fn missing(phase: &Phase, view: Option<&View>) -> Vec<String> {
    if phase.is_stopping() {
        return vec!["the node is stopping".to_owned()];
    }
    let Some(view) = view else { return vec!["the node is starting".to_owned()] };
    let mut missing = Vec::new();
    if let Some(failure) = view.raft.failure() {
        missing.push(format!("storage or Raft has failed: {failure}"));
    }
    let image = view.controller.image();
    if !image.nodes.contains_key(&view.node_id) {
        missing.push("this node is not registered in the region's metadata yet".to_owned());
    }
    if view.controller.leader().is_none() {
        missing.push("the region's controller has no leader".to_owned());
    }
    if !phase.inner.kafka_accepts.load(Ordering::Relaxed) {
        missing.push("the Kafka listener does not accept yet".to_owned());
    }
    let closed = closed_replicas(view);
    if closed > 0 {
        missing.push(format!("{closed} replicas that belong here are not open yet"));
    }
    missing
}

/// What a node that serves cannot do for now, in words.
pub fn degraded(view: Option<&View>) -> Vec<String> {
    let full = view.is_some_and(|view| view.raft.stats().disk_full);
    full.then(|| "the disk is nearly full: new data is refused until there is space".to_owned()).into_iter().collect()
}

/// Replicas that the metadata place on this node and that are not open. Damaged ones are not counted: what is sound here serves, and the
/// others of their groups serve what is not.
fn closed_replicas(view: &View) -> usize {
    let image = view.controller.image();
    let placed =
        image.topics.values().flat_map(|topic| (0i32..).zip(&topic.partitions).map(move |(partition, at)| (topic.id, partition, at)));
    placed
        .filter(|(_, _, at)| at.contains(&view.node_id))
        .map(|(topic, partition, _)| GroupId { topic, partition })
        .filter(|id| view.raft.partition(*id).is_none() && !view.raft.is_being_repaired(*id))
        .count()
}
