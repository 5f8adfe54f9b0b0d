//! openraft's storage over one [`Log`] and the node's meta log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::{EntryPayload, LogId};

use super::farewell::farewell_key;
use super::rest::Rest;
use super::snapshot::Snapshots;
use super::{APPEND_BYTES_MAX, Proposal, Types};
use crate::batch::BatchHeader;
use crate::log::{EntryHead, FrameKind, Log, LogEntry, LogError};
use crate::node::losses;
use crate::writer::Writer;
use crate::{GroupId, NodeId, repair};

/// Heads read at once for apply.
const HEADS_MAX: u64 = 1024;

/// The log of one group, its vote and its commit index.
#[derive(Clone)]
pub(crate) struct GroupStorage {
    group: GroupId,
    log: Log,
    writer: Writer,
    snapshots: Snapshots,
    vote: Arc<Mutex<Option<VoteOf<Types>>>>,
    rest: Arc<Rest>,
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Key of one group's datum in the meta log.
pub(crate) fn meta_key(kind: u8, group: GroupId) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend(group.topic.as_bytes());
    key.extend(group.partition.to_be_bytes());
    key
}

/// The group of such a key.
pub(crate) fn group_of(key: &[u8]) -> Option<GroupId> {
    let (topic, partition) = key.get(1..)?.split_first_chunk::<16>()?;
    Some(GroupId { topic: uuid::Uuid::from_bytes(*topic), partition: i32::from_be_bytes(partition.try_into().ok()?) })
}

pub(crate) fn vote_key(group: GroupId) -> Vec<u8> {
    meta_key(b'v', group)
}
fn committed_key(group: GroupId) -> Vec<u8> {
    meta_key(b'c', group)
}

pub(super) fn snapshot_key(group: GroupId) -> Vec<u8> {
    meta_key(b's', group)
}

/// The keys to forget with a group.
pub(crate) fn meta_keys(group: GroupId) -> [Vec<u8>; 6] {
    let (mark, trusted) = (repair::mark_key(group), losses::trusted_key(group));
    [vote_key(group), committed_key(group), mark, snapshot_key(group), trusted, farewell_key(group)]
}

