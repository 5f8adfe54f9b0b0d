//! The `meridian` binary's rooms: the region's metadata, config, development credentials, command line.

pub mod cli;
pub mod config;
pub mod controller;
pub mod dev;
mod nearest;
