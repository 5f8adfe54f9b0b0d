//! All Raft groups of one process: the controller and every partition that has a replica here, over one peer connection per neighbour.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::control::{Control, Machine};
use crate::env::Env;
use crate::partition::{Partition, PartitionSpec};
use crate::{GroupId, NodeId};

/// Mutual TLS for peers; None only in simulation.
#[derive(Debug, Clone)]
pub struct PeerTls {
    pub server: Arc<rustls::ServerConfig>,
    pub client: Arc<rustls::ClientConfig>,
    /// `spiffe://MESH/region/R/` : what every peer's URI SAN must start with; the rest is `node/N`.
    pub identity_prefix: String,
}

/// How one node takes part in its region.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub node_id: NodeId,
    pub data_dir: PathBuf,
    pub peer_listen: SocketAddr,
    /// `host:port` of every node of the region, this one included.
    pub peers: BTreeMap<NodeId, String>,
    pub tls: Option<PeerTls>,
    pub timing: Timing,
    /// Bytes of recent batches kept in memory, all partitions together.
    pub tail_cache_bytes: usize,
    /// False only in the simulator's mutation test.
    pub fsync: bool,
}

/// Raft's clocks, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("data folder: {0}")]
    Io(#[from] std::io::Error),
    #[error("the data folder belongs to node {found}, this is node {expected}")]
    WrongNode { found: NodeId, expected: NodeId },
    #[error("raft: {0}")]
    Raft(String),
}

/// Figures for telemetry, all since start unless a unit says otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeStats {
    pub syncs: u64,
    pub sync_us_sum: u64,
    pub sync_us_max: u64,
    pub bytes_written: u64,
    pub elections: u64,
}

/// One process's part in its region. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {}

#[allow(unused_variables)]
impl Node {
    /// Opens the data folder, starts the peer listener and the writer. Runs Raft on the calling tokio runtime.
    pub async fn start(env: Env, config: NodeConfig) -> Result<Node, NodeError> {
        unimplemented!()
    }
    /// Opens (and on first start forms) the controller group of all `config.peers`; replays committed commands into `machine`.
    pub async fn open_controller(&self, machine: Arc<dyn Machine>) -> Result<Control, NodeError> {
        unimplemented!()
    }
    /// Opens (and on first start forms) one partition's group. Opening twice returns the same handle.
    pub async fn open_partition(&self, spec: PartitionSpec) -> Result<Partition, NodeError> {
        unimplemented!()
    }
    pub fn partition(&self, id: GroupId) -> Option<Partition> {
        unimplemented!()
    }
    pub fn partitions(&self) -> Vec<Partition> {
        unimplemented!()
    }
    /// Stops the group and removes its files.
    pub async fn delete_partition(&self, id: GroupId) -> Result<(), NodeError> {
        unimplemented!()
    }
    /// Who leads a group, also where this node holds no replica of it (learned from the peers).
    pub fn leader_of(&self, id: GroupId) -> Option<(NodeId, i32)> {
        unimplemented!()
    }
    /// Peers that answered within the last election timeout (this node included).
    pub fn live_nodes(&self) -> Vec<NodeId> {
        unimplemented!()
    }
    pub fn stats(&self) -> NodeStats {
        unimplemented!()
    }
    /// Hands every leadership over, flushes, and stops. Idempotent.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
