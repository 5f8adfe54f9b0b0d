//! Who votes in a group, who is only sent its log, and what of a log says so.

use std::collections::{BTreeSet, VecDeque};

use crate::NodeId;

/// The voters and learners of a group. While a change is under way there are two sets of voters, and a majority of each must agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Members {
    /// One set, or the old one and the new one; none before the group is known.
    voters: Vec<BTreeSet<NodeId>>,
    learners: BTreeSet<NodeId>,
}

impl Members {
    pub fn founded_by(voters: impl IntoIterator<Item = NodeId>) -> Members {
        Members { voters: vec![voters.into_iter().collect()], learners: BTreeSet::new() }
    }

    pub fn of(voters: Vec<BTreeSet<NodeId>>, learners: BTreeSet<NodeId>) -> Members {
        Members { voters, learners }
    }

    pub fn sets(&self) -> &[BTreeSet<NodeId>] {
        &self.voters
    }
    pub fn learners(&self) -> &BTreeSet<NodeId> {
        &self.learners
    }
    pub fn is_joint(&self) -> bool {
        self.voters.len() > 1
    }
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.iter().any(|set| set.contains(&node))
    }
    /// Everybody who votes, in whichever set.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.voters.iter().flatten().copied().collect()
    }
    pub fn all(&self) -> BTreeSet<NodeId> {
        self.voters.iter().flatten().chain(&self.learners).copied().collect()
    }

    /// The most that a majority of each set has reached; None where nobody votes.
    pub fn agreed<T: Ord + Copy>(&self, reached: impl Fn(NodeId) -> T) -> Option<T> {
        let of_set = |set: &BTreeSet<NodeId>| {
            let mut values: Vec<T> = set.iter().map(|node| reached(*node)).collect();
            values.sort_unstable_by(|one, other| other.cmp(one));
            values.get(values.len() / 2).copied()
        };
        self.voters.iter().map(of_set).min().flatten()
    }

    /// A majority of each set is among those.
    pub fn is_carried_by(&self, those: &BTreeSet<NodeId>) -> bool {
        self.agreed(|node| those.contains(&node)) == Some(true)
    }
}

/// The memberships that a log tells of: the one in force at the last entry applied or let go of, and those behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    /// With the index of its entry; the first has none where the log begins.
    held: VecDeque<(Option<u64>, Members)>,
}

impl Default for History {
    fn default() -> History {
        History { held: VecDeque::from([(None, Members::default())]) }
    }
}

impl History {
    /// As [`History::iter`] told.
    pub fn of(held: Vec<(Option<u64>, Members)>) -> History {
        History { held: held.into() }
    }

    /// The last one, committed or not, is in force.
    pub fn now(&self) -> &Members {
        static NOBODY: Members = Members { voters: Vec::new(), learners: BTreeSet::new() };
        self.held.back().map_or(&NOBODY, |(_, members)| members)
    }

    /// Index of the entry that brought the one in force.
    pub fn since(&self) -> Option<u64> {
        self.held.back().and_then(|(index, _)| *index)
    }

    pub fn push(&mut self, index: u64, members: Members) {
        self.cut(index);
        self.held.push_back((Some(index), members));
    }

    /// Entries from `keep_end` on are taken back.
    pub fn cut(&mut self, keep_end: u64) {
        while self.held.len() > 1 && self.since().is_some_and(|index| index >= keep_end) {
            self.held.pop_back();
        }
    }

    /// The one in force at the entry `index`, with where it came from.
    pub fn at(&self, index: u64) -> (Option<u64>, Members) {
        let found = self.held.iter().rev().find(|(since, _)| since.is_none_or(|since| since <= index));
        found.cloned().unwrap_or_default()
    }

    /// Forgets what was in force before the entry `index`.
    pub fn forget_before(&mut self, index: u64) {
        let kept = self.held.iter().rposition(|(since, _)| since.is_none_or(|since| since <= index)).unwrap_or(0);
        self.held.drain(..kept);
    }

    /// This one is in force at the entry `index`; of those behind it stay which were, unless the log begins `anew`.
    pub fn rebase(&mut self, index: u64, since: Option<u64>, members: Members, anew: bool) {
        self.held.retain(|(later, _)| !anew && later.is_some_and(|later| later > index));
        self.held.push_front((since, members));
    }

    /// Begins anew with this one.
    pub fn restart(&mut self, since: Option<u64>, members: Members) {
        self.held = VecDeque::from([(since, members)]);
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Option<u64>, Members)> {
        self.held.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_two_sets_must_agree_a_majority_of_both_is_needed() {
        let joint = Members::of(vec![[1, 2, 3].into(), [3, 4, 5].into()], BTreeSet::new());
        assert!(!joint.is_carried_by(&[1, 2, 3].into()), "one of three in the new set");
        assert!(!joint.is_carried_by(&[3, 4, 5].into()));
        assert!(joint.is_carried_by(&[2, 3, 4].into()));
        assert!(!Members::default().is_carried_by(&[1, 2, 3].into()), "nobody votes yet");
        assert_eq!(Members::founded_by([1, 2, 3]).agreed(|node| node * 10), Some(20));
        assert_eq!(Members::founded_by([1, 2, 3, 4]).agreed(|node| node * 10), Some(20));
        assert_eq!(Members::founded_by([1]).agreed(|node| node * 10), Some(10));
    }

    #[test]
    fn a_membership_that_is_taken_back_leaves_the_one_before_in_force() {
        let mut history = History::default();
        history.push(0, Members::founded_by([1, 2, 3]));
        history.push(7, Members::founded_by([4, 5, 6]));
        history.cut(8);
        assert_eq!(history.since(), Some(7));
        history.cut(7);
        assert_eq!((history.since(), history.now()), (Some(0), &Members::founded_by([1, 2, 3])));
        history.push(9, Members::founded_by([4]));
        assert_eq!(history.at(8).0, Some(0));
        history.forget_before(8);
        assert_eq!(history.iter().count(), 2);
        history.forget_before(9);
        assert_eq!(history.iter().count(), 1);
        history.cut(0);
        assert_eq!(history.since(), Some(9), "what is applied is never taken back");
    }
}
