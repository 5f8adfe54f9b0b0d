//! ListOffsets: a partition's first and last offset, and the offset at a time. Only committed records are seen.
//! A partition that a request names twice is refused, once, as in Kafka.

use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse, TopicName};
use meridian_auth::acl::{Operation, ResourceType};
use meridian_raft::partition::{OffsetAt, Partition, ReadError};

use crate::kafka::errors::{self, ErrorCode};
use crate::kafka::once::{Named, merged};
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Asker, Broker, Session, leaders};

pub const SHAPE: &[Field] = &[
    always(Shape::Fixed(4)),
    since(2, Shape::Fixed(1)),
    always(Shape::Array(&[
        always(Shape::Text),
        always(Shape::Array(&[always(Shape::Fixed(4)), since(4, Shape::Fixed(4)), always(Shape::Fixed(8))])),
    ])),
    // How long a broker may ask its remote storage.
    since(10, Shape::Fixed(4)),
];

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
/// Without remote storage, all that is there is local.
const EARLIEST_LOCAL: i64 = -4;
/// Without remote storage there is no such offset.
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;
const UNKNOWN: i64 = -1;

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let asker = broker.asker(session);
    let mut topics = Vec::with_capacity(request.topics.len());
    let asked = request.topics.into_iter().map(|topic| (topic.name, topic.partitions));
    for (name, partitions) in merged(asked, |partition| partition.partition_index) {
        topics.push(of_topic(broker, &asker, version, name, partitions).await);
    }
    ListOffsetsResponse::default().with_topics(topics)
}

async fn of_topic(
    broker: &Broker,
    asker: &Asker<'_>,
    version: i16,
    name: TopicName,
    asked: Vec<Named<ListOffsetsPartition>>,
) -> ListOffsetsTopicResponse {
    let found = if asker.may(Operation::Describe, ResourceType::Topic, &name) {
        asker.image.topics.get(name.as_str()).ok_or(ErrorCode::UnknownTopicOrPartition)
    } else {
        Err(ErrorCode::TopicAuthorizationFailed)
    };
    let mut partitions = Vec::with_capacity(asked.len());
    for Named { last: partition, twice } in asked {
        let epoch = if version >= 4 { partition.current_leader_epoch } else { -1 };
        let led = found.and_then(|topic| leaders::led(broker, topic, partition.partition_index, epoch));
        let offset = match led {
            Ok(_) if twice => Err(ErrorCode::InvalidRequest),
            Ok(replica) => find(&replica, version, partition.timestamp).await,
            Err(error) => Err(error),
        };
        partitions.push(respond(&partition, version, offset));
    }
    ListOffsetsTopicResponse::default().with_name(name).with_partitions(partitions)
}

fn respond(asked: &ListOffsetsPartition, version: i16, offset: Result<Option<OffsetAt>, ErrorCode>) -> ListOffsetsPartitionResponse {
    let response = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
    match offset {
        Err(error) => response.with_error_code(error.code()).with_offset(UNKNOWN).with_timestamp(UNKNOWN),
        Ok(found) => {
            let found = found.unwrap_or(OffsetAt { offset: UNKNOWN, timestamp_ms: UNKNOWN, leader_epoch: -1 });
            let epoch = if version >= 4 { found.leader_epoch } else { -1 };
            response.with_offset(found.offset).with_timestamp(found.timestamp_ms).with_leader_epoch(epoch)
        }
    }
}

/// None where no record is meant.
async fn find(replica: &Partition, version: i16, timestamp: i64) -> Result<Option<OffsetAt>, ErrorCode> {
    // The end of a log has the epoch of its leader.
    let end = |offset| Some(OffsetAt { offset, timestamp_ms: UNKNOWN, leader_epoch: replica.leadership().epoch });
    let unreadable = |error: ReadError| errors::of_read(&error);
    match timestamp {
        LATEST => Ok(end(replica.high_watermark())),
        EARLIEST => Ok(start(replica)),
        EARLIEST_LOCAL if version >= 8 => Ok(start(replica)),
        MAX_TIMESTAMP if version >= 7 => replica.offset_of_max_timestamp().await.map_err(unreadable),
        LATEST_TIERED if version >= 9 => Ok(None),
        EARLIEST_PENDING_UPLOAD if version >= 11 => Ok(None),
        timestamp if timestamp >= 0 => replica.offset_for_timestamp(timestamp).await.map_err(unreadable),
        _ => Err(ErrorCode::UnsupportedVersion),
    }
}

fn start(replica: &Partition) -> Option<OffsetAt> {
    // The epoch of what is kept longest is not looked up; "unknown" is what a client does not build on.
    Some(OffsetAt { offset: replica.log_start_offset(), timestamp_ms: UNKNOWN, leader_epoch: -1 })
}
