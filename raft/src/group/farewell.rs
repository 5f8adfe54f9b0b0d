//! What a replica promised that has left, and how its successor on the same node keeps it; why, says `node::deleting`.

use super::votes::meta_key;
use super::{Group, lock};
use crate::GroupId;
use crate::log::LogPosition;
use crate::writer::Writer;

/// Kind of the keys of farewells.
pub(crate) const FAREWELL_KIND: u8 = b'f';

pub(crate) fn farewell_key(group: GroupId) -> Vec<u8> {
    meta_key(FAREWELL_KIND, group)
}

/// Where the log of a replica ended that has left, for as long as its successor's ends before that; nothing where it held nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Farewell(pub Option<LogPosition>);

impl Farewell {
    pub fn of(writer: &Writer, group: GroupId) -> Farewell {
        let value = writer.meta(farewell_key(group)).unwrap_or_default();
        let word = |at: usize| value.get(at..).and_then(|bytes| bytes.first_chunk()).map(|bytes| u64::from_be_bytes(*bytes));
        // The first byte says no more than that there is one.
        Farewell(word(1).zip(word(9)).map(|(term, index)| LogPosition { term, index }))
    }

    pub fn encode(self) -> Vec<u8> {
        let words = self.0.map(|last| [last.term.to_be_bytes(), last.index.to_be_bytes()].concat());
        [vec![1], words.unwrap_or_default()].concat()
    }
}

/// Has a replica that is bound by a farewell stand for no election until its log reaches as far as the earlier one; from then on it is a
/// replica like any other.
pub(super) fn keep_word(group: &Group) {
    let (weak, mut applied) = (group.downgrade(), group.applied());
    group.inner.runtime.spawn(async move {
        loop {
            let Some(inner) = weak.upgrade() else { return };
            let bound_by = lock(&inner.core).bound_by();
            if inner.log.last() >= bound_by {
                // Queued behind the entries that made it good: no crash takes the log back behind this.
                if let Err(error) = inner.writer.save_meta(farewell_key(inner.id), None).await {
                    let GroupId { topic, partition } = inner.id;
                    tracing::warn!(%topic, partition, %error, "a farewell stays though it is made good");
                }
                return inner.turn(|core, _| core.unbind());
            }
            drop(inner);
            if applied.changed().await.is_err() {
                return;
            }
        }
    });
}
