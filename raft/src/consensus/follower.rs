//! A follower's side: entries that come behind one it holds too are taken, whatever stood in their place.

use super::members::Members;
use super::{Core, Ground, Role, Vote};
use crate::NodeId;
use crate::log::{FrameKind, LogEntry, LogPosition};
use crate::peer::liveness::Bond;

/// Entries of a leader, and what it has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Append {
    pub term: u64,
    pub leader: NodeId,
    /// What the entries stand behind; None where they begin the log.
    pub prev: Option<LogPosition>,
    pub entries: Vec<LogEntry>,
    /// Entries before this index are committed.
    pub committed_end: u64,
}

impl Append {
    /// First index that it speaks of.
    pub fn from(&self) -> u64 {
        self.prev.map_or(0, |prev| prev.index + 1)
    }
    /// First index behind its entries.
    pub fn end(&self) -> u64 {
        self.from() + self.entries.len() as u64
    }
}

/// What a follower says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The log agrees with the leader's up to this index, durably. The bond by which the leader may count on it from now on.
    Holds { end: u64, bond: Bond },
    /// It does not hold what the entries stand behind; it might hold what stands before this index.
    Differs { end: u64, bond: Bond },
    /// Somebody else has its vote in a later term.
    Later(Vote),
}

/// What is to be done with an append, behind the effects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Answered(Reply),
    /// Take back what lies from `cut` on, append these, and answer once all before `end` is durable. Then what lies before `committed_end` is
    /// committed ([`Core::commit`]).
    Store {
        cut: Option<u64>,
        entries: Vec<LogEntry>,
        end: u64,
        bond: Bond,
        committed_end: u64,
    },
    /// The core cannot go on.
    Failed,
}

impl Core {
    /// Entries have come from one that leads, or has led.
    pub fn appended(&mut self, mut append: Append, ground: &impl Ground) -> Taken {
        if self.failure.is_some() {
            return Taken::Failed;
        }
        let Append { term, leader, .. } = append;
        if term < self.vote.term {
            return Taken::Answered(Reply::Later(self.vote));
        }
        if !self.follow(leader, term) {
            return Taken::Failed;
        }
        let bond = ground.bond_with(leader);
        self.bond = Some(bond);
        let (begin, end, from) = (ground.begin(), ground.end(), append.from());
        if from > end {
            return Taken::Answered(Reply::Differs { end, bond });
        }
        // What was let go of was committed, and cannot differ.
        if let Some(prev) = append.prev.filter(|prev| prev.index + 1 >= begin) {
            match ground.term_of(prev.index) {
                Ok(Some(held)) if held == prev.term => {}
                // Let go of just now.
                Ok(None) if prev.index < ground.begin() => {}
                Ok(_) if prev.index < self.committed_end => {
                    self.fail("a leader's log differs in what is committed".to_owned());
                    return Taken::Failed;
                }
                Ok(_) => return Taken::Answered(Reply::Differs { end: prev.index, bond }),
                Err(error) => {
                    self.fail(error.to_string());
                    return Taken::Failed;
                }
            }
        }
        let agreed = append.end();
        let Some(new) = self.first_new(&append, ground) else { return Taken::Failed };
        let entries = append.entries.split_off(usize::try_from(new - from).unwrap_or(usize::MAX).min(append.entries.len()));
        let cut = (!entries.is_empty() && new < end).then_some(new);
        if let Some(cut) = cut {
            if !self.require(cut >= self.committed_end, "a leader would take back what is committed") {
                return Taken::Failed;
            }
            self.members.cut(cut);
        }
        for entry in &entries {
            if !self.note_entry(entry) {
                return Taken::Failed;
            }
        }
        Taken::Store { cut, entries, end: agreed, bond, committed_end: append.committed_end.min(agreed) }
    }

    /// Its leader has committed what lies before `end`, and the log holds that.
    pub fn commit(&mut self, end: u64) {
        self.committed_end = self.committed_end.max(end);
    }

    /// The first index at which the log does not hold what an append says, or the append's end; None where the log cannot be read.
    fn first_new(&mut self, append: &Append, ground: &impl Ground) -> Option<u64> {
        let (begin, end) = (ground.begin(), ground.end());
        for entry in &append.entries {
            if entry.index >= end {
                return Some(entry.index);
            }
            if entry.index < begin {
                continue;
            }
            match ground.term_of(entry.index) {
                Ok(held) if held == Some(entry.term) => {}
                Ok(None) if entry.index < ground.begin() => {}
                Ok(_) => return Some(entry.index),
                Err(error) => {
                    self.fail(error.to_string());
                    return None;
                }
            }
        }
        Some(append.end())
    }

    /// Takes this node for the leader of the term. False where that cannot be.
    fn follow(&mut self, leader: NodeId, term: u64) -> bool {
        if self.vote != (Vote { term, node: leader, led: true }) {
            let other = self.vote.term == term && self.vote.led;
            if !self.require(!other && leader != self.id, "two nodes lead in one term") {
                return false;
            }
            self.save(Vote { term, node: leader, led: true });
        }
        // Whoever left an earlier leader for this one did so by its vote, and a majority has; this replica's word is not needed for that.
        (self.role, self.follows) = (Role::Follower, Some(leader));
        (self.stand_at, self.eager) = (None, None);
        true
    }

    /// An entry is about to be appended. False where it cannot be understood.
    pub(super) fn note_entry(&mut self, entry: &LogEntry) -> bool {
        if entry.kind != FrameKind::Membership {
            return true;
        }
        match serde_json::from_slice::<Members>(&entry.payload) {
            Ok(members) => {
                self.members.push(entry.index, members);
                true
            }
            Err(error) => self.require(false, &format!("a membership: {error}")),
        }
    }

    /// Its leader says that the log begins anew behind what it has let go of; what to answer where it need not.
    pub fn begins_behind(&mut self, leader: NodeId, term: u64, last: LogPosition, ground: &impl Ground) -> Result<Bond, Reply> {
        if term < self.vote.term {
            return Err(Reply::Later(self.vote));
        }
        if self.failure.is_some() || !self.follow(leader, term) {
            return Err(Reply::Later(self.vote));
        }
        let bond = ground.bond_with(leader);
        self.bond = Some(bond);
        if last.index < self.committed_end {
            return Err(Reply::Holds { end: last.index + 1, bond });
        }
        Ok(bond)
    }

    /// Entries from `end` on are taken back.
    pub fn cut(&mut self, end: u64) {
        self.members.cut(end);
    }

    /// It does: the snapshot is in force. `anew`: nothing that the log held stands behind it.
    pub fn began_behind(&mut self, last: LogPosition, since: Option<u64>, members: Members, anew: bool) {
        self.members.rebase(last.index, since, members, anew);
        self.committed_end = self.committed_end.max(last.index + 1);
    }
}
