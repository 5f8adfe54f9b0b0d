//! The durable half of Meridian: the log of one partition, the Raft group around it, and the nodes that keep them.
//!
//! A [`log::Log`] stores entries in checksummed frames; its bytes reach the disk through the group commit of a [`writer::Writer`], one per
//! data folder. A [`node::Node`] runs the Raft groups of one process: [`partition::Partition`] is a client's way into one of them,
//! [`control::Control`] the host's way into the group of commands. Batches are Kafka's own ([`batch`]), stored as they came. Clock, disk, network and chance are reached through [`env`] only.
//!
//! What does not live here: Kafka requests and the command line (crate `meridian`), permissions (`meridian-auth`).

pub mod batch;
mod consensus;
pub mod control;
pub mod env;
mod group;
pub mod log;
pub mod node;
pub mod partition;
mod peer;
pub mod repair;
mod space;
pub mod writer;

pub use node::{SCRUB_BYTES_PER_S_DEFAULT, SCRUB_PAUSE_DEFAULT};
pub use peer::throttle::CATCH_UP_BYTES_PER_S_DEFAULT;
pub use repair::REPAIR_BYTES_PER_S_DEFAULT;

/// Number of a node within its region, from 1.
pub type NodeId = u64;

use uuid::Uuid;

/// Names one log of a region: a partition of a topic, or the controller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct GroupId {
    /// The topic's id; nil for the controller.
    pub topic: Uuid,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl GroupId {
    /// The region's metadata.
    pub const CONTROLLER: GroupId = GroupId { topic: Uuid::nil(), partition: 0 };
}
