//! Who holds a group, and the way from one set of voters to another: learners first, then joint consensus. Every step looks at what the group
//! has committed so far, so that whoever leads next goes on where the last leader stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::rt::watch::WatchReceiver as _;
use openraft::type_config::alias::LogIdOf;
use openraft::{ChangeMembers, EmptyNode};

use super::{Group, Types};
use crate::NodeId;

/// A learner at most this many entries, and about this many bytes, behind may vote: what is in flight to any follower under load. The first
/// commits with its vote shall not wait for a backlog.
const CAUGHT_UP_ENTRIES_MAX: u64 = 512;
const CAUGHT_UP_BYTES_MAX: u64 = 4 << 20;
/// Between two looks at a learner's progress, or at a change that somebody else has begun.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Who holds a group, as one replica knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Everybody who votes; while a change is under way, in the old set or the new one.
    pub voters: BTreeSet<NodeId>,
    /// Those who are sent the log and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// Two sets of voters must agree: a change is under way.
    pub joint: bool,
    /// A majority has it on disk. On a follower, as far as it has heard.
    pub committed: bool,
}

impl Membership {
    /// The group is held by these voters and learners, and nothing is under way.
    pub fn is_settled_on(&self, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) -> bool {
        self.committed && !self.joint && self.voters == *voters && self.learners == *learners
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReconfigureError {
    #[error("this node does not lead the group")]
    NotLeader,
    #[error("a group needs a voter")]
    NoVoter,
    #[error("{0}")]
    Refused(String),
}

/// How far behind the leader a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// The first entry that the member has not on disk, as far as the leader has heard.
    pub next: u64,
    pub entries: u64,
    /// As many entries as lack, of the log's average size.
    pub bytes: u64,
}

impl Group {
    pub fn membership(&self) -> Membership {
        let server = self.raft().server_metrics();
        let server = server.borrow_watched();
        let effective = server.membership_config.membership();
        Membership {
            voters: effective.voter_ids().collect(),
            learners: effective.learner_ids().collect(),
            joint: effective.get_joint_config().len() > 1,
            committed: server.membership_config.log_id() == server.committed_membership_config.log_id(),
        }
    }

