//! One value per (partition, offset), over every read, acknowledgement and region (invariants I2 and I10).

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Finding, Place};
use crate::history::Event;

pub(super) fn check(events: &[Event]) -> Vec<Finding> {
    let sent = sent_values(events);
    let mut held: BTreeMap<(Place<'_>, i64), &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for event in events {
        let (place, offset, value) = match event {
            Event::Read { topic, partition, offset, value, .. } => ((topic.as_str(), *partition), *offset, value.as_str()),
            Event::Acked { producer, sequence, topic, partition, offset } => match sent.get(&(producer.as_str(), *sequence)) {
                Some(value) => ((topic.as_str(), *partition), *offset, *value),
                None => continue,
            },
            _ => continue,
        };
        let first = *held.entry((place, offset)).or_insert(value);
        if first != value {
            let detail = format!("{}-{} offset {offset} holds both {first:?} and {value:?}", place.0, place.1);
            findings.push(Finding { anomaly: Anomaly::InconsistentOffsets, detail });
        }
    }
    findings.extend(gaps(events, &held));
    findings
}

fn sent_values(events: &[Event]) -> BTreeMap<(&str, u64), &str> {
    let sends = events.iter().filter_map(|event| match event {
        Event::Send { producer, sequence, value, .. } => Some(((producer.as_str(), *sequence), value.as_str())),
        _ => None,
    });
    sends.collect()
}

/// What one region's complete reading lacks although somebody read it at an offset that the reading covers.
fn gaps<'a>(events: &'a [Event], held: &BTreeMap<(Place<'a>, i64), &'a str>) -> Vec<Finding> {
    let mut read_in: BTreeMap<(&str, Place<'_>), BTreeSet<i64>> = BTreeMap::new();
    for event in events {
        if let Event::Read { region, topic, partition, offset, .. } = event {
            read_in.entry((region, (topic, *partition))).or_default().insert(*offset);
        }
    }
    let nothing = BTreeSet::new();
    let mut findings = Vec::new();
    for event in events {
        let Event::ReadToEnd { region, topic, partition, end } = event else { continue };
        let place = (topic.as_str(), *partition);
        let seen = read_in.get(&(region.as_str(), place)).unwrap_or(&nothing);
        for ((_, offset), value) in held.range((place, i64::MIN)..(place, *end)) {
            if !seen.contains(offset) {
                let detail = format!("{topic}-{partition} offset {offset} ({value:?}) is missing from the reading to {end} in {region}");
                findings.push(Finding { anomaly: Anomaly::Gap, detail });
            }
        }
    }
    findings
}
