//! DescribeLogDirs: this node's data folder, what is free on its disk, and how large each replica in it is. A node has one folder.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};
use meridian_raft::partition::Partition;

use crate::kafka::binding::denied;
use crate::kafka::errors::{ErrorCode, NONE};
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[always(Shape::Array(&[always(Shape::Text), always(Shape::Values(&Shape::Fixed(4)))]))];

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let response = DescribeLogDirsResponse::default();
    if !broker.allows(session, Operation::Describe, ResourceType::Cluster, CLUSTER_NAME) {
        // Older versions tell errors of folders only.
        return if version >= 3 { response.with_error_code(denied(ResourceType::Cluster).code()) } else { response };
    }
    let image = broker.controller.image();
    let wanted: Option<BTreeSet<(&str, i32)>> = request.topics.as_ref().map(|topics| {
        topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic.as_str(), *partition))).collect()
    });
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for replica in broker.raft.partitions() {
        let id = replica.id();
        let Some(topic) = image.topics_by_id.get(&id.topic) else { continue };
        if wanted.as_ref().is_none_or(|wanted| wanted.contains(&(topic.name.as_str(), id.partition))) {
            topics.entry(topic.name.clone()).or_default().push(told(&replica));
        }
    }
    let topic =
        |(name, partitions)| DescribeLogDirsTopic::default().with_name(StrBytes::from_string(name).into()).with_partitions(partitions);
    let folder = DescribeLogDirsResult::default()
        .with_error_code(if broker.raft.failure().is_some() { ErrorCode::KafkaStorageError.code() } else { NONE })
        .with_log_dir(StrBytes::from_string(broker.raft.data_dir().display().to_string()))
        .with_topics(topics.into_iter().map(topic).collect());
    response.with_results(vec![with_space(broker, version, folder)])
}

fn told(replica: &Partition) -> DescribeLogDirsPartition {
    DescribeLogDirsPartition::default()
        .with_partition_index(replica.id().partition)
        .with_partition_size(i64::try_from(replica.size_bytes()).unwrap_or(i64::MAX))
}

/// Of the disk as a whole (KIP-827).
fn with_space(broker: &Broker, version: i16, folder: DescribeLogDirsResult) -> DescribeLogDirsResult {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    match broker.env.disk.space(broker.raft.data_dir()) {
        Ok(Some(space)) if version >= 4 => folder.with_total_bytes(bytes(space.total_bytes)).with_usable_bytes(bytes(space.free_bytes)),
        _ => folder,
    }
}
