//! What a restart finds: segments in order, a torn tail to cut, or damage that must not be taken for one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::LogError;
use super::frame::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, decode_frame, decode_segment, is_batch};
use super::frames::Frames;
use super::index::{self, Facts, Points, SIDECAR};
use super::retention::{self, Purged};
use super::segment::{Open, Segment, head_of, is_zero, read_exact, read_frame, segment_path, sidecar_path};
use super::state::State;
use crate::GroupId;
use crate::env::{Env, File};

/// Read at a time: of a closed segment heads, of the last one everything.
const HEADS_CHUNK_BYTES: usize = 16 << 10;
const CHUNK_BYTES: usize = 1 << 20;
/// Between two lines that say how far an opening is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A log's folder, and whose log it is.
pub(super) struct Folder<'a> {
    pub(super) env: &'a Env,
    pub(super) dir: &'a Path,
    pub(super) group: GroupId,
}

impl Folder<'_> {
    /// Removes the last segments that have neither a header nor a frame, and returns the others. Files are created when entries are appended, and
    /// given their headers when the writer comes to it: a node that ends in between leaves as many of them as segments had been begun.
    pub(super) fn without_torn(&self, mut paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, LogError> {
        let (mut torn, mut sound) = (Vec::new(), false);
        for path in paths.iter().rev() {
            let file = self.env.disk.open(path, false)?;
            // A sync that failed before the restart has left bytes in the system's memory that count as clean and are not on the disk: in the last
            // segment that was written to, or in the one before if that had only just been made.
            file.forget(0, file.len()?);
            if sound {
                break;
            }
            sound = read_header(&*file, self.group).is_some() || frame_follows(&*file, 0, file.written_until()?)?;
            if !sound {
                torn.push(path.clone());
            }
        }
        // The last one first, so that a crash in between leaves the others the last ones.
        retention::remove(self.env, self.dir, &torn)?;
        paths.truncate(paths.len() - torn.len());
        Ok(paths)
    }

    /// Takes these segments into `state`, in order. Says how far it is where that takes long: sidecars are missing, or the disk is slow.
    pub(super) fn recover_all(&self, state: &mut State, paths: &[PathBuf]) -> Result<(), LogError> {
        let mut told = Instant::now();
        for (i, path) in paths.iter().enumerate() {
            self.recover(state, path, i + 1 == paths.len())?;
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                tracing::info!(dir = %self.dir.display(), segments = i + 1, of = paths.len(), "a log is being opened");
            }
        }
        Ok(())
    }

    /// Takes one segment into `state`. What its sidecar tells of is believed; the rest is walked. Only the last may end in damage, and only where
    /// nothing valid follows it.
    fn recover(&self, state: &mut State, path: &Path, is_last: bool) -> Result<(), LogError> {
        let file = self.env.disk.open(path, false)?;
        // A segment is reserved whole; to read what was never written would take a restart seconds per partition.
        let (written, length) = (file.written_until()?, file.len()?);
        let corrupt = |position, reason| LogError::Corrupt { path: path.to_owned(), position, reason };
        let known = self.known(&file, path, length, is_last)?;
        let found = known.as_ref().map(|(facts, _)| (facts.base_index, facts.base_offset));
        let Some((base_index, base_offset)) = found.or_else(|| read_header(&*file, self.group)) else {
            return Err(corrupt(0, "segment header"));
        };
        // Of the first, see `begin`.
        if !state.segments.is_empty() && (state.next_index(), state.next_offset) != (base_index, base_offset) {
            return Err(corrupt(0, "segment does not continue the one before"));
        }
        state.next_offset = base_offset;
        let mut segment = Segment::new(base_index, base_offset, length, file.clone());
        match known {
            Some((facts, None)) => {
                segment.open = None;
                state.segments.push(segment);
                state.note_facts(&facts);
                return Ok(());
            }
            Some((facts, Some(points))) => {
                let (epochs, last) = (facts.epochs.clone(), Some(facts.last));
                segment.open = Some(Box::new(Open { points, epochs, last, covered: facts.end, ..Open::new(file.clone()) }));
                state.segments.push(segment);
                state.note_facts(&facts);
            }
            None => state.segments.push(segment),
        }
        let position = walk(state, &file, path, length, !is_last)?;
        if frame_follows(&*file, position, written)? {
            return Err(corrupt(position, "valid frames follow a damaged one"));
        }
        if !is_last {
            if length > position && is_zero(&*file, position, written)? {
                file.set_len(position)?;
                file.sync()?;
            }
            self.close(state);
        } else if !is_zero(&*file, position, written)? {
            file.set_len(position)?;
            file.allocate(length)?;
            file.sync()?;
        }
        Ok(())
    }

    /// What the sidecar of the segment in `path` says, where it holds: of the last segment with its points; of a closed one only if it tells of all
    /// of it.
    fn known(&self, file: &Arc<dyn File>, path: &Path, length: u64, is_last: bool) -> io::Result<Option<(Facts, Option<Points>)>> {
        let (disk, sidecar) = (&*self.env.disk, path.with_extension(SIDECAR));
        let found = if is_last {
            index::read(disk, &sidecar, self.group)?.map(|(facts, points)| (facts, Some(points)))
        } else {
            index::read_facts(disk, &sidecar, self.group)?.filter(|facts| facts.end == length).map(|facts| (facts, None))
        };
        let named = |facts: &Facts| path == segment_path(self.dir, facts.base_index);
        Ok(found.filter(|(facts, _)| facts.end <= length && named(facts) && facts.fit(&**file, is_last)))
    }

    /// Writes the sidecar that the last segment of `state` should have had, and lets go of its index.
    fn close(&self, state: &mut State) {
        let next_offset = state.next_offset;
        let Some(segment) = state.segments.last_mut() else { return };
        let Some(facts) = segment.facts(next_offset) else { return };
        let Some(open) = segment.open.take() else { return };
        let path = sidecar_path(self.dir, segment.base_index);
        let written = index::encode(self.group, &facts, &open.points).map_or(Ok(()), |bytes| index::write(&*self.env.disk, &path, &bytes));
        if let Err(error) = written {
            tracing::debug!(%error, path = %path.display(), "a segment's index is not written");
        }
    }
}

