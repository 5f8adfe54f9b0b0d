//! What one region tells another about itself: its mirrored topics, with everything needed to create them there, and its ACLs.

use std::collections::BTreeMap;

use meridian_auth::acl::Binding;
use uuid::Uuid;

/// A topic as its home describes it to a region that mirrors it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CatalogueTopic {
    pub name: String,
    pub id: Uuid,
    pub partitions: i32,
    pub configs: BTreeMap<String, String>,
}

/// Everything a region tells a peer region. `version` grows with every change at the sender.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Catalogue {
    pub version: u64,
    pub topics: Vec<CatalogueTopic>,
    /// All bindings of the sender, every resource type but the cluster.
    pub acls: Vec<Binding>,
}
