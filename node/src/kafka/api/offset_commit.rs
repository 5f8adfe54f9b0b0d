//! OffsetCommit: how far a group has come. Acknowledged when a majority has fsynced it. Since version 10 topics are named by their ids.
//! The last word counts for a partition that a request names twice, as in Kafka.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetCommitResponse};
use kafka_protocol::protocol::{Decodable, StrBytes};
use meridian_auth::acl::{Operation, ResourceType};

use super::heartbeat::may_hold_offsets;
use crate::groups::{Commit, Committed};
use crate::kafka::cursor::{Cursor, Cut};
use crate::kafka::errors::{ErrorCode, NONE};
use crate::kafka::shape::{Field, Shape, always, between, since, until};
use crate::kafka::topic_key::TopicKey;
use crate::kafka::{Asker, Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Text),
    always(Shape::Fixed(4)),
    always(Shape::Text),
    since(7, Shape::Text),
    between(2, 4, Shape::Fixed(8)),
    always(Shape::Array(&[
        until(9, Shape::Text),
        since(10, Shape::Fixed(16)),
        always(Shape::Array(&[always(Shape::Fixed(4)), always(Shape::Fixed(8)), since(6, Shape::Fixed(4)), always(Shape::Text)])),
    ])),
];

/// First version that names topics by their ids.
pub(super) const BY_ID: i16 = 10;
/// `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4096;

/// Reads a body of the right shape; the codec crate does not know version 10.
pub fn read(version: i16, body: &Bytes) -> Option<OffsetCommitRequest> {
    if version < BY_ID { OffsetCommitRequest::decode(&mut body.clone(), version).ok() } else { read_by_id(body).ok() }
}

fn read_by_id(body: &[u8]) -> Result<OffsetCommitRequest, Cut> {
    let mut cursor = Cursor::new(body, true);
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let mut request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(cursor.string()?)))
        .with_generation_id_or_member_epoch(cursor.i32()?)
        .with_member_id(text(cursor.string()?))
        .with_group_instance_id(cursor.nullable_string()?.map(text));
    for _ in 0..cursor.count(1)? {
        let mut topic = OffsetCommitRequestTopic::default().with_topic_id(cursor.uuid()?);
        for _ in 0..cursor.count(1)? {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(cursor.i32()?)
                .with_committed_offset(cursor.i64()?)
                .with_committed_leader_epoch(cursor.i32()?)
                .with_committed_metadata(cursor.nullable_string()?.map(text));
            cursor.tags()?;
            topic.partitions.push(partition);
        }
        cursor.tags()?;
        request.topics.push(topic);
    }
    cursor.tags()?;
    Ok(request)
}

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let asker = broker.asker(session);
    let mut offsets = BTreeMap::new();
    let mut topics = Vec::new();
    if !asker.may(Operation::Read, ResourceType::Group, &request.group_id) {
        topics.extend(request.topics.iter().map(|topic| told(topic, |_| ErrorCode::GroupAuthorizationFailed.code())));
        return OffsetCommitResponse::default().with_topics(topics);
    }
    for topic in &request.topics {
        topics.push(take(&asker, version, topic, &mut offsets));
    }
    if !offsets.is_empty()
        && let Err(error) = commit(broker, version, &request, offsets).await
    {
        let taken = topics.iter_mut().flat_map(|topic| &mut topic.partitions).filter(|partition| partition.error_code == NONE);
        taken.for_each(|partition| partition.error_code = error.code());
    }
    OffsetCommitResponse::default().with_topics(topics)
}

/// A topic's answer, as far as it can be known before the log is asked; what may be committed is added to `offsets`.
fn take(
    asker: &Asker<'_>,
    version: i16,
    topic: &OffsetCommitRequestTopic,
    offsets: &mut BTreeMap<(String, i32), Committed>,
) -> OffsetCommitResponseTopic {
    let key = if version >= BY_ID { TopicKey::Id(topic.topic_id) } else { TopicKey::Name(topic.name.to_string()) };
    let found = match key.find(asker, Operation::Read) {
        Ok(found) => found,
        Err(error) => return told(topic, |_| error.code()),
    };
    told(topic, |partition| {
        let number = partition.partition_index;
        if !usize::try_from(number).is_ok_and(|number| number < found.partitions.len()) {
            return ErrorCode::UnknownTopicOrPartition.code();
        }
        let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
        if metadata.len() > METADATA_BYTES_MAX {
            return ErrorCode::OffsetMetadataTooLarge.code();
        }
        let committed = Committed {
            topic_id: found.id,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: metadata.to_owned(),
            commit_timestamp_ms: 0,
        };
        offsets.insert((found.name.clone(), number), committed);
        NONE
    })
}

fn told(topic: &OffsetCommitRequestTopic, mut code: impl FnMut(&OffsetCommitRequestPartition) -> i16) -> OffsetCommitResponseTopic {
    let partition = |partition: &OffsetCommitRequestPartition| {
        OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index).with_error_code(code(partition))
    };
    let partitions = topic.partitions.iter().map(partition).collect();
    OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_topic_id(topic.topic_id).with_partitions(partitions)
}

async fn commit(
    broker: &Broker,
    version: i16,
    request: &OffsetCommitRequest,
    offsets: BTreeMap<(String, i32), Committed>,
) -> Result<(), ErrorCode> {
    if !may_hold_offsets(&request.group_id) {
        return Err(ErrorCode::InvalidGroupId);
    }
    let commit = Commit {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.as_ref().map(ToString::to_string),
        generation: request.generation_id_or_member_epoch,
        unknown_group: if version >= 9 { ErrorCode::GroupIdNotFound } else { ErrorCode::IllegalGeneration },
        offsets: offsets.into_iter().map(|((topic, partition), committed)| (topic, partition, committed)).collect(),
    };
    broker.groups.commit(request.group_id.to_string(), commit).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::shape::check;

    #[test]
    fn version_10_names_topics_by_their_ids() {
        let topic = [7u8; 16];
        let partition = b"\0\0\0\x01\0\0\0\0\0\0\0\x2a\0\0\0\x03\x05meta\0".as_slice();
        let body = [b"\x02g\0\0\0\x05\x02m\0\x02", topic.as_slice(), b"\x02", partition, b"\0\0"].concat();
        assert_eq!(check(SHAPE, 10, true, &body), Ok(()));
        let request = read(10, &body.clone().into()).expect("a request");
        assert_eq!((&*request.group_id.0, request.generation_id_or_member_epoch, &*request.member_id), ("g", 5, "m"));
        assert_eq!((request.group_instance_id, request.topics[0].topic_id.as_bytes()), (None, &topic));
        let read_partition = &request.topics[0].partitions[0];
        assert_eq!((read_partition.partition_index, read_partition.committed_offset, read_partition.committed_leader_epoch), (1, 42, 3));
        assert_eq!(read_partition.committed_metadata.as_deref(), Some("meta"));
        for end in 0..body.len() {
            assert!(
                check(SHAPE, 10, true, &body[..end]).is_err() && read(10, &Bytes::copy_from_slice(&body[..end])).is_none(),
                "cut at {end}"
            );
        }
    }
}
