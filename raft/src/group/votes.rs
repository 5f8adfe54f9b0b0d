//! What a replica keeps in its node's meta log: its vote, how far it has committed, and the keys of all that belongs to a group there.

use std::io;

use super::farewell::farewell_key;
use crate::consensus::Vote;
use crate::log::{Log, LogError, LogPosition};
use crate::node::losses;
use crate::writer::Writer;
use crate::{GroupId, NodeId, repair};

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

/// The vote as last saved; the default before the first.
pub(crate) fn stored_vote(writer: &Writer, group: GroupId) -> io::Result<Vote> {
    match writer.meta(vote_key(group)) {
        Some(bytes) => Vote::decode(&bytes).ok_or_else(|| invalid("a vote in a form that this version does not read")),
        None => Ok(Vote::default()),
    }
}

/// Votes in `term`, where the vote was for an earlier one: nobody else gets this node's vote in it or before it.
pub(crate) async fn raise_vote(writer: &Writer, group: GroupId, node: NodeId, term: u64) -> io::Result<()> {
    if stored_vote(writer, group)?.term >= term {
        return Ok(());
    }
    writer.save_meta(vote_key(group), Some(Vote { term, node, led: false }.encode().to_vec())).await
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
    let (last, vote) = (log.last().map_or(0, |last| last.term), stored_vote(writer, group)?.term);
    if vote < last { Err(LogError::VoteLost { vote, last }) } else { Ok(()) }
}

/// Notes, without a sync of its own, up to where the log is committed.
pub(super) fn save_committed(writer: &Writer, log: &Log, committed: LogPosition) {
    let mut value = committed.term.to_be_bytes().to_vec();
    value.extend(committed.index.to_be_bytes());
    // What is committed is never cut again; what is flushed survives a power cut. Of both together no trace may ever be missing.
    if let Some(held) = log.flushed_next().checked_sub(1).map(|flushed| flushed.min(committed.index)) {
        value.extend(held.to_be_bytes());
    }
    writer.note_change();
    writer.save_meta_lazily(committed_key(log.group()), value);
}

/// Entries before this index were committed when that was noted last.
pub(super) fn committed_end(writer: &Writer, log: &Log) -> io::Result<u64> {
    let begin = log.indexes().start;
    let Some(value) = writer.meta(committed_key(log.group())) else { return Ok(begin) };
    let index = value.get(8..).and_then(|value| value.first_chunk()).ok_or_else(|| invalid("commit index"))?;
    // Saved without a sync of its own: it may be ahead of nothing that was acknowledged, but never of the log.
    let end = u64::from_be_bytes(*index).saturating_add(1);
    Ok(if end <= log.indexes().end { end.max(begin) } else { begin })
}
