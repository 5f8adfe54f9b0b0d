//! What happens to a committed entry: offsets become readable, producers are remembered, commands reach the host's machine, and a retention
//! point lets go of what lies before it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf};
use openraft::{EntryPayload, StoredMembership};
use tokio::sync::{Notify, watch};

use super::checkpoint::{Checkpoint, Checkpoints, Head};
use super::snapshot::{self, GroupSnapshot, Past, Snapshots};
use super::storage::log_id;
use super::{Outcome, Types};
use crate::control::Machine;
use crate::log::{FrameKind, Log, Purged, decode_start_offset};
use crate::partition::producers::Producers;

/// How far a replica has applied its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Applied {
    pub index: u64,
    pub term: u64,
    /// Epoch and append time of the last batch applied; 0 before the first.
    pub batch_epoch: i32,
    pub append_time_us: i64,
    /// How often the log has begun anew behind a snapshot of the leader's, since it was opened.
    #[serde(skip)]
    pub filled_up: u64,
}

/// Who is told.
pub(crate) enum Host {
    Partition(Arc<Mutex<Producers>>),
    Control(Arc<dyn Machine>),
}

/// What others see of it.
pub(crate) struct Watched {
    pub applied: watch::Receiver<Applied>,
    pub high_watermark: watch::Receiver<i64>,
    pub start_offset: watch::Receiver<i64>,
    /// Segments lie before the log's start now: a snapshot would let go of them.
    pub purgeable: Arc<Notify>,
}

pub(crate) struct GroupMachine {
    host: Host,
    log: Log,
    snapshots: Snapshots,
    last_applied: Option<LogIdOf<Types>>,
    /// Those since the last snapshot, and the one that was in force there; the last is in force now.
    memberships: VecDeque<StoredMembershipOf<Types>>,
    applied: watch::Sender<Applied>,
    high_watermark: watch::Sender<i64>,
    start_offset: watch::Sender<i64>,
    purgeable: Arc<Notify>,
    checkpoints: Checkpoints,
    /// Bytes of entries applied since the last checkpoint, and what that takes itself.
    since_checkpoint_bytes: u64,
    checkpoint_bytes: u64,
}

/// A checkpoint is saved when so many times its size has been applied since the last.
const CHECKPOINT_PART: u64 = 8;
/// What an entry takes beside a batch.
const ENTRY_BYTES: u64 = 64;

impl GroupMachine {
    /// Knows nothing yet: [`GroupMachine::resume`] may, and openraft hands it the last snapshot, then the entries behind it.
    pub fn new(host: Host, log: Log, snapshots: Snapshots, checkpoints: Checkpoints) -> (GroupMachine, Watched) {
        let (applied, applied_receiver) = watch::channel(Applied::default());
        let (high_watermark, high_watermark_receiver) = watch::channel(log.start_offset());
        let purgeable = Arc::new(Notify::new());
        let memberships = VecDeque::from([StoredMembership::default()]);
        let (start_offset, start_offset_receiver) = watch::channel(log.start_offset());
        let watched = Watched {
            applied: applied_receiver,
            high_watermark: high_watermark_receiver,
            start_offset: start_offset_receiver,
            purgeable: purgeable.clone(),
        };
        let machine = GroupMachine {
            host,
            log,
            snapshots,
            last_applied: None,
            memberships,
            applied,
            high_watermark,
            start_offset,
            purgeable,
            checkpoints,
            since_checkpoint_bytes: 0,
            checkpoint_bytes: 0,
        };
        (machine, watched)
    }

    /// Goes on from the last checkpoint, where that tells more than the snapshot and of this log.
    pub fn resume(&mut self) -> io::Result<()> {
        let Host::Partition(producers) = &self.host else { return Ok(()) };
        let Some(Checkpoint { head, producers: known }) = self.checkpoints.read() else { return Ok(()) };
        let Head { applied, high_watermark, start_offset, memberships, .. } = head;
        if !self.log.indexes().contains(&applied.index) {
            return Ok(());
        }
        let held = self.log.heads(applied.index..applied.index + 1)?.pop();
        if held.is_none_or(|held| (held.index, held.term) != (applied.index, applied.term)) {
            return Ok(());
        }
        let known = if self.log.mutations().forgotten_producers { Producers::default().checkpoint() } else { known };
        if producers.lock().unwrap_or_else(PoisonError::into_inner).restore(&known).is_err() {
            return Ok(());
        }
        self.last_applied = Some(log_id(applied.term, applied.index));
        self.memberships = memberships.into();
        self.log.raise_start_offset(start_offset);
        self.high_watermark.send_if_modified(|held| std::mem::replace(held, high_watermark.max(*held)) < high_watermark);
        let begin = self.log.start_offset();
        self.start_offset.send_if_modified(|held| std::mem::replace(held, begin) != begin);
        self.applied.send_replace(applied);
        Ok(())
    }

