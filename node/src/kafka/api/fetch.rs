//! Fetch: committed batches as they are stored, sent without a copy. A request that finds too little parks on high watermarks, leaderships and
//! the metadata, so that it ends as soon as there is enough, the leader moves, or an ACL takes the right away.
//!
//! A partition that a request names twice is answered once, as it was named last: Kafka does so, too.
//!
//! Incremental sessions (KIP-227) are not kept: every answer says session 0, which clients take for "send everything each time".

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use meridian_auth::acl::Operation;
use meridian_raft::batch::BatchHeader;
use meridian_raft::partition::Partition;
use std::sync::Arc;
use tokio::time::Instant;

use super::{Call, Outcome};
use crate::kafka::counters::add;
use crate::kafka::errors::{self, ErrorCode, NONE};
use crate::kafka::leaders::{self, Hint};
use crate::kafka::once::merged;
use crate::kafka::reply::{Reply, Writer};
use crate::kafka::topic_key::TopicKey;
use crate::kafka::{Asker, Broker, Session};
use crate::telemetry::spans;

mod request;

use request::{FetchRequest, parse};

/// Most records' bytes of one answer, whatever is asked for (`fetch.max.bytes`). The first batch comes whole even so.
const FETCH_BYTES_MAX: usize = 55 << 20;
/// Longest wait, whatever is asked for.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Answers a Fetch. Nothing happens before the future is polled.
pub(crate) fn answer(broker: &Broker, session: &Arc<Session>, call: Call) -> BoxFuture<'static, Outcome> {
    let (broker, session) = (broker.clone(), session.clone());
    async move {
        let Ok(request) = parse(call.version, call.is_flexible(), &call.body) else { return Outcome::Close("a misshapen Fetch") };
        if request.session_epoch > 0 {
            return Outcome::Reply(no_such_session(&call));
        }
        let mut fetch = Fetch::new(&broker, &session, &request);
        fetch.run(&request).await;
        Outcome::Reply(fetch.write(&call, request.isolation))
    }
    .boxed()
}

fn no_such_session(call: &Call) -> Reply {
    let mut writer = Writer::new(call.correlation_id, call.is_flexible());
    writer.i32(0);
    writer.i16(ErrorCode::FetchSessionIdNotFound.code());
    writer.i32(0);
    writer.count(0);
    writer.tags();
    writer.finish()
}

struct Fetch<'a> {
    broker: &'a Broker,
    session: &'a Session,
    topics: Vec<TopicSlots>,
    /// Of records, all partitions together.
    bytes: usize,
    bytes_max: usize,
    failed: bool,
}

struct TopicSlots {
    key: TopicKey,
    slots: Vec<Slot>,
}

/// One partition's part of the answer, as far as it has come.
struct Slot {
    asked: request::Partition,
    /// Where the next read begins.
    next: i64,
    batches: Vec<Bytes>,
    bytes: usize,
    /// Nothing more fits.
    full: bool,
    source: Result<Partition, ErrorCode>,
    hint: Option<Hint>,
}

