//! Consumer groups: which node coordinates which group, and the coordinator's state, kept in the internal topic `__consumer_offsets`.

pub mod group;
pub mod record;

use std::sync::Arc;

use meridian_raft::node::Node;

use crate::controller::Controller;

/// Handle to this node's share of the region's groups. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Groups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {}

impl Groups {
    /// Watches the partitions of `__consumer_offsets` that this node leads: loads their groups on gain, forgets them on loss.
    pub fn start(
        raft: Node,
        controller: Controller,
        random: Arc<dyn meridian_raft::env::Random>,
        clock: Arc<dyn meridian_raft::env::Clock>,
    ) -> Groups {
        let _ = (raft, controller, random, clock);
        Groups { inner: Arc::new(Inner {}) }
    }

    pub fn stop(&self) {
        let _ = &self.inner;
    }
}
