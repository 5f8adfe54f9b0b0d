//! Metadata: the nodes, the topics the caller may see, and who leads what. Topics are never created by asking for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};
use uuid::Uuid;

use crate::controller::image::{Image, Topic};
use crate::controller::topic_name;
use crate::kafka::errors::{ErrorCode, NONE};
use crate::kafka::once::distinct;
use crate::kafka::shape::{Field, Shape, always, between, since};
use crate::kafka::{Asker, Broker, Session, leaders};

pub const SHAPE: &[Field] = &[
    always(Shape::Array(&[since(10, Shape::Fixed(16)), always(Shape::Text)])),
    since(4, Shape::Fixed(1)),
    between(8, 10, Shape::Fixed(1)),
    since(8, Shape::Fixed(1)),
];

/// "Not asked for", of a set of operations.
pub const OPERATIONS_UNASKED: i32 = i32::MIN;
const NO_LEADER: BrokerId = BrokerId(-1);

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: MetadataRequest) -> MetadataResponse {
    // Clients ask the moment their leader dies, perhaps before this node has noticed. Told of the dead one they would ask again a second later.
    broker.raft.sound_out().await;
    let asker = broker.asker(session);
    let live: BTreeSet<u64> = broker.raft.live_nodes().into_iter().collect();
    let view = View { broker, asker: &asker, live: &live, version, operations: request.include_topic_authorized_operations };
    let topics = match request.topics {
        None => view.all(),
        // Version 0 has no null: empty asks for all.
        Some(topics) if version == 0 && topics.is_empty() => view.all(),
        Some(topics) => {
            let topics = distinct(topics, |asked| (asked.topic_id, asked.name.clone()));
            topics.into_iter().map(|asked| view.asked(asked.topic_id, asked.name)).collect()
        }
    };
    let operations = if request.include_cluster_authorized_operations && (8..=10).contains(&version) {
        cluster_operations(&asker)
    } else {
        OPERATIONS_UNASKED
    };
    MetadataResponse::default()
        .with_brokers(brokers(&asker.image, &live))
        .with_cluster_id(if version >= 2 { Some(StrBytes::from_string(broker.cluster_id.to_string())) } else { None })
        .with_controller_id(broker.controller.leader().map_or(NO_LEADER, node_id))
        .with_topics(topics)
        .with_cluster_authorized_operations(operations)
}

pub(super) fn node_id(node: u64) -> BrokerId {
    // The controller registers only ids that fit.
    BrokerId(i32::try_from(node).unwrap_or(-1))
}

pub(super) fn operations(ask: impl Fn(Operation) -> bool, possible: &[Operation]) -> i32 {
    possible.iter().filter(|operation| ask(**operation)).fold(0, |set, operation| set | 1 << operation.code())
}

pub(super) fn cluster_operations(asker: &Asker<'_>) -> i32 {
    use Operation::*;
    const POSSIBLE: &[Operation] = &[Create, Alter, Describe, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite];
    operations(|operation| asker.may(operation, ResourceType::Cluster, CLUSTER_NAME), POSSIBLE)
}

fn topic_operations(asker: &Asker<'_>, name: &str) -> i32 {
    use Operation::*;
    const POSSIBLE: &[Operation] = &[Read, Write, Create, Delete, Alter, Describe, DescribeConfigs, AlterConfigs];
    operations(|operation| asker.may(operation, ResourceType::Topic, name), POSSIBLE)
}

fn brokers(image: &Image, live: &BTreeSet<u64>) -> Vec<MetadataResponseBroker> {
    let live = image.nodes.values().filter(|node| live.contains(&node.id));
    live.map(|node| {
        MetadataResponseBroker::default()
            .with_node_id(node_id(node.id))
            .with_host(StrBytes::from_string(node.host.clone()))
            .with_port(i32::from(node.port))
            .with_rack(node.rack.clone().map(StrBytes::from_string))
    })
    .collect()
}

struct View<'a> {
    broker: &'a Broker,
    asker: &'a Asker<'a>,
    live: &'a BTreeSet<u64>,
    version: i16,
    operations: bool,
}

