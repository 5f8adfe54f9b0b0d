//! CreatePartitions: makes topics larger. What is there stays where it is, and so does every record.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use meridian_auth::acl::{Operation, ResourceType};

use super::create_topics::nodes;
use crate::kafka::once::twice;
use crate::kafka::refusal::Refusal;
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Array(&[always(Shape::Text), always(Shape::Fixed(4)), always(Shape::Array(&[always(Shape::Values(&Shape::Fixed(4)))]))])),
    always(Shape::Fixed(4)),
    always(Shape::Fixed(1)),
];

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let twice = twice(request.topics.iter().map(|topic| topic.name.clone()));
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let grown = if twice.contains(&topic.name) {
            Err(Refusal::invalid("the request names this topic twice"))
        } else if broker.allows(session, Operation::Alter, ResourceType::Topic, &topic.name) {
            grow(broker, &topic, request.validate_only).await
        } else {
            Err(Refusal::unauthorized(ResponseError::TopicAuthorizationFailed))
        };
        let result = CreatePartitionsTopicResult::default().with_name(topic.name);
        results.push(match grown {
            Ok(()) => result.with_error_message(None),
            Err(refusal) => result.with_error_code(refusal.code()).with_error_message(refusal.text()),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

async fn grow(broker: &Broker, topic: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refusal> {
    let count = usize::try_from(topic.count)
        .map_err(|_| Refusal::new(ResponseError::InvalidPartitions, format!("a topic cannot have {} partitions", topic.count)))?;
    let assignment = topic.assignments.as_ref().map(|assignments| assignments.iter().map(|assigned| nodes(&assigned.broker_ids)).collect());
    Ok(broker.controller.grow_topic(&broker.raft, &topic.name, count, assignment.transpose()?, validate_only).await?)
}