    /// Saves how far the log has been applied, where that is news. At a stop nothing waits for the disk: power is not expected to go as well.
    pub fn save_checkpoint(&mut self, at_stop: bool) {
        let Host::Partition(producers) = &self.host else { return };
        if std::mem::take(&mut self.since_checkpoint_bytes) == 0 {
            return;
        }
        let head = Head {
            group: self.log.group(),
            applied: *self.applied.borrow(),
            high_watermark: *self.high_watermark.borrow(),
            start_offset: self.log.start_offset(),
            memberships: self.memberships.iter().cloned().collect(),
        };
        let producers = producers.lock().unwrap_or_else(PoisonError::into_inner).checkpoint();
        match self.checkpoints.save(&Checkpoint { head, producers }, !at_stop) {
            Ok(bytes) => self.checkpoint_bytes = bytes,
            Err(error) => tracing::debug!(%error, "the next start applies more of the log"),
        }
    }

    fn apply_one(&mut self, entry: EntryOf<Types>) -> Outcome {
        let mut now = Applied { index: entry.log_id.index, term: entry.log_id.leader_id.term, ..*self.applied.borrow() };
        let mut outcome = Outcome::Nothing;
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => self.memberships.push_back(StoredMembership::new(Some(entry.log_id), membership)),
            EntryPayload::Normal(proposal) => match (&self.host, proposal.kind, proposal.batch) {
                (Host::Control(machine), FrameKind::Command, _) => {
                    outcome = Outcome::Answer(machine.apply(entry.log_id.index, &proposal.payload));
                }
                (Host::Partition(producers), FrameKind::Batch | FrameKind::Mirrored, Some(batch)) => {
                    let last_offset = batch.base_offset + i64::from(batch.last_offset_delta);
                    producers.lock().unwrap_or_else(PoisonError::into_inner).applied(&batch, proposal.append_time_us);
                    (now.batch_epoch, now.append_time_us) = (batch.leader_epoch, proposal.append_time_us);
                    self.high_watermark.send_replace(last_offset + 1);
                    outcome = Outcome::Batch { base_offset: batch.base_offset, last_offset };
                }
                (Host::Partition(producers), FrameKind::RetentionPoint, _) => {
                    if let Some(start_offset) = decode_start_offset(&proposal.payload) {
                        let mut producers = producers.lock().unwrap_or_else(PoisonError::into_inner);
                        producers.expire(proposal.append_time_us);
                        if start_offset > *self.high_watermark.borrow() {
                            producers.skipped();
                        }
                        drop(producers);
                        outcome = Outcome::Retained { start_offset: self.begin_at(start_offset) };
                    }
                }
                // A mirrored batch that did not continue the log was appended as a blank, see `GroupStorage::append`.
                _ => {}
            },
        }
        self.last_applied = Some(entry.log_id);
        self.applied.send_replace(now);
        outcome
    }
}

impl GroupMachine {
    /// Readers may ask for nothing before `offset` from now on, and find nothing there: in a mirror the home may have let go of more than came.
    fn begin_at(&mut self, offset: i64) -> i64 {
        self.log.raise_start_offset(offset);
        self.high_watermark.send_if_modified(|held| std::mem::replace(held, offset.max(*held)) < offset);
        let begin = self.log.start_offset();
        self.start_offset.send_if_modified(|held| std::mem::replace(held, begin) != begin);
        self.purgeable.notify_one();
        begin
    }

