//! The receiving half of a mirror: while this node leads the copy, finds the node that leads at home, asks for what is missing, appends it.
//!
//! Nothing is remembered but the log itself: whatever breaks, the mirror is opened again at its high watermark.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesOrdered;
use meridian_raft::GroupId;
use meridian_raft::batch::BatchHeader;
use meridian_raft::partition::{AppendError, DeleteRecordsError, Partition, ReadError};
use tokio::time::Instant;

use crate::link::frame::{Data, EndReason, LastBatch, Open};
use crate::link::session::{MirrorEvent, OpenMirror, Session, SessionError};
use crate::link::{Inner, lock};
use crate::mirror::source::end_of;

/// Between two attempts, doubling from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// An opened mirror that was not refused for so long counts as working.
const SETTLED: Duration = Duration::from_secs(10);
/// How often the claims are looked at though nothing was heard to change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why a mirror is opened anew.
#[derive(Debug, thiserror::Error)]
enum Interruption {
    #[error("this node leads the copy no more")]
    Deposed,
    /// Nothing is wrong: another node leads at home now.
    #[error("the home's leader moved")]
    Moved,
    #[error("the link broke")]
    Link,
    #[error("cannot be asked for: {0}")]
    Open(#[from] SessionError),
    #[error("its home: {1}")]
    Ended(EndReason, String),
    #[error("cannot be appended: {0}")]
    Append(#[from] AppendError),
    #[error("cannot be read here: {0}")]
    Read(#[from] ReadError),
    #[error("the copy's last batch is not where its log ends")]
    Tail,
    #[error("the replica was closed")]
    Closed,
}

impl Interruption {
    /// The ordinary course of leaders and links; anything else is told in the mirror's status.
    fn is_ordinary(&self) -> bool {
        use Interruption::*;
        matches!(self, Deposed | Moved | Link | Ended(EndReason::NotLeader, _) | Append(AppendError::NotLeader { .. }))
    }
}

/// Growing pauses with jitter between attempts.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Backoff {
    fn pause(&mut self, random: u64) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(RETRY_MAX);
        // Between half and all of it.
        pause.mul_f64(0.5 + (random % 1024) as f64 / 2048.0)
    }

    fn reset(&mut self) {
        self.next = RETRY_MIN;
    }
}

/// Keeps one replica of a mirrored partition fed while it leads. Ends when the replica is closed.
pub(crate) async fn follow(inner: Arc<Inner>, home: String, partition: Partition) {
    let mut backoff = Backoff { next: RETRY_MIN };
    let follower = Follower { inner: &inner, home: &home, group: partition.id(), partition: &partition };
    loop {
        let mut leadership = partition.watch_leadership();
        if leadership.wait_for(|leadership| leadership.is_leader).await.is_err() {
            return;
        }
        let begun = Instant::now();
        let interruption = match follower.mirror_once().await {
            Ok(never) => match never {},
            Err(interruption) => interruption,
        };
        if begun.elapsed() > SETTLED || matches!(interruption, Interruption::Moved | Interruption::Deposed) {
            backoff.reset();
        }
        match &interruption {
            Interruption::Closed => return,
            ordinary if ordinary.is_ordinary() => tracing::debug!(group = ?partition.id(), reason = %ordinary, "a mirror starts anew"),
            failure => follower.fail(failure),
        }
        if !matches!(interruption, Interruption::Moved | Interruption::Deposed) {
            tokio::time::sleep(backoff.pause(inner.env.random.next_u64())).await;
        }
    }
}

/// No value: a mirror runs until it is interrupted.
enum Never {}

struct Follower<'a> {
    inner: &'a Arc<Inner>,
    home: &'a str,
    group: GroupId,
    partition: &'a Partition,
}

