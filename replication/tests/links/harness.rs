//! Two regions in one process: real Raft nodes, real links over loopback, metadata in memory, and a relay that can cut the path between them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use meridian_raft::batch::Batch;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, Timing};
use meridian_raft::partition::{Partition, PartitionSettings, PartitionSpec, Rolling, StoredBatch};
use meridian_raft::{GroupId, NodeId};
use meridian_replication::catalogue::{Catalogue, CatalogueNode, CatalogueTopic, Metadata};
use meridian_replication::link::{LinkConfig, Links, MirrorStatus};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const TOPIC: Uuid = Uuid::from_u128(42);

/// A certificate authority that lives as long as a test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub root_pem: String,
}

/// PEM of a chain and its key.
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = params.self_signed(&key).expect("a root").pem();
        Authority { issuer: Issuer::new(params, key), root_pem }
    }

    pub fn identity(&self, uri: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ascii")), SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let certificate_pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { certificate_pem, key_pem: key.serialize_pem() }
    }
}

/// A region's metadata, as its nodes see them: one topic, homed in one of the regions.
#[derive(Debug)]
pub struct MemoryMetadata {
    region: String,
    home: String,
    pub partitions: i32,
    refused: Mutex<BTreeSet<String>>,
    pub accepted: Mutex<Vec<(String, Catalogue)>>,
    /// Nodes of the own region that others are told of.
    told: Mutex<Vec<CatalogueNode>>,
    version: watch::Sender<u64>,
}

impl MemoryMetadata {
    fn new(region: &str, home: &str, partitions: i32) -> Arc<MemoryMetadata> {
        Arc::new(MemoryMetadata {
            region: region.to_owned(),
            home: home.to_owned(),
            partitions,
            refused: Mutex::default(),
            accepted: Mutex::default(),
            told: Mutex::default(),
            version: watch::Sender::new(1),
        })
    }

    /// Other regions are told of these nodes from now on.
    pub fn tell(&self, nodes: Vec<CatalogueNode>) {
        *self.told.lock().expect("no panic") = nodes;
        self.version.send_modify(|version| *version += 1);
    }

    /// Allows or refuses the topic to a region from now on.
    pub fn allow(&self, region: &str, allowed: bool) {
        let mut refused = self.refused.lock().expect("no panic");
        if allowed {
            refused.remove(region)
        } else {
            refused.insert(region.to_owned())
        };
        drop(refused);
        self.version.send_modify(|version| *version += 1);
    }
}

impl Metadata for MemoryMetadata {
    fn catalogue_for(&self, region: &str) -> Catalogue {
        let topic = CatalogueTopic { name: "flights".to_owned(), id: TOPIC, partitions: self.partitions, configs: BTreeMap::new() };
        let topics = if self.may_send(TOPIC, region) { vec![topic] } else { Vec::new() };
        Catalogue { version: *self.version.borrow(), topics, acls: Vec::new(), nodes: self.told.lock().expect("no panic").clone() }
    }
    fn watch_changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
    fn may_send(&self, topic: Uuid, region: &str) -> bool {
        topic == TOPIC && self.region == self.home && !self.refused.lock().expect("no panic").contains(region)
    }
    fn mirrored_from(&self, region: &str) -> Vec<(Uuid, i32)> {
        if region == self.home && region != self.region { vec![(TOPIC, self.partitions)] } else { Vec::new() }
    }
    fn nodes_of(&self, region: &str) -> Vec<CatalogueNode> {
        let accepted = self.accepted.lock().expect("no panic");
        accepted.iter().rev().find(|(of, _)| of == region).map(|(_, catalogue)| catalogue.nodes.clone()).unwrap_or_default()
    }
    fn accept(&self, region: &str, catalogue: Catalogue) {
        self.accepted.lock().expect("no panic").push((region.to_owned(), catalogue));
    }
}

pub fn free_address() -> SocketAddr {
    // Below the ports that dials take: one of another test could have it before its node listens.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let port = 10_000 + (std::process::id().wrapping_mul(64) + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let listener = u16::try_from(port).ok().and_then(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
        if let Some(address) = listener.and_then(|listener| listener.local_addr().ok()) {
            return address;
        }
    }
}

