//! One node in memory: a core, and the log, disk and neighbours that it looks at. What is written becomes durable in the order in which it was
//! queued, and a crash takes the rest.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::world::Packet;
use crate::NodeId;
use crate::consensus::members::{History, Members};
use crate::consensus::{Core, Ground, Held, Pace, Vote};
use crate::env::Mutations;
use crate::log::{FrameKind, LogEntry, LogPosition};
use crate::node::Timing;
use crate::peer::liveness::{Bond, Liveness};

pub const TIMING: Timing = Timing { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 };

pub fn pace(liveness: &Liveness) -> Pace {
    let ms = Duration::from_millis;
    Pace {
        election_min: ms(TIMING.election_min_ms),
        election_max: ms(TIMING.election_max_ms),
        spans: liveness.spans(),
        commit_told_within: ms(100),
    }
}

/// What stands for the part of a log that was let go of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    pub last: LogPosition,
    pub since: Option<u64>,
    pub members: Members,
}

/// A log, and the vote beside it.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub vote: Vote,
    pub past: Option<Past>,
    pub entries: Vec<LogEntry>,
}

impl Disk {
    pub fn begin(&self) -> u64 {
        self.past.as_ref().map_or(0, |past| past.last.index + 1)
    }
    pub fn end(&self) -> u64 {
        self.begin() + self.entries.len() as u64
    }
    pub fn last(&self) -> Option<LogPosition> {
        let entry = self.entries.last().map(|entry| LogPosition { term: entry.term, index: entry.index });
        entry.or(self.past.as_ref().map(|past| past.last))
    }
    pub fn entry(&self, index: u64) -> Option<&LogEntry> {
        self.entries.get(usize::try_from(index.checked_sub(self.begin())?).ok()?)
    }
    pub fn term_of(&self, index: u64) -> Option<u64> {
        let past = self.past.as_ref().filter(|past| past.last.index == index).map(|past| past.last.term);
        self.entry(index).map(|entry| entry.term).or(past)
    }

    fn cut(&mut self, end: u64) {
        self.entries.truncate(end.saturating_sub(self.begin()) as usize);
    }

    /// Lets go of what `past` stands for, and of all else where it contradicts that.
    pub fn begin_behind(&mut self, past: Past) {
        let kept = if self.term_of(past.last.index) == Some(past.last.term) { past.last.index + 1 - self.begin() } else { u64::MAX };
        self.entries.drain(..(kept as usize).min(self.entries.len()));
        self.past = Some(past);
    }

    fn history(&self) -> History {
        let first = self.past.as_ref().map_or((None, Members::default()), |past| (past.since, past.members.clone()));
        let mut history = History::of(vec![first]);
        for entry in self.entries.iter().filter(|entry| entry.kind == FrameKind::Membership) {
            history.push(entry.index, serde_json::from_slice(&entry.payload).expect("members"));
        }
        history
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Vote(vote) => self.vote = vote,
            Write::Entries(entries) => self.entries.extend(entries),
            Write::Cut(end) => self.cut(end),
        }
    }
}

#[derive(Debug, Clone)]
pub enum Write {
    Vote(Vote),
    Entries(Vec<LogEntry>),
    Cut(u64),
}

/// What follows once a write is durable.
#[derive(Debug)]
pub enum Done {
    Saved(Vote),
    Flushed,
    Answer(Packet),
}

/// All that a core looks at.
#[derive(Debug)]
pub struct Place {
    /// As it is with everything queued.
    pub disk: Disk,
    durable: Disk,
    pub queue: VecDeque<(Write, Vec<Done>)>,
    pub liveness: Liveness,
    pub reached: BTreeSet<NodeId>,
    pub mutations: Mutations,
}

impl Place {
    pub fn write(&mut self, write: Write, done: Vec<Done>) {
        self.disk.write(write.clone());
        self.queue.push_back((write, done));
    }

    /// The oldest write that is not durable becomes so.
    pub fn flush_one(&mut self) -> Vec<Done> {
        let Some((write, done)) = self.queue.pop_front() else { return Vec::new() };
        self.durable.write(write);
        done
    }

    /// Once every vote is durable; at once where all are.
    pub fn when_saved(&mut self, done: Done) -> Option<Done> {
        match self.queue.iter_mut().rev().find(|(write, _)| matches!(write, Write::Vote(_))) {
            Some((_, then)) => {
                then.push(done);
                None
            }
            None => Some(done),
        }
    }

    /// Behind everything that is queued, which is durable by now.
    pub fn begin_behind(&mut self, past: Past) {
        assert!(self.queue.is_empty(), "what is queued comes first");
        self.disk.begin_behind(past);
        self.durable = self.disk.clone();
    }

