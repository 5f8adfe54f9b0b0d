//! A leader's side: what it appends, whom it sends it, what a majority holds, and how it hands its place over.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::time::Instant;

use super::follower::Reply;
use super::handover::Offer;
use super::members::Members;
use super::progress::Progress;
use super::{Core, Effect, Ground, Role};
use crate::NodeId;
use crate::log::{FrameKind, LogEntry, LogPosition};
use crate::peer::liveness::Bond;

#[derive(Debug)]
pub(crate) struct Lead {
    /// Its first entry: with it, everything before is committed too.
    first: u64,
    began: Instant,
    pub(super) followers: BTreeMap<NodeId, Progress>,
    /// When followers are to hear of the last commit, unless they have by then.
    told_at: Option<Instant>,
    pub(super) offer: Option<Offer>,
}

impl Lead {
    pub(super) fn new(first: u64, began: Instant) -> Lead {
        Lead { first, began, followers: BTreeMap::new(), told_at: None, offer: None }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let followers = self.followers.values().flat_map(|follower| [follower.retry_at, follower.contact_at]);
        followers.flatten().chain(self.told_at).chain(self.offer.as_ref().map(|offer| offer.until)).min()
    }

    pub(super) fn is_offered(&self) -> bool {
        self.offer.as_ref().is_some_and(|offer| offer.made)
    }

    pub(super) fn bond_of(&self, node: NodeId) -> Option<Bond> {
        self.followers.get(&node)?.bond
    }

    /// Of every other member, the index before which it holds what the leader does.
    pub fn matched(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.followers.iter().map(|(node, follower)| (*node, follower.match_end))
    }

    /// Whoever takes part is not to be left behind what is let go of.
    pub fn needed_from(&self) -> Option<u64> {
        self.followers.values().filter(|follower| follower.is_streaming()).map(|follower| follower.match_end).min()
    }
}

/// Why nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotLeading {
    pub leader: Option<NodeId>,
}

/// What a follower is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// The log from `from` on, as much as goes into one append, or where it is `bare` nothing of it; then [`Core::sent`].
    Entries {
        session: u64,
        term: u64,
        prev: Option<LogPosition>,
        from: u64,
        committed_end: u64,
        bare: bool,
    },
    /// The log has let go of what it lacks.
    Snapshot {
        session: u64,
        term: u64,
    },
}

impl Core {
    pub(super) fn blank(&self, ground: &impl Ground) -> LogEntry {
        LogEntry { kind: FrameKind::Blank, term: self.vote.term, index: ground.end(), append_time_us: 0, payload: Bytes::new() }
    }

    /// The entry to append for a proposal that was judged to follow on the log in this term, if in any.
    pub fn propose(
        &mut self,
        kind: FrameKind,
        append_time_us: i64,
        payload: Bytes,
        judged_in: Option<u64>,
        ground: &impl Ground,
    ) -> Result<LogEntry, NotLeading> {
        let Role::Leader(lead) = &self.role else { return Err(NotLeading { leader: self.follows }) };
        // Entries of an earlier term may stand before it by now that its proposer had not seen, the same batch perhaps.
        if lead.offer.is_some() || judged_in.is_some_and(|term| term != self.vote.term) {
            return Err(NotLeading { leader: None });
        }
        Ok(LogEntry { kind, term: self.vote.term, index: ground.end(), append_time_us, payload })
    }

    /// The entry to append for other members; one change at a time, and only in a term that has committed.
    pub fn propose_members(&mut self, members: &Members, ground: &impl Ground) -> Result<LogEntry, NotLeading> {
        let settled = self.members.since().is_none_or(|since| since < self.committed_end);
        let ready = self.lead().is_some_and(|lead| lead.first < self.committed_end);
        let payload = serde_json::to_vec(members).map_err(|_| NotLeading { leader: None })?;
        if !settled || !ready {
            return Err(NotLeading { leader: None });
        }
        self.propose(FrameKind::Membership, 0, payload.into(), None, ground)
    }

    /// What the leader was to append is in its log.
    pub fn stored(&mut self, entries: &[LogEntry], ground: &impl Ground) {
        for entry in entries {
            if !self.note_entry(entry) {
                return;
            }
            if entry.kind == FrameKind::Membership {
                self.note_members(ground);
            }
        }
        self.feed_all(ground);
    }

