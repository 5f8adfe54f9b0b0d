//! What happens to a committed entry: offsets become readable, producers are remembered, commands reach the host's machine, and a retention
//! point lets go of what lies before it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::APPEND_BYTES_MAX;
use super::checkpoint::{Checkpoint, Checkpoints, Head};
use super::proposal::Outcome;
use super::snapshot::{Snapshot, Snapshots};
use crate::batch::BatchHeader;
use crate::consensus::members::{History, Members};
use crate::control::Machine;
use crate::log::{EntryHead, FrameKind, Log, LogEntry, Purged};
use crate::partition::producers::Producers;

/// Entries applied at a time.
const HEADS_MAX: u64 = 1024;
/// A checkpoint is saved when so many times its size has been applied since the last.
const CHECKPOINT_PART: u64 = 8;
/// What an entry takes beside a batch.
const ENTRY_BYTES: u64 = 64;

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
}

pub(crate) struct GroupMachine {
    host: Host,
    log: Log,
    snapshots: Snapshots,
    checkpoints: Checkpoints,
    /// First index that is not applied.
    end: u64,
    members: History,
    applied: watch::Sender<Applied>,
    high_watermark: watch::Sender<i64>,
    start_offset: watch::Sender<i64>,
    /// Segments lie before the log's start now: a snapshot would let go of them.
    purgeable: bool,
    /// What it applies had been applied by an earlier opening.
    replays: bool,
    /// Bytes of entries applied since the last checkpoint, and what that takes itself.
    since_checkpoint_bytes: u64,
    checkpoint_bytes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an entry that is to be applied is gone")
}

impl GroupMachine {
    /// Knows nothing yet; see [`GroupMachine::resume`].
    pub fn new(host: Host, log: Log, snapshots: Snapshots, checkpoints: Checkpoints) -> (GroupMachine, Watched) {
        let (applied, applied_receiver) = watch::channel(Applied::default());
        let (high_watermark, high_watermark_receiver) = watch::channel(log.start_offset());
        let (start_offset, start_offset_receiver) = watch::channel(log.start_offset());
        let watched = Watched { applied: applied_receiver, high_watermark: high_watermark_receiver, start_offset: start_offset_receiver };
        let machine = GroupMachine {
            host,
            log,
            snapshots,
            checkpoints,
            end: 0,
            members: History::default(),
            applied,
            high_watermark,
            start_offset,
            purgeable: false,
            replays: false,
            since_checkpoint_bytes: 0,
            checkpoint_bytes: 0,
        };
        (machine, watched)
    }

    /// First index that is not applied.
    pub fn end(&self) -> u64 {
        self.end
    }
    pub fn members(&self) -> &History {
        &self.members
    }
    pub fn applied(&self) -> Applied {
        *self.applied.borrow()
    }
    /// Whether something can be let go of that could not before.
    pub fn take_purgeable(&mut self) -> bool {
        std::mem::take(&mut self.purgeable)
    }

    /// Goes on from the last snapshot, or from the last checkpoint where that tells more and of this log, and applies what was committed behind it.
    pub fn resume(&mut self, committed_end: u64) -> io::Result<()> {
        if let Some(snapshot) = self.snapshots.read()? {
            self.restore(&snapshot, false)?;
        }
        self.resume_checkpoint()?;
        self.replays = true;
        self.apply(committed_end, &mut |_, _| ())?;
        self.replays = false;
        Ok(())
    }

