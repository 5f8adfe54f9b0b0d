//! AlterPartitionReassignments: tells partitions which nodes shall hold them, or to stay where they are after all (KIP-455).

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::alter_partition_reassignments_response::{ReassignablePartitionResponse, ReassignableTopicResponse};
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse};
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};

use super::create_topics::nodes;
use crate::controller::command::{Answer, Command, MoveRefusal, PartitionMove};
use crate::controller::image::Image;
use crate::kafka::binding::denied;
use crate::kafka::refusal::{Refusal, of_answer};
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Fixed(4)),
    since(1, Shape::Fixed(1)),
    always(Shape::Array(&[always(Shape::Text), always(Shape::Array(&[always(Shape::Fixed(4)), always(Shape::Values(&Shape::Fixed(4)))]))])),
];

pub async fn handle(
    broker: &Broker,
    session: &Session,
    version: i16,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    // Version 0 has no such field, and always allowed it.
    let may_resize = version < 1 || request.allow_replication_factor_change;
    let response = AlterPartitionReassignmentsResponse::default().with_allow_replication_factor_change(may_resize);
    if !broker.allows(session, Operation::Alter, ResourceType::Cluster, CLUSTER_NAME) {
        let refusal = Refusal::unauthorized(denied(ResourceType::Cluster));
        return response.with_error_code(refusal.code()).with_error_message(refusal.text());
    }
    match alter(broker, &request.topics, may_resize).await {
        Ok(topics) => response.with_error_message(None).with_responses(topics),
        Err(refusal) => response.with_error_code(refusal.code()).with_error_message(refusal.text()),
    }
}

/// Partitions that can be told to move go into one command; the others are refused here.
async fn alter(broker: &Broker, topics: &[ReassignableTopic], may_resize: bool) -> Result<Vec<ReassignableTopicResponse>, Refusal> {
    let image = broker.controller.image();
    let mut moves = Vec::new();
    let mut outcomes: BTreeMap<(usize, usize), Refusal> = BTreeMap::new();
    let mut asked = Vec::new();
    for (at, topic) in topics.iter().enumerate() {
        for (number, partition) in topic.partitions.iter().enumerate() {
            match wanted(&image, topic, partition, may_resize) {
                Ok(wanted) => {
                    moves.push(wanted);
                    asked.push((at, number));
                }
                Err(refusal) => drop(outcomes.insert((at, number), refusal)),
            }
        }
    }
    if !moves.is_empty() {
        let answer = broker.controller.submit(Command::MovePartitions { moves }).await?;
        if let Answer::Moves { refusals } = of_answer(answer, ResponseError::InvalidRequest)? {
            let refused = asked.into_iter().zip(refusals).filter_map(|(place, refusal)| Some((place, told(refusal?))));
            outcomes.extend(refused);
        }
    }
    let partition = |at, number, asked: &ReassignablePartition| {
        let response = ReassignablePartitionResponse::default().with_partition_index(asked.partition_index);
        match outcomes.get(&(at, number)) {
            None => response.with_error_message(None),
            Some(refusal) => response.with_error_code(refusal.code()).with_error_message(refusal.text()),
        }
    };
    let topic = |(at, topic): (usize, &ReassignableTopic)| {
        let partitions = topic.partitions.iter().enumerate().map(|(number, asked)| partition(at, number, asked));
        ReassignableTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    };
    Ok(topics.iter().enumerate().map(topic).collect())
}

fn wanted(image: &Image, topic: &ReassignableTopic, asked: &ReassignablePartition, may_resize: bool) -> Result<PartitionMove, Refusal> {
    let (partition, unknown) = (asked.partition_index, || told(MoveRefusal::UnknownPartition));
    let held = image.topics.get(topic.name.as_str()).ok_or_else(unknown)?;
    let replicas = held.replicas(partition).ok_or_else(unknown)?;
    let target = asked.replicas.as_ref().map(|replicas| nodes(replicas)).transpose()?;
    if let Some(target) = target.as_ref().filter(|target| !may_resize && target.len() != replicas.len()) {
        let message = format!("the partition has {} replicas, and {} are not as many", replicas.len(), target.len());
        return Err(Refusal::new(ResponseError::InvalidReplicationFactor, message));
    }
    Ok(PartitionMove { topic: held.id, partition, target })
}

fn told(refusal: MoveRefusal) -> Refusal {
    match refusal {
        MoveRefusal::UnknownPartition => Refusal::new(ResponseError::UnknownTopicOrPartition, "no such partition"),
        MoveRefusal::NothingToCancel => Refusal::new(ResponseError::NoReassignmentInProgress, "the partition does not move"),
        MoveRefusal::Impossible { message } => Refusal::new(ResponseError::InvalidReplicaAssignment, message),
    }
}
