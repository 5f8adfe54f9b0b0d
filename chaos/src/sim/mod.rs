//! Deterministic simulation: one seed is one run, with its own chance, clock, disk and network. Same seed, same trace.
//!
//! [`region`] is three whole nodes on a simulated network, [`log`] the partition log of one node, cut off from all else. [`golden`] plays a few
//! fixed scenes with such nodes and writes down what can be seen of them.

pub mod golden;
pub mod log;
mod panics;
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
