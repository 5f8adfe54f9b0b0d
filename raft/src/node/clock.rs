//! What a node calls its groups for: their own moments, neighbours that are back, and majorities that are lost.

use std::collections::BTreeMap;

use super::{Node, NodeWeak};
use crate::NodeId;
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
            self.groups().iter().filter(|group| group.leadership().borrow().leader == Some(self.inner.config.node_id)).for_each(|group| {
                group.mind_quorum();
            });
        }
    }

    /// What this node leads is sent to a neighbour that can be reached again, or has promised anew.
    pub(super) fn greet(&self, peer: NodeId) {
        for group in self.groups().iter().filter(|group| group.leadership().borrow().leader == Some(self.inner.config.node_id)) {
            group.greet(peer);
        }
    }
}
