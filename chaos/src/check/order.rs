//! Order: a producer's values stand in the order of their sending, and a reader never goes back within one pass (invariant I3).

use std::collections::BTreeMap;

use super::{Anomaly, Finding, Place};
use crate::history::Event;

pub(super) fn check(events: &[Event]) -> Vec<Finding> {
    let mut findings = polls(events);
    findings.extend(sends(events));
    findings
}

fn polls(events: &[Event]) -> Vec<Finding> {
    let mut last: BTreeMap<(&str, u64, Place<'_>), i64> = BTreeMap::new();
    let mut findings = Vec::new();
    for event in events {
        let Event::Read { reader, pass, topic, partition, offset, .. } = event else { continue };
        let previous = last.insert((reader, *pass, (topic, *partition)), *offset);
        if let Some(previous) = previous.filter(|previous| previous >= offset) {
            let detail = format!("{reader}, pass {pass}, {topic}-{partition}: offset {offset} after {previous}");
            findings.push(Finding { anomaly: Anomaly::NonmonotonicPoll, detail });
        }
    }
    findings
}

fn sends(events: &[Event]) -> Vec<Finding> {
    let mut acked: BTreeMap<(&str, Place<'_>), BTreeMap<u64, i64>> = BTreeMap::new();
    for event in events {
        if let Event::Acked { producer, sequence, topic, partition, offset } = event {
            acked.entry((producer, (topic, *partition))).or_default().insert(*sequence, *offset);
        }
    }
    let mut findings = Vec::new();
    for ((producer, (topic, partition)), offsets) in acked {
        for ((before, low), (after, high)) in offsets.iter().zip(offsets.iter().skip(1)) {
            if low >= high {
                let detail = format!("{producer} on {topic}-{partition}: send {before} at offset {low}, send {after} at {high}");
                findings.push(Finding { anomaly: Anomaly::NonmonotonicSend, detail });
            }
        }
    }
    findings
}
