//! Consumer groups: which node coordinates which group, and the coordinator's state, kept in the internal topic `__consumer_offsets`.
//!
//! A group belongs to the partition that the hash of its id names, and is coordinated by that partition's leader. [`group`] is the classic
//! protocol's state machine, [`coordinator`] the groups of one partition, [`leader`] what makes and drops coordinators, [`record`] what they
//! write. A commit is acknowledged when a majority has fsynced it; a group's new generation likewise before anyone gets an assignment of it.
//!
//! The log is kept as short as what lives in it: a coordinator writes that anew at the log's end, and lets go of what lies before.
//!
//! Not here: KIP-848 groups, share groups, transactions.

mod coordinator;
mod group;
mod leader;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use meridian_raft::env::Env;
use meridian_raft::node::Node;
use meridian_raft::{GroupId, NodeId};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::controller::create::{CreateTopicError, NewTopic};
use crate::controller::handle::Controller;
use crate::controller::image::Topic;

pub use coordinator::{Commit, Coordinator, Description, Found, Overview, Reply, Wanted};
pub use group::{
    Join, JoinAnswer, JoinRefused, Joined, MEMBER_METADATA_BYTES_MAX, MemberDescription, PROTOCOLS_MAX, State, Sync, SyncAnswer, Synced,
};
pub use record::Committed;

/// Where groups are kept.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Its partitions, when this region makes it: enough to spread groups over a region's nodes, few enough to lead all of them on one.
const OFFSETS_PARTITIONS: usize = 16;

/// Bytes of its segments: each partition reserves one on every replica.
const OFFSETS_SEGMENT_BYTES: usize = 32 << 20;

/// How long whoever asks first waits for the topic; clients ask again.
const FIND_PATIENCE: Duration = Duration::from_secs(3);

/// What is to be done with a coordinator, by the task that owns it.
type Job = Box<dyn FnOnce(&mut Coordinator) + Send>;

/// A partition that this node leads.
enum Shard {
    Loading,
    Serving(mpsc::Sender<Job>),
}

/// Those of this node, by number.
#[derive(Default)]
struct Shards(Mutex<BTreeMap<i32, Shard>>);

impl Shards {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Shard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn put(&self, number: i32, shard: Shard) {
        self.lock().insert(number, shard);
    }
    fn remove(&self, number: i32) {
        self.lock().remove(&number);
    }
    fn sender(&self, number: i32) -> Result<mpsc::Sender<Job>, ResponseError> {
        match self.lock().get(&number) {
            Some(Shard::Serving(sender)) => Ok(sender.clone()),
            Some(Shard::Loading) => Err(ResponseError::CoordinatorLoadInProgress),
            None => Err(ResponseError::NotCoordinator),
        }
    }
}

/// Handle to this node's share of the region's groups. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Node,
    controller: Controller,
    shards: Arc<Shards>,
    /// One attempt at a time to make the topic.
    creating: tokio::sync::Mutex<()>,
    task: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").field("led", &self.inner.shards.lock().len()).finish_non_exhaustive()
    }
}

impl Groups {
    /// Watches the partitions of `__consumer_offsets` that this node leads: loads their groups on gain, forgets them on loss.
    pub fn start(env: Env, raft: Node, controller: Controller) -> Groups {
        let shards = Arc::<Shards>::default();
        let task = tokio::spawn(leader::follow(env, raft.clone(), controller.clone(), shards.clone())).abort_handle();
        Groups { inner: Arc::new(Inner { raft, controller, shards, creating: tokio::sync::Mutex::default(), task }) }
    }

    /// The node that coordinates a group. Makes the topic of groups where there is none yet.
    pub async fn find(&self, group: &str) -> Result<NodeId, ResponseError> {
        let topic = self.topic_or_new().await?;
        let id = GroupId { topic: topic.id, partition: partition_of(group, topic.partitions.len()) };
        self.inner.raft.leader_of(id).map(|(node, _)| node).ok_or(ResponseError::CoordinatorNotAvailable)
    }

    fn topic(&self) -> Option<Arc<Topic>> {
        self.inner.controller.image().topics.get(OFFSETS_TOPIC).cloned()
    }

    async fn topic_or_new(&self) -> Result<Arc<Topic>, ResponseError> {
        if let Some(topic) = self.topic() {
            return Ok(topic);
        }
        let _creating = self.inner.creating.lock().await;
        if let Some(topic) = self.topic() {
            return Ok(topic);
        }
        let configs = BTreeMap::from([("segment.bytes".to_owned(), OFFSETS_SEGMENT_BYTES.to_string())]);
        let new = NewTopic {
            name: OFFSETS_TOPIC.to_owned(),
            partitions: Some(OFFSETS_PARTITIONS),
            configs,
            ready_within: Some(FIND_PATIENCE),
            ..NewTopic::default()
        };
        match self.inner.controller.create_topic(&self.inner.raft, new).await {
            Ok(topic) => Ok(topic),
            // Another node was faster; this one's image will show it.
            Err(CreateTopicError::Exists(_)) => self.topic().ok_or(ResponseError::CoordinatorNotAvailable),
            Err(error) => {
                tracing::warn!(%error, "the topic of consumer groups cannot be made");
                Err(ResponseError::CoordinatorNotAvailable)
            }
        }
    }

