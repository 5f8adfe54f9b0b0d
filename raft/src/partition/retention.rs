//! Where a partition's log begins: retention by age and size, records deleted on request, and a mirror that follows its home's start.
//!
//! The leader commits a retention point; every replica then raises its log start offset, and removes the segments before it.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{AppendError, Partition, lock};
use crate::NodeId;
use crate::group::{Outcome, Proposal, Refusal};
use crate::log::{FrameKind, Retention, encode_start_offset};

/// A retention point that no majority confirms within this time is reported as unknown.
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

/// Why records were not deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteRecordsError {
    #[error("this node does not lead the partition")]
    NotLeader { leader: Option<NodeId> },
    #[error("offset {offset} is outside 0..={end}")]
    OutOfRange { offset: i64, end: i64 },
    #[error("not committed by a majority in time; the records may yet be deleted")]
    Timeout,
    #[error("the disk refuses writes: {0}")]
    Storage(String),
}

impl From<AppendError> for DeleteRecordsError {
    fn from(error: AppendError) -> DeleteRecordsError {
        match error {
            AppendError::NotLeader { leader } => DeleteRecordsError::NotLeader { leader },
            AppendError::Timeout => DeleteRecordsError::Timeout,
            other => DeleteRecordsError::Storage(other.to_string()),
        }
    }
}

impl Partition {
    /// Deletes what lies before `offset` (None: all that is committed), and returns the log start offset, which may lie further on already.
    pub fn delete_records(&self, offset: Option<i64>) -> BoxFuture<'static, Result<i64, DeleteRecordsError>> {
        let end = self.high_watermark();
        let wanted = offset.unwrap_or(end);
        if !(0..=end).contains(&wanted) {
            return std::future::ready(Err(DeleteRecordsError::OutOfRange { offset: wanted, end })).boxed();
        }
        self.begin_at(wanted)
    }

    /// Mirrors: the home's log begins at `offset`. Where this log ends before it, it goes on there: the home has let go of what never came here.
    pub fn follow_start(&self, offset: i64) -> BoxFuture<'static, Result<i64, DeleteRecordsError>> {
        self.begin_at(offset.max(0))
    }

    fn begin_at(&self, offset: i64) -> BoxFuture<'static, Result<i64, DeleteRecordsError>> {
        self.propose_start(offset).unwrap_or_else(|error| std::future::ready(Err(error)).boxed())
    }

    fn propose_start(&self, offset: i64) -> Result<BoxFuture<'static, Result<i64, DeleteRecordsError>>, DeleteRecordsError> {
        self.leading()?;
        let held = self.log_start_offset();
        if offset <= held {
            return Ok(std::future::ready(Ok(held)).boxed());
        }
        // The term, not the Kafka-visible epoch, which in a mirror is another.
        let term = self.inner.group.applied().borrow().term;
        let payload = encode_start_offset(offset);
        let proposal = Proposal { kind: FrameKind::RetentionPoint, append_time_us: 0, payload, judged_in: Some(term) };
        let outcome = {
            // Mirrored batches that follow continue the log at the new start, if it lies behind all that was submitted.
            let mut submitted = lock(&self.inner.submitted);
            let end = submitted.filter(|(since, _)| *since == term).map_or_else(|| self.log_end_offset(), |(_, end)| end);
            if offset > end {
                *submitted = Some((term, offset));
            }
            self.inner.group.submit(proposal, None)
        };
        let inner = self.inner.clone();
        Ok(async move {
            let outcome = tokio::time::timeout(COMMIT_DEADLINE, outcome).await;
            let result = match outcome {
                Err(_) | Ok(Ok(Err(Refusal::Unknown))) => Err(DeleteRecordsError::Timeout),
                Ok(Err(_)) => Err(DeleteRecordsError::Storage("the partition has stopped".to_owned())),
                Ok(Ok(Err(Refusal::NotLeader { leader }))) => Err(DeleteRecordsError::NotLeader { leader }),
                Ok(Ok(Err(Refusal::Stopped(reason)))) => Err(DeleteRecordsError::Storage(reason)),
                Ok(Ok(Ok(Outcome::Retained { start_offset }))) => Ok(start_offset),
                Ok(Ok(Ok(_))) => Err(DeleteRecordsError::NotLeader { leader: None }),
            };
            if result.is_err() {
                *lock(&inner.submitted) = None;
            }
            result
        }
        .boxed())
    }

    /// As [`Partition::log_start_offset`], whenever it is raised.
    pub fn watch_log_start_offset(&self) -> watch::Receiver<i64> {
        self.inner.group.start_offset()
    }

    /// How long and how much this log keeps from now on.
    pub fn set_retention(&self, retention: Retention) {
        *lock(&self.inner.retention) = retention;
    }
    pub fn retention(&self) -> Retention {
        *lock(&self.inner.retention)
    }

    /// On a leader: lets go of segments that are too old or too many, and returns the new log start offset; None where nothing had to go.
    pub async fn enforce_retention(&self, now_ms: i64) -> Option<i64> {
        // Of a mirror the home decides.
        if self.inner.spec.mirror || !self.leadership().is_leader {
            return None;
        }
        let group = &self.inner.group;
        let start = match group.log().expired(self.retention(), now_ms, self.high_watermark()) {
            Ok(start) => start?,
            Err(error) => {
                tracing::warn!(group = ?self.id(), %error, "cannot tell how old segments are");
                return None;
            }
        };
        match self.begin_at(start).await {
            Ok(start) => Some(start),
            Err(error) => {
                tracing::debug!(group = ?self.id(), %error, "retention is tried again later");
                None
            }
        }
    }

    /// How often this replica lay so far behind that it was given the log's new beginning instead of what it lacked, since it was opened.
    pub fn times_filled_up(&self) -> u64 {
        self.inner.group.applied().borrow().filled_up
    }
}
