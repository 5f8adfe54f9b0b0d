//! Sees all that happens in a world, and says when it is not Raft.

use std::collections::BTreeMap;

use super::site::Site;
use crate::NodeId;
use crate::consensus::Ground;
use crate::log::LogEntry;

#[derive(Debug, Default)]
pub struct Witness {
    /// Every entry that ever stood in a log, by index and term, with the term of the one before it.
    entries: BTreeMap<(u64, u64), (LogEntry, Option<u64>)>,
    /// What has ever been committed, by anybody.
    committed: Vec<LogEntry>,
    /// Who led a term, in which of its lives.
    leaders: BTreeMap<u64, (NodeId, u64)>,
    votes: BTreeMap<(NodeId, u64), NodeId>,
    /// Up to where each replica's commits have been looked at, in which of its lives.
    looked: BTreeMap<NodeId, (u64, u64)>,
    pub broken: Option<String>,
}

impl Witness {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }
    pub fn committed(&self) -> &[LogEntry] {
        &self.committed
    }

    /// Log matching: whoever holds an entry of that index and term holds the same one, behind the same one.
    pub fn appended(&mut self, site: &Site, from: u64) {
        let disk = &site.place.disk;
        for index in from.max(disk.begin())..disk.end() {
            let Some(entry) = disk.entry(index) else { continue };
            let before = index.checked_sub(1).and_then(|before| disk.term_of(before));
            let new = (entry.clone(), before);
            let held = self.entries.entry((index, entry.term)).or_insert_with(|| new.clone());
            let same = *held == new;
            self.require(same, || format!("node {} holds another entry {index} of term {}", site.id, new.0.term));
        }
    }

    /// A vote has been given and whoever gave it cannot forget it any more, or should not.
    pub fn voted(&mut self, voter: NodeId, term: u64, candidate: NodeId) {
        let before = *self.votes.entry((voter, term)).or_insert(candidate);
        // Whoever leads a term needs no more votes in it.
        let harmless = self.leaders.get(&term).is_some_and(|(leader, _)| *leader == candidate);
        self.require(before == candidate || harmless, || format!("node {voter} votes for {before} and for {candidate} in term {term}"));
    }

    /// Something has happened at this node.
    pub fn look(&mut self, site: &Site) {
        if !site.up {
            return;
        }
        if let Some(failure) = site.core.failure() {
            self.require(false, || format!("node {} cannot go on: {failure}", site.id));
        }
        if site.leads() {
            self.look_at_leader(site);
        }
        self.look_at_commits(site);
    }

    fn look_at_leader(&mut self, site: &Site) {
        let (term, me) = (site.core.vote().term, (site.id, site.life));
        if self.leaders.contains_key(&term) {
            let first = self.leaders[&term];
            return self.require(first == me, || format!("term {term} is led by {first:?} and by {me:?}"));
        }
        self.leaders.insert(term, me);
        self.voted(site.id, term, site.id);
        let disk = &site.place.disk;
        let lacking = self.committed.iter().find(|entry| entry.index >= disk.begin() && disk.entry(entry.index) != Some(entry));
        let lacking = lacking.map(|entry| (entry.index, entry.term));
        self.require(lacking.is_none(), || format!("node {} leads term {term} without the committed entry {lacking:?}", site.id));
    }

    fn look_at_commits(&mut self, site: &Site) {
        let disk = &site.place.disk;
        let (from, end) = match self.looked.get(&site.id) {
            Some((from, life)) if *life == site.life => (*from, site.core.committed_end()),
            _ => (disk.begin(), site.core.committed_end()),
        };
        self.require(end <= disk.end(), || format!("node {} has committed more than it holds", site.id));
        for index in from.max(disk.begin())..end.min(disk.end()) {
            let Some(entry) = disk.entry(index).cloned() else { continue };
            match self.committed.get(index as usize) {
                Some(held) => {
                    let same = *held == entry;
                    self.require(same, || format!("node {} has committed another entry {index}", site.id));
                }
                None => {
                    let next = self.committed.len() as u64 == index;
                    self.require(next, || format!("node {} has committed entry {index} before what stands before it", site.id));
                    self.committed.push(entry);
                }
            }
        }
        self.looked.insert(site.id, (end, site.life));
    }

    /// Nobody else may lead while somebody answers from what it holds.
    pub fn look_at_leases(&mut self, sites: &BTreeMap<NodeId, Site>) {
        let holding = sites.values().filter(|site| site.up && site.core.holds_lease(&site.place));
        let holding: Vec<(NodeId, u64)> = holding.map(|site| (site.id, site.core.vote().term)).collect();
        self.require(holding.len() < 2, || format!("two leases at once: (node, term) {holding:?}"));
        if let [(node, term)] = holding[..] {
            let later = self.leaders.keys().next_back().copied().filter(|later| *later > term);
            self.require(later.is_none(), || format!("node {node} holds a lease in term {term}, and {later:?} is led"));
        }
    }

    /// All is well again: everybody who votes holds the same, and all of it is committed.
    pub fn require_convergence(&mut self, sites: &BTreeMap<NodeId, Site>) {
        let sites: Vec<&Site> = sites.values().filter(|site| site.up).collect();
        let Some(leader) = sites.iter().find(|site| site.leads() && site.core.holds_lease(&site.place)) else {
            let state: Vec<String> = sites.iter().map(|site| format!("{:?}", site.core)).collect();
            return self.require(false, || format!("nobody leads: {}", state.join("\n")));
        };
        let end = leader.place.disk.end();
        for site in sites.iter().filter(|site| leader.core.members().all().contains(&site.id)) {
            let holds = (site.place.last(), site.place.durable_end(), site.core.committed_end());
            let all = (leader.place.last(), end, end);
            self.require(holds == all, || format!("node {} holds {holds:?} instead of {all:?}: {:?}", site.id, leader.core));
        }
    }
}
