//! What a partition remembers of idempotent producers, so that a batch sent twice is stored once.
//!
//! Two views are kept: what is committed (the same on every replica: rebuilt from the log, and from the checkpoint that stands for its purged
//! part) and what this leader has proposed since. The second is forgotten with the leadership.

mod checkpoint;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::{AppendError, Appended};
use crate::batch::BatchHeader;

/// Batches remembered per producer: as many as a client may have in flight.
const BATCHES_MAX: usize = 5;
/// Producers remembered per partition; beyond it the longest silent eighth is forgotten.
const PRODUCERS_MAX: usize = 1 << 16;
/// A producer silent for this long is forgotten with the next retention point (Kafka's `producer.id.expiration.ms`).
const SILENCE_MAX_US: i64 = 24 * 60 * 60 * 1_000_000;
/// A producer's first batch may arrive behind its next ones: it was refused by a leader that was none, or waits for the answer of one that is
/// gone. The others are asked to come again for as long as a client's requests and their retries may take.
const FIRST_BATCH_PATIENCE: Duration = Duration::from_secs(60);
/// Producers waited for at once; more are asked to come again without being noted.
const WAITED_FOR_MAX: usize = 1 << 12;

/// An append in progress that a retry may wait for as well.
pub(crate) type Pending = Shared<BoxFuture<'static, Result<Appended, AppendError>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sequences {
    first: i32,
    last: i32,
}

#[derive(Debug, Default)]
struct Producer {
    epoch: i16,
    /// Oldest first.
    committed: VecDeque<(Sequences, Appended)>,
    /// Of the last committed batch, µs.
    append_time_us: i64,
    pending: VecDeque<(i16, Sequences, Pending)>,
    /// The first of the proposals that this node has lost: the client sends it again, perhaps behind others that were under way.
    lost: Option<(i16, i32, Instant)>,
}

impl Producer {
    /// Lets go of proposals from `at` on.
    fn lose(&mut self, at: usize, now: Instant) {
        if let Some((epoch, held, _)) = self.pending.get(at) {
            self.lost = Some((*epoch, held.first, now));
        }
        self.pending.truncate(at);
    }

    /// Something of it is committed or under way.
    fn is_known(&self) -> bool {
        !self.committed.is_empty() || !self.pending.is_empty()
    }

    /// What has this sequence was lost here not long ago, so that it may well come again.
    fn has_lost(&self, epoch: i16, sequence: i32, now: Instant) -> bool {
        self.lost.is_some_and(|(lost_epoch, first, at)| {
            (lost_epoch, first) == (epoch, sequence) && now.duration_since(at) < FIRST_BATCH_PATIENCE
        })
    }

    /// When it was last heard of, by the log's own order: nobody is forgotten with proposals under way.
    fn heard(&self) -> i64 {
        if self.pending.is_empty() { self.committed.back().map_or(-1, |(_, appended)| appended.last_offset) } else { i64::MAX }
    }
}

/// All producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    producers: HashMap<i64, Producer>,
    /// Some producers that are in no table any more, or never came here: one that is unknown may have been.
    forgotten: bool,
    /// Term in which the pending batches were proposed.
    term: i32,
    /// Unknown producers whose first batch has not come, since when.
    waited_for: HashMap<i64, Instant>,
}

/// What to do with a batch.
#[derive(Debug)]
pub(crate) enum Verdict {
    New,
    Committed(Appended),
    InProgress(Pending),
}

fn sequences(batch: &BatchHeader) -> Sequences {
    Sequences { first: batch.base_sequence, last: add(batch.base_sequence, batch.last_offset_delta) }
}

/// Sequences wrap to 0 behind `i32::MAX`.
fn add(sequence: i32, delta: i32) -> i32 {
    ((i64::from(sequence) + i64::from(delta)) % (i64::from(i32::MAX) + 1)) as i32
}

