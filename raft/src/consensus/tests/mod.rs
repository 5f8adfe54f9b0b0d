//! The core alone, in worlds in memory: a randomised one that a witness watches, and small ones named after what could go wrong.

mod feeding;
mod hazards;
mod network;
mod site;
mod witness;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::members::Members;
use super::*;
use crate::env::Mutations;
use crate::log::FrameKind;
use site::{Disk, Site, TIMING, founding};
use world::World;

const SEEDS: u64 = 100;
const FAULTS_FOR: Duration = Duration::from_secs(15);
/// From the last fault on until there is a leader and all hold the same.
const HEALS_WITHIN: Duration = Duration::from_millis(8 * TIMING.election_max_ms);
const NODES: [NodeId; 5] = [1, 2, 3, 4, 5];

fn world(seed: u64, mutations: Mutations) -> World {
    let founders = NODES.len() as u64 - (seed % 3);
    let voters: Vec<NodeId> = (1..=founders).collect();
    let site = |id: NodeId| {
        let others: Vec<NodeId> = NODES.into_iter().filter(|other| *other != id).collect();
        let entries = if voters.contains(&id) { vec![founding(&voters)] } else { Vec::new() };
        let mut site = Site::new(id, &others, Disk { entries, ..Disk::default() }, mutations);
        if voters.contains(&id) {
            site.core.founded(id == 1, &site.place);
        }
        site
    };
    World::of(NODES.map(site).into(), seed)
}

impl World {
    fn propose(&mut self) {
        let Some(leader) = self.dice.one_of(&NODES) else { return };
        for _ in 0..1 + self.dice.below(6) {
            let payload = format!("{}", self.dice.below(u64::MAX));
            let site = self.site(leader);
            if !site.up {
                return;
            }
            if let Ok(entry) = site.core.propose(FrameKind::Command, 0, payload.into(), None, &site.place) {
                self.append(leader, entry);
            }
        }
    }

    fn append(&mut self, node: NodeId, entry: LogEntry) {
        let site = self.sites.get_mut(&node).expect("a node of this world");
        site.place.write(site::Write::Entries(vec![entry.clone()]), vec![site::Done::Flushed]);
        self.witness.appended(site, entry.index);
        site.core.stored(&[entry], &site.place);
        self.settle(node);
    }

    /// One step on the way to other members: a joint set, or its end.
    fn reconfigure(&mut self) {
        let Some(leader) = self.leader() else { return };
        let mut drawn: BTreeSet<NodeId> = NODES.into_iter().filter(|_| self.dice.in_thousand(600)).collect();
        drawn.insert(self.dice.one_of(&NODES).unwrap_or(1));
        let learners: BTreeSet<NodeId> = NODES.into_iter().filter(|node| !drawn.contains(node) && self.dice.in_thousand(300)).collect();
        let site = self.site(leader);
        let sets = site.core.members().sets().to_vec();
        let members = match sets.as_slice() {
            [_, newer] => Members::of(vec![newer.clone()], learners.difference(newer).copied().collect()),
            _ => Members::of(sets.into_iter().chain([drawn]).collect(), BTreeSet::new()),
        };
        if let Ok(entry) = site.core.propose_members(&members, &site.place) {
            self.append(leader, entry);
        }
    }

    fn crash(&mut self, node: NodeId) {
        let kept = self.dice.below(4) as usize;
        if !self.sites[&node].up {
            return;
        }
        for other in self.others(node) {
            self.sever(other, node);
            self.sever(node, other);
        }
        self.site(node).crash(kept);
        self.settle(node);
    }

    fn restart(&mut self, node: NodeId) {
        let (others, seed) = (self.others(node), self.dice.below(u64::MAX));
        if !self.sites[&node].up {
            self.site(node).start(&others, seed);
            self.began(node);
        }
    }

    fn reopen(&mut self, node: NodeId) {
        let seed = self.dice.below(u64::MAX);
        if self.sites[&node].up {
            if self.dice.in_thousand(300) {
                self.site(node).core.fail("a damaged file".to_owned());
            }
            for done in self.site(node).reopen(seed) {
                self.done(node, done);
            }
            self.settle(node);
        }
    }

    fn fault(&mut self) {
        let (Some(one), Some(other)) = (self.dice.one_of(&NODES), self.dice.one_of(&NODES)) else { return };
        match self.dice.below(100) {
            0..45 => self.propose(),
            45..48 => self.crash(one),
            48..68 => self.restart(one),
            68..72 => self.reopen(one),
            72..78 if one != other => self.part(one, other),
            78..80 => self.others(one).into_iter().for_each(|other| self.part(one, other)),
            80..86 => self.parted.clear(),
            86..90 if one != other => self.sever(one, other),
            90..92 => {
                if !self.slow.remove(&one) {
                    self.slow.insert(one);
                }
            }
            92..95 => {
                let site = self.site(one);
                if site.up && site.leads() {
                    site.core.offer(other, &site.place);
                    self.settle(one);
                }
            }
            95..98 => self.reconfigure(),
            _ => {
                let end = self.sites[&one].core.committed_end().saturating_sub(self.dice.below(20));
                self.let_go(one, end);
            }
        }
    }

    fn heal(&mut self) {
        self.calm = true;
        self.parted.clear();
        self.slow.clear();
        NODES.into_iter().for_each(|node| self.restart(node));
    }
}

async fn play(seed: u64, mutations: Mutations) -> Result<World, String> {
    let mut world = world(seed, mutations);
    let until = Instant::now() + FAULTS_FOR;
    while Instant::now() < until {
        world.fault();
        let pause = world.dice.micros(60_000);
        world.run(pause).await?;
    }
    world.heal();
    world.run(HEALS_WITHIN).await?;
    world.witness.require_convergence(&world.sites);
    world.run(Duration::ZERO).await?;
    Ok(world)
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_nothing_committed_is_lost_and_nobody_leads_beside_another() {
    let (mut terms, mut committed) = (0, 0);
    for seed in 0..SEEDS {
        match play(seed, Mutations::default()).await {
            Ok(world) => {
                terms += world.witness.terms_led();
                committed += world.witness.committed().len();
            }
            Err(broken) => panic!("seed {seed}: {broken}"),
        }
    }
    // Or nothing was tried.
    assert!(terms > 2 * SEEDS as usize && committed > 30 * SEEDS as usize, "{terms} terms, {committed} entries");
}
