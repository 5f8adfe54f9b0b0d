//! A partition whose founder has lost its votes before it could send anybody the first membership.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::env::Env;
use crate::group::votes::raise_vote;
use crate::node::losses::note_loss;
use crate::node::{Node, NodeConfig, NodeError, Timing};
use crate::partition::{PartitionSettings, PartitionSpec, Rolling};
use crate::writer::Writer;
use crate::{GroupId, NodeId};

const PATIENCE: Duration = Duration::from_secs(20);
const FOUNDERS: [NodeId; 3] = [1, 2, 3];
const ID: GroupId = GroupId { topic: uuid::Uuid::from_u128(42), partition: 3 };

/// The founders' folders as they are when node 1 was elected in term 2, and lost its own before it could append anything at the others.
async fn folders(env: &Env) -> BTreeMap<NodeId, tempfile::TempDir> {
    let mut folders = BTreeMap::new();
    for node in FOUNDERS {
        let folder = tempfile::tempdir().expect("a folder");
        let writer = Writer::start(env, folder.path()).expect("a writer");
        if node == 1 {
            note_loss(&writer).await.expect("noted");
        } else {
            raise_vote(&writer, ID, 1, 2).await.expect("voted");
        }
        writer.stop().await;
        folders.insert(node, folder);
    }
    folders
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_lost_its_votes_begins_what_the_others_voted_for_and_never_held() {
    let env = Env::real();
    let folders = folders(&env).await;
    let addresses: BTreeMap<NodeId, SocketAddr> = FOUNDERS.map(|node| (node, free_address())).into();
    let mut nodes = Vec::new();
    for (node_id, folder) in &folders {
        let config = NodeConfig {
            node_id: *node_id,
            data_dir: folder.path().to_owned(),
            peer_listen: addresses[node_id],
            peers: addresses.iter().map(|(node, address)| (*node, address.to_string())).collect(),
            tls: None,
            timing: Timing { heartbeat_ms: 50, election_min_ms: 200, election_max_ms: 400 },
        };
        nodes.push(Node::start(env.clone(), config).await.expect("a node"));
    }
    let settings = PartitionSettings { rolling: Rolling::DEFAULT };
    let spec = PartitionSpec { id: ID, replicas: FOUNDERS.to_vec(), mirror: false, settings };
    for node in &nodes {
        let opened = node.open_partition(spec.clone()).await;
        assert!(opened.is_ok() || matches!(opened, Err(NodeError::Damaged(_))), "{opened:?}");
    }
    let all_follow = async {
        while !nodes.iter().all(|node| node.partition(ID).is_some_and(|partition| partition.leadership().leader.is_some())) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let led = tokio::time::timeout(PATIENCE, all_follow).await;
    let states: Vec<_> = nodes.iter().map(|node| (node.damaged(), node.partition(ID).map(|partition| partition.leadership()))).collect();
    assert!(led.is_ok(), "{states:?}");
    for node in &nodes {
        node.shutdown().await;
    }
}