impl Producers {
    /// Judges a batch that shall be proposed in `term`.
    pub fn judge(&mut self, batch: &BatchHeader, term: i32, now: Instant) -> Result<Verdict, AppendError> {
        if self.term != term {
            // Whatever an earlier leadership proposed is in the log by now, or will never be.
            self.producers.values_mut().for_each(|producer| producer.lose(0, now));
            self.term = term;
        }
        if batch.producer_id < 0 {
            return Ok(Verdict::New);
        }
        let producer_id = batch.producer_id;
        let wanted = sequences(batch);
        let Some(producer) = self.producers.get(&producer_id).filter(|producer| producer.is_known()) else {
            return self.judge_unknown(producer_id, wanted.first, now);
        };
        let newest = producer.pending.back().map_or(producer.epoch, |(epoch, ..)| *epoch);
        if batch.producer_epoch < newest {
            return Err(AppendError::InvalidProducerEpoch { producer_id, current: newest });
        }
        let out_of_order = |expected| AppendError::OutOfOrderSequence { producer_id, expected, got: wanted.first };
        if batch.producer_epoch > newest {
            return match wanted.first {
                0 => Ok(Verdict::New),
                _ if producer.has_lost(batch.producer_epoch, 0, now) => Err(AppendError::NotLeader { leader: None }),
                _ => Err(out_of_order(0)),
            };
        }
        let same = |pending: &&(i16, Sequences, Pending)| pending.0 == batch.producer_epoch && pending.1 == wanted;
        if let Some((_, _, pending)) = producer.pending.iter().find(same) {
            return Ok(Verdict::InProgress(pending.clone()));
        }
        let known = if producer.epoch == batch.producer_epoch { producer.committed.iter().find(|(held, _)| *held == wanted) } else { None };
        if let Some((_, appended)) = known {
            return Ok(Verdict::Committed(Appended { duplicate: true, ..*appended }));
        }
        let last = producer.pending.back().map(|(_, held, _)| held.last).or(producer.committed.back().map(|(held, _)| held.last));
        match last.map_or(0, |last| add(last, 1)) {
            expected if expected == wanted.first => Ok(Verdict::New),
            // What this node lost may come behind it.
            expected if producer.has_lost(batch.producer_epoch, expected, now) => Err(AppendError::NotLeader { leader: None }),
            expected => Err(out_of_order(expected)),
        }
    }

    /// Of a producer that nothing is known of the first batch is its first, unless it has been forgotten.
    fn judge_unknown(&mut self, producer_id: i64, got: i32, now: Instant) -> Result<Verdict, AppendError> {
        if got == 0 {
            self.waited_for.remove(&producer_id);
            return Ok(Verdict::New);
        }
        if self.waited_for.len() >= WAITED_FOR_MAX {
            self.waited_for.retain(|_, since| now.duration_since(*since) < 2 * FIRST_BATCH_PATIENCE);
        }
        let since = match self.waited_for.get(&producer_id) {
            Some(since) => *since,
            None if self.waited_for.len() < WAITED_FOR_MAX => *self.waited_for.entry(producer_id).or_insert(now),
            None => now,
        };
        if now.duration_since(since) < FIRST_BATCH_PATIENCE {
            return Err(AppendError::NotLeader { leader: None });
        }
        if self.forgotten { Ok(Verdict::New) } else { Err(AppendError::OutOfOrderSequence { producer_id, expected: 0, got }) }
    }

    /// Remembers a batch that has been proposed.
    pub fn proposed(&mut self, batch: &BatchHeader, pending: Pending) {
        let producer = self.heard(batch.producer_id);
        producer.lost = None;
        producer.pending.push_back((batch.producer_epoch, sequences(batch), pending));
    }

    /// Forgets a proposal that failed in the term in which it was made, and all behind it: their sequences no longer follow on anything. One
    /// that is only late has not failed: it may be committed yet, and a retry that was judged new would be stored beside it.
    pub fn failed(&mut self, batch: &BatchHeader, term: i32, now: Instant) {
        if self.term != term {
            // A retry of it may have been proposed since.
            return;
        }
        let failed = (batch.producer_epoch, sequences(batch));
        if let Some(producer) = self.producers.get_mut(&batch.producer_id)
            && let Some(at) = producer.pending.iter().position(|(epoch, held, _)| (*epoch, *held) == failed)
        {
            producer.lose(at, now);
        }
    }

    /// Learns of a committed batch; of one that it knows, nothing. `append_time_us` is the batch's.
    pub fn applied(&mut self, batch: &BatchHeader, append_time_us: i64) {
        if batch.producer_id < 0 {
            return;
        }
        let last_offset = batch.base_offset + i64::from(batch.last_offset_delta);
        let producer = self.heard(batch.producer_id);
        if producer.committed.back().is_some_and(|(_, held)| held.last_offset >= last_offset) {
            // A checkpoint may be newer than the entries that are applied behind it.
            return;
        }
        if producer.epoch != batch.producer_epoch {
            producer.epoch = batch.producer_epoch;
            producer.committed.clear();
        }
        let applied = sequences(batch);
        // Proposals are committed in order, so what stood before this one failed.
        if let Some(at) = producer.pending.iter().position(|(epoch, held, _)| *epoch == batch.producer_epoch && *held == applied) {
            producer.pending.drain(..=at);
        }
        if producer.committed.len() == BATCHES_MAX {
            producer.committed.pop_front();
        }
        producer.append_time_us = append_time_us;
        producer.committed.push_back((applied, Appended { base_offset: batch.base_offset, last_offset, duplicate: false }));
    }

