//! The checkers: one file per promise. Each takes a whole history and returns every anomaly it finds, by Jepsen's names.

mod agreement;
mod delivery;
mod order;

use std::collections::BTreeMap;
use std::fmt;

use crate::history::Event;

/// The names under which anomalies are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anomaly {
    /// One (partition, offset) held two values, over all reads and regions, or an acknowledgement named another offset than a read.
    InconsistentOffsets,
    /// One value stands at two offsets.
    Duplicate,
    /// Acknowledged, yet absent from a final reading that covers its offset.
    LostWrite,
    /// A complete reading in one region skips an offset at which another reader found a value.
    Gap,
    /// Read, though it definitely failed.
    G1a,
    /// Read, though nobody ever sent it.
    Phantom,
    /// Within one pass a reader's offsets went back or stood still.
    NonmonotonicPoll,
    /// A producer's later value was acknowledged at an earlier offset of the same partition.
    NonmonotonicSend,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Anomaly::InconsistentOffsets => "inconsistent-offsets",
            Anomaly::Duplicate => "duplicate",
            Anomaly::LostWrite => "lost-write",
            Anomaly::Gap => "gap",
            Anomaly::G1a => "G1a",
            Anomaly::Phantom => "phantom",
            Anomaly::NonmonotonicPoll => "nonmonotonic-poll",
            Anomaly::NonmonotonicSend => "nonmonotonic-send",
        })
    }
}

/// One counterexample, in words.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    pub anomaly: Anomaly,
    pub detail: String,
}

/// What a history amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    pub sent: u64,
    pub acked: u64,
    pub failed: u64,
    pub unknown: u64,
    pub reads: u64,
    pub final_readings: u64,
    pub findings: Vec<Finding>,
    /// Why the history proves nothing, where it does not: green must mean something.
    pub vacuous: Option<String>,
}

impl Verdict {
    pub fn passes(&self) -> bool {
        self.findings.is_empty() && self.vacuous.is_none()
    }
}

/// A partition of a topic, as histories name it.
type Place<'a> = (&'a str, i32);

/// Judges a history. `acked_min` is the least number of acknowledged records without which the run proves nothing.
pub fn judge(events: &[Event], acked_min: u64) -> Verdict {
    let mut verdict = count(events);
    verdict.findings.extend(agreement::check(events));
    verdict.findings.extend(delivery::check(events));
    verdict.findings.extend(order::check(events));
    verdict.vacuous = vacuous(&verdict, acked_min);
    verdict
}

/// Anomalies by name with how often each was found.
pub fn tally(findings: &[Finding]) -> BTreeMap<Anomaly, usize> {
    let mut counts = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.anomaly).or_insert(0) += 1;
    }
    counts
}

fn count(events: &[Event]) -> Verdict {
    let mut verdict = Verdict::default();
    for event in events {
        match event {
            Event::Send { .. } => verdict.sent += 1,
            Event::Acked { .. } => verdict.acked += 1,
            Event::Failed { .. } => verdict.failed += 1,
            Event::Unknown { .. } => verdict.unknown += 1,
            Event::Read { .. } => verdict.reads += 1,
            Event::ReadToEnd { .. } => verdict.final_readings += 1,
        }
    }
    verdict
}

fn vacuous(verdict: &Verdict, acked_min: u64) -> Option<String> {
    if verdict.acked < acked_min {
        return Some(format!("{} records were acknowledged, at least {acked_min} are needed", verdict.acked));
    }
    if verdict.final_readings == 0 {
        return Some("no reading to the end: a lost record could not have been noticed".into());
    }
    None
}

#[cfg(test)]
mod tests;
