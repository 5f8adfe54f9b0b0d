//! Who leads a group, for all this node knows, and how a leadership is handed over.

use super::{HANDOVER_DEADLINE, Node, lock};
use crate::partition::Leadership;
use crate::peer::frame::{Kind, Request};
use crate::{GroupId, NodeId};

impl Node {
    /// Who leads a group, also where this node holds no replica of it (learned from the peers).
    pub fn leader_of(&self, id: GroupId) -> Option<(NodeId, i32)> {
        let here = self.open_group(id).map(|group| *group.leadership().borrow());
        let heard = lock(&self.inner.heard).get(&id).copied();
        match here {
            Some(Leadership { leader: Some(leader), epoch, .. }) => Some((leader, epoch)),
            Some(_) => None,
            None => heard,
        }
    }

    /// True once whoever leads the group can commit, by the leader's own word: what is appended there now is not refused for want of a leader.
    pub fn is_led(&self, id: GroupId) -> bool {
        let here = self.open_group(id).map(|group| *group.leadership().borrow());
        let heard = lock(&self.inner.heard).get(&id).map(|(node, _)| *node);
        match here {
            Some(here) if here.leader == Some(self.inner.config.node_id) => here.is_leader,
            Some(here) => here.leader.is_some() && here.leader == heard,
            None => heard.is_some(),
        }
    }

    /// Has whoever leads a group hand its leadership to a node; true once that is under way or done there.
    pub async fn ask_to_hand_over(&self, id: GroupId, to: NodeId) -> bool {
        match self.leader_of(id) {
            None => false,
            Some((leader, _)) if leader == to => true,
            Some((leader, _)) if leader == self.inner.config.node_id => match self.partition(id) {
                Some(partition) => partition.transfer_leadership_to(to).await,
                None => false,
            },
            Some((leader, _)) => {
                let request = Request { kind: Kind::HandOver, group: id, body: vec![to.to_be_bytes().to_vec().into()] };
                self.inner.peers.call(leader, request, HANDOVER_DEADLINE * 2).await.is_ok()
            }
        }
    }

    /// Hands every leadership over, as far as others can take them, and goes on as a follower.
    pub async fn hand_over(&self) {
        if !self.inner.peers.is_empty() {
            let avoid = self.full_peers();
            futures_util::future::join_all(self.groups().iter().map(|group| group.transfer(HANDOVER_DEADLINE, &avoid))).await;
        }
    }
}
