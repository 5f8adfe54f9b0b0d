//! How a leader hands its place over: nothing is appended any more, whoever shall lead is sent what it lacks, and then told to stand.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::progress::Progress;
use super::{Core, Effect, Ground, Role};
use crate::NodeId;

/// Another is to lead.
#[derive(Debug)]
pub(super) struct Offer {
    to: NodeId,
    /// It has been told: it may stand at any time, and nobody waits for this leader's lease to end.
    pub(super) made: bool,
    pub(super) until: Instant,
}

impl Core {
    /// Voted out: the voter that knows most takes over.
    pub(super) fn yield_place(&mut self, ground: &impl Ground) {
        let Role::Leader(lead) = &self.role else { return };
        if lead.offer.is_some() {
            return;
        }
        match self.successor(&Default::default()) {
            Some(to) if self.offer(to, ground) => {}
            _ => self.resign(ground),
        }
    }

    /// The voter that may take over best.
    pub fn successor(&self, avoid: &BTreeSet<NodeId>) -> Option<NodeId> {
        let lead = self.lead()?;
        let fit = |node: &NodeId, follower: &Progress| self.members().is_voter(*node) && !avoid.contains(node) && !follower.is_lost();
        let fit = lead.followers.iter().filter(|(node, follower)| fit(node, follower));
        fit.max_by_key(|(_, follower)| follower.match_end).map(|(node, _)| *node)
    }

    /// Offers the lead to a voter. Nothing is appended from here on, until it has come of it, or not.
    pub fn offer(&mut self, to: NodeId, ground: &impl Ground) -> bool {
        let (voter, patience) = (self.members().is_voter(to) && to != self.id, self.pace.election_min);
        let Role::Leader(lead) = &mut self.role else { return false };
        if !voter || !ground.reaches(to) {
            return false;
        }
        if lead.offer.as_ref().is_none_or(|offer| !offer.made) {
            lead.offer = Some(Offer { to, made: false, until: ground.now() + patience });
        }
        self.contact(to, ground);
        self.try_offer(ground);
        true
    }

    /// Tells the one that shall lead, once it holds all.
    pub(super) fn try_offer(&mut self, ground: &impl Ground) {
        let (term, patience) = (self.vote.term, self.pace.election_max);
        let Role::Leader(lead) = &mut self.role else { return };
        let Some(offer) = lead.offer.as_mut().filter(|offer| !offer.made) else { return };
        if lead.followers.get(&offer.to).is_some_and(|follower| follower.match_end == ground.end()) {
            (offer.made, offer.until) = (true, ground.now() + patience);
            self.effects.push(Effect::Offer { to: offer.to, term, last: ground.last() });
        }
    }
}
