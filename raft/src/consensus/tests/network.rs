//! What nodes say to each other in a world, and what becomes of it on the way.

use std::time::Duration;

use tokio::time::Instant;

use super::site::{Done, Past, TIMING, Write};
use super::world::{Asked, Event, Packet, Said, World};
use crate::NodeId;
use crate::consensus::Ground;
use crate::consensus::election::Answer;
use crate::consensus::follower::{Append, Reply, Taken};
use crate::consensus::leader::Next;
use crate::log::LogPosition;

/// Few, so that a follower that lacks much takes several appends.
const APPEND_ENTRIES_MAX: u64 = 4;
/// Between attempts to say that a term is led no more, and how many.
const AGAIN: Duration = Duration::from_millis(150);
const RELEASES_MAX: u32 = 20;

impl World {
    fn is_parted(&self, one: NodeId, other: NodeId) -> bool {
        self.parted.contains(&(one, other)) || self.parted.contains(&(other, one))
    }

    /// Sends a question, if there is a connection.
    pub(super) fn ask(&mut self, from: NodeId, to: NodeId, said: Said, asked: Option<Asked>) {
        if !self.sites[&from].place.reaches(to) {
            return;
        }
        self.next += 1;
        let number = self.next;
        if let Some(asked) = asked {
            self.waiting.insert(number, (from, to, asked));
        }
        if !self.calm && self.dice.in_thousand(2) {
            return self.sever(from, to);
        }
        self.send(Packet { from, to, number, said });
    }

    pub(super) fn send(&mut self, packet: Packet) {
        let (from, to) = (packet.from, packet.to);
        if let (Said::Voted(cast), Some((_, _, Asked::Ballot(ballot)))) = (&packet.said, self.waiting.get(&packet.number))
            && cast.granted
            && !ballot.pre
        {
            self.witness.voted(from, ballot.term, ballot.candidate);
        }
        let slowly = if self.calm || self.dice.in_thousand(900) { 3_000 } else { 400_000 };
        let mut at = Instant::now() + self.dice.micros(slowly);
        let answers = matches!(packet.said, Said::Replied(_));
        if answers || matches!(packet.said, Said::Append(_) | Said::Snapshot { .. }) {
            let last = self.last_arrival.entry((from, to, answers)).or_insert(at);
            at = at.max(*last);
            *last = at;
        } else if !self.calm && self.dice.in_thousand(10) {
            // What is not repeated on one connection may be on the next: its answer is heard by nobody.
            let late = self.dice.micros(1_000_000);
            self.plan_in_life(late, Event::Arrive(Packet { number: 0, ..packet.clone() }), u64::MAX);
        }
        self.plan_in_life(at - Instant::now(), Event::Arrive(packet), u64::MAX);
    }

