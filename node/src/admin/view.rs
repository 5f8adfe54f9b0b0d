//! The parts of a running node that the admin listener and telemetry read.

use std::sync::Arc;

use meridian_raft::env::Env;
use meridian_raft::node::Node;
use meridian_replication::link::Links;

use crate::controller::handle::Controller;
use crate::groups::Groups;
use crate::kafka::counters::Counters;

/// Handles only, all cheap to clone.
#[derive(Debug, Clone)]
pub struct View {
    pub mesh: Arc<str>,
    pub region: Arc<str>,
    pub node_id: u64,
    pub env: Env,
    pub raft: Node,
    pub controller: Controller,
    pub groups: Groups,
    /// Of the Kafka listener.
    pub counters: Arc<Counters>,
    /// None on a node without links.
    pub links: Option<Links>,
    /// When the first certificate of this node's chain expires, seconds since the epoch.
    pub certificate_expires_at_s: i64,
}
