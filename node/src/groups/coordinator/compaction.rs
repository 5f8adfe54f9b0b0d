//! Keeps a partition of `__consumer_offsets` short: what it says of the groups that live is written again at its end, in pieces, and then all
//! that lies before the first piece is let go.
//!
//! Whoever reads the log at any moment, a killed leader's successor too, must come to the same state. So a piece is made only while nothing
//! else is on its way to the log: memory then says what the log says, and what changes later is appended behind the piece and wins. The log
//! begins anew only once every piece is committed; a leader that is lost before that leaves records that say again what the log said.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use futures_util::FutureExt;
use meridian_raft::partition::DeleteRecordsError;

use super::{Coordinator, Done, Hosted};
use crate::groups::record::{Committed, Entry};

/// A log of fewer bytes is left alone: it is read in a moment.
pub(in crate::groups) const LOG_BYTES_MIN: u64 = 4 << 20;
/// A log is written anew when it holds this many times the bytes of what lives, so that a byte is copied a third of a time on average.
const LOG_PER_LIVE: u64 = 4;
/// Bytes written at once; a record more may fit in.
const PIECE_BYTES: usize = 512 << 10;

/// How long the log is, and how far its rewriting has come.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    /// Of the batches from the log's start on.
    log_bytes: u64,
    /// By how many it may grow before it is written anew, and with more than how many it is next.
    allowed_bytes: u64,
    due_bytes: u64,
    rewrite: Option<Rewrite>,
}

#[derive(Debug)]
struct Rewrite {
    step: Step,
    /// Set with the first piece: what the log says before this offset was all in memory. And how many bytes that is.
    before: Option<(i64, u64)>,
    written_bytes: u64,
    /// The last record written.
    at: Option<Place>,
    /// There is nothing behind the last piece.
    complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The next piece is due when nothing is in flight; until then no request is taken, which lasts no longer than a commit.
    Due,
    /// A piece is on its way to the log, and requests are taken.
    Writing,
    /// The log's new beginning is.
    Beginning,
}

/// One record among those of all groups, in the order in which they are written: a group, then its offsets.
#[derive(Debug)]
struct Place {
    group: String,
    offset: Option<(String, i32)>,
}

impl Place {
    fn of(entry: &Entry) -> Place {
        match entry {
            Entry::Group { group, .. } => Place { group: group.clone(), offset: None },
            Entry::Offset { group, topic, partition, .. } => Place { group: group.clone(), offset: Some((topic.clone(), *partition)) },
        }
    }
}

impl Compaction {
    /// Batches of so many bytes are in the log, or on their way: one that is refused counts, too, and is worth no account of its own.
    pub(super) fn grown(&mut self, bytes: usize) {
        self.log_bytes += bytes as u64;
    }

    /// No request is taken: they would be in flight when the next piece is made.
    pub(super) fn wants_quiet(&self) -> bool {
        self.rewrite.as_ref().is_some_and(|rewrite| rewrite.step == Step::Due)
    }

    fn is_due(&self) -> bool {
        self.rewrite.is_none() && self.log_bytes > self.due_bytes
    }

    fn allow(&mut self, live_bytes: u64) {
        self.allowed_bytes = LOG_BYTES_MIN.max(live_bytes.saturating_mul(LOG_PER_LIVE));
        self.due_bytes = self.allowed_bytes;
    }

    fn give_up(&mut self) {
        self.rewrite = None;
        self.due_bytes = self.log_bytes + self.allowed_bytes;
    }
}

impl Coordinator {
    /// Bytes of a batch that [`Coordinator::replay`] takes over.
    pub fn read(&mut self, bytes: usize) {
        self.compaction.grown(bytes);
    }

    /// All is read: how long may the log get?
    pub(super) fn measure(&mut self) {
        let long = self.compaction.log_bytes > LOG_BYTES_MIN;
        let live_bytes = if long { self.live(None).map(|entry| entry.bytes() as u64).sum() } else { 0 };
        self.compaction.allow(live_bytes);
    }

    /// Does the next step of a rewriting, or begins one, where it is time to. To be called after every event.
    pub fn compact(&mut self) {
        if self.compaction.is_due() {
            // What nobody uses is taken back rather than copied.
            self.expire();
            let rewrite = Rewrite { step: Step::Due, before: None, written_bytes: 0, at: None, complete: false };
            self.compaction.rewrite = Some(rewrite);
        }
        if self.compaction.wants_quiet() && self.in_flight.is_empty() {
            self.write_piece();
        }
    }