    /// A connection breaks. What is on its way may arrive, but nothing is answered.
    pub fn sever(&mut self, from: NodeId, to: NodeId) {
        if !self.site(from).place.reached.remove(&to) {
            return;
        }
        let numbers: Vec<u64> = self.waiting.iter().filter(|(_, (a, b, _))| (*a, *b) == (from, to)).map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some((_, _, Asked::Append { session, term } | Asked::Snapshot { session, term })) = self.waiting.remove(&number) {
                let site = self.site(from);
                site.core.send_failed(to, session, term, &site.place);
            }
        }
        self.settle(from);
        let soon = self.dice.micros(150_000);
        self.plan_in_life(soon, Event::Dial { from, to }, u64::MAX);
    }

    /// They do not hear each other any more, and find that out a little later.
    pub fn part(&mut self, one: NodeId, other: NodeId) {
        self.parted.insert((one, other));
        for (from, to) in [(one, other), (other, one)] {
            let later = Duration::from_millis(300) + self.dice.micros(1_000_000);
            self.plan_in_life(later, Event::Sever { from, to }, u64::MAX);
        }
    }

    pub(super) fn dial(&mut self, from: NodeId, to: NodeId) {
        if self.sites[&from].place.reaches(to) || !self.sites[&from].up {
            return;
        }
        if self.is_parted(from, to) || !self.sites[&to].up {
            if !self.sites[&to].up {
                self.site(from).place.liveness.refused(to);
            }
            let later = Duration::from_millis(50) + self.dice.micros(100_000);
            return self.plan_in_life(later, Event::Dial { from, to }, u64::MAX);
        }
        let site = self.site(from);
        site.place.reached.insert(to);
        site.core.contact(to, &site.place);
        self.settle(from);
    }

    pub(super) fn arrive(&mut self, packet: Packet) {
        let Packet { from, to, number, said } = packet;
        if self.is_parted(from, to) {
            return;
        }
        if !matches!(said, Said::Replied(_) | Said::Voted(_) | Said::Acknowledged(_) | Said::Heard) {
            self.site(to).place.liveness.asked(from);
        }
        let answer = |said| Packet { from: to, to: from, number, said };
        match said {
            Said::Append(append) => self.take(to, append, answer(Said::Replied(None))),
            Said::Snapshot { term, past } => self.take_snapshot(to, (from, term, past), answer(Said::Replied(None))),
            Said::Ballot(ballot) => {
                let site = self.site(to);
                match site.core.asked(ballot, &site.place) {
                    Answer::Now(cast) => self.send(answer(Said::Voted(cast))),
                    Answer::Saved(cast) => {
                        self.settle(to);
                        self.when_saved(to, answer(Said::Voted(cast)));
                    }
                }
            }
            Said::Offer { term, last } => {
                let site = self.site(to);
                site.core.was_sent_for(from, term, last, &site.place);
            }
            Said::Pulse { process } => {
                let bond = self.site(to).place.liveness.pulsed(from, process);
                if let Some(bond) = bond {
                    self.send(answer(Said::Acknowledged(bond)));
                }
            }
            Said::Rouse => self.rouse(to, from),
            Said::Release { term } => {
                self.hear_release(to, from, term);
                self.send(answer(Said::Heard));
            }
            Said::Replied(_) | Said::Voted(_) | Said::Acknowledged(_) | Said::Heard => self.hear(to, from, number, said),
        }
        self.settle(to);
    }

    fn when_saved(&mut self, node: NodeId, packet: Packet) {
        if let Some(done) = self.site(node).place.when_saved(Done::Answer(packet)) {
            self.done(node, done);
        }
    }

    /// An answer, unless it is one to an earlier connection.
    fn hear(&mut self, node: NodeId, from: NodeId, number: u64, said: Said) {
        let Some((_, _, asked)) = self.waiting.remove(&number) else { return };
        let site = self.site(node);
        match (asked, said) {
            (Asked::Append { session, term }, Said::Replied(Some(reply))) => site.core.answered(from, session, term, reply, &site.place),
            (Asked::Snapshot { session, term }, Said::Replied(Some(reply))) => {
                site.core.began_anew(from, session, term, reply, &site.place);
            }
            (Asked::Append { session, term } | Asked::Snapshot { session, term }, _) => {
                site.core.send_failed(from, session, term, &site.place);
            }
            (Asked::Ballot(ballot), Said::Voted(cast)) => site.core.heard_cast(from, ballot, cast, &site.place),
            (Asked::Pulse(sent), Said::Acknowledged(bond)) => site.place.liveness.acknowledged(from, sent, bond),
            _ => {}
        }
    }

    fn take(&mut self, node: NodeId, append: Append, mut answer: Packet) {
        let site = self.site(node);
        let taken = site.core.appended(append, &site.place);
        self.settle(node);
        match taken {
            Taken::Answered(reply) => {
                answer.said = Said::Replied(Some(reply));
                self.when_saved(node, answer);
            }
            Taken::Failed => self.send(answer),
            Taken::Store { cut, entries, end, bond, committed_end } => {
                let in_place = self.dice.in_thousand(700);
                let site = self.sites.get_mut(&node).expect("a node of this world");
                if let Some(cut) = cut {
                    site.place.write(Write::Cut(cut), Vec::new());
                    if !in_place {
                        // Whole files are removed: the leader sends again what is to stand there.
                        answer.said = Said::Replied(Some(Reply::Differs { end: cut, bond }));
                        site.core.cut(cut);
                        site.place.write(Write::Entries(Vec::new()), vec![Done::Answer(answer)]);
                        return;
                    }
                }
                answer.said = Said::Replied(Some(Reply::Holds { end, bond }));
                let from = site.place.disk.end();
                site.place.write(Write::Entries(entries), vec![Done::Answer(answer)]);
                self.witness.appended(site, from);
                site.core.commit(committed_end);
            }
        }
    }

    fn take_snapshot(&mut self, node: NodeId, (leader, term, past): (NodeId, u64, Past), mut answer: Packet) {
        let site = self.site(node);
        let begins = site.core.begins_behind(leader, term, past.last, &site.place);
        self.settle(node);
        let bond = match begins {
            Ok(bond) => bond,
            Err(reply) => {
                answer.said = Said::Replied(Some(reply));
                return self.when_saved(node, answer);
            }
        };
        // Durable, with all that was queued before, before the log lets go of anything.
        while !self.sites[&node].place.queue.is_empty() {
            for done in self.site(node).place.flush_one() {
                self.done(node, done);
            }
        }
        let site = self.site(node);
        if site.place.disk.begin() <= past.last.index {
            let anew = site.place.disk.term_of(past.last.index) != Some(past.last.term);
            site.place.begin_behind(past.clone());
            site.core.began_behind(past.last, past.since, past.members, anew);
        }
        answer.said = Said::Replied(Some(Reply::Holds { end: past.last.index + 1, bond }));
        self.when_saved(node, answer);
    }

    /// The connection asks the leader for what to send.
    pub(super) fn feed(&mut self, node: NodeId, to: NodeId) {
        let site = self.site(node);
        if !site.place.reaches(to) {
            site.core.lost(to);
            return self.settle(node);
        }
        match site.core.next_for(to, &site.place) {
            Next::Nothing => {}
            Next::Snapshot { session, term } => {
                if let Some(past) = site.place.disk.past.clone() {
                    self.ask(node, to, Said::Snapshot { term, past }, Some(Asked::Snapshot { session, term }));
                }
            }
            Next::Entries { session, term, prev, from, committed_end, bare } => {
                let end = if bare { from } else { site.place.disk.end().min(from + APPEND_ENTRIES_MAX) };
                let entries = (from..end).filter_map(|index| site.place.disk.entry(index).cloned()).collect();
                if site.core.sent(to, session, term, (from, end), committed_end, &site.place) {
                    let append = Append { term, leader: node, prev, entries, committed_end };
                    self.ask(node, to, Said::Append(append), Some(Asked::Append { session, term }));
                }
            }
        }
        self.settle(node);
    }

    pub(super) fn pulse(&mut self, node: NodeId) {
        let (process, pulse) = (self.sites[&node].place.liveness.process(), Duration::from_millis(TIMING.heartbeat_ms));
        let mut lost = false;
        for to in self.others(node) {
            self.ask(node, to, Said::Pulse { process }, Some(Asked::Pulse(Instant::now())));
            let now = self.sites[&node].place.liveness.bond(to);
            lost |= now.is_none();
            let before = match now {
                Some(bond) => self.bonds.insert((node, to), bond),
                None => self.bonds.remove(&(node, to)),
            };
            if now.is_some() && now != before {
                let site = self.site(node);
                site.core.contact(to, &site.place);
            }
        }
        if lost {
            let site = self.site(node);
            site.core.mind_quorum(&site.place);
        }
        self.plan(pulse, Event::Pulse(node));
        self.settle(node);
    }

    /// Who is gone is known at once, what follows from it in a group a little later.
    pub(super) fn watch(&mut self, node: NodeId) {
        for lost in self.sites[&node].place.liveness.newly_gone() {
            let soon = self.dice.micros(10_000);
            self.plan(soon, Event::Orphan { node, lost });
        }
        let again = self.dice.micros(20_000);
        self.plan(again, Event::Watch(node));
    }

    fn rouse(&mut self, node: NodeId, from: NodeId) {
        let site = self.site(node);
        if site.core.leader() == Some(node) {
            for member in site.core.members().all() {
                site.core.contact(member, &site.place);
            }
        } else {
            self.release(node, from, 0);
        }
    }

    /// Says up to which term this node leads no more, and says it again: it is not known whether that was heard.
    pub(super) fn release(&mut self, from: NodeId, to: NodeId, tries: u32) {
        let site = &self.sites[&from];
        let vote = site.core.vote();
        let may_lead = vote.node == from && (site.leads() || !vote.led);
        let term = if may_lead { vote.term.saturating_sub(1) } else { vote.term };
        if site.place.reaches(to) {
            self.ask(from, to, Said::Release { term }, Some(Asked::Release));
        } else if tries < RELEASES_MAX {
            self.plan_in_life(AGAIN, Event::Release { from, to, tries: tries + 1 }, u64::MAX);
        }
    }

    fn hear_release(&mut self, node: NodeId, leader: NodeId, term: u64) {
        let patience = self.patience(node, leader);
        let site = self.site(node);
        let vote = site.core.vote();
        if vote.node == leader && vote.term <= term {
            site.core.was_released(vote.term, patience, &site.place);
        }
    }

    /// A leader lets go of what all have applied, up to `end`.
    pub fn let_go(&mut self, node: NodeId, end: u64) {
        let site = self.site(node);
        let end = end.min(site.core.committed_end()).min(site.place.durable_end());
        let index = end.checked_sub(1).filter(|index| *index >= site.place.disk.begin());
        let last = index.and_then(|index| Some(LogPosition { term: site.place.disk.term_of(index)?, index }));
        if let Some(last) = last.filter(|_| site.place.queue.is_empty()) {
            let (since, members) = site.core.history().at(last.index);
            site.place.begin_behind(Past { last, since, members });
        }
    }
}
