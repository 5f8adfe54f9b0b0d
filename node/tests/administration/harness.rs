//! Real nodes in this process: Raft on loopback, files in a temporary folder, everything between a decoded request and the disk.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use meridian::authentication::Authenticator;
use meridian::config::Authentication;
use meridian::controller::command::{Answer, Command};
use meridian::controller::handle::{Controller, Region};
use meridian::controller::image::NodeRecord;
use meridian::dev::issuer::{AUDIENCE, ISSUER, Issuer};
use meridian::groups::Groups;
use meridian::hosting::Hosting;
use meridian::kafka::{Broker, Session};
use meridian_auth::acl::{Binding, CLUSTER_NAME, Filter, Operation, PatternType, Permission, ResourceType};
use meridian_auth::principal::Principal;
use meridian_raft::NodeId;
use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, Timing};
use tempfile::TempDir;

/// A region of nodes; its files go with it.
pub struct RegionOfNodes {
    nodes: Vec<(Broker, Hosting)>,
    folder: TempDir,
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

impl RegionOfNodes {
    /// Nodes 1 to `count` of region us, all registered. `User:root` is a superuser.
    pub async fn start(count: u64) -> RegionOfNodes {
        let folder = tempfile::tempdir().expect("a folder");
        let addresses: BTreeMap<NodeId, SocketAddr> = (1..=count).map(|node| (node, free_address())).collect();
        let mut nodes = Vec::new();
        for node in 1..=count {
            nodes.push(start_node(node, &addresses, folder.path()).await);
        }
        let region = RegionOfNodes { nodes, folder };
        for (broker, _) in &region.nodes {
            let node = record(broker.node_id);
            assert_eq!(broker.controller.submit(Command::RegisterNode { node, joins: false }).await.expect("committed"), Answer::Done);
        }
        for (broker, _) in &region.nodes {
            let mut image = broker.controller.watch();
            let complete = image.wait_for(|image| image.nodes.len() as u64 == count);
            tokio::time::timeout(Duration::from_secs(10), complete).await.expect("in time").expect("running");
        }
        region
    }

    pub fn broker(&self) -> &Broker {
        &self.nodes[0].0
    }

    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.nodes.iter().map(|(broker, _)| broker)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn stop(self) {
        for (broker, hosting) in self.nodes {
            drop(hosting);
            broker.raft.shutdown().await;
        }
    }
}

async fn start_node(node_id: NodeId, addresses: &BTreeMap<NodeId, SocketAddr>, folder: &Path) -> (Broker, Hosting) {
    let env = Env::real();
    let config = NodeConfig {
        node_id,
        data_dir: folder.join(node_id.to_string()),
        peer_listen: addresses[&node_id],
        peers: addresses.iter().map(|(node, address)| (*node, address.to_string())).collect(),
        // What is proven here does not depend on it; the raft crate's own tests use mutual TLS.
        tls: None,
        timing: Timing { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 },
    };
    let raft = Node::start(env.clone(), config).await.expect("a node");
    let region = Region { mesh: "test".to_owned(), name: "us".to_owned(), number: 1, superusers: vec![Principal::user("root")] };
    let controller = Controller::start(&raft, region).await.expect("a controller");
    let hosting = Hosting::start(node_id, raft.clone(), controller.clone());
    let groups = Groups::start(env.clone(), raft.clone(), controller.clone());
    let issuer = folder.join("issuer");
    Issuer::open(&issuer).expect("an issuer");
    let jwks = issuer.join("jwks.json").to_string_lossy().into_owned();
    let authentication = Authentication { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned(), jwks };
    let authenticator = Authenticator::start(env.clone(), &authentication).await.expect("an authenticator");
    let broker = Broker {
        node_id,
        region: "us".into(),
        cluster_id: "test.us".into(),
        raft,
        controller,
        groups,
        authenticator,
        env,
        counters: Default::default(),
        producer_ids: Default::default(),
        tracing: Default::default(),
    };
    (broker, hosting)
}

fn record(id: u64) -> NodeRecord {
    let address = format!("n{id}.us.example:9000");
    NodeRecord {
        id,
        host: format!("n{id}.us.example"),
        port: 9092,
        admin: address.clone(),
        link: address,
        rack: Some("a".into()),
        peer: None,
    }
}

pub fn session(name: &str) -> Session {
    Session { principal: Principal::user(name), host: IpAddr::V4(Ipv4Addr::LOCALHOST), client_id: "test".into() }
}

pub fn root() -> Session {
    session("root")
}

/// `User:alice` may do this.
pub fn alice_may(operation: Operation, resource: ResourceType, name: &str) -> Binding {
    let (principal, name) = (Principal::user("alice"), name.to_owned());
    Binding { resource, pattern: PatternType::Literal, name, principal, host: "*".into(), operation, permission: Permission::Allow }
}

pub fn on_cluster(operation: Operation) -> Binding {
    alice_may(operation, ResourceType::Cluster, CLUSTER_NAME)
}

/// Sets `User:alice`'s rules to exactly these.
pub async fn set_rules_of_alice(broker: &Broker, bindings: &[Binding]) {
    let filter = Filter { principal: Some(Principal::user("alice")), ..Filter::default() };
    broker.controller.submit(Command::DeleteAcls { filters: vec![filter] }).await.expect("committed");
    if !bindings.is_empty() {
        let answer = broker.controller.submit(Command::CreateAcls { bindings: bindings.to_vec() }).await.expect("committed");
        assert_eq!(answer, Answer::Done);
    }
}
