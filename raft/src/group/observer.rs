//! Turns openraft's view of a group into [`Leadership`], and has snapshots made.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use openraft::ServerState;
use openraft::rt::watch::WatchReceiver as _;
use tokio::sync::{Notify, watch};

use super::machine::Applied;
use super::{LeadershipWatch, Raft, Types};
use crate::partition::Leadership;
use crate::{GroupId, NodeId};

/// Has a snapshot made once segments lie before the log's start. Should it be cut off in between, the node's next sweep asks again.
async fn purge(raft: &Raft, purgeable: &Notify) -> Result<(), openraft::errors::Fatal<Types>> {
    purgeable.notified().await;
    raft.trigger().snapshot().await
}

/// Members of a group that do not vote yet: they may be sent the log more slowly.
#[derive(Debug, Default)]
pub(crate) struct Learners(std::sync::RwLock<BTreeSet<NodeId>>);

impl Learners {
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }
    fn set(&self, learners: BTreeSet<NodeId>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = learners;
    }
}

/// Turns openraft's view into [`Leadership`].
pub struct Observer {
    pub id: GroupId,
    pub raft: Raft,
    pub node_id: NodeId,
    pub applied: watch::Receiver<Applied>,
    pub learners: Arc<Learners>,
    pub mirror: bool,
    pub watch: LeadershipWatch,
}

impl Observer {
    pub async fn run(mut self, leadership: Arc<watch::Sender<Leadership>>, purgeable: Arc<Notify>) {
        let mut server = self.raft.server_metrics();
        loop {
            // What is waited for below is a change from what was judged by here: it may be the last one.
            let seen = *self.applied.borrow_and_update();
            let now = {
                let server = server.borrow_watched();
                self.learners.set(server.membership_config.membership().learner_ids().collect());
                let term = server.vote.leader_id().term;
                let epoch = i32::try_from(term).unwrap_or(i32::MAX);
                Leadership {
                    leader: server.current_leader,
                    epoch: if self.mirror { epoch.saturating_add(seen.batch_epoch) } else { epoch },
                    is_leader: server.state == ServerState::Leader && server.current_leader == Some(self.node_id) && seen.term == term,
                }
            };
            if leadership.send_if_modified(|held| std::mem::replace(held, now) != now) {
                (self.watch)(self.id, now);
            }
            let mut applied = self.applied.clone();
            let applied_matters = applied.wait_for(|now| now.term != seen.term || (self.mirror && now.batch_epoch != seen.batch_epoch));
            tokio::select! {
                biased;
                changed = server.changed() => if changed.is_err() { break },
                changed = applied_matters => if changed.is_err() { break },
                // openraft purges behind every snapshot; a leader only what no live follower is being sent.
                triggered = purge(&self.raft, &purgeable) => if triggered.is_err() { break },
            }
        }
        // The core has ended: whoever sleeps under its lead has to hear of it.
        (self.watch)(self.id, Leadership { leader: None, is_leader: false, ..*leadership.borrow() });
    }
}
