//! Deterministic simulation: one seed is one run, with its own chance, clock, disk and network. Same seed, same trace.
//!
//! [`region`] is three whole nodes on a simulated network, [`log`] the partition log of one node, cut off from all else; [`process`] gives each run
//! a process of its own, and [`sweep`] lives through many. [`golden`] plays a few fixed scenes with such nodes and writes down what can be seen of
//! them.

use std::fmt::{Display, Formatter};

use serde::{Deserialize, Serialize};

pub mod golden;
mod log;
mod process;
mod region;
pub mod sweep;

pub use meridian_raft::env::Mutations;
pub use process::{apart, here};

/// What can be simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// Three or five nodes and a few partitions, with faults of power, network, disks and clocks
    Region,
    /// The partition log of one node: power cuts, torn tails, failing syncs, truncation
    Log,
}

/// All that a run depends on. Shown, it is what the command `sim` is told to see it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub world: World,
    pub seed: u64,
    /// What is broken on purpose.
    pub mutation: Option<String>,
}

/// A run that held: what it reached, and a digest of everything that happened, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub trace: u32,
    pub reached: Vec<Counter>,
}

/// How often something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub name: String,
    pub count: u64,
    /// A range of so many seeds that never met it proves nothing; None where any range may.
    pub required_of: Option<u64>,
}

/// A broken promise, with the run that shows it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("seed {}, step {step}: {what} (again with: meridian-chaos sim {run})", run.seed)]
pub struct Broken {
    pub run: Run,
    pub step: u64,
    pub what: String,
}

impl World {
    pub fn name(self) -> &'static str {
        match self {
            World::Region => "region",
            World::Log => "log",
        }
    }
}

impl Run {
    pub fn new(world: World, seed: u64) -> Run {
        Run { world, seed, mutation: None }
    }

    pub fn mutated(self, mutation: &str) -> Run {
        Run { mutation: Some(mutation.to_owned()), ..self }
    }

    /// Its arguments on the command line.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--world".to_owned(), self.world.name().to_owned(), "--seed".to_owned(), self.seed.to_string()];
        if let Some(mutation) = &self.mutation {
            arguments.extend(["--mutation".to_owned(), mutation.clone()]);
        }
        arguments
    }

    /// From beginning to end, in this process.
    fn live(&self) -> Result<End, Broken> {
        let mutations = self.mutation.as_deref().and_then(Mutations::named).unwrap_or_default();
        match self.world {
            World::Region => region::simulate(self.seed, mutations),
            World::Log => log::simulate(self.seed, mutations),
        }
        .map_err(|(step, what)| self.broken(step, what))
    }

    fn broken(&self, step: u64, what: String) -> Broken {
        Broken { run: self.clone(), step, what }
    }
}

impl Display for Run {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.arguments().join(" "))
    }
}
