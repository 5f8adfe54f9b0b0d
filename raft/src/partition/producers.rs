//! What a partition remembers of idempotent producers, so that a batch sent twice is stored once.
//!
//! Two views are kept: what is committed (the same on every replica, rebuilt from the log) and what this leader has proposed since. The
//! second is forgotten with the leadership.

use std::collections::{HashMap, VecDeque};

use futures_util::future::{BoxFuture, Shared};

use super::{AppendError, Appended};
use crate::batch::BatchHeader;

/// Batches remembered per producer: as many as a client may have in flight.
const BATCHES_MAX: usize = 5;
/// Producers remembered per partition; beyond it the longest silent eighth is forgotten.
const PRODUCERS_MAX: usize = 1 << 16;

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
    pending: VecDeque<(i16, Sequences, Pending)>,
    /// When it was last heard of, counted in batches of the partition.
    heard: u64,
}

/// All producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    producers: HashMap<i64, Producer>,
    /// Term in which the pending batches were proposed.
    term: i32,
    clock: u64,
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
    pub fn judge(&mut self, batch: &BatchHeader, term: i32) -> Result<Verdict, AppendError> {
        if self.term != term {
            // Whatever an earlier leadership proposed is in the log by now, or will never be.
            self.producers.values_mut().for_each(|producer| producer.pending.clear());
            self.term = term;
        }
        if batch.producer_id < 0 {
            return Ok(Verdict::New);
        }
        let producer_id = batch.producer_id;
        let Some(producer) = self.producers.get(&producer_id) else { return Ok(Verdict::New) };
        let wanted = sequences(batch);
        let newest = producer.pending.back().map_or(producer.epoch, |(epoch, ..)| *epoch);
        if batch.producer_epoch < newest {
            return Err(AppendError::InvalidProducerEpoch { producer_id, current: newest });
        }
        let out_of_order = |expected| AppendError::OutOfOrderSequence { producer_id, expected, got: wanted.first };
        if batch.producer_epoch > newest {
            return if wanted.first == 0 { Ok(Verdict::New) } else { Err(out_of_order(0)) };
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
            expected => Err(out_of_order(expected)),
        }
    }

    /// Remembers a batch that has been proposed.
    pub fn proposed(&mut self, batch: &BatchHeader, pending: Pending) {
        let producer = self.heard(batch.producer_id);
        producer.pending.push_back((batch.producer_epoch, sequences(batch), pending));
    }

    /// Forgets a proposal that failed in the term in which it was made, and all behind it: their sequences no longer follow on anything. One
    /// that is only late has not failed: it may be committed yet, and a retry that was judged new would be stored beside it.
    pub fn failed(&mut self, batch: &BatchHeader, term: i32) {
        if self.term != term {
            // A retry of it may have been proposed since.
            return;
        }
        let failed = (batch.producer_epoch, sequences(batch));
        if let Some(producer) = self.producers.get_mut(&batch.producer_id)
            && let Some(at) = producer.pending.iter().position(|(epoch, held, _)| (*epoch, *held) == failed)
        {
            producer.pending.truncate(at);
        }
    }

    /// Learns of a committed batch.
    pub fn applied(&mut self, batch: &BatchHeader) {
        if batch.producer_id < 0 {
            return;
        }
        let producer = self.heard(batch.producer_id);
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
        let last_offset = batch.base_offset + i64::from(batch.last_offset_delta);
        producer.committed.push_back((applied, Appended { base_offset: batch.base_offset, last_offset, duplicate: false }));
    }

    fn heard(&mut self, producer_id: i64) -> &mut Producer {
        if self.producers.len() >= PRODUCERS_MAX && !self.producers.contains_key(&producer_id) {
            let mut heard: Vec<u64> = self.producers.values().map(|producer| producer.heard).collect();
            let (_, &mut limit, _) = heard.select_nth_unstable(PRODUCERS_MAX / 8);
            self.producers.retain(|_, producer| producer.heard > limit || !producer.pending.is_empty());
        }
        self.clock += 1;
        let producer = self.producers.entry(producer_id).or_default();
        producer.heard = self.clock;
        producer
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn batch(producer_epoch: i16, base_sequence: i32, count: i32, base_offset: i64) -> BatchHeader {
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

    fn never() -> Pending {
        std::future::pending().boxed().shared()
    }

    #[test]
    fn a_retry_of_a_committed_batch_gets_its_first_offset() {
        let mut producers = Producers::default();
        producers.applied(&batch(0, 0, 3, 10));
        let Ok(Verdict::Committed(appended)) = producers.judge(&batch(0, 0, 3, 0), 1) else { panic!("not recognised") };
        assert_eq!(appended, Appended { base_offset: 10, last_offset: 12, duplicate: true });
        assert!(matches!(producers.judge(&batch(0, 3, 1, 0), 1), Ok(Verdict::New)));
    }

    #[test]
    fn a_retry_of_a_batch_in_progress_waits_for_the_same_commit() {
        let mut producers = Producers::default();
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1), Ok(Verdict::New)));
        producers.proposed(&batch(0, 0, 1, 0), never());
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1), Ok(Verdict::InProgress(_))));
        assert!(matches!(producers.judge(&batch(0, 1, 1, 0), 1), Ok(Verdict::New)));
    }

    #[test]
    fn a_gap_is_refused_until_the_missing_batch_came() {
        let mut producers = Producers::default();
        producers.applied(&batch(0, 0, 1, 0));
        let refused = producers.judge(&batch(0, 2, 1, 0), 1).unwrap_err();
        assert_eq!(refused, AppendError::OutOfOrderSequence { producer_id: 7, expected: 1, got: 2 });
    }

    #[test]
    fn what_follows_a_failed_proposal_is_not_expected_any_more() {
        let mut producers = Producers::default();
        producers.judge(&batch(0, 0, 1, 0), 1).unwrap();
        producers.proposed(&batch(0, 0, 1, 0), never());
        producers.proposed(&batch(0, 1, 1, 0), never());
        producers.failed(&batch(0, 0, 1, 0), 1);
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1), Ok(Verdict::New)));
        assert!(producers.judge(&batch(0, 1, 1, 0), 1).is_err());
    }

    #[test]
    fn the_failure_of_an_earlier_leaderships_proposal_does_not_touch_its_retry() {
        let mut producers = Producers::default();
        producers.judge(&batch(0, 0, 1, 0), 1).unwrap();
        producers.proposed(&batch(0, 0, 1, 0), never());
        producers.judge(&batch(0, 0, 1, 0), 3).unwrap();
        producers.proposed(&batch(0, 0, 1, 0), never());
        producers.failed(&batch(0, 0, 1, 0), 1);
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 3), Ok(Verdict::InProgress(_))));
    }

    #[test]
    fn another_leadership_forgets_what_was_only_proposed() {
        let mut producers = Producers::default();
        producers.judge(&batch(0, 0, 1, 0), 1).unwrap();
        producers.proposed(&batch(0, 0, 1, 0), never());
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 2), Ok(Verdict::New)));
    }

    #[test]
    fn a_producer_without_an_id_makes_a_new_leadership_forget_as_well() {
        let mut producers = Producers::default();
        producers.judge(&batch(0, 0, 1, 0), 1).unwrap();
        let (reserved, waiting) = tokio::sync::oneshot::channel::<()>();
        producers.proposed(&batch(0, 0, 1, 0), waiting.then(|_| std::future::pending()).boxed().shared());
        let nobody = BatchHeader { producer_id: -1, producer_epoch: -1, base_sequence: -1, ..batch(0, 0, 1, 0) };
        producers.judge(&nobody, 2).unwrap();
        assert!(reserved.is_closed(), "what waited for the commit is still held, and its bytes count as waiting");
    }

    #[test]
    fn an_older_epoch_is_fenced_and_a_newer_starts_at_zero() {
        let mut producers = Producers::default();
        producers.applied(&batch(3, 0, 1, 0));
        assert!(matches!(producers.judge(&batch(2, 1, 1, 0), 1), Err(AppendError::InvalidProducerEpoch { current: 3, .. })));
        assert!(producers.judge(&batch(4, 1, 1, 0), 1).is_err());
        assert!(matches!(producers.judge(&batch(4, 0, 1, 0), 1), Ok(Verdict::New)));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut producers = Producers::default();
        producers.applied(&batch(0, i32::MAX, 1, 0));
        assert!(matches!(producers.judge(&batch(0, 0, 1, 0), 1), Ok(Verdict::New)));
    }
}
