//! The half of Meridian that crosses oceans: QUIC links between the nodes of two regions, and the mirrors they feed.
//!
//! A target node dials the source's nodes. The source pushes its catalogue (topics homed there, with ACLs), a heartbeat every 100 ms, and
//! for each partition the target leads, the committed batches from the offset it asked for. The target appends them to its own Raft group.

pub mod catalogue;
pub mod link;
