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
        /// The node did not found the region: it must have been admitted.
        #[serde(default)]
        joins: bool,
    },
    /// Lets a node join, or one that was removed come back.
    AdmitNode {
        id: u64,
    },
    /// Moves everything off a node and gives it nothing new; or, where `drain` is false, no more of that.
    DrainNode {
        id: u64,
        drain: bool,
    },
    /// Takes a node out of the region. By force: though it still holds replicas, where each has a majority elsewhere.
    RemoveNode {
        id: u64,
        force: bool,
    },
    /// Changes what of a node's configs changes while it runs, all of it or nothing.
    AlterNodeConfigs {
        node: u64,
        changes: BTreeMap<String, ConfigChange>,
    },
    /// Tells partitions where to move.
    MovePartitions {
        moves: Vec<PartitionMove>,
    },
    /// The partition's group has committed this target as its voters.
    FinishMove {
        topic: Uuid,
        partition: i32,
        target: Vec<u64>,
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

/// Where one partition is to be. None: where it came from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionMove {
    pub topic: Uuid,
    pub partition: i32,
    pub target: Option<Vec<u64>>,
}

/// Why one partition is not told to move.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum MoveRefusal {
    UnknownPartition,
    NothingToCancel,
    Impossible { message: String },
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
    /// The node may not join: it was never let in, or was taken out.
    NotAdmitted,
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
    /// Per partition of the command, why it does not move.
    Moves {
        refusals: Vec<Option<MoveRefusal>>,
    },
    ProducerIds {
        first: i64,
        count: u32,
    },
}