fn read_header(file: &dyn File, group: GroupId) -> Option<(u64, i64)> {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    read_exact(file, &mut header, 0).ok()?;
    decode_segment(&header, group)
}

/// Accounts for the frames of the last segment of `state`, from where it ends for all that is known. Returns where they end.
pub(super) fn walk(state: &mut State, file: &Arc<dyn File>, path: &Path, length: u64, head_only: bool) -> Result<u64, LogError> {
    let mut position = state.segments.last().map_or(0, |segment| segment.end);
    let chunk_bytes = if head_only { HEADS_CHUNK_BYTES } else { CHUNK_BYTES };
    let mut frames = Frames::new(file.clone(), chunk_bytes, length);
    while position + FRAME_HEADER_BYTES as u64 <= length {
        let Ok((entry, bytes)) = frames.read(position, head_only) else { break };
        let head = head_of(&entry);
        let begun = state.segments.last().is_some_and(|segment| segment.first_append_time_us.is_some());
        let next_index = if begun { state.next_index() } else { state.segments.last().map_or(0, |segment| segment.base_index) };
        let offset_fits = head.batch.is_none_or(|batch| batch.base_offset == state.next_offset);
        if entry.index != next_index || !offset_fits || (is_batch(entry.kind) && head.batch.is_none()) {
            return Err(LogError::Corrupt { path: path.to_owned(), position, reason: "frame out of order" });
        }
        state.note(&head, bytes);
        position += bytes;
    }
    Ok(position)
}

/// Puts the recovered log behind what has been purged. A log that ends before that begins anew: it was being filled up when the node stopped.
pub(super) fn begin(env: &Env, state: &mut State, dir: &Path, purged: Option<Purged>) -> Result<(), LogError> {
    let wanted = purged.map_or(0, |purged| purged.index + 1);
    if let Some(first) = state.segments.first().filter(|first| first.base_index > wanted) {
        return Err(LogError::Corrupt {
            path: segment_path(dir, first.base_index),
            position: 0,
            reason: "entries before this segment are missing",
        });
    }
    let Some(purged) = purged else { return Ok(()) };
    let gone: Vec<_> = state.purge(purged).into_iter().map(|segment| segment_path(dir, segment.base_index)).collect();
    retention::remove(env, dir, &gone)?;
    Ok(())
}

