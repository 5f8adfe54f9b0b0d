//! How batches enter a partition: judged and queued in the call, answered once they are committed.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::producers::{Pending, Verdict};
use super::{Leadership, Partition, lock};
use crate::NodeId;
use crate::batch::{Batch, BatchError, BatchHeader};
use crate::group::{Outcome, Proposal, Proposed, Refusal, Waiting};
use crate::log::{FrameKind, StoredBatch};

/// Where an acknowledged batch landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: i64,
    pub last_offset: i64,
    /// The batch had been appended before (idempotent producer's retry); offsets are those of the first time.
    pub duplicate: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("this node does not lead the partition")]
    NotLeader { leader: Option<NodeId> },
    #[error("sequence {got} of producer {producer_id} is out of order, expected {expected}")]
    OutOfOrderSequence { producer_id: i64, expected: i32, got: i32 },
    #[error("producer {producer_id} has been fenced by epoch {current}")]
    InvalidProducerEpoch { producer_id: i64, current: i16 },
    #[error("offset {got} does not continue the mirror's log, which ends at {end}")]
    NotContiguous { got: i64, end: i64 },
    #[error("not a batch that can be mirrored: {0}")]
    Malformed(#[from] BatchError),
    #[error("a mirrored batch carries its home's append time, not {0}")]
    AppendTime(i64),
    #[error("too many bytes wait to be appended; try again")]
    Overloaded,
    #[error("the disk is nearly full; try again")]
    DiskFull,
    #[error("not acknowledged by a majority in time; the batch may yet be committed")]
    Timeout,
    #[error("the disk refuses writes: {0}")]
    Storage(String),
}

/// Bytes of appends of one partition that may wait for their commit.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// An append that no majority confirms within this time is reported as unknown.
const APPEND_DEADLINE: Duration = Duration::from_secs(30);

