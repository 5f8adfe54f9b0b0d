//! Produce: batches enter the log. Read and written here, not by the codec crate: a batch goes from the request to the log without a copy.
//!
//! Batches are submitted while the request is read off the connection, so that several requests of one producer are in flight and stay in
//! order; the answer is awaited later. `acks=1` waits like `acks=all`: Raft knows no write that only the leader has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use meridian_auth::acl::Operation;
use meridian_raft::partition::{AppendError, Appended, Partition};

use super::{Call, Outcome};
use crate::controller::image::Topic;
use crate::controller::topic_config;
use crate::kafka::counters::add;
use crate::kafka::errors::{self, ErrorCode, NONE};
use crate::kafka::leaders::{self, Hint};
use crate::kafka::once::{Named, merged};
use crate::kafka::reply::Writer;
use crate::kafka::topic_key::{TopicKey, TopicRef};
use crate::kafka::{Asker, Broker, Session};
use crate::telemetry::spans;

mod admission;
mod request;

use request::{ProduceRequest, parse};

/// Largest batch whatever `max.message.bytes` says: half of what a log's frame holds and of what may wait for its commit.
const BATCH_BYTES_MAX: usize = 32 << 20;
/// A batch is kept as a slice of its frame where it is at least this long and half of the frame; a smaller one would pin more than itself.
const SLICE_BYTES_MIN: usize = 32 << 10;
/// `acks`: none, the leader, all in sync.
const ACKS: [i16; 3] = [0, 1, -1];
const ACKS_NONE: i16 = 0;
const ACKS_ALL: i16 = -1;
/// Raft gives up by itself after this time; a request that would wait longer needs no clock of its own.
const APPEND_DEADLINE_MS: i32 = 30_000;
const ZSTD: i16 = 4;
const ZSTD_SINCE: i16 = 7;

/// Why a partition's batch is not in the log.
#[derive(Debug)]
struct Refused {
    error: ErrorCode,
    message: Option<String>,
}

impl Refused {
    fn new(error: ErrorCode, message: impl ToString) -> Refused {
        Refused { error, message: Some(message.to_string()) }
    }
}

impl From<ErrorCode> for Refused {
    fn from(error: ErrorCode) -> Refused {
        Refused { error, message: None }
    }
}

type Append = BoxFuture<'static, Result<Appended, AppendError>>;

/// One partition's part of the answer, on its way.
struct Part {
    index: i32,
    result: Result<(Partition, Append), Refused>,
    hint: Option<Hint>,
}

struct TopicParts {
    key: TopicKey,
    topic: Option<Arc<Topic>>,
    parts: Vec<Part>,
}

/// Submits everything in the call; the future waits and writes the answer.
pub(crate) fn submit(broker: &Broker, session: &Session, call: Call) -> BoxFuture<'static, Outcome> {
    let Ok(request) = parse(call.version, call.is_flexible(), &call.body) else {
        return std::future::ready(Outcome::Close("a misshapen Produce")).boxed();
    };
    let asker = broker.asker(session);
    let (whole, alone) = (refused_whole(&request), request.topics.len() == 1);
    let submission = Submission { broker, asker: &asker, version: call.version, acks: request.acks, whole, alone };
    let (silent, timeout_ms) = (request.acks == ACKS_NONE, request.timeout_ms);
    let topics = request.topics.into_iter().map(|topic| (topic.key, topic.partitions));
    let topics = detach(merged(topics, |partition| partition.index), &call.body);
    let (version, correlation_id, flexible) = (call.version, call.correlation_id, call.is_flexible());
    // The batches' own slices are to be the only ones left: the log then stamps them in place.
    drop(call);
    let topics: Vec<TopicParts> = topics.into_iter().map(|(key, partitions)| submission.topic(key, partitions)).collect();
    let answer = Answer { broker: broker.clone(), version, correlation_id, flexible };
    async move { if silent { answer.silent(topics).await } else { Outcome::Reply(answer.write(topics, timeout_ms).await) } }.boxed()
}

/// What refuses every partition of a request.
fn refused_whole(request: &ProduceRequest<'_>) -> Option<(ErrorCode, &'static str)> {
    if !ACKS.contains(&request.acks) {
        return Some((ErrorCode::InvalidRequiredAcks, "acks is neither 0, 1 nor -1"));
    }
    request.transactional.then_some((ErrorCode::InvalidTxnState, "transactions are not supported"))
}

