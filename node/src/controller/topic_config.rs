//! Every topic config Meridian knows: type, default, check. Kafka's names where Kafka has the thing, `mesh.*` for ours.

use std::collections::BTreeMap;

use super::state::REPLICAS_MAX;
use crate::config::is_name;
use crate::nearest::nearest;

pub const HOME: &str = "mesh.home";
pub const MIRRORS: &str = "mesh.mirrors";

/// Most regions a topic may be mirrored to: region numbers end at 127.
pub const MIRRORS_MAX: usize = 126;

/// One documented config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition {
    pub name: &'static str,
    pub default: &'static str,
    pub kind: Kind,
    pub doc: &'static str,
    accepts: Accepts,
}

/// DescribeConfigs' types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    String,
    Int,
    Long,
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepts {
    Number {
        min: i64,
        max: i64,
    },
    OneOf(&'static [&'static str]),
    /// Only the region that takes the topic's writes.
    Home,
    /// Names of other regions, each once.
    Regions,
    /// `PARTITION:NODE,…`, or `*` for all.
    Replicas,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicConfigError {
    #[error("unknown config {name}{}", .nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default())]
    Unknown { name: String, nearest: Option<&'static str> },
    #[error("{name}: {value:?} is not {wanted}")]
    Value { name: &'static str, value: String, wanted: String },
    #[error("{HOME}: a topic made here is homed in {region}, not in {value:?}; create it there")]
    Home { region: String, value: String },
    #[error("{MIRRORS}: {region} is the topic's home, not a mirror")]
    MirrorAtHome { region: String },
    #[error("{MIRRORS}: {region} is named twice")]
    MirrorTwice { region: String },
    #[error("{name} is not a list; set it, or reset it")]
    NotAList { name: &'static str },
}

const fn definition(name: &'static str, default: &'static str, kind: Kind, accepts: Accepts, doc: &'static str) -> Definition {
    Definition { name, default, kind, doc, accepts }
}

/// Sorted by name.
const DEFINITIONS: &[Definition] = &[
    definition(
        "cleanup.policy",
        "delete",
        Kind::List,
        Accepts::OneOf(&["delete"]),
        "What happens to old segments. Only delete: logs are not compacted.",
    ),
    definition(
        "compression.type",
        "producer",
        Kind::String,
        Accepts::OneOf(&["producer"]),
        "Batches keep the producer's codec: they are stored and mirrored byte for byte.",
    ),
    definition(
        "follower.replication.throttled.replicas",
        "",
        Kind::List,
        Accepts::Replicas,
        "Kept for Kafka's tools. Every replica that catches up is sent to no faster than leader.replication.throttled.rate, listed or not.",
    ),
    definition(
        "leader.replication.throttled.replicas",
        "",
        Kind::List,
        Accepts::Replicas,
        "Kept for Kafka's tools. Every replica that catches up is sent to no faster than leader.replication.throttled.rate, listed or not.",
    ),
    definition(
        "max.message.bytes",
        "1048588",
        Kind::Int,
        Accepts::Number { min: 0, max: i32::MAX as i64 },
        "Largest batch that is taken, header included.",
    ),
    definition(HOME, "", Kind::String, Accepts::Home, "Region that takes the topic's writes; the region it was made in."),
    definition(MIRRORS, "", Kind::List, Accepts::Regions, "Regions that keep a copy, separated by commas; the home is not among them."),
    definition(
        "message.timestamp.type",
        "CreateTime",
        Kind::String,
        Accepts::OneOf(&["CreateTime"]),
        "Whose clock stamps a record. Only CreateTime: the broker's stamp would change the bytes that the producer's checksum covers.",
    ),
    definition(
        "min.insync.replicas",
        "1",
        Kind::Int,
        Accepts::Number { min: 1, max: REPLICAS_MAX as i64 },
        "Fewest replicas that hold a record before acks=all is answered. Raft's majority is the least whatever this says.",
    ),
    definition(
        "retention.bytes",
        "-1",
        Kind::Long,
        Accepts::Number { min: -1, max: i64::MAX },
        "Bytes that a partition keeps before old segments go; -1 is no bound. Whole segments go. A mirror begins where its home does.",
    ),
    definition(
        "retention.ms",
        "604800000",
        Kind::Long,
        Accepts::Number { min: -1, max: i64::MAX },
        "How long records are kept before old segments go, in milliseconds; -1 is for ever. Whole segments go, by their newest record's timestamp.",
    ),
    definition(
        "segment.bytes",
        "1073741824",
        Kind::Int,
        Accepts::Number { min: 1 << 20, max: i32::MAX as i64 },
        "Size at which a segment file is closed and the next begun.",
    ),
    definition(
        "segment.ms",
        "604800000",
        Kind::Long,
        Accepts::Number { min: 1, max: i64::MAX },
        "Age of a segment's first record, in milliseconds, at which the next record begins another file: what is old goes by whole files.",
    ),
];

pub fn definitions() -> &'static [Definition] {
    DEFINITIONS
}

pub fn find(name: &str) -> Result<&'static Definition, TopicConfigError> {
    DEFINITIONS.iter().find(|definition| definition.name == name).ok_or_else(|| TopicConfigError::Unknown {
        name: name.to_string(),
        nearest: nearest(name, DEFINITIONS.iter().map(|definition| definition.name)),
    })
}

/// Does it only say which replicas Kafka's tools mean to throttle?
pub fn is_mark_of_tools(name: &str) -> bool {
    find(name).is_ok_and(|definition| definition.accepts == Accepts::Replicas)
}

/// The value in force: what was set, else the default. None for an unknown name.
pub fn value<'a>(configs: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    let definition = find(name).ok()?;
    Some(configs.get(name).map_or(definition.default, String::as_str))
}

