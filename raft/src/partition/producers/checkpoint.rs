//! A checkpoint of what is committed of all producers, as a snapshot carries it:
//! `forgotten u8, (producer id i64, epoch i16, append time i64, count u8, (first i32, base offset i64, last offset delta i32)*)*`.

use std::collections::{HashMap, VecDeque};
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Appended, PRODUCERS_MAX, Producer, Producers, Sequences, add};

impl Producers {
    /// All that is committed, for a snapshot; in the order of producer ids, so that equal tables make equal bytes.
    pub fn checkpoint(&self) -> Bytes {
        let mut known: Vec<(&i64, &Producer)> = self.producers.iter().filter(|(_, producer)| !producer.committed.is_empty()).collect();
        known.sort_unstable_by_key(|(id, _)| **id);
        let mut bytes = BytesMut::new();
        bytes.put_u8(u8::from(self.forgotten));
        for (id, producer) in known {
            bytes.put_i64(*id);
            bytes.put_i16(producer.epoch);
            bytes.put_i64(producer.append_time_us);
            bytes.put_u8(producer.committed.len() as u8);
            for (held, appended) in &producer.committed {
                bytes.put_i32(held.first);
                bytes.put_i64(appended.base_offset);
                bytes.put_i32((appended.last_offset - appended.base_offset) as i32);
            }
        }
        bytes.freeze()
    }

    /// Replaces everything by a checkpoint.
    pub fn restore(&mut self, checkpoint: &Bytes) -> io::Result<()> {
        let (forgotten, producers) =
            decode(checkpoint.clone()).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed checkpoint of producers"))?;
        *self = Producers { producers, forgotten, term: self.term, waited_for: HashMap::new() };
        Ok(())
    }
}

fn decode(mut bytes: Bytes) -> Option<(bool, HashMap<i64, Producer>)> {
    let forgotten = bytes.try_get_u8().ok()? != 0;
    let mut producers = HashMap::new();
    while !bytes.is_empty() && producers.len() < PRODUCERS_MAX {
        let id = bytes.try_get_i64().ok()?;
        let (epoch, append_time_us) = (bytes.try_get_i16().ok()?, bytes.try_get_i64().ok()?);
        let mut committed = VecDeque::new();
        for _ in 0..bytes.try_get_u8().ok()? {
            let (first, base_offset) = (bytes.try_get_i32().ok()?, bytes.try_get_i64().ok()?);
            let delta = bytes.try_get_i32().ok().filter(|delta| *delta >= 0)?;
            let last_offset = base_offset.checked_add(i64::from(delta))?;
            committed.push_back((Sequences { first, last: add(first, delta) }, Appended { base_offset, last_offset, duplicate: false }));
        }
        producers.insert(id, Producer { epoch, committed, append_time_us, ..Producer::default() });
    }
    Some((forgotten, producers))
}

#[cfg(test)]
mod tests {
    use super::super::tests::batch;
    use super::*;
    use crate::batch::BatchHeader;

    #[test]
    fn a_checkpoint_and_the_entries_behind_its_log_make_the_same_table() {
        let entries: Vec<BatchHeader> = (0..9).map(|i| BatchHeader { producer_id: i % 2, ..batch(0, i as i32 / 2, 1, i) }).collect();
        let (mut all, mut newer, mut restored) = (Producers::default(), Producers::default(), Producers::default());
        entries.iter().for_each(|entry| all.applied(entry, 1));
        entries.iter().take(7).for_each(|entry| newer.applied(entry, 1));
        restored.restore(&newer.checkpoint()).unwrap();
        // The log behind the purge point begins before what the checkpoint knows.
        entries.iter().skip(3).for_each(|entry| restored.applied(entry, 1));
        assert_eq!(restored.checkpoint(), all.checkpoint());
    }

    #[test]
    fn damaged_checkpoints_are_refused_without_a_panic() {
        let mut producers = Producers::default();
        producers.applied(&batch(0, 0, 1, 0), 5);
        let whole = producers.checkpoint();
        for end in 0..whole.len() {
            assert_eq!(producers.restore(&whole.slice(..end)).is_ok(), end == 1, "{end}");
        }
    }
}
