//! Damaged replicas: kept away from votes, leadership and readers, and brought back from their peers.
//!
//! A replica whose log is corrupt, ends too early or has lost files is marked in the meta log *before* anything is done about it, and stays
//! marked until its log again holds whatever it may ever have acknowledged. While marked, its group does not run here: it neither votes, nor
//! leads, nor serves, nor counts for a commit. [`task`] mends it: it keeps the longest prefix whose every checksum holds, and asks the group's
//! leader ([`answer`], [`wire`]) for all that follows, up to the leader's last entry as of a moment after the mark.
//!
//! Why the leader's *last* entry, not its commit index: an acknowledgement of this replica may still be on its way to the leader, which then
//! commits an entry that it had not committed when it was asked. Why a leader of a term at or above this replica's vote is enough: what this
//! replica acknowledged to that leader lies in that leader's log, and what it acknowledged to earlier ones and was committed lies there too,
//! because the leader was elected either with this replica's vote while its log was whole, or without it.

pub(crate) mod answer;
pub(crate) mod task;
pub(crate) mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{oneshot, watch};

use crate::GroupId;
use crate::group::votes::meta_key;
use crate::writer::Writer;

/// Longest reason kept of a replica's damage.
const REASON_BYTES_MAX: usize = 1024;
/// Default of [`crate::node::Node::limit_repairs`].
pub const REPAIR_BYTES_PER_S_DEFAULT: u64 = 64 << 20;

/// A replica on this node that is being repaired, as its operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedReplica {
    pub id: GroupId,
    /// What was found, in words.
    pub reason: String,
    /// Index of the next entry that is missing.
    pub next_index: u64,
    /// Index of the last entry that must be there before the replica takes part again; None until a leader has said so.
    pub target_index: Option<u64>,
    /// Bytes of entries received from peers.
    pub bytes: u64,
    /// Why the repair does not go on just now, if it does not.
    pub waits_for: Option<String>,
}

/// What repairs did since the node started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RepairStats {
    /// Replicas found damaged.
    pub found: u64,
    /// Replicas that were brought back.
    pub repaired: u64,
    /// Bytes of entries received for them.
    pub bytes: u64,
}

/// One repair under way.
#[derive(Debug)]
pub(crate) struct Repair {
    pub reason: String,
    pub progress: Arc<Progress>,
    pub cancel: watch::Sender<bool>,
    /// Fails once the repair touches no file any more.
    pub end: oneshot::Receiver<()>,
}

#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub next_index: AtomicU64,
    pub target_index: AtomicU64,
    pub target_known: AtomicBool,
    pub bytes: AtomicU64,
    pub waits_for: std::sync::Mutex<Option<String>>,
}

impl Progress {
    pub fn waits(&self, reason: Option<String>) {
        *self.waits_for.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = reason;
    }
}

impl Repair {
    pub fn seen(&self, id: GroupId) -> DamagedReplica {
        let Progress { next_index, target_index, target_known, bytes, waits_for } = &*self.progress;
        DamagedReplica {
            id,
            reason: self.reason.clone(),
            next_index: next_index.load(Ordering::Relaxed),
            target_index: target_known.load(Ordering::Relaxed).then(|| target_index.load(Ordering::Relaxed)),
            bytes: bytes.load(Ordering::Relaxed),
            waits_for: waits_for.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
        }
    }
}

/// Figures and limits of all repairs of a node.
#[derive(Debug)]
pub(crate) struct Counters {
    pub found: AtomicU64,
    pub repaired: AtomicU64,
    pub bytes: AtomicU64,
    pub bytes_per_s: AtomicU64,
}

impl Default for Counters {
    fn default() -> Counters {
        let zero = || AtomicU64::new(0);
        Counters { found: zero(), repaired: zero(), bytes: zero(), bytes_per_s: AtomicU64::new(REPAIR_BYTES_PER_S_DEFAULT) }
    }
}

impl Counters {
    pub fn stats(&self) -> RepairStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RepairStats { found: read(&self.found), repaired: read(&self.repaired), bytes: read(&self.bytes) }
    }
}

/// The durable mark of a damaged replica: why it is one.
pub(crate) fn mark_key(group: GroupId) -> Vec<u8> {
    meta_key(b'q', group)
}

pub(crate) fn mark(writer: &Writer, group: GroupId) -> Option<String> {
    writer.meta(mark_key(group)).map(|reason| String::from_utf8_lossy(&reason).into_owned())
}

/// Marks a replica before its files are touched. Keeps an earlier mark's reason.
pub(crate) async fn set_mark(writer: &Writer, group: GroupId, reason: &str) -> std::io::Result<()> {
    if mark(writer, group).is_some() {
        return Ok(());
    }
    let reason = reason.as_bytes()[..reason.len().min(REASON_BYTES_MAX)].to_vec();
    writer.save_meta(mark_key(group), Some(reason)).await
}

#[cfg(test)]
mod tests;
