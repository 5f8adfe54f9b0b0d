//! Two regions through their controllers and real links: a topic and its ACLs, made at home, are in the other region within a second.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian::controller::command::{Answer, Command};
use meridian::controller::handle::{Controller, Region};
use meridian::controller::image::NodeRecord;
use meridian::hosting::Hosting;
use meridian::mesh::Mesh;
use meridian_auth::acl::{Binding, Filter, Operation, PatternType, Permission, ResourceType};
use meridian_auth::principal::Principal;
use meridian_raft::GroupId;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, Timing};
use meridian_replication::link::{LinkConfig, Links};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::time::Instant;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);
const TOPIC: Uuid = Uuid::from_u128(7);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = params.self_signed(&key).expect("a root").pem();
        Authority { issuer: Issuer::new(params, key), root_pem }
    }

    /// PEM of a certificate and its key.
    fn identity(&self, region: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        let uri = format!("spiffe://test/region/{region}/node/1");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ascii")), SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }
}

/// A region of one node.
struct Member {
    raft: Node,
    controller: Controller,
    links: Links,
    _hosting: Hosting,
}

async fn start(authority: &Authority, folder: &Path, region: &str, number: u8, listen: SocketAddr, other: (&str, SocketAddr)) -> Member {
    let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port");
    let config = NodeConfig {
        node_id: 1,
        data_dir: folder.join(region),
        peer_listen: peer,
        peers: BTreeMap::from([(1, peer.to_string())]),
        tls: None,
        timing: Timing { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 },
    };
    let raft = Node::start(Env::real(), config).await.expect("a node");
    let names = Region { mesh: "test".to_owned(), name: region.to_owned(), number, superusers: Vec::new() };
    let controller = Controller::start(&raft, names).await.expect("a controller");
    let hosting = Hosting::start(1, raft.clone(), controller.clone());
    let mesh = Mesh::start(1, 1, raft.clone(), controller.clone(), Env::real());
    let (certificate_pem, key_pem) = authority.identity(region);
    let config = LinkConfig {
        mesh: "test".to_owned(),
        region: region.to_owned(),
        node_id: 1,
        listen,
        remote: BTreeMap::from([(other.0.to_owned(), vec![other.1.to_string()])]),
        discover: true,
        ca_pem: authority.root_pem.clone().into(),
        certificate_pem: certificate_pem.into(),
        key_pem: key_pem.into(),
    };
    let links = Links::start(config, raft.clone(), Arc::new(mesh), Env::real()).await.expect("links");
    let record = NodeRecord {
        id: 1,
        host: "localhost".to_owned(),
        port: 9092,
        admin: "localhost:1".to_owned(),
        link: listen.to_string(),
        rack: None,
        peer: None,
    };
    let member = Member { raft, controller, links, _hosting: hosting };
    member.submit(Command::RegisterNode { node: record, joins: false }).await;
    member
}

impl Member {
    async fn submit(&self, command: Command) {
        let begun = Instant::now();
        loop {
            match self.controller.submit(command.clone()).await {
                Ok(answer) => {
                    assert!(matches!(answer, Answer::Done | Answer::AclsDeleted { .. }), "{answer:?}");
                    return;
                }
                // No leader yet.
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn may_read(&self, who: &str) -> bool {
        self.controller.image().allows(&Principal::user(who), "10.0.0.1", Operation::Read, ResourceType::Topic, "flights")
    }

    fn end_offset(&self) -> Option<i64> {
        self.raft.partition(GroupId { topic: TOPIC, partition: 0 }).map(|partition| partition.high_watermark())
    }

    async fn stop(self) {
        self.links.shutdown().await;
        self.raft.shutdown().await;
    }
}

/// How long it took until it held.
async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

fn read_rule(permission: Permission, principal: Principal) -> Binding {
    Binding {
        resource: ResourceType::Topic,
        pattern: PatternType::Literal,
        name: "flights".to_owned(),
        principal,
        host: "*".to_owned(),
        operation: Operation::Read,
        permission,
    }
}

async fn append(member: &Member) {
    let id = GroupId { topic: TOPIC, partition: 0 };
    until("a leader", || member.raft.partition(id).is_some_and(|partition| partition.leadership().is_leader)).await;
    let record = Record { key: None, value: Some(Bytes::from_static(b"UA901")), timestamp_ms: 1 };
    member.raft.partition(id).expect("hosted").append(encode(&[record]).expect("a batch")).await.expect("acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_its_records_and_its_acls_reach_the_region_that_mirrors_it_and_a_denied_region_gets_no_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let [us_at, eu_at] =
        [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("a port"));
    let us = start(&authority, folder.path(), "us", 1, us_at, ("eu", eu_at)).await;
    let eu = start(&authority, folder.path(), "eu", 2, eu_at, ("us", us_at)).await;
    until("links", || [&us, &eu].iter().all(|member| member.links.peers().iter().all(|peer| peer.connected))).await;

    let configs = BTreeMap::from([("mesh.mirrors".to_owned(), "eu".to_owned()), ("segment.bytes".to_owned(), "1048576".to_owned())]);
    us.submit(Command::CreateTopic { name: "flights".to_owned(), id: TOPIC, replicas: vec![vec![1]], configs }).await;
    let known = until("the topic", || eu.controller.image().topics.get("flights").is_some_and(|topic| topic.home == "us")).await;
    append(&us).await;
    let mirrored = until("the record", || eu.end_offset() == Some(1)).await;
    assert!(known + mirrored < Duration::from_secs(2), "known after {known:?}, mirrored after {mirrored:?} more");

    assert!(!eu.may_read("ann"));
    us.submit(Command::CreateAcls { bindings: vec![read_rule(Permission::Allow, Principal::user("ann"))] }).await;
    let granted = until("the grant", || eu.may_read("ann")).await;
    us.submit(Command::CreateAcls { bindings: vec![read_rule(Permission::Deny, Principal::user("ann"))] }).await;
    let denied = until("the denial", || !eu.may_read("ann")).await;
    assert!(granted.max(denied) < Duration::from_secs(1), "granted after {granted:?}, denied after {denied:?}");

    us.submit(Command::CreateAcls { bindings: vec![read_rule(Permission::Deny, Principal::region("eu"))] }).await;
    until("the refusal", || eu.links.mirrors().iter().any(|mirror| mirror.error.is_some())).await;
    append(&us).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(eu.end_offset(), Some(1), "nothing of a refused topic is sent");
    let lifted = Filter { principal: Some(Principal::region("eu")), ..Filter::default() };
    us.submit(Command::DeleteAcls { filters: vec![lifted] }).await;
    until("the rest", || eu.end_offset() == Some(2)).await;

    us.submit(Command::DeleteTopic { name: "flights".to_owned(), id: TOPIC }).await;
    until("the mirror to go", || eu.end_offset().is_none() && eu.links.mirrors().is_empty()).await;
    eprintln!("topic known after {known:?}, record there {mirrored:?} later, ACL there after {granted:?} and {denied:?}");
    us.stop().await;
    eu.stop().await;
}
