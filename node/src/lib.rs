//! The `meridian` binary's rooms: Kafka listener, controller, group coordinator, admin HTTP, telemetry, command line, development mesh.

pub mod controller;
pub mod kafka;