impl View<'_> {
    fn sees(&self, name: &str) -> bool {
        self.asker.may(Operation::Describe, ResourceType::Topic, name)
    }

    fn all(&self) -> Vec<MetadataResponseTopic> {
        self.asker.image.topics.values().filter(|topic| self.sees(&topic.name)).map(|topic| self.topic(topic)).collect()
    }

    fn asked(&self, id: Uuid, name: Option<TopicName>) -> MetadataResponseTopic {
        if let Some(name) = name.filter(|name| !name.is_empty() || id.is_nil()) {
            return self.named(name);
        }
        match self.asker.image.topics_by_id.get(&id) {
            None => self.refused(ErrorCode::UnknownTopicId, None, id),
            // As in Kafka an id is no secret, but the name is.
            Some(topic) if !self.sees(&topic.name) => self.refused(ErrorCode::TopicAuthorizationFailed, None, id),
            Some(topic) => self.topic(topic),
        }
    }

    fn named(&self, name: TopicName) -> MetadataResponseTopic {
        let error = if !self.sees(&name) {
            ErrorCode::TopicAuthorizationFailed
        } else if let Some(topic) = self.asker.image.topics.get(name.as_str()) {
            return self.topic(topic);
        } else if topic_name::check(&name).is_err() {
            ErrorCode::InvalidTopicException
        } else {
            ErrorCode::UnknownTopicOrPartition
        };
        self.refused(error, Some(name), Uuid::nil())
    }

    fn refused(&self, error: ErrorCode, name: Option<TopicName>, id: Uuid) -> MetadataResponseTopic {
        // Names can be null since version 12 only.
        let name = name.or_else(|| (self.version < 12).then(TopicName::default));
        let id = if self.version >= 10 { id } else { Uuid::nil() };
        MetadataResponseTopic::default().with_error_code(error.code()).with_name(name).with_topic_id(id)
    }

    fn topic(&self, topic: &Arc<Topic>) -> MetadataResponseTopic {
        let operations = if self.operations && self.version >= 8 { topic_operations(self.asker, &topic.name) } else { OPERATIONS_UNASKED };
        let partitions = (0i32..).zip(&topic.partitions).map(|(partition, _)| self.partition(topic, partition));
        MetadataResponseTopic::default()
            .with_name(Some(StrBytes::from_string(topic.name.clone()).into()))
            .with_topic_id(if self.version >= 10 { topic.id } else { Uuid::nil() })
            .with_is_internal(topic.internal && self.version >= 1)
            .with_partitions(partitions.collect())
            .with_topic_authorized_operations(operations)
    }

    fn partition(&self, topic: &Topic, partition: i32) -> MetadataResponsePartition {
        let replicas = &topic.listed(partition);
        let group = leaders::group(topic, partition);
        let leader = self.broker.raft.leader_of(group);
        let leader = leader.filter(|(leader, _)| self.live.contains(leader) && self.broker.raft.reaches(*leader));
        let in_sync = match self.broker.raft.partition(group).filter(|replica| replica.leadership().is_leader) {
            Some(replica) => replica.in_sync_replicas(),
            // Only the leader knows; another says which could be.
            None => replicas.iter().copied().filter(|node| self.live.contains(node)).collect(),
        };
        let offline = replicas.iter().filter(|node| !self.live.contains(node)).map(|node| node_id(*node)).collect();
        MetadataResponsePartition::default()
            .with_error_code(if leader.is_some() { NONE } else { ErrorCode::LeaderNotAvailable.code() })
            .with_partition_index(partition)
            .with_leader_id(leader.map_or(NO_LEADER, |(leader, _)| node_id(leader)))
            .with_leader_epoch(leader.filter(|_| self.version >= 7).map_or(-1, |(_, epoch)| epoch))
            .with_replica_nodes(replicas.iter().map(|node| node_id(*node)).collect())
            .with_isr_nodes(in_sync.into_iter().map(node_id).collect())
            .with_offline_replicas(if self.version >= 5 { offline } else { Vec::new() })
    }
}
