//! A small Kafka client: what the command line, the demonstration and the examples speak with. It knows nothing of a node's insides.
//!
//! [`connection`] is one authenticated connection, [`cluster`] finds leaders and tries again, [`produce`] and [`fetch`] move records,
//! [`groups`] shares reading out, [`admin`] asks for changes. It believes the server it has authenticated: answers are bounded by their frame, not field by field.

pub mod admin;
pub mod batch;
pub mod cluster;
pub mod connection;
pub mod errors;
pub mod fetch;
pub mod groups;
pub mod partitioner;
pub mod produce;
pub mod timestamp;

pub use cluster::{Cluster, Settings, TokenSource};
pub use errors::ClientError;