    /// Sends the log to those that are members now.
    pub(super) fn note_members(&mut self, ground: &impl Ground) {
        let Role::Leader(lead) = &mut self.role else { return };
        let members = self.members.now().all();
        lead.followers.retain(|node, _| members.contains(node));
        for node in members.into_iter().filter(|node| *node != self.id) {
            lead.followers.entry(node).or_insert_with(|| Progress::new(ground.end()));
        }
    }

    fn feed_all(&mut self, ground: &impl Ground) {
        let Role::Leader(lead) = &mut self.role else { return };
        let end = ground.end();
        for (node, follower) in &mut lead.followers {
            if follower.schedule(end) {
                self.effects.push(Effect::Feed(*node));
            }
        }
    }

    fn feed(&mut self, node: NodeId, ground: &impl Ground) {
        let Role::Leader(lead) = &mut self.role else { return };
        if lead.followers.get_mut(&node).is_some_and(|follower| follower.schedule(ground.end())) {
            self.effects.push(Effect::Feed(node));
        }
    }

    /// A member may be reached again, or misses its leader: it is sent something to answer.
    pub fn contact(&mut self, node: NodeId, ground: &impl Ground) {
        let Role::Leader(lead) = &mut self.role else { return };
        if let Some(follower) = lead.followers.get_mut(&node) {
            follower.found();
            follower.unschedule();
            follower.contact();
            self.feed(node, ground);
        }
    }

    /// There is another connection to a member.
    pub fn reconnected(&mut self, node: NodeId, ground: &impl Ground) {
        let Role::Leader(lead) = &mut self.role else { return };
        if let Some(follower) = lead.followers.get_mut(&node) {
            follower.reconnected();
        }
        self.contact(node, ground);
    }

    /// The host can send this follower something now.
    pub fn next_for(&mut self, node: NodeId, ground: &impl Ground) -> Next {
        let (term, committed_end) = (self.vote.term, self.committed_end);
        let Role::Leader(lead) = &mut self.role else { return Next::Nothing };
        let Some(follower) = lead.followers.get_mut(&node) else { return Next::Nothing };
        follower.unschedule();
        if !ground.reaches(node) {
            follower.failed(None);
            return Next::Nothing;
        }
        if !follower.is_ready(ground.end()) {
            return Next::Nothing;
        }
        let (session, from, bare) = (follower.session, follower.next, follower.bare);
        if from < ground.begin() {
            follower.set_busy(true);
            return Next::Snapshot { session, term };
        }
        let Some(before) = from.checked_sub(1) else { return Next::Entries { session, term, prev: None, from, committed_end, bare } };
        match ground.term_of(before) {
            Ok(Some(term_before)) => {
                let prev = Some(LogPosition { term: term_before, index: before });
                Next::Entries { session, term, prev, from, committed_end, bare }
            }
            Ok(None) => {
                follower.set_busy(true);
                Next::Snapshot { session, term }
            }
            Err(error) => {
                self.fail(error.to_string());
                Next::Nothing
            }
        }
    }

    /// There is no connection to this follower.
    pub fn lost(&mut self, node: NodeId) {
        let Role::Leader(lead) = &mut self.role else { return };
        if let Some(follower) = lead.followers.get_mut(&node) {
            follower.unschedule();
            follower.failed(None);
        }
    }

    fn follower(&mut self, node: NodeId, session: u64, term: u64) -> Option<&mut Progress> {
        if self.vote.term != term {
            return None;
        }
        let Role::Leader(lead) = &mut self.role else { return None };
        lead.followers.get_mut(&node).filter(|follower| follower.session == session)
    }

    /// What [`Core::next_for`] told takes time to be read: nothing else is sent meanwhile.
    pub fn reads_for(&mut self, node: NodeId, session: u64, term: u64) {
        if let Some(follower) = self.follower(node, session, term) {
            follower.set_busy(true);
        }
    }

    /// Entries up to `end` are on their way; false where they must not be sent any more.
    pub fn sent(
        &mut self,
        node: NodeId,
        session: u64,
        term: u64,
        (from, end): (u64, u64),
        committed_end: u64,
        ground: &impl Ground,
    ) -> bool {
        let Some(follower) = self.follower(node, session, term).filter(|follower| follower.next == from) else { return false };
        follower.set_busy(false);
        follower.sent(from, end, committed_end);
        self.feed(node, ground);
        true
    }

    /// What was on its way to a follower in that session is lost, or was refused.
    pub fn send_failed(&mut self, node: NodeId, session: u64, term: u64, ground: &impl Ground) {
        let retry_at = ground.reaches(node).then(|| ground.now() + self.pace.spans.pulse);
        if let Some(follower) = self.follower(node, session, term) {
            follower.failed(retry_at);
        }
    }

