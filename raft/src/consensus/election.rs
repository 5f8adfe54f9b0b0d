//! How a leader comes to be: a replica that misses one asks around whether it would be elected, then stands, by term and by log.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::leader::Lead;
use super::{Core, Effect, Ground, Role, Vote};
use crate::NodeId;
use crate::log::LogPosition;

/// Between two attempts of one whose turn it is: the others may see a moment later that the leader is gone, or have opened their replicas. Doubles.
const AGAIN: Duration = Duration::from_millis(20);
const AGAIN_MAX: Duration = Duration::from_millis(320);
/// A group that has just been founded is waited for so long by the founder that is to lead it.
const FOUNDING: Duration = Duration::from_secs(3);
/// The other founders wait so long for it, and an election timeout more.
const FOUNDING_PATIENCE: Duration = Duration::from_millis(1500);

/// What a candidate asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ballot {
    pub term: u64,
    pub candidate: NodeId,
    /// Where its log ends.
    pub last: Option<LogPosition>,
    /// It only asks what the answer would be.
    pub pre: bool,
    /// The leader of the term before has sent it.
    pub sent: bool,
}

/// What a voter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cast {
    pub granted: bool,
    /// What the voter has promised by now.
    pub vote: Vote,
    pub last: Option<LogPosition>,
}

/// What to do with a ballot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Now(Cast),
    /// Once everything is durable that was to be saved.
    Saved(Cast),
}

/// An election of its own.
#[derive(Debug)]
pub(crate) struct Canvass {
    pub term: u64,
    pub pre: bool,
    sent: bool,
    yes: BTreeSet<NodeId>,
}

/// Tries again soon instead of after an election timeout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eager {
    until: Instant,
    pause: Duration,
}

impl Core {
    /// The group has just been founded; `first` shall lead it, the others stand when it does not come.
    pub fn founded(&mut self, first: bool, ground: &impl Ground) {
        self.founder = Some(first);
        self.begin(ground);
    }

    /// This node takes part from now on.
    pub fn begin(&mut self, ground: &impl Ground) {
        match self.founder.filter(|_| self.vote == Vote::default() && self.failure.is_none()) {
            Some(true) => {
                self.eager = Some(Eager { until: ground.now() + FOUNDING, pause: AGAIN });
                self.stand_at = Some(ground.now());
            }
            Some(false) => self.stand_at = Some(ground.now() + FOUNDING_PATIENCE + self.election_timeout()),
            None => {}
        }
    }

    /// Stands after `patience`, and again and again for a while, unless somebody leads by then.
    pub(super) fn stand_within(&mut self, patience: Duration, ground: &impl Ground) {
        let at = ground.now() + patience;
        self.eager = Some(Eager { until: at + self.pace.election_min, pause: AGAIN });
        self.stand_at = Some(at);
    }

    /// Stands later.
    pub(super) fn stand_again(&mut self, ground: &impl Ground) {
        let now = ground.now();
        let pause = match &mut self.eager {
            Some(eager) if now < eager.until => {
                let pause = eager.pause;
                eager.pause = (pause * 2).min(AGAIN_MAX);
                self.between(pause, pause * 3 / 2)
            }
            _ => {
                self.eager = None;
                self.election_timeout()
            }
        };
        self.stand_at = Some(now + pause);
    }

    /// Nothing speaks against standing for election.
    fn may_stand(&self, ground: &impl Ground) -> bool {
        let voter = self.members().is_voter(self.id);
        voter && self.bound_by.is_none() && self.promised_until(ground).is_none() && ground.takes_part()
    }

    /// Asks the voters whether they would elect this replica. Changes nothing at them, so one that is cut off disturbs nobody.
    pub(super) fn canvass(&mut self, ground: &impl Ground) {
        self.stand_again(ground);
        if !self.may_stand(ground) {
            self.role = Role::Follower;
            if !self.members().is_voter(self.id) {
                self.stand_at = None;
            }
            return;
        }
        let canvass = Canvass { term: self.vote.term.max(self.seen) + 1, pre: true, sent: false, yes: [self.id].into() };
        self.ask(canvass, ground);
        self.count(ground);
    }

    fn ask(&mut self, canvass: Canvass, ground: &impl Ground) {
        let Canvass { term, pre, sent, .. } = canvass;
        let ballot = Ballot { term, candidate: self.id, last: ground.last(), pre, sent };
        let voters = self.members().voters();
        self.effects.extend(voters.into_iter().filter(|voter| *voter != self.id).map(|to| Effect::Ask { to, ballot }));
        self.role = Role::Candidate(canvass);
    }