/// The vote as last saved.
pub(crate) fn stored_vote(writer: &Writer, group: GroupId) -> io::Result<Option<VoteOf<Types>>> {
    Ok(writer.meta(vote_key(group)).map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
}

/// Votes in `term`, where the vote was for an earlier one: nobody else gets this node's vote in it or before it.
pub(crate) async fn raise_vote(writer: &Writer, group: GroupId, node: NodeId, term: u64) -> io::Result<()> {
    if stored_vote(writer, group)?.map_or(0, |vote| vote.leader_id().term) >= term {
        return Ok(());
    }
    writer.save_meta(vote_key(group), Some(serde_json::to_vec(&VoteOf::<Types>::new(term, node))?)).await
}

/// Where the committed index's value tells the last entry that was both committed and durable.
const HELD_AT: usize = 16;

/// Refuses a log that lacks what it held durably: it is no torn tail, and must neither vote nor serve.
pub(crate) fn require_whole(log: &Log, writer: &Writer, group: GroupId) -> Result<(), LogError> {
    let held = writer.meta(committed_key(group)).and_then(|value| Some(u64::from_be_bytes(*value.get(HELD_AT..)?.first_chunk()?)));
    let next = log.indexes().end;
    if let Some(held) = held.filter(|held| next <= *held) {
        return Err(LogError::Short { next, held });
    }
    // The vote is durable before the first entry of its term is.
    let (last, vote) = (log.last().map_or(0, |last| last.term), stored_vote(writer, group)?.map_or(0, |vote| vote.leader_id().term));
    if vote < last { Err(LogError::VoteLost { vote, last }) } else { Ok(()) }
}

impl GroupStorage {
    pub fn new(group: GroupId, log: Log, writer: Writer, snapshots: Snapshots, rest: Arc<Rest>) -> GroupStorage {
        GroupStorage { group, log, writer, snapshots, vote: Arc::default(), rest }
    }

    fn range(&self, range: &impl RangeBounds<u64>) -> std::ops::Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        start..end
    }

    /// Entries as apply wants them: of batches only the head.
    fn for_apply(&self, range: std::ops::Range<u64>) -> io::Result<Vec<EntryOf<Types>>> {
        if self.group == GroupId::CONTROLLER {
            return self.log.entries(range, APPEND_BYTES_MAX)?.into_iter().map(entry_of).collect();
        }
        let heads = self.log.heads(range.start..range.end.min(range.start.saturating_add(HEADS_MAX)))?;
        heads.into_iter().map(|head| self.with_head(head)).collect()
    }

    fn with_head(&self, head: EntryHead) -> io::Result<EntryOf<Types>> {
        if head.batch.is_none() && head.kind != FrameKind::Blank {
            let entry = self.log.entries(head.index..head.index + 1, usize::MAX)?.pop();
            return entry_of(entry.ok_or_else(|| invalid("an entry is gone"))?);
        }
        let payload = match head.kind {
            FrameKind::Blank => EntryPayload::Blank,
            kind => {
                let EntryHead { append_time_us, batch, .. } = head;
                EntryPayload::Normal(Proposal { kind, append_time_us, payload: bytes::Bytes::new(), batch, judged_in: None })
            }
        };
        Ok(openraft::Entry { log_id: log_id(head.term, head.index), payload })
    }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogIdOf<Types> {
    LogId { leader_id: openraft::vote::leader_id_std::CommittedLeaderId { term }, index }
}

/// An entry as stored → as openraft knows it.
pub(crate) fn entry_of(entry: LogEntry) -> io::Result<EntryOf<Types>> {
    let LogEntry { kind, term, index, append_time_us, payload, .. } = entry;
    let payload = match kind {
        FrameKind::Blank => EntryPayload::Blank,
        FrameKind::Membership => EntryPayload::Membership(serde_json::from_slice(&payload)?),
        FrameKind::Batch | FrameKind::Mirrored | FrameKind::Command | FrameKind::RetentionPoint => {
            // openraft replays the committed entries of a restart from here, not through `entries_stream`.
            let batch = if matches!(kind, FrameKind::Batch | FrameKind::Mirrored) { BatchHeader::decode(&payload) } else { None };
            EntryPayload::Normal(Proposal { kind, append_time_us, payload, batch, judged_in: None })
        }
    };
    Ok(openraft::Entry { log_id: log_id(term, index), payload })
}

/// An entry as openraft knows it → as stored.
pub(crate) fn stored(entry: EntryOf<Types>) -> io::Result<LogEntry> {
    let (kind, append_time_us, payload) = match entry.payload {
        EntryPayload::Blank => (FrameKind::Blank, 0, bytes::Bytes::new()),
        EntryPayload::Membership(membership) => (FrameKind::Membership, 0, serde_json::to_vec(&membership)?.into()),
        // Entries of an earlier term may stand before it by now that its proposer had not seen, the same batch perhaps.
        EntryPayload::Normal(Proposal { judged_in: Some(term), .. }) if term != entry.log_id.leader_id.term => {
            (FrameKind::Blank, 0, bytes::Bytes::new())
        }
        EntryPayload::Normal(proposal) => (proposal.kind, proposal.append_time_us, proposal.payload),
    };
    Ok(LogEntry { kind, term: entry.log_id.leader_id.term, index: entry.log_id.index, append_time_us, payload })
}

impl RaftLogReader<Types> for GroupStorage {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let entries = self.log.entries(self.range(&range), usize::MAX)?.into_iter().map(entry_of);
        if !self.log.mutations().forgotten_producers {
            return entries.collect();
        }
        let headless = |mut entry: EntryOf<Types>| {
            if let EntryPayload::Normal(proposal) = &mut entry.payload {
                proposal.batch = None;
            }
            entry
        };
        entries.map(|entry| entry.map(headless)).collect()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let entries = self.log.entries(start..end, APPEND_BYTES_MAX)?;
        // Purged meanwhile: what begins later would leave a hole in the follower's log. Its replication ends, and begins with a snapshot.
        if entries.first().is_some_and(|first| first.index != start) {
            return Ok(Vec::new());
        }
        entries.into_iter().map(entry_of).collect()
    }

    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = Result<EntryOf<Types>, io::Error>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let storage = self.clone();
        stream::unfold(Some(self.range(&range)), move |left| {
            let storage = storage.clone();
            async move {
                let mut left = left.filter(|left| !left.is_empty())?;
                match storage.for_apply(left.clone()) {
                    Ok(entries) if entries.is_empty() => None,
                    Ok(entries) => {
                        left.start += entries.len() as u64;
                        Some((stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()), Some(left)))
                    }
                    Err(error) => Some((stream::iter(vec![Err(error)]), None)),
                }
            }
        })
        .flatten()
        .boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        let mut cached = self.vote.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.is_none() {
            *cached = stored_vote(&self.writer, self.group)?;
        }
        Ok(*cached)
    }
}

