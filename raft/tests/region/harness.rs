//! Three nodes, or more, each on a runtime and in a folder of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_raft::batch::records::{Record, decode, encode};
use meridian_raft::batch::{Batch, BatchHeader};
use meridian_raft::control::{Control, Machine, ProposeError};
use meridian_raft::env::Env;
use meridian_raft::node::trust::{TrustError, trust_without};
use meridian_raft::node::{Node, NodeConfig, NodeError, PeerTls, Timing};
use meridian_raft::partition::{
    AppendError, Appended, DeleteRecordsError, Partition, PartitionSettings, PartitionSpec, ReconfigureError, Rolling, StoredBatch,
};
use meridian_raft::{GroupId, NodeId};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Runtime;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);
/// Nodes that form the region; those behind them join it.
const FOUNDERS: NodeId = 3;
/// Small, so that tests roll through several segments.
const SEGMENT_BYTES: u64 = 16 << 10;
const GROUP: GroupId = GroupId { topic: uuid::Uuid::from_u128(42), partition: 3 };

/// Remembers every command in order.
#[derive(Debug, Default)]
struct Journal(Mutex<Vec<Vec<u8>>>);

impl Machine for Journal {
    fn apply(&self, _index: u64, command: &[u8]) -> Vec<u8> {
        let mut journal = self.0.lock().expect("no panic in apply");
        journal.push(command.to_vec());
        [&[journal.len() as u8], command].concat()
    }
    fn save(&self) -> Vec<u8> {
        let journal = self.0.lock().expect("no panic in apply");
        journal.iter().flat_map(|command| [&(command.len() as u32).to_be_bytes(), command.as_slice()].concat()).collect()
    }
    fn restore(&self, mut saved: &[u8]) -> Result<(), String> {
        let mut commands = Vec::new();
        while let Some((length, rest)) = saved.split_first_chunk() {
            let (command, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or("cut off")?;
            commands.push(command.to_vec());
            saved = rest;
        }
        *self.0.lock().expect("no panic in apply") = commands;
        Ok(())
    }
}

struct Running {
    runtime: Runtime,
    node: Node,
    partition: Partition,
    control: Control,
    journal: Arc<Journal>,
}

pub struct Region {
    authority: Authority,
    addresses: BTreeMap<NodeId, SocketAddr>,
    folders: BTreeMap<NodeId, tempfile::TempDir>,
    running: BTreeMap<NodeId, Running>,
    /// Of nodes that wait for others.
    begun: Vec<Runtime>,
    mirror: bool,
    segment_bytes: u64,
}

/// A certificate authority that lives as long as a test.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root").der().clone();
        Authority { issuer: Issuer::new(params, key), root }
    }

    fn tls(&self, region: &str, node: NodeId) -> PeerTls {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        let uri = format!("spiffe://test/region/{region}/node/{node}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ascii")), SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let chain = vec![params.signed_by(&key, &self.issuer).expect("a certificate").der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().expect("a verifier");
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .expect("a server");
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("a client");
        PeerTls { server: Arc::new(server), client: Arc::new(client), identity_prefix: format!("spiffe://test/region/{region}/") }
    }
}

fn free_address() -> SocketAddr {
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

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// Starts a node with its controller and its partition, however long a repair takes.
async fn open(
    config: NodeConfig,
    peers: BTreeMap<NodeId, Vec<String>>,
    spec: PartitionSpec,
    machine: Arc<Journal>,
) -> Result<(Node, Control, Partition), NodeError> {
    let founds = config.node_id <= FOUNDERS;
    let node = Node::start(Env::real(), config).await?;
    node.set_peers(peers);
    let control = if founds { node.open_controller(machine).await? } else { node.join_controller(machine).await? };
    let begun = Instant::now();
    loop {
        match node.open_partition(spec.clone()).await {
            Err(NodeError::Damaged(_)) if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(20)).await,
            opened => return Ok((node, control, opened?)),
        }
    }
}

impl Region {
    pub fn start() -> Region {
        Region::start_with_segments(SEGMENT_BYTES)
    }

    pub fn start_with_segments(bytes: u64) -> Region {
        Region::start_as(false, 3, bytes)
    }

    pub fn start_mirror() -> Region {
        Region::start_as(true, 3, SEGMENT_BYTES)
    }

    /// Nodes 1 to 3 form the partition; those behind them are ready to join it.
    pub fn start_with_joiners(count: NodeId) -> Region {
        Region::start_as(false, count, SEGMENT_BYTES)
    }

