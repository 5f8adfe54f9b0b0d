//! Making a topic, and making one larger: defaults, placement, the command, and the wait until it can be used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_raft::GroupId;
use meridian_raft::node::Node;
use tokio::time::Instant;
use uuid::Uuid;

use super::command::{Answer, Command, ConfigChange};
use super::handle::{Controller, SubmitError};
use super::image::{Image, Topic};
use super::{placement, state, topic_config, topic_name};

/// Partitions of a topic whose creator named no number (`num.partitions`).
pub const PARTITIONS_DEFAULT: usize = 1;
/// Replicas of a topic whose creator named no number, where there are as many nodes (`default.replication.factor`).
pub const REPLICAS_DEFAULT: usize = 3;
/// How long a creator who names no time waits until every partition takes writes. The topic exists even if that takes longer.
const READY_DEADLINE: Duration = Duration::from_secs(15);
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
    /// How long to wait until every partition takes writes; None: the default.
    pub ready_within: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateTopicError {
    #[error("topic {0} exists already")]
    Exists(String),
    #[error("topic {0} does not exist")]
    Unknown(String),
    #[error("{0}")]
    Name(#[from] topic_name::TopicNameError),
    #[error("{0}")]
    Partitions(placement::PlacementError),
    #[error("{0}")]
    ReplicationFactor(placement::PlacementError),
    #[error("replica assignment: {0}")]
    Assignment(String),
    #[error("the topic has {held} partitions already; {asked} are not more")]
    Fewer { held: usize, asked: usize },
    #[error("{0}")]
    Config(#[from] topic_config::TopicConfigError),
    #[error("the topic's home is region {home}; ask there, and its mirrors will follow")]
    HomedElsewhere { home: String },
    /// The controller refused what looked possible here.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Unavailable(#[from] SubmitError),
}

impl Controller {
    /// Places and creates a topic homed here, and waits until every partition takes writes.
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
        let replicas = self.replicas(&image, raft, &new)?;
        if new.validate_only {
            let (partitions, internal) = (replicas, topic_name::is_internal(&new.name));
            let (home, configs) = (image.region.clone(), new.configs);
            let (moves, moved) = Default::default();
            return Ok(Arc::new(Topic { name: new.name, id: Uuid::nil(), partitions, configs, home, mirrors, internal, moves, moved }));
        }
        let id = Uuid::new_v4();
        let command = Command::CreateTopic { name: new.name.clone(), id, replicas, configs: new.configs };
        accepted(self.submit(command).await?, &new.name)?;
        // Deleted again already: it was made, and that is what was asked.
        let topic = self.image().topics_by_id.get(&id).cloned().ok_or(CreateTopicError::Exists(new.name))?;
        wait_until_ready(raft, &topic, 0, new.ready_within.unwrap_or(READY_DEADLINE)).await;
        Ok(topic)
    }

    /// Gives a topic homed here `count` partitions in all, and waits until the new ones take writes. `assignment` places the new ones.
    pub async fn grow_topic(
        &self,
        raft: &Node,
        name: &str,
        count: usize,
        assignment: Option<Vec<Vec<u64>>>,
        validate_only: bool,
    ) -> Result<(), CreateTopicError> {
        let image = self.image();
        let topic = image.topics.get(name).ok_or_else(|| CreateTopicError::Unknown(name.to_string()))?;
        if topic.home != image.region {
            return Err(CreateTopicError::HomedElsewhere { home: topic.home.clone() });
        }
        let from = topic.partitions.len();
        if count <= from {
            return Err(CreateTopicError::Fewer { held: from, asked: count });
        }
        if assignment.as_ref().is_some_and(|assignment| assignment.len() != count - from) {
            return Err(CreateTopicError::Assignment(format!("{} partitions are new, and as many are to be placed", count - from)));
        }
        let replicas = match assignment {
            Some(assignment) => assignment,
            None => self.place(&image, raft, count - from, topic.partitions.first().map_or(1, Vec::len))?,
        };
        if count > state::PARTITIONS_MAX {
            return Err(CreateTopicError::Partitions(placement::PlacementError::Partitions { asked: count }));
        }
        possible(&image, &replicas)?;
        if replicas.first().map(Vec::len) != topic.partitions.first().map(Vec::len) {
            return Err(CreateTopicError::Assignment("the new partitions need as many replicas as the first one has".to_string()));
        }
        if validate_only {
            return Ok(());
        }
        accepted(self.submit(Command::GrowTopic { name: name.to_string(), from, replicas }).await?, name)?;
        if let Some(grown) = self.image().topics.get(name) {
            wait_until_ready(raft, grown, from, READY_DEADLINE).await;
        }
        Ok(())
    }

    /// Changes configs of a topic homed here, all or none.
    pub async fn alter_topic(
        &self,
        name: &str,
        changes: BTreeMap<String, ConfigChange>,
        replace: bool,
        validate_only: bool,
    ) -> Result<Answer, SubmitError> {
        // What is refused by the image at hand needs no command.
        match state::altered(&self.image(), name, changes.clone(), replace) {
            Err(refusal) => Ok(refusal),
            Ok(_) if validate_only => Ok(Answer::Done),
            Ok(_) => self.submit(Command::AlterTopicConfigs { name: name.to_string(), changes, replace }).await,
        }
    }

    fn replicas(&self, image: &Image, raft: &Node, new: &NewTopic) -> Result<Vec<Vec<u64>>, CreateTopicError> {
        if let Some(assignment) = &new.assignment {
            return possible(image, assignment).map(|()| assignment.clone());
        }
        let able = image.nodes.len() - image.draining.len();
        let replicas = new.replication_factor.unwrap_or(REPLICAS_DEFAULT.min(able.max(1)));
        self.place(image, raft, new.partitions.unwrap_or(PARTITIONS_DEFAULT), replicas)
    }

    fn place(&self, image: &Image, raft: &Node, partitions: usize, replicas: usize) -> Result<Vec<Vec<u64>>, CreateTopicError> {
        let live = raft.live_nodes();
        let live = image.candidates(&live);
        let start = self.turn(image.topics.values().map(|topic| topic.partitions.len()).sum(), partitions.min(state::PARTITIONS_MAX));
        placement::place(&live, partitions, replicas, start).map_err(|error| match error {
            placement::PlacementError::Partitions { .. } => CreateTopicError::Partitions(error),
            placement::PlacementError::Replicas { .. } => CreateTopicError::ReplicationFactor(error),
        })
    }
}

fn possible(image: &Image, assignment: &[Vec<u64>]) -> Result<(), CreateTopicError> {
    state::check_replicas(image, assignment).map_err(|refusal| match refusal {
        Answer::Invalid { message } => CreateTopicError::Assignment(message),
        other => CreateTopicError::Assignment(format!("{other:?}")),
    })
}

fn accepted(answer: Answer, name: &str) -> Result<(), CreateTopicError> {
    match answer {
        Answer::Done => Ok(()),
        Answer::TopicExists => Err(CreateTopicError::Exists(name.to_string())),
        Answer::UnknownTopic => Err(CreateTopicError::Unknown(name.to_string())),
        Answer::HomedElsewhere { home } => Err(CreateTopicError::HomedElsewhere { home }),
        Answer::Invalid { message } => Err(CreateTopicError::Refused(message)),
        other => Err(CreateTopicError::Refused(format!("{other:?}"))),
    }
}

/// Ready means ready: each partition's leader has committed an entry of its own term, and says so itself.
async fn wait_until_ready(raft: &Node, topic: &Topic, from: usize, within: Duration) {
    let deadline = Instant::now() + within;
    let mut left: Vec<i32> = (from..topic.partitions.len()).filter_map(|partition| i32::try_from(partition).ok()).collect();
    loop {
        // Of those that are not ready one is enough to wait for.
        while left.pop_if(|partition| raft.is_led(GroupId { topic: topic.id, partition: *partition })).is_some() {}
        if left.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            return tracing::warn!(topic = %topic.name, partitions = left.len(), "a new topic's partitions take no writes yet");
        }
        tokio::time::sleep(POLL).await;
    }
}
