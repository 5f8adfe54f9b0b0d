//! OffsetForLeaderEpoch: where an epoch ended, so that a client notices what was truncated under it.

use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};

use crate::kafka::errors::ErrorCode;
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Asker, Broker, Session, leaders};

pub const SHAPE: &[Field] = &[
    since(3, Shape::Fixed(4)),
    always(Shape::Array(&[
        always(Shape::Text),
        always(Shape::Array(&[always(Shape::Fixed(4)), always(Shape::Fixed(4)), always(Shape::Fixed(4))])),
    ])),
];

const UNKNOWN_EPOCH: i32 = -1;
const UNKNOWN_OFFSET: i64 = -1;

pub async fn handle(
    broker: &Broker,
    session: &Session,
    _version: i16,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let asker = broker.asker(session);
    let everywhere = asker.may(Operation::ClusterAction, ResourceType::Cluster, CLUSTER_NAME);
    let topics = request.topics.into_iter().map(|topic| of_topic(broker, &asker, everywhere, topic));
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn of_topic(broker: &Broker, asker: &Asker<'_>, everywhere: bool, asked: OffsetForLeaderTopic) -> OffsetForLeaderTopicResult {
    let found = if everywhere || asker.may(Operation::Describe, ResourceType::Topic, &asked.topic) {
        asker.image.topics.get(asked.topic.as_str()).ok_or(ErrorCode::UnknownTopicOrPartition)
    } else {
        Err(ErrorCode::TopicAuthorizationFailed)
    };
    let of_partition = |asked: &OffsetForLeaderPartition| {
        let response = EpochEndOffset::default().with_partition(asked.partition);
        let unknown = response.clone().with_leader_epoch(UNKNOWN_EPOCH).with_end_offset(UNKNOWN_OFFSET);
        match found.and_then(|topic| leaders::led(broker, topic, asked.partition, asked.current_leader_epoch)) {
            Err(error) => unknown.with_error_code(error.code()),
            Ok(replica) if asked.leader_epoch == replica.leadership().epoch => {
                response.with_leader_epoch(asked.leader_epoch).with_end_offset(replica.high_watermark())
            }
            Ok(replica) => match replica.end_offset_for_epoch(asked.leader_epoch) {
                Some((epoch, end)) if asked.leader_epoch < replica.leadership().epoch => {
                    response.with_leader_epoch(epoch).with_end_offset(end)
                }
                _ => unknown,
            },
        }
    };
    let partitions = asked.partitions.iter().map(of_partition).collect();
    OffsetForLeaderTopicResult::default().with_topic(asked.topic).with_partitions(partitions)
}
