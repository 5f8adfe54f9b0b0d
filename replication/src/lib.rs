//! What regions tell each other, and the links that carry it.

pub mod catalogue;
mod heartbeat;
pub mod link;
mod mirror;
