//! The mesh's state in plain words.

use super::super::output::table;
use super::merge::{MeshStatus, Mirror};
use crate::admin::status::DamagedStatus;

const UNKNOWN: &str = "unknown";

pub(super) fn tell(status: &MeshStatus) -> String {
    let mut text = String::new();
    for (name, region) in &status.regions {
        let reachable = region.nodes.iter().filter(|node| node.reachable).count();
        let (up, links) = region.nodes.iter().fold((0, 0), |(up, links), node| (up + node.links_connected, links + node.links));
        let controller = region.controller.map_or_else(|| "no controller known".into(), |node| format!("controller is node {node}"));
        text.push_str(&format!("{name}: {reachable} of {} nodes answer, {controller}, {up} of {links} links up\n", region.nodes.len()));
    }
    for node in &status.unreachable {
        let (region, id) = (node.region.as_deref().unwrap_or("?"), node.node.map_or_else(|| "?".into(), |id| id.to_string()));
        text.push_str(&format!("{region} node {id} ({}) does not answer: {}\n", node.admin, node.error));
    }
    for (name, region) in &status.regions {
        for (node, damaged) in region.nodes.iter().flat_map(|node| node.damaged.iter().map(move |damaged| (node, damaged))) {
            text.push_str(&repair(name, node.node, damaged));
        }
    }
    text.push('\n');
    if status.topics.is_empty() {
        text.push_str("no topics\n");
        return text;
    }
    text.push_str(&table(&["topic", "partition", "region", "role", "end offset", "records behind", "staleness", "link"], &rows(status)));
    text
}

fn repair(region: &str, node: Option<u64>, damaged: &DamagedStatus) -> String {
    let DamagedStatus { topic, partition, reason, next_index, target_index, waits_for } = damaged;
    let node = node.map_or_else(|| "?".into(), |id| id.to_string());
    let progress = match (waits_for, target_index) {
        (Some(reason), _) => format!("repair waits: {reason}"),
        (None, Some(target)) => format!("repaired up to entry {next_index} of {target}"),
        (None, None) => "repair begins".to_owned(),
    };
    format!("{region} node {node}: the replica of {topic} {partition} is damaged ({reason}); {progress}\n")
}

fn rows(status: &MeshStatus) -> Vec<Vec<String>> {
    let number = |number: Option<i64>| number.map_or_else(|| UNKNOWN.into(), |number| number.to_string());
    let mut rows = Vec::new();
    for topic in &status.topics {
        for partition in &topic.partitions {
            let of =
                |region: &str, role: &str| vec![topic.topic.clone(), partition.partition.to_string(), region.to_owned(), role.to_owned()];
            let mut home = of(&topic.home, "home");
            home.extend([number(partition.end_offset), "-".into(), "-".into(), "-".into()]);
            rows.push(home);
            for (region, mirror) in &partition.mirrors {
                let mut row = of(region, "mirror");
                row.extend([number(mirror.end_offset), number(mirror.lag_records), staleness(mirror), link(mirror)]);
                rows.push(row);
            }
        }
    }
    rows
}

fn staleness(mirror: &Mirror) -> String {
    match mirror.staleness_ms {
        None => UNKNOWN.into(),
        Some(ms) if ms < 10_000 => format!("{ms} ms"),
        Some(ms) => format!("{} s", ms / 1_000),
    }
}

fn link(mirror: &Mirror) -> String {
    match (mirror.end_offset, mirror.connected, &mirror.error) {
        (None, _, _) => UNKNOWN.into(),
        (_, _, Some(error)) => error.clone(),
        (_, true, None) if mirror.skipped_records > 0 => format!("connected, missed {} records", mirror.skipped_records),
        (_, true, None) => "connected".into(),
        (_, false, None) => "cut".into(),
    }
}
