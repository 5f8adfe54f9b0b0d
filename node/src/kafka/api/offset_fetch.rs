//! OffsetFetch: how far groups have come. −1 where nothing was committed. Since version 10 topics are named by their ids.
//! What a request names twice is told once.

use bytes::Bytes;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{GroupId, OffsetFetchRequest, OffsetFetchResponse, TopicName};
use kafka_protocol::protocol::{Decodable, StrBytes};
use meridian_auth::acl::{Operation, ResourceType};
use uuid::Uuid;

use super::heartbeat::may_hold_offsets;
use super::offset_commit::BY_ID;
use crate::groups::Committed;
use crate::kafka::cursor::{Cursor, Cut};
use crate::kafka::errors::{ErrorCode, NONE};
use crate::kafka::once::{Named, distinct, merged};
use crate::kafka::shape::{Field, Shape, always, between, since, until};
use crate::kafka::topic_key::TopicKey;
use crate::kafka::{Asker, Broker, Session};

pub const SHAPE: &[Field] = &[
    until(7, Shape::Text),
    until(7, Shape::Array(&[always(Shape::Text), always(Shape::Values(&Shape::Fixed(4)))])),
    since(
        8,
        Shape::Array(&[
            always(Shape::Text),
            since(9, Shape::Text),
            since(9, Shape::Fixed(4)),
            always(Shape::Array(&[between(8, 9, Shape::Text), since(10, Shape::Fixed(16)), always(Shape::Values(&Shape::Fixed(4)))])),
        ]),
    ),
    since(7, Shape::Fixed(1)),
];

/// First version that asks for several groups.
const BATCHED: i16 = 8;
/// Topics and partitions of one request: what it takes to answer is more than what it takes to ask.
const PARTITIONS_MAX: usize = 200_000;

/// Reads a body of the right shape; the codec crate does not know version 10.
pub fn read(version: i16, body: &Bytes) -> Option<OffsetFetchRequest> {
    if version < BY_ID { OffsetFetchRequest::decode(&mut body.clone(), version).ok() } else { read_by_id(body).ok() }
}

fn read_by_id(body: &[u8]) -> Result<OffsetFetchRequest, Cut> {
    let mut cursor = Cursor::new(body, true);
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let mut request = OffsetFetchRequest::default();
    for _ in 0..cursor.count(1)? {
        let mut group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(cursor.string()?)))
            .with_member_id(cursor.nullable_string()?.map(text))
            .with_member_epoch(cursor.i32()?);
        group.topics = read_topics(&mut cursor)?;
        cursor.tags()?;
        request.groups.push(group);
    }
    request.require_stable = cursor.i8()? != 0;
    cursor.tags()?;
    Ok(request)
}

fn read_topics(cursor: &mut Cursor<'_>) -> Result<Option<Vec<OffsetFetchRequestTopics>>, Cut> {
    let Some(count) = cursor.nullable_count(1)? else { return Ok(None) };
    let mut topics = Vec::new();
    for _ in 0..count {
        let mut topic = OffsetFetchRequestTopics::default().with_topic_id(cursor.uuid()?);
        for _ in 0..cursor.count(4)? {
            topic.partition_indexes.push(cursor.i32()?);
        }
        cursor.tags()?;
        topics.push(topic);
    }
    Ok(Some(topics))
}

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let asker = broker.asker(session);
    if version >= BATCHED {
        let mut groups = Vec::new();
        for group in distinct(request.groups, |group| group.group_id.clone()) {
            groups.push(fetch(broker, &asker, version, group).await);
        }
        return OffsetFetchResponse::default().with_groups(groups);
    }
    // Version 1 has no null: an empty list means nothing.
    let topics = request.topics.map(|topics| {
        let topic = |topic: kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic| {
            OffsetFetchRequestTopics::default().with_name(topic.name).with_partition_indexes(topic.partition_indexes)
        };
        topics.into_iter().map(topic).collect::<Vec<_>>()
    });
    let asked = topics.clone().unwrap_or_default();
    let group = OffsetFetchRequestGroup::default().with_group_id(request.group_id).with_topics(topics);
    let mut found = fetch(broker, &asker, version, group).await;
    if version == 1 && found.error_code != NONE {
        // There is no place for it but at each partition.
        found.topics = asked.iter().map(|topic| refused(topic, found.error_code)).collect();
        found.error_code = NONE;
    }
    OffsetFetchResponse::default().with_error_code(found.error_code).with_topics(found.topics.into_iter().map(before_batches).collect())
}

async fn fetch(broker: &Broker, asker: &Asker<'_>, version: i16, group: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let response = OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
    let wanted = group.topics.as_ref().map_or(0, |topics| topics.iter().map(|topic| topic.partition_indexes.len() + 1).sum());
    let error = if !asker.may(Operation::Describe, ResourceType::Group, &group.group_id) {
        ErrorCode::GroupAuthorizationFailed
    } else if !may_hold_offsets(&group.group_id) {
        ErrorCode::InvalidGroupId
    } else if wanted > PARTITIONS_MAX {
        ErrorCode::InvalidRequest
    } else {
        let found = match group.topics {
            None => all(broker, asker, version, &group.group_id).await,
            Some(topics) => some(broker, asker, version, &group.group_id, topics).await,
        };
        match found {
            Ok(topics) => return response.with_topics(topics),
            Err(error) => error,
        }
    };
    response.with_error_code(error.code())
}

