//! A region of three or five nodes: real Raft groups, peers, logs and writers on a simulated network, disk and clock.
//!
//! Each seed chooses a [`profile`]: how many nodes and partitions, which [`faults`] and which [`workload`]s. In a first [phase](phases) the faults
//! strike while clients append at every node that believes to lead; then everything heals, and every partition has to serve and its replicas to
//! agree. [`oracle`]: nothing acknowledged is lost; offsets are dense and bytes equal on all replicas; one leader per term; no high watermark goes
//! back within a node's life; what a producer sent twice is there once; nothing is there that nobody sent.
//!
//! To add a fault, a workload or a counter, add a line to the table in its room ([`faults::FAULTS`], [`workload::WORKLOADS`], [`reached`]).

mod faults;
mod oracle;
mod phases;
mod placement;
mod profile;
mod reached;
mod site;
mod workload;

use reached::Reached;

use super::{End, Mutations};
use phases::Run;
use site::lock;

/// Runs one seed from beginning to end; otherwise the moment and the promise that was broken.
pub(super) fn simulate(seed: u64, mutations: Mutations) -> Result<End, (u64, String)> {
    let mut run = Run::new(seed, mutations);
    let result = run.faults().and_then(|()| run.healing());
    let step = run.sim.elapsed().as_millis() as u64;
    let oracle = lock(&run.oracle);
    oracle.broken.clone().map_or(result, Err).map_err(|what| (step, what))?;
    Ok(End { trace: oracle.trace, reached: oracle.reached.table() })
}

#[cfg(test)]
mod tests;
