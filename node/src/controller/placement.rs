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

/// A node that may be given replicas, and its rack.
pub type Candidate<'a> = (u64, Option<&'a str>);

/// One list of nodes per partition, the first preferred to lead. `start` (say, how many partitions the region has) turns the round robin,
/// so that topics with one partition do not all land on the first node. `live` holds each node once.
///
/// A partition's replicas lie in as many racks as they can, and no rack has two more of them than another that could have had one. The
/// followers' order turns too, once per round of leaders: when a node dies, its partitions do not all fall to the same neighbour.
pub fn place(live: &[Candidate<'_>], partitions: usize, replicas: usize, start: usize) -> Result<Vec<Vec<u64>>, PlacementError> {
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
            let followers = (0..nodes - 1).map(|number| live[(leader + 1 + (round + number) % (nodes - 1)) % nodes]);
            spread(live[leader], followers.collect(), replicas)
        })
        .collect())
}

/// The leader, and the first of the ring that lie in racks with fewest replicas so far.
fn spread(leader: Candidate<'_>, mut ring: Vec<Candidate<'_>>, replicas: usize) -> Vec<u64> {
    let mut held = std::collections::BTreeMap::from([(leader.1, 1)]);
    let mut chosen = vec![leader.0];
    while chosen.len() < replicas && !ring.is_empty() {
        // The first of several with as few.
        let next = (0..ring.len()).min_by_key(|at| held.get(&ring[*at].1).copied().unwrap_or(0)).unwrap_or(0);
        let (node, rack) = ring.remove(next);
        *held.entry(rack).or_insert(0) += 1;
        chosen.push(node);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn too_few_nodes_or_no_partitions_are_refused() {
        assert_eq!(place(&[(1, None), (2, None)], 1, 3, 0), Err(PlacementError::Replicas { asked: 3, live: 2 }));
        assert_eq!(place(&[], 1, 1, 0), Err(PlacementError::Replicas { asked: 1, live: 0 }));
        assert_eq!(place(&[(1, None)], 1, 0, 0), Err(PlacementError::Replicas { asked: 0, live: 1 }));
        assert_eq!(place(&[(1, None)], 0, 1, 0), Err(PlacementError::Partitions { asked: 0 }));
        assert_eq!(place(&[(7, None)], 2, 1, 5), Ok(vec![vec![7], vec![7]]));
    }

    proptest! {
        #[test]
        fn leaders_are_spread_and_no_node_holds_a_partition_twice(
            nodes in 1usize..8, partitions in 1usize..64, replicas in 1usize..8, start in any::<usize>(), racks in prop::collection::vec(0usize..4, 8)
        ) {
            prop_assume!(replicas <= nodes);
            let live: Vec<u64> = (10..10 + nodes as u64).collect();
            const RACKS: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("c")];
            let live_in: Vec<Candidate<'_>> = live.iter().zip(&racks).map(|(node, rack)| (*node, RACKS[*rack])).collect();
            let placed = place(&live_in, partitions, replicas, start).expect("enough nodes");
            prop_assert_eq!(placed.len(), partitions);
            let mut led: BTreeMap<u64, usize> = live.iter().map(|node| (*node, 0)).collect();
            for partition in &placed {
                let distinct: BTreeSet<&u64> = partition.iter().collect();
                prop_assert_eq!(distinct.len(), replicas);
                let racks_of = |nodes: &mut dyn Iterator<Item = &Candidate<'_>>| nodes.map(|(_, rack)| *rack).collect::<BTreeSet<_>>().len();
                let used = racks_of(&mut live_in.iter().filter(|(node, _)| partition.contains(node)));
                prop_assert_eq!(used, replicas.min(racks_of(&mut live_in.iter())), "{:?} of {:?}", partition, live_in);
                *led.get_mut(&partition[0]).expect("a live node") += 1;
            }
            let (fewest, most) = (led.values().min().expect("nodes"), led.values().max().expect("nodes"));
            prop_assert!(most - fewest <= 1);
        }
    }
}
