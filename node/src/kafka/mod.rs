//! The Kafka protocol: listener, frames, headers, versions, and one file per API in [`api`].

pub mod api;

use std::sync::Arc;

use meridian_auth::principal::Principal;

use crate::controller::Controller;

/// What every handler may use.
#[derive(Debug, Clone)]
pub struct Broker {
    pub node_id: u64,
    pub region: String,
    /// Kafka's cluster id: `MESH.REGION`.
    pub cluster_id: String,
    pub raft: meridian_raft::node::Node,
    pub controller: Controller,
}

/// Who is at the other end of a connection, once authenticated.
#[derive(Debug, Clone)]
pub struct Session {
    pub principal: Principal,
    /// Peer address, as ACL hosts are compared with it.
    pub host: String,
    pub client_id: Arc<str>,
}
