//! Raft itself, for one group: who leads, what follows on what, what is committed. No clock, disk, network or task of its own: it is told what
//! happens, looks at the rest through [`Ground`], and leaves [`Effect`]s for its host (`crate::group`) to carry out, in order.
//!
//! [`election`] is how a leader comes to be, [`promise`] what a follower owes it, [`leader`] what it does with its followers ([`progress`]), [`handover`] how its place is taken,
//! [`follower`] how a log is made to agree with the leader's, [`members`] who they are.
//!
//! *As in the paper*: one vote a term, durable before it is given; a leader by a majority of votes, its own durable; entries behind a matching
//! one only; committed is what a majority holds durably in the leader's own term; joint consensus, by what the log says, committed or not.
//! *Besides*: pre-votes; leadership offered to another; logs that begin anew behind what retention let go of.
//! *Otherwise*: no heartbeats. Whether a leader lives is known by node, not by group (`crate::peer::liveness`), so a group that nobody uses has
//! nothing to do.

pub(crate) mod election;
pub(crate) mod follower;
mod handover;
pub(crate) mod leader;
pub(crate) mod members;
mod progress;
mod promise;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::NodeId;
use crate::env::Mutations;
use crate::log::{LogEntry, LogPosition};
use crate::peer::liveness::{Bond, Spans};
use election::{Ballot, Canvass, Eager};
use leader::Lead;
use members::{History, Members};

/// What a replica has promised about a term: the node that has its vote, or that it knows to lead. Durable before anybody hears of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Vote {
    pub term: u64,
    /// 0 before the first.
    pub node: NodeId,
    /// That node has been elected: this replica led, or was sent entries by it.
    pub led: bool,
}

impl Vote {
    pub const BYTES: usize = 17;

    pub fn encode(self) -> [u8; Vote::BYTES] {
        let mut bytes = [u8::from(self.led); Vote::BYTES];
        bytes[..8].copy_from_slice(&self.term.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.node.to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Vote> {
        let (term, rest) = bytes.split_first_chunk::<8>()?;
        let (node, led) = rest.split_first_chunk::<8>()?;
        let led = match led {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(Vote { term: u64::from_be_bytes(*term), node: NodeId::from_be_bytes(*node), led })
    }
}

/// What the core looks at: its log as it is with everything queued, the time, and the neighbours' nodes.
pub(crate) trait Ground {
    fn now(&self) -> Instant;
    fn last(&self) -> Option<LogPosition>;
    /// First index that the log holds, or would.
    fn begin(&self) -> u64;
    /// First index behind the log's last entry.
    fn end(&self) -> u64;
    /// The term of an entry; None where the log does not hold it. That of the last one let go of is known.
    fn term_of(&self, index: u64) -> io::Result<Option<u64>>;
    /// Entries before this index are durable.
    fn durable_end(&self) -> u64;
    /// Until when this node has promised a neighbour not to help others to lead what that neighbour leads.
    fn promised_until(&self, leader: NodeId) -> Option<Instant>;
    /// Ends that promise, if it has run out; from then on the neighbour knows that it cannot count on this node. False where it still holds.
    fn leave(&self, leader: NodeId) -> bool;
    /// Ends that promise at once, for whoever keeps it by other means.
    fn forsake(&self, leader: NodeId);
    /// When the last pulse was sent that a neighbour acknowledged, and by which bond.
    fn acknowledged(&self, node: NodeId) -> Option<(Instant, Bond)>;
    /// The bond under which replicas here follow that neighbour.
    fn bond_with(&self, leader: NodeId) -> Bond;
    /// There is a connection to that node.
    fn reaches(&self, node: NodeId) -> bool;
    /// This node knows what it has promised in earlier lives, and the replica's files hold.
    fn takes_part(&self) -> bool;
    fn mutations(&self) -> Mutations;
}

/// What a host is to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Make it durable, before anything that is appended later; then call [`Core::saved`].
    Save(Vote),
    /// Append it as the leader.
    Append(LogEntry),
    Ask {
        to: NodeId,
        ballot: Ballot,
    },
    /// Something is to be sent to this follower: call [`Core::next_for`] when it can be.
    Feed(NodeId),
    /// The leader of this term has it stand for election, if its log reaches `last`.
    Offer {
        to: NodeId,
        term: u64,
        last: Option<LogPosition>,
    },
    /// A node that seems to lead is to hear that somebody misses it.
    Rouse(NodeId),
}

#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    Candidate(Canvass),
    Leader(Box<Lead>),
}

/// The times of one region's elections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub election_min: Duration,
    pub election_max: Duration,
    pub spans: Spans,
    /// A follower hears of a commit with the next entries, or so much later.
    pub commit_told_within: Duration,
}

