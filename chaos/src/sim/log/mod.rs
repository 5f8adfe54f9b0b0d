//! A partition's log on one node: appends, reads, truncations, clean stops, kills, power cuts that forget what was not synced (with torn tails), disks
//! that stop syncing, and sidecars that rot or come back old.
//!
//! Oracle: whatever was acknowledged is there after any power cut, byte for byte, at the same offset; offsets are dense; nothing is there
//! that was not appended; nothing is acknowledged after a failed sync.

mod model;
mod run;

pub(super) use run::simulate;

use super::Counter;
use super::sweep::SEEDS_PROVING;

/// How often a run reached what it is there to reach: a run that met no danger proves nothing.
#[derive(Debug, Default)]
struct Reached {
    appends: u64,
    acknowledged: u64,
    power_cuts: u64,
    /// Power cuts that took entries away which nobody had been promised.
    unacknowledged_lost: u64,
    /// Power cuts that tore an un-synced tail and yet left unacknowledged entries whole.
    unacknowledged_kept: u64,
    truncations: u64,
    failed_syncs: u64,
    segments_rolled: u64,
    clean_stops: u64,
    process_ends: u64,
    /// Segments that had been begun and never written when the log was opened.
    unprepared: u64,
    /// Most sidecars seen at once, and how many were damaged or replaced.
    sidecars: u64,
    sidecars_rotten: u64,
}

impl Reached {
    /// Every range of seeds must reach all of it.
    fn table(&self) -> Vec<Counter> {
        let counter = |(name, count): (&str, u64)| Counter { name: name.to_owned(), count, required_of: Some(SEEDS_PROVING) };
        [
            ("appends", self.appends),
            ("acknowledged", self.acknowledged),
            ("power_cuts", self.power_cuts),
            ("unacknowledged_lost", self.unacknowledged_lost),
            ("unacknowledged_kept", self.unacknowledged_kept),
            ("truncations", self.truncations),
            ("failed_syncs", self.failed_syncs),
            ("segments_rolled", self.segments_rolled),
            ("clean_stops", self.clean_stops),
            ("process_ends", self.process_ends),
            ("unprepared", self.unprepared),
            ("sidecars", self.sidecars),
            ("sidecars_rotten", self.sidecars_rotten),
        ]
        .map(counter)
        .to_vec()
    }
}

#[cfg(test)]
mod tests;
