//! What a node tells of itself: metrics for whoever scrapes them, traces and metrics over OTLP for whoever collects them.

pub mod family;
mod kafka_families;

pub mod metrics;
mod node_families;
pub mod otlp;
mod replica_families;
pub mod spans;
