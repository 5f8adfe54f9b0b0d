//! One replica's repair: from the sound prefix of its log to all that it may ever have acknowledged.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::wire::{Question, Reply};
use super::{Counters, Progress, set_mark};
use crate::batch::Batch;
use crate::env::Env;
use crate::group::founding;
use crate::group::snapshot::{Snapshot, Snapshots};
use crate::group::votes::{raise_vote, stored_vote};
use crate::log::{FrameKind, Log, LogEntry, LogError, LogPosition, LogSettings, Memory, Place, Rolling, salvage, start_offset_of};
use crate::node::NodeWeak;
use crate::node::trust::{GONE_PATIENCE, TERMS_UNHEARD};
use crate::peer::client::Peers;
use crate::peer::frame::{Kind, Request};
use crate::writer::Writer;
use crate::{GroupId, NodeId};

/// One question to one peer.
const QUESTION_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts while no leader answers.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// Why a repair cannot go on just now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Pause {
    #[error("the disk: {0}")]
    Disk(#[from] io::Error),
    #[error("the log: {0}")]
    Log(#[from] LogError),
    #[error("no leader of the partition answers")]
    NoLeader,
    #[error("node {0} does not say in which term it has voted")]
    Unheard(NodeId),
    #[error("there is no other replica")]
    Alone,
    #[error("node {0} sent entries that do not continue the log")]
    Unfit(NodeId),
    #[error("node {0} sent a snapshot that leads nowhere")]
    Snapshot(NodeId),
}

/// All that one repair needs.
#[derive(Clone)]
pub(crate) struct Task {
    pub env: Env,
    pub writer: Writer,
    pub memory: Memory,
    pub peers: Peers,
    pub node: NodeWeak,
    pub node_id: NodeId,
    /// The log's bytes are at fault; otherwise only the vote and the log's end are not to be believed.
    pub damaged: bool,
    /// Number of the loss of votes that is to be made good, if any is.
    pub lost: Option<u64>,
    /// Nodes that an operator says are gone for good; see [`crate::node::trust`].
    pub gone: BTreeSet<NodeId>,
    pub began: Instant,
    pub group: GroupId,
    /// Who formed the group, where it has never moved; otherwise nobody.
    pub founders: Vec<NodeId>,
    pub directory: PathBuf,
    /// Where damaged files are kept until the repair is over.
    pub aside: PathBuf,
    pub rolling: Rolling,
    pub counters: Arc<Counters>,
    pub progress: Arc<Progress>,
}

impl Task {
    /// True once the log holds all that it has to; false when `cancelled` came first. The mark is still set.
    pub async fn run(&self, mut cancelled: watch::Receiver<bool>) -> bool {
        let mut pause = AGAIN;
        let mut damaged = self.damaged;
        loop {
            if *cancelled.borrow() {
                return false;
            }
            // Not to be left halfway: it moves files. What nobody else has is left as it is.
            let salvaged = match self.is_alone().await {
                Ok(true) if damaged => Err(Pause::Alone),
                Ok(false) if damaged => self.salvage().await.map_err(Pause::from),
                undamaged => undamaged.map(|_| ()),
            };
            let outcome = match salvaged {
                Ok(()) if self.env.mutations().trust_damaged => return true,
                Ok(()) => tokio::select! {
                    biased;
                    _ = cancelled.wait_for(|cancelled| *cancelled) => return false,
                    outcome = self.fetch() => outcome,
                },
                Err(reason) => Err(reason),
            };
            let reason = match outcome {
                Ok(()) => return true,
                // Found only now: a log beside a lost meta log, say, of which nobody knows where it begins.
                Err(Pause::Log(error)) if error.is_damage() && !damaged => {
                    damaged = set_mark(&self.writer, self.group, &error.to_string()).await.is_ok();
                    continue;
                }
                Err(reason) => reason.to_string(),
            };
            tracing::debug!(topic = %self.group.topic, partition = self.group.partition, reason, "the repair of a replica waits");
            self.progress.waits(Some(reason));
            tokio::select! {
                biased;
                _ = cancelled.wait_for(|cancelled| *cancelled) => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(AGAIN_MAX);
        }
    }

    fn snapshots(&self) -> Snapshots {
        Snapshots::new(self.group, self.writer.clone())
    }

    async fn salvage(&self) -> io::Result<()> {
        let Task { env, group, directory, aside, .. } = self.clone();
        let simulated = env.disk.is_simulated();
        let purged = self.snapshots().purged()?;
        let work = move || salvage::keep_sound_prefix(&env, group, &directory, &aside, purged);
        if simulated {
            return work();
        }
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    fn open(&self) -> Result<Log, Pause> {
        let settings = LogSettings { group: self.group, rolling: self.rolling };
        let place = Place { env: &self.env, writer: &self.writer, memory: &self.memory };
        Ok(Log::open_behind(place, &self.directory, settings, self.snapshots().purged()?)?)
    }

    async fn fetch(&self) -> Result<(), Pause> {
        let log = self.open()?;
        if self.lost.is_some() {
            raise_vote(&self.writer, self.group, self.node_id, self.latest_term().await?).await?;
        }
        let log = self.catch_up(log).await?;
        // Of the entries' terms, too, the vote is a promise not to go back.
        Ok(raise_vote(&self.writer, self.group, self.node_id, log.last().map_or(0, |last| last.term)).await?)
    }

    /// The latest term in which any other node has voted: this node may have voted in it as well. All of the region are asked, because the
    /// voters have changed, perhaps, since this node last knew them.
    async fn latest_term(&self) -> Result<u64, Pause> {
        let mut latest = 0;
        for node in self.peers.known() {
            let request = Request { kind: Kind::Standing, group: self.group, body: Vec::new() };
            let answer = self.peers.call(node, request, QUESTION_DEADLINE).await.ok();
            match answer.and_then(|answer| Some(u64::from_be_bytes(answer[..].try_into().ok()?))) {
                Some(term) => latest = latest.max(term),
                None if self.is_gone(node) => {}
                None => return Err(Pause::Unheard(node)),
            }
        }
        Ok(latest)
    }

    /// By an operator's word, and by nothing that speaks against it.
    fn is_gone(&self, node: NodeId) -> bool {
        self.gone.contains(&node) && self.began.elapsed() >= GONE_PATIENCE && !self.peers.is_connected(node)
    }

    /// What an operator has accepted: with those that are gone, whatever only they and this node held. Only where no leader is left that
    /// could say what there was, though all that are left have been heard.
    async fn do_without(&self, log: Log) -> Result<Log, Pause> {
        let term = self.latest_term().await?.saturating_add(TERMS_UNHEARD);
        raise_vote(&self.writer, self.group, self.node_id, term).await?;
        let end = log.next_offset();
        tracing::error!(
            topic = %self.group.topic, partition = self.group.partition, gone = ?self.gone, end,
            "a replica takes part again with the log it has: an operator has accepted that what only the nodes that are gone held is lost"
        );
        Ok(log)
    }

    /// Whether there is no other replica, and never was.
    async fn is_alone(&self) -> Result<bool, Pause> {
        let founded_alone = self.founders == [self.node_id];
        Ok(self.peers.known().is_empty() || (founded_alone && self.latest_term().await? == 0))
    }

    /// Whether the group has never come to be: all other founders are sound, have given their word, if it was needed, and hold nothing. So no
    /// majority has ever held anything: whatever was committed, one of them would hold it. They wait for this replica, if it was the one that had
    /// taken the first membership, as it waits for a leader: without that membership they may vote, but not stand.
    fn has_never_begun(&self, empty: &BTreeSet<NodeId>) -> bool {
        let others = self.founders.iter().filter(|node| **node != self.node_id);
        self.group != GroupId::CONTROLLER && self.founders.len() > 1 && others.copied().all(|node| empty.contains(&node))
    }

    /// The first entry of a group that has never come to be is the same on every founder, whoever takes it.
    async fn begin(&self, log: Log) -> Result<Log, Pause> {
        if log.last().is_none() {
            append(&log, vec![founding(&self.founders)?]).await?;
        }
        tracing::info!(topic = %self.group.topic, partition = self.group.partition, "a partition that has never served begins anew");
        Ok(log)
    }

    /// Fetches until the log holds what the leader had when it was asked first.
    async fn catch_up(&self, mut log: Log) -> Result<Log, Pause> {
        if self.is_alone().await? {
            return Ok(log);
        }
        let mut source = Source { task: self, last_good: None, empty: BTreeSet::new() };
        // The leader's term, and its last entry when it was first asked in that term.
        let mut target: Option<(u64, Option<LogPosition>)> = None;
        let mut step_back = 1;
        loop {
            let after = log.last();
            self.progress.next_index.store(after.map_or(0, |after| after.index + 1), Ordering::Relaxed);
            let floor = stored_vote(&self.writer, self.group)?.term;
            let term_min = target.map_or(floor, |(term, _)| term.max(floor));
            let question = Question { after, term_min };
            let (peer, reply) = match source.ask(question).await {
                Err(Pause::NoLeader) if self.has_never_begun(&source.empty) => return self.begin(log).await,
                Err(Pause::NoLeader) if self.gone.iter().any(|node| self.is_gone(*node)) => match source.ask_patiently(question).await? {
                    Some(answer) => answer,
                    None => return self.do_without(log).await,
                },
                answer => answer?,
            };
            match reply {
                Reply::Entries { term, last, entries } => {
                    if target.is_none_or(|(known, _)| known != term) {
                        target = Some((term, last));
                        self.progress.target_index.store(last.map_or(0, |last| last.index), Ordering::Relaxed);
                        self.progress.target_known.store(true, Ordering::Relaxed);
                    }
                    self.progress.waits(None);
                    let reached =
                        |log: &Log| target.is_some_and(|(_, target)| log.last().map(|last| last.index) >= target.map(|last| last.index));
                    if entries.is_empty() && !reached(&log) {
                        return Err(Pause::Unfit(peer));
                    }
                    self.take(&log, peer, term, entries).await?;
                    step_back = 1;
                    if reached(&log) {
                        return Ok(log);
                    }
                }
                Reply::Differs => {
                    // What differs was never committed. Of long differences little more is dropped than has to be.
                    let keep = after.and_then(|after| after.index.checked_sub(step_back));
                    // What has been purged was committed, and cannot differ.
                    let purged = log.purged().map(|purged| purged.index);
                    if purged.is_some() && purged == after.map(|after| after.index) {
                        return Err(Pause::Unfit(peer));
                    }
                    log.truncate_after(keep.filter(|keep| *keep >= log.indexes().start).or(purged)).await?;
                    step_back = step_back.saturating_mul(2);
                }
                // What lies between is held by nobody any more, and nobody has to: the log begins anew behind it.
                Reply::Begins { snapshot } => {
                    let snapshot = Snapshot::decode(&snapshot).map_err(|_| Pause::Snapshot(peer))?;
                    if !self.snapshots().save(&snapshot).await? {
                        return Err(Pause::Snapshot(peer));
                    }
                    log = self.open()?;
                    step_back = 1;
                }
                Reply::NotLeading { .. } | Reply::Empty => return Err(Pause::NoLeader),
            }
        }
    }

    /// Appends what a leader of `term` sent, durably, after it has been found to continue the log.
    async fn take(&self, log: &Log, peer: NodeId, term: u64, entries: Vec<LogEntry>) -> Result<(), Pause> {
        if entries.is_empty() {
            return Ok(());
        }
        if !continues(log, term, &entries) {
            return Err(Pause::Unfit(peer));
        }
        let bytes: u64 = entries.iter().map(|entry| entry.payload.len() as u64).sum();
        append(log, entries).await?;
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        let rate = self.counters.bytes_per_s.load(Ordering::Relaxed).max(1);
        tokio::time::sleep(Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)).await;
        Ok(())
    }
}

/// Durably.
async fn append(log: &Log, entries: Vec<LogEntry>) -> io::Result<()> {
    let (sender, flushed) = oneshot::channel();
    let done = Box::new(move |result| {
        let _ = sender.send(result);
    });
    log.append(entries, done)?;
    flushed.await.map_err(io::Error::other)?
}

/// Whether entries follow on the log in index, term and offset, and every batch's own checksum holds. What did not would be stamped anew.
fn continues(log: &Log, leader_term: u64, entries: &[LogEntry]) -> bool {
    let last = log.last();
    let (mut index, mut term) = (last.map_or(0, |last| last.index + 1), last.map_or(0, |last| last.term));
    let mut offset = log.next_offset();
    entries.iter().all(|entry| {
        let ordered = entry.index == index && (term..=leader_term).contains(&entry.term) && entry.append_time_us > 0;
        (index, term) = (index.saturating_add(1), entry.term);
        if let Some(start) = start_offset_of(entry) {
            offset = offset.max(start);
        }
        let batch = match entry.kind {
            FrameKind::Batch | FrameKind::Mirrored => match Batch::validate(entry.payload.clone()) {
                Ok(batch) => *batch.header(),
                Err(_) => return false,
            },
            _ => return ordered,
        };
        let epoch_fits = entry.kind == FrameKind::Mirrored || u64::try_from(batch.leader_epoch).is_ok_and(|epoch| epoch == entry.term);
        let placed = batch.base_offset == offset && epoch_fits;
        offset = batch.base_offset.saturating_add(i64::from(batch.last_offset_delta)).saturating_add(1);
        ordered && placed
    })
}

/// The peers, the one that answered last first.
struct Source<'a> {
    task: &'a Task,
    last_good: Option<NodeId>,
    /// Who has said, when all were asked last, that it is sound and holds nothing.
    empty: BTreeSet<NodeId>,
}

impl Source<'_> {
    /// None where no leader answers for as long as one that is to be elected may take, however busy the machines are.
    async fn ask_patiently(&mut self, question: Question) -> Result<Option<(NodeId, Reply)>, Pause> {
        let begun = Instant::now();
        while begun.elapsed() < GONE_PATIENCE {
            tokio::time::sleep(AGAIN).await;
            match self.ask(question).await {
                Err(Pause::NoLeader) => {}
                answer => return answer.map(Some),
            }
        }
        Ok(None)
    }

    async fn ask(&mut self, question: Question) -> Result<(NodeId, Reply), Pause> {
        let heard = self.task.node.upgrade().and_then(|node| node.leader_of(self.task.group)).map(|(leader, _)| leader);
        let mut order: Vec<NodeId> = self.last_good.into_iter().chain(heard).collect();
        order.extend(self.task.peers.known());
        // The partition may have moved since the voters were named.
        order.extend(self.task.peers.connected());
        let mut asked = Vec::new();
        self.empty.clear();
        for peer in order {
            if asked.contains(&peer) {
                continue;
            }
            asked.push(peer);
            let request = Request { kind: Kind::Repair, group: self.task.group, body: vec![question.encode()] };
            let Ok(answer) = self.task.peers.call(peer, request, QUESTION_DEADLINE).await else { continue };
            match Reply::decode(answer) {
                Some(Reply::Empty) => {
                    self.empty.insert(peer);
                }
                Some(Reply::NotLeading { .. }) | None => {}
                Some(reply) => {
                    self.last_good = Some(peer);
                    return Ok((peer, reply));
                }
            }
        }
        self.last_good = None;
        Err(Pause::NoLeader)
    }
}