pub fn free_udp_address() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("a free port")
}

/// One node with its links.
pub struct Member {
    pub node: Node,
    pub links: Option<Links>,
    pub partitions: Vec<Partition>,
    _folder: tempfile::TempDir,
}

pub struct Region {
    pub name: String,
    pub metadata: Arc<MemoryMetadata>,
    pub members: BTreeMap<NodeId, Member>,
    /// Where each node's links listen, and where the other region dials: through a relay.
    pub listen: BTreeMap<NodeId, SocketAddr>,
    pub dialled: BTreeMap<NodeId, SocketAddr>,
}

/// Home `us`, mirror `eu`, and one relay in front of each link listener.
pub struct Mesh {
    pub authority: Authority,
    pub home: Region,
    pub mirror: Region,
    pub path: Path,
}

/// All relays together: one switch for the path between the regions.
#[derive(Clone)]
pub struct Path {
    cut: Arc<AtomicBool>,
    relays: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.path.relays.lock().expect("no panic").drain(..).for_each(|relay| relay.abort());
    }
}

impl Path {
    fn new() -> Path {
        Path { cut: Arc::default(), relays: Arc::default() }
    }

    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// Forwards datagrams between whoever dials `front` and `back`, each dialler from a socket of its own.
    async fn relay(&self, front: SocketAddr, back: SocketAddr) {
        let cut = self.cut.clone();
        let socket = Arc::new(tokio::net::UdpSocket::bind(front).await.expect("a socket"));
        let task = tokio::spawn(async move {
            let mut diallers: BTreeMap<SocketAddr, Arc<tokio::net::UdpSocket>> = BTreeMap::new();
            let mut answers = tokio::task::JoinSet::new();
            let mut buffer = vec![0; 65_536];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                if cut.load(Ordering::Relaxed) {
                    continue;
                }
                if let Entry::Vacant(vacant) = diallers.entry(from) {
                    let own = Arc::new(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket"));
                    answers.spawn(answer(vacant.insert(own).clone(), socket.clone(), from, cut.clone()));
                }
                let _ = diallers[&from].send_to(&buffer[..length], back).await;
            }
        });
        self.relays.lock().expect("no panic").push(task.abort_handle());
    }
}

/// The way back to one dialler.
async fn answer(own: Arc<tokio::net::UdpSocket>, front: Arc<tokio::net::UdpSocket>, dialler: SocketAddr, cut: Arc<AtomicBool>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, _)) = own.recv_from(&mut buffer).await else { continue };
        if !cut.load(Ordering::Relaxed) {
            let _ = front.send_to(&buffer[..length], dialler).await;
        }
    }
}

impl Mesh {
    pub async fn start(nodes: u64) -> Mesh {
        Mesh::with_partitions(nodes, 1).await
    }

    pub async fn with_partitions(nodes: u64, partitions: i32) -> Mesh {
        let mut mesh = Mesh::open(nodes, partitions).await;
        for node in 1..=nodes {
            mesh.start_links("us", node).await;
            mesh.start_links("eu", node).await;
        }
        mesh
    }

    /// No links yet.
    pub async fn unlinked(nodes: u64) -> Mesh {
        Mesh::open(nodes, 1).await
    }

    pub async fn open(nodes: u64, partitions: i32) -> Mesh {
        let mesh = Mesh {
            authority: Authority::new(),
            home: Region::open("us", nodes, partitions).await,
            mirror: Region::open("eu", nodes, partitions).await,
            path: Path::new(),
        };
        for region in [&mesh.home, &mesh.mirror] {
            for (node, listen) in &region.listen {
                mesh.path.relay(region.dialled[node], *listen).await;
            }
        }
        mesh
    }

