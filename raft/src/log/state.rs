//! What a log knows of itself in memory, all of it rebuilt from the files.

use std::collections::VecDeque;

use super::index::{Facts, Placed};
use super::memory::{Memory, Tail};
use super::retention::Purged;
use super::segment::Segment;
use super::{EntryHead, LogPosition, Rolling};

/// Trails that a log keeps: of as many readers at once.
const TRAILS_MAX: usize = 16;

/// Where a reader goes on that has read up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trail {
    pub(super) index: u64,
    /// The offset that it will ask for, where that is known.
    pub(super) offset: Option<i64>,
    /// The segment, and where in it the entry stands.
    pub(super) base_index: u64,
    pub(super) position: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) segments: Vec<Segment>,
    /// Entries up to this one are held no more, though the first segment may still hold some of their bytes.
    pub(super) purged: Option<Purged>,
    /// As the last retention point applied says.
    pub(super) start_offset: i64,
    pub(super) last: Option<LogPosition>,
    pub(super) next_offset: i64,
    /// Epoch and the offset where it begins, both ascending.
    pub(super) epochs: Vec<(i32, i64)>,
    pub(super) last_append_time_us: i64,
    pub(super) closed_us: i64,
    pub(super) tail: Tail,
    /// First index not known to be durable.
    pub(super) flushed_next: u64,
    /// How often entries were cut away: what was looked up before may stand elsewhere.
    pub(super) cuts: u64,
    pub(super) rolling: Rolling,
    /// How often a segment was closed.
    pub(super) closings: u64,
    /// Where readers of what is on disk came to a halt, the last one first.
    pub(super) trails: VecDeque<Trail>,
}

impl State {
    pub(super) fn new(rolling: Rolling, memory: &Memory) -> State {
        State {
            segments: Vec::new(),
            purged: None,
            start_offset: 0,
            last: None,
            next_offset: 0,
            epochs: Vec::new(),
            last_append_time_us: 0,
            closed_us: 0,
            tail: memory.tail(),
            flushed_next: 0,
            cuts: 0,
            rolling,
            closings: 0,
            trails: VecDeque::new(),
        }
    }

    pub(super) fn next_index(&self) -> u64 {
        self.last.map_or_else(|| self.first_index(), |last| last.index + 1)
    }

    /// The first entry held, or to be held.
    pub(super) fn first_index(&self) -> u64 {
        self.purged.map_or_else(|| self.segments.first().map_or(0, |segment| segment.base_index), |purged| purged.index + 1)
    }

    /// Whether an entry of this append time begins a new segment. Never where the last one is empty.
    pub(super) fn is_due(&self, append_time_us: i64) -> bool {
        let Some(segment) = self.segments.last() else { return true };
        let Some(first_us) = segment.first_append_time_us else { return false };
        let age_ms = u64::try_from(append_time_us.saturating_sub(first_us) / 1_000).unwrap_or(0);
        segment.end >= self.rolling.segment_bytes || age_ms >= self.rolling.segment_ms
    }

    /// Forgets what `purged` covers and returns the segments that hold nothing else; all of them where the log ends before it.
    pub(super) fn purge(&mut self, purged: Purged) -> Vec<Segment> {
        let ends_before = self.last.is_none_or(|last| last.index < purged.index);
        let gone = if ends_before {
            self.segments.len()
        } else {
            self.segments.iter().skip(1).take_while(|segment| segment.base_index <= purged.index + 1).count()
        };
        let gone = self.segments.drain(..gone).collect();
        self.tail.drop_before(purged.index + 1);
        self.trails.retain(|trail| trail.index > purged.index);
        if ends_before {
            self.last = Some(purged.position());
            self.next_offset = purged.next_offset;
            self.epochs.clear();
            self.last_append_time_us = self.last_append_time_us.max(purged.append_time_us);
        }
        let begin = self.segments.first().map_or(purged.next_offset, |segment| segment.base_offset);
        let known = self.epochs.partition_point(|&(_, start)| start <= begin);
        self.epochs.drain(..known.saturating_sub(1));
        if let Some((_, start)) = self.epochs.first_mut() {
            *start = begin.max(*start);
        }
        self.flushed_next = self.flushed_next.max(purged.index + 1);
        self.purged = Some(purged);
        gone
    }

