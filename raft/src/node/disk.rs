//! A node and the disk of its data folder: too little space, and a disk that fails.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Node, NodeWeak, lock};
use crate::NodeId;
use crate::group::Group;

/// How old a commit index on disk may be that is saved without a sync of its own, and what is known of the space.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// A node without room waits so long for another to take a group over, in each attempt.
const HANDOVER_DEADLINE: Duration = Duration::from_millis(500);
/// For all that a node whose disk has failed still does for its peers.
const FAREWELL_DEADLINE: Duration = Duration::from_millis(500);

impl Node {
    /// Why this node can write nothing any more, once that is so.
    pub(super) fn disk_failure(&self) -> Option<String> {
        self.inner.writer.failure().borrow().as_ref().map(|error| format!("the disk refuses writes: {error}"))
    }

    /// Resolves when a write or a sync has failed: final for this data folder and this process. The node acknowledges nothing from then on, and
    /// has asked its peers to lead in its place.
    pub async fn disk_failed(&self) -> String {
        let mut failure = self.inner.writer.failure();
        if failure.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        let _ = tokio::time::timeout(FAREWELL_DEADLINE, self.hand_over()).await;
        self.disk_failure().unwrap_or_default()
    }

    /// Ends every group and connection without a word to the disk. For a node whose disk has failed.
    pub async fn abandon(&self) {
        self.cancel_repairs();
        let stop = async { futures_util::future::join_all(self.groups().iter().map(Group::stop)).await };
        let _ = tokio::time::timeout(FAREWELL_DEADLINE, stop).await;
        lock(&self.inner.tasks).drain(..).for_each(|task| task.abort());
        self.inner.peers.stop();
    }

    pub(crate) fn heard_of_space(&self, peer: NodeId, refuses_data: bool) {
        let mut full = lock(&self.inner.full_peers);
        if refuses_data {
            full.insert(peer);
        } else {
            full.remove(&peer);
        }
    }

    pub(super) fn full_peers(&self) -> BTreeSet<NodeId> {
        lock(&self.inner.full_peers).clone()
    }

    /// Peers that have room take over what this node leads and cannot serve; the controller's group, which needs little, stays.
    async fn make_way(&self) {
        let avoid = self.full_peers();
        let led: Vec<Group> =
            self.partitions().iter().filter(|partition| partition.leadership().is_leader).map(|one| one.group().clone()).collect();
        futures_util::future::join_all(led.iter().map(|group| group.transfer(HANDOVER_DEADLINE, &avoid))).await;
    }
}

/// What the data folder needs from time to time.
pub(super) async fn tend(node: NodeWeak) {
    loop {
        tokio::time::sleep(TEND_EVERY).await;
        let Some(node) = node.upgrade() else { return };
        node.inner.writer.save_lazy();
        node.inner.memory.trim();
        node.inner.space.look();
        if node.inner.space.is_full() {
            node.make_way().await;
        }
    }
}
