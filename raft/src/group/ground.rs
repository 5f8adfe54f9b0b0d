//! What a group's core sees of its node.

use std::io;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::Inner;
use crate::NodeId;
use crate::consensus::Ground;
use crate::env::Mutations;
use crate::log::LogPosition;
use crate::peer::liveness::Bond;

pub(super) struct View<'a>(pub(super) &'a Inner);

impl Ground for View<'_> {
    fn now(&self) -> Instant {
        Instant::now()
    }
    fn last(&self) -> Option<LogPosition> {
        self.0.log.last()
    }
    fn begin(&self) -> u64 {
        self.0.log.indexes().start
    }
    fn end(&self) -> u64 {
        self.0.log.indexes().end
    }
    fn term_of(&self, index: u64) -> io::Result<Option<u64>> {
        self.0.log.term_of(index)
    }
    fn durable_end(&self) -> u64 {
        self.0.log.flushed_next()
    }
    fn promised_until(&self, leader: NodeId) -> Option<Instant> {
        self.0.liveness.promised_until(leader)
    }
    fn leave(&self, leader: NodeId) -> bool {
        self.0.liveness.leave(leader)
    }
    fn forsake(&self, leader: NodeId) {
        self.0.liveness.withdraw(leader);
    }
    fn acknowledged(&self, node: NodeId) -> Option<(Instant, Bond)> {
        self.0.liveness.acknowledgement(node)
    }
    fn bond_with(&self, leader: NodeId) -> Bond {
        Bond { process: self.0.liveness.process(), promise: self.0.liveness.promise(leader) }
    }
    fn reaches(&self, node: NodeId) -> bool {
        self.0.peers.is_connected(node)
    }
    fn takes_part(&self) -> bool {
        // While files are being removed the log may end before what this replica has acknowledged.
        *self.0.takes_part.borrow() && self.0.log.damage().is_none() && !self.0.cutting.load(Ordering::SeqCst)
    }
    fn mutations(&self) -> Mutations {
        self.0.log.mutations()
    }
}
