//! Configs as they are in force, each with where its value comes from, in the numbers of DescribeConfigs.

use crate::controller::create::{PARTITIONS_DEFAULT, REPLICAS_DEFAULT};
use crate::controller::image::{Image, Topic};
use crate::controller::node_config;
use crate::controller::topic_config::{self, HOME, Kind};

/// Sources (Kafka's `DescribeConfigsResponse.ConfigSource`): set on the topic, set on the node while it runs, set in the node's configuration file, never set.
pub const TOPIC: i8 = 1;
pub const DYNAMIC_BROKER: i8 = 2;
pub const STATIC_BROKER: i8 = 4;
pub const DEFAULT: i8 = 5;

/// One config as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    pub name: &'static str,
    pub value: Option<String>,
    pub kind: Kind,
    pub doc: &'static str,
    pub source: i8,
    pub read_only: bool,
    /// Where the value would come from, the one in force first.
    pub synonyms: Vec<(&'static str, String, i8)>,
}

/// Every config of a topic, set or not, sorted by name.
pub fn of_topic(topic: &Topic) -> Vec<InForce> {
    let in_force = |definition: &'static topic_config::Definition| {
        let set = topic.configs.get(definition.name).cloned();
        let default = if definition.name == HOME { topic.home.clone() } else { definition.default.to_owned() };
        let source = if set.is_some() { TOPIC } else { DEFAULT };
        let mut synonyms: Vec<_> = set.iter().map(|value| (definition.name, value.clone(), TOPIC)).collect();
        synonyms.push((node_name(definition.name), default.clone(), DEFAULT));
        InForce {
            name: definition.name,
            value: Some(set.unwrap_or(default)),
            kind: definition.kind,
            doc: definition.doc,
            source,
            // A home is not changed by writing another name: that takes a switch of homes.
            read_only: definition.name == HOME,
            synonyms,
        }
    };
    topic_config::definitions().iter().map(in_force).collect()
}

/// What Kafka calls the default of a topic's config, where it has another name for it: tools keep synonyms by name.
fn node_name(topics: &'static str) -> &'static str {
    match topics {
        "cleanup.policy" => "log.cleanup.policy",
        "max.message.bytes" => "message.max.bytes",
        "message.timestamp.type" => "log.message.timestamp.type",
        "retention.bytes" => "log.retention.bytes",
        "retention.ms" => "log.retention.ms",
        "segment.bytes" => "log.segment.bytes",
        "segment.ms" => "log.roll.ms",
        same => same,
    }
}

/// What a node tells of itself under Kafka's names. Only what [`node_config`] has, and was set, changes without the node's file and a restart.
pub fn of_node(image: &Image, node_id: u64) -> Vec<InForce> {
    let record = image.nodes.get(&node_id);
    let fixed = |name, value: Option<String>, kind, doc, source| InForce {
        name,
        synonyms: value.iter().map(|value| (name, value.clone(), source)).collect(),
        value,
        kind,
        doc,
        source,
        read_only: true,
    };
    let default = |topics: &str, doc| {
        let definition = topic_config::definitions().iter().find(|definition| definition.name == topics)?;
        Some(fixed(node_name(definition.name), Some(definition.default.to_owned()), definition.kind, doc, DEFAULT))
    };
    let defaults = [
        default("cleanup.policy", "Default of a topic's cleanup.policy."),
        default("compression.type", "Default of a topic's compression.type."),
        default("max.message.bytes", "Default of a topic's max.message.bytes."),
        default("message.timestamp.type", "Default of a topic's message.timestamp.type."),
        default("min.insync.replicas", "Default of a topic's min.insync.replicas."),
        default("retention.bytes", "Default of a topic's retention.bytes."),
        default("retention.ms", "Default of a topic's retention.ms."),
        default("segment.bytes", "Default of a topic's segment.bytes."),
        default("segment.ms", "Default of a topic's segment.ms."),
    ];
    let own = [
        fixed(
            "advertised.listeners",
            record.map(|record| format!("SASL_SSL://{}:{}", record.host, record.port)),
            Kind::String,
            "Where clients are told to connect (`kafka.advertised` of the node's file).",
            STATIC_BROKER,
        ),
        fixed(
            "broker.rack",
            record.and_then(|record| record.rack.clone()),
            Kind::String,
            "Rack or zone of the node (`rack` of its file).",
            STATIC_BROKER,
        ),
        fixed(
            "default.replication.factor",
            Some(REPLICAS_DEFAULT.min(image.nodes.len().max(1)).to_string()),
            Kind::Int,
            "Replicas of a topic whose creator names no number: three, or as many as there are nodes.",
            DEFAULT,
        ),
        fixed("mesh.name", Some(image.mesh.clone()), Kind::String, "The mesh that the node belongs to.", STATIC_BROKER),
        fixed("mesh.region", Some(image.region.clone()), Kind::String, "The region that the node belongs to.", STATIC_BROKER),
        fixed("node.id", Some(node_id.to_string()), Kind::Int, "Number of the node in its region.", STATIC_BROKER),
        fixed(
            "num.partitions",
            Some(PARTITIONS_DEFAULT.to_string()),
            Kind::Int,
            "Partitions of a topic whose creator names no number.",
            DEFAULT,
        ),
    ];
    let set = image.node_configs.get(&node_id);
    let dynamic = node_config::definitions().iter().filter_map(|definition| {
        let value = set?.get(definition.name)?.clone();
        let in_force = fixed(definition.name, Some(value), definition.kind, definition.doc, DYNAMIC_BROKER);
        Some(InForce { read_only: false, ..in_force })
    });
    let mut all: Vec<InForce> = own.into_iter().chain(defaults.into_iter().flatten()).chain(dynamic).collect();
    all.sort_by_key(|config| config.name);
    all
}

/// Kafka's `DescribeConfigsResponse.ConfigType`.
pub fn type_code(kind: Kind) -> i8 {
    match kind {
        Kind::Boolean => 1,
        Kind::String => 2,
        Kind::Int => 3,
        Kind::Long => 5,
        Kind::List => 7,
    }
}
