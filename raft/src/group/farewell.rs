//! What a replica promised that has left, and how its successor on the same node keeps it; why, says `node::deleting`.

use std::sync::Arc;

use tokio::sync::watch;

use super::Raft;
use super::machine::Applied;
use super::rest::Rest;
use super::storage::meta_key;
use crate::GroupId;
use crate::log::{Log, LogPosition};
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

/// A replica that is bound by a farewell.
pub(super) struct Bound {
    pub group: GroupId,
    pub log: Log,
    pub raft: Raft,
    pub rest: Arc<Rest>,
    pub writer: Writer,
    pub applied: watch::Receiver<Applied>,
}

impl Bound {
    /// Stands for no election until the log reaches as far as the earlier one; from then on it is a replica like any other.
    pub async fn keep_word(mut self) {
        self.raft.runtime_config().elect(false);
        while self.log.last() < self.rest.bound_by() {
            if self.applied.changed().await.is_err() {
                return;
            }
        }
        // Queued behind the entries that made it good: no crash takes the log back behind this.
        if let Err(error) = self.writer.save_meta(farewell_key(self.group), None).await {
            tracing::warn!(topic = %self.group.topic, partition = self.group.partition, %error, "a farewell stays though it is made good");
        }
        self.rest.unbind();
        if !self.rest.is_asleep() {
            self.raft.runtime_config().elect(true);
        }
    }
}