    /// Starts a node's links (again).
    pub async fn start_links(&mut self, region: &str, node: NodeId) {
        let Mesh { authority, home, mirror, .. } = self;
        let (region, other) = if region == "us" { (home, &*mirror) } else { (mirror, &*home) };
        let identity = authority.identity(&format!("spiffe://test/region/{}/node/{node}", region.name));
        let addresses = other.dialled.values().map(SocketAddr::to_string).collect();
        let config = LinkConfig {
            mesh: "test".to_owned(),
            region: region.name.clone(),
            node_id: node,
            listen: region.listen[&node],
            remote: BTreeMap::from([(other.name.clone(), addresses)]),
            discover: true,
            ca_pem: authority.root_pem.clone().into(),
            certificate_pem: identity.certificate_pem.into(),
            key_pem: identity.key_pem.into(),
        };
        let member = region.members.get_mut(&node).expect("a member");
        let links = Links::start(config, member.node.clone(), region.metadata.clone(), Env::real()).await.expect("links");
        member.links = Some(links);
    }

    pub async fn stop(self) {
        for member in self.home.members.values().chain(self.mirror.members.values()) {
            if let Some(links) = &member.links {
                links.shutdown().await;
            }
        }
        for member in self.home.members.values().chain(self.mirror.members.values()) {
            member.node.shutdown().await;
        }
    }
}

impl Region {
    async fn open(name: &str, nodes: u64, partitions: i32) -> Region {
        let addresses: BTreeMap<NodeId, SocketAddr> = (1..=nodes).map(|node| (node, free_address())).collect();
        let mut members = BTreeMap::new();
        for node_id in 1..=nodes {
            let folder = tempfile::tempdir().expect("a folder");
            let config = NodeConfig {
                node_id,
                data_dir: folder.path().to_owned(),
                peer_listen: addresses[&node_id],
                peers: addresses.iter().map(|(node, address)| (*node, address.to_string())).collect(),
                // What is proven here does not depend on it; the raft crate's own tests use mutual TLS.
                tls: None,
                timing: Timing { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 },
            };
            let node = Node::start(Env::real(), config).await.expect("a node");
            members.insert(node_id, Member { node, links: None, partitions: Vec::new(), _folder: folder });
        }
        for member in members.values_mut() {
            for partition in 0..partitions {
                let spec = PartitionSpec {
                    id: GroupId { topic: TOPIC, partition },
                    replicas: (1..=nodes).collect(),
                    mirror: name != "us",
                    settings: PartitionSettings { rolling: Rolling { segment_bytes: 1 << 20, ..Rolling::DEFAULT } },
                };
                member.partitions.push(member.node.open_partition(spec).await.expect("a partition"));
            }
        }
        let free = |_| (1..=nodes).map(|node| (node, free_udp_address())).collect();
        let metadata = MemoryMetadata::new(name, "us", partitions);
        Region { name: name.to_owned(), metadata, members, listen: free(()), dialled: free(()) }
    }

    /// The node that leads partition 0, once one does.
    pub async fn leader(&self) -> NodeId {
        let leads = || self.members.iter().find(|(_, member)| member.partitions[0].leadership().is_leader).map(|(node, _)| *node);
        until("a leader", || leads().is_some()).await;
        leads().expect("a leader")
    }

    pub async fn leading(&self) -> &Partition {
        &self.members[&self.leader().await].partitions[0]
    }

    /// What the leader's links say of partition 0.
    pub async fn status(&self) -> MirrorStatus {
        let mut found = None;
        until("a mirror's status", || {
            found = self.members.values().flat_map(|member| &member.links).flat_map(Links::mirrors).find(|status| status.partition == 0);
            found.is_some()
        })
        .await;
        found.expect("a status")
    }

    pub async fn append(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let begun = Instant::now();
            while let Err(error) = self.leading().await.append(batch(number)).await {
                assert!(begun.elapsed() < PATIENCE, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub async fn wait_for_end(&self, end: i64) {
        let begun = Instant::now();
        while self.leading().await.high_watermark() < end {
            assert!(begun.elapsed() < PATIENCE, "{} has {} of {end}", self.name, self.leading().await.high_watermark());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything committed in partition 0, as its leader holds it.
    pub async fn read(&self) -> Vec<StoredBatch> {
        self.leading().await.read(0, usize::MAX).await.expect("readable")
    }
}

/// A batch of two records that carry `number`.
pub fn batch(number: u32) -> Batch {
    let record = Record { key: None, value: Some(Bytes::copy_from_slice(&number.to_be_bytes())), timestamp_ms: i64::from(number) };
    encode(&[record.clone(), record]).expect("a batch")
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
