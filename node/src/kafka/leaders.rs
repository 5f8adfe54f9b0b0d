//! Who leads a partition, as this node knows; and its own replica, where it is the one to ask.

use meridian_raft::GroupId;
use meridian_raft::partition::Partition;

use super::Broker;
use super::errors::ErrorCode;
use super::reply::Writer;
use crate::controller::image::Topic;

pub fn group(topic: &Topic, partition: i32) -> GroupId {
    GroupId { topic: topic.id, partition }
}

/// This node's replica if it leads the partition, for a client that believes in `epoch` (negative: in none).
pub fn led(broker: &Broker, topic: &Topic, partition: i32, epoch: i32) -> Result<Partition, ErrorCode> {
    let exists = usize::try_from(partition).is_ok_and(|partition| partition < topic.partitions.len());
    if !exists {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    // Placed here and not open yet is like led elsewhere: the client asks again.
    let replica = broker.raft.partition(group(topic, partition)).ok_or(ErrorCode::NotLeaderOrFollower)?;
    let leadership = replica.leadership();
    if epoch >= 0 && epoch < leadership.epoch {
        return Err(ErrorCode::FencedLeaderEpoch);
    }
    if epoch > leadership.epoch {
        return Err(ErrorCode::UnknownLeaderEpoch);
    }
    if leadership.is_leader { Ok(replica) } else { Err(ErrorCode::NotLeaderOrFollower) }
}

/// A leader told to a client that asked the wrong node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    pub leader: i32,
    pub epoch: i32,
}

/// Where to ask instead, after one of the errors that say so. Never this node itself: it has just refused.
pub fn hint(broker: &Broker, topic: &Topic, partition: i32, error: ErrorCode) -> Option<Hint> {
    if !matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch) {
        return None;
    }
    let (leader, epoch) = broker.raft.leader_of(group(topic, partition))?;
    (leader != broker.node_id || error == ErrorCode::FencedLeaderEpoch).then_some(Hint { leader: i32::try_from(leader).ok()?, epoch })
}

impl Hint {
    /// The tagged field `current_leader` of Produce and Fetch.
    pub(super) fn write(self, writer: &mut Writer) {
        writer.i32(self.leader);
        writer.i32(self.epoch);
        writer.tags();
    }
}

/// Ends a response with the addresses of the leaders it hints at (KIP-951), where its version has them.
pub(super) fn write_endpoints(writer: &mut Writer, broker: &Broker, hints: &[Hint], has_endpoints: bool) {
    let mut leaders: Vec<i32> = hints.iter().map(|hint| hint.leader).collect();
    leaders.sort_unstable();
    leaders.dedup();
    let image = broker.controller.image();
    let nodes: Vec<_> = leaders.into_iter().filter_map(|leader| image.nodes.get(&u64::try_from(leader).ok()?)).collect();
    if nodes.is_empty() || !has_endpoints {
        return writer.tags();
    }
    writer.tagged(0, |writer| {
        writer.count(nodes.len());
        for node in nodes {
            writer.i32(i32::try_from(node.id).unwrap_or(-1));
            writer.string(&node.host);
            writer.i32(i32::from(node.port));
            writer.nullable_string(node.rack.as_deref());
            writer.tags();
        }
    });
}