    /// Its own vote counts, as every other, once it is durable: it must not lead a term that it could lead a second time.
    fn stand(&mut self, term: u64, sent: bool, ground: &impl Ground) {
        if !self.leave(ground) {
            return;
        }
        self.save(Vote { term, node: self.id, led: false });
        self.stand_at = Some(ground.now() + self.election_timeout());
        self.ask(Canvass { term, pre: false, sent, yes: BTreeSet::new() }, ground);
    }

    pub(super) fn save(&mut self, vote: Vote) {
        self.vote = vote;
        self.seen = self.seen.max(vote.term);
        self.effects.push(Effect::Save(vote));
    }

    /// This vote is durable.
    pub fn saved(&mut self, vote: Vote, ground: &impl Ground) {
        self.durable_term = self.durable_term.max(vote.term);
        if vote == self.vote
            && let Role::Candidate(canvass) = &mut self.role
            && !canvass.pre
            && canvass.term == vote.term
        {
            canvass.yes.insert(self.id);
            self.count(ground);
        }
    }

    fn count(&mut self, ground: &impl Ground) {
        let Role::Candidate(canvass) = &self.role else { return };
        let (term, pre, elects_itself) = (canvass.term, canvass.pre, canvass.yes.contains(&self.id));
        if !elects_itself || !self.members().is_carried_by(&canvass.yes) {
            return;
        }
        if pre { self.stand(term, false, ground) } else { self.begin_lead(ground) }
    }

    fn begin_lead(&mut self, ground: &impl Ground) {
        self.save(Vote { led: true, ..self.vote });
        (self.stand_at, self.eager, self.follows) = (None, None, None);
        let blank = self.blank(ground);
        self.role = Role::Leader(Box::new(Lead::new(blank.index, ground.now())));
        self.effects.push(Effect::Append(blank));
        self.note_members(ground);
    }

    /// A voter has answered.
    pub fn heard_cast(&mut self, from: NodeId, ballot: Ballot, cast: Cast, ground: &impl Ground) {
        self.seen = self.seen.max(cast.vote.term);
        let Role::Candidate(canvass) = &mut self.role else { return };
        if canvass.term != ballot.term || canvass.pre != ballot.pre || !cast.granted {
            return;
        }
        canvass.yes.insert(from);
        self.count(ground);
    }

    /// A candidate asks for this replica's vote.
    pub fn asked(&mut self, ballot: Ballot, ground: &impl Ground) -> Answer {
        let last = ground.last();
        let refused = |core: &Core| Answer::Now(Cast { granted: false, vote: core.vote, last });
        let Ballot { term, candidate, pre, .. } = ballot;
        if self.failure.is_some() || !ground.takes_part() {
            return refused(self);
        }
        let again = term == self.vote.term && candidate == self.vote.node && !pre;
        if term <= self.vote.term && !again {
            return refused(self);
        }
        // Also of one that has this vote already: it may have lost what it held when it asked first.
        if ballot.last < last || ballot.last < self.bound_by {
            return refused(self);
        }
        if again {
            return Answer::Saved(Cast { granted: true, vote: self.vote, last });
        }
        let sent = ballot.sent && self.vote.led && term == self.vote.term + 1;
        if sent {
            self.released = self.released.max(self.vote.term);
        } else if self.must_refuse(candidate, ground) {
            return refused(self);
        }
        if pre {
            return Answer::Now(Cast { granted: true, vote: self.vote, last });
        }
        if candidate != self.vote.node && !self.leave(ground) {
            return refused(self);
        }
        (self.role, self.follows) = (Role::Follower, None);
        self.save(Vote { term, node: candidate, led: false });
        self.eager = None;
        self.stand_at = Some(ground.now() + self.election_timeout());
        Answer::Saved(Cast { granted: true, vote: self.vote, last })
    }

    /// Whether a promise stands in this candidate's way; its own followers' leader may stand anew at any time.
    fn must_refuse(&mut self, candidate: NodeId, ground: &impl Ground) -> bool {
        if self.vote.led && candidate == self.vote.node {
            return false;
        }
        if self.lead().is_some() {
            let leads = self.holds_lease(ground);
            if leads {
                // It misses its leader.
                self.contact(candidate, ground);
            }
            return leads;
        }
        let promised = self.promised_until(ground).is_some();
        if promised && let Some(leader) = self.follows {
            self.effects.push(Effect::Rouse(leader));
        }
        promised
    }

    /// The leader has sent for this replica: it stands at once, if its log has come as far as the leader's.
    pub fn was_sent_for(&mut self, leader: NodeId, term: u64, last: Option<LogPosition>, ground: &impl Ground) -> bool {
        let follows = self.vote == Vote { term, node: leader, led: true } && self.failure.is_none();
        if !follows || ground.last() < last || self.bound_by.is_some() || !self.members().is_voter(self.id) || !ground.takes_part() {
            return false;
        }
        self.released = self.released.max(term);
        self.stand(term + 1, true, ground);
        true
    }
}
