//! Making a topic: defaults, placement, the command, and the wait until it can be used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_raft::GroupId;
use meridian_raft::node::Node;
use tokio::time::Instant;
use uuid::Uuid;

use super::command::{Answer, Command};
use super::handle::{Controller, SubmitError};
use super::image::{Image, Topic};
use super::{placement, state, topic_config, topic_name};

/// Partitions of a topic whose creator named no number (`num.partitions`).
pub const PARTITIONS_DEFAULT: usize = 1;
/// Replicas of a topic whose creator named no number, where there are as many nodes (`default.replication.factor`).
pub const REPLICAS_DEFAULT: usize = 3;
/// How long a creator waits for every partition to have a leader. The topic exists even if that takes longer.
const LEADERS_DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// What a creator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewTopic {
    pub name: String,
    /// None: the default.
    pub partitions: Option<usize>,
    /// None: the default.
    pub replication_factor: Option<usize>,
    /// Replicas of each partition, where the creator chose them; the two numbers are then None.
    pub assignment: Option<Vec<Vec<u64>>>,
    pub configs: BTreeMap<String, String>,
    /// Check everything, create nothing.
    pub validate_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateTopicError {
    #[error("topic {0} exists already")]
    Exists(String),
    #[error("{0}")]
    Name(#[from] topic_name::TopicNameError),
    #[error("{0}")]
    Partitions(placement::PlacementError),
    #[error("{0}")]
    ReplicationFactor(placement::PlacementError),
    #[error("replica assignment: {0}")]
    Assignment(String),
    #[error("{0}")]
    Config(#[from] topic_config::TopicConfigError),
    /// The controller refused what looked possible here.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Unavailable(#[from] SubmitError),
}

impl Controller {
    /// Places and creates a topic homed here, and waits until every partition has a leader.
    pub async fn create_topic(&self, raft: &Node, new: NewTopic) -> Result<Arc<Topic>, CreateTopicError> {
        let image = self.image();
        topic_name::check(&new.name)?;
        if image.topics.contains_key(&new.name) {
            return Err(CreateTopicError::Exists(new.name));
        }
        for (name, value) in &new.configs {
            topic_config::check(&image.region, name, value)?;
        }
        let mirrors = topic_config::mirrors(&image.region, &new.configs)?;
        let replicas = replicas(&image, raft, &new)?;
        if new.validate_only {
            let (partitions, internal) = (replicas, topic_name::is_internal(&new.name));
            let (home, configs) = (image.region.clone(), new.configs);
            return Ok(Arc::new(Topic { name: new.name, id: Uuid::nil(), partitions, configs, home, mirrors, internal }));
        }
        let id = Uuid::new_v4();
        let command = Command::CreateTopic { name: new.name.clone(), id, replicas, configs: new.configs };
        match self.submit(command).await? {
            Answer::Done => {}
            Answer::TopicExists => return Err(CreateTopicError::Exists(new.name)),
            Answer::Invalid { message } => return Err(CreateTopicError::Refused(message)),
            other => return Err(CreateTopicError::Refused(format!("{other:?}"))),
        }
        // Deleted again already: it was made, and that is what was asked.
        let topic = self.image().topics_by_id.get(&id).cloned().ok_or(CreateTopicError::Exists(new.name))?;
        wait_for_leaders(raft, &topic).await;
        Ok(topic)
    }
}

fn replicas(image: &Image, raft: &Node, new: &NewTopic) -> Result<Vec<Vec<u64>>, CreateTopicError> {
    if let Some(assignment) = &new.assignment {
        let possible = state::check_replicas(image, assignment);
        return possible.map(|()| assignment.clone()).map_err(|refusal| match refusal {
            Answer::Invalid { message } => CreateTopicError::Assignment(message),
            other => CreateTopicError::Assignment(format!("{other:?}")),
        });
    }
    let live: Vec<u64> = raft.live_nodes().into_iter().filter(|node| image.nodes.contains_key(node)).collect();
    let partitions = new.partitions.unwrap_or(PARTITIONS_DEFAULT);
    let replicas = new.replication_factor.unwrap_or(REPLICAS_DEFAULT.min(image.nodes.len().max(1)));
    let start = image.topics.values().map(|topic| topic.partitions.len()).sum();
    placement::place(&live, partitions, replicas, start).map_err(|error| match error {
        placement::PlacementError::Partitions { .. } => CreateTopicError::Partitions(error),
        placement::PlacementError::Replicas { .. } => CreateTopicError::ReplicationFactor(error),
    })
}

async fn wait_for_leaders(raft: &Node, topic: &Topic) {
    let deadline = Instant::now() + LEADERS_DEADLINE;
    let led = |partition: usize| {
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        raft.leader_of(GroupId { topic: topic.id, partition }).is_some()
    };
    while !(0..topic.partitions.len()).all(led) && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
}
