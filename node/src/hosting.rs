//! Which partitions run on this node: those the region's metadata place here, no others. Opens and deletes replicas as the metadata change.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use meridian_raft::GroupId;
use meridian_raft::node::{Node, NodeError};
use meridian_raft::partition::{Partition, PartitionSettings, PartitionSpec, Retention, Rolling};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::controller::handle::Controller;
use crate::controller::image::{Image, Topic};
use crate::controller::topic_config;

/// Replicas opened at once.
const OPENING_MAX: usize = 16;
/// Between two lines that say how far the opening of many is.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long a replica that could not be opened is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Between two looks for what is left of replicas that have moved away.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// Keeps this node's replicas in step with the metadata until dropped.
#[derive(Debug)]
pub struct Hosting {
    tasks: [AbortHandle; 2],
}

impl Drop for Hosting {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Hosting {
    pub fn start(node_id: u64, raft: Node, controller: Controller) -> Hosting {
        let settling = tokio::spawn(settle(node_id, raft.clone(), controller.clone())).abort_handle();
        Hosting { tasks: [tokio::spawn(follow(node_id, raft, controller)).abort_handle(), settling] }
    }
}

/// A node that has lost votes says for which partitions it is to answer. Its own image may be older than the loss; one behind a command that
/// is committed now is not.
async fn settle(node_id: u64, raft: Node, controller: Controller) {
    loop {
        if let Some(loss) = raft.unsettled_loss() {
            match controller.up_to_date().await {
                Ok(image) => {
                    if let Err(error) = raft.settle_loss(loss, wanted(node_id, &image).into_keys().collect()).await {
                        tracing::error!(%error, "cannot note which partitions are placed here");
                    }
                }
                Err(error) => tracing::debug!(%error, "which partitions lost votes here is not known yet"),
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(node_id: u64, raft: Node, controller: Controller) {
    let mut images = controller.watch();
    let mut tidy_at = Instant::now();
    loop {
        let image = images.borrow_and_update().clone();
        let complete = reconcile(node_id, &raft, &image).await;
        configure(&raft, &image);
        if complete && tidy_at <= Instant::now() {
            // Here, where nothing is opened at the same time.
            if let Err(error) = tidy(node_id, &raft, &controller).await {
                tracing::warn!(%error, "cannot look for replicas that have moved away");
            }
            tidy_at = Instant::now() + TIDY_EVERY;
        }
        tokio::select! {
            changed = images.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if !complete => {}
            () = tokio::time::sleep_until(tidy_at) => {}
        }
    }
}

/// True when every replica that should run does.
async fn reconcile(node_id: u64, raft: &Node, image: &Image) -> bool {
    let wanted = wanted(node_id, image);
    let open = raft.partitions().into_iter().map(|partition| partition.id());
    let damaged = raft.damaged().into_iter().map(|damaged| damaged.id);
    let mut complete = true;
    for id in open.chain(damaged).filter(|id| *id != GroupId::CONTROLLER) {
        // An image without any command in it is not the metadata yet.
        if image.version == 0 || wanted.contains_key(&id) {
            continue;
        }
        if raft.partition(id).is_some_and(|partition| !settled(node_id, image, &partition)) {
            complete = false;
        } else {
            remove(raft, image, id).await;
        }
    }
    // A damaged replica opens by itself once its peers have repaired it.
    let missing: Vec<PartitionSpec> =
        wanted.into_values().filter(|spec| raft.partition(spec.id).is_none() && !raft.is_being_repaired(spec.id)).collect();
    let mut opening = Opening::of(missing.len());
    let opened = stream::iter(missing).map(|spec| async move {
        let id = spec.id;
        match raft.open_partition(spec).await {
            Ok(_) | Err(NodeError::Damaged(_)) => true,
            Err(error) => {
                tracing::error!(topic = %id.topic, partition = id.partition, %error, "a replica cannot be opened");
                false
            }
        }
    });
    // Every one is awaited: a failure must not drop the opening of another halfway.
    let all = |all, opened| {
        opening.tell();
        std::future::ready(all && opened)
    };
    opened.buffer_unordered(OPENING_MAX).fold(complete, all).await
}

/// How far the opening of many replicas is. Nothing is said where it takes no time.
struct Opening {
    done: usize,
    of: usize,
    began: Instant,
    told: Instant,
}

impl Opening {
    fn of(replicas: usize) -> Opening {
        let now = Instant::now();
        Opening { done: 0, of: replicas, began: now, told: now }
    }

    /// One more has been tried.
    fn tell(&mut self) {
        self.done += 1;
        let over = self.done == self.of && self.told != self.began;
        if over || self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let seconds = self.began.elapsed().as_secs();
            tracing::info!(replicas = self.done, of = self.of, seconds, "replicas are opened");
        }
    }
}

/// Of a partition that has moved away something is kept, of a topic that is gone nothing.
async fn remove(raft: &Node, image: &Image, id: GroupId) {
    tracing::info!(topic = %id.topic, partition = id.partition, "a replica is deleted");
    let exists = image.topics_by_id.contains_key(&id.topic);
    let removed = if exists { raft.leave_partition(id).await } else { raft.delete_partition(id).await };
    if let Err(error) = removed {
        tracing::error!(topic = %id.topic, partition = id.partition, %error, "a replica cannot be deleted");
    }
}

/// Removes what is left of partitions that moved away, and of topics that went, while this node was down or later. By metadata that are up to
/// date alone: those that a node starts with may be older than a topic.
async fn tidy(node_id: u64, raft: &Node, controller: &Controller) -> Result<(), NodeError> {
    let (orphans, departed) = (raft.orphans()?, raft.departed());
    if orphans.is_empty() && departed.is_empty() {
        return Ok(());
    }
    let Ok(image) = controller.up_to_date().await else { return Ok(()) };
    let wanted = wanted(node_id, &image);
    let gone = departed.into_iter().filter(|id| !image.topics_by_id.contains_key(&id.topic));
    for id in orphans.into_iter().chain(gone).filter(|id| !wanted.contains_key(id)) {
        remove(raft, &image, id).await;
    }
    Ok(())
}

/// A partition that has moved away is left alone while this node leads it still: for a moment it does, and its successor needs it. A deleted
/// topic's goes at once.
fn settled(node_id: u64, image: &Image, partition: &Partition) -> bool {
    let exists = image.topics_by_id.contains_key(&partition.id().topic);
    let leadership = partition.leadership();
    !exists || (!leadership.is_leader && leadership.leader != Some(node_id))
}

/// Tells every replica how much to keep and when to begin new segments; topic configs may change while it runs.
fn configure(raft: &Node, image: &Image) {
    for partition in raft.partitions() {
        if let Some(topic) = image.topics_by_id.get(&partition.id().topic) {
            partition.configure(settings(topic));
            partition.set_retention(retention(topic));
        }
    }
}

fn retention(topic: &Topic) -> Retention {
    // What a node keeps for itself it reads as a whole: the newest record of a key may be old.
    if topic.internal {
        return Retention::default();
    }
    let bound = |name| topic_config::value(&topic.configs, name).and_then(|value| value.parse::<i64>().ok()).filter(|value| *value >= 0);
    Retention { time_ms: bound("retention.ms"), bytes: bound("retention.bytes").map(i64::unsigned_abs) }
}

fn wanted(node_id: u64, image: &Image) -> BTreeMap<GroupId, PartitionSpec> {
    let mut wanted = BTreeMap::new();
    for topic in image.topics.values() {
        for partition in topic.on_node(node_id) {
            let id = GroupId { topic: topic.id, partition };
            // Whoever is not one of those that form the group joins it, with an empty disk too.
            let founders = topic.founders(partition);
            let replicas = if founders.contains(&node_id) { founders.to_vec() } else { Vec::new() };
            let mirror = topic.home != image.region;
            wanted.insert(id, PartitionSpec { id, replicas, mirror, settings: settings(topic) });
        }
    }
    wanted
}

fn settings(topic: &Topic) -> PartitionSettings {
    let number = |name| topic_config::value(&topic.configs, name).and_then(|value| value.parse::<u64>().ok());
    let Rolling { segment_bytes, segment_ms } = Rolling::DEFAULT;
    let segment_bytes = number("segment.bytes").unwrap_or(segment_bytes);
    PartitionSettings { rolling: Rolling { segment_bytes, segment_ms: number("segment.ms").unwrap_or(segment_ms) } }
}
