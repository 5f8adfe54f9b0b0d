//! Where a new topic's replicas live: round robin over the live nodes, so that every node leads its share.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("partitions: {asked} asked for, 1 to {} are possible", super::state::PARTITIONS_MAX)]
    Partitions { asked: usize },
    #[error(
        "replication factor: {asked} asked for, but {live} nodes are live (and at most {} replicas are possible)",
        super::state::REPLICAS_MAX
    )]
    Replicas { asked: usize, live: usize },
}

/// One list of nodes per partition, the first preferred to lead. `start` (say, how many partitions the region has) turns the round robin,
/// so that topics with one partition do not all land on the first node. `live` holds each node once.
///
/// The followers' order turns too, once per round of leaders: when a node dies, its partitions do not all fall to the same neighbour.
pub fn place(live: &[u64], partitions: usize, replicas: usize, start: usize) -> Result<Vec<Vec<u64>>, PlacementError> {
    if partitions == 0 || partitions > super::state::PARTITIONS_MAX {
        return Err(PlacementError::Partitions { asked: partitions });
    }
    if replicas == 0 || replicas > live.len() || replicas > super::state::REPLICAS_MAX {
        return Err(PlacementError::Replicas { asked: replicas, live: live.len() });
    }
    let nodes = live.len();
    let start = start % nodes;
    Ok((0..partitions)
        .map(|partition| {
            let leader = (start + partition) % nodes;
            let round = partition / nodes;
            // Followers are the other nodes, in a ring that begins one further on in every round.
            let follower = |number: usize| (leader + 1 + (round + number) % (nodes - 1)) % nodes;
            std::iter::once(leader).chain((0..replicas - 1).map(follower)).map(|node| live[node]).collect()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn too_few_nodes_or_no_partitions_are_refused() {
        assert_eq!(place(&[1, 2], 1, 3, 0), Err(PlacementError::Replicas { asked: 3, live: 2 }));
        assert_eq!(place(&[], 1, 1, 0), Err(PlacementError::Replicas { asked: 1, live: 0 }));
        assert_eq!(place(&[1], 1, 0, 0), Err(PlacementError::Replicas { asked: 0, live: 1 }));
        assert_eq!(place(&[1], 0, 1, 0), Err(PlacementError::Partitions { asked: 0 }));
        assert_eq!(place(&[7], 2, 1, 5), Ok(vec![vec![7], vec![7]]));
    }

    proptest! {
        #[test]
        fn leaders_are_spread_and_no_node_holds_a_partition_twice(
            nodes in 1usize..8, partitions in 1usize..64, replicas in 1usize..8, start in any::<usize>()
        ) {
            prop_assume!(replicas <= nodes);
            let live: Vec<u64> = (10..10 + nodes as u64).collect();
            let placed = place(&live, partitions, replicas, start).expect("enough nodes");
            prop_assert_eq!(placed.len(), partitions);
            let mut led: BTreeMap<u64, usize> = live.iter().map(|node| (*node, 0)).collect();
            for partition in &placed {
                let distinct: BTreeSet<&u64> = partition.iter().collect();
                prop_assert_eq!(distinct.len(), replicas);
                *led.get_mut(&partition[0]).expect("a live node") += 1;
            }
            let (fewest, most) = (led.values().min().expect("nodes"), led.values().max().expect("nodes"));
            prop_assert!(most - fewest <= 1);
        }
    }
}
