//! Who holds a group, and the way from one set of voters to another: learners first, then joint consensus. Every step looks at what the group
//! has committed so far, so that whoever leads next goes on where the last leader stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::proposal::Refusal;
use super::waiting::Answering;
use super::{Group, View};
use crate::NodeId;
use crate::consensus::Core;
use crate::consensus::members::Members;

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
        self.look(|core, _| {
            let (members, since) = (core.members(), core.history().since());
            Membership {
                voters: members.voters(),
                learners: members.learners().clone(),
                joint: members.is_joint(),
                committed: since.is_none_or(|since| since < core.committed_end()),
            }
        })
    }

    /// On the leader: what each other member lacks.
    pub fn behind(&self) -> BTreeMap<NodeId, Behind> {
        self.look(|core, _| self.behind_of(core))
    }

    fn behind_of(&self, core: &Core) -> BTreeMap<NodeId, Behind> {
        let (end, size) = (self.log().indexes().end, self.log().size_bytes());
        let behind = |next: u64| {
            let entries = end.saturating_sub(next);
            let bytes = u128::from(size) * u128::from(entries) / u128::from(end.max(1));
            Behind { next, entries, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) }
        };
        core.lead().into_iter().flat_map(|lead| lead.matched()).map(|(node, next)| (node, behind(next))).collect()
    }

    /// Voters whose log is at most `entries_max` behind; on a follower, all voters.
    pub fn in_sync(&self, entries_max: u64) -> Vec<NodeId> {
        self.look(|core, _| {
            let (behind, leads) = (self.behind_of(core), core.lead().is_some());
            let near = |node: &NodeId| *node == core.id() || behind.get(node).is_some_and(|behind| behind.entries <= entries_max);
            core.members().voters().into_iter().filter(|node| !leads || near(node)).collect()
        })
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
                // Voted out, it leads on for a moment: its successor goes on.
                return Err(ReconfigureError::NotLeader);
            }
            match next_step(&now, voters, learners) {
                Some(step) if !self.must_wait(&step, &now) => self.change(step).await?,
                _ => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Those who are to vote must have caught up.
    fn must_wait(&self, step: &Step, now: &Membership) -> bool {
        let Step::Voters(voters) = step else { return false };
        // Of a short log even a dead node lacks little: it must have taken the entry that made it a learner.
        let (behind, taught_at) = self.look(|core, _| (self.behind_of(core), core.history().since().unwrap_or(0)));
        let near = |node: &NodeId| {
            behind.get(node).is_some_and(|behind| {
                behind.next > taught_at && behind.entries <= CAUGHT_UP_ENTRIES_MAX && behind.bytes <= CAUGHT_UP_BYTES_MAX
            })
        };
        !voters.difference(&now.voters).all(near)
    }

    async fn change(&self, step: Step) -> Result<(), ReconfigureError> {
        let (answering, outcome) = Answering::new(None);
        let inner = &self.inner;
        inner.turn(|core, view: &View<'_>| {
            let members = step.applied_to(core.members());
            match core.propose_members(&members, view) {
                Ok(entry) => inner.append_for(core, entry, answering),
                Err(refused) => answering.answer(Err(Refusal::NotLeader { leader: refused.leader })),
            }
        });
        match outcome.await {
            Ok(Ok(_)) => Ok(()),
            // Not in this term yet, or another change is still to be committed.
            Ok(Err(Refusal::NotLeader { .. })) if self.leadership().borrow().is_leader => {
                tokio::time::sleep(LOOK_AGAIN).await;
                Ok(())
            }
            Ok(Err(Refusal::NotLeader { .. })) => Err(ReconfigureError::NotLeader),
            Ok(Err(Refusal::Unknown)) => Err(ReconfigureError::Refused("another leads by now".to_owned())),
            Ok(Err(Refusal::Stopped(reason))) => Err(ReconfigureError::Refused(reason)),
            Err(_) => Err(ReconfigureError::Refused("the group has stopped".to_owned())),
        }
    }
}