    fn resume_checkpoint(&mut self) -> io::Result<()> {
        let Host::Partition(producers) = &self.host else { return Ok(()) };
        let Some(Checkpoint { head, producers: known }) = self.checkpoints.read() else { return Ok(()) };
        let Head { applied, high_watermark, start_offset, members, .. } = head;
        if applied.index < self.end || self.log.term_of(applied.index)? != Some(applied.term) {
            return Ok(());
        }
        let known = if self.log.mutations().forgotten_producers { Producers::default().checkpoint() } else { known };
        if lock(producers).restore(&known).is_err() {
            return Ok(());
        }
        self.end = applied.index + 1;
        self.members = History::of(members);
        self.raise_high_watermark(high_watermark);
        self.begin_at(start_offset);
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
            members: self.members.iter().cloned().collect(),
        };
        let producers = lock(producers).checkpoint();
        match self.checkpoints.save(&Checkpoint { head, producers }, !at_stop) {
            Ok(bytes) => self.checkpoint_bytes = bytes,
            Err(error) => tracing::debug!(%error, "the next start applies more of the log"),
        }
    }

    /// Applies entries before `end`, and says what came of each.
    pub fn apply(&mut self, end: u64, applied: &mut dyn FnMut(u64, Outcome)) -> io::Result<()> {
        while self.end < end {
            let next = self.end;
            if matches!(self.host, Host::Control(_)) {
                for entry in self.log.entries(next..end, APPEND_BYTES_MAX)? {
                    self.apply_one(&head(&entry), Some(&entry), applied)?;
                }
            } else {
                for head in self.log.heads(next..end.min(next + HEADS_MAX))? {
                    self.apply_one(&head, None, applied)?;
                }
            }
            if self.end == next {
                return Err(gone());
            }
        }
        if self.since_checkpoint_bytes >= self.log.cover_bytes().max(CHECKPOINT_PART * self.checkpoint_bytes) {
            self.save_checkpoint(false);
        }
        Ok(())
    }

    fn apply_one(&mut self, head: &EntryHead, whole: Option<&LogEntry>, told: &mut dyn FnMut(u64, Outcome)) -> io::Result<()> {
        if head.index != self.end {
            return Err(gone());
        }
        let mut now = Applied { index: head.index, term: head.term, ..*self.applied.borrow() };
        let mut outcome = Outcome::Nothing;
        match (&self.host, head.kind, head.batch) {
            (_, FrameKind::Membership, _) => {
                let read = || Ok::<_, io::Error>(self.log.entries(head.index..head.index + 1, usize::MAX)?.pop().ok_or_else(gone)?.payload);
                let payload = whole.map_or_else(read, |entry| Ok(entry.payload.clone()))?;
                self.members.push(head.index, serde_json::from_slice::<Members>(&payload)?);
            }
            (Host::Control(machine), FrameKind::Command, _) => {
                outcome = Outcome::Answer(machine.apply(head.index, whole.map_or(&[], |entry| &entry.payload)));
            }
            (Host::Partition(producers), FrameKind::Batch | FrameKind::Mirrored, Some(batch)) => {
                if !(self.replays && self.log.mutations().forgotten_producers) {
                    lock(producers).applied(&batch, head.append_time_us);
                }
                (now.batch_epoch, now.append_time_us) = (batch.leader_epoch, head.append_time_us);
                let last_offset = last_offset(&batch);
                self.high_watermark.send_replace(last_offset + 1);
                outcome = Outcome::Batch { base_offset: batch.base_offset, last_offset };
            }
            (Host::Partition(producers), FrameKind::RetentionPoint, _) => {
                if let Some(start_offset) = head.start_offset {
                    let mut producers = lock(producers);
                    producers.expire(head.append_time_us);
                    if start_offset > *self.high_watermark.borrow() {
                        producers.skipped();
                    }
                    drop(producers);
                    outcome = Outcome::Retained { start_offset: self.begin_at(start_offset) };
                    self.purgeable = true;
                }
            }
            // A mirrored batch that did not continue the log was appended as a blank, see `Log::append`.
            _ => {}
        }
        self.end = head.index + 1;
        self.since_checkpoint_bytes += ENTRY_BYTES + head.batch.map_or(0, |batch| u64::try_from(batch.length).unwrap_or(0));
        self.applied.send_replace(now);
        told(head.index, outcome);
        Ok(())
    }

    fn raise_high_watermark(&self, offset: i64) {
        self.high_watermark.send_if_modified(|held| std::mem::replace(held, offset.max(*held)) < offset);
    }

    /// Readers may ask for nothing before `offset` from now on, and find nothing there: in a mirror the home may have let go of more than came.
    fn begin_at(&self, offset: i64) -> i64 {
        self.log.raise_start_offset(offset);
        self.raise_high_watermark(offset);
        let begin = self.log.start_offset();
        self.start_offset.send_if_modified(|held| std::mem::replace(held, begin) != begin);
        begin
    }

    /// The snapshot that may stand for what lies before the first segment still needed; None where nothing is to be let go of.
    pub fn past(&mut self) -> io::Result<Option<Snapshot>> {
        let Some(applied) = self.end.checked_sub(1) else { return Ok(None) };
        let (purged, state) = match &self.host {
            Host::Partition(producers) => {
                let Some(mut purged) = self.log.purge_point(applied)? else { return Ok(None) };
                if self.log.mutations().snapshot_too_new {
                    let Applied { index, term, .. } = *self.applied.borrow();
                    (purged.term, purged.index, purged.next_offset) = (term, index, *self.high_watermark.borrow());
                }
                (purged, lock(producers).checkpoint())
            }
            // Commands are not repeated: the state is that of the last one applied, and the log goes on behind it.
            Host::Control(machine) => match self.log.cut_point(applied)? {
                Some(purged) => (purged, machine.save().into()),
                None => return Ok(None),
            },
        };
        let (members_since, members) = self.members.at(purged.index);
        self.members.forget_before(purged.index);
        let (batch_epoch, batch_time_us) = match self.log.last_batch_of(purged)? {
            Some(head) => (head.batch.map_or(0, |batch| batch.leader_epoch), head.append_time_us),
            None => self.snapshots.read()?.map_or((0, 0), |held| (held.batch_epoch, held.batch_time_us)),
        };
        let start_offset = self.log.start_offset();
        Ok(Some(Snapshot { purged, start_offset, batch_epoch, batch_time_us, members, members_since, state }))
    }

    /// Goes on behind a snapshot.
    pub fn restore(&mut self, snapshot: &Snapshot, from_leader: bool) -> io::Result<()> {
        let &Snapshot { purged, start_offset, batch_epoch, batch_time_us, ref members, members_since, ref state } = snapshot;
        let Purged { term, index, next_offset, .. } = purged;
        match &self.host {
            Host::Partition(producers) => lock(producers).restore(state)?,
            Host::Control(machine) => machine.restore(state).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
        }
        self.end = index + 1;
        self.members.restart(members_since, members.clone());
        self.log.raise_start_offset(start_offset);
        self.raise_high_watermark(next_offset);
        let begin = self.log.start_offset();
        self.start_offset.send_if_modified(|held| std::mem::replace(held, begin) != begin);
        let filled_up = self.applied.borrow().filled_up + u64::from(from_leader);
        self.applied.send_replace(Applied { index, term, batch_epoch, append_time_us: batch_time_us, filled_up });
        Ok(())
    }
}

fn last_offset(batch: &BatchHeader) -> i64 {
    batch.base_offset + i64::from(batch.last_offset_delta)
}

/// Of an entry that was read whole for its payload.
fn head(entry: &LogEntry) -> EntryHead {
    let &LogEntry { kind, term, index, append_time_us, .. } = entry;
    EntryHead { kind, term, index, append_time_us, batch: None, start_offset: None }
}