    /// A retention point was committed at this time: whoever has been silent for a day is forgotten, on every replica alike.
    pub fn expire(&mut self, now_us: i64) {
        let since = now_us.saturating_sub(SILENCE_MAX_US);
        let silent = |producer: &Producer| producer.append_time_us < since && producer.pending.is_empty();
        self.forgotten |= self.producers.values().any(|producer| silent(producer) && !producer.committed.is_empty());
        self.producers.retain(|_, producer| !silent(producer));
    }

    /// Batches were left out that might have been anybody's.
    pub fn skipped(&mut self) {
        self.forgotten = true;
    }

    fn heard(&mut self, producer_id: i64) -> &mut Producer {
        if self.producers.len() >= PRODUCERS_MAX && !self.producers.contains_key(&producer_id) {
            let mut heard: Vec<i64> = self.producers.values().map(Producer::heard).collect();
            let (_, &mut limit, _) = heard.select_nth_unstable(PRODUCERS_MAX / 8);
            self.producers.retain(|_, producer| producer.heard() > limit || !producer.pending.is_empty());
            self.forgotten = true;
        }
        self.producers.entry(producer_id).or_default()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    pub(super) fn batch(producer_epoch: i16, base_sequence: i32, count: i32, base_offset: i64) -> BatchHeader {
        BatchHeader {
            base_offset,
            length: 0,
            leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
            producer_id: 7,
            producer_epoch,
            base_sequence,
            count,
        }
    }

    fn now() -> Instant {
        Instant::now()
    }

    fn never() -> Pending {
        std::future::pending().boxed().shared()
    }

    #[test]
    fn a_retry_of_a_committed_batch_gets_its_first_offset() {
        let mut producers = Producers::default();
        producers.applied(&batch(0, 0, 3, 10), 1);
        let Ok(Verdict::Committed(appended)) = producers.judge(&batch(0, 0, 3, 0), 1, now()) else { panic!("not recognised") };
        assert_eq!(appended, Appended { base_offset: 10, last_offset: 12, duplicate: true });
        assert!(matches!(producers.judge(&batch(0, 3, 1, 0), 1, now()), Ok(Verdict::New)));
    }

    #[test]
    fn a_retry_of_a_batch_in_progress_waits_for_the_same_commit() {
        let mut producers = Producers::default();
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1, now()), Ok(Verdict::New)));
        producers.proposed(&batch(0, 0, 1, 0), never());
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1, now()), Ok(Verdict::InProgress(_))));
        assert!(matches!(producers.judge(&batch(0, 1, 1, 0), 1, now()), Ok(Verdict::New)));
    }

    #[test]
    fn a_gap_is_refused_until_the_missing_batch_came() {
        let mut producers = Producers::default();
        producers.applied(&batch(0, 0, 1, 0), 1);
        let refused = producers.judge(&batch(0, 2, 1, 0), 1, now()).unwrap_err();
        assert_eq!(refused, AppendError::OutOfOrderSequence { producer_id: 7, expected: 1, got: 2 });
    }

    #[test]
    fn what_follows_a_failed_proposal_is_not_expected_any_more() {
        let mut producers = Producers::default();
        producers.judge(&batch(0, 0, 1, 0), 1, now()).unwrap();
        producers.proposed(&batch(0, 0, 1, 0), never());
        producers.proposed(&batch(0, 1, 1, 0), never());
        producers.failed(&batch(0, 0, 1, 0), 1, now());
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1, now()), Ok(Verdict::New)));
        assert!(producers.judge(&batch(0, 1, 1, 0), 1, now()).is_err());
    }

    #[test]
    fn the_failure_of_an_earlier_leaderships_proposal_does_not_touch_its_retry() {
        let mut producers = Producers::default();
        producers.judge(&batch(0, 0, 1, 0), 1, now()).unwrap();
        producers.proposed(&batch(0, 0, 1, 0), never());
        producers.judge(&batch(0, 0, 1, 0), 3, now()).unwrap();
        producers.proposed(&batch(0, 0, 1, 0), never());
        producers.failed(&batch(0, 0, 1, 0), 1, now());
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 3, now()), Ok(Verdict::InProgress(_))));
    }

    #[test]
    fn another_leadership_forgets_what_was_only_proposed() {
        let mut producers = Producers::default();
        producers.judge(&batch(0, 0, 1, 0), 1, now()).unwrap();
        producers.proposed(&batch(0, 0, 1, 0), never());
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 2, now()), Ok(Verdict::New)));
    }

    #[test]
    fn a_producer_without_an_id_makes_a_new_leadership_forget_as_well() {
        let mut producers = Producers::default();
        producers.judge(&batch(0, 0, 1, 0), 1, now()).unwrap();
        let (reserved, waiting) = tokio::sync::oneshot::channel::<()>();
        producers.proposed(&batch(0, 0, 1, 0), waiting.then(|_| std::future::pending()).boxed().shared());
        let nobody = BatchHeader { producer_id: -1, producer_epoch: -1, base_sequence: -1, ..batch(0, 0, 1, 0) };
        producers.judge(&nobody, 2, now()).unwrap();
        assert!(reserved.is_closed(), "what waited for the commit is still held");
    }

    #[test]
    fn later_batches_of_an_unknown_producer_wait_for_its_first() {
        let mut producers = Producers::default();
        let refused = producers.judge(&batch(0, 1, 1, 0), 1, now()).unwrap_err();
        assert_eq!(refused, AppendError::NotLeader { leader: None }, "the first may be refused elsewhere and come next");
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1, now()), Ok(Verdict::New)));
        producers.proposed(&batch(0, 0, 1, 0), never());
        assert!(matches!(producers.judge(&batch(0, 1, 1, 0), 1, now()), Ok(Verdict::New)));
    }

    #[test]
    fn a_first_batch_that_never_comes_is_a_gap_unless_producers_were_forgotten() {
        let mut producers = Producers::default();
        producers.judge(&batch(0, 1, 1, 0), 1, now()).unwrap_err();
        let later = now() + FIRST_BATCH_PATIENCE;
        let refused = producers.judge(&batch(0, 1, 1, 0), 1, later).unwrap_err();
        assert_eq!(refused, AppendError::OutOfOrderSequence { producer_id: 7, expected: 0, got: 1 });
        producers.skipped();
        assert!(matches!(producers.judge(&batch(0, 1, 1, 0), 1, later), Ok(Verdict::New)), "it may have been forgotten");
    }

    #[test]
    fn what_a_leadership_lost_may_come_behind_what_followed_on_it() {
        let mut producers = Producers::default();
        producers.applied(&batch(0, 0, 1, 0), 1);
        producers.judge(&batch(0, 1, 1, 0), 1, now()).unwrap();
        producers.proposed(&batch(0, 1, 1, 0), never());
        producers.proposed(&batch(0, 2, 1, 0), never());
        // Elected again: sequence 3 was on its way already.
        assert_eq!(producers.judge(&batch(0, 3, 1, 0), 3, now()).unwrap_err(), AppendError::NotLeader { leader: None });
        assert!(matches!(producers.judge(&batch(0, 1, 1, 0), 3, now()), Ok(Verdict::New)));
        producers.proposed(&batch(0, 1, 1, 0), never());
        assert!(matches!(producers.judge(&batch(0, 3, 1, 0), 3, now()), Err(AppendError::OutOfOrderSequence { expected: 2, .. })));
    }

    #[test]
    fn whoever_was_silent_for_a_day_is_forgotten() {
        let mut producers = Producers::default();
        producers.applied(&batch(0, 0, 1, 0), 5);
        producers.expire(SILENCE_MAX_US + 5);
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1, now()), Ok(Verdict::Committed(_))));
        producers.expire(SILENCE_MAX_US + 6);
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1, now()), Ok(Verdict::New)));
    }

    #[test]
    fn an_older_epoch_is_fenced_and_a_newer_starts_at_zero() {
        let mut producers = Producers::default();
        producers.applied(&batch(3, 0, 1, 0), 1);
        assert!(matches!(producers.judge(&batch(2, 1, 1, 0), 1, now()), Err(AppendError::InvalidProducerEpoch { current: 3, .. })));
        assert!(producers.judge(&batch(4, 1, 1, 0), 1, now()).is_err());
        assert!(matches!(producers.judge(&batch(4, 0, 1, 0), 1, now()), Ok(Verdict::New)));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut producers = Producers::default();
        producers.applied(&batch(0, i32::MAX, 1, 0), 1);
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1, now()), Ok(Verdict::New)));
    }
}
