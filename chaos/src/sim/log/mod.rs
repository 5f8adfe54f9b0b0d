//! A partition's log on one node: appends, reads, truncations, clean stops, power cuts that forget what was not synced (with torn tails), disks that
//! stop syncing, and sidecars that rot or come back old.
//!
//! Oracle: whatever was acknowledged is there after any power cut, byte for byte, at the same offset; offsets are dense; nothing is there
//! that was not appended; nothing is acknowledged after a failed sync.

mod model;
mod run;

pub use run::simulate;

/// How often a run reached what it is there to reach: a run that met no danger proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reached {
    pub appends: u64,
    pub acknowledged: u64,
    pub power_cuts: u64,
    /// Power cuts that took entries away which nobody had been promised.
    pub unacknowledged_lost: u64,
    /// Power cuts that tore an un-synced tail and yet left unacknowledged entries whole.
    pub unacknowledged_kept: u64,
    pub truncations: u64,
    pub failed_syncs: u64,
    pub segments_rolled: u64,
    pub clean_stops: u64,
    /// Most sidecars seen at once, and how many were damaged or replaced.
    pub sidecars: u64,
    pub sidecars_rotten: u64,
}

/// A run's end: what it reached, and a digest of everything that happened, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    pub seed: u64,
    pub trace: u32,
    pub reached: Reached,
}

impl Reached {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Reached) {
        self.appends += other.appends;
        self.acknowledged += other.acknowledged;
        self.power_cuts += other.power_cuts;
        self.unacknowledged_lost += other.unacknowledged_lost;
        self.unacknowledged_kept += other.unacknowledged_kept;
        self.truncations += other.truncations;
        self.failed_syncs += other.failed_syncs;
        self.segments_rolled += other.segments_rolled;
        self.clean_stops += other.clean_stops;
        self.sidecars += other.sidecars;
        self.sidecars_rotten += other.sidecars_rotten;
    }

    /// Name, count, and whether a range of seeds must reach it.
    pub fn table(&self) -> Vec<(&'static str, u64, bool)> {
        vec![
            ("appends", self.appends, true),
            ("acknowledged", self.acknowledged, true),
            ("power_cuts", self.power_cuts, true),
            ("unacknowledged_lost", self.unacknowledged_lost, true),
            ("unacknowledged_kept", self.unacknowledged_kept, true),
            ("truncations", self.truncations, true),
            ("failed_syncs", self.failed_syncs, true),
            ("segments_rolled", self.segments_rolled, true),
            ("clean_stops", self.clean_stops, true),
            ("sidecars", self.sidecars, true),
            ("sidecars_rotten", self.sidecars_rotten, true),
        ]
    }

    /// Names of the dangerous states that were never reached.
    pub fn missing(&self) -> Vec<&'static str> {
        self.table().into_iter().filter(|(_, count, required)| *required && *count == 0).map(|(name, _, _)| name).collect()
    }
}

#[cfg(test)]
mod tests;
