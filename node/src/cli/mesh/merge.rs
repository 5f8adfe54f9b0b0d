//! One picture out of many accounts. What no node knows stays unknown: a number is never made up.

use std::collections::BTreeMap;

use meridian_replication::link::MirrorStatus;
use uuid::Uuid;

use super::super::region::AdminNode;
use crate::admin::status::{DamagedStatus, NodeStatus, PartitionStatus, TopicStatus};

/// What one node said, or why it said nothing.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Account {
    pub node: AdminNode,
    pub said: Result<NodeStatus, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct MeshStatus {
    pub topics: Vec<Topic>,
    pub regions: BTreeMap<String, Region>,
    pub unreachable: Vec<Unreachable>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct Topic {
    pub topic: String,
    pub id: Uuid,
    pub home: String,
    pub mirrors: Vec<String>,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct Partition {
    pub partition: i32,
    /// In the home region; None while nobody there leads it or says so.
    pub leader: Option<u64>,
    /// First offset not committed at home.
    pub end_offset: Option<i64>,
    pub mirrors: BTreeMap<String, Mirror>,
}

/// A partition's copy in one region. Everything is None while the node that leads it does not answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct Mirror {
    pub end_offset: Option<i64>,
    pub lag_records: Option<i64>,
    pub staleness_ms: Option<i64>,
    pub connected: bool,
    /// Why the copy does not proceed, where its node knows.
    pub error: Option<String>,
    /// Records that the home let go of before they came here, as far as its node remembers.
    pub skipped_records: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct Region {
    pub controller: Option<u64>,
    pub nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct Node {
    pub node: Option<u64>,
    pub admin: String,
    pub reachable: bool,
    /// Links to other regions' nodes that are up, of all that it keeps.
    pub links_connected: usize,
    pub links: usize,
    /// Its replicas that are being repaired.
    pub damaged: Vec<DamagedStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct Unreachable {
    pub region: Option<String>,
    pub node: Option<u64>,
    pub admin: String,
    pub error: String,
}

pub(in crate::cli) fn merge(accounts: &[Account]) -> MeshStatus {
    let said: Vec<&NodeStatus> = accounts.iter().filter_map(|account| account.said.as_ref().ok()).collect();
    let mut topics: BTreeMap<Uuid, &TopicStatus> = BTreeMap::new();
    for status in &said {
        for topic in status.topics.iter().filter(|topic| !topic.internal) {
            let known = topics.entry(topic.id).or_insert(topic);
            // A home knows its topic's mirrors; others know only themselves.
            if status.region == topic.home {
                *known = topic;
            }
        }
    }
    let mut topics: Vec<_> = topics.values().map(|topic| merge_topic(topic, &said)).collect();
    topics.sort_by(|one, other| (&one.topic, one.id).cmp(&(&other.topic, other.id)));
    MeshStatus { topics, regions: regions(accounts), unreachable: unreachable(accounts) }
}

fn merge_topic(topic: &TopicStatus, said: &[&NodeStatus]) -> Topic {
    let mirrors: std::collections::BTreeSet<String> = said
        .iter()
        .filter(|status| status.region != topic.home && status.topics.iter().any(|known| known.id == topic.id))
        .map(|status| status.region.clone())
        .chain(topic.mirrors.iter().filter(|region| **region != topic.home).cloned())
        .collect();
    let partitions = topic.partitions.iter().map(|partition| {
        let home = home_of(topic, partition.partition, said);
        let end_offset = home.and_then(|(_, found)| found.end_offset);
        let of_region = |region: &String| (region.clone(), mirror(topic.id, partition.partition, region, end_offset, said));
        Partition {
            partition: partition.partition,
            leader: home.map(|(node, _)| node),
            end_offset,
            mirrors: mirrors.iter().map(of_region).collect(),
        }
    });
    Topic {
        topic: topic.name.clone(),
        id: topic.id,
        home: topic.home.clone(),
        partitions: partitions.collect(),
        mirrors: mirrors.iter().cloned().collect(),
    }
}

/// The account of the node that leads a partition at home, by its own word. Of two, the later leader's.
fn home_of<'a>(topic: &TopicStatus, partition: i32, said: &[&'a NodeStatus]) -> Option<(u64, &'a PartitionStatus)> {
    let at_home = said.iter().filter(|status| status.region == topic.home);
    let led = at_home.filter_map(|status| {
        let known = status.topics.iter().find(|known| known.id == topic.id)?;
        let found = known.partitions.iter().find(|known| known.partition == partition)?;
        (found.leader == Some(status.node_id)).then_some((status.node_id, found))
    });
    led.max_by_key(|(_, found)| found.leader_epoch)
}

/// Of two nodes that both think they lead a mirror, the one that has more of it.
fn mirror(topic: Uuid, partition: i32, region: &str, home_end: Option<i64>, said: &[&NodeStatus]) -> Mirror {
    let of_region = said.iter().filter(|status| status.region == region).flat_map(|status| &status.mirrors);
    let led = of_region.filter(|mirror| mirror.topic == topic && mirror.partition == partition);
    let Some(led) = led.max_by_key(|mirror| mirror.end_offset) else { return Mirror::default() };
    Mirror {
        end_offset: Some(led.end_offset),
        lag_records: lag(led, home_end),
        staleness_ms: led.staleness_ms,
        connected: led.connected,
        error: led.error.clone(),
        skipped_records: led.skipped_records,
    }
}

/// While a link is cut its node knows an old end of home's; home itself, if it answers, knows the new one.
fn lag(mirror: &MirrorStatus, home_end: Option<i64>) -> Option<i64> {
    let by_home = home_end.map(|end| (end - mirror.end_offset).max(0));
    if mirror.connected { mirror.lag_records } else { by_home.max(mirror.lag_records) }
}

fn regions(accounts: &[Account]) -> BTreeMap<String, Region> {
    let mut regions: BTreeMap<String, Region> = BTreeMap::new();
    for account in accounts {
        let said = account.said.as_ref().ok();
        let Some(name) = said.map(|status| &status.region).or(account.node.region.as_ref()) else { continue };
        let region = regions.entry(name.clone()).or_default();
        region.controller = region.controller.or(said.and_then(|status| status.controller));
        region.nodes.push(Node {
            node: said.map(|status| status.node_id).or(account.node.node_id),
            admin: account.node.address.clone(),
            reachable: said.is_some(),
            links_connected: said.map_or(0, |status| status.peers.iter().filter(|peer| peer.connected).count()),
            links: said.map_or(0, |status| status.peers.len()),
            damaged: said.map(|status| status.damaged.clone()).unwrap_or_default(),
        });
    }
    regions
}

fn unreachable(accounts: &[Account]) -> Vec<Unreachable> {
    let failed = accounts.iter().filter_map(|account| account.said.as_ref().err().map(|error| (account, error)));
    let tell = |(account, error): (&Account, &String)| Unreachable {
        region: account.node.region.clone(),
        node: account.node.node_id,
        admin: account.node.address.clone(),
        error: error.clone(),
    };
    failed.map(tell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(7);

    fn partition(leader: u64, end_offset: i64) -> PartitionStatus {
        PartitionStatus {
            partition: 0,
            replicas: vec![1, 2, 3],
            leader: Some(leader),
            leader_epoch: 4,
            start_offset: Some(0),
            end_offset: Some(end_offset),
            size_bytes: Some(1),
        }
    }

    fn status(region: &str, node_id: u64, end_offset: i64) -> NodeStatus {
        let topic = TopicStatus {
            name: "flights".into(),
            id: TOPIC,
            home: "us".into(),
            mirrors: if region == "us" { vec!["asia".into(), "eu".into()] } else { Vec::new() },
            internal: false,
            partitions: vec![partition(1, end_offset)],
        };
        NodeStatus {
            mesh: "dev".into(),
            region: region.into(),
            node_id,
            controller: Some(2),
            topics: vec![topic],
            mirrors: Vec::new(),
            peers: Vec::new(),
            damaged: Vec::new(),
        }
    }

    fn mirroring(region: &str, node_id: u64, end_offset: i64, connected: bool) -> NodeStatus {
        let mirror = MirrorStatus {
            topic: TOPIC,
            partition: 0,
            home: "us".into(),
            end_offset,
            home_end_offset: Some(100),
            lag_records: Some(100 - end_offset),
            staleness_ms: Some(12),
            connected,
            error: None,
            skipped_records: 0,
        };
        NodeStatus { mirrors: vec![mirror], ..status(region, node_id, end_offset) }
    }

    fn account(region: &str, node_id: u64, said: Result<NodeStatus, String>) -> Account {
        Account { node: AdminNode { region: Some(region.into()), node_id: Some(node_id), address: format!("{region}:{node_id}") }, said }
    }

    #[test]
    fn a_mirror_is_told_by_the_node_that_leads_it_and_home_by_its_leader() {
        let accounts = [
            account("us", 1, Ok(status("us", 1, 100))),
            account("us", 2, Ok(status("us", 2, 90))),
            account("eu", 1, Ok(mirroring("eu", 1, 98, true))),
            account("eu", 2, Ok(status("eu", 2, 98))),
            account("asia", 1, Err("connection refused".into())),
        ];
        let merged = merge(&accounts);
        let partition = &merged.topics[0].partitions[0];
        assert_eq!((partition.leader, partition.end_offset), (Some(1), Some(100)));
        let eu =
            Mirror { end_offset: Some(98), lag_records: Some(2), staleness_ms: Some(12), connected: true, error: None, skipped_records: 0 };
        assert_eq!(partition.mirrors["eu"], eu);
        assert_eq!(merged.unreachable.len(), 1);
        assert_eq!((merged.regions["us"].nodes.len(), merged.regions["us"].controller), (2, Some(2)));
    }

    #[test]
    fn what_nobody_knows_is_unknown_and_never_zero() {
        let merged = merge(&[account("us", 1, Ok(status("us", 1, 100))), account("asia", 1, Err("down".into()))]);
        assert_eq!(merged.topics[0].partitions[0].mirrors["asia"], Mirror::default());
        let json = serde_json::to_value(&merged).expect("JSON");
        assert!(json["topics"][0]["partitions"][0]["mirrors"]["asia"]["staleness_ms"].is_null());
        assert!(json["topics"][0]["partitions"][0]["mirrors"]["asia"]["lag_records"].is_null());
    }

    #[test]
    fn a_home_that_is_down_leaves_its_end_unknown_but_the_topic_listed() {
        let merged = merge(&[account("us", 1, Err("down".into())), account("eu", 1, Ok(mirroring("eu", 1, 98, false)))]);
        let topic = &merged.topics[0];
        assert_eq!((topic.home.as_str(), topic.mirrors.as_slice()), ("us", &["eu".to_owned()][..]));
        assert_eq!((topic.partitions[0].leader, topic.partitions[0].end_offset), (None, None));
        assert_eq!(topic.partitions[0].mirrors["eu"].lag_records, Some(2));
    }

    #[test]
    fn a_cut_link_does_not_hide_what_home_has_written_since() {
        let merged = merge(&[account("us", 1, Ok(status("us", 1, 500))), account("eu", 1, Ok(mirroring("eu", 1, 98, false)))]);
        let eu = &merged.topics[0].partitions[0].mirrors["eu"];
        assert_eq!((eu.lag_records, eu.connected), (Some(402), false));
    }
}
