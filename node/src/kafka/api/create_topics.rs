//! CreateTopics: topics homed in this region. Each is made or refused for itself; those that are made take writes when the answer comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{BrokerId, CreateTopicsRequest, CreateTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};

use crate::controller::create::NewTopic;
use crate::controller::image::Topic;
use crate::kafka::config_source;
use crate::kafka::once::twice;
use crate::kafka::refusal::Refusal;
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Array(&[
        always(Shape::Text),
        always(Shape::Fixed(4)),
        always(Shape::Fixed(2)),
        always(Shape::Array(&[always(Shape::Fixed(4)), always(Shape::Values(&Shape::Fixed(4)))])),
        always(Shape::Array(&[always(Shape::Text), always(Shape::Text)])),
    ])),
    always(Shape::Fixed(4)),
    always(Shape::Fixed(1)),
];

/// Topics of one request that are made at once.
const CREATING_MAX: usize = 32;
/// Longest wait for partitions to take writes, whatever the client's own patience.
const READY_MAX: Duration = Duration::from_secs(30);
/// "The default", for the number of partitions and of replicas.
const DEFAULT: i32 = -1;

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let anywhere = broker.allows(session, Operation::Create, ResourceType::Cluster, CLUSTER_NAME);
    let patience = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)).min(READY_MAX);
    let (once, twice) = split_duplicates(&request.topics);
    let create = |topic: &CreatableTopic| {
        let allowed = anywhere || broker.allows(session, Operation::Create, ResourceType::Topic, &topic.name);
        let asked = parse(topic).map(|new| NewTopic { validate_only: request.validate_only, ready_within: Some(patience), ..new });
        let name = topic.name.clone();
        async move {
            let created = match (allowed, asked) {
                (false, _) => Err(Refusal::unauthorized(ResponseError::TopicAuthorizationFailed)),
                (true, Err(refusal)) => Err(refusal),
                (true, Ok(new)) => broker.controller.create_topic(&broker.raft, new).await.map_err(Refusal::from),
            };
            told(broker, session, name, created)
        }
    };
    let creating: Vec<_> = once.into_iter().map(create).collect();
    let mut results: Vec<CreatableTopicResult> = stream::iter(creating).buffered(CREATING_MAX).collect().await;
    let duplicate = Refusal::invalid("the request names this topic twice");
    results.extend(twice.into_iter().map(|name| refused(name, &duplicate)));
    CreateTopicsResponse::default().with_topics(results)
}

/// Topics named once, and the names that are there more than once: of those none is made.
fn split_duplicates(topics: &[CreatableTopic]) -> (Vec<&CreatableTopic>, BTreeSet<TopicName>) {
    let twice = twice(topics.iter().map(|topic| topic.name.clone()));
    (topics.iter().filter(|topic| !twice.contains(&topic.name)).collect(), twice)
}

fn parse(topic: &CreatableTopic) -> Result<NewTopic, Refusal> {
    let (partitions, factor) = (topic.num_partitions, topic.replication_factor);
    let new = NewTopic { name: topic.name.to_string(), configs: configs(&topic.configs)?, ..NewTopic::default() };
    if !topic.assignments.is_empty() {
        if partitions != DEFAULT || i32::from(factor) != DEFAULT {
            return Err(Refusal::invalid("with a replica assignment, partitions and replication factor are -1"));
        }
        return Ok(NewTopic { assignment: Some(assignment(&topic.assignments)?), ..new });
    }
    let number = |value: i32, error: ResponseError, what: &str| match value {
        DEFAULT => Ok(None),
        1.. => Ok(usize::try_from(value).ok()),
        _ => Err(Refusal::new(error, format!("{what} is {value}; it is at least 1, or -1 for the default"))),
    };
    let partitions = number(partitions, ResponseError::InvalidPartitions, "the number of partitions")?;
    let replication_factor = number(factor.into(), ResponseError::InvalidReplicationFactor, "the replication factor")?;
    Ok(NewTopic { partitions, replication_factor, ..new })
}

fn configs(configs: &[CreatableTopicConfig]) -> Result<BTreeMap<String, String>, Refusal> {
    let mut set = BTreeMap::new();
    for config in configs {
        let value =
            config.value.as_ref().ok_or_else(|| Refusal::new(ResponseError::InvalidConfig, format!("{} has no value", config.name)))?;
        if set.insert(config.name.to_string(), value.to_string()).is_some() {
            return Err(Refusal::new(ResponseError::InvalidConfig, format!("{} is set twice", config.name)));
        }
    }
    Ok(set)
}

fn assignment(assignments: &[CreatableReplicaAssignment]) -> Result<Vec<Vec<u64>>, Refusal> {
    let wrong = |message: String| Refusal::new(ResponseError::InvalidReplicaAssignment, message);
    let mut by_partition: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    for assigned in assignments {
        let replicas = nodes(&assigned.broker_ids)?;
        if by_partition.insert(assigned.partition_index, replicas).is_some() {
            return Err(wrong(format!("partition {} is assigned twice", assigned.partition_index)));
        }
    }
    if !by_partition.keys().copied().eq((0i32..).take(by_partition.len())) {
        return Err(wrong("partitions are numbered from 0 on, without a gap".to_owned()));
    }
    Ok(by_partition.into_values().collect())
}

/// Node ids of the wire as ours.
pub(super) fn nodes(brokers: &[BrokerId]) -> Result<Vec<u64>, Refusal> {
    let node = |broker: &BrokerId| {
        u64::try_from(broker.0).map_err(|_| Refusal::new(ResponseError::InvalidReplicaAssignment, format!("{} is no node id", broker.0)))
    };
    brokers.iter().map(node).collect()
}

fn told(broker: &Broker, session: &Session, name: TopicName, created: Result<Arc<Topic>, Refusal>) -> CreatableTopicResult {
    let topic = match created {
        Ok(topic) => topic,
        Err(refusal) => return refused(name, &refusal),
    };
    let result = CreatableTopicResult::default().with_name(name).with_topic_id(topic.id).with_error_message(None);
    if !broker.allows(session, Operation::DescribeConfigs, ResourceType::Topic, &topic.name) {
        let denied = ResponseError::TopicAuthorizationFailed.code();
        return result.with_topic_config_error_code(denied).with_num_partitions(-1).with_replication_factor(-1).with_configs(None);
    }
    let configs = config_source::of_topic(&topic).into_iter().map(|config| {
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(config.name))
            .with_value(config.value.map(StrBytes::from_string))
            .with_read_only(config.read_only)
            .with_config_source(config.source)
    });
    result
        .with_num_partitions(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
        .with_replication_factor(topic.partitions.first().map_or(-1, |replicas| i16::try_from(replicas.len()).unwrap_or(i16::MAX)))
        .with_configs(Some(configs.collect()))
}

fn refused(name: TopicName, refusal: &Refusal) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(name)
        .with_error_code(refusal.code())
        .with_error_message(refusal.text())
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_configs(None)
}