    /// Asks the coordinator of a group, here, and waits for its answer.
    async fn ask<T: Send + 'static>(
        &self,
        group: String,
        job: impl FnOnce(&mut Coordinator, &str, oneshot::Sender<T>) + Send + 'static,
    ) -> Result<T, ResponseError> {
        let topic = self.topic().ok_or(ResponseError::NotCoordinator)?;
        let shard = self.inner.shards.sender(partition_of(&group, topic.partitions.len()))?;
        ask_shard(shard, move |coordinator, reply| job(coordinator, &group, reply)).await
    }

    pub async fn join(&self, group: String, join: Join) -> JoinAnswer {
        let member_id = join.member_id.clone();
        let answer = self.ask(group, move |coordinator, group, reply| coordinator.join(group, join, reply)).await;
        answer.unwrap_or_else(|error| Err(JoinRefused { error, member_id }))
    }

    pub async fn sync(&self, group: String, sync: Sync) -> SyncAnswer {
        self.ask(group, move |coordinator, group, reply| coordinator.sync(group, sync, reply)).await?
    }

    pub async fn heartbeat(&self, group: String, member: String, instance: Option<String>, generation: i32) -> Result<(), ResponseError> {
        let beat = move |coordinator: &mut Coordinator, group: &str| coordinator.heartbeat(group, &member, instance.as_deref(), generation);
        self.ask(group, move |coordinator, group, reply| answer(reply, beat(coordinator, group))).await?
    }

    /// Takes members out, each by its id, its instance id, or both; every one has its own answer.
    pub async fn leave(
        &self,
        group: String,
        members: Vec<(String, Option<String>)>,
    ) -> Result<Vec<Result<(), ResponseError>>, ResponseError> {
        self.ask(group, move |coordinator, group, reply| answer(reply, coordinator.leave(group, &members))).await?
    }

    /// Returns when a majority has fsynced the offsets. Whether their topics exist is for the caller to know.
    pub async fn commit(&self, group: String, commit: Commit) -> Result<(), ResponseError> {
        self.ask(group, move |coordinator, group, reply| coordinator.commit(group, commit, reply)).await?
    }

    /// Committed offsets: those asked for, or all.
    pub async fn fetch(&self, group: String, wanted: Option<Wanted>) -> Result<Found, ResponseError> {
        self.ask(group, move |coordinator, group, reply| answer(reply, coordinator.fetch(group, wanted.as_ref()))).await
    }

    /// None where there is no such group.
    pub async fn describe(&self, group: String) -> Result<Option<Description>, ResponseError> {
        self.ask(group, move |coordinator, group, reply| answer(reply, coordinator.describe(group))).await
    }

    pub async fn delete(&self, group: String) -> Result<(), ResponseError> {
        self.ask(group, move |coordinator, group, reply| coordinator.delete(group, reply)).await?
    }

    /// Returns the topics whose offsets were left alone because members consume them.
    pub async fn delete_offsets(&self, group: String, offsets: Wanted) -> Result<BTreeSet<String>, ResponseError> {
        self.ask(group, move |coordinator, group, reply| coordinator.delete_offsets(group, offsets, reply)).await?
    }

    /// Every group that this node coordinates, with its committed offsets. Fails where some are still being loaded.
    pub async fn overview(&self) -> Result<Vec<Overview>, ResponseError> {
        let numbers = self.inner.shards.lock().keys().copied().collect::<Vec<_>>();
        let mut groups = Vec::new();
        for number in numbers {
            let answer = match self.inner.shards.sender(number) {
                Ok(sender) => ask_shard(sender, |coordinator, reply| answer(reply, coordinator.overview())).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(some) => groups.extend(some),
                // Another node leads it by now, and tells of it.
                Err(ResponseError::NotCoordinator) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(groups)
    }
}

async fn ask_shard<T: Send + 'static>(
    shard: mpsc::Sender<Job>,
    job: impl FnOnce(&mut Coordinator, oneshot::Sender<T>) + Send + 'static,
) -> Result<T, ResponseError> {
    let (reply, answer) = oneshot::channel();
    // In the first step, without a wait: commits of one connection must arrive in their order.
    shard.try_send(Box::new(move |coordinator| job(coordinator, reply))).map_err(|error| match error {
        TrySendError::Full(_) => ResponseError::CoordinatorNotAvailable,
        TrySendError::Closed(_) => ResponseError::NotCoordinator,
    })?;
    // A coordinator that is dropped, and all that waits in it, has lost the leadership.
    answer.await.map_err(|_| ResponseError::NotCoordinator)
}

/// Whoever asked may have left.
fn answer<T>(reply: oneshot::Sender<T>, answer: T) {
    let _ = reply.send(answer);
}

/// Kafka's placement: Java's `String.hashCode` of the group's id.
fn partition_of(group: &str, partitions: usize) -> i32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX).max(1);
    // `abs` of the smallest number is 0 in Kafka.
    hash.checked_abs().unwrap_or(0) % partitions
}

#[cfg(test)]
mod tests {
    use super::partition_of;

    #[test]
    fn a_group_has_the_partition_that_kafka_gives_it() {
        assert_eq!(partition_of("", 16), 0);
        // Known hash codes of Java strings; the last one is the smallest number, whose absolute value Kafka takes for 0.
        assert_eq!(partition_of("hello", 50), 99_162_322 % 50);
        assert_eq!(partition_of("Hello World", 50), 862_545_276 % 50, "negative: -862545276");
        assert_eq!(partition_of("polygenelubricants", 50), 0);
    }
}
