//! The answer to `GET /v1/mesh`, cut down to what the caller may see.

use std::collections::BTreeSet;
use std::net::IpAddr;

use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};
use meridian_auth::principal::Principal;
use meridian_raft::GroupId;
use meridian_raft::repair::DamagedReplica;
use uuid::Uuid;

use super::status::{DamagedStatus, NodeStatus, PartitionStatus, TopicStatus};
use super::view::View;
use crate::controller::image::Topic;

/// Whoever may describe the cluster sees everything; others the topics they may describe, and nothing of the links.
pub fn status(view: &View, principal: &Principal, host: IpAddr) -> NodeStatus {
    let image = view.controller.image();
    let host = host.to_string();
    let may_describe = |resource, name: &str| image.allows(principal, &host, Operation::Describe, resource, name);
    let whole = may_describe(ResourceType::Cluster, CLUSTER_NAME);
    let seen = image.topics.values().filter(|topic| whole || may_describe(ResourceType::Topic, &topic.name));
    let topics: Vec<TopicStatus> = seen.map(|topic| topic_status(view, topic)).collect();
    let ids: BTreeSet<Uuid> = topics.iter().map(|topic| topic.id).collect();
    let (mut mirrors, peers) = view.links.as_ref().map(|links| (links.mirrors(), links.peers())).unwrap_or_default();
    mirrors.retain(|mirror| whole || ids.contains(&mirror.topic));
    NodeStatus {
        mesh: view.mesh.to_string(),
        region: view.region.to_string(),
        node_id: view.node_id,
        controller: view.controller.leader(),
        topics,
        mirrors,
        peers: if whole { peers } else { Vec::new() },
        damaged: damaged(view, &ids),
    }
}

fn damaged(view: &View, seen: &BTreeSet<Uuid>) -> Vec<DamagedStatus> {
    let image = view.controller.image();
    let damaged = view.raft.damaged().into_iter().filter(|damaged| seen.contains(&damaged.id.topic));
    let tell = |damaged: DamagedReplica| DamagedStatus {
        topic: image.topics_by_id.get(&damaged.id.topic).map(|topic| topic.name.clone()).unwrap_or_default(),
        partition: damaged.id.partition,
        reason: damaged.reason,
        next_index: damaged.next_index,
        target_index: damaged.target_index,
        waits_for: damaged.waits_for,
    };
    damaged.map(tell).collect()
}

fn topic_status(view: &View, topic: &Topic) -> TopicStatus {
    let partitions = (0i32..).zip(&topic.partitions).map(|(partition, replicas)| {
        let id = GroupId { topic: topic.id, partition };
        partition_status(view, id, replicas)
    });
    TopicStatus {
        name: topic.name.clone(),
        id: topic.id,
        home: topic.home.clone(),
        mirrors: topic.mirrors.clone(),
        internal: topic.internal,
        partitions: partitions.collect(),
    }
}

fn partition_status(view: &View, id: GroupId, replicas: &[u64]) -> PartitionStatus {
    let leader = view.raft.leader_of(id);
    let here = view.raft.partition(id);
    PartitionStatus {
        partition: id.partition,
        replicas: replicas.to_vec(),
        leader: leader.map(|(node, _)| node),
        leader_epoch: leader.map_or(-1, |(_, epoch)| epoch),
        start_offset: here.as_ref().map(|replica| replica.log_start_offset()),
        end_offset: here.as_ref().map(|replica| replica.high_watermark()),
        size_bytes: here.as_ref().map(|replica| replica.size_bytes()),
    }
}
