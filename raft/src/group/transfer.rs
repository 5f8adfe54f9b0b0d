//! Leadership offered to another voter.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft::rt::watch::WatchReceiver as _;

use super::Group;
use crate::NodeId;

impl Group {
    /// Offers leadership to the voter that knows most, of those not to be avoided; true once another node leads.
    pub fn transfer<'a>(&'a self, deadline: Duration, avoid: &'a BTreeSet<NodeId>) -> BoxFuture<'a, bool> {
        self.try_transfer(deadline, avoid).boxed()
    }

    async fn try_transfer(&self, deadline: Duration, avoid: &BTreeSet<NodeId>) -> bool {
        if !self.leadership().borrow().is_leader {
            return true;
        }
        let successor = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: BTreeSet<NodeId> = metrics.membership_config.membership().voter_ids().collect();
            let matched = metrics.replication.iter().flatten();
            let matched = matched.filter(|(node, _)| **node != self.inner.node_id && voters.contains(node) && !avoid.contains(node));
            matched.max_by_key(|(_, id)| id.as_ref().map(|id| id.index)).map(|(node, _)| *node)
        };
        let Some(successor) = successor else { return false };
        self.transfer_to(successor, deadline).await
    }

    /// Offers leadership to one voter; true once another node leads.
    pub async fn transfer_to(&self, successor: NodeId, deadline: Duration) -> bool {
        let mut leadership = self.leadership();
        if !leadership.borrow().is_leader {
            return true;
        }
        self.wake().await;
        if self.inner.raft.trigger().transfer_leader(successor).await.is_err() {
            return false;
        }
        let elsewhere = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != self.inner.node_id));
        tokio::time::timeout(deadline, elsewhere).await.is_ok_and(|seen| seen.is_ok())
    }
}
