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
/// A partition may come to lead a moment before it is listed.
const SETTLED_LOOKS: u32 = 2;
/// Handed over in one look, each in a few milliseconds: clients of the others do not notice.
const HANDOVERS_MAX: usize = 8;

pub async fn run(node_id: u64, on: bool, raft: Node, controller: Controller) {
    let mut in_sync_since: BTreeMap<GroupId, (u64, Instant)> = BTreeMap::new();
    // As of when nothing that is led here was another's, and how often that was found: neither time nor the others change it.
    let mut settled = (None, 0);
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let image = controller.image();
        let now = (image.version, raft.stats().elections);
        if settled.0 == Some(now) && settled.1 >= SETTLED_LOOKS {
            continue;
        }
        let Found { due, misplaced } = due(node_id, on, &raft, &image, &mut in_sync_since);
        settled = match settled {
            _ if misplaced => (None, 0),
            (Some(before), looks) if before == now => (Some(now), looks + 1),
            _ => (Some(now), 1),
        };
        for (id, to) in due.into_iter().take(HANDOVERS_MAX) {
            let Some(partition) = raft.partition(id) else { continue };
            in_sync_since.remove(&id);
            let done = partition.transfer_leadership_to(to).await;
            tracing::debug!(topic = %id.topic, partition = id.partition, to, done, "a leadership is handed over");
        }
    }
}

/// Partitions led here that go to another node now, and whether any shall ever.
struct Found {
    due: Vec<(GroupId, u64)>,
    misplaced: bool,
}

/// Which of the partitions led here go to whom now.
fn due(node_id: u64, on: bool, raft: &Node, image: &Image, since: &mut BTreeMap<GroupId, (u64, Instant)>) -> Found {
    let live = raft.live_nodes();
    let (mut due, mut seen, mut misplaced) = (Vec::new(), BTreeMap::new(), false);
    for topic in image.topics.values() {
        for (partition, replicas) in (0i32..).zip(&topic.partitions) {
            let id = GroupId { topic: topic.id, partition };
            // A partition on its way gets its leader when it has arrived.
            let Some(preferred) = preferred(replicas, image).filter(|_| !topic.moves.contains_key(&partition)) else { continue };
            if preferred == node_id {
                continue;
            }
            let Some(replica) = raft.partition(id).filter(|replica| replica.leadership().is_leader) else { continue };
            misplaced = true;
            let leaves = image.draining.contains(&node_id);
            if !live.contains(&preferred) || !(on || leaves) || !replica.in_sync_replicas().contains(&preferred) {
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
    Found { due, misplaced }
}

/// The first that is not to be cleared.
fn preferred(replicas: &[u64], image: &Image) -> Option<u64> {
    replicas.iter().copied().find(|node| !image.draining.contains(node) && image.nodes.contains_key(node))
}
