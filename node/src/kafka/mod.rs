//! The Kafka protocol: listener, frames, headers, versions, and one file per API in [`api`].
//!
//! What an API *means* lives elsewhere (`controller`, `groups`, the raft crate); here is how it is asked and answered.

pub mod api;
mod binding;
mod config_resource;
mod config_source;
mod connection;
pub mod counters;
mod cursor;
pub mod errors;
mod frame;
mod gate;
mod header;
pub mod latency;
pub mod leaders;
pub mod listener;
mod once;
pub mod producer_ids;
mod refusal;
mod reply;
mod sasl;
pub mod shape;
mod topic_key;
pub mod versions;

use std::net::IpAddr;
use std::sync::Arc;

use meridian_auth::acl::{Operation, ResourceType};
use meridian_auth::principal::Principal;
use meridian_raft::env::Env;

use crate::authentication::Authenticator;
use crate::controller::handle::Controller;
use crate::controller::image::Image;
use crate::groups::Groups;
use crate::telemetry::spans::Tracing;

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
    pub counters: Arc<counters::Counters>,
    pub producer_ids: producer_ids::ProducerIds,
    pub tracing: Tracing,
}

/// Who is at the other end of a connection, once authenticated.
#[derive(Debug, Clone)]
pub struct Session {
    pub principal: Principal,
    pub host: IpAddr,
    pub client_id: Arc<str>,
}

impl Broker {
    pub fn asker<'a>(&self, session: &'a Session) -> Asker<'a> {
        Asker { image: self.controller.image(), principal: &session.principal, host: session.host.to_string() }
    }

    /// The one question of authorization; see [`crate::controller::image::Image::allows`].
    pub fn allows(&self, session: &Session, operation: Operation, resource: ResourceType, name: &str) -> bool {
        self.controller.image().allows(&session.principal, &session.host.to_string(), operation, resource, name)
    }
}

/// A caller before one image of the metadata, for a request that asks more than one question.
#[derive(Debug)]
pub struct Asker<'a> {
    pub image: Arc<Image>,
    principal: &'a Principal,
    host: String,
}

impl Asker<'_> {
    /// Of any one resource of that type in this region.
    pub fn may_any(&self, operation: Operation, resource: ResourceType) -> bool {
        self.image.superusers.contains(self.principal)
            || self.image.acls.get(&self.image.region).is_some_and(|acls| acls.allows_any(self.principal, &self.host, operation, resource))
    }

    pub fn may(&self, operation: Operation, resource: ResourceType, name: &str) -> bool {
        self.image.allows(self.principal, &self.host, operation, resource, name)
    }
}