    /// Power fails: of what was queued, `kept` writes have come to be durable though nobody was told.
    fn crash(&mut self, kept: usize) {
        self.queue.drain(..).take(kept).for_each(|(write, _)| self.durable.write(write));
        self.disk = self.durable.clone();
    }
}

impl Ground for Place {
    fn now(&self) -> Instant {
        Instant::now()
    }
    fn last(&self) -> Option<LogPosition> {
        self.disk.last()
    }
    fn begin(&self) -> u64 {
        self.disk.begin()
    }
    fn end(&self) -> u64 {
        self.disk.end()
    }
    fn term_of(&self, index: u64) -> io::Result<Option<u64>> {
        Ok(self.disk.term_of(index))
    }
    fn durable_end(&self) -> u64 {
        let cut = |(write, _): &(Write, Vec<Done>)| if let Write::Cut(end) = write { Some(*end) } else { None };
        self.queue.iter().filter_map(cut).fold(self.durable.end(), u64::min)
    }
    fn promised_until(&self, leader: NodeId) -> Option<Instant> {
        self.liveness.promised_until(leader)
    }
    fn leave(&self, leader: NodeId) -> bool {
        self.liveness.leave(leader)
    }
    fn forsake(&self, leader: NodeId) {
        self.liveness.withdraw(leader);
    }
    fn acknowledged(&self, node: NodeId) -> Option<(Instant, Bond)> {
        self.liveness.acknowledgement(node)
    }
    fn bond_with(&self, leader: NodeId) -> Bond {
        Bond { process: self.liveness.process(), promise: self.liveness.promise(leader) }
    }
    fn reaches(&self, node: NodeId) -> bool {
        self.reached.contains(&node)
    }
    fn takes_part(&self) -> bool {
        true
    }
    fn mutations(&self) -> Mutations {
        self.mutations
    }
}

/// The entry with which a group's logs begin.
pub fn founding(voters: &[NodeId]) -> LogEntry {
    membership(&Members::founded_by(voters.iter().copied()), 0, 0)
}

pub fn membership(members: &Members, term: u64, index: u64) -> LogEntry {
    let payload = serde_json::to_vec(members).expect("JSON").into();
    LogEntry { kind: FrameKind::Membership, term, index, append_time_us: 0, payload }
}

pub fn command(term: u64, index: u64, payload: impl AsRef<[u8]>) -> LogEntry {
    let payload = bytes::Bytes::copy_from_slice(payload.as_ref());
    LogEntry { kind: FrameKind::Command, term, index, append_time_us: 0, payload }
}

#[derive(Debug)]
pub struct Site {
    pub id: NodeId,
    pub core: Core,
    pub place: Place,
    pub up: bool,
    /// Counts its processes and the openings of its replica.
    pub life: u64,
}

impl Site {
    pub fn new(id: NodeId, others: &[NodeId], disk: Disk, mutations: Mutations) -> Site {
        let liveness = Liveness::new(id * 1_000_000, TIMING);
        liveness.set(others.iter().copied());
        let core = Core::new(id, pace(&liveness), held(&disk), id, Instant::now());
        let (durable, queue, reached) = (disk.clone(), VecDeque::new(), BTreeSet::new());
        Site { id, core, place: Place { disk, durable, queue, liveness, reached, mutations }, up: true, life: 0 }
    }

    /// The replica is closed, and opened anew in the same process: all that was queued is durable.
    pub fn reopen(&mut self, seed: u64) -> Vec<Done> {
        self.core.stop(&self.place);
        let mut done = Vec::new();
        while !self.place.queue.is_empty() {
            done.extend(self.place.flush_one());
        }
        self.open(seed);
        done.into_iter().filter(|done| matches!(done, Done::Answer(_))).collect()
    }

    pub fn crash(&mut self, kept: usize) {
        self.place.crash(kept);
        (self.up, self.life) = (false, self.life + 1);
        self.place.reached.clear();
        self.core.fail("it has crashed".to_owned());
    }

    /// Another process.
    pub fn start(&mut self, others: &[NodeId], seed: u64) {
        self.place.liveness = Liveness::new(self.place.liveness.process() + 1, TIMING);
        self.place.liveness.set(others.iter().copied());
        self.up = true;
        self.open(seed);
    }

    fn open(&mut self, seed: u64) {
        self.life += 1;
        self.core = Core::new(self.id, pace(&self.place.liveness), held(&self.place.disk), seed, Instant::now());
    }

    pub fn leads(&self) -> bool {
        self.core.lead().is_some()
    }
}

/// Nothing is known of commits but what was let go of; a core learns the rest.
fn held(disk: &Disk) -> Held {
    Held { vote: disk.vote, members: disk.history(), committed_end: disk.begin(), bound_by: None }
}
