//! The Kafka protocol: listener, frames, headers, versions, and one file per API in [`api`].
//!
//! What an API *means* lives elsewhere (`controller`, `groups`, the raft crate); here is how it is asked and answered.

pub mod api;
mod binding;
mod config_resource;
mod config_source;
mod refusal;
pub mod shape;

use std::net::IpAddr;
use std::sync::Arc;

use meridian_auth::acl::{Operation, ResourceType};
use meridian_auth::principal::Principal;
use meridian_raft::env::Env;

use crate::authentication::Authenticator;
use crate::controller::handle::Controller;
use crate::groups::Groups;

/// What every handler may use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker {
    pub node_id: u64,
    pub region: Arc<str>,
    /// Kafka's cluster id: `MESH.REGION`.
    pub cluster_id: Arc<str>,
    pub raft: meridian_raft::node::Node,
    pub controller: Controller,
    pub groups: Groups,
    pub authenticator: Authenticator,
    pub env: Env,
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
