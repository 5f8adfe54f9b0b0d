//! ElectLeaders: hands partitions to their preferred replicas now, instead of when the node's own balance comes to it. There are no unclean
//! elections: a majority keeps every acknowledged record, and nobody else may lead.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::stream;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};

use crate::controller::image::{Image, Topic};
use crate::kafka::binding::denied;
use crate::kafka::once::distinct;
use crate::kafka::refusal::Refusal;
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Broker, Session, leaders};

pub const SHAPE: &[Field] = &[
    since(1, Shape::Fixed(1)),
    always(Shape::Array(&[always(Shape::Text), always(Shape::Values(&Shape::Fixed(4)))])),
    always(Shape::Fixed(4)),
];

const PREFERRED: i8 = 0;
/// Leaderships asked for at once.
const ELECTING_MAX: usize = 16;

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let response = ElectLeadersResponse::default();
    if !broker.allows(session, Operation::Alter, ResourceType::Cluster, CLUSTER_NAME) {
        let error = denied(ResourceType::Cluster);
        // Version 0 tells errors of partitions only.
        return if version >= 1 { response.with_error_code(error.code()) } else { response };
    }
    let (image, everything) = (broker.controller.image(), request.topic_partitions.is_none());
    let asked = match &request.topic_partitions {
        None => all(&image),
        Some(topics) => {
            let partitions = topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic.to_string(), *partition)));
            distinct(partitions, Clone::clone)
        }
    };
    let preferred = version == 0 || request.election_type == PREFERRED;
    let elections = asked.into_iter().map(|(topic, partition)| {
        let found = image.topics.get(&topic).cloned();
        async move {
            let result = match found {
                None => Err(Refusal::new(ResponseError::UnknownTopicOrPartition, "no such topic")),
                Some(found) => elect(broker, &found, partition, preferred).await,
            };
            (topic, partition, result)
        }
    });
    let results: Vec<_> = stream::iter(elections).buffered(ELECTING_MAX).collect().await;
    let mut topics: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for (topic, partition, result) in results {
        // Who asks for all wants to hear of those for which there was something to do.
        if everything && result.as_ref().is_err_and(|refusal| refusal.error == ResponseError::ElectionNotNeeded) {
            continue;
        }
        topics.entry(topic).or_default().push(told(partition, result));
    }
    let topic = |(name, partitions)| {
        ReplicaElectionResult::default().with_topic(StrBytes::from_string(name).into()).with_partition_result(partitions)
    };
    response.with_replica_election_results(topics.into_iter().map(topic).collect())
}

fn all(image: &Image) -> Vec<(String, i32)> {
    let partitions = |topic: &Topic| (0i32..).zip(&topic.partitions).map(|(partition, _)| partition).collect::<Vec<_>>();
    image.topics.values().flat_map(|topic| partitions(topic).into_iter().map(|partition| (topic.name.clone(), partition))).collect()
}

fn told(partition: i32, result: Result<(), Refusal>) -> PartitionResult {
    let told = PartitionResult::default().with_partition_id(partition);
    match result {
        Ok(()) => told.with_error_message(None),
        Err(refusal) => told.with_error_code(refusal.code()).with_error_message(refusal.text()),
    }
}

async fn elect(broker: &Broker, topic: &Topic, partition: i32, preferred: bool) -> Result<(), Refusal> {
    let replicas = topic.replicas(partition);
    let first = replicas.and_then(|replicas| replicas.first().copied());
    let first = first.ok_or_else(|| Refusal::new(ResponseError::UnknownTopicOrPartition, "no such partition"))?;
    let group = leaders::group(topic, partition);
    let leader = broker.raft.leader_of(group).map(|(leader, _)| leader);
    match leader {
        Some(leader) if leader == first || !preferred => {
            Err(Refusal::new(ResponseError::ElectionNotNeeded, "the partition has its leader already"))
        }
        None if !preferred => {
            Err(Refusal::new(ResponseError::EligibleLeadersNotAvailable, "only a majority of the replicas can elect a leader"))
        }
        _ if !broker.raft.live_nodes().contains(&first) => {
            Err(Refusal::new(ResponseError::PreferredLeaderNotAvailable, format!("node {first} is not live")))
        }
        _ if broker.raft.ask_to_hand_over(group, first).await => Ok(()),
        _ => Err(Refusal::new(ResponseError::PreferredLeaderNotAvailable, format!("node {first} did not take over in time"))),
    }
}
