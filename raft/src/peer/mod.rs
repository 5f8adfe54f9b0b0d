//! The in-region peer protocol: one TCP connection with mutual TLS per direction and pair of nodes, shared by all groups.
//!
//! [`frame`] is the wire format, [`client`] dials and asks, [`server`] accepts and answers, [`throttle`] slows what may wait, [`identity`] judges
//! certificates, [`liveness`] knows whether a neighbour lives and what was promised to it. `overheard` puts frames into words, in simulation.

pub(crate) mod client;
pub(crate) mod frame;
pub(crate) mod identity;
pub(crate) mod liveness;
#[cfg(feature = "sim")]
pub(crate) mod overheard;
pub(crate) mod server;
pub mod throttle;