type Detached = Vec<(TopicKey, Vec<Sent>)>;

/// What was sent to one partition.
struct Sent {
    index: i32,
    records: Option<Bytes>,
    /// There was something before it in the same request.
    twice: bool,
}

/// Every batch in a buffer that pins no more than itself, or little more.
fn detach(topics: Vec<(TopicRef<'_>, Vec<Named<request::Partition>>)>, body: &Bytes) -> Detached {
    let detached = |records: std::ops::Range<usize>| {
        if records.len() >= SLICE_BYTES_MIN && 2 * records.len() >= body.len() {
            body.slice(records)
        } else {
            Bytes::copy_from_slice(&body[records])
        }
    };
    let sent = |Named { last: request::Partition { index, records }, twice }| Sent { index, records: records.map(&detached), twice };
    topics.into_iter().map(|(key, partitions)| (key.to_owned(), partitions.into_iter().map(sent).collect())).collect()
}

struct Submission<'a> {
    broker: &'a Broker,
    asker: &'a Asker<'a>,
    version: i16,
    acks: i16,
    whole: Option<(ErrorCode, &'static str)>,
    /// The request is about one topic.
    alone: bool,
}

impl Submission<'_> {
    fn topic(&self, key: TopicKey, partitions: Vec<Sent>) -> TopicParts {
        let mut found = self.writable(&key);
        if let (Ok(topic), true) = (&found, self.alone) {
            spans::destination("send", &topic.name);
        }
        let parts = partitions.into_iter().map(|sent| {
            let index = sent.index;
            let result = match &mut found {
                Ok(topic) => self.partition(topic, sent),
                // Why, is said once: a partition of few bytes is not to be answered by many.
                Err(refused) => Err(Refused { error: refused.error, message: refused.message.take() }),
            };
            let hint = match (&found, &result) {
                (Ok(topic), Err(refused)) => leaders::hint(self.broker, topic, index, refused.error),
                _ => None,
            };
            Part { index, result, hint }
        });
        let parts = parts.collect();
        TopicParts { key, topic: found.ok(), parts }
    }

    fn writable(&self, key: &TopicKey) -> Result<Arc<Topic>, Refused> {
        if let Some((error, message)) = self.whole {
            return Err(Refused::new(error, message));
        }
        let topic = key.find(self.asker, Operation::Write)?;
        if topic.internal {
            return Err(Refused::new(ErrorCode::InvalidTopicException, "the region keeps this topic for itself"));
        }
        if topic.home != self.asker.image.region {
            // Terminal for every client: to try again here cannot help.
            let message = format!("topic {} is homed in region {}: produce to it there", topic.name, topic.home);
            return Err(Refused::new(ErrorCode::PolicyViolation, message));
        }
        Ok(topic)
    }

    fn partition(&self, topic: &Topic, Sent { index, records, twice }: Sent) -> Result<(Partition, Append), Refused> {
        let replica = leaders::led(self.broker, topic, index, -1)?;
        if twice {
            // Kafka takes the last and is silent about the others, which are lost then.
            return Err(Refused::new(ErrorCode::InvalidRequest, "the request holds two batches for this partition"));
        }
        let records = records.ok_or_else(|| Refused::new(ErrorCode::InvalidRecord, "no batch"))?;
        let bytes_max = number(topic, "max.message.bytes").min(BATCH_BYTES_MAX);
        if records.len() > bytes_max {
            let message = format!("a batch of {} bytes; the topic takes {bytes_max}", records.len());
            return Err(Refused::new(ErrorCode::MessageTooLarge, message));
        }
        let batch = admission::admit(records).map_err(|error| Refused::new(errors::of_batch(&error), error))?;
        if batch.codec() == ZSTD && self.version < ZSTD_SINCE {
            return Err(Refused::new(ErrorCode::UnsupportedCompressionType, "zstd needs Produce 7"));
        }
        if batch.is_transactional() {
            return Err(Refused::new(ErrorCode::InvalidTxnState, "transactions are not supported"));
        }
        let in_sync_min = number(topic, "min.insync.replicas");
        if self.acks == ACKS_ALL && in_sync_min > 1 && replica.in_sync_replicas().len() < in_sync_min {
            return Err(ErrorCode::NotEnoughReplicas.into());
        }
        add(&self.broker.counters.produced_bytes, batch.bytes().len());
        add(&self.broker.counters.produced_records, batch.header().count.unsigned_abs() as usize);
        add(&replica.traffic().bytes_in, batch.bytes().len());
        add(&replica.traffic().records_in, batch.header().count.unsigned_abs() as usize);
        let append = replica.append(batch);
        Ok((replica, append))
    }
}

