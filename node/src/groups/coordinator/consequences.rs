//! What follows from an event: answers, appends to the log, and, once they are committed, what they change; what time alone does.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use kafka_protocol::error::ResponseError;
use meridian_raft::batch::records::{self, Record};
use meridian_raft::partition::AppendError;
use tokio::time::{Duration, Instant};

use super::{Coordinator, Done, Reply};
use crate::controller::image::Image;
use crate::groups::group::{Effect, Group};
use crate::groups::record::{Entry, RecordError};

/// Appends that may wait for their commit; while there are as many, no request is taken.
const IN_FLIGHT_MAX: usize = 256;

/// What stands in memory is no longer known to be what the log says: read it anew.
#[derive(Debug, thiserror::Error)]
pub enum Diverged {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("a record cannot be written: {0}")]
    Record(#[from] RecordError),
    #[error("a batch cannot be made: {0}")]
    Batch(#[from] meridian_raft::batch::BatchError),
}

impl Coordinator {
    pub fn takes_requests(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX && !self.compaction.wants_quiet()
    }

    /// When [`Coordinator::tick`] has something to do.
    pub fn next_alarm(&self) -> Option<Instant> {
        let (alarm_ms, _) = self.alarms.first()?;
        Some(self.started + Duration::from_millis(u64::try_from(*alarm_ms).unwrap_or_default()))
    }

    /// Waits for the next append to be committed, and lets its consequences happen. Pends for ever when none is on its way; may be dropped.
    pub async fn committed(&mut self) -> ControlFlow<Diverged> {
        match self.in_flight.next().await {
            Some((done, result)) => self.finish(done, result),
            None => std::future::pending().await,
        }
    }

    fn finish(&mut self, done: Done, result: Result<(), Diverged>) -> ControlFlow<Diverged> {
        match (done, result) {
            (Done::Committed { group: id, offsets, reply }, Ok(())) => {
                if let Some(group) = self.group(&id) {
                    group.commits_in_flight -= 1;
                    for (topic, partition, committed) in offsets {
                        group.committed(&topic, partition, committed);
                    }
                }
                let _ = reply.send(Ok(()));
                self.settle(&id, Vec::new());
            }
            // Nothing was written and nothing in memory spoke of it.
            (Done::Committed { group: id, reply, .. }, Err(Diverged::Append(AppendError::Overloaded | AppendError::DiskFull))) => {
                if let Some(group) = self.group(&id) {
                    group.commits_in_flight -= 1;
                }
                let _ = reply.send(Err(ResponseError::CoordinatorNotAvailable));
                self.settle(&id, Vec::new());
            }
            (Done::Rewritten, Err(Diverged::Append(AppendError::Overloaded | AppendError::DiskFull))) => self.rewritten(true),
            (_, Err(diverged)) => return ControlFlow::Break(diverged),
            (Done::Stored { group: id, then }, Ok(())) => {
                let now = self.now();
                let mut effects = Vec::new();
                if let Some(group) = self.group(&id) {
                    group.stored(then, now, &mut effects);
                }
                self.settle(&id, effects);
            }
            (Done::OffsetsDeleted { group: id, offsets, reply }, Ok(())) => {
                if let Some(group) = self.group(&id) {
                    offsets.iter().for_each(|(topic, partition)| group.uncommitted(topic, *partition));
                }
                if let Some((reply, subscribed)) = reply {
                    let _ = reply.send(Ok(subscribed));
                }
                self.settle(&id, Vec::new());
            }
            (Done::Deleted { group: id, reply }, Ok(())) => {
                self.forget(&id);
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(()));
                }
            }
            (Done::Rewritten, Ok(())) => self.rewritten(false),
            (Done::BegunAnew(begun), Ok(())) => self.begun_anew(begun),
        }
        ControlFlow::Continue(())
    }

    fn forget(&mut self, id: &str) {
        if let Some(alarm_ms) = self.groups.remove(id).and_then(|hosted| hosted.alarm_ms) {
            self.alarms.remove(&(alarm_ms, id.to_owned()));
        }
    }

    /// Does what a group asks for, and sets its alarm.
    pub(super) fn settle(&mut self, id: &str, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Join { ticket, answer } => {
                    if let Some(reply) = self.joins.remove(&ticket) {
                        let _ = reply.send(answer);
                    }
                }
                Effect::Sync { ticket, answer } => {
                    if let Some(reply) = self.syncs.remove(&ticket) {
                        let _ = reply.send(answer);
                    }
                }
                Effect::Store { group, then } => {
                    if let Some(hosted) = self.groups.get_mut(id) {
                        hosted.stored = Some(group.clone());
                    }
                    let entry = Entry::Group { group: id.to_owned(), value: Some(group) };
                    self.append(&[entry], Done::Stored { group: id.to_owned(), then });
                }
            }
        }
        let Some(hosted) = self.groups.get_mut(id) else { return };
        if hosted.group.is_blank() {
            self.forget(id);
            return;
        }
        let deadline_ms = hosted.group.deadline_ms();
        let earlier = hosted.alarm_ms.is_none_or(|alarm_ms| deadline_ms.is_some_and(|deadline_ms| deadline_ms < alarm_ms));
        // A later deadline is noticed when the old alarm rings.
        if earlier && let Some(deadline_ms) = deadline_ms {
            if let Some(alarm_ms) = hosted.alarm_ms.replace(deadline_ms) {
                self.alarms.remove(&(alarm_ms, id.to_owned()));
            }
            self.alarms.insert((deadline_ms, id.to_owned()));
        }
    }

    /// Hands entries to the log, now and in this order.
    pub(super) fn append(&mut self, entries: &[Entry], done: Done) {
        let timestamp_ms = self.env.clock.wall_us() / 1_000;
        let records = entries.iter().map(|entry| entry.encode(timestamp_ms)).collect::<Result<Vec<Record>, _>>();
        let batch = records.map_err(Diverged::from).and_then(|records| Ok(records::encode(&records)?));
        let submitted = batch.map(|batch| {
            self.compaction.grown(batch.bytes().len());
            self.partition.append(batch)
        });
        self.in_flight.push_back(match submitted {
            Ok(appended) => appended.map(|result| (done, result.map(|_| ()).map_err(Diverged::from))).boxed(),
            Err(diverged) => std::future::ready((done, Err(diverged))).boxed(),
        });
    }

    /// What time alone does.
    pub fn tick(&mut self) {
        let now = self.now();
        while let Some((alarm_ms, id)) = self.alarms.first().cloned().filter(|(alarm_ms, _)| *alarm_ms <= now.monotonic_ms) {
            self.alarms.remove(&(alarm_ms, id.clone()));
            let Some(hosted) = self.groups.get_mut(&id) else { continue };
            hosted.alarm_ms = None;
            let mut effects = Vec::new();
            hosted.group.tick(now, &mut effects);
            self.settle(&id, effects);
        }
    }

    /// Deletes the groups that nobody has used for long.
    pub fn expire(&mut self) {
        let now = self.now();
        let expired = self.groups.iter().filter(|(_, hosted)| hosted.group.is_expired(now)).map(|(id, _)| id.clone());
        for id in expired.collect::<Vec<_>>() {
            tracing::info!(group = %id, "a consumer group has expired");
            if self.group(&id).is_some_and(|group| group.begin_delete().is_ok()) {
                self.bury(&id, None);
            }
        }
    }

    /// Takes back the offsets of topics that were in the metadata and are not any more. Topics that are merely not known (metadata that are
    /// still being replayed) are left alone.
    pub fn metadata_changed(&mut self, image: Arc<Image>) {
        let before = std::mem::replace(&mut self.image, image);
        let gone = before.topics_by_id.keys().filter(|id| !self.image.topics_by_id.contains_key(id)).copied().collect::<Vec<_>>();
        if gone.is_empty() {
            return;
        }
        for id in self.groups.keys().cloned().collect::<Vec<_>>() {
            let offsets_of = |group: &mut Group| gone.iter().flat_map(|topic| group.offsets_of(*topic)).collect::<Vec<_>>();
            let offsets = self.group(&id).map(offsets_of).unwrap_or_default();
            if !offsets.is_empty() {
                self.take_back(&id, offsets, None);
            }
        }
    }

    pub(super) fn take_back(&mut self, id: &str, offsets: Vec<(String, i32)>, reply: Option<(Reply<BTreeSet<String>>, BTreeSet<String>)>) {
        let entries = tombstones(id, offsets.iter().cloned());
        self.append(&entries, Done::OffsetsDeleted { group: id.to_owned(), offsets, reply });
    }

    /// Takes back all the log says of a group that [`Group::begin_delete`] has closed.
    pub(super) fn bury(&mut self, id: &str, reply: Option<Reply<()>>) {
        let Some(group) = self.group(id) else { return };
        let offsets = group.offsets().iter().flat_map(|(topic, partitions)| partitions.keys().map(|number| (topic.clone(), *number)));
        let mut entries = tombstones(id, offsets);
        entries.push(Entry::Group { group: id.to_owned(), value: None });
        self.append(&entries, Done::Deleted { group: id.to_owned(), reply });
    }
}

fn tombstones(id: &str, offsets: impl Iterator<Item = (String, i32)>) -> Vec<Entry> {
    offsets.map(|(topic, partition)| Entry::Offset { group: id.to_owned(), topic, partition, value: None }).collect()
}
