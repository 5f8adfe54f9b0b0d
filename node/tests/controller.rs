//! The region's metadata through real Raft groups: one order of commands, one image on every node, before and after a restart.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use meridian::controller::command::{Answer, Command};
use meridian::controller::handle::{Controller, Region};
use meridian_raft::NodeId;
use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, Timing};
use uuid::Uuid;

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

async fn start(node_id: NodeId, addresses: &BTreeMap<NodeId, SocketAddr>, folder: &Path) -> (Node, Controller) {
    let config = NodeConfig {
        node_id,
        data_dir: folder.join(node_id.to_string()),
        peer_listen: addresses[&node_id],
        peers: addresses.iter().map(|(node, address)| (*node, address.to_string())).collect(),
        // What is proven here does not depend on it; the raft crate's own tests use mutual TLS.
        tls: None,
        timing: Timing { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 },
    };
    let node = Node::start(Env::real(), config).await.expect("a node");
    let region = Region { mesh: "test".to_owned(), name: "us".to_owned(), number: 1, superusers: Vec::new() };
    let controller = Controller::start(&node, region).await.expect("a controller");
    (node, controller)
}

fn topic(name: &str) -> Command {
    Command::CreateTopic { name: name.to_owned(), id: Uuid::from_u128(7), replicas: vec![vec![1, 2, 3]], configs: BTreeMap::new() }
}

fn registration(id: u64) -> Command {
    let record = serde_json::json!({"command": "register_node", "node": {
        "id": id, "host": "localhost", "port": 9092, "admin": "localhost:9644", "link": "localhost:7000", "rack": null}});
    serde_json::from_value(record).expect("a command")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shows_the_same_image_and_a_restart_replays_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let addresses: BTreeMap<NodeId, SocketAddr> = (1..=3).map(|node| (node, free_address())).collect();
    let mut nodes = BTreeMap::new();
    for node in 1..=3 {
        nodes.insert(node, start(node, &addresses, folder.path()).await);
    }
    // Submitted at three nodes, of which at most one leads.
    for (id, (_, controller)) in &nodes {
        assert_eq!(controller.submit(registration(*id)).await.expect("committed"), Answer::Done);
    }
    assert_eq!(nodes[&2].1.submit(topic("flights")).await.expect("committed"), Answer::Done);
    assert!(nodes[&2].1.image().topics.contains_key("flights"), "the submitter's own image shows the change");
    assert_eq!(nodes[&3].1.submit(topic("flights")).await.expect("committed"), Answer::TopicExists);

    let (node, _) = nodes.remove(&1).expect("running");
    node.shutdown().await;
    drop(node);
    nodes.insert(1, start(1, &addresses, folder.path()).await);
    let expected = nodes[&3].1.image();
    for (_, controller) in nodes.values() {
        let mut image = controller.watch();
        let caught_up = image.wait_for(|image| image.version >= expected.version);
        tokio::time::timeout(std::time::Duration::from_secs(20), caught_up).await.expect("in time").expect("running");
        assert_eq!(*controller.image(), *expected);
    }
}