/// A numeric config in force. Values were checked when they were set.
fn number(topic: &Topic, name: &str) -> usize {
    topic_config::value(&topic.configs, name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

struct Answer {
    broker: Broker,
    version: i16,
    correlation_id: i32,
    flexible: bool,
}

impl Answer {
    /// Nobody reads an answer; only a closed connection tells the client that something failed.
    async fn silent(&self, topics: Vec<TopicParts>) -> Outcome {
        for part in topics.into_iter().flat_map(|topic| topic.parts) {
            let appended = match part.result {
                Ok((_, append)) => append.await.map_err(|failed| Refused::from(errors::of_append(&failed))),
                Err(refused) => Err(refused),
            };
            if let Err(refused) = appended {
                self.refused(&refused);
                return Outcome::Close("a batch sent with acks=0 was refused");
            }
        }
        Outcome::Silent
    }

    fn refused(&self, refused: &Refused) {
        self.broker.counters.produce_refused(refused.error);
        spans::failed(refused.error);
    }

    async fn write(&self, topics: Vec<TopicParts>, timeout_ms: i32) -> crate::kafka::reply::Reply {
        let deadline = (0..APPEND_DEADLINE_MS).contains(&timeout_ms).then(|| {
            let timeout = Duration::from_millis(timeout_ms.unsigned_abs().into());
            tokio::time::Instant::now() + timeout
        });
        let mut writer = Writer::new(self.correlation_id, self.flexible);
        let mut hinted = Vec::new();
        writer.count(topics.len());
        for TopicParts { key, topic, parts } in topics {
            key.write(&mut writer);
            writer.count(parts.len());
            for part in parts {
                let (result, hint) = self.settle(part.result, part.hint, topic.as_deref(), part.index, deadline).await;
                if let Err(refused) = &result {
                    self.refused(refused);
                }
                write_part(&mut writer, self.version, part.index, result, hint);
                hinted.extend(hint);
            }
            writer.tags();
        }
        if self.version >= 1 {
            writer.i32(0);
        }
        leaders::write_endpoints(&mut writer, &self.broker, &hinted, self.version >= 10);
        writer.finish()
    }

    /// Waits for one partition: its base offset and log start, or why not and where to go.
    async fn settle(
        &self,
        result: Result<(Partition, Append), Refused>,
        hint: Option<Hint>,
        topic: Option<&Topic>,
        index: i32,
        deadline: Option<tokio::time::Instant>,
    ) -> (Result<(i64, i64), Refused>, Option<Hint>) {
        let (replica, append) = match result {
            Ok(submitted) => submitted,
            Err(refused) => return (Err(refused), hint),
        };
        let appended = match deadline {
            None => append.await,
            Some(deadline) => tokio::time::timeout_at(deadline, append).await.unwrap_or(Err(AppendError::Timeout)),
        };
        match appended {
            Ok(appended) => (Ok((appended.base_offset, replica.log_start_offset())), None),
            Err(failed) => {
                let error = errors::of_append(&failed);
                let hint = topic.and_then(|topic| leaders::hint(&self.broker, topic, index, error));
                (Err(Refused::new(error, failed)), hint)
            }
        }
    }
}

fn write_part(writer: &mut Writer, version: i16, index: i32, result: Result<(i64, i64), Refused>, hint: Option<Hint>) {
    let (base_offset, log_start_offset) = *result.as_ref().unwrap_or(&(-1, -1));
    let refused = result.err();
    writer.i32(index);
    writer.i16(refused.as_ref().map_or(NONE, |refused| refused.error.code()));
    writer.i64(base_offset);
    if version >= 2 {
        // No log append time: topics keep the producer's.
        writer.i64(-1);
    }
    if version >= 5 {
        writer.i64(log_start_offset);
    }
    if version >= 8 {
        // Errors of single records.
        writer.count(0);
        writer.nullable_string(refused.and_then(|refused| refused.message).as_deref());
    }
    match hint.filter(|_| version >= 10) {
        Some(hint) => writer.tagged(0, |writer| hint.write(writer)),
        None => writer.tags(),
    }
}

#[cfg(test)]
mod tests;
