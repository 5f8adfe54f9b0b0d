//! Who is of the region, and what each node holds: the tasks by which one node carries out what the metadata ask for.
//!
//! [`mover`] moves the partitions that this node leads; [`balance`] gives leaderships back to preferred replicas; [`clearing`] decides, on the
//! controller's leader, where the replicas of draining and lost nodes go; [`region`] keeps peers dialled and the controller's own voters;
//! [`entry`] is the node's own,
//! and [`throttle`] how fast it sends what others must catch up with.
//! Whatever dies on the way, the next leader looks at what is there and goes on: no task remembers anything that matters.

mod balance;
mod clearing;
pub mod entry;
mod mover;
mod region;
mod throttle;

use std::collections::BTreeMap;

use meridian_raft::node::Node;
use tokio::task::JoinHandle;

use crate::controller::handle::Controller;

/// How this node takes part in moves and balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipConfig {
    pub node_id: u64,
    /// Where the configuration says that nodes are; the metadata know better where they know something.
    pub peers: BTreeMap<u64, String>,
    /// Bytes per second sent to replicas that catch up, where no other rate is set for this node.
    pub catch_up_bytes_per_s: u64,
    /// Give leaderships back to the preferred replicas.
    pub leader_balance: bool,
}

/// Runs until dropped.
#[derive(Debug)]
pub struct Membership {
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Membership {
    pub fn start(config: MembershipConfig, raft: Node, controller: Controller) -> Membership {
        let MembershipConfig { node_id, peers, catch_up_bytes_per_s, leader_balance } = config;
        let tasks = vec![
            tokio::spawn(region::dial(peers, raft.clone(), controller.clone())),
            tokio::spawn(region::keep_voters(node_id, controller.clone())),
            tokio::spawn(throttle::follow(node_id, catch_up_bytes_per_s, raft.clone(), controller.clone())),
            tokio::spawn(mover::run(node_id, raft.clone(), controller.clone())),
            tokio::spawn(clearing::run(node_id, raft.clone(), controller.clone())),
            tokio::spawn(balance::run(node_id, leader_balance, raft, controller)),
        ];
        Membership { tasks }
    }
}