    fn start_as(mirror: bool, count: NodeId, segment_bytes: u64) -> Region {
        let addresses = (1..=count).map(|node| (node, free_address())).collect();
        let folders = (1..=count).map(|node| (node, tempfile::tempdir().expect("a folder"))).collect();
        let mut region =
            Region { authority: Authority::new(), addresses, folders, running: BTreeMap::new(), begun: Vec::new(), mirror, segment_bytes };
        for node in 1..=count {
            region.restart(node);
        }
        region
    }

    fn config(&self, folder: NodeId, node_id: NodeId, region: &str) -> NodeConfig {
        NodeConfig {
            node_id,
            data_dir: self.folders[&folder].path().to_owned(),
            peer_listen: self.addresses[&node_id],
            peers: self.known_to(node_id),
            tls: Some(self.authority.tls(region, node_id)),
            timing: Timing { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 },
        }
    }

    /// The founders, and the node itself: whoever joins later is told by `set_peers`.
    fn known_to(&self, node: NodeId) -> BTreeMap<NodeId, String> {
        let known = self.addresses.iter().filter(|(other, _)| **other <= FOUNDERS || **other == node);
        known.map(|(node, address)| (*node, address.to_string())).collect()
    }

    fn spec(&self, node_id: NodeId) -> PartitionSpec {
        PartitionSpec {
            id: GROUP,
            replicas: if node_id <= FOUNDERS { vec![1, 2, 3] } else { vec![] },
            mirror: self.mirror,
            settings: PartitionSettings { rolling: Rolling { segment_bytes: self.segment_bytes, ..Rolling::DEFAULT } },
        }
    }

    /// Everybody's addresses, behind a stale one each: the next is tried.
    fn peers(&self) -> BTreeMap<NodeId, Vec<String>> {
        self.addresses.iter().map(|(node, address)| (*node, vec!["127.0.0.1:1".to_owned(), address.to_string()])).collect()
    }

    pub fn start_on(&mut self, folder: NodeId, node_id: NodeId) -> Result<(), NodeError> {
        let runtime = runtime();
        let journal = Arc::new(Journal::default());
        let opened = open(self.config(folder, node_id, "here"), self.peers(), self.spec(node_id), journal.clone());
        let (node, control, partition) = runtime.block_on(opened)?;
        self.running.insert(node_id, Running { runtime, node, partition, control, journal });
        Ok(())
    }

    /// Starts a node that is not expected to be whole before others are.
    pub fn begin(&mut self, node: NodeId) {
        let runtime = runtime();
        runtime.spawn(open(self.config(node, node, "here"), self.peers(), self.spec(node), Arc::default()));
        self.begun.push(runtime);
    }

    /// Kills what was begun, whether it has come up or not.
    pub fn kill_begun(&mut self) {
        self.begun.drain(..).for_each(|runtime| runtime.shutdown_background());
        std::thread::sleep(Duration::from_millis(300));
    }

    /// An operator says of a node that does not run which others are gone for good.
    pub fn trust_without(&self, node: NodeId, gone: &[NodeId]) -> Result<usize, TrustError> {
        runtime().block_on(trust_without(&Env::real(), self.folder(node), node, &gone.iter().copied().collect()))
    }

