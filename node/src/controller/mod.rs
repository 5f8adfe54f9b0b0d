//! The region's metadata: nodes, topics, configs, ACLs. [`command`]s in one order make [`image`]s; [`state`] is the step between them.
//!
//! All of that is pure: no clock, disk, network or randomness. [`handle`] puts it behind the Raft group that orders the commands.

mod accept;
pub mod command;
pub mod create;
pub mod handle;
pub mod image;
pub mod moves;
pub mod node_config;
pub mod placement;
mod saved;
pub mod state;
pub mod topic_config;
pub mod topic_name;
