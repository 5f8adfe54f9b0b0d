//! Reading a log for no other reason than to see that it can still be read: every checksum, from the files and not from memory.

use std::sync::Arc;

use super::Log;
use super::frame::{SEGMENT_HEADER_BYTES, decode_segment};
use super::frames::Frames;
use super::segment::{read_exact, segment_path};
use crate::env::File;

/// Read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Where a scrub goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScrubPlace {
    /// The segment's first index.
    base_index: u64,
    /// The next frame's place in it, and its index.
    position: u64,
    index: u64,
    /// How often entries had been taken back by then: behind a later time another frame may be in its place.
    cuts: u64,
}

/// One segment as it was looked up.
struct Found {
    /// None where it has to be opened.
    file: Option<Arc<dyn File>>,
    place: ScrubPlace,
    /// What lies behind is not durable yet, or another segment's.
    end_index: u64,
}

impl Log {
    /// Verifies some frames from `place` on, or from the log's beginning. Returns where to go on, None at the end, and how many bytes were read.
    /// Damage is noted, which has the replica withdrawn.
    pub(crate) fn scrub(&self, place: Option<ScrubPlace>, bytes_max: u64) -> (Option<ScrubPlace>, u64) {
        let Some(found) = self.scrubbed_segment(place) else { return (None, 0) };
        let Found { ref file, mut place, end_index, .. } = found;
        let opened = || self.inner.env.disk.open(&segment_path(&self.inner.dir, place.base_index), false);
        let file = match file.clone().map_or_else(opened, Ok) {
            Ok(file) => file,
            Err(error) => {
                self.note_unless_gone(&found, || format!("the segment at index {} cannot be opened: {error}", place.base_index));
                return (None, 0);
            }
        };
        let begin = place.position;
        if begin == SEGMENT_HEADER_BYTES as u64 && !self.begins_well(&*file, place.base_index) {
            self.note_unless_gone(&found, || {
                format!("the header of the segment at index {} does not hold when scrubbed", place.base_index)
            });
            return (None, 0);
        }
        // From the medium, not from what the system remembers of it; and what nobody else has asked for is not to stay in memory.
        file.forget(begin, bytes_max);
        let mut frames = Frames::new(file.clone(), CHUNK_BYTES, begin.saturating_add(bytes_max));
        while place.index < end_index && place.position - begin < bytes_max {
            match frames.read(place.position, false) {
                Ok((entry, bytes)) if entry.index == place.index => {
                    place.position += bytes;
                    place.index += 1;
                }
                read => {
                    let what = read.map_or_else(|error| error.to_string(), |(entry, _)| format!("entry {} in its place", entry.index));
                    self.note_unless_gone(&found, || format!("entry {} does not hold when scrubbed: {what}", place.index));
                    return (None, place.position - begin);
                }
            }
        }
        file.forget(begin, place.position - begin);
        if place.index >= end_index
            && let Err(error) = self.verify_sidecar(place.base_index)
        {
            tracing::warn!(%error, dir = %self.inner.dir.display(), base_index = place.base_index, "a segment's index cannot be verified");
        }
        (Some(place), place.position - begin)
    }

    fn begins_well(&self, file: &dyn File, base_index: u64) -> bool {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        let read = read_exact(file, &mut header, 0).ok().and_then(|()| decode_segment(&header, self.inner.group));
        read.is_some_and(|(index, _)| index == base_index)
    }

    /// Cut meanwhile, or purged: what was looked up is no more.
    fn note_unless_gone(&self, found: &Found, what: impl FnOnce() -> String) {
        let gone = {
            let state = self.state();
            state.cuts != found.place.cuts || !state.segments.iter().any(|segment| segment.base_index == found.place.base_index)
        };
        if !gone {
            self.note_damage(what());
        }
    }

    /// The segment of `place` while it has durable frames left, or the one behind it.
    fn scrubbed_segment(&self, place: Option<ScrubPlace>) -> Option<Found> {
        let state = self.state();
        let wanted = place.map_or(0, |place| place.index);
        let held =
            state.segments.iter().enumerate().skip_while(|(i, _)| state.segments.get(i + 1).is_some_and(|next| next.base_index <= wanted));
        let (i, segment) = held.into_iter().next()?;
        let end_index = state.segments.get(i + 1).map_or(state.flushed_next, |next| next.base_index).min(state.flushed_next);
        let (base_index, cuts) = (segment.base_index, state.cuts);
        let begin = ScrubPlace { base_index, position: SEGMENT_HEADER_BYTES as u64, index: base_index, cuts };
        let place = place.filter(|place| place.base_index == base_index && place.cuts == cuts).unwrap_or(begin);
        let file = segment.open.as_ref().map(|open| open.file.clone());
        (place.index < end_index).then(|| Found { file, place, end_index })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::GroupId;
    use crate::env::Env;
    use crate::log::{FrameKind, LogEntry, LogSettings, Memory, Place, Rolling};
    use crate::writer::Writer;

    fn append_durably(log: &Log, indexes: std::ops::Range<u64>, payload_bytes: usize) {
        let entry =
            |index| LogEntry { kind: FrameKind::Command, term: 1, index, append_time_us: 0, payload: vec![7; payload_bytes].into() };
        let (done, durable) = mpsc::channel();
        log.append(indexes.map(entry).collect(), Box::new(move |result| done.send(result).expect("a waiting test"))).expect("queued");
        durable.recv().expect("an answer").expect("durable");
    }

    #[tokio::test]
    async fn a_scrub_that_pauses_while_entries_are_taken_back_finds_no_damage_in_those_that_took_their_place() {
        let (folder, env, memory) = (tempfile::tempdir().expect("a folder"), Env::real(), Memory::default());
        let writer = Writer::start(&env, folder.path()).expect("a writer");
        let group = GroupId { topic: uuid::Uuid::from_u128(7), partition: 0 };
        let place = Place { env: &env, writer: &writer, memory: &memory };
        let log = Log::open(place, &folder.path().join("log"), LogSettings { group, rolling: Rolling::DEFAULT }).expect("a log");
        append_durably(&log, 0..10, 100);
        let (paused, _) = log.scrub(None, 700);
        assert!(paused.is_some_and(|place| (4..8).contains(&place.index)), "{paused:?}");
        log.truncate_after(Some(2)).await.expect("cut");
        append_durably(&log, 3..10, 333);
        let (end, bytes) = log.scrub(paused, 1 << 20);
        assert_eq!((end.map(|place| place.index), log.damage()), (Some(10), None));
        assert!(bytes > 7 * 333, "from the segment's beginning: {bytes}");
    }
}
