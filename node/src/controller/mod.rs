//! The region's metadata: nodes, topics, configs, ACLs. Commands are committed by the controller's Raft group and applied to an immutable
//! [`image::Image`] that every request reads without a lock.

pub mod command;
pub mod image;
pub mod topic_config;

use std::sync::Arc;

use tokio::sync::watch;

use command::{Answer, Command};
use image::Image;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("the region's controller has no leader now; try again")]
    Unavailable,
    #[error("the command was not committed in time; it may yet be applied")]
    Timeout,
}

/// What CreateTopics and `meridian topic create` ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i16,
    /// Explicit replicas per partition; overrides the two counts when not empty.
    pub assignments: Vec<Vec<u64>>,
    pub configs: std::collections::BTreeMap<String, String>,
    /// Check everything, create nothing.
    pub validate_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateTopicError {
    #[error("topic {0} exists already")]
    Exists(String),
    #[error("topic name: {0}")]
    InvalidName(String),
    #[error("partitions: {0}")]
    InvalidPartitions(String),
    #[error("replication factor: {0}")]
    InvalidReplicationFactor(String),
    #[error("replica assignment: {0}")]
    InvalidAssignment(String),
    #[error("config: {0}")]
    InvalidConfig(String),
    #[error("{0}")]
    Unavailable(#[from] SubmitError),
}

/// Handle to the region's metadata. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controller {
    control: meridian_raft::control::Control,
    image: watch::Receiver<Arc<Image>>,
}

impl Controller {
    /// The metadata as last applied on this node.
    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// Fires on every change.
    pub fn watch(&self) -> watch::Receiver<Arc<Image>> {
        self.image.clone()
    }

    /// Commits a command and returns its answer, after this node's own image shows it.
    pub async fn submit(&self, command: Command) -> Result<Answer, SubmitError> {
        let _ = (&self.control, command);
        unimplemented!()
    }

    /// Places and creates a topic: checks name and configs, chooses replicas (round robin over live nodes, leaders spread), submits, waits until
    /// every partition has a leader (at most 5 s; the topic is created even if that takes longer). `partitions` −1 and `replication_factor` −1
    /// mean the defaults (`num.partitions`, min(3, nodes)).
    pub async fn create_topic(&self, request: NewTopic) -> Result<Arc<image::Topic>, CreateTopicError> {
        let _ = request;
        unimplemented!()
    }

    /// The node that leads the controller group, as last heard.
    pub fn leader(&self) -> Option<u64> {
        self.control.leadership().leader
    }
}