/// May a topic homed in `home` have this config?
pub fn check(home: &str, name: &str, value: &str) -> Result<(), TopicConfigError> {
    let definition = find(name)?;
    let wrong = |wanted: String| Err(TopicConfigError::Value { name: definition.name, value: value.to_string(), wanted });
    match definition.accepts {
        Accepts::Number { min, max } => match value.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ => wrong(format!("a number from {min} to {max}")),
        },
        Accepts::OneOf(values) if values.contains(&value) => Ok(()),
        Accepts::OneOf(values) => wrong(values.join(" or ")),
        Accepts::Home if value == home => Ok(()),
        Accepts::Home => Err(TopicConfigError::Home { region: home.to_string(), value: value.to_string() }),
        Accepts::Regions => parse_mirrors(home, value).map(|_| ()),
        Accepts::Replicas if value == "*" || parts(value).all(is_replica) => Ok(()),
        Accepts::Replicas => wrong("* or a list of PARTITION:NODE, separated by commas".to_string()),
    }
}

fn list<'a>(configs: &'a BTreeMap<String, String>, name: &str) -> Result<Vec<&'a str>, TopicConfigError> {
    let definition = find(name)?;
    if definition.kind != Kind::List {
        return Err(TopicConfigError::NotAList { name: definition.name });
    }
    Ok(parts(configs.get(name).map_or(definition.default, String::as_str)).collect())
}

fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn is_replica(text: &str) -> bool {
    text.split_once(':').is_some_and(|(partition, node)| partition.parse::<u32>().is_ok() && node.parse::<u32>().is_ok())
}

/// The list config of that name with `values` added, each once.
pub fn appended(configs: &BTreeMap<String, String>, name: &str, values: &str) -> Result<String, TopicConfigError> {
    let mut held = list(configs, name)?;
    for value in parts(values) {
        if !held.contains(&value) {
            held.push(value);
        }
    }
    Ok(held.join(","))
}

/// The list config of that name without `values`.
pub fn subtracted(configs: &BTreeMap<String, String>, name: &str, values: &str) -> Result<String, TopicConfigError> {
    let mut held = list(configs, name)?;
    held.retain(|part| !parts(values).any(|value| value == *part));
    Ok(held.join(","))
}