impl<'a> Fetch<'a> {
    fn new(broker: &'a Broker, session: &'a Session, request: &FetchRequest<'_>) -> Fetch<'a> {
        let slot = |asked: &request::Partition| Slot {
            asked: *asked,
            next: asked.offset,
            batches: Vec::new(),
            bytes: 0,
            full: false,
            source: Err(ErrorCode::UnknownServerError),
            hint: None,
        };
        let topics = merged(request.topics.iter().map(|topic| (topic.key, topic.partitions.iter().collect())), |asked| asked.index);
        let topics = topics.into_iter().map(|(key, partitions)| {
            let slots = partitions.iter().map(|asked| slot(asked.last)).collect();
            TopicSlots { key: key.to_owned(), slots }
        });
        let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(FETCH_BYTES_MAX);
        Fetch { broker, session, topics: topics.collect(), bytes: 0, bytes_max, failed: false }
    }

    async fn run(&mut self, request: &FetchRequest<'_>) {
        let wait = Duration::from_millis(request.max_wait_ms.try_into().unwrap_or(0)).min(WAIT_MAX);
        let deadline = Instant::now() + wait;
        let enough = usize::try_from(request.min_bytes).unwrap_or(0).min(self.bytes_max);
        loop {
            let asker = self.broker.asker(self.session);
            self.read(&asker).await;
            if self.failed || self.bytes >= enough || self.topics.is_empty() || wait.is_zero() {
                return;
            }
            let seen = asker.image.version;
            if tokio::time::timeout_at(deadline, self.change(seen)).await.is_err() {
                return;
            }
        }
    }

    /// Reads on wherever there is more, and looks again at what the caller may and who leads.
    async fn read(&mut self, asker: &Asker<'_>) {
        let alone = self.topics.len() == 1;
        for topic in &mut self.topics {
            let found = topic.key.find(asker, Operation::Read);
            if let (Ok(topic), true) = (&found, alone) {
                spans::destination("poll", &topic.name);
            }
            for slot in &mut topic.slots {
                let led = match &found {
                    Ok(topic) => leaders::led(self.broker, topic, slot.asked.index, slot.asked.epoch).inspect_err(|error| {
                        slot.hint = leaders::hint(self.broker, topic, slot.asked.index, *error);
                    }),
                    Err(error) => Err(*error),
                };
                let before = slot.bytes;
                slot.read(led, self.bytes_max.saturating_sub(self.bytes), self.bytes == 0).await;
                self.bytes = self.bytes - before + slot.bytes;
                self.failed |= slot.source.is_err();
            }
        }
    }

    /// Resolves when another look may find more, or something else.
    async fn change(&self, seen: u64) {
        let mut changes = FuturesUnordered::<BoxFuture<'static, ()>>::new();
        let mut images = self.broker.controller.watch();
        changes.push(async move { drop(images.wait_for(|image| image.version != seen).await) }.boxed());
        for slot in self.topics.iter().flat_map(|topic| &topic.slots) {
            let Ok(replica) = &slot.source else { continue };
            let (mut leaderships, epoch) = (replica.watch_leadership(), replica.leadership().epoch);
            let moved = async move { drop(leaderships.wait_for(|now| !now.is_leader || now.epoch != epoch).await) };
            changes.push(moved.boxed());
            if !slot.full {
                let (mut watermarks, next) = (replica.watch_high_watermark(), slot.next);
                changes.push(async move { drop(watermarks.wait_for(|high| *high > next).await) }.boxed());
            }
        }
        changes.next().await;
    }

    fn write(self, call: &Call, isolation: i8) -> Reply {
        let version = call.version;
        let mut writer = Writer::new(call.correlation_id, call.is_flexible());
        let mut hints = Vec::new();
        // Throttling.
        writer.i32(0);
        if version >= 7 {
            writer.i16(NONE);
            // No session.
            writer.i32(0);
        }
        writer.count(self.topics.len());
        for topic in self.topics {
            topic.key.write(&mut writer);
            writer.count(topic.slots.len());
            for slot in topic.slots {
                add(&self.broker.counters.fetched_bytes, slot.bytes);
                match &slot.source {
                    Ok(replica) => add(&replica.traffic().bytes_out, slot.bytes),
                    Err(error) => {
                        self.broker.counters.fetch_refused(*error);
                        spans::failed(*error);
                    }
                }
                let records = slot.batches.iter().filter_map(|batch| BatchHeader::decode(batch)).map(|header| header.count.max(0));
                add(&self.broker.counters.fetched_records, records.map(|count| count as usize).sum());
                hints.extend(slot.hint.filter(|_| slot.source.is_err()));
                slot.write(&mut writer, version, isolation);
            }
            writer.tags();
        }
        leaders::write_endpoints(&mut writer, self.broker, &hints, version >= 16);
        writer.finish()
    }
}

impl Slot {
    /// Reads on, within `room` bytes in all; the very first batch of an answer comes whole.
    async fn read(&mut self, led: Result<Partition, ErrorCode>, room: usize, first: bool) {
        let replica = match led {
            Ok(replica) => replica,
            Err(error) => return self.fail(error),
        };
        let room = room.min(usize::try_from(self.asked.bytes_max).unwrap_or(0).saturating_sub(self.bytes));
        self.full = room == 0 && !first;
        if self.full {
            // Out of range must be told even where nothing fits, and nothing is read for it.
            if !(replica.log_start_offset()..=replica.high_watermark()).contains(&self.next) && self.batches.is_empty() {
                return self.fail(ErrorCode::OffsetOutOfRange);
            }
        } else {
            match replica.read(self.next, room).await {
                Err(error) => return self.fail(errors::of_read(&error)),
                Ok(batches) => self.take(batches.into_iter().map(|batch| batch.bytes), room, first),
            }
        }
        self.source = Ok(replica);
    }

    /// Takes as many batches as fit in `room` bytes more; the `first` one of an answer whatever its size.
    fn take(&mut self, batches: impl Iterator<Item = Bytes>, room: usize, first: bool) {
        let end = self.bytes.saturating_add(room);
        for batch in batches {
            let whole = first && self.batches.is_empty();
            if self.bytes.saturating_add(batch.len()) > end && !whole {
                self.full = true;
                return;
            }
            let Some(header) = BatchHeader::decode(&batch) else { return };
            self.next = header.base_offset.saturating_add(i64::from(header.last_offset_delta)).saturating_add(1);
            self.bytes += batch.len();
            self.batches.push(batch);
        }
    }

    fn fail(&mut self, error: ErrorCode) {
        self.source = Err(error);
        self.batches.clear();
        self.bytes = 0;
    }

    fn write(self, writer: &mut Writer, version: i16, isolation: i8) {
        let (error, high_watermark, start) = match &self.source {
            Ok(replica) => (NONE, replica.high_watermark(), replica.log_start_offset()),
            Err(error) => (error.code(), -1, -1),
        };
        writer.i32(self.asked.index);
        writer.i16(error);
        writer.i64(high_watermark);
        // The last stable offset: without transactions, all that is committed.
        writer.i64(high_watermark);
        if version >= 5 {
            writer.i64(start);
        }
        // Aborted transactions, of which there are none.
        if isolation == 1 {
            writer.count(0)
        } else {
            writer.null_array()
        }
        if version >= 11 {
            // No replica is preferred to the leader.
            writer.i32(-1);
        }
        writer.payload(self.batches, self.bytes);
        match self.hint.filter(|_| self.source.is_err() && version >= 12) {
            // Tag 1 is the current leader.
            Some(hint) => writer.tagged(1, |writer| hint.write(writer)),
            None => writer.tags(),
        }
    }
}

#[cfg(test)]
mod tests;
