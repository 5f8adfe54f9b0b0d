//! What a node is told at its start, how it fails, and the figures it keeps of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::NodeId;
use crate::log::LogError;

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
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("raft: {0}")]
    Raft(String),
    /// It takes no part in its group until it has been repaired, which goes on by itself.
    #[error("the replica is damaged and being repaired from its peers: {0}")]
    Damaged(String),
}

/// Figures for telemetry, all since start unless a unit says otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeStats {
    pub syncs: u64,
    pub sync_us_sum: u64,
    pub sync_us_max: u64,
    pub bytes_written: u64,
    pub elections: u64,
    /// What is free on the disk of the data folder.
    pub disk_free_bytes: u64,
    /// New data is refused for want of space.
    pub disk_full: bool,
    /// How often that began.
    pub disk_fills: u64,
    /// How often a replica came to rest, with nothing to wait for, and how often one had to wait again.
    pub quiesced: u64,
    pub woken: u64,
}
