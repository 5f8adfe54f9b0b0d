//! A leader that leads no more, though its node lives, says so: its followers would wait for it as long as its node is heard.

use std::time::Duration;

use super::Node;
use crate::group::votes::stored_vote;
use crate::peer::frame::{self, Kind, Position, Request};
use crate::{GroupId, NodeId};

/// Groups in one frame.
const GROUPS_MAX: usize = 1024;
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// Attempts to tell that a group is led no more, and the time between them: longer than a neighbour takes a silent node for alive.
const RELEASES_MAX: u32 = 20;
const RELEASE_AGAIN: Duration = Duration::from_millis(150);

impl Node {
    /// A follower has refused a candidate for the sake of a leader here. One that leads says so to all its followers, one that does not says that.
    pub(crate) fn rouse(&self, from: NodeId, positions: Vec<Position>) {
        let mut led_no_more = Vec::new();
        for (id, ..) in positions.into_iter().take(GROUPS_MAX) {
            match self.open_group(id) {
                Some(group) if group.leadership().borrow().leader == Some(self.inner.config.node_id) => {
                    group.members().all().into_iter().for_each(|member| group.greet(member));
                }
                Some(group) => led_no_more.push((id, group.led_no_more_up_to(), 0)),
                // Closed, it leads no term that it has voted in.
                None => led_no_more.extend(stored_vote(&self.inner.writer, id).ok().map(|vote| (id, vote.term, 0))),
            }
        }
        self.release_to(from, &led_no_more);
    }

    /// The node that led these groups says that it does no more.
    pub(crate) fn release(&self, from: NodeId, positions: Vec<Position>) {
        for (id, term, _) in positions.into_iter().take(GROUPS_MAX) {
            if let Some(group) = self.group(id) {
                let patience = self.patience(&group, from);
                group.released_by(from, term, patience);
            }
        }
    }

    /// Tells every neighbour of groups that this node leads no more, and up to which term.
    pub(super) fn release_all(&self, positions: &[Position]) {
        for peer in self.inner.peers.known() {
            positions.chunks(GROUPS_MAX).for_each(|chunk| self.release_to(peer, chunk));
        }
    }

    fn release_to(&self, peer: NodeId, positions: &[Position]) {
        if positions.is_empty() {
            return;
        }
        let (peers, body) = (self.inner.peers.clone(), frame::encode_positions(self.inner.config.node_id, positions));
        self.inner.runtime.spawn(async move {
            for _ in 0..RELEASES_MAX {
                let request = Request { kind: Kind::Release, group: GroupId::CONTROLLER, body: vec![body.clone()] };
                if peers.call(peer, request, ANSWER_DEADLINE).await.is_ok() {
                    return;
                }
                tokio::time::sleep(RELEASE_AGAIN).await;
            }
        });
    }
}
