//! The log's beginning: where readers may start, which segments are old enough to go, and their removal.

use std::io;
use std::path::{Path, PathBuf};

use super::index::SIDECAR;
use super::segment::{Segment, segment_path};
use super::{EntryHead, FrameKind, Log, LogEntry, LogPosition};
use crate::env::{Disk, Env};

/// How long and how much a log keeps; None: without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// A segment goes once its newest record is older than this (`retention.ms`).
    pub time_ms: Option<i64>,
    /// The oldest segments go as long as this much stays without them (`retention.bytes`).
    pub bytes: Option<u64>,
}

/// The last entry that a log holds no more, and what follows on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Purged {
    pub term: u64,
    pub index: u64,
    /// Offset of the first batch behind it.
    pub next_offset: i64,
    /// Append time of that entry; what follows on it carries later ones.
    pub append_time_us: i64,
}

impl Purged {
    pub(super) fn position(&self) -> LogPosition {
        LogPosition { term: self.term, index: self.index }
    }
}

/// The payload of a retention point.
pub fn encode_start_offset(offset: i64) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&offset.to_be_bytes())
}

/// The log start offset that a retention point asks for; None of damaged bytes.
pub fn decode_start_offset(payload: &[u8]) -> Option<i64> {
    payload.try_into().ok().map(i64::from_be_bytes).filter(|offset| *offset >= 0)
}

/// What `entry` says of the log's start, if it is a retention point.
pub(crate) fn start_offset_of(entry: &LogEntry) -> Option<i64> {
    (entry.kind == FrameKind::RetentionPoint).then(|| decode_start_offset(&entry.payload)).flatten()
}

/// Removes segments that lie whole before what has been purged: a crash may have kept any of them. Returns the others.
pub(super) fn remove_leftovers(env: &Env, dir: &Path, paths: Vec<PathBuf>, purged: Option<Purged>) -> io::Result<Vec<PathBuf>> {
    let Some(purged) = purged else { return Ok(paths) };
    let base = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let over = paths.iter().skip(1).take_while(|next| base(next).is_some_and(|base| base <= purged.index + 1)).count();
    remove(env, dir, &paths[..over])?;
    Ok(paths[over..].to_vec())
}

/// Removes segments and what lies beside them.
pub(super) fn remove(env: &Env, dir: &Path, paths: &[PathBuf]) -> io::Result<()> {
    for path in paths {
        remove_if_there(&*env.disk, &path.with_extension(SIDECAR))?;
        remove_if_there(&*env.disk, path)?;
    }
    if paths.is_empty() { Ok(()) } else { env.disk.sync_dir(dir) }
}

/// Removes sidecars without a segment, and those that were not finished.
pub(super) fn remove_strays(env: &Env, segments: &[PathBuf], sidecars: &[PathBuf]) -> io::Result<()> {
    let belongs =
        |path: &PathBuf| path.extension().is_some_and(|end| end == SIDECAR) && segments.binary_search(&path.with_extension("log")).is_ok();
    sidecars.iter().filter(|path| !belongs(path)).try_for_each(|path| remove_if_there(&*env.disk, path))
}

