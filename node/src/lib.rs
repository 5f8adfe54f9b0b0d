//! The `meridian` binary's rooms: Kafka protocol, controller, group coordinator, admin HTTP, telemetry, config, development mesh, command line.

pub mod admin;
pub mod authentication;
pub mod cli;
pub mod config;
pub mod controller;
pub mod dev;
pub mod groups;
pub mod kafka;