/// What an earlier opening of a replica has left to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub vote: Vote,
    pub members: History,
    pub committed_end: u64,
    /// What a candidate's log must reach, and this one's before it stands; see `node::deleting`.
    pub bound_by: Option<LogPosition>,
}

/// One replica's part in its group.
#[derive(Debug)]
pub(crate) struct Core {
    id: NodeId,
    pace: Pace,
    chance: u64,
    vote: Vote,
    /// The latest term heard of; no promise.
    seen: u64,
    role: Role,
    /// The last term whose vote is known to be durable.
    durable_term: u64,
    /// The leader of this term whose word has come since the replica was opened, and the bond that it was told last.
    follows: Option<NodeId>,
    bond: Option<Bond>,
    /// The last term whose leader has let go of its followers.
    released: u64,
    /// Until when an earlier opening may have promised something, to whomever.
    owed_until: Option<Instant>,
    bound_by: Option<LogPosition>,
    members: History,
    committed_end: u64,
    stand_at: Option<Instant>,
    eager: Option<Eager>,
    /// It founded the group: as the one that shall lead it first, or not.
    founder: Option<bool>,
    effects: Vec<Effect>,
    failure: Option<String>,
}

impl Core {
    pub fn new(id: NodeId, pace: Pace, held: Held, seed: u64, now: Instant) -> Core {
        let Held { vote, members, committed_end, bound_by } = held;
        // Whoever led by its last vote has promised nothing to others.
        let owes = vote.term > 0 && !(vote.led && vote.node == id);
        let mut core = Core {
            id,
            pace,
            chance: seed | 1,
            vote,
            seen: vote.term,
            role: Role::Follower,
            durable_term: vote.term,
            follows: None,
            bond: None,
            released: 0,
            owed_until: owes.then(|| now + pace.spans.promise),
            bound_by,
            members,
            committed_end,
            stand_at: None,
            eager: None,
            founder: None,
            effects: Vec::new(),
            failure: None,
        };
        core.stand_at = Some(now + core.election_timeout());
        core
    }

    pub fn id(&self) -> NodeId {
        self.id
    }
    pub fn vote(&self) -> Vote {
        self.vote
    }
    #[cfg(feature = "sim")]
    pub fn role(&self) -> &Role {
        &self.role
    }
    pub fn lead(&self) -> Option<&Lead> {
        match &self.role {
            Role::Leader(lead) => Some(lead),
            _ => None,
        }
    }
    /// Whose word this replica takes, itself included.
    pub fn leader(&self) -> Option<NodeId> {
        if self.lead().is_some() { Some(self.id) } else { self.follows }
    }
    pub fn members(&self) -> &Members {
        self.members.now()
    }
    /// A crash may forget later ones.
    pub fn durable_term(&self) -> u64 {
        self.durable_term
    }
    pub fn history(&self) -> &History {
        &self.members
    }
    pub fn committed_end(&self) -> u64 {
        self.committed_end
    }
    pub fn bound_by(&self) -> Option<LogPosition> {
        self.bound_by
    }
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// It cannot go on: its disk has failed, or what it was told contradicts what is committed.
    pub fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
        self.role = Role::Follower;
        (self.follows, self.stand_at, self.eager) = (None, None, None);
        self.effects.clear();
    }

    /// The replica is closed. Its leader must not count on it from here on: opened anew it does not know what it had promised.
    pub fn stop(&mut self, ground: &impl Ground) {
        // By the vote: what it followed may be forgotten over a failure.
        if self.vote.led && self.vote.node != self.id && self.released < self.vote.term {
            ground.forsake(self.vote.node);
        }
        self.fail("the replica is closed".to_owned());
    }

    /// What `what` says of the log cannot be; a leader that claims it has lost what was committed.
    fn require(&mut self, holds: bool, what: &str) -> bool {
        if !holds {
            self.fail(what.to_owned());
        }
        holds
    }

    /// The log has reached what an earlier one here had.
    pub fn unbind(&mut self) {
        self.bound_by = None;
    }

    /// Entries up to this index are applied: what was in force before them is needed no more.
    pub fn forget_members_before(&mut self, index: u64) {
        self.members.forget_before(index);
    }

    /// When it has to be called again though nothing happens; see [`Core::tick`].
    pub fn due(&self) -> Option<Instant> {
        match &self.role {
            Role::Leader(lead) => lead.due(),
            _ => self.stand_at,
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, ground: &impl Ground) {
        if self.failure.is_some() {
            return;
        }
        if self.lead().is_some() {
            self.tend_followers(ground);
        } else if self.stand_at.is_some_and(|at| at <= ground.now()) {
            self.canvass(ground);
        }
    }

    fn draw(&mut self) -> u64 {
        // xorshift64: spreads elections, decides nothing else.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX).max(1);
        least + Duration::from_micros(self.draw() % span)
    }

    fn election_timeout(&mut self) -> Duration {
        self.between(self.pace.election_min, self.pace.election_max)
    }
}
