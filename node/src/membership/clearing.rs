//! Where the replicas of nodes go that are to hold nothing, or that are gone: decided on the node that leads the controller, some at a time, so
//! that a drain can be stopped, and goes on after a crash of whoever planned it.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_raft::node::Node;

use crate::controller::command::{Command, PartitionMove};
use crate::controller::handle::Controller;
use crate::controller::image::Image;
use crate::controller::moves;

/// Moves of the region under way at once before another is planned.
const UNDER_WAY_MAX: usize = 64;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub async fn run(node_id: u64, raft: Node, controller: Controller) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if controller.leader() != Some(node_id) {
            continue;
        }
        let planned = plan(&controller.image(), &raft.live_nodes());
        if planned.is_empty() {
            continue;
        }
        let count = planned.len();
        match controller.submit(Command::MovePartitions { moves: planned }).await {
            Ok(_) => tracing::info!(count, "replicas are moved off nodes that are to hold nothing"),
            Err(error) => tracing::debug!(count, %error, "moves are not planned yet"),
        }
    }
}

/// The next moves, each with the node that takes a replica's place in its list.
fn plan(image: &Image, live: &[u64]) -> Vec<PartitionMove> {
    let able = |node: &u64| image.nodes.contains_key(node) && !image.draining.contains(node);
    let mut load = moves::load(image);
    let mut room = UNDER_WAY_MAX.saturating_sub(image.topics.values().map(|topic| topic.moves.len()).sum());
    let mut planned = Vec::new();
    for topic in image.topics.values() {
        for (partition, replicas) in (0i32..).zip(&topic.partitions) {
            let under_way = topic.moves.get(&partition);
            let held = under_way.map_or(replicas, |under_way| &under_way.target);
            if held.iter().all(able) {
                continue;
            }
            // One that has begun already and leads nowhere is corrected whatever else goes on.
            if room == 0 && under_way.is_none() {
                return planned;
            }
            let Some(target) = replaced(held, image, live, &mut load) else { continue };
            room = room.saturating_sub(1);
            planned.push(PartitionMove { topic: topic.id, partition, target: Some(target) });
        }
    }
    planned
}

/// The list with every node that may not stay replaced, or None where there are too few to take their places.
fn replaced(held: &[u64], image: &Image, live: &[u64], load: &mut BTreeMap<u64, usize>) -> Option<Vec<u64>> {
    let able = |node: &u64| image.nodes.contains_key(node) && !image.draining.contains(node);
    let rack = |node: &u64| image.nodes.get(node).and_then(|record| record.rack.as_deref());
    let mut target = held.to_vec();
    for place in 0..target.len() {
        if able(&target[place]) {
            continue;
        }
        let kept: Vec<u64> = target.iter().copied().filter(able).collect();
        let candidates = live.iter().filter(|node| able(node) && !target.contains(node));
        let chosen = candidates.min_by_key(|node| {
            let shares_rack = rack(node).is_some() && kept.iter().any(|other| rack(other) == rack(node));
            (shares_rack, load.get(node).copied().unwrap_or(0), **node)
        });
        let chosen = *chosen?;
        *load.entry(chosen).or_default() += 1;
        target[place] = chosen;
    }
    Some(target)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::controller::image::{Move, NodeRecord, Topic};

    fn record(id: u64, rack: Option<&str>) -> NodeRecord {
        let at = "localhost:1".to_owned();
        NodeRecord {
            id,
            host: "localhost".into(),
            port: 1,
            admin: at.clone(),
            link: at.clone(),
            rack: rack.map(str::to_owned),
            peer: Some(at),
        }
    }

    fn image(nodes: &[(u64, Option<&str>)], partitions: &[&[u64]]) -> Image {
        let topic = Arc::new(Topic {
            name: "t".into(),
            id: Uuid::from_u128(1),
            partitions: partitions.iter().map(|replicas| replicas.to_vec()).collect(),
            configs: BTreeMap::new(),
            home: "eu".into(),
            mirrors: vec![],
            internal: false,
            moves: BTreeMap::new(),
            moved: Default::default(),
        });
        let nodes = nodes.iter().map(|(id, rack)| (*id, record(*id, *rack))).collect();
        Image { nodes, topics: Arc::new(BTreeMap::from([("t".into(), topic)])), ..Image::default() }
    }

    fn targets(image: &Image, live: &[u64]) -> Vec<Vec<u64>> {
        plan(image, live).into_iter().filter_map(|wanted| wanted.target).collect()
    }

    const FIVE: [(u64, Option<&str>); 5] = [(1, None), (2, None), (3, None), (4, None), (5, None)];

    #[test]
    fn nothing_moves_where_nobody_leaves() {
        assert_eq!(targets(&image(&FIVE, &[&[1, 2, 3]]), &[1, 2, 3, 4, 5]), Vec::<Vec<u64>>::new());
    }

    #[test]
    fn a_draining_nodes_places_are_shared_among_the_others() {
        let mut image = image(&FIVE, &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 3, 4]]);
        image.draining.insert(1);
        let planned = targets(&image, &[1, 2, 3, 4, 5]);
        assert_eq!(planned, [[5, 2, 3], [2, 3, 4], [3, 5, 2], [5, 3, 4]]);
    }

    #[test]
    fn a_node_that_is_gone_is_replaced_and_a_dead_one_replaces_nobody() {
        let mut image = image(&FIVE, &[&[1, 2, 3]]);
        image.nodes.remove(&2);
        assert_eq!(targets(&image, &[1, 3, 5]), [[1, 5, 3]]);
        assert_eq!(targets(&image, &[1, 3]), Vec::<Vec<u64>>::new(), "nobody can take the place");
    }

    #[test]
    fn the_place_goes_to_a_rack_that_has_no_replica_yet() {
        let nodes = [(1, Some("a")), (2, Some("b")), (3, Some("c")), (4, Some("a")), (5, Some("c"))];
        let mut image = image(&nodes, &[&[1, 2, 3]]);
        image.draining.insert(3);
        assert_eq!(targets(&image, &[1, 2, 3, 4, 5]), [[1, 2, 5]]);
    }

    #[test]
    fn a_move_to_a_node_that_has_gone_since_goes_elsewhere() {
        let mut image = image(&FIVE, &[&[1, 2, 3]]);
        let mut topic = Topic::clone(&image.topics["t"]);
        topic.moves.insert(0, Move { target: vec![1, 2, 9], hosts: [1, 2, 3, 9].into() });
        image.topics = Arc::new(BTreeMap::from([("t".into(), Arc::new(topic))]));
        assert_eq!(targets(&image, &[1, 2, 3, 4, 5]), [[1, 2, 3]]);
    }
}
