//! Indexes of closed segments: read from their sidecars when they are first wanted, and had from the segment again where a sidecar does not hold.

use std::io;
use std::sync::Arc;

use super::index::{self, Facts, Points};
use super::memory::Index;
use super::segment::{Open, Segment, segment_path, sidecar_path};
use super::state::State;
use super::{Inner, Log, LogError, recovery};
use crate::env::File;
use crate::writer::Job;

/// A segment's index, open or closed.
pub(super) struct Look<'a> {
    pub(super) file: &'a Arc<dyn File>,
    pub(super) points: &'a Points,
    pub(super) epochs: &'a [(i32, i64)],
}

/// A closed segment as it was looked up.
#[derive(Debug, Clone, Copy)]
struct Closed {
    base_index: u64,
    base_offset: i64,
    end: u64,
    cuts: u64,
}

impl Log {
    /// Asks the index of the segment that begins at `base_index`; None where the log holds no such segment any more.
    pub(super) fn with_index<T>(&self, base_index: u64, question: impl FnOnce(Look<'_>) -> T) -> io::Result<Option<T>> {
        loop {
            let closed = {
                let state = self.state();
                let Ok(at) = state.segments.binary_search_by_key(&base_index, |segment| segment.base_index) else { return Ok(None) };
                let segment = &state.segments[at];
                if let Some(open) = &segment.open {
                    return Ok(Some(question(Look { file: &open.file, points: &open.points, epochs: &open.epochs })));
                }
                Closed { base_index, base_offset: segment.base_offset, end: segment.end, cuts: state.cuts }
            };
            if let Some(index) = self.index(closed)? {
                return Ok(Some(question(Look { file: &index.file, points: &index.points, epochs: &index.epochs })));
            }
        }
    }

    /// The index of a segment, for one that writes to it again.
    pub(super) fn reopened(&self, base_index: u64) -> io::Result<Option<Box<Open>>> {
        self.with_index(base_index, |Look { file, points, epochs }| {
            Box::new(Open { points: points.clone(), epochs: epochs.to_vec(), ..Open::new(file.clone()) })
        })
    }

    /// None where the segment has been cut, opened again or purged meanwhile.
    fn index(&self, closed: Closed) -> io::Result<Option<Arc<Index>>> {
        let Inner { memory, number, .. } = &*self.inner;
        if let Some(held) = memory.index(*number, closed.base_index) {
            return Ok(Some(held));
        }
        let loaded = self.load(closed);
        // Under the lock, so that whoever cuts the segment finds what is to be forgotten.
        let state = self.state();
        if !is_closed(&state, closed) {
            return Ok(None);
        }
        let (index, rebuilt) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                drop(state);
                self.note_damage(format!("the segment at index {} cannot be indexed: {error}", closed.base_index));
                return Err(io::Error::other(error));
            }
        };
        let index = Arc::new(index);
        memory.keep_index(*number, closed.base_index, index.clone());
        if let Some(facts) = rebuilt {
            tracing::info!(dir = %self.inner.dir.display(), base_index = closed.base_index, "a segment's index is written anew");
            self.queue_sidecar(&facts, &index.points)?;
        }
        Ok(Some(index))
    }

    /// From the sidecar, or else from the segment: then with what a sidecar should say.
    fn load(&self, closed: Closed) -> Result<(Index, Option<Facts>), LogError> {
        let Inner { env, dir, group, memory, .. } = &*self.inner;
        let path = segment_path(dir, closed.base_index);
        let file = env.disk.open(&path, false)?;
        let held = index::read(&*env.disk, &sidecar_path(dir, closed.base_index), *group)?;
        let fits = |facts: &Facts| (facts.base_index, facts.end) == (closed.base_index, closed.end) && facts.fit(&*file, false);
        if let Some((facts, points)) = held.filter(|(facts, _)| fits(facts)) {
            return Ok((Index { file, points, epochs: facts.epochs }, None));
        }
        let mut scratch = State::new(self.state().rolling, memory);
        scratch.next_offset = closed.base_offset;
        scratch.segments.push(Segment::new(closed.base_index, closed.base_offset, closed.end, file.clone()));
        let end = recovery::walk(&mut scratch, &file, &path, closed.end, true)?;
        let facts = scratch.segments.first().and_then(|segment| segment.facts(scratch.next_offset));
        let open = scratch.segments.pop().and_then(|segment| segment.open);
        match (facts, open) {
            (Some(facts), Some(open)) if end == closed.end => Ok((Index { file, points: open.points, epochs: open.epochs }, Some(facts))),
            _ => Err(LogError::Corrupt { path, position: end, reason: "a frame of a closed segment" }),
        }
    }

    fn queue_sidecar(&self, facts: &Facts, points: &Points) -> io::Result<()> {
        let Inner { env, dir, group, writer, .. } = &*self.inner;
        let Some(bytes) = index::encode(*group, facts, points) else { return Ok(()) };
        let (disk, path) = (env.disk.clone(), sidecar_path(dir, facts.base_index));
        // It may be written to a folder that is no more, and would be had from the segment again.
        let task = Box::new(move || {
            if let Err(error) = index::write(&*disk, &path, &bytes) {
                tracing::debug!(%error, path = %path.display(), "a segment's index is not written");
            }
            Ok(())
        });
        writer.queue(Job::Task { task, done: Box::new(|_| ()) })
    }

    /// Whether a segment's sidecar on disk says what it should; one that does not is written anew.
    pub(super) fn verify_sidecar(&self, base_index: u64) -> io::Result<()> {
        let Inner { env, dir, group, memory, number, .. } = &*self.inner;
        let path = sidecar_path(dir, base_index);
        // Whole or not at all, whoever replaces it meanwhile.
        let held = index::read(&*env.disk, &path, *group)?;
        let closed = {
            let mut state = self.state();
            let Ok(at) = state.segments.binary_search_by_key(&base_index, |segment| segment.base_index) else { return Ok(()) };
            let cuts = state.cuts;
            let segment = &mut state.segments[at];
            if let Some(open) = &mut segment.open {
                if held.is_none() && open.covered > 0 && open.closing.is_none() {
                    open.covered = 0;
                    return self.queue_cover(&mut state);
                }
                return Ok(());
            }
            Closed { base_index, base_offset: segment.base_offset, end: segment.end, cuts }
        };
        if held.is_none_or(|(facts, _)| facts.end != closed.end) {
            memory.forget_segment(*number, base_index);
            self.index(closed)?;
        }
        Ok(())
    }
}

fn is_closed(state: &State, closed: Closed) -> bool {
    let found = state.segments.binary_search_by_key(&closed.base_index, |segment| segment.base_index);
    let held = found.ok().map(|at| &state.segments[at]);
    state.cuts == closed.cuts && held.is_some_and(|segment| segment.open.is_none() && segment.end == closed.end)
}
