//! Reading a log for no other reason than to see that it can still be read: every checksum, from the files and not from memory.

use std::sync::Arc;

use super::Log;
use super::frame::SEGMENT_HEADER_BYTES;
use super::segment::read_frame;
use crate::env::File;

/// Where a scrub goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScrubPlace {
    /// The segment's first index.
    base_index: u64,
    /// The next frame's place in it, and its index.
    position: u64,
    index: u64,
}

/// One segment as it was looked up.
struct Found {
    file: Arc<dyn File>,
    place: ScrubPlace,
    /// What lies behind is not durable yet, or another segment's.
    end_index: u64,
    cuts: u64,
}

impl Log {
    /// Verifies some frames from `place` on, or from the log's beginning. Returns where to go on, None at the end, and how many bytes were read.
    /// Damage is noted, which has the replica withdrawn.
    pub(crate) fn scrub(&self, place: Option<ScrubPlace>, bytes_max: u64) -> (Option<ScrubPlace>, u64) {
        let Some(Found { file, mut place, end_index, cuts }) = self.scrubbed_segment(place) else { return (None, 0) };
        let begin = place.position;
        // From the medium, not from what the system remembers of it; and what nobody else has asked for is not to stay in memory.
        file.forget(begin, bytes_max);
        while place.index < end_index && place.position - begin < bytes_max {
            match read_frame(&*file, place.position, false) {
                Ok((entry, bytes)) if entry.index == place.index => {
                    place.position += bytes;
                    place.index += 1;
                }
                read => {
                    // Cut meanwhile, or purged: what was looked up is no more.
                    let state = self.state();
                    let gone = state.cuts != cuts || !state.segments.iter().any(|segment| segment.base_index == place.base_index);
                    drop(state);
                    if gone {
                        return (None, place.position - begin);
                    }
                    let what = read.map_or_else(|error| error.to_string(), |(entry, _)| format!("entry {} in its place", entry.index));
                    self.note_damage(format!("entry {} does not hold when scrubbed: {what}", place.index));
                    return (None, place.position - begin);
                }
            }
        }
        file.forget(begin, place.position - begin);
        (Some(place), place.position - begin)
    }

    /// The segment of `place` while it has durable frames left, or the one behind it.
    fn scrubbed_segment(&self, place: Option<ScrubPlace>) -> Option<Found> {
        let state = self.state();
        let wanted = place.map_or(0, |place| place.index);
        let held =
            state.segments.iter().enumerate().skip_while(|(i, _)| state.segments.get(i + 1).is_some_and(|next| next.base_index <= wanted));
        let (i, segment) = held.into_iter().next()?;
        let end_index = state.segments.get(i + 1).map_or(state.flushed_next, |next| next.base_index).min(state.flushed_next);
        let begin = ScrubPlace { base_index: segment.base_index, position: SEGMENT_HEADER_BYTES as u64, index: segment.base_index };
        let place = place.filter(|place| place.base_index == segment.base_index).unwrap_or(begin);
        (place.index < end_index).then(|| Found { file: segment.file.clone(), place, end_index, cuts: state.cuts })
    }
}