impl Partition {
    /// Submits a client's batch. Submission happens in the call, so that calls made in order are appended in order; the future resolves
    /// when a majority has fsynced the batch and this node has applied it. Idempotent producers are deduplicated here.
    pub fn append(&self, batch: Batch) -> BoxFuture<'static, Result<Appended, AppendError>> {
        self.submit(batch).unwrap_or_else(|error| std::future::ready(Err(error)).boxed())
    }

    fn submit(&self, batch: Batch) -> Result<BoxFuture<'static, Result<Appended, AppendError>>, AppendError> {
        let leadership = self.leading()?;
        let header = *batch.header();
        // Held until the batch is in the queue, so that sequences and queue agree on the order.
        let mut producers = lock(&self.inner.producers);
        // Of a home's partition, epoch and term are one.
        let term = u64::from(leadership.epoch.unsigned_abs());
        let verdict = producers.judge(&header, leadership.epoch, Instant::now()).map_err(|refused| {
            // Another node may lead by now and know better; refusing for good is only for a leader that is sure to be one.
            if self.inner.group.holds_lease() { refused } else { AppendError::NotLeader { leader: None } }
        })?;
        match verdict {
            Verdict::Committed(appended) => return Ok(std::future::ready(Ok(appended)).boxed()),
            Verdict::InProgress(pending) => {
                return Ok(pending.map(|result| result.map(|appended| Appended { duplicate: true, ..appended })).boxed());
            }
            Verdict::New => {}
        }
        // Behind the judgement, which lets go of what an earlier leadership left waiting, and needs no room for a retry.
        let waiting = self.reserve(batch.bytes().len())?;
        let outcome = self.propose(FrameKind::Batch, 0, batch.bytes().clone(), term, waiting);
        if self.inner.group.log().mutations().ack_before_commit {
            return Ok(self.clone().held_here(header.crc, self.high_watermark()).boxed());
        }
        if header.producer_id < 0 {
            return Ok(confirmed(outcome).boxed());
        }
        let memory = self.inner.producers.clone();
        let watched = confirmed(outcome).inspect(move |result| {
            if result.as_ref().is_err_and(|error| *error != AppendError::Timeout) {
                lock(&memory).failed(&header, leadership.epoch, Instant::now());
            }
        });
        let pending: Pending = watched.boxed().shared();
        producers.proposed(&header, pending.clone());
        Ok(pending.boxed())
    }

    /// A mutation's answer: as soon as this replica holds the batch.
    async fn held_here(self, crc: u32, mut from: i64) -> Result<Appended, AppendError> {
        loop {
            let end = self.log_end_offset();
            let batches = self.inner.group.log().read_batches(from, end, usize::MAX);
            for header in batches.iter().flatten().filter_map(|batch| BatchHeader::decode(&batch.bytes)) {
                let last_offset = header.base_offset + i64::from(header.last_offset_delta);
                if header.crc == crc {
                    return Ok(Appended { base_offset: header.base_offset, last_offset, duplicate: false });
                }
                from = last_offset + 1;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn leading(&self) -> Result<Leadership, AppendError> {
        if self.inner.group.log().damage().is_some() {
            return Err(AppendError::NotLeader { leader: None });
        }
        if let Some(reason) = self.inner.group.failure() {
            return Err(AppendError::Storage(reason));
        }
        let leadership = self.leadership();
        if leadership.is_leader { Ok(leadership) } else { Err(AppendError::NotLeader { leader: leadership.leader }) }
    }

    fn reserve(&self, bytes: usize) -> Result<Waiting, AppendError> {
        if self.inner.group.log().refuses_data() {
            return Err(AppendError::DiskFull);
        }
        Waiting::within(WAITING_BYTES_MAX, &self.inner.waiting_bytes, bytes).ok_or(AppendError::Overloaded)
    }

    fn propose(&self, kind: FrameKind, append_time_us: i64, payload: Bytes, term: u64, waiting: Waiting) -> oneshot::Receiver<Proposed> {
        self.inner.group.submit(Proposal { kind, append_time_us, payload, judged_in: Some(term) }, Some(waiting))
    }

    /// Submits batches of the home region at the offsets, epochs and append times they carry; the first must continue this log exactly.
    /// Batches this log already holds are skipped. Where the home's log begins further on, see [`Partition::follow_start`].
    pub fn append_mirrored(&self, batches: Vec<StoredBatch>) -> BoxFuture<'static, Result<Appended, AppendError>> {
        self.submit_mirrored(batches).unwrap_or_else(|error| std::future::ready(Err(error)).boxed())
    }

    fn submit_mirrored(&self, batches: Vec<StoredBatch>) -> Result<BoxFuture<'static, Result<Appended, AppendError>>, AppendError> {
        self.leading()?;
        let mut waiting = self.reserve(batches.iter().map(|batch| batch.bytes.len()).sum())?;
        // The term, not the Kafka-visible epoch: the latter also rises with the batches themselves.
        let term = self.inner.group.applied().borrow().term;
        let mut submitted = lock(&self.inner.submitted);
        // A leader that has applied an entry of its own term has the whole committed log, and nothing of others behind it.
        let mut end = submitted.filter(|(since, _)| *since == term).map_or_else(|| self.log_end_offset(), |(_, end)| end);
        let mut last = None;
        for batch in batches {
            // Another region's word is checked like a client's: what the log refuses later would stop the group.
            let header = *Batch::validate(batch.bytes.clone())?.header();
            if batch.append_time_us <= 0 {
                return Err(AppendError::AppendTime(batch.append_time_us));
            }
            let next = header.base_offset.saturating_add(i64::from(header.last_offset_delta)).saturating_add(1);
            if next <= end {
                continue;
            }
            if header.base_offset != end {
                return Err(AppendError::NotContiguous { got: header.base_offset, end });
            }
            let waiting = waiting.split(batch.bytes.len());
            last = Some(self.propose(FrameKind::Mirrored, batch.append_time_us, batch.bytes, term, waiting));
            end = next;
            *submitted = Some((term, end));
        }
        let Some(last) = last else {
            let held = Appended { base_offset: end, last_offset: end - 1, duplicate: true };
            return Ok(std::future::ready(Ok(held)).boxed());
        };
        // The last one continues the log only if all before it did.
        let inner = self.inner.clone();
        Ok(confirmed(last)
            .inspect(move |result| {
                if result.is_err() {
                    *lock(&inner.submitted) = None
                }
            })
            .boxed())
    }

    /// Mirrors: the offset behind all that was submitted here, committed or not.
    pub fn submitted_end(&self) -> i64 {
        let term = self.inner.group.applied().borrow().term;
        lock(&self.inner.submitted).filter(|(since, _)| *since == term).map_or_else(|| self.log_end_offset(), |(_, end)| end)
    }
}

