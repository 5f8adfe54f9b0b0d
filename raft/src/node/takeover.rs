//! When a neighbour is gone, the groups that it led are led by others at once.
//!
//! Every survivor judges for itself that the neighbour is gone, and so grants its vote to others again; nobody takes another's word for it. Of
//! a group's survivors one stands first, the next only if that did not do, so that they do not split the votes. Pre-votes precede:
//! where the neighbour is not gone for a majority, nothing changes.

use std::time::Duration;

use super::{Node, NodeWeak};
use crate::NodeId;
use crate::group::Group;
use crate::peer::liveness::Liveness;

/// How long the first in line tries alone before the next does.
const TURN: Duration = Duration::from_millis(150);

/// Watches the neighbours for ever.
pub(super) async fn watch(node: NodeWeak, liveness: Liveness) {
    loop {
        liveness.watch().await;
        for lost in liveness.newly_gone() {
            let Some(node) = node.upgrade() else { return };
            node.take_over(lost);
        }
    }
}

impl Node {
    pub(super) fn take_over(&self, lost: NodeId) {
        let orphaned = self.groups().iter().filter(|group| group.orphaned_by(lost, self.patience(group, lost))).count();
        if orphaned > 0 {
            tracing::info!(node = lost, groups = orphaned, "a node is gone; what it led is led by others");
        }
    }

    /// How long this node waits before it stands when `lost` leads a group no more: a turn for each live voter before it in line. Another one is
    /// first in each group.
    pub(super) fn patience(&self, group: &Group, lost: NodeId) -> Duration {
        let liveness = &self.inner.liveness;
        let mut line: Vec<NodeId> = group.members().voters().into_iter().filter(|node| *node != lost && !liveness.is_gone(*node)).collect();
        if line.is_empty() {
            return Duration::ZERO;
        }
        let id = group.id();
        let first = (id.topic.as_u128() as usize).wrapping_add(id.partition.unsigned_abs() as usize) % line.len();
        line.rotate_left(first);
        let place = line.iter().position(|node| *node == self.inner.config.node_id);
        TURN * place.and_then(|place| u32::try_from(place).ok()).unwrap_or(0)
    }
}
