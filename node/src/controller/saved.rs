//! The region's metadata as they are kept in a snapshot of the controller's log: JSON, of which a later version may read more than it writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_auth::acl::{Binding, Store};
use meridian_replication::catalogue::CatalogueNode;
use uuid::Uuid;

use super::image::{Conflict, Image, NodeRecord, Topic};

/// All of an [`Image`] but what a node is told by its configuration.
#[derive(serde::Serialize, serde::Deserialize)]
struct Saved {
    version: u64,
    nodes: Vec<NodeRecord>,
    draining: BTreeSet<u64>,
    admitted: BTreeSet<u64>,
    removed: BTreeSet<u64>,
    node_configs: BTreeMap<u64, BTreeMap<String, String>>,
    topics: Vec<Topic>,
    acls: BTreeMap<String, Vec<Binding>>,
    next_producer_id: i64,
    catalogue_versions: BTreeMap<String, u64>,
    remote_nodes: BTreeMap<String, Vec<CatalogueNode>>,
    conflicts: BTreeMap<String, Vec<Conflict>>,
}

pub(super) fn save(image: &Image) -> Vec<u8> {
    // Taken apart by name, so that nothing that is added to it is forgotten here.
    let Image {
        version,
        mesh: _,
        region: _,
        nodes,
        draining,
        admitted,
        removed,
        node_configs,
        topics,
        topics_by_id: _,
        acls,
        superusers: _,
        next_producer_id,
        catalogue_versions,
        remote_nodes,
        conflicts,
    } = image.clone();
    let saved = Saved {
        version,
        nodes: nodes.into_values().collect(),
        draining,
        admitted,
        removed,
        node_configs,
        topics: topics.values().map(|topic| Topic::clone(topic)).collect(),
        acls: acls.into_iter().map(|(region, store)| (region, store.iter().cloned().collect())).collect(),
        next_producer_id,
        catalogue_versions,
        remote_nodes,
        conflicts,
    };
    // Nothing in it can fail to be written; empty bytes are refused by whoever restores.
    serde_json::to_vec(&saved).unwrap_or_default()
}

/// The image that was saved, in this node's mesh and region, for its superusers: `own` is its image before any command.
pub(super) fn restore(own: &Image, saved: &[u8]) -> Result<Image, serde_json::Error> {
    let Saved {
        version,
        nodes,
        draining,
        admitted,
        removed,
        node_configs,
        topics,
        acls,
        next_producer_id,
        catalogue_versions,
        remote_nodes,
        conflicts,
    } = serde_json::from_slice(saved)?;
    let topics: Vec<Arc<Topic>> = topics.into_iter().map(Arc::new).collect();
    let by_id: BTreeMap<Uuid, Arc<Topic>> = topics.iter().map(|topic| (topic.id, topic.clone())).collect();
    let stored = |bindings: Vec<Binding>| {
        let mut store = Store::default();
        for binding in bindings {
            store.add(binding);
        }
        Arc::new(store)
    };
    Ok(Image {
        version,
        nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
        draining,
        admitted,
        removed,
        node_configs,
        topics: Arc::new(topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect()),
        topics_by_id: Arc::new(by_id),
        acls: acls.into_iter().map(|(region, bindings)| (region, stored(bindings))).collect(),
        next_producer_id,
        catalogue_versions,
        remote_nodes,
        conflicts,
        mesh: own.mesh.clone(),
        region: own.region.clone(),
        superusers: own.superusers.clone(),
    })
}
