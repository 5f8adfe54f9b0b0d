//! The region's metadata at one moment. Immutable; a change makes a new one that shares what did not change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_auth::acl::{Operation, Request, ResourceType, Store};
use meridian_auth::principal::Principal;
use meridian_replication::catalogue::CatalogueNode;
use uuid::Uuid;

/// A node of this region and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    pub id: u64,
    /// Advertised Kafka address.
    pub host: String,
    pub port: u16,
    /// `host:port` of the admin HTTP.
    pub admin: String,
    /// `host:port` of the QUIC listener.
    pub link: String,
    pub rack: Option<String>,
    /// `host:port` where the region's other nodes reach it; None of a node of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    /// Replicas of each partition; the first is preferred to lead.
    pub partitions: Vec<Vec<u64>>,
    /// Only what was set; defaults come from `controller::topic_config`.
    pub configs: BTreeMap<String, String>,
    /// Region that takes writes.
    pub home: String,
    /// Regions that keep a copy, home not among them.
    pub mirrors: Vec<String>,
    pub internal: bool,
    /// Partitions on their way to other nodes, or back.
    pub moves: BTreeMap<i32, Move>,
    /// Partitions that have moved. Their groups exist: whoever opens an empty replica waits for the group's leader and never forms a second
    /// group of the name.
    pub moved: BTreeSet<i32>,
}

/// A partition on its way. Its `partitions` entry says where it was until it has arrived.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Move {
    /// The replicas to be, the preferred leader first. Those it has now: it goes back.
    pub target: Vec<u64>,
    /// Every node that may have a replica by now.
    pub hosts: BTreeSet<u64>,
}

/// A topic that another region told of and that is not mirrored here, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Conflict {
    pub name: String,
    pub id: Uuid,
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Index of the last command in it.
    pub version: u64,
    pub mesh: String,
    pub region: String,
    pub nodes: BTreeMap<u64, NodeRecord>,
    /// Nodes of the region that are to hold nothing.
    pub draining: BTreeSet<u64>,
    /// What was set for a node while it ran.
    pub node_configs: BTreeMap<u64, BTreeMap<String, String>>,
    /// Nodes that may join and have not yet.
    pub admitted: BTreeSet<u64>,
    /// Nodes that were taken out of the region; they come back only when admitted.
    pub removed: BTreeSet<u64>,
    pub topics: Arc<BTreeMap<String, Arc<Topic>>>,
    pub topics_by_id: Arc<BTreeMap<Uuid, Arc<Topic>>>,
    /// ACLs by the region that made them, this one included.
    pub acls: BTreeMap<String, Arc<Store>>,
    /// `Kind:name` of principals that may do everything.
    pub superusers: Vec<Principal>,
    pub next_producer_id: i64,
    /// Last catalogue version accepted from each region.
    pub catalogue_versions: BTreeMap<String, u64>,
    /// Nodes of each region and where links to them are dialled, by its last catalogue.
    pub remote_nodes: BTreeMap<String, Vec<CatalogueNode>>,
    /// What each region's last catalogue told of and could not be mirrored. Empty lists are not kept.
    pub conflicts: BTreeMap<String, Vec<Conflict>>,
}

impl Image {
    /// Of these nodes, the ones that may be given replicas, each with its rack.
    pub fn candidates(&self, live: &[u64]) -> Vec<(u64, Option<&str>)> {
        let able = live.iter().filter(|node| !self.draining.contains(node));
        able.filter_map(|node| self.nodes.get(node)).map(|node| (node.id, node.rack.as_deref())).collect()
    }

    /// Superusers may all. A topic is decided by the ACLs of its home region alone (unknown topic: this region's); a group or transactional
    /// id by every region's ACLs together (any deny refuses); the cluster by this region's. ACLs that are not here deny.
    pub fn allows(&self, principal: &Principal, host: &str, operation: Operation, resource: ResourceType, name: &str) -> bool {
        if self.superusers.contains(principal) {
            return true;
        }
        let request = Request { principal, host, operation, resource, name };
        let by_region = |region: &str| self.acls.get(region).is_some_and(|store| store.allows(&request));
        match resource {
            ResourceType::Topic => by_region(self.topics.get(name).map_or(self.region.as_str(), |topic| topic.home.as_str())),
            ResourceType::Cluster => by_region(&self.region),
            ResourceType::Group | ResourceType::TransactionalId => {
                // Without this region's own ACLs its denials are unknown.
                self.acls.contains_key(&self.region)
                    && !self.acls.values().any(|store| store.denies(&request))
                    && self.acls.values().any(|store| store.allows(&request))
            }
        }
    }
}