/// The regions that a topic with these configs is mirrored to, sorted.
pub fn mirrors(home: &str, configs: &BTreeMap<String, String>) -> Result<Vec<String>, TopicConfigError> {
    parse_mirrors(home, configs.get(MIRRORS).map_or("", String::as_str))
}

fn parse_mirrors(home: &str, value: &str) -> Result<Vec<String>, TopicConfigError> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let mut regions = Vec::new();
    for region in value.split(',').map(str::trim) {
        if !is_name(region) || regions.len() == MIRRORS_MAX {
            let wanted = format!("a list of at most {MIRRORS_MAX} region names, separated by commas");
            return Err(TopicConfigError::Value { name: MIRRORS, value: value.to_string(), wanted });
        }
        let region = region.to_string();
        if region == home {
            return Err(TopicConfigError::MirrorAtHome { region });
        }
        if regions.contains(&region) {
            return Err(TopicConfigError::MirrorTwice { region });
        }
        regions.push(region);
    }
    regions.sort();
    Ok(regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_defaults_pass_their_own_check() {
        assert!(DEFINITIONS.is_sorted_by(|one, next| one.name < next.name));
        for definition in definitions().iter().filter(|definition| definition.name != HOME) {
            assert_eq!(check("eu", definition.name, definition.default), Ok(()), "{}", definition.name);
            assert!(!definition.doc.is_empty());
        }
    }

    #[test]
    fn what_is_set_wins_over_the_default() {
        let configs = BTreeMap::from([("retention.ms".to_string(), "5".to_string())]);
        assert_eq!(value(&configs, "retention.ms"), Some("5"));
        assert_eq!(value(&configs, "max.message.bytes"), Some("1048588"));
        assert_eq!(value(&configs, "retention"), None);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_known() {
        let error = check("eu", "retention.sm", "5").expect_err("unknown");
        assert_eq!(error.to_string(), "unknown config retention.sm; did you mean retention.ms?");
        assert_eq!(check("eu", "banana", "5").expect_err("unknown").to_string(), "unknown config banana");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let refused = [
            ("retention.ms", "-2"),
            ("retention.ms", "soon"),
            ("segment.bytes", "0"),
            ("segment.bytes", "2147483648"),
            ("segment.ms", "0"),
            ("min.insync.replicas", "0"),
            ("cleanup.policy", "compact"),
            ("compression.type", "zstd"),
            ("message.timestamp.type", "LogAppendTime"),
            ("leader.replication.throttled.replicas", "0:1,x:2"),
        ];
        for (name, value) in refused {
            assert!(matches!(check("eu", name, value), Err(TopicConfigError::Value { .. })), "{name}={value}");
        }
        assert_eq!(check("eu", "retention.ms", "-1"), Ok(()));
        for value in ["", "*", "0:1,12:3"] {
            assert_eq!(check("eu", "follower.replication.throttled.replicas", value), Ok(()), "{value}");
        }
    }

    #[test]
    fn home_is_here_and_mirrors_are_elsewhere() {
        assert_eq!(check("eu", HOME, "eu"), Ok(()));
        assert!(matches!(check("eu", HOME, "us"), Err(TopicConfigError::Home { .. })));
        let mirrored = |value: &str| mirrors("eu", &BTreeMap::from([(MIRRORS.to_string(), value.to_string())]));
        assert_eq!(mirrored("us, asia"), Ok(vec!["asia".to_string(), "us".to_string()]));
        assert_eq!(mirrored(""), Ok(vec![]));
        assert!(matches!(mirrored("us,eu"), Err(TopicConfigError::MirrorAtHome { .. })));
        assert!(matches!(mirrored("us,us"), Err(TopicConfigError::MirrorTwice { .. })));
        for wrong in ["us,,asia", "US", ","] {
            assert!(matches!(mirrored(wrong), Err(TopicConfigError::Value { .. })), "{wrong}");
        }
    }
}
