//! Several cores on one paused clock: a network that delays, repeats, reorders and loses, connections that break with all that is on its way over
//! them, slow disks, and what a host does for its core (`crate::group`, `crate::node`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::site::{Done, Past, Site, Write};
use super::witness::Witness;
use crate::NodeId;
use crate::consensus::election::{Ballot, Cast};
use crate::consensus::follower::{Append, Reply};
use crate::consensus::{Effect, Ground};
use crate::log::LogPosition;
use crate::peer::liveness::Bond;

/// Calls at one moment after which a core is taken to ask for ever.
const CALLS_MAX: u32 = 10_000;
const TURN: Duration = Duration::from_millis(150);

#[derive(Debug, Clone)]
pub enum Said {
    Append(Append),
    Snapshot { term: u64, past: Past },
    Ballot(Ballot),
    Offer { term: u64, last: Option<LogPosition> },
    Pulse { process: u64 },
    Rouse,
    Release { term: u64 },
    // Answers; None is a refusal.
    Replied(Option<Reply>),
    Voted(Cast),
    Acknowledged(Bond),
    Heard,
}

/// A question, or the answer of that number.
#[derive(Debug, Clone)]
pub struct Packet {
    pub from: NodeId,
    pub to: NodeId,
    pub number: u64,
    pub said: Said,
}

/// What an asker does with the answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Append { session: u64, term: u64 },
    Snapshot { session: u64, term: u64 },
    Ballot(Ballot),
    Pulse(Instant),
    Release,
}

#[derive(Debug)]
pub(super) enum Event {
    Arrive(Packet),
    /// The connection has room for a request.
    Feed {
        from: NodeId,
        to: NodeId,
    },
    Flush(NodeId),
    Pulse(NodeId),
    Watch(NodeId),
    Orphan {
        node: NodeId,
        lost: NodeId,
    },
    Release {
        from: NodeId,
        to: NodeId,
        tries: u32,
    },
    Dial {
        from: NodeId,
        to: NodeId,
    },
    Sever {
        from: NodeId,
        to: NodeId,
    },
}

/// xorshift64, so that a seed tells everything.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn of(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end.max(1)
    }
    pub fn in_thousand(&mut self, chances: u64) -> bool {
        self.below(1000) < chances
    }
    pub fn micros(&mut self, end: u64) -> Duration {
        Duration::from_micros(1 + self.below(end))
    }
    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len() as u64) as usize).copied()
    }
}

#[derive(Debug)]
pub struct World {
    pub sites: BTreeMap<NodeId, Site>,
    pub dice: Dice,
    pub witness: Witness,
    /// Pairs, in either order, that cannot reach each other.
    pub parted: BTreeSet<(NodeId, NodeId)>,
    /// Disks that are slow.
    pub slow: BTreeSet<NodeId>,
    /// The network is as it should be.
    pub calm: bool,
    pub(super) events: BTreeMap<(Instant, u64), (Event, u64)>,
    pub(super) next: u64,
    /// By number: who asked whom, and what.
    pub(super) waiting: BTreeMap<u64, (NodeId, NodeId, Asked)>,
    /// Appends, and their answers, arrive in order.
    pub(super) last_arrival: BTreeMap<(NodeId, NodeId, bool), Instant>,
    leading: BTreeSet<NodeId>,
    pub(super) bonds: BTreeMap<(NodeId, NodeId), Bond>,
    calls: (Option<Instant>, u32),
}

impl World {
    pub fn of(sites: Vec<Site>, seed: u64) -> World {
        let sites: BTreeMap<NodeId, Site> = sites.into_iter().map(|site| (site.id, site)).collect();
        let mut world = World {
            dice: Dice::of(seed),
            witness: Witness::default(),
            parted: BTreeSet::new(),
            slow: BTreeSet::new(),
            calm: false,
            events: BTreeMap::new(),
            next: 0,
            waiting: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            leading: BTreeSet::new(),
            bonds: BTreeMap::new(),
            calls: (None, 0),
            sites,
        };
        world.nodes().into_iter().for_each(|node| world.began(node));
        world
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.sites.keys().copied().collect()
    }
    pub fn others(&self, node: NodeId) -> Vec<NodeId> {
        self.sites.keys().copied().filter(|other| *other != node).collect()
    }
    pub fn site(&mut self, node: NodeId) -> &mut Site {
        self.sites.get_mut(&node).expect("a node of this world")
    }
    pub fn leader(&self) -> Option<NodeId> {
        let leads = self.sites.values().filter(|site| site.up && site.leads());
        leads.max_by_key(|site| site.core.vote().term).map(|site| site.id)
    }

    /// A node lives from now on.
    pub fn began(&mut self, node: NodeId) {
        self.witness.appended(&self.sites[&node], 0);
        let soon = self.dice.micros(100_000);
        self.plan(soon, Event::Pulse(node));
        self.plan(soon, Event::Watch(node));
        for other in self.others(node) {
            for (from, to) in [(node, other), (other, node)] {
                let soon = self.dice.micros(20_000);
                self.plan(soon, Event::Dial { from, to });
            }
        }
        self.settle(node);
    }

    /// An event is void once the node it happens at has died.
    pub(super) fn plan(&mut self, after: Duration, event: Event) {
        let (Event::Feed { from: node, .. } | Event::Flush(node) | Event::Pulse(node) | Event::Watch(node) | Event::Orphan { node, .. }) =
            event
        else {
            return self.plan_in_life(after, event, u64::MAX);
        };
        let process = self.sites[&node].place.liveness.process();
        self.plan_in_life(after, event, process);
    }

