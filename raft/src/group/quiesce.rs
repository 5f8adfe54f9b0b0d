//! Falling asleep and waking: what openraft is told, and when.
//!
//! A group at rest costs ticks and heartbeats for nothing. Its leader, once all followers hold its log and have applied it, asks their nodes to
//! let them sleep; when every one that lives agrees, it sleeps too. It wakes, and by its first heartbeat they do, when anything is
//! proposed or asked of it, or when a follower's node comes back. Followers wake when their leader's node is gone.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::rt::watch::WatchReceiver as _;
use openraft::type_config::alias::VoteOf;

use super::rest::{Bonds, Rest};
use super::storage::log_id;
use super::{Group, Types};
use crate::NodeId;
use crate::node::Timing;

/// How long a leader that wakes waits for its followers to confirm it before it takes proposals.
const CONFIRM_DEADLINE: Duration = Duration::from_millis(500);

/// A leader's group that could sleep: nothing is under way in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drowsy {
    pub term: u64,
    pub index: u64,
    pub voters: usize,
    /// Members beside the leader, all of which hold its whole log as far as it knows.
    pub followers: Vec<NodeId>,
}

impl Group {
    pub fn rest(&self) -> &Arc<Rest> {
        &self.inner.rest
    }

    /// The vote as openraft last told.
    pub fn vote(&self) -> VoteOf<Types> {
        self.inner.raft.server_metrics().borrow_watched().vote
    }

    /// What has to stay true for this group to sleep, where this node leads it; followers for which `lost` holds need not have its log.
    pub fn drowsy(&self, lost: impl Fn(NodeId) -> bool) -> Option<Drowsy> {
        if !self.inner.leadership.borrow().is_leader {
            return None;
        }
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = self.inner.log.last()?;
        let membership = metrics.membership_config.membership();
        let applied = *self.inner.applied.borrow();
        let term = metrics.vote.leader_id().term;
        let uniform = membership.get_joint_config().len() == 1 && metrics.membership_config == metrics.committed_membership_config;
        if metrics.state != ServerState::Leader || !uniform || applied.index != last.index || self.inner.rest.was_released(term) {
            return None;
        }
        let matched = metrics.replication.as_ref()?;
        let holds =
            |node: &NodeId| lost(*node) || matched.get(node).is_some_and(|held| held.as_ref().is_some_and(|held| held.index == last.index));
        let followers: Vec<NodeId> = membership.nodes().map(|(node, _)| *node).filter(|node| *node != self.inner.node_id).collect();
        let all_hold = followers.iter().all(holds);
        all_hold.then(|| Drowsy { term, index: last.index, voters: membership.voter_ids().count(), followers })
    }

    /// Stops heartbeats while followers are asked to sleep, so that none wakes them again; or goes on with them.
    pub fn hush(&self, hushed: bool) {
        self.inner.raft.runtime_config().heartbeat(!hushed);
    }

    /// Sleeps as the leader, unless something has happened since it was found `drowsy`.
    pub async fn sleep_as_leader(&self, drowsy: &Drowsy, bonds: Bonds) {
        self.inner.rest.bind(bonds);
        self.inner.rest.fall_asleep();
        self.set_running(false);
        // Whatever is appended from here on finds the group asleep and stirs it; what was before is seen here.
        let now = self.inner.log.last().map(|last| last.index);
        let vote = self.vote();
        if now != Some(drowsy.index) || vote.leader_id().term != drowsy.term || self.inner.rest.has_voted_after(drowsy.term) {
            self.wake().await;
        }
    }

    /// Sleeps as a follower of `leader`, if nothing here speaks against it. The promise to the leader's node holds from here on.
    pub async fn sleep_as_follower(&self, leader: NodeId, term: u64, index: u64) -> bool {
        let held = |group: &Group| {
            let vote = group.vote();
            let follows = vote.is_committed() && vote.leader_id().voted_for == leader && vote.leader_id().term == term;
            let applied = group.inner.applied.borrow().index;
            follows && applied == index && group.inner.log.last().is_some_and(|last| last.index == index)
        };
        if !held(self) || self.failure().is_some() || self.inner.rest.was_released(term) {
            return false;
        }
        // From here on no vote is handed to the core; what it was handed before is behind it when it answers.
        self.inner.rest.sleeps_under(term);
        self.inner.rest.fall_asleep();
        self.set_running(false);
        let state = self.inner.raft.with_raft_state(|state| *state.vote_ref()).await;
        let still = state.is_ok_and(|vote| vote.is_committed() && vote.leader_id().voted_for == leader && vote.leader_id().term == term);
        if !still || !held(self) || self.inner.rest.has_voted_after(term) {
            self.wake().await;
            return false;
        }
        true
    }

