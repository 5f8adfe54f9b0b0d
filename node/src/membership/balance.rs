//! Gives leaderships back: the leader of a partition hands over to the preferred replica (the first of the list) once that one has been in sync
//! for a while, and to anybody else at once when its own node is to be cleared. After a restart every node leads its share again by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_raft::GroupId;
use meridian_raft::node::Node;
use tokio::time::Instant;

use crate::controller::handle::Controller;
use crate::controller::image::Image;

const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A preferred replica must have kept up for so long: a node that comes and goes does not take its leaderships along each time.
const IN_SYNC_FOR: Duration = Duration::from_secs(5);
/// Handed over in one look, each in a few milliseconds: clients of the others do not notice.
const HANDOVERS_MAX: usize = 8;

pub async fn run(node_id: u64, on: bool, raft: Node, controller: Controller) {
    let mut in_sync_since: BTreeMap<GroupId, (u64, Instant)> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let image = controller.image();
        let due = due(node_id, on, &raft, &image, &mut in_sync_since);
        for (id, to) in due.into_iter().take(HANDOVERS_MAX) {
            let Some(partition) = raft.partition(id) else { continue };
            in_sync_since.remove(&id);
            let done = partition.transfer_leadership_to(to).await;
            tracing::debug!(topic = %id.topic, partition = id.partition, to, done, "a leadership is handed over");
        }
    }
}

/// Which of the partitions led here go to whom now.
fn due(node_id: u64, on: bool, raft: &Node, image: &Image, since: &mut BTreeMap<GroupId, (u64, Instant)>) -> Vec<(GroupId, u64)> {
    let live = raft.live_nodes();
    let (mut due, mut seen) = (Vec::new(), BTreeMap::new());
    for topic in image.topics.values() {
        for (partition, replicas) in (0i32..).zip(&topic.partitions) {
            let id = GroupId { topic: topic.id, partition };
            let Some(replica) = raft.partition(id).filter(|replica| replica.leadership().is_leader) else { continue };
            // A partition on its way gets its leader when it has arrived.
            let Some(preferred) = preferred(replicas, image).filter(|_| !topic.moves.contains_key(&partition)) else { continue };
            let leaves = image.draining.contains(&node_id);
            if preferred == node_id || !live.contains(&preferred) || !(on || leaves) || !replica.in_sync_replicas().contains(&preferred) {
                continue;
            }
            let begun = since.get(&id).filter(|(node, _)| *node == preferred).map_or_else(Instant::now, |(_, at)| *at);
            if leaves || begun.elapsed() >= IN_SYNC_FOR {
                due.push((id, preferred));
            }
            seen.insert(id, (preferred, begun));
        }
    }
    *since = seen;
    due
}

/// The first that is not to be cleared.
fn preferred(replicas: &[u64], image: &Image) -> Option<u64> {
    replicas.iter().copied().find(|node| !image.draining.contains(node) && image.nodes.contains_key(node))
}
