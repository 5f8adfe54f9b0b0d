//! Deterministic simulation: one seed is one run, with its own chance, clock, disk and network. Same seed, same trace.
//!
//! [`region`] is three whole nodes on a simulated network, [`log`] the partition log of one node, cut off from all else.

pub mod log;
pub mod region;
pub mod sweep;

pub use meridian_raft::env::Mutations;

/// A broken promise, with the seed that shows it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, step {step}: {what} (again with: meridian-chaos sim --world {world} --seed {seed})")]
pub struct Broken {
    pub world: &'static str,
    pub seed: u64,
    pub step: u64,
    pub what: String,
}