    /// On the leader: what each other member lacks.
    pub fn behind(&self) -> BTreeMap<NodeId, Behind> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let end = metrics.last_log_index.map_or(0, |index| index + 1);
        let size = self.log().size_bytes();
        let behind = |matched: &Option<LogIdOf<Types>>| {
            let next = matched.as_ref().map_or(0, |id| id.index + 1);
            let entries = end.saturating_sub(next);
            let bytes = u128::from(size) * u128::from(entries) / u128::from(end.max(1));
            Behind { next, entries, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) }
        };
        metrics.replication.iter().flatten().map(|(node, matched)| (*node, behind(matched))).collect()
    }

    /// Leads the group to these voters and learners and returns once a majority of the new voters has committed that. New voters are learners
    /// until they have caught up. Dropping the future stops between two steps; calling again, here or on another leader, goes on, or back.
    pub async fn reconfigure(&self, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) -> Result<(), ReconfigureError> {
        if voters.is_empty() {
            return Err(ReconfigureError::NoVoter);
        }
        loop {
            if !self.leadership().borrow().is_leader {
                return Err(ReconfigureError::NotLeader);
            }
            let now = self.membership();
            if now.is_settled_on(voters, learners) {
                return Ok(());
            }
            if !now.voters.contains(&self.node_id()) && !now.learners.contains(&self.node_id()) {
                // Voted out, it leads on for a moment. openraft takes a further change from it for a bug, and ends: its successor goes on.
                return Err(ReconfigureError::NotLeader);
            }
            match next_step(&now, voters, learners) {
                Some(change) if !self.must_wait(&change, &now) => self.change(change).await?,
                _ => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Those who are to vote must have caught up.
    fn must_wait(&self, change: &ChangeMembers<NodeId, EmptyNode>, now: &Membership) -> bool {
        let ChangeMembers::ReplaceAllVoters(voters) = change else { return false };
        let behind = self.behind();
        // Of a short log even a dead node lacks little: it must have taken the entry that made it a learner.
        let taught_at = self.raft().server_metrics().borrow_watched().membership_config.log_id().as_ref().map_or(0, |id| id.index);
        let near = |node: &NodeId| {
            behind.get(node).is_some_and(|behind| {
                behind.next > taught_at && behind.entries <= CAUGHT_UP_ENTRIES_MAX && behind.bytes <= CAUGHT_UP_BYTES_MAX
            })
        };
        !voters.difference(&now.voters).all(near)
    }

    async fn change(&self, change: ChangeMembers<NodeId, EmptyNode>) -> Result<(), ReconfigureError> {
        self.confirm_if_slept().await;
        match self.raft().change_membership(change, false).await {
            Ok(_) => Ok(()),
            Err(error) if error.forward_to_leader().is_some() => Err(ReconfigureError::NotLeader),
            Err(error) => Err(ReconfigureError::Refused(error.to_string())),
        }
    }
}

/// What to change next; None while the last change is not committed, which the leader does by itself.
fn next_step(now: &Membership, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) -> Option<ChangeMembers<NodeId, EmptyNode>> {
    if !now.committed {
        return None;
    }
    let held: BTreeSet<NodeId> = now.voters.union(&now.learners).copied().collect();
    let strangers: BTreeSet<NodeId> =
        now.learners.iter().filter(|node| !voters.contains(node) && !learners.contains(node)).copied().collect();
    let missing: BTreeMap<NodeId, EmptyNode> =
        voters.union(learners).filter(|node| !held.contains(node)).map(|node| (*node, EmptyNode {})).collect();
    if !strangers.is_empty() && !now.joint {
        return Some(ChangeMembers::RemoveNodes(strangers));
    }
    if !missing.is_empty() && !now.joint {
        return Some(ChangeMembers::AddNodes(missing));
    }
    if now.joint {
        // Whatever was begun is finished first: that needs nobody new, and from there on there is one way.
        return Some(ChangeMembers::AddVoterIds(BTreeSet::new()));
    }
    // A voter that becomes a learner leaves first and is added again.
    Some(ChangeMembers::ReplaceAllVoters(voters.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<const N: usize>(nodes: [NodeId; N]) -> BTreeSet<NodeId> {
        nodes.into()
    }

    /// Plays a change as the group would, and tells its steps.
    fn path(mut now: Membership, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) -> Vec<String> {
        let mut steps = Vec::new();
        while !now.is_settled_on(voters, learners) {
            assert!(steps.len() < 10, "{steps:?}");
            match next_step(&now, voters, learners).expect("a step") {
                ChangeMembers::RemoveNodes(gone) => {
                    steps.push(format!("forget {gone:?}"));
                    now.learners.retain(|node| !gone.contains(node));
                }
                ChangeMembers::AddNodes(new) => {
                    steps.push(format!("teach {:?}", new.keys()));
                    now.learners.extend(new.keys());
                }
                ChangeMembers::ReplaceAllVoters(new) => {
                    assert!(new.iter().all(|node| now.voters.contains(node) || now.learners.contains(node)), "a stranger votes");
                    steps.push(format!("voters {new:?}"));
                    now.learners.retain(|node| !new.contains(node));
                    now.voters = new;
                }
                ChangeMembers::AddVoterIds(_) => {
                    steps.push("finish".to_owned());
                    now.joint = false;
                }
                other => panic!("{other:?}"),
            }
        }
        steps
    }

    #[test]
    fn a_new_voter_is_a_learner_first() {
        let now = Membership { voters: set([1, 2, 3]), committed: true, ..Membership::default() };
        assert_eq!(path(now, &set([1, 2, 4]), &set([])), ["teach [4]", "voters {1, 2, 4}"]);
    }

    #[test]
    fn a_cancelled_move_leaves_no_learner_behind() {
        let now = Membership { voters: set([1, 2, 3]), learners: set([4, 5]), committed: true, joint: false };
        assert_eq!(path(now, &set([1, 2, 3]), &set([])), ["forget {4, 5}"]);
    }

    #[test]
    fn what_another_leader_began_is_finished_before_the_way_back() {
        let now = Membership { voters: set([1, 2, 3, 4]), joint: true, committed: true, ..Membership::default() };
        assert_eq!(path(now, &set([1, 2, 3]), &set([])), ["finish", "voters {1, 2, 3}"]);
    }

    #[test]
    fn nothing_is_changed_while_a_change_is_not_committed() {
        let now = Membership { voters: set([1, 2, 3]), ..Membership::default() };
        assert_eq!(next_step(&now, &set([1]), &set([])), None);
    }

    #[test]
    fn a_voter_that_shall_only_listen_leaves_and_is_taught_again() {
        let now = Membership { voters: set([1, 2, 3]), committed: true, ..Membership::default() };
        assert_eq!(path(now, &set([1, 2]), &set([3])), ["voters {1, 2}", "teach [3]"]);
    }
}
