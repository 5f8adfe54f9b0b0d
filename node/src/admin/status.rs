//! `GET /v1/mesh`: what one node knows of its region's topics, mirrors and links. `meridian mesh status` merges the answers of a region's nodes.

use meridian_replication::link::{MirrorStatus, PeerStatus};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NodeStatus {
    pub mesh: String,
    pub region: String,
    pub node_id: u64,
    /// Node that leads the region's controller, as last heard.
    pub controller: Option<u64>,
    pub topics: Vec<TopicStatus>,
    /// Mirrored partitions this node leads.
    pub mirrors: Vec<MirrorStatus>,
    /// Every link of this node.
    pub peers: Vec<PeerStatus>,
    /// Replicas on this node that are damaged and being repaired from its region's others.
    #[serde(default)]
    pub damaged: Vec<DamagedStatus>,
}

/// A replica that neither votes nor serves until it has been repaired.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DamagedStatus {
    pub topic: String,
    pub partition: i32,
    /// What was found.
    pub reason: String,
    /// Index of the next entry that is missing, and of the last that has to be there; None until a leader has said so.
    pub next_index: u64,
    pub target_index: Option<u64>,
    /// Why the repair does not go on just now.
    pub waits_for: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TopicStatus {
    pub name: String,
    pub id: Uuid,
    pub home: String,
    pub mirrors: Vec<String>,
    pub internal: bool,
    pub partitions: Vec<PartitionStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionStatus {
    pub partition: i32,
    pub replicas: Vec<u64>,
    pub leader: Option<u64>,
    pub leader_epoch: i32,
    /// Of this node's replica; None where it holds none.
    pub start_offset: Option<i64>,
    /// First offset not yet committed, as this node's replica knows.
    pub end_offset: Option<i64>,
    pub size_bytes: Option<u64>,
}