    fn set_running(&self, running: bool) {
        let config = self.inner.raft.runtime_config();
        config.elect(running && self.inner.rest.bound_by().is_none());
        config.heartbeat(running);
        config.tick(running);
    }

    /// Wakes, if it sleeps; a leader tells its followers at once.
    pub async fn wake(&self) {
        if self.inner.rest.wake() {
            self.set_running(true);
            if self.inner.leadership.borrow().is_leader {
                // Only a stopped group refuses.
                let _ = self.inner.raft.trigger().heartbeat().await;
            }
        }
    }

    /// Has openraft's own clock run, whatever stopped it.
    pub fn run_clock(&self) {
        if !self.inner.rest.is_asleep() {
            self.set_running(true);
        }
    }

    pub fn voters(&self) -> Vec<NodeId> {
        self.inner.raft.server_metrics().borrow_watched().membership_config.membership().voter_ids().collect()
    }
    pub fn has_member(&self, node: NodeId) -> bool {
        self.inner.raft.server_metrics().borrow_watched().membership_config.membership().get_node(&node).is_some()
    }

    /// The last term in which this node may have led and leads no more, or offered its lead.
    pub fn led_no_more_up_to(&self) -> u64 {
        let vote = self.vote();
        let term = vote.leader_id().term;
        let leads = vote.leader_id().voted_for == self.inner.node_id && self.failure().is_none() && !self.inner.rest.was_released(term);
        if leads { term.saturating_sub(1) } else { term }
    }

    /// The term in which this node leads and has offered its lead: until another does it takes no proposal and sends no heartbeat, so followers
    /// that sleep, because neither the offer nor the heartbeat before it has reached them, would sleep on.
    pub fn offered_in(&self) -> Option<u64> {
        let term = self.vote().leader_id().term;
        (self.inner.leadership.borrow().is_leader && self.inner.rest.was_released(term)).then_some(term)
    }

    /// Silences the heartbeats of a leader that has long not heard a majority, every other while, so that followers who would not vote for
    /// another while they hear it get to elect one.
    pub fn mind_lost_quorum(&self, awake_for: Duration, timing: Timing) {
        if !self.inner.leadership.borrow().is_leader || self.voters() == [self.inner.node_id] {
            return;
        }
        let (lease, period) = (timing.election_max_ms, timing.election_max_ms * 2 + timing.heartbeat_ms);
        let confirmed = self.confirmed(self.vote().leader_id().term).map_or(awake_for, |at| at.elapsed().min(awake_for));
        let lost_ms = u64::try_from(confirmed.as_millis()).unwrap_or(u64::MAX).saturating_sub(lease);
        self.hush(lost_ms > 0 && (lost_ms / period).is_multiple_of(2));
    }

    /// Before a proposal: a leader that slept has to hear its followers first, or openraft takes its lease for lost.
    pub(super) async fn confirm_if_slept(&self) {
        if !self.inner.rest.is_unconfirmed() {
            return;
        }
        self.inner.rest.confirmed();
        self.wake().await;
        let confirmed = self.inner.raft.ensure_linearizable(openraft::ReadPolicy::ReadIndex);
        if let Ok(Err(error)) = tokio::time::timeout(CONFIRM_DEADLINE, confirmed).await {
            tracing::debug!(group = ?self.inner.id, %error, "not confirmed as the leader after sleep");
        }
    }

    /// The leader of `vote` has itself sent for a successor: what was promised to it is void.
    pub async fn sent_for_another(&self, vote: &VoteOf<Types>) {
        if *vote == self.vote() {
            self.inner.rest.released(vote.leader_id().term);
        }
        self.wake().await;
    }

    /// Drops the lease that openraft granted to a leader whose node is gone.
    pub async fn disown(&self, vote: VoteOf<Types>) {
        let leader = vote.leader_id().voted_for;
        // Named as its own successor, nobody stands for election by it.
        let request = openraft::raft::TransferLeaderRequest::new(vote, leader, Some(log_id(0, 0)));
        let _ = self.inner.raft.handle_transfer_leader(request).await;
    }
}
