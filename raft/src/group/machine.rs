//! What happens to a committed entry: offsets become readable, producers are remembered, commands reach the host's machine.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, StoredMembership};
use tokio::sync::watch;

use super::{Outcome, Types};
use crate::control::Machine;
use crate::log::FrameKind;
use crate::partition::producers::Producers;

/// How far a replica has applied its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    pub index: u64,
    pub term: u64,
    /// Epoch and append time of the last batch applied; 0 before the first.
    pub batch_epoch: i32,
    pub append_time_us: i64,
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
}

pub(crate) struct GroupMachine {
    host: Host,
    last_applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    applied: watch::Sender<Applied>,
    high_watermark: watch::Sender<i64>,
}

impl GroupMachine {
    pub fn new(host: Host, start_offset: i64) -> (GroupMachine, Watched) {
        let (applied, applied_receiver) = watch::channel(Applied::default());
        let (high_watermark, high_watermark_receiver) = watch::channel(start_offset);
        let machine = GroupMachine { host, last_applied: None, membership: StoredMembership::default(), applied, high_watermark };
        (machine, Watched { applied: applied_receiver, high_watermark: high_watermark_receiver })
    }

    fn apply_one(&mut self, entry: openraft::type_config::alias::EntryOf<Types>) -> Outcome {
        let mut now = Applied { index: entry.log_id.index, term: entry.log_id.leader_id.term, ..*self.applied.borrow() };
        let mut outcome = Outcome::Nothing;
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => self.membership = StoredMembership::new(Some(entry.log_id), membership),
            EntryPayload::Normal(proposal) => match (&self.host, proposal.kind, proposal.batch) {
                (Host::Control(machine), FrameKind::Command, _) => {
                    outcome = Outcome::Answer(machine.apply(entry.log_id.index, &proposal.payload));
                }
                (Host::Partition(producers), FrameKind::Batch | FrameKind::Mirrored, Some(batch)) => {
                    let last_offset = batch.base_offset + i64::from(batch.last_offset_delta);
                    producers.lock().unwrap_or_else(PoisonError::into_inner).applied(&batch);
                    (now.batch_epoch, now.append_time_us) = (batch.leader_epoch, proposal.append_time_us);
                    self.high_watermark.send_replace(last_offset + 1);
                    outcome = Outcome::Batch { base_offset: batch.base_offset, last_offset };
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

impl RaftStateMachine<Types> for GroupMachine {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let outcome = self.apply_one(entry);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMetaOf<Types>, _snapshot: ()) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        Ok(None)
    }
}

/// The log is the data, so there is nothing to make a snapshot of; openraft is told never to ask.
pub(crate) struct NoSnapshots;

fn no_snapshots() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a log is never replaced by a snapshot")
}

impl RaftSnapshotBuilder<Types> for NoSnapshots {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        Err(no_snapshots())
    }
}
