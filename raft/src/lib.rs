//! The durable half of Meridian: one replicated log per partition, inside one region.
//!
//! Data flows one way: [`node::Node`] holds every Raft group of a process; a group's entries are stored by [`log::Log`], which *is* the
//! partition log that Kafka clients read; bytes reach the disk through the group-commit [`writer`] and reach the other replicas through
//! `peer`. Everything that has a clock, a disk, a network or chance in it goes through [`env`].
//!
//! What does not live here: Kafka requests (crate `meridian`), regions and mirrors (`meridian-replication`), permissions (`meridian-auth`).

pub mod batch;
pub mod control;
pub mod env;
pub mod log;
pub mod node;
pub mod partition;
pub mod writer;

use uuid::Uuid;

/// A node's number, unique in its region, fixed for life; also its Kafka broker id.
pub type NodeId = u64;

/// Names one Raft group of a region: a partition of a topic, or the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct GroupId {
    /// The topic's id; nil for the controller.
    pub topic: Uuid,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl GroupId {
    /// The region's metadata group.
    pub const CONTROLLER: GroupId = GroupId { topic: Uuid::nil(), partition: 0 };
}
