//! Every acknowledged record is there, none twice, and nothing that failed or was never sent (invariants I1, I4 and I5).

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Finding, Place};
use crate::history::Event;

pub(super) fn check(events: &[Event]) -> Vec<Finding> {
    let mut findings = duplicates(events);
    findings.extend(lost(events));
    findings.extend(unfounded(events));
    findings
}

fn duplicates(events: &[Event]) -> Vec<Finding> {
    let mut offsets: BTreeMap<(&str, &str), BTreeSet<(i32, i64)>> = BTreeMap::new();
    for event in events {
        if let Event::Read { topic, partition, offset, value, .. } = event {
            offsets.entry((topic, value)).or_default().insert((*partition, *offset));
        }
    }
    let twice = offsets.into_iter().filter(|(_, places)| places.len() > 1);
    twice
        .map(|((topic, value), places)| Finding {
            anomaly: Anomaly::Duplicate,
            detail: format!("{topic}: {value:?} stands at (partition, offset) {places:?}"),
        })
        .collect()
}

/// In every region that was read to the end: each acknowledged value must be among what was read there, wherever it stands.
fn lost(events: &[Event]) -> Vec<Finding> {
    let mut finished: BTreeMap<(&str, Place<'_>), BTreeSet<&str>> = BTreeMap::new();
    for event in events {
        if let Event::ReadToEnd { region, topic, partition, .. } = event {
            finished.insert((region, (topic, *partition)), BTreeSet::new());
        }
    }
    let mut values: BTreeMap<(&str, u64), &str> = BTreeMap::new();
    for event in events {
        match event {
            Event::Send { producer, sequence, value, .. } => {
                values.insert((producer, *sequence), value);
            }
            Event::Read { region, topic, partition, value, .. } => {
                if let Some(seen) = finished.get_mut(&(region.as_str(), (topic.as_str(), *partition))) {
                    seen.insert(value);
                }
            }
            _ => {}
        }
    }
    let mut findings = Vec::new();
    for event in events {
        let Event::Acked { producer, sequence, topic, partition, offset } = event else { continue };
        let Some(value) = values.get(&(producer.as_str(), *sequence)) else { continue };
        for ((region, place), seen) in &finished {
            if *place == (topic.as_str(), *partition) && !seen.contains(value) {
                let detail = format!("{topic}-{partition}: {value:?}, acknowledged at offset {offset}, was not read in {region}");
                findings.push(Finding { anomaly: Anomaly::LostWrite, detail });
            }
        }
    }
    findings
}

fn unfounded(events: &[Event]) -> Vec<Finding> {
    let mut sent: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
    let mut failed: BTreeSet<(&str, u64)> = BTreeSet::new();
    for event in events {
        match event {
            Event::Send { producer, sequence, value, .. } => {
                sent.insert(value, (producer, *sequence));
            }
            Event::Failed { producer, sequence } => {
                failed.insert((producer, *sequence));
            }
            _ => {}
        }
    }
    let mut findings = Vec::new();
    for event in events {
        let Event::Read { region, topic, partition, offset, value, .. } = event else { continue };
        let at = format!("{topic}-{partition} offset {offset} in {region}: {value:?}");
        match sent.get(value.as_str()) {
            None => findings.push(Finding { anomaly: Anomaly::Phantom, detail: format!("{at} was never sent") }),
            Some(send) if failed.contains(send) => {
                findings.push(Finding { anomaly: Anomaly::G1a, detail: format!("{at} was refused when it was sent") });
            }
            Some(_) => {}
        }
    }
    findings
}
