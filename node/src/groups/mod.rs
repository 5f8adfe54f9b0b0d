//! Consumer groups: which node coordinates which group, and the coordinator's state, kept in the internal topic `__consumer_offsets`.

use meridian_raft::env::Env;
use meridian_raft::node::Node;

use crate::controller::handle::Controller;

/// Handle to this node's share of the region's groups. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Groups {
    #[expect(dead_code, reason = "the coordinator is being written")]
    raft: Node,
}

impl Groups {
    /// Watches the partitions of `__consumer_offsets` that this node leads: loads their groups on gain, forgets them on loss.
    pub fn start(env: Env, raft: Node, controller: Controller) -> Groups {
        let _ = (env, controller);
        Groups { raft }
    }
}