    /// The snapshot that may stand for what lies before the first segment still needed.
    fn past(&self) -> io::Result<Option<GroupSnapshot>> {
        let Some(applied) = self.last_applied else { return Ok(None) };
        let (purged, state) = match &self.host {
            Host::Partition(producers) => {
                let Some(mut purged) = self.log.purge_point(applied.index)? else { return Ok(None) };
                if self.log.mutations().snapshot_too_new {
                    (purged.term, purged.index, purged.next_offset) =
                        (applied.leader_id.term, applied.index, *self.high_watermark.borrow());
                }
                (purged, producers.lock().unwrap_or_else(PoisonError::into_inner).checkpoint())
            }
            // Commands are not repeated: the state is that of the last one applied, and the log goes on behind it.
            Host::Control(machine) => match self.log.cut_point(applied.index)? {
                Some(purged) => (purged, machine.save().into()),
                None => return Ok(None),
            },
        };
        let membership = self.memberships.iter().rev().find(|held| held.log_id().is_none_or(|id| id.index <= purged.index));
        let membership = membership.cloned().unwrap_or_default();
        let (batch_epoch, batch_time_us) = match self.log.last_batch_of(purged)? {
            Some(head) => (head.batch.map_or(0, |batch| batch.leader_epoch), head.append_time_us),
            None => self.snapshots.read()?.map_or((0, 0), |held| (held.snapshot.batch_epoch, held.snapshot.batch_time_us)),
        };
        let start_offset = self.log.start_offset();
        Ok(Some(snapshot::snapshot(Past { purged, start_offset, batch_epoch, batch_time_us, state }, membership)))
    }

    fn restore(&mut self, snapshot: &GroupSnapshot, from_leader: bool) -> io::Result<()> {
        let Past { purged: Purged { term, index, next_offset, .. }, start_offset, batch_epoch, batch_time_us, ref state } =
            snapshot.snapshot;
        match &self.host {
            Host::Partition(producers) => producers.lock().unwrap_or_else(PoisonError::into_inner).restore(state)?,
            Host::Control(machine) => machine.restore(state).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
        }
        self.last_applied = snapshot.meta.last_log_id;
        self.memberships = VecDeque::from([snapshot.meta.last_membership.clone()]);
        self.log.raise_start_offset(start_offset);
        self.high_watermark.send_if_modified(|held| std::mem::replace(held, next_offset.max(*held)) < next_offset);
        let begin = self.log.start_offset();
        self.start_offset.send_if_modified(|held| std::mem::replace(held, begin) != begin);
        let filled_up = self.applied.borrow().filled_up + u64::from(from_leader);
        self.applied.send_replace(Applied { index, term, batch_epoch, append_time_us: batch_time_us, filled_up });
        Ok(())
    }
}

impl RaftStateMachine<Types> for GroupMachine {
    type SnapshotData = Past;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.last_applied, self.memberships.back().cloned().unwrap_or_default()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.since_checkpoint_bytes += entry_bytes(&entry);
            let outcome = self.apply_one(entry);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        if self.since_checkpoint_bytes >= self.log.cover_bytes().max(CHECKPOINT_PART * self.checkpoint_bytes) {
            self.save_checkpoint(false);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        let past = self.past();
        if let Ok(Some(snapshot)) = &past {
            let upto = snapshot.snapshot.purged.index;
            let kept = self.memberships.iter().rposition(|held| held.log_id().is_none_or(|id| id.index <= upto));
            self.memberships.drain(..kept.unwrap_or(0));
        }
        // Nothing to let go of is no failure, but openraft does not ask for the reason.
        past.transpose().map(|past| Builder { past: Some(past), snapshots: self.snapshots.clone() })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { past: self.past().transpose(), snapshots: self.snapshots.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, past: Past) -> Result<(), io::Error> {
        let snapshot = snapshot::snapshot(past, meta.last_membership.clone());
        // Durable before the log lets go of anything for it.
        let is_new = self.snapshots.save(&snapshot).await?;
        // A restart begins with the node's own.
        self.restore(&snapshot, is_new)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<GroupSnapshot>, io::Error> {
        self.snapshots.read()
    }
}

/// About what an entry takes in the log.
fn entry_bytes(entry: &EntryOf<Types>) -> u64 {
    let batch = match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.batch.map_or(0, |batch| u64::try_from(batch.length).unwrap_or(0)),
        _ => 0,
    };
    batch + ENTRY_BYTES
}

/// A snapshot that only has to become durable.
pub(crate) struct Builder {
    past: Option<io::Result<GroupSnapshot>>,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Past;

    async fn build_snapshot(&mut self) -> Result<GroupSnapshot, io::Error> {
        let nothing = || Err(io::Error::other("nothing has been purged that a snapshot could stand for"));
        let snapshot = self.past.take().unwrap_or_else(nothing)?;
        self.snapshots.save(&snapshot).await?;
        Ok(snapshot)
    }
}
