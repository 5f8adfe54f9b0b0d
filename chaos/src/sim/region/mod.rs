//! A region of three nodes: real Raft groups, peers, logs and writers on a simulated network, disk and clock.
//!
//! In a first phase nodes lose power (un-synced data is gone, tails are torn), the network splits and loses connections, while every node that
//! believes to lead appends. Then everything heals and the replicas have to agree. Oracle: nothing acknowledged is lost; offsets are dense and
//! bytes equal on all replicas; one leader per term; no high watermark goes back within a node's life; what a producer sent twice is there once;
//! nothing is there that nobody sent.

mod oracle;
mod run;

pub use run::simulate;

/// How often a run reached what it is there to reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reached {
    pub acknowledged: u64,
    /// Appends that ended without an answer, or with a refusal that leaves their fate open.
    pub unknown: u64,
    pub duplicates_recognised: u64,
    pub power_cuts: u64,
    /// Power cuts of the node that led.
    pub leaders_cut: u64,
    pub network_cuts: u64,
    pub terms: u64,
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
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.duplicates_recognised += other.duplicates_recognised;
        self.power_cuts += other.power_cuts;
        self.leaders_cut += other.leaders_cut;
        self.network_cuts += other.network_cuts;
        self.terms += other.terms;
    }

    /// Names of the dangerous states that were never reached.
    pub fn missing(&self) -> Vec<&'static str> {
        let states = [
            ("acknowledged", self.acknowledged),
            ("unknown", self.unknown),
            ("duplicates_recognised", self.duplicates_recognised),
            ("power_cuts", self.power_cuts),
            ("leaders_cut", self.leaders_cut),
            ("network_cuts", self.network_cuts),
        ];
        states.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests;
