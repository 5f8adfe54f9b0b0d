//! When a neighbour is gone, the groups that it led are led by others without waiting for each group to miss its heartbeats.
//!
//! Every survivor judges for itself that the neighbour is gone, and so grants its vote to others again; nobody takes another's word for it. Of
//! a group's survivors one stands first, the next only if that did not do, so that they do not split the votes. Pre-votes precede:
//! where the neighbour is not gone for a majority, nothing changes. openraft's own clocks run on behind all this.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use openraft::ServerState;
use openraft::rt::watch::WatchReceiver as _;
use openraft::type_config::alias::VoteOf;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Node, NodeWeak};
use crate::NodeId;
use crate::group::{Group, Types};
use crate::peer::liveness::Liveness;

/// Elections of groups of one lost node at once.
const STANDING_MAX: usize = 32;
/// Between two attempts: the others may see a moment later that the node is gone.
const AGAIN: Duration = Duration::from_millis(25);
/// How long the first in line tries alone before the next does.
const TURN: Duration = Duration::from_millis(150);

/// Watches the neighbours for ever.
pub(super) async fn watch(node: NodeWeak, liveness: Liveness) {
    let mut running = JoinSet::new();
    loop {
        liveness.watch().await;
        while running.try_join_next().is_some() {}
        for lost in liveness.newly_gone() {
            let Some(node) = node.upgrade() else { return };
            running.spawn(take_over(node, lost));
        }
    }
}

/// One group that the lost node led, and this node's place in line.
struct Orphan {
    group: Group,
    vote: VoteOf<Types>,
    place: u32,
    was_awake: bool,
}

async fn take_over(node: Node, lost: NodeId) {
    let mut orphans = Vec::new();
    for group in node.groups() {
        let vote = group.vote();
        if vote.is_committed() && vote.leader_id().voted_for == lost {
            let place = node.place_in_line(&group, lost);
            let was_awake = !group.rest().is_asleep();
            group.rest().wake();
            group.disown(vote).await;
            orphans.push(Orphan { group, vote, place, was_awake });
        }
    }
    if orphans.is_empty() {
        return;
    }
    tracing::info!(node = lost, groups = orphans.len(), "a node is gone; what it led is led by others");
    // The busy ones first: somebody waits for them.
    orphans.sort_by_key(|orphan| (orphan.place, !orphan.was_awake, orphan.group.id()));
    let started = Instant::now();
    stream::iter(orphans)
        .for_each_concurrent(STANDING_MAX, |orphan| async move {
            tokio::time::sleep_until(started + TURN * orphan.place).await;
            stand(&orphan, started + TURN * (orphan.place + 1)).await;
            // From here on by its own clock.
            orphan.group.run_clock();
        })
        .await;
}

/// Stands for election until somebody does lead, the lost leader speaks again, or the next may try.
async fn stand(orphan: &Orphan, until: Instant) {
    let Orphan { group, vote, .. } = orphan;
    let mut first = true;
    while first || Instant::now() < until {
        first = false;
        let (state, now) = {
            let server = group.raft().server_metrics();
            let server = server.borrow_watched();
            (server.state, server.vote)
        };
        if group.rest().bound_by().is_some() || now.is_committed() && now != *vote || group.rest().promised_until(vote).is_some() {
            return;
        }
        // A candidate's votes are under way already: asking anew would only make them void.
        if state != ServerState::Candidate && now == *vote && group.raft().trigger().elect(true).await.is_err() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Node {
    /// How many live voters stand before this node when `lost` leads a group no more. Another one is first in each group.
    fn place_in_line(&self, group: &Group, lost: NodeId) -> u32 {
        let liveness = &self.inner.liveness;
        let mut line: Vec<NodeId> = group.voters().into_iter().filter(|node| *node != lost && !liveness.is_gone(*node)).collect();
        if line.is_empty() {
            return 0;
        }
        let id = group.id();
        let first = (id.topic.as_u128() as usize).wrapping_add(id.partition.unsigned_abs() as usize) % line.len();
        line.rotate_left(first);
        line.iter().position(|node| *node == self.inner.config.node_id).and_then(|place| u32::try_from(place).ok()).unwrap_or(0)
    }
}