    pub fn restart(&mut self, node: NodeId) {
        let begun = Instant::now();
        // A killed node's port is free only once its tasks are gone, and that nobody waits for.
        while let Err(error) = self.start_on(node, node) {
            assert!(begun.elapsed() < PATIENCE, "node {node}: {error}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn kill(&mut self, node: NodeId) {
        let Running { runtime, .. } = self.running.remove(&node).expect("a running node");
        runtime.shutdown_background();
        // The port is free once the tasks are gone.
        std::thread::sleep(Duration::from_millis(100));
    }

    pub fn stop(&mut self, node: NodeId) {
        let running = self.running.remove(&node).expect("a running node");
        running.runtime.block_on(running.node.shutdown());
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.running.keys().copied().collect()
    }

    /// Who a node takes to be alive.
    pub fn live_nodes(&self, node: NodeId) -> Vec<NodeId> {
        self.running[&node].node.live_nodes()
    }

    pub fn partition(&self, node: NodeId) -> &Partition {
        &self.running[&node].partition
    }

    /// The node that leads the partition, once one does.
    pub fn leader(&self) -> NodeId {
        let begun = Instant::now();
        loop {
            if let Some((node, _)) = self.running.iter().find(|(_, running)| running.partition.leadership().is_leader) {
                return *node;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody leads");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn append(&self, node: NodeId, batch: Batch) -> Result<Appended, AppendError> {
        let running = &self.running[&node];
        let append = running.partition.append(batch);
        running.runtime.block_on(async { tokio::time::timeout(PATIENCE, append).await.unwrap_or(Err(AppendError::Timeout)) })
    }

    /// Moves the partition as its leader.
    pub fn reconfigure(&self, leader: NodeId, voters: &[NodeId], within: Duration) -> Option<Result<(), ReconfigureError>> {
        let running = &self.running[&leader];
        let change = running.partition.reconfigure(voters.iter().copied().collect());
        running.runtime.block_on(async { tokio::time::timeout(within, change).await.ok() })
    }

    /// Who decides over the commands, and who only follows, as the controller's leader makes it.
    pub fn reconfigure_control(&self, voters: &[NodeId], learners: &[NodeId]) {
        let begun = Instant::now();
        let (voters, learners): (BTreeSet<_>, BTreeSet<_>) = (voters.iter().copied().collect(), learners.iter().copied().collect());
        loop {
            for running in self.running.values() {
                let change = running.control.reconfigure(voters.clone(), learners.clone());
                if running.runtime.block_on(async { tokio::time::timeout(PATIENCE, change).await }) == Ok(Ok(())) {
                    return;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "the controller does not go to {voters:?} and {learners:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn set_catch_up_rate(&self, bytes_per_s: u64) {
        self.running.values().for_each(|running| running.node.set_catch_up_rate(bytes_per_s));
    }

    pub fn append_mirrored(&self, node: NodeId, batches: Vec<StoredBatch>) -> Result<Appended, AppendError> {
        let running = &self.running[&node];
        running.runtime.block_on(running.partition.append_mirrored(batches))
    }

    /// Everything committed that this node holds.
    pub fn read(&self, node: NodeId) -> Vec<StoredBatch> {
        let running = &self.running[&node];
        running.runtime.block_on(running.partition.read(0, usize::MAX)).expect("readable")
    }

    pub fn wait_for_offset(&self, node: NodeId, offset: i64) {
        let running = &self.running[&node];
        let mut watermark = running.partition.watch_high_watermark();
        let reached = async { tokio::time::timeout(PATIENCE, watermark.wait_for(|now| *now >= offset)).await.map(|_| ()) };
        running.runtime.block_on(reached).expect("the replica catches up");
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.running.values().next().expect("a running node").runtime.block_on(future)
    }

    pub fn delete_records(&self, node: NodeId, before: Option<i64>) -> Result<i64, DeleteRecordsError> {
        self.block_on(self.partition(node).delete_records(before))
    }

    pub fn wait_for_start(&self, node: NodeId, offset: i64) {
        let begun = Instant::now();
        while self.partition(node).log_start_offset() < offset {
            assert!(begun.elapsed() < PATIENCE, "node {node} still begins at {}", self.partition(node).log_start_offset());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Until segments are gone from the node's disk.
    pub fn wait_for_less(&self, node: NodeId, bytes: u64) {
        let begun = Instant::now();
        while self.partition(node).size_bytes() >= bytes {
            assert!(begun.elapsed() < PATIENCE, "node {node} still holds {} bytes", self.partition(node).size_bytes());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Hands leadership on until `node` has it.
    pub fn make_leader(&self, node: NodeId) {
        let begun = Instant::now();
        while self.leader() != node {
            assert!(begun.elapsed() < PATIENCE, "node {node} does not come to lead");
            let leader = self.leader();
            self.block_on(self.partition(leader).transfer_leadership());
        }
    }

    pub fn propose(&self, node: NodeId, command: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        let running = &self.running[&node];
        running.runtime.block_on(running.control.propose(command))
    }

    /// The commands this node's machine has applied, once there are `count`.
    pub fn commands(&self, node: NodeId, count: usize) -> Vec<Vec<u8>> {
        let begun = Instant::now();
        loop {
            let commands = self.running[&node].journal.0.lock().expect("no panic in apply").clone();
            if commands.len() >= count {
                return commands;
            }
            assert!(begun.elapsed() < PATIENCE, "node {node} applied {} of {count} commands", commands.len());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Until the controller's log on a node holds its first entries no more.
    pub fn wait_for_shorter_control(&self, node: NodeId) {
        let first = self.folders[&node].path().join(format!("logs/{}-0/{:020}.log", uuid::Uuid::nil(), 0));
        let begun = Instant::now();
        while first.exists() {
            assert!(begun.elapsed() < PATIENCE, "{} stays", first.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn delete(&self, node: NodeId) {
        let running = &self.running[&node];
        running.runtime.block_on(running.node.leave_partition(GROUP)).expect("deleted");
    }

    /// Waits until a node knows, with a replica or without, that `leader` leads the partition.
    pub fn wait_until_led_by(&self, node: NodeId, leader: NodeId) {
        let begun = Instant::now();
        let known = || self.running[&node].node.leader_of(GROUP).map(|(leader, _)| leader);
        while known() != Some(leader) {
            assert!(begun.elapsed() < PATIENCE, "node {node} knows {:?}", known());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn has_log_files(&self, node: NodeId) -> bool {
        self.log_folder(node).exists()
    }

    fn log_folder(&self, node: NodeId) -> PathBuf {
        self.folders[&node].path().join("logs").join(format!("{}-{}", GROUP.topic, GROUP.partition))
    }

    /// The partition's segments on a node's disk, in order.
    pub fn segments(&self, node: NodeId) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.log_folder(node)).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut segments: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
        segments.sort();
        segments
    }

    pub fn folder(&self, node: NodeId) -> &std::path::Path {
        self.folders[&node].path()
    }

    /// As after the disk was replaced.
    pub fn empty_folder(&self, node: NodeId) {
        std::fs::remove_dir_all(self.folder(node)).expect("removed");
        std::fs::create_dir(self.folder(node)).expect("a folder");
    }

    /// The node that leads the partition just now, as far as it says so.
    pub fn running_leader(&self) -> Option<NodeId> {
        self.running.iter().find(|(_, running)| running.partition.leadership().is_leader).map(|(node, _)| *node)
    }

    /// How many replicas a node has brought back since it was started.
    pub fn repaired(&self, node: NodeId) -> u64 {
        self.running[&node].node.repair_stats().repaired
    }

    pub fn wait_until_damaged_files_are_gone(&self, node: NodeId) {
        let begun = Instant::now();
        while self.log_folder(node).with_extension("damaged").exists() {
            assert!(begun.elapsed() < PATIENCE, "the damaged files stay");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Somebody with a certificate of the same authority, but for another region.
pub struct Strangers {
    tls: PeerTls,
    addresses: BTreeMap<NodeId, SocketAddr>,
}

impl Strangers {
    pub fn new(region: &Region) -> Strangers {
        Strangers { tls: region.authority.tls("elsewhere", 2), addresses: region.addresses.clone() }
    }

    /// The connection is closed without a byte of an answer.
    pub fn is_refused_by(&self, node: NodeId) -> bool {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        runtime().block_on(async {
            let stream = tokio::net::TcpStream::connect(self.addresses[&node]).await.expect("a listener");
            let connector = tokio_rustls::TlsConnector::from(self.tls.client.clone());
            let name = rustls::pki_types::ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
            let Ok(mut stream) = connector.connect(name, stream).await else { return true };
            // A pre-vote with an empty body: an admitted peer is answered with a complaint.
            let mut frame = vec![0, 0, 0, 29, 3];
            frame.extend([0; 28]);
            let _ = stream.write_all(&frame).await;
            let mut byte = [0];
            matches!(tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
        })
    }
}

/// A batch whose records all carry `number`.
pub fn batch(number: u32, count: usize) -> Batch {
    let record = Record { key: None, value: Some(Bytes::copy_from_slice(&number.to_be_bytes())), timestamp_ms: i64::from(number) };
    encode(&vec![record; count]).expect("a batch")
}

/// The same, of producer 7 with a sequence.
pub fn idempotent(number: u32, count: usize, sequence: i32) -> Batch {
    let mut bytes = BytesMut::from(&batch(number, count).bytes()[..]);
    bytes[43..51].copy_from_slice(&7i64.to_be_bytes());
    bytes[51..53].copy_from_slice(&0i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Batch::validate(bytes.freeze()).expect("a batch")
}

/// One number per batch; checks that offsets are dense.
pub fn values(batches: &[StoredBatch]) -> Vec<u32> {
    values_from(0, batches)
}

/// The same, of a log that begins with a batch at `next`.
pub fn values_from(mut next: i64, batches: &[StoredBatch]) -> Vec<u32> {
    let value = |stored: &StoredBatch| {
        let header = BatchHeader::decode(&stored.bytes).expect("a header");
        assert_eq!(header.base_offset, next);
        next += i64::from(header.last_offset_delta) + 1;
        let records = decode(&Batch::from_stored(stored.bytes.clone()).expect("a batch")).expect("records");
        u32::from_be_bytes(records[0].value.as_deref().expect("a value").try_into().expect("four bytes"))
    };
    batches.iter().map(value).collect()
}
