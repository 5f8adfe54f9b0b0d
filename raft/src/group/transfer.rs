//! Leadership offered to another voter.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

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
        match self.look(|core, _| core.successor(avoid)) {
            Some(successor) => self.transfer_to(successor, deadline).await,
            None => false,
        }
    }

    /// Offers leadership to one voter; true once another node leads.
    pub async fn transfer_to(&self, successor: NodeId, deadline: Duration) -> bool {
        let mut leadership = self.leadership();
        if !leadership.borrow().is_leader {
            return true;
        }
        if !self.inner.turn(|core, view| core.offer(successor, view)) {
            return false;
        }
        let elsewhere = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != self.node_id()));
        tokio::time::timeout(deadline, elsewhere).await.is_ok_and(|seen| seen.is_ok())
    }
}
