//! The region's nodes: every one is dialled where the metadata say it is, and a few of them decide over the metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_raft::node::Node;
use meridian_raft::partition::Membership;

use crate::controller::handle::Controller;
use crate::controller::image::Image;

/// Most nodes that vote on the metadata: with five two may be lost, and more would only make each command slower.
const VOTERS_MAX: usize = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// One attempt to change who votes; what is missing then is looked at anew.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);

/// A removed node is told so before it is left alone: it then refuses its clients, who find the others.
const FAREWELL: Duration = Duration::from_secs(2);

/// Keeps the node's peers in step with the metadata.
pub async fn dial(configured: BTreeMap<u64, String>, raft: Node, controller: Controller) {
    let mut images = controller.watch();
    let mut dialled = BTreeMap::new();
    loop {
        let wanted = addresses(&configured, &images.borrow_and_update());
        if wanted != dialled {
            if dialled.keys().any(|node| !wanted.contains_key(node)) {
                tokio::time::sleep(FAREWELL).await;
            }
            raft.set_peers(wanted.clone());
            dialled = wanted;
        }
        if images.changed().await.is_err() {
            return;
        }
    }
}

/// Where a node says it is, and where this node's own configuration has it: should all addresses have changed at once, one of them is right.
fn addresses(configured: &BTreeMap<u64, String>, image: &Image) -> BTreeMap<u64, Vec<String>> {
    let mut addresses: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for node in image.nodes.values() {
        addresses.entry(node.id).or_default().extend(node.peer.clone());
    }
    for (id, address) in configured.iter().filter(|(id, _)| !image.removed.contains(id)) {
        let known = addresses.entry(*id).or_default();
        if !known.contains(address) {
            known.push(address.clone());
        }
    }
    addresses
}

/// While this node leads the controller's group: takes in nodes that were registered, lets go of those that were removed.
pub async fn keep_voters(node_id: u64, controller: Controller) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if controller.leader() != Some(node_id) {
            continue;
        }
        let (voters, learners) = wanted(&controller.membership(), &controller.image());
        if voters.is_empty() || controller.membership().is_settled_on(&voters, &learners) {
            continue;
        }
        let held = controller.membership();
        if held.voters.union(&held.learners).any(|node| controller.image().removed.contains(node)) {
            tokio::time::sleep(FAREWELL / 2).await;
        }
        match tokio::time::timeout(ATTEMPT_DEADLINE, controller.reconfigure(voters.clone(), learners.clone())).await {
            Ok(Ok(())) => tracing::info!(?voters, ?learners, "the region's metadata are kept by these nodes"),
            Ok(Err(error)) => tracing::debug!(?voters, ?learners, %error, "the controller's nodes do not change yet"),
            Err(_) => tracing::debug!(?voters, ?learners, "the controller's nodes do not change yet"),
        }
    }
}

/// Who shall vote on the metadata, and who shall only follow them.
///
/// Whoever votes goes on voting until it is removed, or drained where others can take its place: a founder that has not registered yet is no
/// reason to change anything. Of those that follow, the first by number fill up three voters, or five where there are as many nodes.
fn wanted(now: &Membership, image: &Image) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let able: BTreeSet<u64> = image.nodes.keys().filter(|node| !image.draining.contains(node)).copied().collect();
    let number = match able.len() {
        0..3 => 3.min(image.nodes.len()),
        3..5 => 3,
        _ => VOTERS_MAX,
    };
    let present: Vec<u64> = now.voters.iter().filter(|node| !image.removed.contains(node)).copied().collect();
    let (leaving, staying): (Vec<u64>, Vec<u64>) = present.into_iter().partition(|node| image.draining.contains(node));
    let mut voters: BTreeSet<u64> = staying.into_iter().collect();
    for node in able.iter().copied().chain(leaving) {
        if voters.len() < number {
            voters.insert(node);
        }
    }
    let learners = image.nodes.keys().filter(|node| !voters.contains(node)).copied().collect();
    (voters, learners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::image::NodeRecord;

    fn image(nodes: &[u64], draining: &[u64], removed: &[u64]) -> Image {
        let record = |id: u64| NodeRecord {
            id,
            host: "localhost".to_owned(),
            port: 9092,
            admin: "localhost:1".to_owned(),
            link: "localhost:2".to_owned(),
            rack: None,
            peer: Some(format!("new-{id}:1")),
        };
        let nodes = nodes.iter().map(|id| (*id, record(*id))).collect();
        Image { nodes, draining: draining.iter().copied().collect(), removed: removed.iter().copied().collect(), ..Image::default() }
    }

    fn decide(voters: &[u64], image: &Image) -> (Vec<u64>, Vec<u64>) {
        let now = Membership { voters: voters.iter().copied().collect(), committed: true, ..Membership::default() };
        let (voters, learners) = wanted(&now, image);
        (voters.into_iter().collect(), learners.into_iter().collect())
    }

    #[test]
    fn founders_that_have_not_registered_yet_keep_their_vote() {
        assert_eq!(decide(&[1, 2, 3], &image(&[2], &[], &[])), (vec![1, 2, 3], vec![]));
    }

    #[test]
    fn a_fourth_node_follows_and_a_fifth_makes_five_voters() {
        assert_eq!(decide(&[1, 2, 3], &image(&[1, 2, 3, 4], &[], &[])), (vec![1, 2, 3], vec![4]));
        assert_eq!(decide(&[1, 2, 3], &image(&[1, 2, 3, 4, 5], &[], &[])), (vec![1, 2, 3, 4, 5], vec![]));
        assert_eq!(decide(&[1, 2, 3, 4, 5], &image(&[1, 2, 3, 4, 5, 6], &[], &[])), (vec![1, 2, 3, 4, 5], vec![6]));
    }

    #[test]
    fn a_removed_nodes_vote_goes_to_one_that_follows() {
        assert_eq!(decide(&[1, 2, 3], &image(&[1, 2, 4], &[], &[3])), (vec![1, 2, 4], vec![]));
    }

    #[test]
    fn a_draining_node_keeps_its_vote_only_where_there_would_be_too_few() {
        assert_eq!(decide(&[1, 2, 3], &image(&[1, 2, 3], &[2], &[])), (vec![1, 2, 3], vec![]));
        assert_eq!(decide(&[1, 2, 3], &image(&[1, 2, 3, 4], &[2], &[])), (vec![1, 3, 4], vec![2]));
    }

    #[test]
    fn a_lone_founder_is_joined_by_two() {
        assert_eq!(decide(&[1], &image(&[1, 2], &[], &[])), (vec![1, 2], vec![]));
        assert_eq!(decide(&[1, 2], &image(&[1, 2, 3], &[], &[])), (vec![1, 2, 3], vec![]));
    }

    #[test]
    fn a_node_is_dialled_where_it_says_it_is_and_where_the_file_has_it() {
        let configured = BTreeMap::from([(1, "old-1:1".to_owned()), (7, "old-7:1".to_owned()), (9, "old-9:1".to_owned())]);
        let dialled = addresses(&configured, &image(&[1, 2], &[], &[9]));
        let expected = [(1, vec!["new-1:1", "old-1:1"]), (2, vec!["new-2:1"]), (7, vec!["old-7:1"])];
        let expected = expected.map(|(id, at)| (id, at.into_iter().map(str::to_owned).collect()));
        assert_eq!(dialled, BTreeMap::from(expected));
    }
}