impl RaftLogStorage<Types> for GroupStorage {
    type LogReader = GroupStorage;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let last_log_id = self.log.last().map(|last| log_id(last.term, last.index));
        let last_purged_log_id = self.log.purged().map(|purged| log_id(purged.term, purged.index));
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> GroupStorage {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        let before = self.read_vote().await?;
        self.rest.before_vote(before.as_ref(), vote).await;
        self.writer.note_change();
        if !self.log.mutations().forgotten_vote || vote.is_committed() {
            self.writer.save_meta(vote_key(self.group), Some(serde_json::to_vec(vote)?)).await?;
        }
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            let mut value = committed.leader_id.term.to_be_bytes().to_vec();
            value.extend(committed.index.to_be_bytes());
            // What is committed is never cut again; what is flushed survives a power cut. Of both together no trace may ever be missing.
            if let Some(held) = self.log.flushed_next().checked_sub(1).map(|flushed| flushed.min(committed.index)) {
                value.extend(held.to_be_bytes());
            }
            self.writer.note_change();
            self.writer.save_meta_lazily(committed_key(self.group), value);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        let Some(value) = self.writer.meta(committed_key(self.group)) else { return Ok(None) };
        let (term, index) = value.split_first_chunk::<8>().ok_or_else(|| invalid("commit index"))?;
        let index = index.first_chunk::<8>().ok_or_else(|| invalid("commit index"))?;
        let committed = log_id(u64::from_be_bytes(*term), u64::from_be_bytes(*index));
        // Saved without a sync of its own: it may be ahead of nothing that was acknowledged, but never of the log.
        Ok(self.log.last().filter(|last| last.index >= committed.index).map(|_| committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(stored).collect::<io::Result<Vec<_>>>()?;
        let appended = self.log.append(entries, Box::new(move |result| callback.io_completed(result)));
        // Behind the append: whoever puts the group to sleep looks at the log after that.
        self.rest.stir();
        appended
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let off = u64::from(self.log.mutations().truncate_off_by_one);
        self.log.truncate_after(last.map(|last| last.index + off)).await
    }

    /// What is purged lies in the snapshot, which is durable; it also knows the offset behind.
    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<(), io::Error> {
        let snapshot = self.snapshots.read()?.ok_or_else(|| invalid("a purge without a snapshot"))?;
        let purged = snapshot.snapshot.purged;
        if purged.index < upto.index {
            return Err(invalid("a purge beyond the snapshot"));
        }
        // The snapshot may be newer than the one this purge was decided for; its own purge is on the way then.
        if purged.index == upto.index {
            self.log.purge(purged);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::group::rest::Awake;
    use crate::log::{LogSettings, Memory, Place, Rolling};
    use crate::node::Timing;
    use crate::peer::liveness::Liveness;

    #[tokio::test]
    async fn a_vote_is_on_disk_before_it_is_given() {
        let (folder, env, memory) = (tempfile::tempdir().expect("a folder"), Env::real(), Memory::default());
        let writer = Writer::start(&env, folder.path()).expect("a writer");
        let group = GroupId { topic: uuid::Uuid::from_u128(7), partition: 0 };
        let place = Place { env: &env, writer: &writer, memory: &memory };
        let log = Log::open(place, &folder.path().join("log"), LogSettings { group, rolling: Rolling::DEFAULT }).expect("a log");
        let liveness = Liveness::new(1, Timing { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 });
        let rest = Rest::new(group, 1, liveness, Awake::default(), env.mutations(), None, None);
        let mut storage = GroupStorage::new(group, log, writer.clone(), Snapshots::new(group, writer.clone()), Arc::new(rest));
        let vote = VoteOf::<Types>::new(5, 2);
        storage.save_vote(&vote).await.expect("saved");
        // The first writer is still there: what this one finds is what a kill would have left.
        let killed = Writer::start(&env, folder.path()).expect("a writer");
        assert_eq!(stored_vote(&killed, group).expect("readable"), Some(vote));
    }
}
