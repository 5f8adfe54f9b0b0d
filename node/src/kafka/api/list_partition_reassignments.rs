//! ListPartitionReassignments: which partitions move, with the nodes they go to and those they leave (KIP-455).

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::list_partition_reassignments_response::{OngoingPartitionReassignment, OngoingTopicReassignment};
use kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};

use super::metadata::node_id;
use crate::controller::image::{Image, Move, Topic};
use crate::kafka::binding::denied;
use crate::kafka::refusal::Refusal;
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] =
    &[always(Shape::Fixed(4)), always(Shape::Array(&[always(Shape::Text), always(Shape::Values(&Shape::Fixed(4)))]))];

pub async fn handle(
    broker: &Broker,
    session: &Session,
    _version: i16,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let response = ListPartitionReassignmentsResponse::default();
    if !broker.allows(session, Operation::Describe, ResourceType::Cluster, CLUSTER_NAME) {
        let refusal = Refusal::unauthorized(denied(ResourceType::Cluster));
        return response.with_error_code(refusal.code()).with_error_message(refusal.text());
    }
    response.with_error_message(None).with_topics(list(&broker.controller.image(), request.topics.as_deref()))
}

fn list(image: &Image, asked: Option<&[ListPartitionReassignmentsTopics]>) -> Vec<OngoingTopicReassignment> {
    let Some(asked) = asked else { return image.topics.values().filter_map(|topic| told(topic, |_| true)).collect() };
    let mut wanted: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    for topic in asked {
        wanted.entry(topic.name.as_str()).or_default().extend(&topic.partition_indexes);
    }
    let found = wanted.iter().filter_map(|(name, wanted)| Some((image.topics.get(*name)?, wanted)));
    found.filter_map(|(topic, wanted)| told(topic, |partition| wanted.contains(&partition))).collect()
}

fn told(topic: &Topic, is_asked: impl Fn(i32) -> bool) -> Option<OngoingTopicReassignment> {
    let moving = topic.moves.iter().filter(|(partition, _)| is_asked(**partition));
    let partitions: Vec<_> = moving.map(|(partition, under_way)| ongoing(topic, *partition, under_way)).collect();
    let name = StrBytes::from_string(topic.name.clone()).into();
    (!partitions.is_empty()).then(|| OngoingTopicReassignment::default().with_name(name).with_partitions(partitions))
}

/// As Kafka tells it: the replicas are those to be, and behind them those that go.
fn ongoing(topic: &Topic, partition: i32, under_way: &Move) -> OngoingPartitionReassignment {
    let held: BTreeSet<u64> = topic.replicas(partition).into_iter().flatten().copied().collect();
    let adding = under_way.target.iter().filter(|node| !held.contains(node));
    let removing: Vec<u64> = under_way.hosts.iter().filter(|node| !under_way.target.contains(node)).copied().collect();
    let replicas = topic.listed(partition).into_iter().map(node_id);
    OngoingPartitionReassignment::default()
        .with_partition_index(partition)
        .with_replicas(replicas.collect())
        .with_adding_replicas(adding.map(|node| node_id(*node)).collect())
        .with_removing_replicas(removing.iter().map(|node| node_id(*node)).collect())
}
