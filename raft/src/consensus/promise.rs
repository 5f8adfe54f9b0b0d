//! What a follower owes its leader: not to help another to lead while the leader may count on it.
//!
//! A follower promises by every frame that its node receives of its leader's node, and for [`Spans::promise`] after it, not to vote for another
//! or to stand itself. The leader counts on it for [`Spans::lease`], which is shorter, after it *sent* a pulse that the follower's node
//! acknowledged by the same [`Bond`] as the follower's last answer. Both ends hold for all groups of a pair of nodes at once.
//!
//! Whoever leaves a leader who may still send pulses ends the bond first ([`Ground::leave`]): from then on what its node acknowledges counts for
//! nothing. A replica that is opened anew does not know whom it had promised what: it keeps the promise from its opening on. A leader that has
//! sent for another, or leads no more, says so ([`Core::was_released`]), and nothing is owed to it.

use tokio::time::Instant;

use super::{Core, Ground, Role};
use crate::NodeId;

#[cfg(doc)]
use crate::peer::liveness::{Bond, Spans};

impl Core {
    /// Until when this replica may help nobody but its leader.
    pub(super) fn promised_until(&self, ground: &impl Ground) -> Option<Instant> {
        if ground.mutations().sleepers_vote {
            return None;
        }
        let led = self.follows.filter(|_| self.released < self.vote.term).and_then(|leader| ground.promised_until(leader));
        led.max(self.owed_until).filter(|until| *until > ground.now())
    }

    /// Leaves its leader for another, or for itself; false where the promise holds.
    pub(super) fn leave(&mut self, ground: &impl Ground) -> bool {
        let Some(leader) = self.follows else { return true };
        // One who has released its followers holds no lease in this term any more.
        if self.released < self.vote.term && !ground.mutations().sleepers_vote && !ground.leave(leader) {
            return false;
        }
        self.follows = None;
        true
    }

    /// The leader of `term` holds no lease any more: it has sent for another, or leads no more.
    pub fn was_released(&mut self, term: u64, patience: std::time::Duration, ground: &impl Ground) {
        // A vote alone does not say who leads its term: that may be another, who has released nobody.
        if self.failure.is_some() || !self.vote.led || self.vote.term > term || self.vote.node == self.id {
            return;
        }
        self.released = self.released.max(self.vote.term);
        self.follows = None;
        self.stand_within(patience, ground);
    }

    /// The node of its leader is gone, for all that this node knows.
    pub fn was_orphaned(&mut self, lost: NodeId, patience: std::time::Duration, ground: &impl Ground) -> bool {
        // One that has answered that node since it was found gone follows it again.
        let again = self.bond == Some(ground.bond_with(lost));
        let orphaned = self.follows == Some(lost) && !again;
        if orphaned {
            self.follows = None;
            self.stand_within(patience, ground);
        }
        orphaned
    }

    /// The latest moment at which a majority followed this leader; None where it does not lead, or nobody has confirmed it.
    pub fn confirmed(&self, ground: &impl Ground) -> Option<Instant> {
        let Role::Leader(lead) = &self.role else { return None };
        let any_bond = ground.mutations().any_bond_counts;
        let of = |node: NodeId| {
            if node == self.id {
                return Some(ground.now());
            }
            let (bond, (sent, by)) = (lead.bond_of(node)?, ground.acknowledged(node)?);
            (bond == by || any_bond).then_some(sent)
        };
        self.members().agreed(of).flatten()
    }

    /// It leads and nobody else can, for now.
    pub fn holds_lease(&self, ground: &impl Ground) -> bool {
        let Role::Leader(lead) = &self.role else { return false };
        // One that is voted out leads on for a moment, and its successor does not wait for the end of its lease.
        let stays = self.members().is_voter(self.id);
        stays && !lead.is_offered() && self.confirmed(ground).is_some_and(|at| ground.now() < at + self.pace.spans.lease)
    }
}
