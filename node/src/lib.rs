//! The `meridian` binary's rooms: the Kafka protocol, consumer groups, the region's metadata, config, development mesh, command line.

pub mod admin;
pub mod authentication;
pub mod cli;
pub mod client;
mod compression;
pub mod config;
pub mod controller;
pub mod dev;
pub mod folder_lock;
pub mod groups;
pub mod hosting;
pub mod kafka;
pub mod logs;
pub mod membership;
pub mod mesh;
mod nearest;
mod open_files;
pub mod serve;
pub mod signals;
pub mod telemetry;
pub mod tls;
