//! The Kafka protocol: listener, frames, headers, versions, and one file per API in [`api`].

pub mod api;

use std::net::IpAddr;
use std::sync::Arc;

use meridian_auth::acl::{Operation, ResourceType};
use meridian_auth::principal::Principal;

use crate::authentication::Authenticator;
use crate::controller::Controller;
use crate::groups::Groups;

/// What every handler may use.
#[derive(Debug, Clone)]
pub struct Broker {
    pub node_id: u64,
    pub region: String,
    /// Kafka's cluster id: `MESH.REGION`.
    pub cluster_id: String,
    pub raft: meridian_raft::node::Node,
    pub controller: Controller,
    pub groups: Groups,
    pub authenticator: Authenticator,
    pub clock: Arc<dyn meridian_raft::env::Clock>,
}

/// Who is at the other end of a connection, once authenticated.
#[derive(Debug, Clone)]
pub struct Session {
    pub principal: Principal,
    pub host: IpAddr,
    pub client_id: Arc<str>,
}

impl Broker {
    /// The one question of authorization; see [`crate::controller::image::Image::allows`].
    pub fn allows(&self, session: &Session, operation: Operation, resource: ResourceType, name: &str) -> bool {
        self.controller.image().allows(&session.principal, &session.host.to_string(), operation, resource, name)
    }
}
