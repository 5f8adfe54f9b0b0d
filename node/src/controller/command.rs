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
    /// The id keeps a delete that comes late from a topic that was made again under the name.
    DeleteTopic {
        name: String,
        id: Uuid,
    },
    /// Adds partitions behind those that are there. `from` is how many the proposer saw: the placement is for what follows them.
    GrowTopic {
        name: String,
        from: usize,
        replicas: Vec<Vec<u64>>,
    },
    AlterTopicConfigs {
        name: String,
        changes: BTreeMap<String, ConfigChange>,
        /// What is set and not among the changes goes back to its default.
        replace: bool,
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

/// What becomes of one config. The change of a list is decided where it is applied, so that none of two at once is lost.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigChange {
    Set(String),
    /// Back to the default.
    Reset,
    /// Adds to a list what it does not hold yet; values are separated by commas.
    Append(String),
    /// Takes from a list.
    Subtract(String),
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