/// Waits for the commit of one proposal.
async fn confirmed(outcome: oneshot::Receiver<Proposed>) -> Result<Appended, AppendError> {
    let outcome = tokio::time::timeout(APPEND_DEADLINE, outcome).await;
    match outcome {
        Err(_) | Ok(Ok(Err(Refusal::Unknown))) => Err(AppendError::Timeout),
        Ok(Err(_)) => Err(AppendError::Storage("the partition has stopped".to_owned())),
        Ok(Ok(Err(Refusal::NotLeader { leader }))) => Err(AppendError::NotLeader { leader }),
        Ok(Ok(Err(Refusal::Stopped(reason)))) => Err(AppendError::Storage(reason)),
        Ok(Ok(Ok(Outcome::Batch { base_offset, last_offset }))) => Ok(Appended { base_offset, last_offset, duplicate: false }),
        // A blank stands in its place: behind a mirrored batch that was refused.
        Ok(Ok(Ok(_))) => Err(AppendError::NotLeader { leader: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupId;
    use crate::batch::records::{Record, encode};
    use crate::env::Env;
    use crate::node::{Node, NodeConfig, Timing};
    use crate::partition::{PartitionSettings, PartitionSpec, Rolling};

    async fn led(node: &Node) -> Partition {
        let id = GroupId { topic: uuid::Uuid::from_u128(7), partition: 0 };
        let settings = PartitionSettings { rolling: Rolling::DEFAULT };
        let spec = PartitionSpec { id, replicas: vec![1], mirror: false, settings };
        let partition = node.open_partition(spec).await.expect("a partition");
        let mut leadership = partition.watch_leadership();
        leadership.wait_for(|leadership| leadership.is_leader).await.expect("a leader");
        partition
    }

    #[tokio::test]
    async fn an_append_that_nobody_waits_for_any_more_still_counts_as_waiting_until_it_is_committed() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = NodeConfig {
            node_id: 1,
            data_dir: folder.path().to_owned(),
            peer_listen: ([127, 0, 0, 1], 0).into(),
            peers: [(1, "127.0.0.1:1".to_owned())].into(),
            tls: None,
            timing: Timing { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1000 },
        };
        let node = Node::start(Env::real(), config).await.expect("a node");
        let partition = led(&node).await;
        let batch = encode(&[Record { key: None, value: Some(vec![b'x'; 4 << 20].into()), timestamp_ms: 0 }]).expect("a batch");
        // Nothing is durable, and so committed, before the writer goes on.
        let (goes_on, waits) = std::sync::mpsc::channel::<()>();
        let stall = Box::new(move |_| {
            let _ = waits.recv();
        });
        partition.group().log().append(Vec::new(), stall).expect("queued");
        let mut accepted = 0;
        let refused = loop {
            match partition.append(batch.clone()).now_or_never() {
                // The future is dropped: its client has gone.
                None => accepted += 1,
                Some(answered) => break answered,
            }
        };
        assert_eq!((refused, accepted), (Err(AppendError::Overloaded), WAITING_BYTES_MAX / batch.bytes().len()));
        drop(goes_on);
        partition.watch_high_watermark().wait_for(|end| *end == accepted as i64).await.expect("committed");
        let appended = partition.append(batch).await.expect("room again");
        assert_eq!(appended.base_offset, accepted as i64);
        node.shutdown().await;
    }
}