/// One entry that changes who is in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Forget(BTreeSet<NodeId>),
    Teach(BTreeSet<NodeId>),
    /// Both the voters and these must agree from then on.
    Voters(BTreeSet<NodeId>),
    /// The newer voters alone.
    Finish,
}

impl Step {
    fn applied_to(&self, members: &Members) -> Members {
        let (sets, learners) = (members.sets().to_vec(), members.learners().clone());
        match self {
            Step::Forget(gone) => Members::of(sets, learners.difference(gone).copied().collect()),
            Step::Teach(new) => Members::of(sets, learners.union(new).copied().collect()),
            Step::Voters(voters) => {
                let learners = learners.difference(voters).copied().collect();
                Members::of(sets.into_iter().take(1).chain([voters.clone()]).collect(), learners)
            }
            Step::Finish => Members::of(sets.into_iter().skip(usize::from(members.is_joint())).collect(), learners),
        }
    }
}

/// What to change next; None while the last change is not committed, which the leader does by itself.
fn next_step(now: &Membership, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) -> Option<Step> {
    if !now.committed {
        return None;
    }
    if now.joint {
        // Whatever was begun is finished first: that needs nobody new, and from there on there is one way.
        return Some(Step::Finish);
    }
    let strangers: BTreeSet<NodeId> =
        now.learners.iter().filter(|node| !voters.contains(node) && !learners.contains(node)).copied().collect();
    if !strangers.is_empty() {
        return Some(Step::Forget(strangers));
    }
    let missing: BTreeSet<NodeId> =
        voters.union(learners).filter(|node| !now.voters.contains(node) && !now.learners.contains(node)).copied().collect();
    if !missing.is_empty() {
        return Some(Step::Teach(missing));
    }
    // A voter that becomes a learner leaves first and is added again.
    Some(Step::Voters(voters.clone()))
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
                Step::Forget(gone) => {
                    steps.push(format!("forget {gone:?}"));
                    now.learners.retain(|node| !gone.contains(node));
                }
                Step::Teach(new) => {
                    steps.push(format!("teach {new:?}"));
                    now.learners.extend(new);
                }
                Step::Voters(new) => {
                    assert!(new.iter().all(|node| now.voters.contains(node) || now.learners.contains(node)), "a stranger votes");
                    steps.push(format!("voters {new:?}"));
                    now.learners.retain(|node| !new.contains(node));
                    (now.voters, now.joint) = (new, true);
                }
                Step::Finish => {
                    steps.push("finish".to_owned());
                    now.joint = false;
                }
            }
        }
        steps
    }

    #[test]
    fn a_new_voter_is_a_learner_first() {
        let now = Membership { voters: set([1, 2, 3]), committed: true, ..Membership::default() };
        assert_eq!(path(now, &set([1, 2, 4]), &set([])), ["teach {4}", "voters {1, 2, 4}", "finish"]);
    }

    #[test]
    fn a_cancelled_move_leaves_no_learner_behind() {
        let now = Membership { voters: set([1, 2, 3]), learners: set([4, 5]), committed: true, joint: false };
        assert_eq!(path(now, &set([1, 2, 3]), &set([])), ["forget {4, 5}"]);
    }

    #[test]
    fn what_another_leader_began_is_finished_before_the_way_back() {
        let now = Membership { voters: set([1, 2, 3, 4]), joint: true, committed: true, ..Membership::default() };
        assert_eq!(path(now, &set([1, 2, 3]), &set([])), ["finish", "voters {1, 2, 3}", "finish"]);
    }

    #[test]
    fn nothing_is_changed_while_a_change_is_not_committed() {
        let now = Membership { voters: set([1, 2, 3]), ..Membership::default() };
        assert_eq!(next_step(&now, &set([1]), &set([])), None);
    }

    #[test]
    fn a_voter_that_shall_only_listen_leaves_and_is_taught_again() {
        let now = Membership { voters: set([1, 2, 3]), committed: true, ..Membership::default() };
        assert_eq!(path(now, &set([1, 2]), &set([3])), ["voters {1, 2}", "finish", "teach {3}"]);
    }
}
