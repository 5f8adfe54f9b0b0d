//! Where a partition is and where it is to be: what a region's metadata say to every node alike, and what only its leader changes.

use std::collections::BTreeSet;

use meridian_raft::NodeId;

#[derive(Debug, Clone, Default)]
pub(in crate::sim) struct Placement {
    pub replicas: Vec<NodeId>,
    /// It moves there, or back.
    pub target: Option<Vec<NodeId>>,
    /// Nodes that have, or may have, a replica.
    hosts: BTreeSet<NodeId>,
    /// A node that has not heard of the last move yet: it holds on to its replica.
    pub unaware: Option<NodeId>,
    /// It has moved: nobody forms its group any more.
    moved: bool,
}

impl Placement {
    pub fn new(replicas: Vec<NodeId>) -> Placement {
        Placement { hosts: replicas.iter().copied().collect(), replicas, ..Placement::default() }
    }

    pub fn start(&mut self, target: Vec<NodeId>) {
        self.hosts.extend(&target);
        self.target = Some(target);
    }

    pub fn finish(&mut self, target: &[NodeId]) -> bool {
        if self.target.as_deref() != Some(target) {
            return false;
        }
        self.target = None;
        self.replicas = target.to_vec();
        self.hosts = target.iter().copied().collect();
        self.moved = true;
        true
    }

    /// Whether the node is to have a replica, for all that it knows.
    pub fn hosts(&self, node: NodeId) -> bool {
        self.hosts.contains(&node) || self.unaware == Some(node)
    }

    /// Those that form the group, told to one node: none where it only joins.
    pub fn founders(&self, node: NodeId) -> Vec<NodeId> {
        if self.moved || !self.replicas.contains(&node) { Vec::new() } else { self.replicas.clone() }
    }
}
