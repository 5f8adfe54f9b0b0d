//! Deterministic simulation: one seed is one run, with its own chance, clock, disk and network. Same seed, same trace.
//!
//! [`region`] is three whole nodes on a simulated network, [`log`] the partition log of one node, cut off from all else.

pub mod log;
pub mod region;

/// What may be broken on purpose, so that the oracle shows that it can fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mutations {
    /// Appends are acknowledged without `fdatasync`.
    pub no_fsync: bool,
    /// A damaged replica is cut at its damage, and opened as if nothing had been behind it.
    pub trust_damaged: bool,
    /// A node votes though its data folder is older than peers remember it.
    pub trust_old_votes: bool,
    /// What stands for purged records claims to stand for all that has been applied: whoever is sent it has a hole.
    pub snapshot_too_new: bool,
    /// A sleeping follower votes whenever it is asked.
    pub sleepers_vote: bool,
    /// A sleeping leader counts what any process of a follower's node acknowledges, whatever became of its promise.
    pub any_bond_counts: bool,
}

/// A broken promise, with the seed that shows it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, step {step}: {what} (again with: meridian-chaos sim --world {world} --seed {seed})")]
pub struct Broken {
    pub world: &'static str,
    pub seed: u64,
    pub step: u64,
    pub what: String,
}
