//! Moves the partitions that this node leads to where the metadata want them, a few at a time, and reports each that has arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use meridian_raft::GroupId;
use meridian_raft::node::Node;
use meridian_raft::partition::{Partition, ReconfigureError};

use crate::controller::command::Command;
use crate::controller::handle::Controller;
use crate::controller::image::Image;

/// Partitions that one node moves at once: the catch-up rate is shared among them, and a few that finish are worth more than many that do not.
const MOVING_MAX: usize = 8;
/// Between two looks at which partitions this node leads by now.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A move that could not go on is left alone for so long.
const RETRY: Duration = Duration::from_millis(500);

/// A partition on its way, and where to.
type Task = (GroupId, Vec<u64>);

pub async fn run(node_id: u64, raft: Node, controller: Controller) {
    let mut images = controller.watch();
    let mut under_way: BTreeMap<GroupId, (Vec<u64>, tokio::task::AbortHandle)> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let wanted = led_here(&raft, &images.borrow_and_update());
        // Taken back, told to go elsewhere, or led by another now: dropped between two steps.
        under_way.retain(|id, (target, task)| {
            let stays = wanted.get(id) == Some(target);
            if !stays {
                task.abort();
            }
            stays
        });
        for (id, target) in wanted {
            if under_way.len() >= MOVING_MAX {
                break;
            }
            if !under_way.contains_key(&id)
                && let Some(partition) = raft.partition(id)
            {
                let task = tokio::spawn(move_one(node_id, partition, target.clone(), controller.clone()));
                under_way.insert(id, (target.clone(), task.abort_handle()));
                running.push(task.map(move |_| (id, target)));
            }
        }
        tokio::select! {
            changed = images.changed() => if changed.is_err() { return },
            Some(ended) = running.next(), if !running.is_empty() => forget(&mut under_way, &ended),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn forget(under_way: &mut BTreeMap<GroupId, (Vec<u64>, tokio::task::AbortHandle)>, (id, target): &Task) {
    if under_way.get(id).is_some_and(|(now, _)| now == target) {
        under_way.remove(id);
    }
}

fn led_here(raft: &Node, image: &Image) -> BTreeMap<GroupId, Vec<u64>> {
    let mut led = BTreeMap::new();
    for topic in image.topics.values() {
        for (partition, wanted) in &topic.moves {
            let id = GroupId { topic: topic.id, partition: *partition };
            if raft.partition(id).is_some_and(|replica| replica.leadership().is_leader) {
                led.insert(id, wanted.target.clone());
            }
        }
    }
    led
}

/// Ends when the move is reported, or when this node can do nothing more for it now.
async fn move_one(node_id: u64, partition: Partition, target: Vec<u64>, controller: Controller) {
    let GroupId { topic, partition: number } = partition.id();
    let voters: BTreeSet<u64> = target.iter().copied().collect();
    match partition.reconfigure(voters.clone()).await {
        // It leads for a moment longer. Its successor finds everything done and reports it: nobody's replica goes while it still leads.
        Ok(()) if !voters.contains(&node_id) => return,
        Ok(()) => {}
        Err(ReconfigureError::NotLeader) => return,
        Err(error) => {
            tracing::warn!(%topic, partition = number, ?target, %error, "a partition does not move; trying again");
            tokio::time::sleep(RETRY).await;
            return;
        }
    }
    match controller.submit(Command::FinishMove { topic, partition: number, target: target.clone() }).await {
        Ok(_) => tracing::info!(%topic, partition = number, ?target, "a partition has moved"),
        // The move is still there to be reported by the next look.
        Err(error) => {
            tracing::debug!(%topic, partition = number, %error, "a finished move is not reported yet");
            tokio::time::sleep(RETRY).await;
        }
    }
}
