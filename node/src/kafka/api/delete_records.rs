//! DeleteRecords: a partition begins at a later offset from now on. Asked of the partition's leader, at the topic's home. The last
//! word counts for a partition that a request names twice, as in Kafka.

use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse, TopicName};
use meridian_auth::acl::Operation;

use crate::controller::image::Topic;
use crate::kafka::errors::{self, ErrorCode};
use crate::kafka::once::{Named, merged};
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::topic_key::TopicKey;
use crate::kafka::{Asker, Broker, Session, leaders};

pub const SHAPE: &[Field] = &[
    always(Shape::Array(&[always(Shape::Text), always(Shape::Array(&[always(Shape::Fixed(4)), always(Shape::Fixed(8))]))])),
    always(Shape::Fixed(4)),
];

/// All that is committed, whatever its offset.
const HIGH_WATERMARK: i64 = -1;
const UNKNOWN: i64 = -1;
/// However long the client would wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let asker = broker.asker(session);
    let timeout = Duration::from_millis(request.timeout_ms.max(0).unsigned_abs().into()).min(TIMEOUT_MAX);
    let asked = merged(request.topics.into_iter().map(|topic| (topic.name, topic.partitions)), |partition| partition.partition_index);
    let topics = join_all(asked.into_iter().map(|(name, partitions)| of_topic(broker, &asker, timeout, name, partitions))).await;
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn of_topic(
    broker: &Broker,
    asker: &Asker<'_>,
    timeout: Duration,
    name: TopicName,
    asked: Vec<Named<DeleteRecordsPartition>>,
) -> DeleteRecordsTopicResult {
    let found = TopicKey::Name(name.to_string()).find(asker, Operation::Delete).and_then(|topic| {
        if topic.internal {
            // Offsets that groups committed would be gone.
            Err(ErrorCode::InvalidTopicException)
        } else if topic.home != asker.image.region {
            // A mirror begins where its home does.
            Err(ErrorCode::PolicyViolation)
        } else {
            Ok(topic)
        }
    });
    let partitions = asked.iter().map(|Named { last: partition, .. }| {
        let found = found.clone();
        async move {
            let deleted = match found {
                Ok(topic) => delete(broker, &topic, partition, timeout).await,
                Err(error) => Err(error),
            };
            DeleteRecordsPartitionResult::default()
                .with_partition_index(partition.partition_index)
                .with_low_watermark(*deleted.as_ref().unwrap_or(&UNKNOWN))
                .with_error_code(errors::code_of(&deleted))
        }
    });
    DeleteRecordsTopicResult::default().with_partitions(join_all(partitions).await).with_name(name)
}

async fn delete(broker: &Broker, topic: &Topic, asked: &DeleteRecordsPartition, timeout: Duration) -> Result<i64, ErrorCode> {
    let replica = leaders::led(broker, topic, asked.partition_index, -1)?;
    let before = (asked.offset != HIGH_WATERMARK).then_some(asked.offset);
    match tokio::time::timeout(timeout, replica.delete_records(before)).await {
        Ok(deleted) => deleted.map_err(|error| errors::of_delete_records(&error)),
        Err(_) => Err(ErrorCode::RequestTimedOut),
    }
}