impl Follower<'_> {
    /// Says what is wrong, once per change.
    fn fail(&self, failure: &Interruption) {
        let error = failure.to_string();
        let mut mirrors = lock(&self.inner.mirrors);
        let Some(mirror) = mirrors.get_mut(&self.group) else { return };
        if mirror.error.as_ref() != Some(&error) {
            tracing::warn!(topic = %self.group.topic, partition = self.group.partition, home = self.home, %error, "a mirror does not run");
            mirror.error = Some(error);
        }
    }

    async fn mirror_once(&self) -> Result<Never, Interruption> {
        let session = self.source().await?;
        let from = self.partition.high_watermark();
        let open = Open { number: 0, group: self.group, from, last: self.last_batch(from).await? };
        let mut mirror = session.open(self.inner, open).await?;
        let mut appends = FuturesOrdered::new();
        let outcome = self.receive(&session, &mut mirror, &mut appends).await;
        drop(mirror);
        // What was submitted is committed or refused before the high watermark is asked again.
        while appends.next().await.is_some() {}
        outcome
    }

    /// Waits for a session whose peer leads the partition at home.
    async fn source(&self) -> Result<Arc<Session>, Interruption> {
        let mut claims = self.inner.claims.subscribe();
        let mut leadership = self.partition.watch_leadership();
        loop {
            claims.borrow_and_update();
            if let Some(session) = self.inner.source_of(self.home, self.group) {
                return Ok(session);
            }
            tokio::select! {
                _ = claims.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                lost = leadership.wait_for(|leadership| !leadership.is_leader) =>
                    return Err(lost.map_or(Interruption::Closed, |_| Interruption::Deposed)),
            }
        }
    }

    async fn last_batch(&self, end: i64) -> Result<Option<LastBatch>, Interruption> {
        if end == self.partition.log_start_offset() {
            return Ok(None);
        }
        let batches = self.partition.read(end - 1, 1).await?;
        let header = batches.first().and_then(|batch| BatchHeader::decode(&batch.bytes)).filter(|header| end_of(header) == end);
        let header = header.ok_or(Interruption::Tail)?;
        Ok(Some(LastBatch { epoch: header.leader_epoch, crc: header.crc }))
    }

    /// Where the home let go of records that never came here, the copy goes on behind them: it has the gap that its home has. Returns where.
    fn gap(&self, data: &Data) -> Option<i64> {
        let first = data.batches.first().and_then(|batch| BatchHeader::decode(&batch.bytes)).map(|header| header.base_offset);
        let (end, to) = (self.partition.submitted_end(), first.unwrap_or(data.start_offset));
        // Only where the home's log begins may something be missing before it.
        if to <= end || to > data.start_offset {
            return None;
        }
        // A copy that is new has missed nothing.
        if end > 0 {
            let (topic, partition, home) = (self.group.topic, self.group.partition, self.home);
            tracing::warn!(%topic, partition, home, end, to, "the home let go of records before they were mirrored; the mirror goes on behind them");
            lock(&self.inner.mirrors).entry(self.group).and_modify(|mirror| mirror.skipped_records += to - end);
        }
        Some(to)
    }

    /// Submits what came, in the order of the calls.
    fn take(&self, data: Data, begun: &mut i64) -> BoxFuture<'static, Result<(), AppendError>> {
        let gap = self.gap(&data);
        let skips = gap.map(|to| self.partition.follow_start(to));
        let append = self.partition.append_mirrored(data.batches);
        let begins = (data.start_offset > (*begun).max(gap.unwrap_or(0))).then(|| self.partition.follow_start(data.start_offset));
        *begun = (*begun).max(data.start_offset);
        async move {
            if let Some(skips) = skips {
                skips.await.map_err(of_start)?;
            }
            append.await?;
            if let Some(begins) = begins {
                begins.await.map_err(of_start)?;
            }
            Ok(())
        }
        .boxed()
    }

    async fn receive(
        &self,
        session: &Arc<Session>,
        mirror: &mut OpenMirror,
        appends: &mut FuturesOrdered<BoxFuture<'static, Result<(), AppendError>>>,
    ) -> Result<Never, Interruption> {
        let mut claims = self.inner.claims.subscribe();
        let mut leadership = self.partition.watch_leadership();
        let mut reported = self.partition.high_watermark();
        let mut begun = self.partition.log_start_offset();
        loop {
            tokio::select! {
                event = mirror.events.recv() => match event.ok_or(Interruption::Link)? {
                    MirrorEvent::Opened => self.inner.opened(self.group),
                    MirrorEvent::Ended(reason, detail) => return Err(Interruption::Ended(reason, detail)),
                    MirrorEvent::Data(data, permit) => {
                        self.inner.note(self.group, (data.high_watermark, data.closed_us));
                        // Submission happens in the call, so batches keep their order with several frames in flight.
                        let taken = self.take(data, &mut begun);
                        appends.push_back(taken.map(move |result| { drop(permit); result }).boxed());
                    }
                },
                Some(appended) = appends.next(), if !appends.is_empty() => {
                    appended?;
                    let durable = self.partition.high_watermark();
                    if durable > reported {
                        mirror.report(durable).await;
                        reported = durable;
                    }
                }
                changed = leadership.changed() => {
                    changed.map_err(|_| Interruption::Closed)?;
                    if !leadership.borrow_and_update().is_leader {
                        return Err(Interruption::Deposed);
                    }
                }
                _ = claims.changed() => {
                    if self.inner.source_of(self.home, self.group).is_none_or(|source| source.id != session.id) {
                        return Err(Interruption::Moved);
                    }
                }
            }
        }
    }
}

fn of_start(error: DeleteRecordsError) -> AppendError {
    match error {
        DeleteRecordsError::NotLeader { leader } => AppendError::NotLeader { leader },
        DeleteRecordsError::Timeout => AppendError::Timeout,
        other => AppendError::Storage(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_start_anew_after_success() {
        let mut backoff = Backoff { next: RETRY_MIN };
        let pauses: Vec<Duration> = (0..10).map(|_| backoff.pause(1023)).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]) && pauses[9] <= RETRY_MAX);
        backoff.reset();
        assert!(backoff.pause(0) <= RETRY_MIN);
    }
}