    /// A follower has answered an append, or a snapshot.
    pub fn answered(&mut self, node: NodeId, session: u64, term: u64, reply: Reply, ground: &impl Ground) {
        let later = ground.now() + self.pace.spans.pulse;
        let Some(follower) = self.follower(node, session, term) else { return };
        match reply {
            Reply::Later(vote) => {
                self.seen = self.seen.max(vote.term);
                if vote.term > term {
                    self.resign(ground);
                }
                return;
            }
            Reply::Holds { end, bond } => follower.holds(end.min(ground.end()), bond),
            Reply::Differs { end, bond } => follower.differs(end, bond),
        }
        // The bond counts once its node has acknowledged a pulse by it; another one may be in force already.
        if follower.bond != ground.acknowledged(node).map(|(_, bond)| bond) {
            follower.contact_at = Some(later);
        }
        self.feed(node, ground);
        self.advance(ground);
        self.try_offer(ground);
    }

    /// A snapshot that a follower was sent stands for all before `end` there.
    pub fn began_anew(&mut self, node: NodeId, session: u64, term: u64, reply: Reply, ground: &impl Ground) {
        if let Some(follower) = self.follower(node, session, term) {
            follower.set_busy(false);
            if let Reply::Holds { end, .. } = reply {
                follower.restart(end);
                let session = follower.session;
                self.answered(node, session, term, reply, ground);
            } else {
                self.answered(node, session, term, reply, ground);
            }
        }
    }

    /// More of the leader's own log is durable.
    pub fn flushed(&mut self, ground: &impl Ground) {
        self.advance(ground);
    }

    fn advance(&mut self, ground: &impl Ground) {
        let Role::Leader(lead) = &mut self.role else { return };
        let held = |node: NodeId| {
            if node == self.id { ground.durable_end() } else { lead.followers.get(&node).map_or(0, |follower| follower.match_end) }
        };
        let Some(agreed) = self.members.now().agreed(held) else { return };
        // What earlier leaders appended may be taken back, though a majority holds it, until something of this term stands behind it.
        if agreed <= lead.first || agreed <= self.committed_end {
            return;
        }
        self.committed_end = agreed;
        if lead.told_at.is_none() {
            lead.told_at = Some(ground.now() + self.pace.commit_told_within);
        }
        if self.pace.commit_told_within.is_zero() {
            self.tell_commits(ground);
        }
        let voted_out = self.members.since().is_some_and(|since| since < self.committed_end) && !self.members().is_voter(self.id);
        if voted_out {
            self.yield_place(ground);
        }
    }

    fn tell_commits(&mut self, ground: &impl Ground) {
        let Role::Leader(lead) = &mut self.role else { return };
        lead.told_at = None;
        for follower in lead.followers.values_mut().filter(|follower| follower.told < self.committed_end) {
            follower.contact();
        }
        self.feed_all(ground);
    }

    pub(super) fn tend_followers(&mut self, ground: &impl Ground) {
        let (now, voter) = (ground.now(), self.members().is_voter(self.id));
        let Role::Leader(lead) = &mut self.role else { return };
        if let Some(offer) = lead.offer.as_ref().filter(|offer| offer.until <= now) {
            if offer.made || !voter {
                // Whoever was told may stand still: in this term no lease is to be had any more. In the next one it is.
                self.resign(ground);
                self.stand_within(std::time::Duration::ZERO, ground);
                return;
            }
            lead.offer = None;
        }
        for follower in lead.followers.values_mut() {
            if follower.retry_at.is_some_and(|at| at <= now) {
                follower.found();
            }
            if follower.contact_at.is_some_and(|at| at <= now) {
                follower.contact_at = None;
                follower.contact();
            }
        }
        if lead.told_at.is_some_and(|at| at <= now) {
            self.tell_commits(ground);
        }
        self.feed_all(ground);
    }

    /// A leader that no majority has followed for long leads no more: others do, or nobody can.
    pub fn mind_quorum(&mut self, ground: &impl Ground) {
        let Role::Leader(lead) = &self.role else { return };
        let heard = self.confirmed(ground).map_or(lead.began, |at| at.max(lead.began));
        if heard + self.pace.election_max <= ground.now() {
            self.resign(ground);
        }
    }

    /// Leads no more.
    pub fn resign(&mut self, ground: &impl Ground) {
        if self.lead().is_some() {
            self.role = Role::Follower;
            self.stand_at = Some(ground.now() + self.election_timeout());
        }
    }
}
