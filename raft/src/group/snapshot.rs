//! What stands for the purged part of a log. A partition's holds no records: it says where the log begins, and what of the past is still needed.
//!
//! Its last entry is the last one *purged*, never the last applied: whoever is sent it holds the log from the entry behind it on, without a hole.
//! What else it holds may be newer than that entry, since all of it is committed and grows only: the log start offset, and the producers,
//! who learn of a batch once however often it is applied. The controller's holds its whole state, exactly as of its last entry, which is the last applied.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::votes::snapshot_key;
use crate::GroupId;
use crate::consensus::members::Members;
use crate::consensus::wire::INDEX_MAX;
use crate::log::{LogPosition, Purged};
use crate::writer::Writer;

/// Stands for all entries up to `purged`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub purged: Purged,
    /// First offset that readers may ask for.
    pub start_offset: i64,
    /// Epoch and append time of the last batch at or before the last entry; 0 without one.
    pub batch_epoch: i32,
    pub batch_time_us: i64,
    /// Who is in the group at that entry, and the index of the entry that said so.
    pub members: Members,
    pub members_since: Option<u64>,
    /// Producers of a partition, state of the controller.
    pub state: Bytes,
}

/// All but the state, as stored.
#[derive(serde::Serialize, serde::Deserialize)]
struct Head {
    purged: Purged,
    start_offset: i64,
    batch_epoch: i32,
    batch_time_us: i64,
    members: Members,
    members_since: Option<u64>,
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed snapshot of a log's past")
}

impl Snapshot {
    /// The last entry that it stands for.
    pub fn last(&self) -> LogPosition {
        LogPosition { term: self.purged.term, index: self.purged.index }
    }

    /// `length of the head u32, head, state`.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let Snapshot { purged, start_offset, batch_epoch, batch_time_us, members, members_since, state } = self;
        let head = Head {
            purged: *purged,
            start_offset: *start_offset,
            batch_epoch: *batch_epoch,
            batch_time_us: *batch_time_us,
            members: members.clone(),
            members_since: *members_since,
        };
        let head = serde_json::to_vec(&head)?;
        let mut bytes = u32::try_from(head.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
        bytes.extend(head);
        bytes.extend(state);
        Ok(bytes)
    }

    pub fn decode(bytes: &Bytes) -> io::Result<Snapshot> {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(malformed)?;
        let (head, _) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(malformed)?;
        let state = bytes.slice(4 + head.len()..);
        let Head { purged, start_offset, batch_epoch, batch_time_us, members, members_since } = serde_json::from_slice(head)?;
        if start_offset < 0 || purged.next_offset < 0 || purged.index > INDEX_MAX {
            return Err(malformed());
        }
        Ok(Snapshot { purged, start_offset, batch_epoch, batch_time_us, members, members_since, state })
    }
}

/// Where a group's snapshot is kept: the meta log, which makes it durable before anything is purged for it.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    group: GroupId,
    writer: Writer,
    saving: Arc<Mutex<()>>,
}

impl Snapshots {
    pub fn new(group: GroupId, writer: Writer) -> Snapshots {
        Snapshots { group, writer, saving: Arc::default() }
    }

    pub fn read(&self) -> io::Result<Option<Snapshot>> {
        self.bytes().map(|bytes| Snapshot::decode(&bytes)).transpose()
    }

    /// The last entry that the group's log does not hold any more.
    pub fn purged(&self) -> io::Result<Option<Purged>> {
        Ok(self.read()?.map(|snapshot| snapshot.purged))
    }

    /// As [`Snapshots::read`], undecoded.
    pub fn bytes(&self) -> Option<Bytes> {
        self.writer.meta(snapshot_key(self.group)).map(Bytes::from)
    }

    /// Resolves once durable; true if it was new. One that is overtaken by a newer (built here, while another came from the leader) is not saved
    /// over it.
    pub async fn save(&self, snapshot: &Snapshot) -> io::Result<bool> {
        let value = snapshot.encode()?;
        let saved = {
            let _one = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
            if self.read()?.is_some_and(|held| held.purged.index >= snapshot.purged.index) {
                return Ok(false);
            }
            self.writer.save_meta(snapshot_key(self.group), Some(value))
        };
        saved.await.map(|()| true)
    }
}
