//! `GET /v1/nodes`: the region's nodes and what moves between them; `POST /v1/nodes/ID/VERB`: an operator's wish for one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};
use meridian_auth::principal::Principal;
use meridian_raft::GroupId;

use super::view::View;
use crate::controller::command::{Answer, Command};
use crate::controller::image::Image;

/// What one node knows of its region's nodes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RegionNodes {
    pub region: String,
    /// Who says so.
    pub node_id: u64,
    /// Node that leads the region's controller.
    pub controller: Option<u64>,
    pub nodes: Vec<NodeAccount>,
    pub moves: Vec<MoveAccount>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NodeAccount {
    pub id: u64,
    pub state: NodeState,
    /// Heard of lately.
    pub live: bool,
    /// Kafka address; empty until it has registered.
    pub address: String,
    pub rack: Option<String>,
    /// Votes on the region's metadata.
    pub votes: bool,
    /// Partitions that have, or may have, a replica there.
    pub replicas: usize,
    /// Partitions that it leads.
    pub leads: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Serving,
    Draining,
    /// To hold nothing, and holding nothing.
    Drained,
    /// May join, and has not yet.
    Admitted,
    Removed,
}

/// A partition on its way.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MoveAccount {
    pub topic: String,
    pub partition: i32,
    pub from: Vec<u64>,
    pub to: Vec<u64>,
    /// What its new replicas lack; known to the partition's leader alone.
    pub bytes_left: Option<u64>,
}

/// Why a wish is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodesError {
    #[error("Not allowed: this needs {0:?} on the cluster.")]
    Forbidden(Operation),
    #[error("There is no such wish.")]
    UnknownVerb,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unavailable(String),
}

fn authorize(view: &View, principal: &Principal, host: IpAddr, operation: Operation) -> Result<(), NodesError> {
    let may = view.controller.image().allows(principal, &host.to_string(), operation, ResourceType::Cluster, CLUSTER_NAME);
    if may { Ok(()) } else { Err(NodesError::Forbidden(operation)) }
}

pub fn list(view: &View, principal: &Principal, host: IpAddr) -> Result<RegionNodes, NodesError> {
    authorize(view, principal, host, Operation::Describe)?;
    let image = view.controller.image();
    Ok(RegionNodes {
        region: view.region.to_string(),
        node_id: view.node_id,
        controller: view.controller.leader(),
        nodes: accounts(view, &image),
        moves: moves(view, &image),
    })
}

fn accounts(view: &View, image: &Image) -> Vec<NodeAccount> {
    let (mut replicas, mut leads) = (BTreeMap::<u64, usize>::new(), BTreeMap::<u64, usize>::new());
    for topic in image.topics.values() {
        for (partition, _) in (0i32..).zip(&topic.partitions) {
            topic.hosts(partition).into_iter().for_each(|node| *replicas.entry(node).or_default() += 1);
            if let Some((leader, _)) = view.raft.leader_of(GroupId { topic: topic.id, partition }) {
                *leads.entry(leader).or_default() += 1;
            }
        }
    }
    let live: BTreeSet<u64> = view.raft.live_nodes().into_iter().collect();
    let voters = view.controller.membership().voters;
    let known: BTreeSet<u64> = image.nodes.keys().chain(&image.admitted).chain(&image.removed).copied().collect();
    let account = |id: u64| {
        let record = image.nodes.get(&id);
        let replicas = replicas.get(&id).copied().unwrap_or(0);
        let state = match record {
            None if image.admitted.contains(&id) => NodeState::Admitted,
            None => NodeState::Removed,
            Some(_) if !image.draining.contains(&id) => NodeState::Serving,
            Some(_) if replicas > 0 => NodeState::Draining,
            Some(_) => NodeState::Drained,
        };
        NodeAccount {
            id,
            state,
            live: live.contains(&id),
            address: record.map(|record| format!("{}:{}", record.host, record.port)).unwrap_or_default(),
            rack: record.and_then(|record| record.rack.clone()),
            votes: voters.contains(&id),
            replicas,
            leads: leads.get(&id).copied().unwrap_or(0),
        }
    };
    known.into_iter().map(account).collect()
}

fn moves(view: &View, image: &Image) -> Vec<MoveAccount> {
    let mut moves = Vec::new();
    for topic in image.topics.values() {
        for (partition, under_way) in &topic.moves {
            let leader = view.raft.partition(GroupId { topic: topic.id, partition: *partition });
            let behind = leader.filter(|replica| replica.leadership().is_leader).map(|replica| replica.behind());
            let held = topic.replicas(*partition).cloned().unwrap_or_default();
            let new = |node: &&u64| !held.contains(node);
            moves.push(MoveAccount {
                topic: topic.name.clone(),
                partition: *partition,
                to: under_way.target.clone(),
                bytes_left: behind.map(|behind| under_way.target.iter().filter(new).filter_map(|node| Some(behind.get(node)?.bytes)).sum()),
                from: held,
            });
        }
    }
    moves
}

/// Does what an operator wishes of one node, as far as the metadata go; what follows from it the nodes do by themselves.
pub async fn wish(view: &View, principal: &Principal, host: IpAddr, id: u64, verb: &str) -> Result<(), NodesError> {
    authorize(view, principal, host, Operation::Alter)?;
    let command = match verb {
        "add" => Command::AdmitNode { id },
        "drain" => Command::DrainNode { id, drain: true },
        "keep" => Command::DrainNode { id, drain: false },
        "remove" => Command::RemoveNode { id, force: false },
        "remove-dead" => {
            check_dead(view, id)?;
            Command::RemoveNode { id, force: true }
        }
        _ => return Err(NodesError::UnknownVerb),
    };
    match view.controller.submit(command).await {
        Ok(Answer::Done) => {
            tracing::info!(%principal, node = id, verb, "the region's nodes change");
            Ok(())
        }
        Ok(Answer::Invalid { message }) => Err(NodesError::Refused(message)),
        Ok(other) => Err(NodesError::Refused(format!("{other:?}"))),
        Err(error) => Err(NodesError::Unavailable(error.to_string())),
    }
}

/// By force only a node is taken out that is not there any more, and that everything here can do without.
fn check_dead(view: &View, id: u64) -> Result<(), NodesError> {
    let live = view.raft.live_nodes();
    if live.contains(&id) {
        return Err(NodesError::Refused(format!("node {id} lives: drain it, or stop it first")));
    }
    let image = view.controller.image();
    for topic in image.topics.values() {
        for (partition, replicas) in (0i32..).zip(&topic.partitions).filter(|(_, replicas)| replicas.contains(&id)) {
            let left = replicas.iter().filter(|node| live.contains(node)).count();
            if left * 2 <= replicas.len() {
                let message = format!("{}-{partition} has no majority among the nodes that live: it would be lost", topic.name);
                return Err(NodesError::Refused(message));
            }
        }
    }
    Ok(())
}