/// Whether a sound frame header with its payload stands anywhere behind `position`.
fn frame_follows(file: &dyn File, position: u64, length: u64) -> io::Result<bool> {
    const WINDOW_BYTES: usize = 1 << 16;
    let mut window = vec![0; WINDOW_BYTES];
    let mut at = position.saturating_add(1);
    while at + (FRAME_HEADER_BYTES as u64) <= length {
        let count = WINDOW_BYTES.min(usize::try_from(length - at).unwrap_or(WINDOW_BYTES));
        read_exact(file, &mut window[..count], at)?;
        for (i, bytes) in window[..count].windows(FRAME_HEADER_BYTES).enumerate() {
            let header = bytes.first_chunk().filter(|header| header[0] != 0).and_then(decode_frame);
            if header.is_some() && read_frame(file, at + i as u64, false).is_ok() {
                return Ok(true);
            }
        }
        at += (count - FRAME_HEADER_BYTES + 1) as u64;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;

    use super::*;
    use crate::log::{FrameKind, Log, LogEntry, LogSettings, Memory, Place, Rolling};
    use crate::writer::{Job, Writer};

    struct Node {
        dir: tempfile::TempDir,
        env: Env,
    }

    impl Node {
        fn new() -> Node {
            Node { dir: tempfile::tempdir().expect("a folder"), env: Env::real() }
        }

        fn open(&self) -> (Writer, Result<Log, LogError>) {
            let writer = Writer::start(&self.env, self.dir.path()).expect("a writer");
            let group = GroupId { topic: uuid::Uuid::from_u128(7), partition: 0 };
            let settings = LogSettings { group, rolling: Rolling { segment_bytes: 1024, ..Rolling::DEFAULT } };
            let memory = Memory::default();
            let log = Log::open(Place { env: &self.env, writer: &writer, memory: &memory }, &self.dir.path().join("log"), settings);
            (writer, log)
        }

        /// Sizes of the segments' files, in order.
        fn sizes(&self) -> Vec<u64> {
            let (segments, _) =
                crate::log::segment::segments_and_sidecars(self.env.disk.list(&self.dir.path().join("log")).expect("a list"));
            segments.iter().map(|path| fs::metadata(path).expect("a file").len()).collect()
        }
    }

    fn entry(index: u64) -> LogEntry {
        LogEntry { kind: FrameKind::Command, term: 1, index, append_time_us: 0, payload: vec![7; 600].into() }
    }

    fn append_durably(log: &Log, index: u64) {
        let (done, durable) = mpsc::channel();
        log.append(vec![entry(index)], Box::new(move |result| done.send(result).expect("a waiting test"))).expect("queued");
        durable.recv().expect("an answer").expect("durable");
    }

    #[test]
    fn segments_that_were_begun_and_never_written_are_torn_however_many_they_are() {
        let node = Node::new();
        let (writer, log) = node.open();
        let log = log.expect("a new log");
        (0..3).for_each(|index| append_durably(&log, index));
        // The node ends while its writer is busy with something else.
        let (release, held) = mpsc::channel::<()>();
        let task = Box::new(move || held.recv().map_err(|_| io::Error::other("the node has ended")));
        writer.queue(Job::Task { task, done: Box::new(|_| ()) }).expect("queued");
        (3..12).for_each(|index| log.append(vec![entry(index)], Box::new(|_| ())).expect("queued"));
        assert!(node.sizes().iter().filter(|size| **size == 0).count() >= 3, "{:?}", node.sizes());

        let (_, again) = node.open();
        let again = again.expect("the log as it was durable");
        assert_eq!((again.indexes(), node.sizes().contains(&0)), (0..3, false));
        (3..6).for_each(|index| append_durably(&again, index));
        drop((again, release));
        let (_, again) = node.open();
        assert_eq!(again.expect("and what came later").indexes(), 0..6);
    }

    #[test]
    fn a_segment_without_a_header_before_one_that_has_frames_is_damage() {
        let node = Node::new();
        let (writer, log) = node.open();
        let log = log.expect("a new log");
        (0..8).for_each(|index| append_durably(&log, index));
        futures_util::FutureExt::now_or_never(writer.stop());
        let second = segment_path(&node.dir.path().join("log"), 2);
        assert!(second.exists(), "{:?}", node.sizes());
        fs::write(&second, []).expect("emptied");
        let (_, again) = node.open();
        assert!(matches!(again, Err(LogError::Corrupt { position: 0, .. })), "{again:?}");
    }
}
