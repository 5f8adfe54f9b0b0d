//! What operators and their tools ask a node: health, metrics, and the state of the mesh as this node knows it.

pub mod status;
