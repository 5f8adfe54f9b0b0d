//! The producer with sequences: the same batch again and again, at whoever leads, until one acknowledges it; now and then once more after that.

use std::time::Duration;

use bytes::BytesMut;
use meridian_raft::NodeId;
use meridian_raft::batch::Batch;
use meridian_raft::partition::AppendError;

use super::{ANSWER_PATIENCE, Place, value_batch};
use crate::sim::region::site::lock;

/// Values of the idempotent producer are far from the others'.
const IDEMPOTENT_BASE: u64 = 1 << 40;

/// The one idempotent producer of a partition, wherever the leader is: its next batch, sent until it is acknowledged.
#[derive(Debug, Default)]
pub(in crate::sim) struct Producer {
    next: u64,
    /// The node at which it waits for an answer.
    waits_at: Option<NodeId>,
}

impl Producer {
    pub(super) fn forget(&mut self, node: NodeId) {
        if self.waits_at == Some(node) {
            self.waits_at = None;
        }
    }
}

pub(super) async fn append(place: Place) {
    loop {
        tokio::time::sleep(Duration::from_millis(7)).await;
        if place.site.rests() {
            continue;
        }
        let sequence = {
            let mut producer = lock(&place.stream.producer);
            if producer.waits_at.is_some() || !place.partition.leadership().is_leader {
                continue;
            }
            producer.waits_at = Some(place.node());
            producer.next
        };
        send(&place, sequence).await;
        lock(&place.stream.producer).waits_at = None;
    }
}

async fn send(place: &Place, sequence: u64) {
    let value = place.value(IDEMPOTENT_BASE + sequence);
    let Some(batch) = with_sequence(value, sequence) else { return };
    place.tell(|oracle| oracle.sends(value));
    match tokio::time::timeout(ANSWER_PATIENCE, place.partition.append(batch.clone())).await {
        Ok(Ok(appended)) => {
            place.tell(|oracle| oracle.acknowledges(place.node(), value, appended));
            if sequence.is_multiple_of(5)
                && let Ok(Ok(again)) = tokio::time::timeout(ANSWER_PATIENCE, place.partition.append(batch)).await
            {
                place.tell(|oracle| oracle.acknowledges(place.node(), value, again));
            }
            lock(&place.stream.producer).next = sequence + 1;
        }
        Ok(Err(AppendError::OutOfOrderSequence { expected, got, .. })) => {
            let what = format!("sequence {got} follows on an acknowledged one, but node {} expects {expected}", place.node());
            place.tell(|oracle| oracle.breaks(what));
        }
        Ok(Err(_)) | Err(_) => place.tell(|oracle| oracle.leaves_open(place.node(), value)),
    }
}

fn with_sequence(value: u64, sequence: u64) -> Option<Batch> {
    let mut bytes = BytesMut::from(&value_batch(value).ok()?.bytes()[..]);
    bytes[43..51].copy_from_slice(&7i64.to_be_bytes());
    bytes[51..53].copy_from_slice(&0i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&i32::try_from(sequence).ok()?.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Batch::validate(bytes.freeze()).ok()
}
