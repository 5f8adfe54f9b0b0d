//! OffsetDelete: takes back what a group has committed for partitions that none of its members consumes.

use kafka_protocol::messages::offset_delete_request::OffsetDeleteRequestTopic;
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use meridian_auth::acl::{Operation, ResourceType};

use crate::kafka::errors::{ErrorCode, NONE};
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::topic_key::TopicKey;
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] =
    &[always(Shape::Text), always(Shape::Array(&[always(Shape::Text), always(Shape::Array(&[always(Shape::Fixed(4))]))]))];

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let asker = broker.asker(session);
    if !asker.may(Operation::Delete, ResourceType::Group, &request.group_id) {
        return OffsetDeleteResponse::default().with_error_code(ErrorCode::GroupAuthorizationFailed.code());
    }
    let allowed = |topic: &OffsetDeleteRequestTopic| {
        let found = TopicKey::Name(topic.name.to_string()).find(&asker, Operation::Read);
        found.map(|found| (found.name.clone(), topic.partitions.iter().map(|partition| partition.partition_index).collect::<Vec<_>>()))
    };
    let answers = request.topics.iter().map(allowed).collect::<Vec<_>>();
    let wanted = answers.iter().flatten().cloned().collect();
    let consumed = match broker.groups.delete_offsets(request.group_id.to_string(), wanted).await {
        Ok(consumed) => consumed,
        Err(error) => return OffsetDeleteResponse::default().with_error_code(error.code()),
    };
    let topics = request.topics.into_iter().zip(answers).map(|(topic, answer)| {
        let code = match answer {
            Err(error) => error.code(),
            Ok((name, _)) if consumed.contains(&name) => ErrorCode::GroupSubscribedToTopic.code(),
            Ok(_) => NONE,
        };
        let told = |partition: i32| OffsetDeleteResponsePartition::default().with_partition_index(partition).with_error_code(code);
        let partitions = topic.partitions.iter().map(|partition| told(partition.partition_index)).collect();
        OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
