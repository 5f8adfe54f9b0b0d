//! What can be done to the region's metadata, and what comes of it. Serialized as JSON in the controller's log; unknown fields are refused.

use std::collections::BTreeMap;

use meridian_auth::acl::{Binding, Filter};
use meridian_replication::catalogue::Catalogue;
use uuid::Uuid;

use super::image::NodeRecord;

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    RegisterNode {
        node: NodeRecord,
    },
    /// Replicas are chosen by the proposer and checked here: one list of nodes per partition.
    CreateTopic {
        name: String,
        id: Uuid,
        replicas: Vec<Vec<u64>>,
        configs: BTreeMap<String, String>,
    },
    DeleteTopic {
        name: String,
    },
    /// `None` removes a key.
    AlterTopicConfigs {
        name: String,
        changes: BTreeMap<String, Option<String>>,
    },
    CreateAcls {
        bindings: Vec<Binding>,
    },
    DeleteAcls {
        filters: Vec<Filter>,
    },
    /// Reserves a block of producer ids, unique in the mesh: the region's number is in the high bits.
    AllocateProducerIds {
        count: u32,
    },
    /// What another region told of itself. `replicas` places the topics that are new here.
    AcceptCatalogue {
        region: String,
        catalogue: Catalogue,
        replicas: BTreeMap<Uuid, Vec<Vec<u64>>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Done,
    TopicExists,
    UnknownTopic,
    /// The topic is homed in another region: change it there.
    HomedElsewhere {
        home: String,
    },
    Invalid {
        message: String,
    },
    /// Per filter, what was removed.
    AclsDeleted {
        matches: Vec<Vec<Binding>>,
    },
    ProducerIds {
        first: i64,
        count: u32,
    },
}