async fn all(broker: &Broker, asker: &Asker<'_>, version: i16, group: &str) -> Result<Vec<OffsetFetchResponseTopics>, ErrorCode> {
    let found = broker.groups.fetch(group.to_owned(), None).await?;
    let seen = found.into_iter().filter(|(topic, _)| asker.may(Operation::Describe, ResourceType::Topic, topic));
    let told = seen.filter_map(|(name, partitions)| {
        let topic = OffsetFetchResponseTopics::default().with_partitions(partitions.into_iter().map(partition).collect());
        if version < BY_ID {
            return Some(topic.with_name(TopicName(StrBytes::from_string(name))));
        }
        // Not shown by an image yet that the coordinator has: the next answer has it.
        Some(topic.with_topic_id(asker.image.topics.get(&name)?.id))
    });
    Ok(told.collect())
}

async fn some(
    broker: &Broker,
    asker: &Asker<'_>,
    version: i16,
    group: &str,
    topics: Vec<OffsetFetchRequestTopics>,
) -> Result<Vec<OffsetFetchResponseTopics>, ErrorCode> {
    // What a topic is called, or why it is not shown.
    let name = |topic: &OffsetFetchRequestTopics| -> Result<String, ErrorCode> {
        if version >= BY_ID {
            return Ok(TopicKey::Id(topic.topic_id).find(asker, Operation::Describe)?.name.clone());
        }
        // A topic that does not exist has no offsets, and that is no error.
        let may = asker.may(Operation::Describe, ResourceType::Topic, &topic.name);
        if may { Ok(topic.name.to_string()) } else { Err(ErrorCode::TopicAuthorizationFailed) }
    };
    let named = once(topics).into_iter().map(|topic| (name(&topic), topic)).collect::<Vec<_>>();
    let wanted = named.iter().filter_map(|(name, topic)| Some((name.clone().ok()?, topic.partition_indexes.clone())));
    // In the order asked.
    let mut found = broker.groups.fetch(group.to_owned(), Some(wanted.collect())).await?.into_iter();
    let told = named.into_iter().map(|(name, topic)| match name {
        Err(error) => refused(&topic, error.code()),
        Ok(_) => {
            let partitions = found.next().map(|(_, partitions)| partitions).unwrap_or_default();
            let response = OffsetFetchResponseTopics::default().with_name(topic.name).with_topic_id(topic.topic_id);
            response.with_partitions(partitions.into_iter().map(partition).collect())
        }
    });
    Ok(told.collect())
}

/// Each topic once, and each of its partitions.
fn once(topics: Vec<OffsetFetchRequestTopics>) -> Vec<OffsetFetchRequestTopics> {
    let topics = topics.into_iter().map(|topic| ((topic.name, topic.topic_id), topic.partition_indexes));
    let topic = |((name, id), partitions): ((TopicName, Uuid), Vec<Named<i32>>)| {
        let indexes = partitions.into_iter().map(|partition| partition.last).collect();
        OffsetFetchRequestTopics::default().with_name(name).with_topic_id(id).with_partition_indexes(indexes)
    };
    merged(topics, |index| *index).into_iter().map(topic).collect()
}

fn partition((number, committed): (i32, Option<Committed>)) -> OffsetFetchResponsePartitions {
    let response = OffsetFetchResponsePartitions::default().with_partition_index(number);
    match committed {
        Some(committed) => response
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(Some(StrBytes::from_string(committed.metadata))),
        None => response.with_committed_offset(-1).with_committed_leader_epoch(-1).with_metadata(Some(StrBytes::default())),
    }
}

fn refused(topic: &OffsetFetchRequestTopics, code: i16) -> OffsetFetchResponseTopics {
    let partitions = topic.partition_indexes.iter().map(|number| partition((*number, None)).with_error_code(code));
    let response = OffsetFetchResponseTopics::default().with_name(topic.name.clone()).with_topic_id(topic.topic_id);
    response.with_partitions(partitions.collect())
}

/// The same, as versions before 8 carry it.
fn before_batches(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    let partitions = topic.partitions.into_iter().map(|partition| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(partition.partition_index)
            .with_committed_offset(partition.committed_offset)
            .with_committed_leader_epoch(partition.committed_leader_epoch)
            .with_metadata(partition.metadata)
            .with_error_code(partition.error_code)
    });
    OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::shape::check;

    #[test]
    fn version_10_names_topics_by_their_ids_and_null_asks_for_all() {
        let topic = [7u8; 16];
        let some = [b"\x02g\0\xff\xff\xff\xff\x02", topic.as_slice(), b"\x03\0\0\0\x01\0\0\0\x02\0\0"].concat();
        let body = [b"\x03".as_slice(), &some, b"\x02h\0\xff\xff\xff\xff\0\0", b"\x01\0"].concat();
        assert_eq!(check(SHAPE, 10, true, &body), Ok(()));
        let request = read(10, &body.clone().into()).expect("a request");
        assert!(request.require_stable);
        let topics = request.groups[0].topics.as_ref().expect("topics");
        assert_eq!((topics[0].topic_id.as_bytes(), &topics[0].partition_indexes), (&topic, &vec![1, 2]));
        assert_eq!((&*request.groups[1].group_id.0, &request.groups[1].topics), ("h", &None));
        for end in 0..body.len() {
            assert!(
                check(SHAPE, 10, true, &body[..end]).is_err() && read(10, &Bytes::copy_from_slice(&body[..end])).is_none(),
                "cut at {end}"
            );
        }
    }
}
