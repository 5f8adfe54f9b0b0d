//! Follows the leadership of `__consumer_offsets` partitions: a coordinator is read from the log when this node comes to lead one, and dropped,
//! with all that waits in it, when it leads no more.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use meridian_raft::GroupId;
use meridian_raft::batch::{Batch, records};
use meridian_raft::env::Env;
use meridian_raft::node::Node;
use meridian_raft::partition::{Partition, ReadError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::coordinator::Coordinator;
use super::record::{Entry, RecordError};
use super::{Job, OFFSETS_TOPIC, Shard, Shards};
use crate::controller::handle::Controller;
use crate::controller::image::Image;

/// Between looks for replicas that were opened meanwhile; nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of the log read at once while loading.
const LOAD_BYTES: usize = 1 << 20;
/// Before a partition is read again that could not be.
const LOAD_AGAIN: Duration = Duration::from_secs(1);
/// Requests that may wait for a coordinator; more are told to try again.
const JOBS_MAX: usize = 8192;
/// Between looks for groups that nobody uses.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// Starts one task for each partition of the offsets topic that has a replica here.
pub(super) async fn follow(env: Env, raft: Node, controller: Controller, shards: Arc<Shards>) {
    let mut tasks = JoinSet::new();
    let mut followed = BTreeSet::new();
    let mut images = controller.watch();
    loop {
        let topic = images.borrow_and_update().topics.get(OFFSETS_TOPIC).cloned();
        for number in topic.iter().flat_map(|topic| (0i32..).take(topic.partitions.len())) {
            let Some(topic) = &topic else { break };
            if let Some(partition) = raft.partition(GroupId { topic: topic.id, partition: number })
                && followed.insert(number)
            {
                tasks.spawn(follow_one(env.clone(), partition, controller.watch(), shards.clone()));
            }
        }
        while tasks.try_join_next().is_some() {}
        tokio::select! {
            changed = images.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY), if topic.is_some_and(|topic| followed.len() < topic.partitions.len()) => {}
        }
    }
}

async fn follow_one(env: Env, partition: Partition, images: watch::Receiver<Arc<Image>>, shards: Arc<Shards>) {
    let number = partition.id().partition;
    let mut leadership = partition.watch_leadership();
    loop {
        let now = *leadership.borrow_and_update();
        if now.is_leader {
            shards.put(number, Shard::Loading);
            tokio::select! {
                () = lead(&env, &partition, images.clone(), &shards) => {}
                // An epoch of its own term may have begun with other leaders in between.
                lost = leadership.wait_for(|later| !later.is_leader || later.epoch != now.epoch) => if lost.is_err() {
                    shards.remove(number);
                    return;
                },
            }
            shards.remove(number);
        } else if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Coordinates until the log and the memory no longer agree.
async fn lead(env: &Env, partition: &Partition, mut images: watch::Receiver<Arc<Image>>, shards: &Shards) {
    let number = partition.id().partition;
    let image = images.borrow_and_update().clone();
    let mut coordinator = match load(env, partition, image).await {
        Ok(coordinator) => coordinator,
        // The log begins anew meanwhile, as an earlier coordinator of this node had it.
        Err(ReadError::OutOfRange { .. }) => return,
        Err(error) => {
            tracing::error!(partition = number, %error, "the groups of a partition cannot be read");
            return tokio::time::sleep(LOAD_AGAIN).await;
        }
    };
    tracing::debug!(partition = number, groups = coordinator.group_count(), "coordinating");
    let (sender, mut jobs) = mpsc::channel::<Job>(JOBS_MAX);
    shards.put(number, Shard::Serving(sender));
    let mut expire = tokio::time::interval(EXPIRE_EVERY);
    expire.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        coordinator.compact();
        let alarm = coordinator.next_alarm();
        tokio::select! {
            flow = coordinator.committed() => if let ControlFlow::Break(error) = flow {
                tracing::warn!(partition = number, %error, "an append of a group failed; its partition is read again");
                return;
            },
            job = jobs.recv(), if coordinator.takes_requests() => match job {
                // A leader that is cut off must not keep its members from the one that follows it: whoever asks is sent away.
                Some(job) if partition.holds_lease() => job(&mut coordinator),
                Some(_) => {}
                None => return,
            },
            () = async { match alarm { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => coordinator.tick(),
            changed = images.changed() => match changed {
                Ok(()) => coordinator.metadata_changed(images.borrow_and_update().clone()),
                Err(_) => return,
            },
            _ = expire.tick() => coordinator.expire(),
        }
    }
}

/// Reads a partition from its start to its high watermark, which a leader's own first commit has moved past all that was acknowledged before.
pub(super) async fn load(env: &Env, partition: &Partition, image: Arc<Image>) -> Result<Coordinator, ReadError> {
    let mut coordinator = Coordinator::new(env.clone(), partition.clone(), image);
    let (mut at, end) = (partition.log_start_offset(), partition.high_watermark());
    while at < end {
        let batches = partition.read(at, LOAD_BYTES).await?;
        if batches.is_empty() {
            break;
        }
        for stored in batches {
            coordinator.read(stored.bytes.len());
            let batch = Batch::from_stored(stored.bytes).map_err(|error| ReadError::Storage(error.to_string()))?;
            let header = batch.header();
            at = header.base_offset + i64::from(header.last_offset_delta) + 1;
            for record in records::decode(&batch).unwrap_or_default() {
                match Entry::decode(&record) {
                    Ok(entry) => coordinator.replay(entry),
                    Err(RecordError::UnknownKey(version)) => tracing::debug!(version, "a record of another kind is passed over"),
                    Err(error) => tracing::error!(offset = header.base_offset, %error, "a group's record cannot be understood"),
                }
            }
        }
        tokio::task::yield_now().await;
    }
    coordinator.wake();
    Ok(coordinator)
}
