//! What operators and their tools ask a node: health, metrics, and the state of the mesh as this node knows it.

pub mod health;
mod mesh;
pub mod nodes;
mod routes;
pub mod server;
pub mod status;
pub mod view;