    pub(super) fn leave_trail(&mut self, trail: Trail) {
        self.trails.retain(|held| held.index != trail.index);
        self.trails.truncate(TRAILS_MAX - 1);
        self.trails.push_front(trail);
    }

    /// Accounts for one frame at the end of the last segment.
    pub(super) fn note(&mut self, head: &EntryHead, frame_bytes: u64) {
        let next_offset = self.next_offset;
        if let Some(segment) = self.segments.last_mut() {
            if let Some(open) = &mut segment.open {
                open.points.note(head.index, next_offset, segment.end);
                let &EntryHead { term, index, append_time_us, .. } = head;
                open.last = Some(Placed { term, index, append_time_us, position: segment.end });
                if let Some(batch) = head.batch {
                    open.points.note_timestamp(batch.max_timestamp_ms);
                    if open.epochs.last().is_none_or(|&(epoch, _)| batch.leader_epoch > epoch) {
                        open.epochs.push((batch.leader_epoch, batch.base_offset));
                    }
                }
            }
            if let Some(batch) = head.batch {
                segment.max_timestamp_ms = segment.max_timestamp_ms.max(batch.max_timestamp_ms);
            }
            segment.first_append_time_us.get_or_insert(head.append_time_us);
            segment.end += frame_bytes;
        }
        if let Some(batch) = head.batch {
            if self.epochs.last().is_none_or(|&(epoch, _)| batch.leader_epoch > epoch) {
                self.epochs.push((batch.leader_epoch, batch.base_offset));
            }
            self.next_offset = batch.base_offset + i64::from(batch.last_offset_delta) + 1;
        }
        if let Some(start_offset) = head.start_offset {
            // In a mirror the home may have let go of records that never came here.
            self.next_offset = self.next_offset.max(start_offset);
        }
        self.last = Some(LogPosition { term: head.term, index: head.index });
        self.last_append_time_us = self.last_append_time_us.max(head.append_time_us);
    }

    /// Accounts for the frames of the last segment that a sidecar tells of.
    pub(super) fn note_facts(&mut self, facts: &Facts) {
        if let Some(segment) = self.segments.last_mut() {
            segment.end = facts.end;
            segment.first_append_time_us = Some(facts.first_append_time_us);
            segment.max_timestamp_ms = facts.max_timestamp_ms;
        }
        for &(epoch, start) in &facts.epochs {
            if self.epochs.last().is_none_or(|&(held, _)| epoch > held) {
                self.epochs.push((epoch, start));
            }
        }
        self.next_offset = facts.next_offset;
        self.last = Some(LogPosition { term: facts.last.term, index: facts.last.index });
        self.last_append_time_us = self.last_append_time_us.max(facts.last.append_time_us);
    }

    /// Entries before `next`, queued when there had been so many cuts, are durable. Behind a later cut others may stand in their place: then that
    /// cut tells, once it is done.
    pub(super) fn flushed(&mut self, next: u64, cuts: u64) {
        if self.cuts == cuts {
            self.flushed_next = self.flushed_next.max(next);
        }
    }

    /// Forgets recent entries before `until`; false where some of them are in memory only.
    pub(super) fn let_go(&mut self, until: u64) -> bool {
        self.tail.drop_before(until.min(self.flushed_next));
        until.min(self.next_index()) <= self.flushed_next
    }
}

#[cfg(test)]
mod tests {
    use super::State;
    use crate::log::memory::Memory;
    use crate::log::{EntryHead, FrameKind, LogPosition, Rolling};

    fn grown(state: &mut State, until: u64) {
        for index in state.next_index()..until {
            let head = EntryHead { kind: FrameKind::Blank, term: 1, index, append_time_us: 1, batch: None, start_offset: None };
            state.note(&head, 64);
        }
    }

    #[test]
    fn a_flush_of_what_was_cut_off_says_nothing_about_what_took_its_place() {
        let mut state = State::new(Rolling::DEFAULT, &Memory::default());
        grown(&mut state, 10);
        let before = state.cuts;
        state.cuts += 1;
        state.last = Some(LogPosition { term: 1, index: 3 });
        grown(&mut state, 8);
        state.flushed(10, before);
        assert_eq!(state.flushed_next, 0, "entries 4 to 7 are new, and still queued");
        state.flushed(4, state.cuts);
        assert_eq!(state.flushed_next, 4);
        state.flushed(8, state.cuts);
        assert_eq!(state.flushed_next, 8);
    }
}
