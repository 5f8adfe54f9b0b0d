//! What a node calls its groups for: their own moments, neighbours that are back, and majorities that are lost.

use std::collections::BTreeMap;

use super::{Node, NodeWeak};
use crate::NodeId;
use crate::group::Group;
use crate::group::clock::Clock;
use crate::peer::liveness::{Bond, Liveness};

/// Calls groups whose moment has come, for ever.
pub(super) async fn call(node: NodeWeak, clock: Clock) {
    loop {
        let due = clock.due().await;
        let Some(node) = node.upgrade() else { return };
        for id in due {
            match node.open_group(id) {
                Some(group) => group.tick(),
                // Closed, or still being opened.
                None => clock.arm(id, None),
            }
        }
        drop(node);
        tokio::task::yield_now().await;
    }
}

/// Looks at the neighbours once a pulse, for ever.
pub(super) async fn watch_neighbours(node: NodeWeak, liveness: Liveness) {
    let mut bonds = BTreeMap::new();
    loop {
        tokio::time::sleep(liveness.spans().pulse).await;
        let Some(node) = node.upgrade() else { return };
        node.greet_returned(&mut bonds);
    }
}

impl Node {
    /// A neighbour that makes another promise than before has its followers say so; where one makes none, leaders may have lost their majority.
    fn greet_returned(&self, seen: &mut BTreeMap<NodeId, Bond>) {
        let mut lost = false;
        for peer in self.inner.peers.known() {
            let now = self.inner.liveness.bond(peer);
            lost |= now.is_none();
            let before = match now {
                Some(bond) => seen.insert(peer, bond),
                None => seen.remove(&peer),
            };
            if now.is_some() && before != now {
                self.greet(peer);
            }
        }
        if lost {
            self.led().iter().for_each(Group::mind_quorum);
        }
    }

    /// A neighbour that has promised anew is to say so for what this node leads.
    fn greet(&self, peer: NodeId) {
        self.led().iter().for_each(|group| group.greet(peer));
    }

    /// There is another connection to a neighbour.
    pub(super) fn reconnected(&self, peer: NodeId) {
        self.led().iter().for_each(|group| group.reconnected(peer));
    }

    /// Groups that this node leads, as it believes.
    fn led(&self) -> Vec<Group> {
        let mut groups = self.groups();
        groups.retain(|group| group.leadership().borrow().leader == Some(self.inner.config.node_id));
        groups
    }
}