    fn write_piece(&mut self) {
        let Some(mut rewrite) = self.compaction.rewrite.take() else { return };
        let held_bytes = self.compaction.log_bytes;
        rewrite.before.get_or_insert((self.partition.high_watermark(), held_bytes));
        let entries = self.piece(rewrite.at.as_ref());
        rewrite.complete = entries.iter().map(Entry::bytes).sum::<usize>() < PIECE_BYTES;
        if let Some(last) = entries.last() {
            rewrite.at = Some(Place::of(last));
            rewrite.step = Step::Writing;
            self.append(&entries, Done::Rewritten);
            rewrite.written_bytes += self.compaction.log_bytes - held_bytes;
            self.compaction.rewrite = Some(rewrite);
        } else {
            self.compaction.rewrite = Some(rewrite);
            self.begin_anew();
        }
    }

    /// Records until there are enough for a piece; fewer only at the end.
    fn piece(&self, behind: Option<&Place>) -> Vec<Entry> {
        let mut bytes = 0;
        let fits = |entry: &Entry| {
            let fits = bytes < PIECE_BYTES;
            bytes += entry.bytes();
            fits
        };
        self.live(behind).take_while(fits).collect()
    }

    /// What the log says of the groups that live, from behind a place on.
    fn live<'a>(&'a self, behind: Option<&'a Place>) -> impl Iterator<Item = Entry> + 'a {
        let from = behind.map_or(Unbounded, |place| Included(place.group.as_str()));
        self.groups.range::<str, _>((from, Unbounded)).flat_map(move |(id, hosted)| {
            let behind = behind.filter(|place| place.group == *id);
            let group = if behind.is_none() { hosted.stored.clone() } else { None };
            let group = group.map(|stored| Entry::Group { group: id.clone(), value: Some(stored) });
            let offsets = offsets_behind(hosted, behind.and_then(|place| place.offset.as_ref()));
            group.into_iter().chain(offsets.map(move |(topic, partition, committed)| Entry::Offset {
                group: id.clone(),
                topic: topic.clone(),
                partition,
                value: Some(committed.clone()),
            }))
        })
    }

    /// A piece is committed, or was refused for want of room.
    pub(super) fn rewritten(&mut self, refused: bool) {
        let Some(rewrite) = &mut self.compaction.rewrite else { return };
        if refused {
            self.compaction.give_up();
        } else if rewrite.complete {
            self.begin_anew();
        } else {
            rewrite.step = Step::Due;
        }
    }

    /// Every piece is committed: what lies before the first may go.
    fn begin_anew(&mut self) {
        let Some(rewrite) = &mut self.compaction.rewrite else { return };
        let Some((offset, _)) = rewrite.before else { return };
        rewrite.step = Step::Beginning;
        let begun = self.partition.delete_records(Some(offset));
        self.in_flight.push_back(begun.map(|begun| (Done::BegunAnew(begun), Ok(()))).boxed());
    }

    pub(super) fn begun_anew(&mut self, begun: Result<i64, DeleteRecordsError>) {
        let Some(Rewrite { before: Some((_, replaced_bytes)), written_bytes, .. }) = self.compaction.rewrite.take() else { return };
        match begun {
            Ok(start) => {
                self.compaction.log_bytes = self.compaction.log_bytes.saturating_sub(replaced_bytes);
                self.compaction.allow(written_bytes);
                let partition = self.partition.id().partition;
                tracing::debug!(partition, start, replaced_bytes, written_bytes, "the groups' log has been written anew");
            }
            Err(error) => {
                tracing::debug!(partition = self.partition.id().partition, %error, "the groups' log is written anew another time");
                self.compaction.give_up();
            }
        }
    }
}

fn offsets_behind<'a>(hosted: &'a Hosted, behind: Option<&'a (String, i32)>) -> impl Iterator<Item = (&'a String, i32, &'a Committed)> {
    let from = behind.map_or(Unbounded, |(topic, _)| Included(topic.as_str()));
    let topics: &BTreeMap<String, BTreeMap<i32, Committed>> = hosted.group.offsets();
    topics.range::<str, _>((from, Unbounded)).flat_map(move |(topic, partitions)| {
        let from = behind.filter(|(last, _)| last == topic).map_or(Unbounded, |(_, partition)| Excluded(*partition));
        partitions.range((from, Unbounded)).map(move |(partition, committed)| (topic, *partition, committed))
    })
}
