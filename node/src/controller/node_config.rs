//! Every config of a node that changes while it runs: Kafka's throttles of replication, by Kafka's names, because Kafka's tools set them. All
//! else is in the node's file.

use std::collections::BTreeMap;

use super::command::{Answer, ConfigChange};
use super::image::Image;
use super::state::invalid;
use super::topic_config::Kind;
use crate::nearest::nearest;

/// Bytes per second that the node sends to replicas which catch up, in place of `peer.catch_up_bytes_per_s` of its file.
pub const SENDING_RATE: &str = "leader.replication.throttled.rate";

/// One documented config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition {
    pub name: &'static str,
    pub kind: Kind,
    pub doc: &'static str,
    /// None can be set where a node has nothing to which it could apply.
    max: Option<i64>,
}

/// Sorted by name.
const DEFINITIONS: &[Definition] = &[
    Definition {
        name: "follower.replication.throttled.rate",
        kind: Kind::Long,
        doc: "Kept for Kafka's tools, which set it beside leader.replication.throttled.rate. That one limits: the sender waits, not the receiver.",
        max: Some(i64::MAX),
    },
    Definition {
        name: SENDING_RATE,
        kind: Kind::Long,
        doc: "Bytes per second sent by this node to replicas that catch up before they vote; unset, peer.catch_up_bytes_per_s of its file.",
        max: Some(i64::MAX),
    },
    Definition {
        name: "replica.alter.log.dirs.io.max.bytes.per.second",
        kind: Kind::Long,
        doc: "Cannot be set: a node has one data folder, and nothing moves between folders.",
        max: None,
    },
];

pub fn definitions() -> &'static [Definition] {
    DEFINITIONS
}

/// The configs of one node after these changes, all or none of them.
pub fn altered(held: &BTreeMap<String, String>, changes: BTreeMap<String, ConfigChange>) -> Result<BTreeMap<String, String>, String> {
    let mut configs = held.clone();
    for (name, change) in changes {
        let known = DEFINITIONS.iter().find(|definition| definition.name == name).ok_or_else(|| unknown(&name))?;
        match change {
            ConfigChange::Set(value) => {
                let max = known.max.ok_or_else(|| format!("{name} cannot be set: a node has one data folder"))?;
                let possible = value.parse::<i64>().is_ok_and(|number| (1..=max).contains(&number));
                if !possible {
                    return Err(format!("{name}: {value:?} is not a number from 1 to {max}"));
                }
                configs.insert(name, value);
            }
            ConfigChange::Reset => drop(configs.remove(&name)),
            ConfigChange::Append(_) | ConfigChange::Subtract(_) => return Err(format!("{name} is not a list; set it, or reset it")),
        }
    }
    Ok(configs)
}

fn unknown(name: &str) -> String {
    let known = nearest(name, DEFINITIONS.iter().map(|definition| definition.name));
    let hint = known.map(|known| format!("; did you mean {known}?")).unwrap_or_default();
    format!("{name} is no config that a node changes while it runs, only its file has others{hint}")
}

pub(super) fn alter(image: &mut Image, node: u64, changes: BTreeMap<String, ConfigChange>) -> Result<Answer, Answer> {
    if !image.nodes.contains_key(&node) {
        return Err(invalid(format!("node {node} does not belong to the region")));
    }
    let held = image.node_configs.remove(&node).unwrap_or_default();
    let configs = altered(&held, changes).map_err(invalid)?;
    if !configs.is_empty() {
        image.node_configs.insert(node, configs);
    }
    Ok(Answer::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> BTreeMap<String, ConfigChange> {
        BTreeMap::from([(name.to_owned(), ConfigChange::Set(value.to_owned()))])
    }

    #[test]
    fn a_throttle_is_set_and_reset_and_resetting_what_is_not_set_is_no_error() {
        let held = altered(&BTreeMap::new(), set(SENDING_RATE, "1000")).expect("a rate");
        assert_eq!(held[SENDING_RATE], "1000");
        let all: BTreeMap<_, _> = DEFINITIONS.iter().map(|known| (known.name.to_owned(), ConfigChange::Reset)).collect();
        assert_eq!(altered(&held, all), Ok(BTreeMap::new()));
    }

    #[test]
    fn what_a_node_cannot_do_is_refused_by_name() {
        for (name, value, words) in [
            (SENDING_RATE, "0", "is not a number from 1"),
            (SENDING_RATE, "fast", "is not a number from 1"),
            ("leader.replication.throttled.rat", "5", "did you mean leader.replication.throttled.rate?"),
            ("log.retention.ms", "5", "only its file"),
            ("replica.alter.log.dirs.io.max.bytes.per.second", "5", "one data folder"),
        ] {
            let refusal = altered(&BTreeMap::new(), set(name, value)).expect_err(name);
            assert!(refusal.contains(words), "{refusal}");
        }
    }
}