pub(super) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Log {
    /// First offset that readers may ask for.
    pub fn start_offset(&self) -> i64 {
        let state = self.state();
        state.start_offset.max(state.purged.map_or(0, |purged| purged.next_offset))
    }

    /// A retention point has been applied: what lies before `offset` is not read any more.
    pub fn raise_start_offset(&self, offset: i64) {
        let mut state = self.state();
        state.start_offset = state.start_offset.max(offset);
    }

    /// Where the log should begin by `retention` (milliseconds since the Unix epoch): at the first segment that stays, or at `committed_end`
    /// where all of them are too old. None where nothing is to go.
    pub fn expired(&self, retention: Retention, now_ms: i64, committed_end: i64) -> io::Result<Option<i64>> {
        let held = self.start_offset();
        let segments: Vec<(Option<i64>, i64, u64, i64)> = {
            let state = self.state();
            let facts = |segment: &Segment| (segment.first_append_time_us, segment.base_offset, segment.end, segment.max_timestamp_ms);
            state.segments.iter().map(facts).collect()
        };
        let mut surplus = retention.bytes.map(|kept| segments.iter().map(|(_, _, bytes, _)| bytes).sum::<u64>().saturating_sub(kept));
        let mut start = None;
        for (i, (_, base_offset, bytes, max_timestamp_ms)) in segments.iter().enumerate() {
            let next = segments.get(i + 1);
            let end = next.map_or(committed_end, |(_, offset, ..)| *offset);
            // The last segment is written to; it goes for its age only, and only when no record of it is still to be committed.
            if end > committed_end || (next.is_none() && (end == *base_offset || self.next_offset() != committed_end)) {
                break;
            }
            let too_much = next.is_some() && surplus.is_some_and(|surplus| surplus >= *bytes);
            let too_old = match retention.time_ms {
                Some(kept) if !too_much => {
                    now_ms.saturating_sub(self.age_mark_ms(
                        *max_timestamp_ms,
                        next.and_then(|(append_time_us, ..)| *append_time_us),
                        now_ms,
                    )) > kept
                }
                _ => false,
            };
            if !too_much && !too_old {
                break;
            }
            surplus = surplus.map(|surplus| surplus.saturating_sub(*bytes));
            start = Some(end);
        }
        Ok(start.filter(|start| *start > held))
    }

    /// The time that counts for a segment's age: its newest record's own, or where that lies in the future or is not given, the append time
    /// of what came behind it.
    fn age_mark_ms(&self, max_timestamp_ms: i64, next_append_time_us: Option<i64>, now_ms: i64) -> i64 {
        if (0..=now_ms).contains(&max_timestamp_ms) {
            return max_timestamp_ms;
        }
        next_append_time_us.unwrap_or_else(|| self.last_append_time_us()) / 1000
    }

    /// The last entry before the first segment that readers still need, no later than `applied`. None where no segment would go.
    pub fn purge_point(&self, applied: u64) -> io::Result<Option<Purged>> {
        let start = self.start_offset();
        let found = {
            let state = self.state();
            let held = state.purged.map_or(0, |purged| purged.index + 1);
            let goes = |base_index: u64, base_offset: i64| base_offset <= start && base_index <= applied.saturating_add(1);
            let kept = state.segments.iter().skip(1).take_while(|segment| goes(segment.base_index, segment.base_offset)).last();
            kept.filter(|kept| kept.base_index > held).map(|kept| (kept.base_index - 1, kept.base_offset))
        };
        let Some((index, next_offset)) = found else { return Ok(None) };
        let head = self.heads(index..index + 1)?.pop();
        Ok(head.map(|head| Purged { term: head.term, index, next_offset, append_time_us: head.append_time_us }))
    }

    /// The entry at `applied`, where everything up to it is needed no more. None where no segment would go.
    pub fn cut_point(&self, applied: u64) -> io::Result<Option<Purged>> {
        let next_offset = {
            let state = self.state();
            if state.segments.get(1).is_none_or(|second| second.base_index > applied.saturating_add(1)) {
                return Ok(None);
            }
            state.next_offset
        };
        let head = self.heads(applied..applied + 1)?.pop();
        Ok(head.map(|head| Purged { term: head.term, index: head.index, next_offset, append_time_us: head.append_time_us }))
    }

    /// The last batch up to `purged`, as far as the log still holds one.
    pub fn last_batch_of(&self, purged: Purged) -> io::Result<Option<EntryHead>> {
        if purged.next_offset == 0 {
            return Ok(None);
        }
        let from = self.point_near(purged.next_offset - 1)?.max(self.indexes().start);
        Ok(self.heads(from..purged.index + 1)?.into_iter().rev().find(|head| head.batch.is_some()))
    }

    /// What has been purged, if anything.
    pub fn purged(&self) -> Option<Purged> {
        self.state().purged
    }

    /// Forgets every entry up to `purged`, and removes the segments that hold no other. Where the log does not reach that far it begins anew
    /// there. Whoever calls this has made `purged` durable: the log is opened behind it from now on.
    pub fn purge(&self, purged: Purged) {
        let removed: Vec<PathBuf> = {
            let mut state = self.state();
            if state.purged.is_some_and(|held| held.index >= purged.index) {
                return;
            }
            let gone = state.purge(purged);
            gone.iter().for_each(|segment| self.inner.memory.forget_segment(self.inner.number, segment.base_index));
            gone.iter().map(|segment| segment_path(&self.inner.dir, segment.base_index)).collect()
        };
        let (env, dir) = (self.inner.env.clone(), self.inner.dir.clone());
        let removal = move || {
            // What stays is removed when the log is opened next.
            if let Err(error) = remove(&env, &dir, &removed) {
                tracing::warn!(%error, dir = %dir.display(), "cannot remove segments that retention let go");
            }
        };
        // A file system takes its time to free a large file: neither the writer nor Raft waits for it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !self.inner.env.disk.is_simulated() => drop(runtime.spawn_blocking(removal)),
            _ => removal(),
        }
    }
}
