//! What one region tells another about itself: its mirrored topics, with everything needed to create them there, its ACLs, and where its
//! nodes are reached.

use std::collections::BTreeMap;

use meridian_auth::acl::Binding;
use tokio::sync::watch;
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
    /// The sender's nodes, whoever asks: those that came after the receiver's configuration was written are dialled, too.
    #[serde(default)]
    pub nodes: Vec<CatalogueNode>,
}

/// A node of the sending region, and where its links are accepted (`host:port`). Who it is only its certificate says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct CatalogueNode {
    pub id: u64,
    pub link: String,
}

impl Catalogue {
    /// Do both say the same, whichever came first?
    pub fn repeats(&self, other: &Catalogue) -> bool {
        self.topics == other.topics && self.acls == other.acls && self.nodes == other.nodes
    }
}

/// The node's metadata, as links see it. Implemented by the `meridian` crate over its controller.
pub trait Metadata: std::fmt::Debug + Send + Sync {
    /// What this region tells `region` now. The `mesh.mirrors` of a topic decide whether it is listed at all.
    fn catalogue_for(&self, region: &str) -> Catalogue;
    /// Bumped whenever any region's catalogue may have changed.
    fn watch_changes(&self) -> watch::Receiver<u64>;
    /// May this region's topic be sent to `region`, as of now? Asked on stream open and on every change.
    fn may_send(&self, topic: Uuid, region: &str) -> bool;
    /// Topics mirrored here whose home is `region`, with their partition counts.
    fn mirrored_from(&self, region: &str) -> Vec<(Uuid, i32)>;
    /// Nodes of `region` and their link addresses, as the last catalogue that was taken in says.
    fn nodes_of(&self, region: &str) -> Vec<CatalogueNode>;
    /// Called with each catalogue that differs from the last one seen of that region; commits it to this region's metadata.
    /// Any node may call it; older versions are ignored.
    fn accept(&self, region: &str, catalogue: Catalogue);
}