    pub(super) fn plan_in_life(&mut self, after: Duration, event: Event, life: u64) {
        self.next += 1;
        self.events.insert((Instant::now() + after, self.next), (event, life));
    }

    /// Lives on for so long, or until something is wrong.
    pub async fn run(&mut self, for_long: Duration) -> Result<(), String> {
        let until = Instant::now() + for_long;
        loop {
            let call = self.sites.values().filter(|site| site.up).filter_map(|site| Some((site.core.due()?, site.id))).min();
            let event = self.events.first_key_value().map(|(at, _)| *at);
            let next = call.map(|(at, _)| at).into_iter().chain(event.map(|(at, _)| at)).min().unwrap_or(until);
            let now = Instant::now();
            if next > now {
                tokio::time::advance(next.min(until) - now).await;
            }
            self.witness.look_at_leases(&self.sites);
            if next > until || self.witness.broken.is_some() {
                return self.witness.broken.clone().map_or(Ok(()), Err);
            }
            match call.filter(|(at, _)| event.is_none_or(|(event, _)| *at <= event)) {
                Some((at, node)) => self.call(at, node),
                None => self.happen(),
            }
            self.witness.look_at_leases(&self.sites);
        }
    }

    fn call(&mut self, at: Instant, node: NodeId) {
        let site = self.site(node);
        site.core.tick(&site.place);
        self.calls = if self.calls.0 == Some(at) { (Some(at), self.calls.1 + 1) } else { (Some(at), 0) };
        if self.calls.1 > CALLS_MAX {
            self.witness.broken = Some(format!("a core asks to be called again and again: {:?}", self.sites[&node].core));
        }
        self.settle(node);
    }

    fn happen(&mut self) {
        let Some((_, (event, life))) = self.events.pop_first() else { return };
        let lives = |world: &World, node: NodeId| {
            let site = &world.sites[&node];
            site.up && (life == u64::MAX || site.place.liveness.process() == life)
        };
        match event {
            Event::Arrive(packet) if lives(self, packet.to) => self.arrive(packet),
            Event::Feed { from, to } if lives(self, from) => self.feed(from, to),
            Event::Flush(node) if lives(self, node) => self.flush(node),
            Event::Pulse(node) if lives(self, node) => self.pulse(node),
            Event::Watch(node) if lives(self, node) => self.watch(node),
            Event::Orphan { node, lost } if lives(self, node) => {
                let patience = self.patience(node, lost);
                let site = self.site(node);
                site.core.was_orphaned(lost, patience, &site.place);
                self.settle(node);
            }
            Event::Release { from, to, tries } if lives(self, from) => self.release(from, to, tries),
            Event::Dial { from, to } => self.dial(from, to),
            Event::Sever { from, to } => self.sever(from, to),
            _ => {}
        }
    }

    /// A turn for each live voter before it in line.
    pub(super) fn patience(&self, node: NodeId, lost: NodeId) -> Duration {
        let site = &self.sites[&node];
        let line = site.core.members().voters().into_iter().filter(|other| *other != lost && !site.place.liveness.is_gone(*other));
        TURN * line.take_while(|other| *other != node).count() as u32
    }

    /// Carries out what a core has left to do.
    pub fn settle(&mut self, node: NodeId) {
        loop {
            let effects = self.site(node).core.take_effects();
            if effects.is_empty() {
                break;
            }
            effects.into_iter().for_each(|effect| self.carry_out(node, effect));
        }
        if !self.sites[&node].place.queue.is_empty() {
            let slowly = if self.slow.contains(&node) { 300_000 } else { 3_000 };
            let soon = self.dice.micros(slowly);
            self.plan(soon, Event::Flush(node));
        }
        self.witness.look(&self.sites[&node]);
        let leads = self.sites[&node].leads();
        if !leads && self.leading.remove(&node) && self.sites[&node].up {
            for to in self.others(node) {
                let soon = self.dice.micros(20_000);
                self.plan_in_life(soon, Event::Release { from: node, to, tries: 0 }, u64::MAX);
            }
        }
        if leads {
            self.leading.insert(node);
        }
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        let site = self.sites.get_mut(&node).expect("a node of this world");
        match effect {
            Effect::Save(vote) => site.place.write(Write::Vote(vote), vec![Done::Saved(vote)]),
            Effect::Append(entry) => {
                site.place.write(Write::Entries(vec![entry.clone()]), vec![Done::Flushed]);
                self.witness.appended(site, entry.index);
                site.core.stored(&[entry], &site.place);
            }
            Effect::Ask { to, ballot } => self.ask(node, to, Said::Ballot(ballot), Some(Asked::Ballot(ballot))),
            Effect::Feed(to) if site.place.reaches(to) => {
                let soon = self.dice.micros(1_000);
                self.plan(soon, Event::Feed { from: node, to });
            }
            Effect::Feed(to) => site.core.lost(to),
            Effect::Offer { to, term, last } => self.ask(node, to, Said::Offer { term, last }, None),
            Effect::Rouse(leader) => self.ask(node, leader, Said::Rouse, None),
        }
    }

    fn flush(&mut self, node: NodeId) {
        for done in self.site(node).place.flush_one() {
            self.done(node, done);
        }
        self.settle(node);
    }

    pub(super) fn done(&mut self, node: NodeId, done: Done) {
        let site = self.sites.get_mut(&node).expect("a node of this world");
        match done {
            Done::Saved(vote) => site.core.saved(vote, &site.place),
            Done::Flushed => site.core.flushed(&site.place),
            Done::Answer(packet) => self.send(packet),
        }
    }
}
